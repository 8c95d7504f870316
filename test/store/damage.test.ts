/** What is found wrong with a database while it is used, small or so large that it is read in slices. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, readFileSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { plainText } from "../../src/core/reply.ts";
import { findDamage } from "../../src/store/damage.ts";
import { openStore, type Store } from "../../src/store/store.ts";

let home: string;
let store: Store;
const open = async (): Promise<void> => {
  store = await openStore(home, { isExclusive: true });
  store.db.exec("PRAGMA synchronous = OFF");
};
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-damage-"));
  await open();
});
afterEach(() => {
  store.close();
  rmSync(home, { recursive: true });
});

const find = (): Promise<string | null> =>
  findDamage(store.db, { sleep: () => Promise.resolve() }, new AbortController().signal);
const file = (): string => join(home, "signalman.db");

/** More than is read at once, and a row behind it. */
function fill(): void {
  store.db.transaction(() => {
    for (let index = 0; index < 1_200; index++)
      store.outbox.add("send", `k${index}`, 0, { kind: "self" }, plainText("x".repeat(20_000)), index);
  });
}

test.each([false, true])("nothing is found where nothing is wrong (large: %p)", async (isLarge) => {
  if (isLarge) fill();
  expect(await find()).toBeNull();
  expect(store.db.failures.count).toBe(0);
});

/** Every column that the program reads as JSON: what stands in it, and the text that damage made of it. */
const columns = [
  ["sessions", "chat"],
  ["sessions", "context"],
  ["sessions", "stamps"],
  ["inbox", "envelope"],
  ["inbox", "versions"],
  ["outbox", "chat"],
  ["outbox", "body"],
  ["events", "body"],
  ["posts", "request"],
  ["posts", "tries"],
  ["calls", "input"],
] as const;
const rows = `
  INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at)
    VALUES ('s', 'self', '{}', 'messages', 'active', '{}', '{}', 0, 0);
  INSERT INTO inbox (key, chat_key, kind, envelope, versions, state, received_at) VALUES ('k', 'self', 'prompt', '{}', '[]', 'open', 0);
  INSERT INTO events (session_id, id, type, at, body) VALUES ('s', 'e', 'prompt', 0, '{}');
  INSERT INTO posts (session_id, kind, subject, request, tries, state, created_at) VALUES ('s', 'prompt', '1', '{}', '{}', 'queued', 0);
  INSERT INTO calls (id, session_id, turn, project, tool, input, input_hash, state, seen_at, changed_at)
    VALUES ('c', 's', '', '', '', '{}', '', 'seen', 0, 0);`;

test.each(columns)("a row whose %s.%s is not what was written is found, and no bug", async (table, column) => {
  store.outbox.add("send", "k", 0, { kind: "self" }, plainText("hello"), 0);
  store.db.exec(rows);
  expect(await find()).toBeNull();
  store.db.run(`UPDATE ${table} SET ${column} = '{"text":"secret wo'`);
  expect(await find()).toBe(`a row of ${table} is malformed`);
  const read = (): unknown => [
    store.sessions.list(9),
    store.inbox.get(1),
    store.outbox.of("send", "k"),
    store.log.events("s"),
    store.posts.get(1),
    store.calls.list("s", 9),
  ];
  expect(read).toThrow(expect.objectContaining({ code: "database", message: expect.not.stringContaining("secret") }));
  expect(store.db.failures).toMatchObject({ count: 1, last: "a row of it is malformed" });
});

test("in a large database the row behind the first slices is found, and so is a page of an index", async () => {
  fill();
  store.db.run(`UPDATE outbox SET body = 'damaged' WHERE subject = 'k1199'`);
  expect(await find()).toBe("a row of outbox is malformed");
  store.db.run(`UPDATE outbox SET body = '{}' WHERE subject = 'k1199'`);
  expect(await find()).toBeNull();
  store.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
  const sql = "SELECT name, rootpage AS page FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'outbox' LIMIT 1";
  const { page } = store.db.get<{ page: number }>(sql) ?? { page: 0 };
  store.close();
  const handle = openSync(file(), "r+");
  writeSync(handle, Buffer.alloc(4_096, 0x5a), 0, 4_096, (page - 1) * 4_096);
  closeSync(handle);
  await open();
  expect(await find()).toContain("malformed");
});

test("in a long log, too, whose entries have a time of their own", async () => {
  store.db.run(
    "INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at) VALUES ('s', 'self', '{}', 'messages', 'active', '{}', '{}', 0, 0)",
  );
  const add = "INSERT INTO events (session_id, id, type, at, body) VALUES ('s', ?, 'reply', ?, ?)";
  store.db.transaction(() => {
    for (let seq = 0; seq < 1_200; seq++) store.db.run(add, `e${seq}`, 1_795_000_000_000 + seq, "{}");
  });
  expect(await find()).toBeNull();
  store.db.run("UPDATE events SET body = 'damaged' WHERE id = 'e1100'");
  expect(await find()).toBe("a row of events is malformed");
});

test("a file that is deleted or replaced beneath the process is told", () => {
  store.db.exec("PRAGMA user_version");
  store.settings.set("alive_at", "1");
  expect(store.lostFile()).toBeNull();
  for (const suffix of ["-shm", "-wal", ""]) {
    renameSync(file() + suffix, `${file()}${suffix}.aside`);
    expect(store.lostFile()).toContain(`signalman.db${suffix} was deleted or replaced`);
    renameSync(`${file()}${suffix}.aside`, file() + suffix);
    expect(store.lostFile()).toBeNull();
  }
});

test("a copy that is written over the database beneath the process is told; what SQLite writes there is not", () => {
  const copy = readFileSync(file());
  for (let index = 0; index < 3; index++) {
    store.settings.set("alive_at", String(index));
    store.db.exec(`PRAGMA wal_checkpoint(${index === 2 ? "TRUNCATE" : "PASSIVE"})`);
    expect(store.lostFile()).toBeNull();
  }
  writeFileSync(file(), copy);
  expect(store.lostFile()).toContain("signalman.db was deleted or replaced");
  expect(store.lostFile()).toContain("signalman.db was deleted or replaced");
});
