import { describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mutants, plant } from "./mutants.ts";
import { runSeed } from "./world.ts";

/** A failing run says how to see it again: `bun run sim --seed N --minutes M --verbose`. */
async function check(seed: number, minutes: number): Promise<void> {
  const result = await runSeed({ seed, minutes });
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
    }, 120_000);
  }
});

/** Each fails again as soon as its bug is back. */
describe("seeds that once failed", () => {
  for (const { bug, named } of mutants)
    if (named)
      test(`seed ${named.seed}, ${named.minutes} minutes: ${bug}`, () => check(named.seed, named.minutes), 60_000);
});

test("every bug of `mutants.txt` fits the source: what it takes away stands there once", () => {
  for (const mutant of mutants) {
    expect(mutant.bug).not.toContain("[");
    const source = readFileSync(join(import.meta.dirname, "../../src", mutant.file), "utf8");
    expect(plant(mutant, source), mutant.bug).not.toBe(source);
  }
});

test("the same seed gives the same run, to the last line of its trace, in this process and in another", async () => {
  const hashOf = async (seed: number): Promise<string> => (await runSeed({ seed, minutes })).hash;
  const first = await hashOf(7);
  expect(await hashOf(7)).toBe(first);
  expect(await hashOf(8)).not.toBe(first);
  const main = join(import.meta.dirname, "main.ts");
  const { stdout } = spawnSync(process.execPath, [main, "--seed", "7", "--minutes", String(minutes)], {
    encoding: "utf8",
  });
  expect(stdout).toContain(first);
}, 60_000);
