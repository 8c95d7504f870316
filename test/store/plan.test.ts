/** Flat by design: no statement of the program reads a table that grows from end to end, whatever is stored. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BridgeError, toFault } from "../../src/core/errors.ts";
import type { Chat, Envelope, Session } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import type { Database } from "../../src/store/database.ts";
import type { Files } from "../../src/store/files.ts";
import type { Usage } from "../../src/store/usage.ts";
import type { Inbox } from "../../src/store/inbox.ts";
import type { EventLog } from "../../src/store/event-log.ts";
import type { Drafts } from "../../src/store/drafts.ts";
import type { Outbox } from "../../src/store/outbox.ts";
import type { Posts } from "../../src/store/posts.ts";
import type { Sessions } from "../../src/store/sessions.ts";
import { forgetSession } from "../../src/store/forgetting.ts";
import type { Counters } from "../../src/store/counters.ts";
import type { Settings } from "../../src/store/remembered.ts";
import type { Reminders } from "../../src/store/scheduled.ts";
import { openStore, type Store } from "../../src/store/store.ts";
import { createChatRig, noteOf, textContent } from "../doubles/chats.ts";
import { startRig } from "../native/mock.ts";

/** Arguments for every method: one that is added and not called here does not compile. */
type Calls<T> = { readonly [K in keyof T]-?: T[K] extends (...args: infer A) => unknown ? A : never };

const chat: Chat = { kind: "self" };
const targetAuthor = { aci: "a", number: null };
const content = { kind: "delete", targetSentAt: 1 } as const;
const envelope: Envelope = {
  source: null,
  sourceDevice: 1,
  sentAt: 1,
  serverAt: 1,
  chat,
  isOwn: true,
  sourceName: null,
  content,
};

const request = { kind: "prompt", text: "hi", files: [] } as const;
const inbox: Calls<Inbox> = {
  accept: ["key", "prompt", envelope, 1],
  get: [1],
  head: ["self"],
  openPrompts: ["self"],
  waiting: ["self"],
  named: ["self", 1],
  openChats: [],
  lastEnded: ["self"],
  ended: ["self", 1],
  open: [1, envelope, [1]],
  markTold: [1, "code"],
  finish: [1, "answered", 1],
  pending: [],
};
const posts: Calls<Posts> = {
  add: ["s", "prompt", "1", null, 1],
  get: [1],
  ofPrompt: [1, "s"],
  ofChat: ["self"],
  open: ["s"],
  dueSessions: [],
  isWaiting: [],
  isOpen: [1, "s"],
  openOne: [1],
  lastAsked: ["s"],
  isConfirmed: ["t"],
  markPosting: [1, 1, request],
  begin: ["s", [1]],
  end: ["s"],
  markPosted: [1, "e"],
  setWaiting: [1, true],
  again: [1, "s", true, { died: 1 }],
  setTries: [1, { busy: 1 }],
  markQueued: [1],
  finish: [1],
  reopen: [1, { answer: 1 }],
  finishPrompt: [1],
  mappedEventIds: ["s"],
};
const drafts: Calls<Drafts> = {
  addDraft: [1, chat, { text: "text", styles: [] }, 1],
  addAnswer: ["reply", { sessionId: "s", id: "e" }, 0, 1, chat, plainText("text"), 1],
  expect: [1],
  endDraft: [1, chat, "(stopped)", 1],
};
const outbox: Calls<Outbox> = {
  add: ["draft", "1", 0, chat, plainText("text"), 1],
  addMark: [1, "done", chat, { kind: "reaction", emoji: "", targetAuthor, targetSentAt: 1, isRemove: false }, 1],
  supersede: [1, 1],
  openChats: [],
  chatsWithMarks: [],
  nextMark: ["self"],
  head: ["self"],
  of: ["reply", { sessionId: "s", id: "e" }],
  questions: ["s"],
  faultOf: ["send", "hello"],
  has: ["slow", "1"],
  isSaid: [1],
  byTimestamp: [1],
  lastEdit: ["1"],
  markSending: [1, 1],
  markSent: [1, 1, 1],
  markShown: [{ id: 1, chatKey: "self", subject: "1", part: 0 }, 1, 1],
  markFailed: [1, "code", 1],
  requeue: [1, 1, true],
  recover: [],
  pending: [],
};
const sessions: Calls<Sessions> = {
  create: ["s", chat, "scripted", {}, {}, 1],
  active: ["self"],
  lastOfProject: ["self", null],
  get: ["s"],
  find: ["remote"],
  setRemote: ["s", "remote"],
  setContext: ["s", {}, {}],
  setSynced: ["s", null, 1],
  setStale: ["s"],
  end: ["s"],
  resume: ["s"],
  list: [10],
  ofChat: ["self", 10],
  toSync: [1, 20],
  counts: [1],
};
const session = { id: "s", cursor: 2, remoteId: "remote" } as unknown as Session;
const log: Calls<EventLog> = {
  apply: [
    session,
    [
      { id: "p", at: null, type: "prompt", text: "hi" },
      { id: "a", at: 1, type: "running" },
      { id: "e", at: 2, type: "reply", text: "text" },
    ],
    1,
  ],
  events: ["s", "e"],
  newestFirst: ["s"],
  arrivals: ["s", "e"],
  stopsBefore: ["s", 1],
  hasReplySince: ["s", "e"],
  turn: ["s", "p"],
  open: ["s"],
  at: ["s", "e"],
  renamed: ["s", "title"],
  answerable: ["s", ["t"]],
  isAnswered: ["s", "t"],
  lastOfType: ["s", "usage"],
};
const usage: Calls<Usage> = {
  ofSession: ["s"],
  between: ["2026-11-01", "2026-11-30", "p"],
  add: [
    "s",
    "2026-11-30",
    "p",
    { id: "u", at: 1, type: "usage", inputTokens: 1, outputTokens: 1, costCents: 1, isTotal: true },
  ],
};
const files: Calls<Files> = {
  note: ["s", [{ id: "r", at: 1, type: "tool_result", toolUseId: "t", isError: false }]],
  due: [],
  looks: ["s"],
  markLooked: ["s"],
  isDone: ["s", "f"],
  markDone: ["s", "f"],
  giveUp: ["s"],
};
const settings: Calls<Settings> = {
  get: ["device_tag"],
  set: ["device_tag", "v"],
  remove: ["device_tag"],
  idsOf: ["timer"],
};
const counters: Calls<Counters> = {
  add: [{ sent: 1 }],
  get: ["sent"],
};

const reminders: Calls<Reminders> = {
  add: [
    { kind: "reminder", text: "text", rule: null, timeZone: "UTC", dueAt: 1 },
    { chat, source: targetAuthor, number: 1 },
    1,
  ],
  ofChat: ["self"],
  countOf: ["a"],
  due: [1, 20],
  move: [1, 2],
  remove: [1],
};

/** What may be read whole, and why that stays small. The index is part of it where there is one. */
const allowed: readonly (readonly [plan: RegExp, why: string])[] = [
  [/SCAN inbox USING (COVERING )?INDEX inbox_open\b/u, "open rows only"],
  [/SCAN posts USING (COVERING )?INDEX posts_open\b/u, "open rows only"],
  [/SCAN outbox USING (COVERING )?INDEX outbox_open\b/u, "open rows only"],
  [
    /SCAN sessions USING (COVERING )?INDEX sessions_(active|used|synced|stale)\b/u,
    "one row per chat: for /status, and bounded by a LIMIT",
  ],
  [/SCAN file_looks$/u, "what is due only: at most the sessions of the last seconds"],
  [/SCAN sessions$/u, "one row per conversation: `sessions list`, run by a person"],
  [/SCAN signal_(account|own|pending_link)\b/u, "one or two rows"],
  [/SCAN (json_each|entry) VIRTUAL TABLE/u, "what was handed in"],
  [/SCAN free$/u, "timestamps that are taken, one after the other: one as a rule"],
  [/SCAN \(subquery|SCAN \d+ CONSTANT|SCAN (CONSTANT|SUBQUERY)/u, "not a table"],
];

/** Notes each statement that passes. */
function listen(db: Database, heard: { add(sql: string): unknown }): void {
  const { run, get, all } = db;
  db.run = (sql, ...params) => (heard.add(sql), run(sql, ...params));
  db.get = (sql, ...params) => (heard.add(sql), get(sql, ...params));
  db.all = (sql, ...params) => (heard.add(sql), all(sql, ...params));
}

function scans(db: Database, statements: Iterable<string>): string[] {
  return [...statements].flatMap((sql) =>
    db
      .all<{ detail: string }>(`EXPLAIN QUERY PLAN ${sql}`)
      .map(({ detail }) => detail)
      .filter((detail) => detail.includes("SCAN") && !allowed.some(([plan]) => plan.test(detail)))
      .map((detail) => `${detail}: ${sql.replaceAll(/\s+/gu, " ")}`),
  );
}

/** Generators begin when they are read. */
function callAll<T extends object>(part: T, calls: Calls<T>): void {
  for (const [name, args] of Object.entries(calls) as [keyof T, never[]][])
    for (const _ of [(part[name] as unknown as (...given: never[]) => unknown)(...args)].flatMap(toList)) continue;
}

const toList = (result: unknown): unknown[] =>
  typeof result === "object" && result !== null && Symbol.iterator in result ? [...(result as Iterable<unknown>)] : [];

test("every statement of the store finds its rows by an index, or reads only what is open", async () => {
  const home = mkdtempSync(join(tmpdir(), "signalman-plan-"));
  const store: Store = await openStore(home, { isExclusive: false });
  const heard = new Set<string>();
  listen(store.db, heard);
  callAll(store.sessions, sessions);
  callAll(store.inbox, inbox);
  callAll(store.posts, posts);
  callAll(store.log, log);
  callAll(store.outbox, outbox);
  callAll(store.drafts, drafts);
  callAll(store.files, files);
  callAll(store.usage, usage);
  store.usage.between("2026-11-01", "2026-11-30", null);
  callAll(store.settings, settings);
  callAll(store.counters, counters);
  callAll(store.reminders, reminders);
  store.prune(1);
  forgetSession(store.db, "s");
  store.db.run("INSERT INTO settings (key, value) VALUES ('timer:self', '60') ON CONFLICT DO NOTHING");
  store.forget(1);
  expect(heard.size).toBeGreaterThan(50);
  expect(scans(store.db, [...heard])).toEqual([]);
  // A page of the log begins where the one before ended, and not again at the newest.
  const pages = [...heard].filter((sql) =>
    /^\s*SELECT at, seq, body FROM events\s+WHERE.*ORDER BY at DESC, seq DESC LIMIT/su.test(sql),
  );
  expect(pages).toHaveLength(1);
  expect(store.db.all(`EXPLAIN QUERY PLAN ${pages[0]}`, "s", 1, 1, 1)).toMatchObject([
    { detail: "SEARCH events USING INDEX events_order (session_id=? AND at<?)" },
  ]);
  store.close();
  rmSync(home, { recursive: true });
});

/** The statements of each part of one exchange with everything that a chat can bring, on a chat with `before` exchanges. */
async function exchange(
  before: number,
): Promise<{ readonly counts: Record<string, number>; readonly scans: string[] }> {
  const rig = await createChatRig({ isChecked: false });
  const heard = new Set<string>();
  let count = 0;
  const play = (note: (part: string) => void): void => {
    const sentAt = ++rig.now;
    const id = rig.say("question", sentAt);
    note("a prompt");
    const later = rig.say("another", ++rig.now);
    note("a prompt behind it");
    rig.post(id, `p${id}`);
    note("its post and echo");
    const at = ++rig.now;
    rig.log([
      { id: `t${id}`, at, type: "tool_use", name: "bash", input: { command: "make" }, isAsk: true, isLocal: false },
      { id: `w${id}`, at, type: "idle", stop: { kind: "requires_action", eventIds: [`t${id}`] } },
    ]);
    note("a question");
    const ask = rig.store.outbox.of("ask", { sessionId: "s1", id: `t${id}` })[0];
    rig.store.outbox.markSending(ask?.id ?? 0, rig.now);
    rig.store.outbox.markSent(ask?.id ?? 0, ask?.timestamp ?? 0, rig.now);
    rig.say("yes", (ask?.timestamp ?? 0) + 1_000);
    rig.now += 2_000;
    note("a yes");
    rig.log([
      { id: `y${id}`, at: ++rig.now, type: "confirmation", toolUseId: `t${id}`, isAllowed: true },
      { id: `r${id}`, at: ++rig.now, type: "reply", text: "answer" },
      { id: `i${id}`, at: ++rig.now, type: "idle", stop: { kind: "end_turn" } },
    ]);
    note("an answer, and the next is posted");
    rig.take(noteOf({ kind: "edit", targetSentAt: sentAt, body: textContent("question") }, ++rig.now));
    note("an edit of what was answered");
    rig.settle({
      type: "failed",
      id: later,
      fault: toFault(new BridgeError("claude_overloaded", "x")),
      hasSpoken: false,
      isLost: false,
    });
    note("a failure");
    rig.say("/status", ++rig.now);
    note("a command");
    rig.take(noteOf({ kind: "delete", targetSentAt: rig.store.inbox.get(later)?.envelope.sentAt ?? 0 }, ++rig.now));
    note("a deletion");
    for (const post of rig.store.posts.open("s1")) rig.store.posts.finish(post.id);
    for (let sent = rig.store.outbox.head("self"); sent; sent = rig.store.outbox.head("self")) {
      rig.store.outbox.markSending(sent.id, rig.now);
      rig.store.outbox.markSent(sent.id, rig.now, rig.now);
    }
    note("sending");
  };
  try {
    rig.store.db.transaction(() => Array.from({ length: before }, () => play(() => undefined)));
    const counts: Record<string, number> = {};
    const { db } = rig.store;
    listen(db, { add: (sql) => (heard.add(sql), count++) });
    play((part) => {
      counts[part] = count;
      count = 0;
    });
    return { counts, scans: scans(db, heard) };
  } finally {
    rig.close();
  }
}

test("what a message costs in statements is bounded, and the same after years", async () => {
  const [fresh, old] = [await exchange(1), await exchange(200)];
  expect(old.scans).toEqual([]);
  expect(old.counts).toEqual(fresh.counts);
  for (const [part, count] of Object.entries(fresh.counts)) expect([part, count <= 25]).toEqual([part, true]);
});

test("linking, receiving and sending natively reads no key table from end to end", async () => {
  const heard = new Set<string>();
  const rig = await startRig({ wrap: (db) => (listen(db, heard), db) });
  // Linking replaces all keys, and the daily clean-up removes old ones: only what a message costs must be flat.
  heard.clear();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: Date.now() }));
  await rig.send(rig.direct, "hello yourself");
  await rig.contact.waitForMessage();
  expect(heard.size).toBeGreaterThan(10);
  expect(scans(rig.database, heard)).toEqual([]);
  await rig.stop();
});
