/** What a message costs on the disk: a commit waits for it, and half of the main thread was waiting. */
import { expect, test } from "bun:test";
import { countCommits } from "../doubles/commits.ts";
import { isSettled, openBench } from "../sim/bench.ts";

/** Marks are recorded with what is committed next. */
test.each([
  ["at once", "off", 0, 4],
  ["at once, with marks", "on", 0, 4],
  ["after a while, with marks", "on", 5_000, 5],
] as const)("a message that is answered %s takes few commits", async (_, reactions, pauseMs, most) => {
  await using bench = await openBench({
    script: (prompt) => [{ pauseMs }, { say: `re: ${prompt}` }],
    flags: { reactions },
  });
  bench.signal.owner.write("the first makes the session");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(1_000);
  const commits = countCommits(bench.daemon().store.db);
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: hello");
  const { commits: count, first } = commits();
  expect(count, first.join("\n")).toBeLessThanOrEqual(most);
});

test("an answer is born as under way, and goes out once, also where the line fails at that moment", async () => {
  await using bench = await openBench({ script: (prompt) => [{ pauseMs: 2_000 }, { say: `re: ${prompt}` }] });
  bench.signal.owner.write("hello");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.signal.faults.refuseSends("signal_unreachable", 2);
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toEqual(["re: hello"]);
  expect(bench.daemon().status().outbox).toMatchObject({ sent: 1, failed: 0 });
});
