import { describe, expect, test } from "bun:test";
import { runSeed } from "./world.ts";

/** A failing run says how to see it again: `bun run sim --seed N --minutes M --verbose`. */
async function check(seed: number, minutes: number): Promise<void> {
  const result = await runSeed({ seed, minutes, mode: undefined });
  expect(`SEED=${seed} --minutes ${minutes}: ${result.failure ?? "fine"}`).toBe(
    `SEED=${seed} --minutes ${minutes}: fine`,
  );
}

const perTest = 25;
const seeds = Array.from({ length: 200 }, (_, index) => 40_000 + index);
const minutes = 3;

describe("200 worlds, each from its seed: nothing lost, nothing twice, and after the faults all is well", () => {
  for (let start = 0; start < seeds.length; start += perTest) {
    const some = seeds.slice(start, start + perTest);
    test(`seeds ${some[0]} to ${some.at(-1)}`, async () => {
      for (const seed of some) await check(seed, minutes);
    });
  }
});

test("the same seed gives the same run, to the last line of its trace", async () => {
  const [first, second] = [
    await runSeed({ seed: 7, minutes, mode: undefined }),
    await runSeed({ seed: 7, minutes, mode: undefined }),
  ];
  expect(second.hash).toBe(first.hash);
  expect((await runSeed({ seed: 8, minutes, mode: undefined })).hash).not.toBe(first.hash);
});
