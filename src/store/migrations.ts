/**
 * Every step the database has ever taken, in order. Append only: a step that has shipped is never edited.
 * `PRAGMA user_version` counts the steps done; each runs in a transaction of its own.
 */
import { BridgeError } from "../core/errors.ts";
import { schema as nativeSchema } from "../signal/native/index.ts";
import type { Database } from "./database.ts";

export const migrations: readonly string[] = [
  `
  -- One conversation with Claude, bound to one chat. The remote truth is its event log; context is the small settings.
  CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    chat_key TEXT NOT NULL,
    chat TEXT NOT NULL,
    backend TEXT NOT NULL,
    remote_id TEXT UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('active', 'ended')),
    context TEXT NOT NULL,
    stamps TEXT NOT NULL,
    cursor INTEGER,
    remote_updated_at TEXT,
    is_stale INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    synced_at INTEGER NOT NULL DEFAULT 0
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX sessions_active ON sessions (chat_key) WHERE state = 'active';
  CREATE INDEX sessions_used ON sessions (used_at) WHERE state = 'active';
  CREATE INDEX sessions_synced ON sessions (synced_at) WHERE state = 'active';
  CREATE INDEX sessions_stale ON sessions (is_stale) WHERE state = 'active' AND is_stale = 1;

  -- The event log, upserted by id; at is processed_at (null: queued, Claude has not seen it).
  CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id),
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    at INTEGER,
    body TEXT NOT NULL,
    UNIQUE (session_id, id)
  ) STRICT;
  CREATE INDEX events_order ON events (session_id, at, seq);

  -- What was accepted from Signal. key = account | sender | device | sent timestamp | kind: never the text.
  CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    chat_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    envelope TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'waiting', 'done')),
    outcome TEXT CHECK (outcome IN ('answered', 'failed', 'cancelled')),
    session_id TEXT REFERENCES sessions (id),
    asked_at INTEGER,
    asked_text TEXT,
    event_id TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    told TEXT,
    received_at INTEGER NOT NULL,
    done_at INTEGER,
    CHECK ((state = 'done') = (outcome IS NOT NULL)),
    CHECK ((state = 'done') = (done_at IS NOT NULL))
  ) STRICT;
  CREATE INDEX inbox_open ON inbox (chat_key, id) WHERE state <> 'done';
  CREATE INDEX inbox_prompts ON inbox (chat_key, id) WHERE state <> 'done' AND kind = 'prompt';
  CREATE INDEX inbox_controls ON inbox (id) WHERE state <> 'done' AND kind <> 'prompt';
  CREATE INDEX inbox_session ON inbox (session_id, id) WHERE state <> 'done';
  CREATE INDEX inbox_done ON inbox (done_at) WHERE state = 'done';
  CREATE INDEX inbox_events ON inbox (session_id, event_id) WHERE event_id IS NOT NULL;

  -- What is to be sent. key says why it exists, so that it exists once; timestamp is chosen before the first send.
  CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    chat_key TEXT NOT NULL,
    chat TEXT NOT NULL,
    timestamp INTEGER NOT NULL UNIQUE,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER NOT NULL DEFAULT 0,
    is_uncertain INTEGER NOT NULL DEFAULT 0,
    signal_timestamp INTEGER,
    fault TEXT,
    created_at INTEGER NOT NULL,
    done_at INTEGER
  ) STRICT;
  CREATE INDEX outbox_open ON outbox (chat_key, id) WHERE state IN ('queued', 'sending');
  CREATE INDEX outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL;
  CREATE INDEX outbox_signal ON outbox (signal_timestamp) WHERE signal_timestamp IS NOT NULL;

  CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
  `,
  nativeSchema[0],
  `
  -- Files that Claude made and that have been dealt with: their message outlives the outbox by this.
  CREATE TABLE files (
    session_id TEXT NOT NULL REFERENCES sessions (id),
    id TEXT NOT NULL,
    PRIMARY KEY (session_id, id)
  ) STRICT, WITHOUT ROWID;
  -- Sessions to be looked through for files; few, and soon done.
  CREATE TABLE file_looks (
    session_id TEXT PRIMARY KEY REFERENCES sessions (id),
    due_at INTEGER NOT NULL,
    looks INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX file_looks_due ON file_looks (due_at);
  `,
  `
  -- A yes answers what the phones had before it was written.
  ALTER TABLE outbox ADD COLUMN sending_at INTEGER;
  `,
  `
  -- The journal of what Claude asked to do on this machine: one row a call, by the id of its event.
  CREATE TABLE calls (
    id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    turn TEXT NOT NULL,
    project TEXT NOT NULL,
    tool TEXT NOT NULL,
    input TEXT NOT NULL,
    input_hash TEXT NOT NULL,
    basis TEXT,
    state TEXT NOT NULL CHECK (state IN ('seen', 'asked', 'allowed', 'denied', 'expired', 'started', 'done', 'posted')),
    approver TEXT,
    content TEXT,
    is_error INTEGER NOT NULL DEFAULT 0,
    seen_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    CHECK ((content IS NOT NULL) = (state IN ('denied', 'expired', 'done', 'posted')))
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX calls_open ON calls (session_id, seen_at) WHERE state <> 'posted';
  CREATE INDEX calls_session ON calls (session_id, seen_at);
  CREATE INDEX calls_started ON calls (id) WHERE state = 'started';
  CREATE INDEX calls_posted ON calls (changed_at) WHERE state = 'posted';

  -- What files were before the first write of a turn; their bytes are files of the home, by hash. Null: there was none.
  CREATE TABLE kept (
    seq INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    root TEXT NOT NULL,
    path TEXT NOT NULL,
    turn TEXT NOT NULL,
    before TEXT,
    bytes INTEGER NOT NULL,
    after TEXT NOT NULL,
    at INTEGER NOT NULL,
    UNIQUE (session_id, root, path, turn)
  ) STRICT;
  CREATE INDEX kept_order ON kept (session_id, root, seq);
  CREATE INDEX kept_age ON kept (at);
  CREATE INDEX kept_hash ON kept (before);
  `,
  `
  -- Failures so far by the class of the fault, as JSON: each class has its bound.
  ALTER TABLE inbox ADD COLUMN tries TEXT NOT NULL DEFAULT '{}';
  `,
  nativeSchema[1],
  `
  -- What is asked of Claude, as durable as what is sent to Signal. subject: the inbox id of a prompt or of the prompt that an interrupt
  -- ends; session and tool use of a confirm or result. request is built once and kept as it was sent, until the end.
  CREATE TABLE posts (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id),
    kind TEXT NOT NULL CHECK (kind IN ('prompt', 'confirm', 'interrupt', 'result')),
    subject TEXT NOT NULL,
    request TEXT,
    state TEXT NOT NULL CHECK (state IN ('queued', 'posting', 'posted', 'waiting', 'done')),
    posted_at INTEGER,
    event_id TEXT,
    tries TEXT NOT NULL DEFAULT '{}',
    created_at INTEGER NOT NULL,
    UNIQUE (kind, subject)
  ) STRICT;
  CREATE INDEX posts_open ON posts (session_id, id) WHERE state <> 'done';
  CREATE INDEX posts_events ON posts (session_id, event_id) WHERE event_id IS NOT NULL;

  INSERT INTO posts (session_id, kind, subject, request, state, posted_at, event_id, tries, created_at)
    SELECT session_id, 'prompt', CAST(id AS TEXT),
      iif(asked_text IS NULL, NULL, json_object('kind', 'prompt', 'text', asked_text)),
      CASE WHEN state = 'done' THEN 'done' WHEN event_id IS NULL THEN 'posting' WHEN state = 'waiting' THEN 'waiting' ELSE 'posted' END,
      asked_at, event_id, tries, received_at
    FROM inbox WHERE kind = 'prompt' AND session_id IS NOT NULL AND (event_id IS NOT NULL OR (asked_at IS NOT NULL AND state <> 'done'));

  -- A command, or a yes, is decided as it arrives: one that an older version left open is over, and its person hears so.
  INSERT INTO outbox (key, chat_key, chat, timestamp, body, state, created_at)
    SELECT 'control:' || id, chat_key, envelope -> '$.chat',
      max((SELECT coalesce(max(timestamp), 0) FROM outbox), (SELECT max(received_at) FROM inbox)) + row_number() OVER (ORDER BY id),
      json_object('kind', 'text', 'text', 'This came while I was brought up to date, and was not taken. Please send it again.',
        'styles', json_array(), 'quote', NULL, 'files', json_array()), 'queued', received_at
    FROM inbox WHERE state <> 'done' AND kind <> 'prompt' ON CONFLICT (key) DO NOTHING;

  -- How a message of a person stands; what is asked of Claude for it is its post. versions: the times of sending that name it, those of
  -- the versions it replaced included.
  CREATE TABLE inbox_next (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    chat_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    envelope TEXT NOT NULL,
    versions TEXT NOT NULL DEFAULT '[]',
    state TEXT NOT NULL CHECK (state IN ('open', 'done')),
    outcome TEXT CHECK (outcome IN ('answered', 'failed', 'cancelled')),
    told TEXT,
    received_at INTEGER NOT NULL,
    done_at INTEGER,
    CHECK ((state = 'done') = (outcome IS NOT NULL)),
    CHECK ((state = 'done') = (done_at IS NOT NULL))
  ) STRICT;
  INSERT INTO inbox_next (id, key, chat_key, kind, envelope, versions, state, outcome, told, received_at, done_at)
    SELECT id, key || '|' || chat_key, chat_key, iif(kind = 'approval', 'answer', kind), envelope,
      iif(envelope ->> '$.content.kind' = 'edit', json_array(envelope ->> '$.sentAt', envelope ->> '$.content.targetSentAt'),
        json_array(envelope ->> '$.sentAt')),
      iif(state <> 'done' AND kind = 'prompt', 'open', 'done'),
      iif(state <> 'done' AND kind = 'prompt', NULL, coalesce(outcome, 'cancelled')), told, received_at,
      iif(state <> 'done' AND kind = 'prompt', NULL, coalesce(done_at, received_at))
    FROM inbox;
  DROP TABLE inbox;
  ALTER TABLE inbox_next RENAME TO inbox;
  CREATE INDEX inbox_open ON inbox (chat_key, id) WHERE state = 'open';
  CREATE INDEX inbox_done ON inbox (done_at) WHERE state = 'done';

  -- Why a message exists is typed: why and subject (and part) are its identity. Waits are memory.
  CREATE TABLE outbox_next (
    id INTEGER PRIMARY KEY,
    why TEXT NOT NULL,
    subject TEXT NOT NULL,
    part INTEGER NOT NULL DEFAULT 0,
    chat_key TEXT NOT NULL,
    chat TEXT NOT NULL,
    timestamp INTEGER NOT NULL UNIQUE,
    body TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    is_uncertain INTEGER NOT NULL DEFAULT 0,
    signal_timestamp INTEGER,
    sending_at INTEGER,
    fault TEXT,
    created_at INTEGER NOT NULL,
    done_at INTEGER,
    UNIQUE (why, subject, part)
  ) STRICT;
  INSERT INTO outbox_next (id, why, subject, part, chat_key, chat, timestamp, body, state, attempts, is_uncertain, signal_timestamp, sending_at,
    fault, created_at, done_at)
    WITH whole AS (SELECT id, iif(key GLOB '*:files', 1000, 0) AS files, iif(key GLOB '*:files', substr(key, 1, length(key) - 6), key) AS key FROM outbox),
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
        WHEN named.why = 'below' THEN coalesce((SELECT substr(key, 7) FROM outbox AS draft WHERE draft.id = CAST(named.subject AS INTEGER)
          AND draft.key GLOB 'draft:*'), 'draft ' || named.subject)
        ELSE named.subject END,
      files + CASE WHEN named.why = 'status'
          THEN CASE tail WHEN 'taken' THEN 0 WHEN 'waiting' THEN 1 WHEN 'done' THEN 2 WHEN 'failed' THEN 3 ELSE 4 END
        WHEN named.why = 'reply' OR named.key GLOB 'draft:*:*' THEN CAST(tail AS INTEGER) ELSE 0 END,
      chat_key, chat, timestamp, body, state, attempts, is_uncertain, signal_timestamp,
      iif(state = 'sent', coalesce(sending_at, done_at), sending_at), fault, created_at, done_at
    FROM outbox JOIN named USING (id) LEFT JOIN marked ON named.why = 'status' AND marked.name = named.head;
  DROP TABLE outbox;
  ALTER TABLE outbox_next RENAME TO outbox;
  CREATE INDEX outbox_open ON outbox (chat_key, id) WHERE done_at IS NULL;
  CREATE INDEX outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL;
  CREATE INDEX outbox_signal ON outbox (signal_timestamp) WHERE signal_timestamp IS NOT NULL;
  `,
  `
  -- What is over is found without reading all of it: the last prompt, the one that an edit names, what a session or an age removes.
  DROP INDEX posts_events;
  CREATE INDEX posts_session ON posts (session_id, event_id);
  CREATE INDEX posts_done ON posts (created_at) WHERE state = 'done';
  CREATE INDEX inbox_ended ON inbox (chat_key, id) WHERE state = 'done' AND kind = 'prompt';
  CREATE INDEX inbox_named ON inbox (chat_key, envelope ->> '$.sentAt', id) WHERE state = 'done' AND kind = 'prompt';
  `,
  `
  -- The project of this machine that a conversation works on; null for none.
  ALTER TABLE sessions ADD COLUMN project TEXT;
    `,
  `
  -- What was used, by conversation, day and person. What a conversation used before belongs to no day.
  CREATE TABLE usage (
    session_id TEXT NOT NULL,
    day TEXT NOT NULL,
    person TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_cents REAL NOT NULL,
    unpriced INTEGER NOT NULL,
    PRIMARY KEY (session_id, day, person)
  ) STRICT;
  CREATE INDEX usage_days ON usage (day);
  CREATE INDEX usage_people ON usage (person, day);
  INSERT INTO usage (session_id, day, person, input_tokens, output_tokens, cost_cents, unpriced)
    WITH said AS (SELECT session_id, coalesce(body ->> '$.isTotal', 1) AS is_total, CAST(body ->> '$.inputTokens' AS INTEGER) AS input,
      CAST(body ->> '$.outputTokens' AS INTEGER) AS output, CAST(body ->> '$.costCents' AS REAL) AS cents FROM events WHERE type = 'usage')
    SELECT session_id, '', '', iif(max(is_total), max(input), sum(input)), iif(max(is_total), max(output), sum(output)),
      coalesce(iif(max(is_total), max(cents), sum(cents)), 0), max(cents IS NULL)
    FROM said GROUP BY session_id;
  `,
  `
  -- Reminders, and questions that are asked at a time. A row goes with its last time.
  CREATE TABLE reminders (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    chat_key TEXT NOT NULL,
    chat TEXT NOT NULL,
    person TEXT NOT NULL,
    source TEXT NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('reminder', 'question')),
    text TEXT NOT NULL,
    rule TEXT,
    time_zone TEXT NOT NULL,
    due_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (chat_key, number)
  ) STRICT;
  CREATE INDEX reminders_due ON reminders (due_at);
  CREATE INDEX reminders_people ON reminders (person);
  `,
  // What a message costs stays the same after years.
  `
  CREATE INDEX events_stops ON events (session_id, at, seq) WHERE type = 'idle';
  CREATE INDEX posts_asked ON posts (session_id, id) WHERE kind = 'prompt' AND posted_at IS NOT NULL;
  `,
  // What is kept here has no time of posting.
  `
  DROP INDEX posts_asked;
  CREATE INDEX posts_prompts ON posts (session_id, id) WHERE kind = 'prompt';
  `,
];

const versionOf = (db: Database): number => db.get<{ user_version: number }>("PRAGMA user_version")?.user_version ?? 0;

/** Whether no step is missing. */
export const isNewest = (db: Database): boolean => versionOf(db) >= migrations.length;

/** Brings the schema to the newest step. @throws BridgeError `database_newer` when a later signalman wrote the file */
export function migrate(db: Database, steps: readonly string[] = migrations): void {
  const version = versionOf(db);
  if (version > steps.length)
    throw new BridgeError(
      "database_newer",
      `Cannot open the database as it is at version ${version}; this signalman knows ${steps.length}`,
    );
  if (version === steps.length) return;
  // All or none, and one wait for the disk.
  db.transaction(() => {
    for (const sql of steps.slice(version)) db.exec(sql);
    db.exec(`PRAGMA user_version = ${steps.length}`);
  });
}
