/**
 * How a database of an earlier release becomes one of today: its missing steps in order, then the tables and indexes that it lacks
 * (`schema.ts`), all in one transaction. `PRAGMA user_version` counts the steps. A step that has shipped is never edited; a new table,
 * or index, needs none.
 */
import { BridgeError } from "../core/errors.ts";
import { schema as nativeSchema } from "../signal/native/index.ts";
import type { Database } from "./database.ts";
import { schema } from "./schema.ts";

export const newestVersion = 17;

/** The steps, by the version that each leads on from. */
const steps: { readonly [version: number]: string } = {
  1: nativeSchema[0],
  3: `
  -- A yes answers what the phones had before it was written.
  ALTER TABLE outbox ADD COLUMN sending_at INTEGER;
  `,
  5: `
  -- Failures so far by the class of the fault, as JSON: each class has its bound.
  ALTER TABLE inbox ADD COLUMN tries TEXT NOT NULL DEFAULT '{}';
  `,
  6: nativeSchema[1],
  7: `
  ALTER TABLE inbox RENAME TO inbox_old;
  ALTER TABLE outbox RENAME TO outbox_old;
  ${schema}

  INSERT INTO posts (session_id, kind, subject, request, state, posted_at, event_id, tries, created_at)
    SELECT session_id, 'prompt', CAST(id AS TEXT),
      iif(asked_text IS NULL, NULL, json_object('kind', 'prompt', 'text', asked_text)),
      CASE WHEN state = 'done' THEN 'done' WHEN event_id IS NULL THEN 'posting' WHEN state = 'waiting' THEN 'waiting' ELSE 'posted' END,
      asked_at, event_id, tries, received_at
    FROM inbox_old WHERE kind = 'prompt' AND session_id IS NOT NULL AND (event_id IS NOT NULL OR (asked_at IS NOT NULL AND state <> 'done'));

  -- A command, or a yes, is decided as it arrives: one that an older version left open is over, and its person hears so.
  INSERT INTO outbox_old (key, chat_key, chat, timestamp, body, state, created_at)
    SELECT 'control:' || id, chat_key, envelope -> '$.chat',
      max((SELECT coalesce(max(timestamp), 0) FROM outbox_old), (SELECT max(received_at) FROM inbox_old)) + row_number() OVER (ORDER BY id),
      json_object('kind', 'text', 'text', 'This came while I was brought up to date, and was not taken. Please send it again.',
        'styles', json_array(), 'quote', NULL, 'files', json_array()), 'queued', received_at
    FROM inbox_old WHERE state <> 'done' AND kind <> 'prompt' ON CONFLICT (key) DO NOTHING;

  INSERT INTO inbox (id, key, chat_key, kind, envelope, versions, state, outcome, told, received_at, done_at)
    SELECT id, key || '|' || chat_key, chat_key, iif(kind = 'approval', 'answer', kind), envelope,
      iif(envelope ->> '$.content.kind' = 'edit', json_array(envelope ->> '$.sentAt', envelope ->> '$.content.targetSentAt'),
        json_array(envelope ->> '$.sentAt')),
      iif(state <> 'done' AND kind = 'prompt', 'open', 'done'),
      iif(state <> 'done' AND kind = 'prompt', NULL, coalesce(outcome, 'cancelled')), told, received_at,
      iif(state <> 'done' AND kind = 'prompt', NULL, coalesce(done_at, received_at))
    FROM inbox_old;
  DROP TABLE inbox_old;

  INSERT INTO outbox (id, why, subject, part, chat_key, chat, timestamp, body, state, attempts, is_uncertain, signal_timestamp, sending_at,
    fault, created_at, done_at)
    WITH whole AS (SELECT id, iif(key GLOB '*:files', 1000, 0) AS files, iif(key GLOB '*:files', substr(key, 1, length(key) - 6), key) AS key FROM outbox_old),
      -- The last colon of a key begins its part, where it has one.
      named AS (SELECT id, files, key, substr(key, 1, instr(key, ':') - 1) AS why, substr(key, instr(key, ':') + 1) AS subject,
        substr(key, instr(key, ':') + 1, length(rtrim(key, replace(key, ':', ''))) - instr(key, ':') - 1) AS head,
        substr(key, length(rtrim(key, replace(key, ':', ''))) + 1) AS tail FROM whole),
      marked AS MATERIALIZED (SELECT chat_key || '|' || coalesce(envelope ->> '$.source.aci', envelope ->> '$.source.number', '') || '|'
        || (envelope ->> '$.sentAt') AS name, CAST(min(id) AS TEXT) AS subject FROM inbox GROUP BY 1)
    SELECT id, CASE named.why WHEN 'status' THEN 'mark' WHEN 'control' THEN 'command' WHEN 'welcomed' THEN 'welcome' ELSE named.why END,
      CASE WHEN named.why = 'status' THEN coalesce(marked.subject, named.head)
        WHEN named.why = 'reply' OR named.key GLOB 'draft:*:*' THEN named.head
        WHEN named.why = 'digest' THEN named.tail
        WHEN named.why = 'below' THEN coalesce((SELECT substr(key, 7) FROM outbox_old AS draft WHERE draft.id = CAST(named.subject AS INTEGER)
          AND draft.key GLOB 'draft:*'), 'draft ' || named.subject)
        ELSE named.subject END,
      files + CASE WHEN named.why = 'status'
          THEN CASE tail WHEN 'taken' THEN 0 WHEN 'waiting' THEN 1 WHEN 'done' THEN 2 WHEN 'failed' THEN 3 ELSE 4 END
        WHEN named.why = 'reply' OR named.key GLOB 'draft:*:*' THEN CAST(tail AS INTEGER) ELSE 0 END,
      chat_key, chat, timestamp, body, state, attempts, is_uncertain, signal_timestamp,
      iif(state = 'sent', coalesce(sending_at, done_at), sending_at), fault, created_at, done_at
    FROM outbox_old JOIN named USING (id) LEFT JOIN marked ON named.why = 'status' AND marked.name = named.head;
  DROP TABLE outbox_old;
  `,
  8: "DROP INDEX IF EXISTS posts_events",
  9: "ALTER TABLE sessions ADD COLUMN project TEXT",
  10: `
  ${schema}
  INSERT INTO usage (session_id, day, person, input_tokens, output_tokens, cost_cents, unpriced)
    WITH said AS (SELECT session_id, coalesce(body ->> '$.isTotal', 1) AS is_total, CAST(body ->> '$.inputTokens' AS INTEGER) AS input,
      CAST(body ->> '$.outputTokens' AS INTEGER) AS output, CAST(body ->> '$.costCents' AS REAL) AS cents FROM events WHERE type = 'usage')
    SELECT session_id, '', '', iif(max(is_total), max(input), sum(input)), iif(max(is_total), max(output), sum(output)),
      coalesce(iif(max(is_total), max(cents), sum(cents)), 0), max(cents IS NULL)
    FROM said GROUP BY session_id;
  `,
  13: "DROP INDEX IF EXISTS posts_asked",
  14: nativeSchema[2],
  15: `
  -- What is counted with each message leaves alone what is seldom written and read with each message.
  ${schema}
  INSERT INTO counters (name, value)
    SELECT substr(key, 7), CAST(value AS INTEGER) FROM settings WHERE key GLOB 'count.*'
    UNION ALL SELECT key, CAST(value AS INTEGER) FROM settings WHERE key = 'generation';
  DELETE FROM settings WHERE key GLOB 'count.*' OR key = 'generation';
  `,
  16: `
  ALTER TABLE outbox RENAME TO outbox_old;
  ALTER TABLE file_looks RENAME TO file_looks_old;
  ${schema}
  INSERT INTO file_looks (session_id, looks) SELECT session_id, looks FROM file_looks_old;
  DROP TABLE file_looks_old;

  -- Until now a subject was 'session:entry', of a question 'session:use,use'.
  INSERT INTO outbox (id, why, session_id, subject, uses, part, chat_key, chat, timestamp, body, state, attempts, is_uncertain,
    signal_timestamp, sending_at, fault, created_at, done_at)
    WITH named AS (SELECT outbox_old.id, sessions.id AS session_id, substr(subject, instr(subject, ':') + 1) AS entry,
      outbox_old.why IN ('ask', 'reminder', 'expired') AS is_question FROM outbox_old JOIN sessions ON sessions.id = substr(subject, 1, instr(subject, ':') - 1)
      WHERE why IN ('reply', 'tool', 'file', 'ask', 'reminder', 'expired', 'refused'))
    SELECT id, why, coalesce(named.session_id, ''),
      coalesce(iif(is_question, substr(entry, 1, instr(entry || ',', ',') - 1), entry), subject),
      iif(is_question, '["' || replace(entry, ',', '","') || '"]', NULL), part, chat_key, chat, timestamp, body, state, attempts,
      is_uncertain, signal_timestamp, sending_at, fault, created_at, done_at
    FROM outbox_old LEFT JOIN named USING (id);
  DROP TABLE outbox_old;
  UPDATE OR IGNORE posts SET subject = substr(subject, length(session_id) + 2) WHERE substr(subject, 1, length(session_id) + 1) = session_id || ':';
  `,
};

const versionOf = (db: Database): number => db.get<{ user_version: number }>("PRAGMA user_version")?.user_version ?? 0;

/** Whether no step is missing. */
export const isNewest = (db: Database): boolean => versionOf(db) >= newestVersion;

/** Brings the schema to the newest version. @throws BridgeError `database_newer` when a later signalman wrote the file */
export function migrate(db: Database): void {
  const version = versionOf(db);
  if (version > newestVersion)
    throw new BridgeError(
      "database_newer",
      `Cannot open the database as it is at version ${version}; this signalman knows ${newestVersion}`,
    );
  if (version === newestVersion) return;
  const missing = Object.entries(steps).flatMap(([from, sql]) => (Number(from) >= version ? sql : []));
  // A single transaction: all steps or none, and one wait for the disk.
  db.transaction(() => {
    for (const sql of [...(version === 0 ? nativeSchema : missing), schema]) db.exec(sql);
    db.exec(`PRAGMA user_version = ${newestVersion}`);
  });
}
