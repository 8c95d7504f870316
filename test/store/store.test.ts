import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Envelope, SessionEvent } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import { openDatabase } from "../../src/store/database.ts";
import { migrate, migrations } from "../../src/store/migrations.ts";
import { openStore, type Store } from "../../src/store/store.ts";

const chat = { kind: "self" } as const;
const note: Envelope = {
  source: { aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", number: null },
  sourceDevice: 1,
  sentAt: 1,
  serverAt: null,
  chat,
  isOwn: true,
  sourceName: null,
  content: {
    kind: "text",
    text: "hi",
    quote: null,
    mentions: [],
    attachments: [],
    expiresInSeconds: 0,
    isViewOnce: false,
  },
};
const reply = (id: string, text: string, at: number): SessionEvent => ({ id, at, type: "reply", text });

let home: string;
let store: Store;
const open = (isExclusive = true): Promise<Store> =>
  openStore(home, { render: (text) => text.split("|").map(plainText), isExclusive });
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-"));
  chmodSync(home, 0o700);
  store = await open();
});
afterEach(() => {
  store.close();
  rmSync(home, { recursive: true });
});

describe("the home folder", () => {
  test("a second process is refused, a command that only looks is not", async () => {
    expect(open()).rejects.toMatchObject({ code: "home_in_use" });
    const reader = await open(false);
    expect(reader.inbox.pending().count).toBe(0);
    reader.close();
  });
  test("the lock goes with its holder", async () => {
    store.close();
    store = await open();
    expect(store.inbox.pending().count).toBe(0);
  });
  test("files are private, and a folder that others may enter is refused", async () => {
    expect(statSync(join(home, "signalman.db")).mode & 0o777).toBe(0o600);
    store.close();
    chmodSync(home, 0o755);
    expect(open()).rejects.toMatchObject({ code: "config", hint: `Run: chmod 700 ${home}` });
    chmodSync(home, 0o700);
  });
  test("a database of a newer signalman is refused and left as it was", async () => {
    store.db.exec("PRAGMA user_version = 99");
    store.close();
    expect(open()).rejects.toMatchObject({ code: "database_newer" });
    const db = await openDatabase(join(home, "signalman.db"));
    expect(db.get<{ user_version: number }>("PRAGMA user_version")?.user_version).toBe(99);
    db.close();
  });
  test("a command that only looks changes no schema beside a running daemon of an earlier release", async () => {
    store.close();
    const render = (): [] => [];
    const daemon = await openStore(home, { render, isExclusive: true });
    daemon.db.exec(`PRAGMA user_version = ${migrations.length - 1}`);
    expect(openStore(home, { render, isExclusive: false })).rejects.toMatchObject({
      code: "database",
      hint: expect.stringContaining("Restart"),
    });
    expect(daemon.db.get<{ user_version: number }>("PRAGMA user_version")?.user_version).toBe(migrations.length - 1);
    daemon.db.exec(`PRAGMA user_version = ${migrations.length}`);
    (await openStore(home, { render, isExclusive: false })).close();
    daemon.close();
  });

  test("every older version of the database opens", async () => {
    for (let version = 0; version <= migrations.length; version++) {
      const file = join(home, `v${version}.db`);
      const old = await openDatabase(file);
      migrate(old, migrations.slice(0, version));
      old.close();
      const db = await openDatabase(file);
      migrate(db);
      expect(db.get<{ user_version: number }>("PRAGMA user_version")?.user_version).toBe(migrations.length);
      db.close();
    }
  });
});

describe("the inbox", () => {
  test("the same message is accepted once", () => {
    expect(store.inbox.accept("k", "prompt", note, 1)).toBe(true);
    expect(store.inbox.accept("k", "prompt", note, 2)).toBe(false);
    expect(store.inbox.pending()).toEqual({ count: 1, oldestAt: 1 });
  });
  test("a row ends in exactly one outcome", () => {
    store.inbox.accept("k", "prompt", note, 1);
    const id = store.inbox.head("self")?.id ?? 0;
    store.inbox.finish(id, "cancelled", 2);
    store.inbox.finish(id, "answered", 3);
    expect(store.db.get("SELECT state, outcome, done_at FROM inbox WHERE id = ?", id)).toEqual({
      state: "done",
      outcome: "cancelled",
      done_at: 2,
    });
    expect(() => store.db.run("UPDATE inbox SET state = 'pending' WHERE id = ?", id)).toThrow();
  });
  test("a prompt that was taken back stays so as its session dies", () => {
    store.sessions.create("s", chat, "sessions", {}, {}, 1);
    store.inbox.accept("k", "prompt", note, 1);
    const id = store.inbox.head("self")?.id ?? 0;
    store.inbox.markAsked(id, "s", "e1");
    store.inbox.finish(id, "cancelled", 2);
    expect(store.inbox.markNew(id)).toBe(0);
    expect(store.inbox.get(id)).toMatchObject({ state: "done", prompt: { kind: "asked", eventId: "e1" } });
  });
  test("the fate of a prompt is told by its columns", () => {
    store.sessions.create("s", chat, "sessions", {}, {}, 1);
    store.inbox.accept("k", "prompt", note, 1);
    const head = () => store.inbox.head("self");
    const id = head()?.id ?? 0;
    expect(head()?.prompt).toEqual({ kind: "new" });
    store.inbox.markAsking(id, "s", 5, "hi");
    expect(head()?.prompt).toEqual({ kind: "uncertain", askedAt: 5, text: "hi" });
    store.inbox.markAsked(id, "s", "e1");
    expect(head()?.prompt).toEqual({ kind: "asked", eventId: "e1" });
    expect(store.inbox.mappedEventIds("s")).toEqual(new Set(["e1"]));
    store.inbox.markNew(id);
    expect(head()?.prompt).toEqual({ kind: "new" });
  });
  test("done rows are pruned by age, open ones stay", () => {
    for (const key of ["a", "b", "c"]) store.inbox.accept(key, "prompt", note, 1);
    const [first, second] = store.inbox.openPrompts("self");
    store.inbox.finish(first?.id ?? 0, "answered", 10);
    store.inbox.finish(second?.id ?? 0, "answered", 20);
    expect(store.prune(15)).toBe(1);
    expect(store.inbox.pending().count).toBe(1);
  });
});

describe("the outbox", () => {
  test("a key is added once, and timestamps are unique and grow even when the clock stands or goes back", () => {
    expect(store.outbox.add("a", chat, plainText("1"), 1000)).toBe(true);
    expect(store.outbox.add("a", chat, plainText("1"), 1000)).toBe(false);
    store.outbox.add("b", chat, plainText("2"), 1000);
    store.outbox.add("c", chat, plainText("3"), 500);
    expect(["a", "b", "c"].map((key) => store.outbox.byKey(key)?.timestamp)).toEqual([1000, 1001, 1002]);
  });
  test("after a crash during a send the row is queued again with its timestamp", () => {
    store.outbox.add("a", chat, plainText("1"), 1000);
    const id = store.outbox.head("self")?.id ?? 0;
    store.outbox.markSending(id, 1);
    expect(store.outbox.recover()).toBe(1);
    expect(store.outbox.head("self")).toMatchObject({ state: "queued", timestamp: 1000, attempts: 1 });
  });
});

describe("a session's log", () => {
  beforeEach(() => void store.sessions.create("s", chat, "sessions", {}, {}, 1));
  const queued = () => store.outbox.pending().count;

  test("each reply becomes outbox rows once, however often it is seen", () => {
    const events = [reply("e1", "one|two", 10)];
    expect(store.sessions.apply("s", events, 10)).toMatchObject({ replies: 1 });
    expect(store.sessions.apply("s", events, 11)).toMatchObject({ replies: 0, added: [] });
    expect(queued()).toBe(2);
    expect(store.sessions.get("s")?.cursor).toBe(10);
  });
  test("where tool use is shown, it stands between the replies as Claude had it; what is only asked for is not use", () => {
    store.sessions.setContext("s", { verbose: true }, {});
    const use = { type: "tool_use", name: "bash", isAsk: false } as const;
    store.sessions.apply(
      "s",
      [
        reply("e1", "one", 10),
        { ...use, id: "t1", at: 11, input: { command: "make" } },
        { ...use, id: "t2", at: 12, input: { command: "rm" }, isAsk: true },
        reply("e2", "two", 13),
      ],
      13,
    );
    const bodies = store.db.all<{ body: string }>("SELECT body FROM outbox ORDER BY id");
    const texts = bodies.map(({ body }) => (JSON.parse(body) as { text: string }).text);
    expect(texts).toEqual(["one", "🔧 run: make", "two"]);
  });
  test("a queued prompt becomes processed and never the other way", () => {
    const prompt = { id: "p", type: "prompt", text: "hi" } as const;
    store.sessions.apply("s", [{ ...prompt, at: null }], 1);
    store.sessions.apply("s", [{ ...prompt, at: 7 }], 1);
    store.sessions.apply("s", [{ ...prompt, at: null }], 1);
    store.sessions.apply("s", [{ ...prompt, at: 9 }], 1);
    expect(store.sessions.events("s")).toEqual([{ ...prompt, at: 7 }]);
  });
  test("events, replies, cursor and the settled row are one transaction", () => {
    store.inbox.accept("k", "prompt", note, 1);
    const inboxId = store.inbox.head("self")?.id ?? 0;
    const poison = { id: "bad", at: 12, type: "reply", text: "x" } as const;
    store.db.exec(
      "CREATE TEMP TRIGGER full BEFORE INSERT ON outbox WHEN NEW.key LIKE '%bad%' BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    );
    const settle = (): void =>
      store.db.transaction(() => {
        store.inbox.finish(inboxId, "answered", 12);
        store.settings.count("answered");
        store.sessions.apply("s", [reply("good", "y", 11), poison], 12);
      });
    expect(settle).toThrow("disk full");
    expect(queued()).toBe(0);
    expect(store.sessions.events("s")).toEqual([]);
    expect(store.sessions.get("s")?.cursor).toBeNull();
    expect(store.inbox.head("self")?.id).toBe(inboxId);
    expect(store.settings.counter("answered")).toBe(0);
    store.db.exec("DROP TRIGGER full");
    settle();
    expect(queued()).toBe(2);
    expect(store.inbox.head("self")).toBeNull();
    expect(store.settings.counter("answered")).toBe(1);
  });
  test("entries come in the order Claude saw them, queued ones last", () => {
    store.sessions.apply(
      "s",
      [{ id: "q", at: null, type: "prompt", text: "later" }, reply("b", "2", 20), reply("a", "1", 10)],
      1,
    );
    expect(store.sessions.events("s").map(({ id }) => id)).toEqual(["a", "b", "q"]);
  });
  test("a chat has one active session; ended ones can be resumed", () => {
    expect(() => store.sessions.create("t", chat, "sessions", {}, {}, 2)).toThrow();
    store.sessions.end("s");
    store.sessions.create("t", chat, "sessions", {}, {}, 2);
    store.sessions.resume("s");
    expect(store.sessions.active("self")?.id).toBe("s");
    expect(store.sessions.get("t")?.state).toBe("ended");
  });
  test("a sync reads what is stale, asked or recent, and a few of the rest", () => {
    for (let n = 0; n < 10; n++) {
      const id = `x${n}`;
      store.sessions.create(id, { kind: "group", id }, "sessions", {}, {}, 1);
      store.sessions.setRemote(id, `remote${n}`);
      store.sessions.setSynced(id, null, 100 + n);
    }
    store.sessions.setStale("x7", true);
    store.sessions.apply("x8", [reply("r", "hi", 1)], 1000);
    store.inbox.accept("k", "prompt", note, 1);
    store.inbox.markAsking(store.inbox.head("self")?.id ?? 0, "x9", 5, "hi");
    expect(
      store.sessions
        .toSync(500, 2)
        .map(({ id }) => id)
        .sort(),
    ).toEqual(["x0", "x7", "x8", "x9"]);
  });
});
