import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Envelope, SessionEvent } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import { openDatabase, type Database } from "../../src/store/database.ts";
import { forgetSession } from "../../src/store/forgetting.ts";
import { migrate, newestVersion } from "../../src/store/migrations.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { countCommits } from "../doubles/commits.ts";
import { createChatRig, textContent } from "../doubles/chats.ts";
import { makeVersion } from "../fixtures/store/steps.ts";

const chat = { kind: "self" } as const;
const note: Envelope = {
  source: { aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", number: null },
  sourceDevice: 1,
  sentAt: 1,
  serverAt: null,
  chat,
  isOwn: true,
  sourceName: null,
  content: textContent("hi"),
};
const reply = (id: string, text: string, at: number): SessionEvent => ({ id, at, type: "reply", text });

let home: string;
let store: Store;
const open = (isExclusive = true): Promise<Store> => openStore(home, { isExclusive });
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
    const daemon = await open();
    daemon.db.exec(`PRAGMA user_version = ${newestVersion - 1}`);
    expect(open(false)).rejects.toMatchObject({
      code: "database",
      hint: expect.stringContaining("Restart"),
    });
    expect(daemon.db.get<{ user_version: number }>("PRAGMA user_version")?.user_version).toBe(newestVersion - 1);
    daemon.db.exec(`PRAGMA user_version = ${newestVersion}`);
    (await open(false)).close();
    daemon.close();
  });

  test("every older version of the database opens, and has what a new one has", async () => {
    /** Columns and indexes; how a table came by them is no matter. */
    const shape = (db: Database): unknown =>
      db
        .all<{ name: string; sql: string | null }>("SELECT name, sql FROM sqlite_master ORDER BY type, name")
        .map(({ name, sql }) => [name, sql?.startsWith("CREATE TABLE") ? db.all(`PRAGMA table_xinfo(${name})`) : sql]);
    const shapes: unknown[] = [];
    for (let version = 0; version <= newestVersion; version++) {
      const file = join(home, `v${version}.db`);
      const old = await openDatabase(file);
      makeVersion(old, version);
      old.close();
      const db = await openDatabase(file);
      migrate(db);
      expect(db.get<{ user_version: number }>("PRAGMA user_version")?.user_version).toBe(newestVersion);
      shapes.push(shape(db));
      db.close();
    }
    for (const one of shapes) expect(one).toEqual(shapes[0]);
  });
});

const accept = (key: string, envelope = note): number => {
  const id = store.inbox.accept(key, "prompt", envelope, 1);
  if (id === null) throw new Error("It was not accepted");
  return id;
};
const saying = (text: string): Envelope => ({ ...note, content: textContent(text) });

describe("the inbox", () => {
  test("the same message is accepted once", () => {
    expect(store.inbox.accept("k", "prompt", note, 1)).toBeNumber();
    expect(store.inbox.accept("k", "prompt", note, 2)).toBeNull();
    expect(store.inbox.pending()).toEqual({ count: 1, oldestAt: 1 });
  });
  test("two different texts within one millisecond are two messages, each of them once", () => {
    accept("k", saying("one"));
    accept("k", saying("two"));
    expect(store.inbox.accept("k", "prompt", saying("two"), 2)).toBeNull();
    expect(store.inbox.accept("k", "prompt", saying("one"), 2)).toBeNull();
    expect(store.inbox.pending().count).toBe(2);
  });
  test("a row ends in exactly one outcome", () => {
    const id = accept("k");
    store.inbox.finish(id, "cancelled", 2);
    store.inbox.finish(id, "answered", 3);
    store.inbox.open(id, note, [9]);
    expect(store.db.get("SELECT state, outcome, done_at FROM inbox WHERE id = ?", id)).toEqual({
      state: "done",
      outcome: "cancelled",
      done_at: 2,
    });
    expect(() => store.db.run("UPDATE inbox SET state = 'open' WHERE id = ?", id)).toThrow();
  });
  test("the head are the two oldest open ones of the chat", () => {
    const ids = ["a", "b", "c"].map((key) => accept(key));
    store.inbox.finish(ids[0] ?? 0, "answered", 2);
    expect(store.inbox.head("self").map(({ id }) => id)).toEqual(ids.slice(1));
    expect(store.inbox.head("self", ids[1]).map(({ id }) => id)).toEqual(ids.slice(2));
    expect(store.inbox.openChats()).toEqual(["self"]);
    expect(store.inbox.lastEnded("self")?.id).toBe(ids[0]);
  });
  test("done rows are pruned by age, open ones stay", () => {
    const [first = 0, second = 0] = ["a", "b", "c"].map((key) => accept(key));
    store.inbox.finish(first, "answered", 10);
    store.inbox.finish(second, "answered", 20);
    expect(store.prune(15)).toBe(1);
    expect(store.inbox.pending().count).toBe(1);
  });
});

describe("the posts", () => {
  beforeEach(() => void store.sessions.create("s", chat, "sessions", {}, {}, 1));
  const prompt = { kind: "prompt", text: "hi", files: [] } as const;
  const add = (inboxId: number): number => {
    store.posts.add("s", "prompt", String(inboxId), null, 1);
    return store.posts.ofPrompt(inboxId)?.id ?? 0;
  };

  test("the same request is made once", () => {
    const request = { kind: "confirm", toolUseId: "t", isAllowed: true, reason: null } as const;
    expect(store.posts.add("s", "confirm", "t", request, 1)).toBe(1);
    expect(store.posts.add("s", "confirm", "t", { ...request, isAllowed: false }, 2)).toBe(0);
    expect(store.posts.open("s")).toMatchObject([{ request }]);
    expect(store.posts.isConfirmed("t")).toBe(true);
  });
  test("the fate of a prompt: built, posting, posted, waiting, posted, done", () => {
    const id = add(7);
    const standing = () => store.posts.get(id);
    expect(standing()).toMatchObject({ state: "queued", request: null, eventId: null });
    store.posts.markPosting(id, 5, prompt);
    expect(standing()).toMatchObject({ state: "posting", request: prompt, postedAt: 5, eventId: null });
    store.posts.markPosted(id, "e1");
    expect(standing()).toMatchObject({ state: "posted", eventId: "e1", request: prompt });
    expect(store.posts.mappedEventIds("s")).toEqual(["e1"]);
    store.posts.setWaiting(7, true);
    expect(standing()?.state).toBe("waiting");
    expect([store.posts.isWaiting(), store.posts.dueSessions()]).toEqual([true, []]);
    store.posts.setWaiting(7, false);
    expect([standing()?.state, store.posts.dueSessions()]).toEqual(["posted", ["s"]]);
    store.posts.finishPrompt(7);
    expect([store.posts.ofPrompt(7), store.posts.dueSessions(), standing()?.request]).toEqual([null, [], null]);
  });
  test("what was lost is queued anew with what it was built of; what goes on keeps its entry", () => {
    const id = add(7);
    store.posts.markPosting(id, 5, prompt);
    store.posts.markPosted(id, "e1");
    store.posts.again(7, "s", false, { lookup: 1 });
    expect(store.posts.get(id)).toMatchObject({ state: "posted", eventId: "e1", tries: { lookup: 1 } });
    store.posts.again(7, "s", true, { lookup: 1, died: 1 });
    expect(store.posts.get(id)).toMatchObject({ state: "queued", eventId: null, request: prompt, tries: { died: 1 } });
  });
  test("a prompt that was taken back stays so as its session dies, or as its answer comes late", () => {
    const id = add(7);
    store.posts.markPosting(id, 1, null);
    store.posts.finishPrompt(7);
    store.posts.again(7, "s", true, { died: 1 });
    store.posts.markQueued(id);
    store.posts.markPosting(id, 2, null);
    store.posts.markPosted(id, "late");
    store.posts.setWaiting(7, true);
    expect(store.posts.get(id)).toMatchObject({ state: "done", eventId: null, tries: {}, postedAt: 1 });
  });
  test("a prompt that is found and ended in one transaction is written once, with its entry", () => {
    const id = add(7);
    const disk = countCommits(store.db);
    store.db.transaction(() => {
      expect(store.posts.markPosted(id, "e1")).toMatchObject({ kind: "prompt", subject: "7" });
      expect(store.posts.ofPrompt(7, "s")).toMatchObject({ state: "posted", eventId: "e1" });
      store.posts.finishPrompt(7);
    });
    expect(disk()).toMatchObject({ commits: 1, first: [expect.stringMatching(/^UPDATE posts SET state = 'done'/u)] });
    expect(store.posts.get(id)).toMatchObject({ state: "done", eventId: "e1" });
  });
  test("a prompt that is found is written at the end of the transaction, before any other change of it, and not after a rollback", () => {
    const [first, second] = [add(7), add(8)];
    const fail = (): void =>
      store.db.transaction(() => {
        store.posts.markPosted(first, "e0");
        throw new Error("full");
      });
    expect(fail).toThrow("full");
    expect(store.posts.get(first)).toMatchObject({ state: "queued", eventId: null });
    store.db.transaction(() => {
      store.posts.markPosted(first, "e1");
      store.posts.markPosted(second, "e2");
      store.posts.setWaiting(7, true);
    });
    expect([first, second].map((id) => store.posts.get(id))).toMatchObject([
      { state: "waiting", eventId: "e1" },
      { state: "posted", eventId: "e2" },
    ]);
  });
  test("what fails after a commit takes nothing back, and keeps no other work from being done", () => {
    const done: string[] = [];
    store.db.onRollback(() => done.push("rollback"));
    const told = store.db.transaction(() => {
      store.settings.set("alive_at", "1");
      store.db.afterCommit(() => store.db.exec("PRAGMA no such thing"));
      store.db.afterCommit(() => void done.push(String(store.settings.get("alive_at"))));
      return "told";
    });
    expect([told, done]).toEqual(["told", ["1"]]);
  });
  test("only a prompt is followed: the rest is over once it is in the log", () => {
    store.posts.add("s", "interrupt", "7", { kind: "interrupt" }, 1);
    const [post] = store.posts.open("s");
    store.posts.markPosted(post?.id ?? 0, null);
    expect(store.posts.open("s")).toEqual([]);
  });
});

describe("the outbox", () => {
  const add = (subject: string, text: string, now: number): boolean =>
    store.outbox.add("note", subject, 0, chat, plainText(text), now);

  test("a message exists once, and timestamps are unique and grow even when the clock stands or goes back", () => {
    expect(add("a", "1", 1000)).toBe(true);
    expect(add("a", "1", 1000)).toBe(false);
    add("b", "2", 1000);
    add("c", "3", 500);
    expect(["a", "b", "c"].map((subject) => store.outbox.of("note", subject)[0]?.timestamp)).toEqual([
      1000, 1001, 1002,
    ]);
    expect([store.outbox.has("note", "a"), store.outbox.has("told", "a")]).toEqual([true, false]);
  });
  test("rule 5: after a crash during a send the row is sent again, with its timestamp", () => {
    add("a", "1", 1000);
    const id = store.outbox.head("self")?.id ?? 0;
    store.outbox.markSending(id, 1);
    expect(store.outbox.recover()).toBe(1);
    expect(store.outbox.head("self")).toMatchObject({
      state: "queued",
      timestamp: 1000,
      attempts: 1,
      isUncertain: true,
    });
  });
  test("an answer takes the place of its preview, its files come in a message of their own", () => {
    store.drafts.addDraft(7, chat, { text: "I am …", styles: [] }, 1_000);
    const draft = store.outbox.head("self");
    store.outbox.markSending(draft?.id ?? 0, 1_000);
    store.outbox.markSent(draft?.id ?? 0, draft?.timestamp ?? 0, 1_000);
    expect(store.drafts.addDraft(7, chat, { text: "I am still …", styles: [] }, 2_000)).toBe(2);
    const text = { kind: "text", styles: [], quote: null } as const;
    const files = [{ fileName: "a.txt", contentType: "text/plain", base64: "" }];
    const withFiles = { ...text, text: "done", files };
    store.drafts.addAnswer("reply", { sessionId: "s", id: "e" }, 0, 7, chat, withFiles, 3_000);
    expect(store.outbox.of("draft", "7").map(({ state }) => state)).toEqual(["sent", "failed"]);
    expect(store.outbox.of("reply", { sessionId: "s", id: "e" }).map(({ body }) => body)).toMatchObject([
      { kind: "edit", targetSentAt: draft?.timestamp, text: "done" },
      { ...text, text: "", files },
    ]);
    // Its preview is over: what comes next stands for itself.
    store.drafts.addAnswer("reply", { sessionId: "s", id: "f" }, 0, 7, chat, plainText("more"), 4_000);
    expect(store.outbox.of("reply", { sessionId: "s", id: "f" }).map(({ body }) => body.kind)).toEqual(["text"]);
    expect(store.drafts.addDraft(7, chat, { text: "again", styles: [] }, 5_000)).toBe(Infinity);
  });
  test("a mark that did not go out is taken back by the next one; each stage is shown once", () => {
    const targetAuthor = { aci: "a", number: null };
    const body = { kind: "reaction", emoji: "👀", targetAuthor, targetSentAt: 1, isRemove: false } as const;
    for (const stage of ["taken", "done", "done"] as const) store.outbox.addMark(7, stage, chat, body, 1);
    expect(store.outbox.of("mark", "7").map(({ part, state }) => [part, state])).toEqual([
      [0, "failed"],
      [2, "queued"],
    ]);
  });
  test("a mark behind one that went out takes nothing back, and is taken back itself by the next", () => {
    const targetAuthor = { aci: "a", number: null };
    const body = { kind: "reaction", emoji: "👀", targetAuthor, targetSentAt: 1, isRemove: false } as const;
    store.outbox.addMark(7, "taken", chat, body, 1);
    const taken = store.outbox.nextMark("self");
    if (taken) store.outbox.markShown(taken, taken.timestamp, 2);
    for (const stage of ["waiting", "done"] as const)
      store.db.transaction(() => store.outbox.addMark(7, stage, chat, body, 3));
    expect(store.outbox.of("mark", "7").map(({ part, state }) => [part, state])).toEqual([
      [0, "sent"],
      [1, "failed"],
      [2, "queued"],
    ]);
  });
  test("a mark that went out is recorded by the next commit that holds, at the end at the latest", async () => {
    const targetAuthor = { aci: "a", number: null };
    const body = { kind: "reaction", emoji: "👀", targetAuthor, targetSentAt: 1, isRemove: false } as const;
    const mark = (inboxId: number) => {
      store.outbox.addMark(inboxId, "taken", chat, body, 1);
      const head = store.outbox.nextMark("self");
      if (head) store.outbox.markShown(head, head.timestamp, 2);
      expect([store.outbox.nextMark("self"), store.outbox.pending().count]).toEqual([null, 0]);
    };
    const stateOf = (inboxId: number) => store.outbox.of("mark", String(inboxId))[0]?.state;
    mark(7);
    // One that only looks, and one that is rolled back, record nothing.
    store.db.transaction(() => store.outbox.nextMark("self"));
    expect(stateOf(7)).toBe("queued");
    const fail = () => {
      store.counters.add({ sent: 1 });
      throw new Error("full");
    };
    expect(() => store.db.transaction(fail)).toThrow("full");
    expect(stateOf(7)).toBe("queued");
    store.db.transaction(() => {
      store.counters.add({ sent: 1 });
      // It is recorded with the first write, and not counted as done twice.
      expect(store.outbox.pending().count).toBe(0);
    });
    expect(stateOf(7)).toBe("sent");
    mark(8);
    store.close();
    store = await open();
    expect(stateOf(8)).toBe("sent");
  });
});

describe("a session's log", () => {
  beforeEach(() => void store.sessions.create("s", chat, "sessions", {}, {}, 1));
  const apply = (events: readonly SessionEvent[], now = 1): SessionEvent[] => {
    const session = store.sessions.get("s");
    return session === null ? [] : store.db.transaction(() => store.log.apply(session, events, now));
  };

  test("what is new is told once, however often it is seen", () => {
    const events = [reply("e1", "one", 10)];
    expect(apply(events, 10)).toEqual(events);
    expect(apply(events, 11)).toEqual([]);
    expect(store.sessions.get("s")?.cursor).toBe(10);
  });
  test("a queued prompt becomes processed and never the other way", () => {
    const prompt = { id: "p", type: "prompt", text: "hi" } as const;
    for (const at of [null, 7, null, 9]) apply([{ ...prompt, at }]);
    expect(store.log.events("s")).toEqual([{ ...prompt, at: 7 }]);
  });
  test("entries come in the order Claude saw them, queued ones last", () => {
    apply([{ id: "q", at: null, type: "prompt", text: "later" }, reply("b", "2", 20), reply("a", "1", 10)]);
    expect(store.log.events("s").map(({ id }) => id)).toEqual(["a", "b", "q"]);
    expect(store.log.events("s", "b").map(({ id }) => id)).toEqual(["b", "q"]);
    expect([...store.log.newestFirst("s")].map(({ id }) => id)).toEqual(["b", "a"]);
  });
  test("the log newest first comes in pages, whatever ties there are", () => {
    const many = Array.from({ length: 300 }, (_, n) => reply(`r${n}`, `${n}`, Math.floor(n / 100)));
    apply(many);
    expect([...store.log.newestFirst("s")].map(({ id }) => id)).toEqual(many.map(({ id }) => id).toReversed());
  });
  test("where a turn stands is the same with what is kept in memory as with the rows alone", async () => {
    const stop = (id: string, at: number): SessionEvent => ({ id, at, type: "idle", stop: { kind: "end_turn" } });
    const prompt = (id: string, at: number | null): SessionEvent => ({ id, at, type: "prompt", text: "hi" });
    const log = [prompt("p", null), stop("i", 5), prompt("p", 5), stop("i", 5), reply("r", "yes", 6), stop("j", 7)];
    for (const event of log) {
      apply([event]);
      const kept = store.log.turn("s", "p");
      store.close();
      store = await open();
      expect(store.log.turn("s", "p").kind).toBe(kept.kind);
      store.log.turn("s", "p");
    }
    expect(store.log.turn("s", "p")).toMatchObject({ kind: "ended" });
    expect(store.log.hasReplySince("s", "p")).toBe(true);
  });
  test("what was rolled back is not known of it any more", () => {
    apply([{ id: "p", at: 1, type: "prompt", text: "hi" }]);
    expect(store.log.turn("s", "p").kind).toBe("running");
    const session = store.sessions.get("s");
    const broken = (): void =>
      store.db.transaction(() => {
        if (session) store.log.apply(session, [{ id: "i", at: 2, type: "idle", stop: { kind: "end_turn" } }], 1);
        throw new Error("disk full");
      });
    expect(broken).toThrow("disk full");
    expect(store.log.turn("s", "p").kind).toBe("running");
  });
});

test("rule 1: entries, replies, cursor and the settled row are one transaction", async () => {
  const rig = await createChatRig();
  try {
    const { db, log, inbox, outbox, counters } = rig.store;
    const id = rig.say("hi");
    rig.post(id, "p");
    const before = outbox.pending().count;
    db.exec(
      "CREATE TEMP TRIGGER full BEFORE INSERT ON outbox WHEN NEW.subject LIKE '%bad%' BEGIN SELECT RAISE(ABORT, 'disk full'); END",
    );
    const cursor = rig.store.sessions.active("self")?.cursor;
    const at = rig.now + 10;
    const settle = (): unknown =>
      rig.log([
        reply("good", "y", at),
        reply("bad", "x", at),
        { id: "i", at, type: "idle", stop: { kind: "end_turn" } },
      ]);
    const touchedBefore = rig.touched.length;
    expect(settle).toThrow("disk full");
    expect(outbox.pending().count).toBe(before);
    expect(log.events("s1").map((event) => event.id)).toEqual(["p"]);
    expect(rig.store.sessions.active("self")?.cursor).toBe(cursor);
    expect(inbox.head("self")[0]?.id).toBe(id);
    expect(counters.get("answered")).toBe(0);
    expect(rig.touched.length).toBe(touchedBefore);
    db.exec("DROP TRIGGER full");
    settle();
    expect(rig.texts()).toEqual(["y", "x"]);
    expect(inbox.head("self")).toEqual([]);
    expect(counters.get("answered")).toBe(1);
    expect(rig.touched.length).toBe(touchedBefore + 1);
  } finally {
    rig.close();
  }
});

describe("the sessions", () => {
  beforeEach(() => void store.sessions.create("s", chat, "sessions", {}, {}, 1));
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
    store.sessions.setStale("x7");
    const recent = store.sessions.get("x8");
    if (recent) store.log.apply(recent, [reply("r", "hi", 1)], 1000);
    store.posts.add("x9", "prompt", "7", null, 1);
    expect(
      store.sessions
        .toSync(500, 2)
        .map(({ id }) => id)
        .sort(),
    ).toEqual(["x0", "x7", "x8", "x9"]);
  });
  test("of one that is forgotten nothing stays, not even what was under way", () => {
    store.posts.add("s", "prompt", "7", null, 1);
    const session = store.sessions.get("s");
    if (session) store.log.apply(session, [reply("r", "hi", 1)], 1);
    store.files.note("s", [{ id: "t", at: 1, type: "tool_result", toolUseId: "u", isError: false }]);
    store.files.markDone("s", "f");
    forgetSession(store.db, "s");
    for (const table of ["sessions", "events", "posts", "files", "file_looks"])
      expect(store.db.all(`SELECT 1 FROM ${table}`)).toEqual([]);
  });
});
