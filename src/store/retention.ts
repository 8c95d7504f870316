/**
 * How long things are kept. Open rows, and the log of a session that has one, stay whatever their age.
 *
 * | what                       | until                                                                             |
 * |----------------------------|-----------------------------------------------------------------------------------|
 * | settled messages           | the retention age                                                                 |
 * | the log, kept at Claude    | the same; the last day before the cursor stays, for a sync looks back beyond it   |
 * | the log, kept here alone   | the same, where it is also beyond what the token budget can still use             |
 * | sessions                   | the retention age after they were last used, here and at Claude                   |
 * | what was used              | its session, and a month beyond the retention age                                 |
 * | texts in a chat with a timer | the timer; the rows stay: they still know what was done                         |
 * | sessions of such a chat    | when the timer of the last message has run, here and at Claude                    |
 */
import type { Millis } from "../core/model.ts";
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";
import { emptyContent, forgetUnused } from "./forgetting.ts";
import { createSettings, type Settings } from "./remembered.ts";

/** The chat's timer in seconds, as its latest message carries it; 0 is off, null says nothing. */
export function noteTimer(settings: Settings, chatKey: string, seconds: number | null): void {
  const known = settings.get(`timer:${chatKey}`);
  if (seconds === null || String(seconds) === (known ?? "0")) return;
  if (seconds > 0) settings.set(`timer:${chatKey}`, String(seconds));
  else settings.remove(`timer:${chatKey}`);
}

/** Blanks disappearing messages: in each chat with a timer, envelopes, our messages and the log's texts that are older than the timer. */
export function forget(db: Database, now: Millis): void {
  const { run } = statements(db);
  const settings = createSettings(db);
  let blanked = 0;
  for (const chatKey of settings.idsOf("timer")) {
    const before = now - Number(settings.get(`timer:${chatKey}`)) * 1_000;
    db.transaction(() => {
      blanked += run`
        UPDATE inbox SET envelope = json_set(envelope, '$.content', json(${emptyContent}))
        WHERE chat_key = ${chatKey} AND state = 'done' AND done_at < ${before} AND json_extract(envelope, '$.content.kind') <> 'empty'`;
      // What a row is stays, and so does a whole question that Signal did not take while it is open: it is sent again as it was.
      blanked += run`
        UPDATE outbox SET body = json_replace(body, '$.text', '', '$.styles', json('[]'), '$.quote', NULL, '$.files', json('[]'))
        WHERE chat_key = ${chatKey} AND done_at < ${before}
        AND (body ->> '$.text' <> '' OR json_array_length(body, '$.files') > 0)
        AND NOT (why = 'ask' AND state = 'failed' AND (session_id IN (SELECT session_id FROM posts WHERE state <> 'done')
          OR EXISTS (SELECT 1 FROM calls WHERE calls.session_id = outbox.session_id AND calls.state = 'asked')))`;
      blanked += run`
        UPDATE events SET body = CASE type
          WHEN 'tool_use' THEN json_set(body, '$.input', NULL)
          WHEN 'other' THEN json_remove(body, '$.raw')
          ELSE json_set(body, '$.text', '') END
        WHERE at < ${before} AND session_id IN (SELECT id FROM sessions WHERE chat_key = ${chatKey})
        AND session_id NOT IN (SELECT session_id FROM posts WHERE state <> 'done')
        AND CASE type
          WHEN 'tool_use' THEN json_type(body, '$.input') <> 'null'
          WHEN 'other' THEN json_type(body, '$.raw') IS NOT NULL
          ELSE type IN ('prompt', 'reply') AND json_extract(body, '$.text') <> '' END`;
      blanked += forgetUnused(db, before, chatKey);
    });
  }
  // The write-ahead log still holds the texts that were blanked.
  if (blanked > 0) db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
}

/** Empties every table but the transport's own; the next sync deletes the sessions at Claude. */
export function forgetAll(db: Database): void {
  const sql =
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*' AND name NOT GLOB 'signal_*'";
  const tables = db.all<{ name: string }>(sql);
  const owed = db.all<{ id: string }>("SELECT remote_id AS id FROM sessions WHERE remote_id IS NOT NULL");
  db.transaction(() => {
    db.exec("PRAGMA defer_foreign_keys = ON");
    // The counter `generation` goes on, since it tells that a database was set back.
    for (const { name } of tables)
      db.exec(`DELETE FROM "${name}"${name === "counters" ? " WHERE name <> 'generation'" : ""}`);
    for (const { id } of owed) db.run("INSERT INTO settings (key, value) VALUES (?, '1')", `forget:${id}`);
  });
  // The write-ahead log still holds the texts that were deleted.
  db.afterCommit(() => db.exec("PRAGMA wal_checkpoint(TRUNCATE)"));
}

/** A log that is kept at Claude is never asked for from further back than this before the cursor (`loops/elsewhere.ts`: a minute). */
export const logTailMs: Millis = 24 * 3_600_000;

/**
 * Twice the bytes of a conversation that the Messages API can be sent: the budget counts tokens of about 3 bytes (`claude/history.ts`),
 * and an entry has a frame around its text. Whole blocks, pictures among them, go by age alone: their words stay.
 */
const historyBytes = 2 * 3 * 100_000;

/** A log of months goes in parts of so many entries, each a transaction, so that nothing waits for it. */
export const pruneMax = 500;

/**
 * Removes rows that are older than `before` and of no use any more; returns their number. From `pruneMax` on there are more: the logs come
 * first, in parts; the rest goes in one transaction. The newest row of the inbox stays, so that no id is given twice.
 */
export function prune(db: Database, before: Millis): number {
  const { run } = statements(db);
  return db.transaction(() => {
    const entries = pruneLogs(db, before);
    if (entries >= pruneMax) return entries;
    const whole = forgetUnused(db, before);
    const inbox = run`DELETE FROM inbox WHERE state = 'done' AND done_at < ${before} AND id < (SELECT max(id) FROM inbox)`;
    const posts = run`DELETE FROM posts WHERE state = 'done' AND created_at < ${before}`;
    const outbox = run`DELETE FROM outbox WHERE done_at < ${before}`;
    run`DELETE FROM calls WHERE state = 'posted' AND changed_at < ${before}`;
    run`DELETE FROM usage WHERE day < date(${before} / 1000, 'unixepoch', '-1 month') AND session_id NOT IN (SELECT id FROM sessions)`;
    return entries + whole + inbox + posts + outbox;
  });
}

type Entry = { readonly at: Millis; readonly seq: number };

/** At most `pruneMax` entries of sessions in which nothing is open, the oldest of each first. */
function pruneLogs(db: Database, before: Millis): number {
  const { all, run } = statements(db);
  let removed = 0;
  const remove = (id: string, until: Millis, { at, seq }: Entry, type: string | null = null): void => {
    removed += run`DELETE FROM events WHERE seq IN (
      SELECT seq FROM events WHERE session_id = ${id} AND at < ${until} AND (at, seq) <= (${at}, ${seq})
      AND type = coalesce(${type}, type) ORDER BY at, seq LIMIT ${pruneMax - removed})`;
  };
  const elsewhere = all<{ id: string; until: Millis }>`
    SELECT id, iif(used_at < ${before}, ${before}, min(${before}, cursor - ${logTailMs})) AS until FROM sessions
    WHERE remote_id IS NOT NULL AND id NOT IN (SELECT session_id FROM posts WHERE state <> 'done')
    AND EXISTS (SELECT 1 FROM events WHERE session_id = sessions.id AND at < ${before})`;
  const here = all<{ id: string; isUnused: 0 | 1 }>`
    SELECT id, used_at < ${before} AS isUnused FROM sessions
    WHERE remote_id IS NULL AND id NOT IN (SELECT session_id FROM posts WHERE state <> 'done')
    AND EXISTS (SELECT 1 FROM events WHERE session_id = sessions.id AND at < ${before})`;
  for (const { id, until } of elsewhere) if (removed < pruneMax) remove(id, until, end);
  for (const { id, isUnused } of here) {
    if (removed >= pruneMax) break;
    const spent = isUnused === 1 ? end : spentAt(db, id);
    if (spent !== null) remove(id, before, spent);
    remove(id, before, end, "other");
  }
  return removed;
}

const end: Entry = { at: Number.MAX_SAFE_INTEGER, seq: Number.MAX_SAFE_INTEGER };

/** The entry at which, from the newest back, the budget is spent; null where it is not. */
const spentAt = (db: Database, sessionId: string): Entry | null =>
  statements(db).get<Entry>`
    SELECT at, seq FROM (
      SELECT at, seq, bytes, sum(bytes) OVER (ORDER BY at DESC, seq DESC) AS total FROM (
        SELECT at, seq, iif(type = 'other', 0, octet_length(body)) AS bytes FROM events
        WHERE session_id = ${sessionId} AND at IS NOT NULL))
    WHERE total > ${historyBytes} AND total - bytes <= ${historyBytes} LIMIT 1` ?? null;
