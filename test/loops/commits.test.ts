/** What a message costs on the disk: a commit waits for it, and half of the main thread was waiting. */
import { expect, test } from "bun:test";
import type { Daemon } from "../../src/daemon.ts";
import { isSettled, openBench } from "../sim/bench.ts";

/** Counts transactions that wrote; those that only looked cost nothing. */
function countCommits({ store: { db } }: Daemon): () => number {
  const { run, get, all, transaction } = db;
  let [count, depth] = [0, 0];
  let hasWritten = false;
  const isWrite = (sql: string): boolean => /^\s*(?:INSERT|UPDATE|DELETE)/u.test(sql);
  const note = (sql: string): void => {
    if (!isWrite(sql)) return;
    hasWritten = true;
    if (depth === 0) count++;
  };
  db.run = (sql, ...params) => (note(sql), run(sql, ...params));
  db.get = (sql, ...params) => (note(sql), get(sql, ...params));
  db.all = (sql, ...params) => (note(sql), all(sql, ...params));
  db.transaction = (work) => {
    if (depth++ === 0) hasWritten = false;
    try {
      return transaction(work);
    } finally {
      if (--depth === 0 && hasWritten) count++;
    }
  };
  return () => count;
}

test.each([
  ["four commits", "off", 4],
  ["one more for each mark", "on", 6],
] as const)("a message is answered in %s", async (_, reactions, most) => {
  await using bench = await openBench({ flags: { reactions } });
  bench.signal.owner.write("the first makes the session");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(1_000);
  const commits = countCommits(bench.daemon());
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: hello");
  expect(commits()).toBeLessThanOrEqual(most);
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
