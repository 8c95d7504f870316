/**
 * The mirrored event logs of the sessions, and where a turn stands by them.
 *
 * Events are upserted by id, so that a stream, a listing and a second look after a crash may bring them in any order and any number
 * of times. Where a turn stands is a projection of the log (`core/turn.ts`); it is kept in memory and fed with each entry, and built
 * anew from the rows after a start, or when a transaction was rolled back.
 */
import type { Millis, Session, SessionEvent } from "../core/model.ts";
import { openLog, progressOf, readEntry, trackAll, type OpenLog, type Progress } from "../core/turn.ts";
import type { Database, Row } from "./database.ts";
import { statements } from "./statements.ts";
import { logTailMs } from "./retention.ts";

type Turn = {
  readonly promptId: string;
  readonly progress: Progress;
  /** Claude has surely said something after the prompt; where this is false, only the rows tell. */
  readonly isReplied: boolean;
};

const parse = ({ at, body }: Row): SessionEvent => ({
  ...(JSON.parse(String(body)) as SessionEvent),
  at: at as Millis | null,
});
const entries = (db: Database) => statements(db, "SELECT at, body FROM events", parse);

export type EventLog = ReturnType<typeof createLog>;

export function createLog(db: Database) {
  const { run, many } = entries(db);
  const reads = createReads(db);
  const turns = new Map<string, Turn>();
  const opens = new Map<string, OpenLog>();
  const settled = createSettled();
  const upsert = createUpsert(db);
  db.onRollback(() => {
    turns.clear();
    opens.clear();
    settled.clear();
  });
  const openOf = (id: string): OpenLog => {
    const known = opens.get(id);
    if (known) return known;
    const rows = many`WHERE session_id = ${id} AND seq > coalesce((SELECT max(seq) FROM events
      WHERE session_id = ${id} AND type = 'idle' AND body ->> '$.stop.kind' <> 'requires_action'), 0) ORDER BY seq`;
    const built = rows.reduce(readEntry, openLog);
    opens.set(id, built);
    return built;
  };
  return {
    ...reads,
    /** The standing of this prompt's turn. */
    turn(id: string, promptId: string): Progress {
      const known = turns.get(id);
      if (known?.promptId === promptId) return known.progress;
      const rows = reads.arrivals(id, promptId);
      const events = rows.map(({ event }) => event);
      const index = events.findIndex((event) => event.id === promptId);
      const { seq = 0, event: prompt = null } = rows[index] ?? {};
      const isQueued = prompt !== null && prompt.at === null;
      // Stops that came before the prompt was known here do not belong to its turn, whatever their time.
      const earlier = [
        ...rows.filter((row) => row.event.type === "idle" && row.seq < seq).map(({ event }) => event.id),
        ...(isQueued ? reads.stopsBefore(id, seq) : []),
      ];
      const progress = trackAll(progressOf(promptId, new Set(earlier)), events);
      const isReplied =
        prompt !== null && !isQueued && events.slice(index).some(({ type, at }) => type === "reply" && at !== null);
      turns.set(id, { promptId, progress, isReplied });
      return progress;
    },
    /** Claude has said something after this prompt. */
    hasReplySince(id: string, promptId: string): boolean {
      const known = turns.get(id);
      return (known?.promptId === promptId && known.isReplied) || reads.hasReplySince(id, promptId);
    },
    /** The tool uses that this session waits for, and the last error that was not overcome. */
    open: openOf,
    /** Upserts entries, moves the cursor, feeds the projections; returns what was new here. Part of the caller's transaction. */
    apply(session: Session, seen: readonly SessionEvent[], now: Millis): SessionEvent[] {
      const before = openOf(session.id);
      const unsettled = settled.take(
        session.id,
        seen.filter(({ at }) => !isLongSeen(session, at)),
      );
      if (unsettled.length === 0) return [];
      const added = upsert(session.id, unsettled);
      const turn = turns.get(session.id);
      if (turn) turns.set(session.id, { ...turn, progress: trackAll(turn.progress, unsettled) });
      opens.set(session.id, added.reduce(readEntry, before));
      const cursor = unsettled.reduce((latest, { at }) => Math.max(latest, at ?? 0), session.cursor ?? 0);
      if (added.length > 0 || cursor !== (session.cursor ?? 0))
        run`UPDATE sessions SET cursor = ${cursor}, used_at = max(used_at, ${now}) WHERE id = ${session.id}`;
      return added;
    },
  };
}

function createReads(db: Database) {
  const { all, one, value, values, has } = entries(db);
  /** How many entries of a session were read newest first the last time. */
  const depths = new Map<string, number>();
  const arrivals = (id: string, fromEventId?: string): { readonly seq: number; readonly event: SessionEvent }[] => {
    const none = fromEventId === undefined ? 0 : Number.MAX_SAFE_INTEGER;
    const rows = all<Row>`
      SELECT 0 AS is_queued, at, seq, body FROM events WHERE session_id = ${id} AND at >= coalesce((
        SELECT at FROM events WHERE session_id = ${id} AND id = ${fromEventId ?? ""}), ${none})
      UNION ALL SELECT 1, at, seq, body FROM events WHERE session_id = ${id} AND at IS NULL ORDER BY is_queued, at, seq`;
    return db.read(() => rows.map((row) => ({ seq: Number(row["seq"]), event: parse(row) })));
  };
  return {
    /** The log in the order Claude saw it, queued entries last, each with its place by arrival; from an entry on, or all of it. */
    arrivals,
    events: (id: string, fromEventId?: string): readonly SessionEvent[] =>
      arrivals(id, fromEventId).map(({ event }) => event),
    /** The newest processed stops that arrived before this place. */
    stopsBefore: (id: string, seq: number) =>
      values<string>`SELECT id FROM events WHERE session_id = ${id} AND type = 'idle' AND at >= 0
        AND seq < ${seq} ORDER BY at DESC, seq DESC LIMIT ${earlierMax}`,
    /** The log newest first, a page at a time, as far as it is read; in one page where it is read as far as the last time. */
    *newestFirst(id: string): Generator<SessionEvent> {
      let [at, seq] = [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER];
      let count = 0;
      for (let size = depths.get(id) ?? pageMin; ; size = Math.min(size * 4, pageMax)) {
        const page = all<Row & { at: number; seq: number }>`SELECT at, seq, body FROM events
          WHERE session_id = ${id} AND (at, seq) < (${at}, ${seq}) ORDER BY at DESC, seq DESC LIMIT ${size}`;
        for (const row of page) {
          [at, seq] = [row.at, row.seq];
          depths.set(id, ++count + pageSlack);
          yield db.read(() => parse(row));
        }
        if (page.length < size) return;
      }
    },
    /** When Claude saw an entry; null while it is queued, or is not here. */
    at: (id: string, eventId: string) =>
      value<Millis>`SELECT at FROM events WHERE session_id = ${id} AND id = ${eventId}`,
    /** The newest entry that gave the session this title. */
    renamed: (id: string, title: string) =>
      one`WHERE session_id = ${id} AND type = 'updated' AND body ->> '$.title' = ${title} ORDER BY at DESC LIMIT 1`,
    /** The entries among `eventIds` that are tool uses which a person or this machine can answer. */
    answerable: (id: string, eventIds: readonly string[]) =>
      values<string>`SELECT id FROM events WHERE session_id = ${id} AND type = 'tool_use'
        AND (body ->> '$.isAsk' OR body ->> '$.isLocal') AND id IN (SELECT value FROM json_each(${JSON.stringify(eventIds)}))`,
    /** This tool use has its confirmation or result. */
    isAnswered: (id: string, toolUseId: string) =>
      has`SELECT 1 FROM events WHERE session_id = ${id} AND type IN ('confirmation', 'tool_result')
        AND body ->> '$.toolUseId' = ${toolUseId} LIMIT 1`,
    hasReplySince: (id: string, promptEventId: string) =>
      has`SELECT 1 FROM events AS reply JOIN events AS prompt ON prompt.session_id = reply.session_id
        WHERE prompt.session_id = ${id} AND prompt.id = ${promptEventId} AND reply.type = 'reply'
        AND (reply.at > prompt.at OR (reply.at = prompt.at AND reply.seq > prompt.seq)) LIMIT 1`,
    /** The newest entry of a type. */
    lastOfType: (id: string, type: SessionEvent["type"]) =>
      one`WHERE session_id = ${id} AND type = ${type} ORDER BY at DESC LIMIT 1`,
  };
}

/** Rows of a page, which grows: a few long entries fill a request, or very many short ones. */
const pageMin = 128;
const pageMax = 512;
/** Rows that a question and its answer add, and a few more. */
const pageSlack = 16;
/** Stops from before a prompt that are kept apart: a listing does not show more of them again. */
const earlierMax = 1_000;

/** Whether an entry is so far before the cursor that it has been seen, and may be pruned since: it is not new when a listing shows it. */
const isLongSeen = ({ cursor, remoteId }: Session, at: Millis | null): boolean =>
  at !== null && cursor !== null && remoteId !== null && at < cursor - logTailMs;

/**
 * Upserts entries; returns those that are new, or were processed just now. A known entry only ever goes from queued to processed, and then
 * takes the place where it arrived as processed, since arrival decides the order within one millisecond.
 */
function createUpsert(db: Database) {
  const { values } = statements(db);
  return (sessionId: string, events: readonly SessionEvent[]): SessionEvent[] => {
    const rows = JSON.stringify(events.map((event) => [event.id, event.type, event.at, JSON.stringify(event)]));
    const added = values<string>`
      INSERT OR REPLACE INTO events (session_id, id, type, at, body)
      SELECT ${sessionId}, value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM json_each(${rows})
      WHERE NOT EXISTS (SELECT 1 FROM events WHERE session_id = ${sessionId} AND id = value ->> 0
        AND (at IS NOT NULL OR value ->> 2 IS NULL)) RETURNING id`;
    const ids = new Set(added);
    return events.filter(({ id }) => ids.has(id));
  };
}

/**
 * Ids of processed entries, which never change again, in memory, as far as this process has seen them: most entries of a listing are
 * stored already, since it looks back beyond the cursor.
 */
function createSettled() {
  const sessions = new Map<string, Set<string>>();
  return {
    /** The entries that are not settled, each once, as processed or else as seen last; processed ones are settled from now on. */
    take(sessionId: string, events: readonly SessionEvent[]): SessionEvent[] {
      const ids = sessions.get(sessionId) ?? new Set();
      const fresh = new Map<string, SessionEvent>();
      for (const event of events) {
        if (ids.has(event.id)) continue;
        fresh.delete(event.id);
        fresh.set(event.id, event);
        if (event.at !== null) ids.add(event.id);
      }
      if (sessions.size >= settledSessionsMax) sessions.clear();
      if (ids.size > settledIdsMax) sessions.delete(sessionId);
      else sessions.set(sessionId, ids);
      return [...fresh.values()];
    },
    clear: () => sessions.clear(),
  };
}

/** Kept in memory: sessions, and ids of each. */
const settledSessionsMax = 64;
const settledIdsMax = 4_000;
