/** What is kept for how long: months of exchanges, pruned once a day, on both backends. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toHistory } from "../../src/claude/history.ts";
import type { Envelope, SessionEvent } from "../../src/core/model.ts";
import { plainText } from "../../src/core/reply.ts";
import { pruneMax } from "../../src/store/retention.ts";
import { openStore, type Store } from "../../src/store/store.ts";

const dayMs = 86_400_000;
const retentionMs = 30 * dayMs;
const perDay = 20;
const chat = { kind: "self" } as const;
const source = { aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", number: null };
const envelopeOf = (sentAt: number): Envelope => ({
  source,
  sourceDevice: 1,
  sentAt,
  serverAt: null,
  chat,
  isOwn: true,
  sourceName: null,
  content: { kind: "empty", what: "test" },
});

let home: string;
let store: Store;
beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-keep-"));
  store = await openStore(home, { isExclusive: false });
  store.db.exec("PRAGMA synchronous = OFF");
});
afterEach(() => {
  store.close();
  rmSync(home, { recursive: true });
});

const count = (table: string): number => store.db.get<{ n: number }>(`SELECT count(*) AS n FROM ${table}`)?.n ?? 0;
const pages = (): number => store.db.get<{ page_count: number }>("PRAGMA page_count")?.page_count ?? 0;

const apply = (events: readonly SessionEvent[], at: number): SessionEvent[] => {
  const session = store.sessions.get("s");
  if (session === null) throw new Error("There is no session");
  return store.log.apply(session, events, at);
};

/** A prompt of which an entry of the log is known. */
function ask(key: string, at: number, eventId: string): number {
  const inboxId = store.inbox.accept(key, "prompt", envelopeOf(at), at);
  if (inboxId === null) throw new Error("nothing was accepted");
  store.posts.add("s", "prompt", String(inboxId), null, at);
  store.posts.markPosted(store.posts.ofPrompt(inboxId)?.id ?? 0, eventId);
  return inboxId;
}

/** One message with its answer, about the size of a real one. */
function exchange(at: number, textBytes = 600): SessionEvent[] {
  const id = `e${at}`;
  const events: SessionEvent[] = [
    { id: `${id}:prompt`, at, type: "prompt", text: `question ${at} ${"?".repeat(textBytes)}` },
    { id: `${id}:running`, at, type: "running" },
    { id: `${id}:reply`, at: at + 1, type: "reply", text: `answer ${at} ${"!".repeat(textBytes)}` },
    { id: `${id}:usage`, at: at + 1, type: "usage", inputTokens: at, outputTokens: 1, costCents: null, isTotal: true },
    { id: `${id}:idle`, at: at + 2, type: "idle", stop: { kind: "end_turn" } },
  ];
  const inboxId = ask(`k${at}`, at, `${id}:prompt`);
  apply(events, at);
  store.outbox.add(
    "reply",
    { sessionId: "s", id: `${id}:reply` },
    0,
    chat,
    plainText(`answer ${at} ${"!".repeat(textBytes)}`),
    at,
  );
  store.inbox.finish(inboxId, "answered", at + 2);
  store.posts.finishPrompt(inboxId);
  for (let sent = store.outbox.head("self"); sent; sent = store.outbox.head("self"))
    store.outbox.markSent(sent.id, at + 3, at + 3);
  return events;
}

/** Pages in use at the end of each month. */
function live(months: number, textBytes?: number): number[] {
  const sizes: number[] = [];
  for (let day = 1; day <= months * 30; day++) {
    store.db.transaction(() => {
      for (let n = 0; n < perDay; n++) exchange(day * dayMs + n * 60_000, textBytes);
    });
    store.prune((day + 1) * dayMs - retentionMs);
    if (day % 30 === 0) sizes.push(pages());
  }
  return sizes;
}

test("with the log at Claude, months later the file is as large as after two", () => {
  store.sessions.create("s", chat, "sessions", {}, {}, 1);
  store.sessions.setRemote("s", "remote");
  const sizes = live(5);
  expect(sizes.at(-1)).toBeLessThan((sizes[1] ?? 0) * 1.05);
  expect(count("events")).toBeLessThanOrEqual(31 * perDay * 5);
  for (const table of ["inbox", "posts", "outbox"]) expect(count(table)).toBeLessThanOrEqual(31 * perDay);
  expect(count("sessions")).toBe(1);
});

test("what was pruned is not news when a listing shows it again, and the usage is still known", () => {
  store.sessions.create("s", chat, "sessions", {}, {}, 1);
  store.sessions.setRemote("s", "remote");
  const old = exchange(1);
  live(2);
  const last = exchange(100 * dayMs);
  expect(store.prune(99 * dayMs)).toBeGreaterThan(0);
  expect(store.outbox.of("reply", { sessionId: "s", id: old[2]?.id ?? "" })).toEqual([]);
  expect(apply([...old, ...last], 101 * dayMs)).toEqual([]);
  expect(store.outbox.pending().count).toBe(0);
  expect(store.log.lastOfType("s", "usage")).toMatchObject({ inputTokens: 100 * dayMs });
});

test("while a prompt is open, nothing of its session goes, however old", () => {
  store.sessions.create("s", chat, "sessions", {}, {}, 1);
  store.sessions.setRemote("s", "remote");
  live(2);
  const before = count("events");
  ask("open", 1, `e${31 * dayMs}:prompt`);
  store.prune(1_000 * dayMs);
  expect(count("events")).toBe(before);
  expect(store.log.hasReplySince("s", `e${31 * dayMs}:prompt`)).toBe(true);
});

test("with the log here alone, what the token budget can use stays while it is used, and what lies far beyond it goes", () => {
  store.sessions.create("s", chat, "messages", {}, {}, 1);
  const rare = exchange(1);
  exchange(1_000 * dayMs);
  store.prune(999 * dayMs);
  expect(count("events")).toBe(2 * rare.length);
  store.db.run("DELETE FROM events WHERE at > 2");
  const sizes = live(5, 3_000);
  expect(sizes.at(-1)).toBeLessThan((sizes[2] ?? 0) * 1.05);
  const messages = (log: readonly SessionEvent[]) => toHistory(log.toReversed(), "claude-test", 100_000).messages;
  const all = store.log.events("s");
  store.prune(1_000 * dayMs);
  const kept = store.log.events("s");
  expect(kept.length).toBeLessThan(all.length);
  // The beginning of what is sent moves in steps; but for those it is the same.
  const [full, pruned] = [messages(all), messages(kept)];
  expect(Math.abs(full.length - pruned.length)).toBeLessThanOrEqual(8);
  expect(pruned.at(-1)).toEqual(full.at(-1));
}, 30_000);

test("a conversation that was not used for so long is deleted, here and at Claude; what was chosen for the chat stays", () => {
  store.sessions.create("s", chat, "sessions", { model: "claude-test", title: "the plan" }, {}, 1);
  store.sessions.setRemote("s", "remote");
  exchange(1);
  exchange(dayMs);
  store.prune(dayMs);
  expect(count("sessions")).toBe(1);
  store.prune(dayMs + 1);
  for (const table of ["sessions", "events", "posts"]) expect(count(table)).toBe(0);
  expect(store.settings.idsOf("forget")).toEqual(["remote"]);
  expect(store.settings.get("chosen:self")).toBe('{"model":"claude-test"}');
});

test("no id of the inbox is given twice, though every row of it is old", () => {
  const first = store.inbox.accept("a", "command", envelopeOf(1), 1) ?? 0;
  store.inbox.finish(first, "answered", 2);
  store.prune(999 * dayMs);
  const second = store.inbox.accept("b", "command", envelopeOf(2), 3) ?? 0;
  expect(second).toBeGreaterThan(first);
  store.prune(999 * dayMs);
  expect(count("inbox")).toBe(1);
});

test("a log of months goes in parts, the oldest first, so that nothing waits long for one", () => {
  store.sessions.create("s", chat, "messages", {}, {}, 1_000 * dayMs);
  store.sessions.create("unused", { kind: "group", id: "g" }, "messages", {}, {}, 1);
  const entry = (seq: number): SessionEvent => ({ id: `e${seq}`, at: seq, type: "reply", text: "x".repeat(2_000) });
  const entries = Array.from({ length: 3 * pruneMax }, (_, seq) => entry(seq + 1));
  store.db.transaction(() => apply(entries, 1));
  const unused = store.sessions.get("unused");
  if (unused !== null) store.log.apply(unused, entries, 1);
  const oldest = (): number => store.db.get<{ at: number }>("SELECT min(at) AS at FROM events")?.at ?? 0;
  for (const left of [5, 4, 3]) {
    expect(store.prune(999 * dayMs)).toBe(pruneMax);
    expect(count("events")).toBe(left * pruneMax);
  }
  while (store.prune(999 * dayMs) >= pruneMax);
  // What the budget can use, of the one that is used.
  expect(count("events")).toBeLessThan(pruneMax);
  expect([count("sessions"), oldest()]).toEqual([1, 3 * pruneMax - count("events") + 1]);
});
