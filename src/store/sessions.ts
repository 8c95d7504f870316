/**
 * Conversations with Claude and their event logs. One active session per chat; ended ones stay readable.
 *
 * `apply` is the heart of "answered once": events are upserted by id, a reply that is new becomes outbox rows, the cursor
 * moves, and (where the caller says so) the inbox row is settled: all in one transaction. Stream, listing and a second look
 * after a crash all come through here, in any order and any number of times.
 */
import type { Chat, Context, Millis, OutboundBody, SessionEvent } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { Database } from "./database.ts";
import type { Inbox, Outcome } from "./inbox.ts";
import type { Outbox } from "./outbox.ts";

export type Stamps = { readonly [key: string]: string };

export type Session = {
  /** Ours: random, says nothing about a person. */
  readonly id: string;
  readonly chatKey: string;
  readonly chat: Chat;
  readonly backend: string;
  readonly remoteId: string | null;
  readonly state: "active" | "ended";
  readonly context: Context;
  readonly stamps: Stamps;
  readonly cursor: Millis | null;
  readonly remoteUpdatedAt: string | null;
  readonly isStale: boolean;
  readonly createdAt: Millis;
  readonly usedAt: Millis;
  readonly syncedAt: Millis;
};

type Raw = {
  id: string;
  chat_key: string;
  chat: string;
  backend: string;
  remote_id: string | null;
  state: Session["state"];
  context: string;
  stamps: string;
  cursor: number | null;
  remote_updated_at: string | null;
  is_stale: number;
  created_at: number;
  used_at: number;
  synced_at: number;
};

export type Settlement = { readonly inboxId: number; readonly outcome: Outcome };
export type Applied = { readonly added: readonly SessionEvent[]; readonly replies: number };

export interface Sessions {
  active(chatKey: string): Session | null;
  get(id: string): Session | null;
  /** By our id or the remote one. */
  find(id: string): Session | null;
  create(id: string, chat: Chat, backend: string, context: Context, stamps: Stamps, now: Millis): Session;
  setRemote(id: string, remoteId: string): void;
  setContext(id: string, context: Context, stamps: Stamps): void;
  setSynced(id: string, remoteUpdatedAt: string | null, now: Millis): void;
  setStale(id: string, isStale: boolean): void;
  touch(id: string, now: Millis): void;
  end(id: string): void;
  /** Makes an ended session the active one of its chat again, ending the one that was. */
  resume(id: string): void;
  apply(id: string, events: readonly SessionEvent[], now: Millis, settle?: Settlement): Applied;
  /** The log in the order Claude saw it, queued entries last; from an entry on, or all of it. */
  events(id: string, fromEventId?: string): SessionEvent[];
  /** Claude has said something after this prompt. */
  hasReplySince(id: string, promptEventId: string): boolean;
  /** The newest entry of a type. */
  lastOfType(id: string, type: SessionEvent["type"]): SessionEvent | null;
  /** Newest first, at most `max`. */
  list(max: number): Session[];
  ofChat(chatKey: string, max: number): Session[];
  /**
   * Sessions to read in a sync: all that are stale, have an open prompt, or were used since `recentSince`; and of the rest
   * the `sweepMax` that were not read for longest.
   */
  toSync(recentSince: Millis, sweepMax: number): Session[];
  counts(recentSince: Millis): { readonly total: number; readonly active: number; readonly stale: number };
}

const columns =
  "id, chat_key, chat, backend, remote_id, state, context, stamps, cursor, remote_updated_at, is_stale, created_at, used_at, synced_at";

export type SessionDeps = {
  readonly inbox: Inbox;
  readonly outbox: Outbox;
  /** Called inside the transaction that settles a row or adds an event; counts, never decides. */
  readonly onSettled: (outcome: Outcome) => void;
  /** How a reply looks on the phone: one body per message. */
  readonly render: (text: string) => readonly OutboundBody[];
};

export function createSessions(db: Database, deps: SessionDeps): Sessions {
  const reads = createReads(db);
  const need = (id: string): Session => {
    const session = reads.get(id);
    if (!session) throw new Error(`No session ${id} in the database`);
    return session;
  };
  return {
    ...reads,
    create(id, chat, backend, context, stamps, now) {
      db.run(
        `INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at) VALUES (?, ?, ?, ?, 'active', ?, ?, ?, ?)`,
        id,
        chatKey(chat),
        JSON.stringify(chat),
        backend,
        JSON.stringify(context),
        JSON.stringify(stamps),
        now,
        now,
      );
      return need(id);
    },
    setRemote: (id, remoteId) => void db.run("UPDATE sessions SET remote_id = ? WHERE id = ?", remoteId, id),
    setContext: (id, context, stamps) =>
      void db.run(
        "UPDATE sessions SET context = ?, stamps = ? WHERE id = ?",
        JSON.stringify(context),
        JSON.stringify(stamps),
        id,
      ),
    setSynced: (id, remoteUpdatedAt, now) =>
      void db.run(
        "UPDATE sessions SET remote_updated_at = ?, synced_at = ?, is_stale = 0 WHERE id = ?",
        remoteUpdatedAt,
        now,
        id,
      ),
    setStale: (id, isStale) => void db.run("UPDATE sessions SET is_stale = ? WHERE id = ?", isStale ? 1 : 0, id),
    touch: (id, now) => void db.run("UPDATE sessions SET used_at = ? WHERE id = ?", now, id),
    end: (id) => void db.run("UPDATE sessions SET state = 'ended', is_stale = 0 WHERE id = ?", id),
    resume: (id) =>
      db.transaction(() => {
        const session = need(id);
        db.run("UPDATE sessions SET state = 'ended' WHERE chat_key = ? AND state = 'active'", session.chatKey);
        db.run("UPDATE sessions SET state = 'active' WHERE id = ?", id);
      }),
    apply: (id, events, now, settle) => db.transaction(() => applyEvents(db, deps, need(id), events, now, settle)),
  };
}

type RawEvent = { readonly at: number | null; readonly body: string };
type Reads = Pick<
  Sessions,
  "get" | "active" | "find" | "events" | "hasReplySince" | "lastOfType" | "list" | "ofChat" | "toSync" | "counts"
>;

function createReads(db: Database): Reads {
  const one = (sql: string, ...params: (string | number)[]): Session | null => {
    const raw = db.get<Raw>(sql, ...params);
    return raw ? toSession(raw) : null;
  };
  const many = (sql: string, ...params: (string | number)[]): Session[] => db.all<Raw>(sql, ...params).map(toSession);
  const get = (id: string): Session | null => one(`SELECT ${columns} FROM sessions WHERE id = ?`, id);
  const processedAt = (id: string, eventId: string): Millis | null =>
    db.get<{ at: number | null }>("SELECT at FROM events WHERE session_id = ? AND id = ?", id, eventId)?.at ?? null;
  return {
    get,
    active: (chatKey) => one(`SELECT ${columns} FROM sessions WHERE chat_key = ? AND state = 'active'`, chatKey),
    find: (id) => get(id) ?? one(`SELECT ${columns} FROM sessions WHERE remote_id = ?`, id),
    events(id, fromEventId) {
      const select = "SELECT at, body FROM events WHERE session_id = ? AND";
      const since = fromEventId === undefined ? 0 : (processedAt(id, fromEventId) ?? Number.MAX_SAFE_INTEGER);
      const processed = db.all<RawEvent>(`${select} at >= ? ORDER BY at, seq`, id, since);
      const queued = db.all<RawEvent>(`${select} at IS NULL ORDER BY seq`, id);
      return [...processed, ...queued].map(({ at, body }) => ({ ...(JSON.parse(body) as SessionEvent), at }));
    },
    hasReplySince: (id, promptEventId) =>
      db.get(
        `SELECT 1 FROM events AS reply JOIN events AS prompt ON prompt.session_id = reply.session_id
         WHERE prompt.session_id = ? AND prompt.id = ? AND reply.type = 'reply'
         AND (reply.at > prompt.at OR (reply.at = prompt.at AND reply.seq > prompt.seq)) LIMIT 1`,
        id,
        promptEventId,
      ) !== undefined,
    lastOfType(id, type) {
      const row = db.get<{ body: string }>(
        "SELECT body FROM events WHERE session_id = ? AND type = ? ORDER BY at DESC LIMIT 1",
        id,
        type,
      );
      return row ? (JSON.parse(row.body) as SessionEvent) : null;
    },
    list: (max) => many(`SELECT ${columns} FROM sessions ORDER BY used_at DESC LIMIT ?`, max),
    ofChat: (chatKey, max) =>
      many(`SELECT ${columns} FROM sessions WHERE chat_key = ? ORDER BY used_at DESC LIMIT ?`, chatKey, max),
    toSync: (recentSince, sweepMax) =>
      many(
        `SELECT ${columns} FROM sessions WHERE state = 'active' AND remote_id IS NOT NULL AND id IN (
           SELECT id FROM sessions WHERE state = 'active' AND is_stale = 1
           UNION SELECT session_id FROM inbox WHERE state <> 'done' AND session_id IS NOT NULL
           UNION SELECT id FROM sessions WHERE state = 'active' AND used_at >= ?
           UNION SELECT id FROM (SELECT id FROM sessions WHERE state = 'active' ORDER BY synced_at LIMIT ?)
         )`,
        recentSince,
        sweepMax,
      ),
    counts: (recentSince) =>
      db.get<{ total: number; active: number; stale: number }>(
        `SELECT count(*) AS total, coalesce(sum(used_at >= ?), 0) AS active, coalesce(sum(is_stale), 0) AS stale
         FROM sessions WHERE state = 'active'`,
        recentSince,
      ) ?? { total: 0, active: 0, stale: 0 },
  };
}

function applyEvents(
  db: Database,
  deps: SessionDeps,
  session: Session,
  events: readonly SessionEvent[],
  now: Millis,
  settle: Settlement | undefined,
): Applied {
  const added: SessionEvent[] = [];
  let replies = 0;
  let cursor = session.cursor ?? 0;
  const known = knownIds(db, session.id, events);
  for (const event of events) {
    cursor = Math.max(cursor, event.at ?? 0);
    if (known.has(event.id) || !upsert(db, session.id, event)) continue;
    added.push(event);
    if (event.type !== "reply") continue;
    const bodies = deps.render(event.text);
    for (const [part, body] of bodies.entries())
      deps.outbox.addAnswer(`reply:${session.id}:${event.id}:${part}`, session.id, session.chat, body, now);
    replies++;
  }
  if (added.length > 0 || cursor !== (session.cursor ?? 0))
    db.run("UPDATE sessions SET cursor = ?, used_at = max(used_at, ?) WHERE id = ?", cursor, now, session.id);
  if (settle) {
    deps.inbox.finish(settle.inboxId, settle.outcome, now);
    deps.onSettled(settle.outcome);
  }
  return { added, replies };
}

/** Of a listing most is stored already, for it looks back beyond the cursor: one query tells which entries never change again. */
function knownIds(db: Database, sessionId: string, events: readonly SessionEvent[]): ReadonlySet<string> {
  if (events.length < 2) return new Set();
  const since = Math.min(...events.map(({ at }) => at ?? Number.MAX_SAFE_INTEGER));
  const rows = db.all<{ id: string }>("SELECT id FROM events WHERE session_id = ? AND at >= ?", sessionId, since);
  return new Set(rows.map(({ id }) => id));
}

/** True when the id is new. A known one only ever goes from queued to processed. */
function upsert(db: Database, sessionId: string, event: SessionEvent): boolean {
  const isNew =
    db.run(
      "INSERT INTO events (session_id, id, type, at, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (session_id, id) DO NOTHING",
      sessionId,
      event.id,
      event.type,
      event.at,
      JSON.stringify(event),
    ).changes > 0;
  if (!isNew && event.at !== null)
    db.run("UPDATE events SET at = ? WHERE session_id = ? AND id = ? AND at IS NULL", event.at, sessionId, event.id);
  return isNew;
}

function toSession(raw: Raw): Session {
  return {
    id: raw.id,
    chatKey: raw.chat_key,
    chat: JSON.parse(raw.chat) as Chat,
    backend: raw.backend,
    remoteId: raw.remote_id,
    state: raw.state,
    context: JSON.parse(raw.context) as Context,
    stamps: JSON.parse(raw.stamps) as Stamps,
    cursor: raw.cursor,
    remoteUpdatedAt: raw.remote_updated_at,
    isStale: raw.is_stale === 1,
    createdAt: raw.created_at,
    usedAt: raw.used_at,
    syncedAt: raw.synced_at,
  };
}
