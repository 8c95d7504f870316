/** A clock that is wrong by a year, in either direction, for hours: what waits, what is kept and what is said stay as they are. */
import { expect, test } from "bun:test";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const [minuteMs, hourMs, dayMs] = [60_000, 3_600_000, 86_400_000];
const yearMs = 365 * dayMs;
const kept = (bench: Bench): number =>
  bench.life().look()?.get<{ n: number }>("SELECT count(*) AS n FROM sessions")?.n ?? 0;

test.each([1, -1])(
  "a jump by %d year and back leaves health, conversations and the next answer alone",
  async (sign) => {
    await using bench = await openBench();
    bench.signal.owner.write("before");
    await bench.until("order", () => isSettled(bench));
    await bench.pass(minuteMs);
    for (const offsetMs of [sign * yearMs, 0]) {
      bench.machine.wallOffsetMs = offsetMs;
      for (let hour = 0; hour < 3; hour++) {
        await bench.pass(hourMs);
        expect(bench.daemon().health()).toBeNull();
      }
      bench.signal.owner.write(`with ${offsetMs}`);
      await bench.until("the answer", () => bench.texts().includes(`re: with ${offsetMs}`));
    }
    expect(kept(bench)).toBe(1);
    expect(bench.world.sessions()).toHaveLength(1);
  },
);

test("a process that starts with the wrong year removes nothing for a day, and what is old then after it", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("before");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(2 * minuteMs);
  await bench.kill();
  bench.machine.wallOffsetMs = yearMs;
  await bench.start();
  await bench.pass(12 * hourMs);
  expect(kept(bench)).toBe(1);
  await bench.pass(14 * hourMs);
  expect(kept(bench)).toBe(0);
});

test("a question stays open over a jump, for as long as it has", async () => {
  await using bench = await openBench({
    script: () => [{ ask: "bash", input: { command: "rm one" } }, { say: "done" }],
    flags: { approvalMinutes: "60" },
  });
  bench.signal.owner.write("work");
  await bench.until("the question", () => bench.texts().some((text) => text.includes("rm one")));
  await bench.pass(minuteMs);
  bench.machine.wallOffsetMs = yearMs;
  await bench.pass(20 * minuteMs);
  expect(bench.texts().some((text) => text.includes("not answered in time"))).toBe(false);
  bench.machine.wallOffsetMs = 0;
  await bench.pass(50 * minuteMs);
  await bench.until("its end", () => bench.texts().at(-1) === "done");
  expect(bench.texts().some((text) => text.includes("not answered in time"))).toBe(true);
});
