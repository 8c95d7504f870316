/** Flat by design: no statement of the program reads a table that grows from end to end, whatever is stored. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Chat, Envelope } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import type { Database } from "../../src/store/database.ts";
import type { Files } from "../../src/store/files.ts";
import type { Inbox } from "../../src/store/inbox.ts";
import type { Outbox } from "../../src/store/outbox.ts";
import type { Sessions } from "../../src/store/sessions.ts";
import { openStore, type Settings, type Store } from "../../src/store/store.ts";
import { startRig } from "../native/mock.ts";

/** Arguments for every method: one that is added and not called here does not compile. */
type Calls<T> = { readonly [K in keyof T]-?: T[K] extends (...args: infer A) => unknown ? A : never };

const chat: Chat = { kind: "self" };
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

const inbox: Calls<Inbox> = {
  accept: ["key", "prompt", envelope, 1],
  openChats: [],
  head: ["self"],
  headToAsk: ["self"],
  headControl: ["self", 1],
  openPrompts: ["self"],
  get: [1],
  findBySentAt: ["self", "somebody", 1],
  markAsking: [1, "s", 1, "hi"],
  markAsked: [1, "s", "e"],
  markNew: [1],
  markWaiting: [1, 1],
  isAsking: [],
  markPending: [1],
  postpone: [1, 1, 1],
  hasten: ["pending", 1],
  markTold: [1, "code"],
  finish: [1, "answered", 1],
  mappedEventIds: ["s"],
  pending: [],
};
const outbox: Calls<Outbox> = {
  add: ["draft:1", chat, plainText("text"), 1],
  openChats: [],
  head: ["self"],
  byKey: ["key"],
  byTimestamp: [1],
  lastEdit: ["draft:1"],
  endDraft: ["stopped:1", "s", chat, "(stopped)", 1],
  openDraft: ["s"],
  addAnswer: ["answer", "s", chat, plainText("text"), 1],
  markSending: [1, 1],
  markSent: [1, 1, 1],
  markFailed: [1, "code", 1],
  requeue: [1, 1, 1, true],
  hasten: [1],
  recover: [],
  pending: [],
  supersede: [1, 1],
  supersedeAll: ["draft:1", 1, "key"],
};
const sessions: Calls<Sessions> = {
  create: ["s", chat, "scripted", {}, {}, 1],
  active: ["self"],
  get: ["s"],
  find: ["remote"],
  setRemote: ["s", "remote"],
  setContext: ["s", {}, {}],
  setSynced: ["s", null, 1],
  setStale: ["s", true],
  end: ["s"],
  resume: ["s"],
  apply: [
    "s",
    [
      { id: "a", at: 1, type: "running" },
      { id: "e", at: 2, type: "reply", text: "text" },
    ],
    1,
  ],
  events: ["s", "e"],
  hasReplySince: ["s", "e"],
  lastOfType: ["s", "usage"],
  list: [10],
  ofChat: ["self", 10],
  toSync: [1, 20],
  counts: [1],
};
const files: Calls<Files> = {
  note: ["s", [{ id: "r", at: 1, type: "tool_result", toolUseId: "t", isError: false }], 1],
  due: [],
  next: ["s"],
  markLooked: ["s", 1],
  postpone: ["s", 1],
  hasten: [1],
  isDone: ["s", "f"],
  markDone: ["s", "f"],
  giveUp: ["s"],
};
const settings: Calls<Settings> = { get: ["k"], set: ["k", "v"], remove: ["k"], count: ["sent", 1], counter: ["sent"] };

/** What may be read whole, and why that stays small. The index is part of it where there is one. */
const allowed: readonly (readonly [plan: RegExp, why: string])[] = [
  [/SCAN inbox USING (COVERING )?INDEX inbox_(open|prompts|controls|session)\b/u, "open rows only"],
  [/SCAN outbox USING (COVERING )?INDEX outbox_open\b/u, "open rows only"],
  [
    /SCAN sessions USING (COVERING )?INDEX sessions_(active|used|synced|stale)\b/u,
    "one row per chat: for /status, and bounded by a LIMIT",
  ],
  [
    /SCAN file_looks USING (COVERING )?INDEX file_looks_due\b/u,
    "what is due only: at most the sessions of the last seconds",
  ],
  [/SCAN sessions$/u, "one row per conversation: `sessions list`, run by a person"],
  [/SCAN signal_(account|own|pending_link)\b/u, "one or two rows"],
  [/SCAN (json_each|entry) VIRTUAL TABLE/u, "what was handed in"],
  [/SCAN \(subquery|SCAN \d+ CONSTANT|SCAN (CONSTANT|SUBQUERY)/u, "not a table"],
];

/** Notes each statement that passes. */
function listen(db: Database, heard: Set<string>): void {
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

function callAll<T extends object>(part: T, calls: Calls<T>): void {
  for (const [name, args] of Object.entries(calls) as [keyof T, never[]][])
    (part[name] as unknown as (...given: never[]) => unknown)(...args);
}

test("every statement of the store finds its rows by an index, or reads only what is open", async () => {
  const home = mkdtempSync(join(tmpdir(), "signalman-plan-"));
  const store: Store = await openStore(home, { render: (text) => [plainText(text)], isExclusive: false });
  const heard = new Set<string>();
  listen(store.db, heard);
  callAll(store.sessions, sessions);
  callAll(store.inbox, inbox);
  callAll(store.outbox, outbox);
  callAll(store.files, files);
  callAll(store.settings, settings);
  store.prune(1);
  expect(heard.size).toBeGreaterThan(50);
  expect(scans(store.db, heard)).toEqual([]);
  store.close();
  rmSync(home, { recursive: true });
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
