/** A damaged page, a restored copy, a deleted write-ahead log: noticed, said, and nothing asked twice. */
import { expect, test } from "bun:test";
import { closeSync, copyFileSync, openSync, rmSync, writeSync } from "node:fs";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

const fileOf = (bench: Bench): string =>
  bench.life().look()?.get<{ file: string }>("SELECT file FROM pragma_database_list WHERE name = 'main'")?.file ?? "";

const health = (bench: Bench): string => bench.daemon().health() ?? "ok";

test("a damaged page is in /health, in the log and in the owner's chat; what works goes on", async () => {
  await using bench = await openBench();
  const file = fileOf(bench);
  const db = bench.life().look();
  const root = db?.get<{ page: number }>("SELECT rootpage AS page FROM sqlite_schema WHERE name = 'kept'")?.page ?? 0;
  const size = db?.get<{ page_size: number }>("PRAGMA page_size")?.page_size ?? 0;
  db?.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  await bench.kill();
  const handle = openSync(file, "r+");
  writeSync(handle, Buffer.alloc(size, 0x5a), 0, size, (root - 1) * size);
  closeSync(handle);
  await bench.start();
  await bench.until("the check", () => health(bench) !== "ok");
  expect(health(bench)).toContain("the database is damaged");
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: hello");
  expect(bench.texts().filter((text) => text.includes("database of signalman is damaged"))).toHaveLength(1);
  expect(bench.log.some((line) => line.includes("the database is damaged"))).toBe(true);
  await bench.pass(73 * 3_600_000);
  expect(bench.texts().filter((text) => text.includes("database of signalman is damaged"))).toHaveLength(4);
}, 30_000);

test("a read that fails is counted and told until a check finds nothing wrong", async () => {
  await using bench = await openBench();
  await bench.pass(1_000);
  expect(health(bench)).toBe("ok");
  const { db } = bench.daemon().store;
  expect(() => db.get("SELECT * FROM nowhere")).toThrow("no such table");
  expect(db.failures.count).toBe(1);
  expect(health(bench)).toContain("the database could not be read: no such table");
  await bench.pass(61_000);
  expect(health(bench)).toBe("ok");
  expect(bench.log.some((line) => line.includes("reads of the database failed"))).toBe(true);
});

/** A prompt that is under way while the copy is made, and answered after it. */
async function setBack(bench: Bench, lose: (file: string, copy: string) => void): Promise<void> {
  bench.signal.owner.write("before");
  await bench.until("order", () => isSettled(bench));
  bench.signal.owner.write("slow");
  await bench.until("the question", () => bench.posts.length === 2);
  const [file, copy] = [fileOf(bench), `${fileOf(bench)}.copy`];
  bench.life().look()?.copyTo(copy);
  await bench.until("order", () => isSettled(bench));
  bench.signal.owner.write("after");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(60_000);
  await bench.kill();
  lose(file, copy);
  await bench.start();
  await bench.until("order", () => isSettled(bench));
}

test("a restored copy is noticed and said, nothing is asked twice, nothing said twice, and the next message is answered", async () => {
  await using bench = await openBench({
    script: (prompt) => [...(prompt === "slow" ? [{ pauseMs: 5_000 }] : []), { say: `re: ${prompt}` }],
  });
  await setBack(bench, (file, copy) => {
    for (const suffix of ["", "-wal", "-shm"]) rmSync(file + suffix, { force: true });
    copyFileSync(copy, file);
  });
  expect(bench.log.some((line) => line.includes("older than what was written last"))).toBe(true);
  bench.signal.owner.write("now");
  await bench.until("the answer", () => bench.texts().includes("re: now"));
  await bench.until("order", () => isSettled(bench));
  expect(bench.posts).toEqual(["before", "slow", "after", "now"]);
  const texts = bench.texts();
  for (const answer of ["re: before", "re: slow", "re: after"])
    expect(texts.filter((text) => text === answer)).toHaveLength(1);
  expect(texts.filter((text) => text.startsWith("My memory was set back"))).toHaveLength(1);
  expect(texts.filter((text) => text.startsWith("The database of signalman is older"))).toHaveLength(1);
  // Said once: the next start says nothing.
  await bench.kill();
  await bench.start();
  await bench.pass(120_000);
  expect(bench.texts()).toEqual(texts);
});

test("a start like any other, crash included, is none of that", async () => {
  await using bench = await openBench();
  for (let life = 0; life < 3; life++) {
    bench.signal.owner.write(`hello ${life}`);
    await bench.until("order", () => isSettled(bench));
    await bench.pass(61_000);
    await bench.kill();
    await bench.start();
  }
  await bench.pass(61_000);
  expect(bench.texts()).toEqual(["re: hello 0", "re: hello 1", "re: hello 2"]);
  expect(health(bench)).toBe("ok");
});
