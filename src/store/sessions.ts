/**
 * Conversations with Claude and their event logs. One active session per chat; ended ones stay readable.
 *
 * `apply` is the heart of "answered once": events are upserted by id, a reply that is new becomes outbox rows, the cursor
 * moves, all in one transaction, the caller's where it settles the inbox row as well. Stream, listing and a second look after
 * a crash all come through here, in any order and any number of times.
 */
import type { Chat, Context, Millis, OutboundBody, SessionEvent } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { toolLine } from "../core/progress.ts";
import { plainText } from "../core/reply.ts";
import { statements, type Database } from "./database.ts";
import type { Files } from "./files.ts";
import type { Outbox } from "./outbox.ts";
import { logTailMs } from "./retention.ts";

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

type Raw = Omit<Session, "chat" | "context" | "stamps" | "isStale"> & {
  readonly chat: string;
  readonly context: string;
  readonly stamps: string;
  readonly isStale: 0 | 1;
};

const select = `SELECT id, chat_key AS chatKey, chat, backend, remote_id AS remoteId, state, context, stamps, cursor,
  remote_updated_at AS remoteUpdatedAt, is_stale AS isStale, created_at AS createdAt, used_at AS usedAt, synced_at AS syncedAt
  FROM sessions`;

const toSession = (raw: Raw): Session => ({
  ...raw,
  chat: JSON.parse(raw.chat) as Chat,
  context: JSON.parse(raw.context) as Context,
  stamps: JSON.parse(raw.stamps) as Stamps,
  isStale: raw.isStale === 1,
});

export type Applied = {
  /** As it was before. */
  readonly session: Session;
  readonly added: readonly SessionEvent[];
  readonly replies: number;
};

export type SessionDeps = {
  readonly outbox: Outbox;
  readonly files: Files;
  /** How a reply looks on the phone: one body per message. */
  readonly render: (text: string) => readonly OutboundBody[];
};

export type Sessions = ReturnType<typeof createSessions>;

export function createSessions(db: Database, deps: SessionDeps) {
  const { run } = statements(db);
  const reads = createReads(db);
  const need = (id: string): Session => {
    const session = reads.get(id);
    if (!session) throw new Error(`No session ${id} in the database`);
    return session;
  };
  return {
    ...reads,
    create(id: string, chat: Chat, backend: string, context: Context, stamps: Stamps, now: Millis): Session {
      run`INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at)
        VALUES (${id}, ${chatKey(chat)}, ${JSON.stringify(chat)}, ${backend}, 'active', ${JSON.stringify(context)},
          ${JSON.stringify(stamps)}, ${now}, ${now})`;
      return need(id);
    },
    setRemote: (id: string, remoteId: string) => run`UPDATE sessions SET remote_id = ${remoteId} WHERE id = ${id}`,
    setContext: (id: string, context: Context, stamps: Stamps) =>
      run`UPDATE sessions SET context = ${JSON.stringify(context)}, stamps = ${JSON.stringify(stamps)} WHERE id = ${id}`,
    setSynced: (id: string, remoteUpdatedAt: string | null, now: Millis) =>
      run`UPDATE sessions SET remote_updated_at = ${remoteUpdatedAt}, synced_at = ${now}, is_stale = 0 WHERE id = ${id}`,
    setStale: (id: string, isStale: boolean) => run`UPDATE sessions SET is_stale = ${isStale ? 1 : 0} WHERE id = ${id}`,
    end: (id: string) => run`UPDATE sessions SET state = 'ended', is_stale = 0 WHERE id = ${id}`,
    /** Makes an ended session the active one of its chat again, ending the one that was. */
    resume: (id: string) =>
      db.transaction(() => {
        run`UPDATE sessions SET state = 'ended' WHERE chat_key = ${need(id).chatKey} AND state = 'active'`;
        run`UPDATE sessions SET state = 'active' WHERE id = ${id}`;
      }),
    apply: (id: string, events: readonly SessionEvent[], now: Millis): Applied =>
      db.transaction(() => applyEvents(db, deps, need(id), events, now)),
  };
}

type RawEvent = { readonly at: number | null; readonly body: string };

function createReads(db: Database) {
  const { one, many, get, all } = statements(db, select, toSession);
  const byId = (id: string) => one`WHERE id = ${id}`;
  return {
    get: byId,
    active: (chat: string) => one`WHERE chat_key = ${chat} AND state = 'active'`,
    /** By our id or the remote one. */
    find: (id: string) => byId(id) ?? one`WHERE remote_id = ${id}`,
    /** The log in the order Claude saw it, queued entries last; from an entry on, or all of it. */
    events(id: string, fromEventId?: string): SessionEvent[] {
      const from =
        fromEventId === undefined
          ? { at: 0 }
          : get<{ at: number | null }>`SELECT at FROM events WHERE session_id = ${id} AND id = ${fromEventId}`;
      const since = from?.at ?? Number.MAX_SAFE_INTEGER;
      const processed = all<RawEvent>`SELECT at, body FROM events WHERE session_id = ${id} AND at >= ${since} ORDER BY at, seq`;
      const queued = all<RawEvent>`SELECT at, body FROM events WHERE session_id = ${id} AND at IS NULL ORDER BY seq`;
      return [...processed, ...queued].map(({ at, body }) => ({ ...(JSON.parse(body) as SessionEvent), at }));
    },
    /** Claude has said something after this prompt. */
    hasReplySince: (id: string, promptEventId: string) =>
      get`SELECT 1 FROM events AS reply JOIN events AS prompt ON prompt.session_id = reply.session_id
        WHERE prompt.session_id = ${id} AND prompt.id = ${promptEventId} AND reply.type = 'reply'
        AND (reply.at > prompt.at OR (reply.at = prompt.at AND reply.seq > prompt.seq)) LIMIT 1` !== undefined,
    /** The newest entry of a type. */
    lastOfType(id: string, type: SessionEvent["type"]): SessionEvent | null {
      const row = get<RawEvent>`SELECT body FROM events WHERE session_id = ${id} AND type = ${type} ORDER BY at DESC LIMIT 1`;
      return row ? (JSON.parse(row.body) as SessionEvent) : null;
    },
    /** Newest first, at most `max`. */
    list: (max: number) => many`ORDER BY used_at DESC LIMIT ${max}`,
    ofChat: (chat: string, max: number) => many`WHERE chat_key = ${chat} ORDER BY used_at DESC LIMIT ${max}`,
    /**
     * Sessions to read in a sync: all that are stale, have an open prompt, or were used since `recentSince`; and of the rest
     * the `sweepMax` that were not read for longest.
     */
    toSync: (recentSince: Millis, sweepMax: number) =>
      many`WHERE state = 'active' AND remote_id IS NOT NULL AND id IN (
           SELECT id FROM sessions WHERE state = 'active' AND is_stale = 1
           UNION SELECT session_id FROM inbox WHERE state <> 'done' AND session_id IS NOT NULL
           UNION SELECT id FROM sessions WHERE state = 'active' AND used_at >= ${recentSince}
           UNION SELECT id FROM (SELECT id FROM sessions WHERE state = 'active' ORDER BY synced_at LIMIT ${sweepMax})
         )`,
    counts: (recentSince: Millis) =>
      get<{ total: number; active: number; stale: number }>`
        SELECT count(*) AS total, coalesce(sum(used_at >= ${recentSince}), 0) AS active, coalesce(sum(is_stale), 0) AS stale
        FROM sessions WHERE state = 'active'` ?? { total: 0, active: 0, stale: 0 },
  };
}

function applyEvents(
  db: Database,
  { outbox, files, render }: SessionDeps,
  session: Session,
  events: readonly SessionEvent[],
  now: Millis,
): Applied {
  const { run } = statements(db);
  const added = upsert(
    db,
    session,
    events.filter(({ at }) => !isLongSeen(session, at)),
  );
  let replies = 0;
  for (const event of added) {
    if (event.type === "tool_use" && !event.isAsk && session.context["verbose"] === true)
      outbox.add(`tool:${session.id}:${event.id}`, session.chat, plainText(toolLine(event)), now);
    if (event.type !== "reply") continue;
    for (const [part, body] of render(event.text).entries())
      outbox.addAnswer(`reply:${session.id}:${event.id}:${part}`, session.id, session.chat, body, now);
    replies++;
  }
  files.note(session.id, added, now);
  const cursor = events.reduce((latest, { at }) => Math.max(latest, at ?? 0), session.cursor ?? 0);
  if (added.length > 0 || cursor !== (session.cursor ?? 0))
    run`UPDATE sessions SET cursor = ${cursor}, used_at = max(used_at, ${now}) WHERE id = ${session.id}`;
  return { session, added, replies };
}

/** So far before the cursor everything has been seen, and may be pruned since: it is not news when a listing shows it again. */
const isLongSeen = ({ cursor, remoteId }: Session, at: Millis | null): boolean =>
  at !== null && cursor !== null && remoteId !== null && at < cursor - logTailMs;

/** Returns the entries that are new. A known one only ever goes from queued to processed. */
function upsert(db: Database, session: Session, events: readonly SessionEvent[]): SessionEvent[] {
  const { all, run } = statements(db);
  const settled = settledIds(db, session, events);
  const byId = new Map<string, SessionEvent>();
  for (const event of events)
    if (!settled.has(event.id) && (byId.get(event.id)?.at ?? null) === null) byId.set(event.id, event);
  const unsettled = [...byId.values()];
  if (unsettled.length === 0) return [];
  const rows = JSON.stringify(unsettled.map((event) => [event.id, event.type, event.at, JSON.stringify(event)]));
  const inserted = all<{ id: string }>`
    INSERT INTO events (session_id, id, type, at, body)
    SELECT ${session.id}, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(${rows}) WHERE true
    ON CONFLICT (session_id, id) DO NOTHING RETURNING id`;
  const isNew = new Set(inserted.map(({ id }) => id));
  for (const { id, at } of unsettled)
    if (at !== null && !isNew.has(id))
      run`UPDATE events SET at = ${at} WHERE session_id = ${session.id} AND id = ${id} AND at IS NULL`;
  return unsettled.filter(({ id }) => isNew.has(id));
}

/** Of a listing most is stored already, for it looks back beyond the cursor: one query tells which entries never change again. */
function settledIds(db: Database, { id, cursor }: Session, events: readonly SessionEvent[]): ReadonlySet<string> {
  const since = events.reduce((first, { at }) => Math.min(first, at ?? first), Number.MAX_SAFE_INTEGER);
  if (since > (cursor ?? 0)) return new Set();
  const { get } = statements(db);
  const row = get<{
    ids: string;
  }>`SELECT json_group_array(id) AS ids FROM events WHERE session_id = ${id} AND at >= ${since}`;
  return new Set(JSON.parse(row?.ids ?? "[]") as string[]);
}
