/** A damaged page, a restored copy, a deleted write-ahead log: noticed, said, and nothing asked twice. */
import { expect, test } from "bun:test";
import { closeSync, copyFileSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import type { Line } from "../../src/claude/line.ts";
import type { Millis, SessionEvent } from "../../src/core/model.ts";
import { startDaemon } from "../../src/daemon.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { boundary, createVirtualClock, runUntil } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";
import { makeHome, people, simConfig } from "../sim/config.ts";
import { seeded } from "../sim/dice.ts";

const fileOf = (bench: Bench): string =>
  bench.life().look()?.get<{ file: string }>("SELECT file FROM pragma_database_list WHERE name = 'main'")?.file ?? "";

const health = (bench: Bench): string => bench.daemon().health() ?? "ok";

/** Kills the process, damages the first page of a table, and starts the next one. */
async function damage(bench: Bench, table: string): Promise<void> {
  const file = fileOf(bench);
  const db = bench.life().look();
  const root =
    db?.get<{ page: number }>(`SELECT rootpage AS page FROM sqlite_schema WHERE name = '${table}'`)?.page ?? 0;
  const size = db?.get<{ page_size: number }>("PRAGMA page_size")?.page_size ?? 0;
  db?.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  await bench.kill();
  const handle = openSync(file, "r+");
  writeSync(handle, Buffer.alloc(size, 0x5a), 0, size, (root - 1) * size);
  closeSync(handle);
  await bench.start();
}

const isDamageText = (text: string): boolean => text.includes("database of signalman is damaged");

test("a damaged page is in /health, in the log and in the owner's chat; what works goes on", async () => {
  await using bench = await openBench();
  await damage(bench, "kept");
  await bench.until("the check", () => health(bench) !== "ok");
  expect(health(bench)).toContain("the database is damaged");
  bench.signal.owner.write("hello");
  await bench.until("order", () => isSettled(bench));
  expect(bench.texts()).toContain("re: hello");
  expect(bench.texts().filter(isDamageText)).toHaveLength(1);
  expect(bench.log.some((line) => line.includes("the database is damaged"))).toBe(true);
  await bench.pass(25 * 3_600_000);
  expect(bench.texts().filter(isDamageText)).toHaveLength(2);
});

test("where the page of what is to be sent is damaged, the person is told all the same, once", async () => {
  await using bench = await openBench();
  await damage(bench, "outbox");
  bench.signal.owner.write("hello");
  await bench.pass(10 * 60_000);
  expect(health(bench)).toContain("damaged");
  expect(bench.texts().filter(isDamageText)).toHaveLength(1);
  expect(bench.log.filter((line) => line.includes("fault in signalman itself"))).toEqual([]);
});

test("a row that is not what was written ends no process: the other chats are answered, in this life and the next", async () => {
  await using bench = await openBench({ script: (prompt) => [{ pauseMs: 5_000 }, { say: `re: ${prompt}` }] });
  bench.signal.person(people.ann).write("lost");
  await bench.until("the question", () => bench.posts.length === 1);
  bench.life().look()?.run('UPDATE inbox SET envelope = \'{"text":"los\'');
  for (let life = 0; life < 2; life++) {
    await bench.kill();
    await bench.start();
    await bench.until("the check", () => health(bench) !== "ok");
    expect(health(bench)).toContain("a row of inbox is malformed");
    bench.signal.owner.write(`hello ${life}`);
    await bench.until("the answer", () => bench.texts().includes(`re: hello ${life}`));
  }
  expect(bench.posts.filter((prompt) => prompt === "lost")).toHaveLength(1);
  expect(bench.texts().filter(isDamageText)).toHaveLength(1);
  expect(bench.log.filter((line) => line.includes("fault in signalman itself"))).toEqual([]);
});

test("a file of the database that is deleted beneath the process is in /health and in the owner's chat within a minute", async () => {
  await using bench = await openBench();
  const wal = `${fileOf(bench)}-wal`;
  renameSync(wal, `${wal}.aside`);
  await bench.pass(61_000);
  expect(health(bench)).toContain("signalman.db-wal was deleted or replaced while signalman runs");
  expect(bench.texts().filter((text) => text.includes("was deleted or replaced"))).toHaveLength(1);
  renameSync(`${wal}.aside`, wal);
  await bench.pass(24 * 3_600_000);
  expect(health(bench)).toBe("ok");
});

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
async function setBack(bench: Bench, afterMs: Millis, lose: (file: string, copy: string) => void): Promise<void> {
  bench.signal.owner.write("before");
  await bench.until("order", () => isSettled(bench));
  bench.signal.owner.write("slow");
  await bench.until("the question", () => bench.posts.length === 2);
  const [file, copy] = [fileOf(bench), `${fileOf(bench)}.copy`];
  bench.life().look()?.copyTo(copy);
  await bench.until("order", () => isSettled(bench));
  bench.signal.owner.write("after");
  await bench.until("order", () => isSettled(bench));
  await bench.pass(afterMs);
  await bench.kill();
  lose(file, copy);
  await bench.start();
  await bench.until("order", () => isSettled(bench));
}

test.each([60_000, 1_000])(
  "a copy that is restored %d ms later is noticed and said, nothing is asked or said twice, and the next message is answered",
  async (afterMs) => {
    await using bench = await openBench({
      script: (prompt) => [...(prompt === "slow" ? [{ pauseMs: 5_000 }] : []), { say: `re: ${prompt}` }],
    });
    await setBack(bench, afterMs, (file, copy) => {
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
  },
);

test("a write-ahead log that is deleted after a crash is noticed, however young the process was", async () => {
  await using bench = await openBench();
  bench.signal.owner.write("before");
  await bench.until("order", () => isSettled(bench));
  await bench.kill();
  await bench.start();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  bench.signal.owner.write("now");
  await bench.until("order", () => isSettled(bench));
  // The file alone is what is left of a database whose log is deleted.
  const [file, alone] = [fileOf(bench), `${fileOf(bench)}.alone`];
  copyFileSync(file, alone);
  await bench.pass(1_000);
  await bench.kill();
  for (const suffix of ["", "-wal", "-shm"]) rmSync(file + suffix, { force: true });
  copyFileSync(alone, file);
  await bench.start();
  bench.signal.owner.write("after");
  await bench.until("the answer", () => bench.texts().includes("re: after"));
  await bench.pass(61_000);
  expect(bench.posts).toEqual(["before", "now", "after"]);
  expect(bench.texts().filter((text) => text.startsWith("The database of signalman is older"))).toHaveLength(1);
  expect(bench.texts().filter((text) => text === "re: now")).toHaveLength(1);
});

test("an answer that was paid for is held while the disk is full, where nothing can be looked up, and asked for once", async () => {
  const home = makeHome();
  const clock = createVirtualClock();
  const signal = createMemorySignal({ clock });
  let asked = 0;
  const answered = Promise.withResolvers<void>();
  const entry = (text: string): SessionEvent[] => [
    { id: `p${asked}`, at: clock.now(), type: "prompt", text },
    { id: `r${asked}`, at: clock.now(), type: "reply", text: `re: ${text} ${"again ".repeat(1_500)}` },
    { id: `i${asked}`, at: clock.now(), type: "idle", stop: { kind: "end_turn" } },
  ];
  const line: Line = {
    ...createScriptedClaude({ clock }).line,
    remote: null,
    async post(_, [request], hear) {
      asked++;
      await answered.promise;
      for (const event of entry(request?.kind === "prompt" ? request.text : "")) hear({ kind: "event", event });
    },
  };
  const daemon = await startDaemon(simConfig(home, { reactions: "off", welcome: "false", progress: "false" }), {
    log: quietLog,
    clock,
    random: seeded(1),
    networkKey: () => "",
    newId: () => crypto.randomUUID(),
    buildTransport: async () => signal.transport,
    buildLine: async () => line,
  });
  const { db } = daemon.store;
  signal.owner.write("hello");
  expect(await runUntil(clock, () => asked === 1, 60_000)).toBe(true);
  const { page_count } = db.get<{ page_count: number }>("PRAGMA page_count") ?? { page_count: 0 };
  db.exec(`PRAGMA max_page_count = ${page_count}`);
  answered.resolve();
  await runUntil(clock, () => false, 30 * 60_000);
  expect(signal.screen().map(({ text }) => text)).toEqual([expect.stringContaining("still at work on that")]);
  db.exec("PRAGMA max_page_count = 1000000");
  expect(await runUntil(clock, () => signal.screen().some(({ text }) => text.startsWith("re: hello")), 600_000)).toBe(
    true,
  );
  expect(asked).toBe(1);
  const stopped = daemon.stop();
  while (!(await Promise.race([stopped.then(() => true), boundary().then(() => false)]))) clock.next(Infinity);
  rmSync(home, { recursive: true });
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
