/** The tables of a new database, and of every older one once its steps are done (`migrations.ts`). The native transport has its own. */

export const schema = `
-- One conversation with Claude, bound to one chat. The remote truth is its event log; context is the small settings.
CREATE TABLE IF NOT EXISTS sessions (
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
  synced_at INTEGER NOT NULL DEFAULT 0,
  -- The project of this machine that it works on; null for none.
  project TEXT
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS sessions_active ON sessions (chat_key) WHERE state = 'active';
CREATE INDEX IF NOT EXISTS sessions_used ON sessions (used_at) WHERE state = 'active';
CREATE INDEX IF NOT EXISTS sessions_synced ON sessions (synced_at) WHERE state = 'active';
CREATE INDEX IF NOT EXISTS sessions_stale ON sessions (is_stale) WHERE state = 'active' AND is_stale = 1;

-- The event log, upserted by id; at is processed_at (null: queued, Claude has not seen it).
CREATE TABLE IF NOT EXISTS events (
  seq INTEGER PRIMARY KEY,
  session_id TEXT NOT NULL REFERENCES sessions (id),
  id TEXT NOT NULL,
  type TEXT NOT NULL,
  at INTEGER,
  body TEXT NOT NULL,
  UNIQUE (session_id, id)
) STRICT;
CREATE INDEX IF NOT EXISTS events_order ON events (session_id, at, seq);
CREATE INDEX IF NOT EXISTS events_stops ON events (session_id, at, seq) WHERE type = 'idle';

-- How a message of a person stands; what is asked of Claude for it is its post. versions: the times of sending that name it, those of
-- the versions it replaced included.
CREATE TABLE IF NOT EXISTS inbox (
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
CREATE INDEX IF NOT EXISTS inbox_open ON inbox (chat_key, id) WHERE state = 'open';
CREATE INDEX IF NOT EXISTS inbox_done ON inbox (done_at) WHERE state = 'done';
CREATE INDEX IF NOT EXISTS inbox_ended ON inbox (chat_key, id) WHERE state = 'done' AND kind = 'prompt';
CREATE INDEX IF NOT EXISTS inbox_named ON inbox (chat_key, envelope ->> '$.sentAt', id) WHERE state = 'done' AND kind = 'prompt';

-- Why a message exists is typed: why and subject (and part) are its identity; session_id: whose entry the subject is, '' for none. uses:
-- the ids of what a question shows, as JSON; the first is its subject. Waits are memory.
CREATE TABLE IF NOT EXISTS outbox (
  id INTEGER PRIMARY KEY,
  why TEXT NOT NULL,
  session_id TEXT NOT NULL DEFAULT '',
  subject TEXT NOT NULL,
  uses TEXT,
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
  UNIQUE (why, session_id, subject, part)
) STRICT;
CREATE INDEX IF NOT EXISTS outbox_open ON outbox (chat_key, id) WHERE done_at IS NULL;
CREATE INDEX IF NOT EXISTS outbox_marks ON outbox (chat_key, id) WHERE done_at IS NULL AND why = 'mark';
CREATE INDEX IF NOT EXISTS outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS outbox_signal ON outbox (signal_timestamp) WHERE signal_timestamp IS NOT NULL;

-- What is asked of Claude, as durable as what is sent to Signal. subject: the inbox id of a prompt or of the prompt that an interrupt
-- ends; the tool use of a confirm or result. request is built once and kept as it was sent, until the end.
CREATE TABLE IF NOT EXISTS posts (
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
CREATE INDEX IF NOT EXISTS posts_open ON posts (session_id, id) WHERE state <> 'done';
CREATE INDEX IF NOT EXISTS posts_session ON posts (session_id, event_id);
CREATE INDEX IF NOT EXISTS posts_done ON posts (created_at) WHERE state = 'done';
CREATE INDEX IF NOT EXISTS posts_prompts ON posts (session_id, id) WHERE kind = 'prompt';

CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

-- Files that Claude made and that have been dealt with: their message outlives the outbox by this.
CREATE TABLE IF NOT EXISTS files (
  session_id TEXT NOT NULL REFERENCES sessions (id),
  id TEXT NOT NULL,
  PRIMARY KEY (session_id, id)
) STRICT, WITHOUT ROWID;
-- Sessions to be looked through for files; few, and soon done.
CREATE TABLE IF NOT EXISTS file_looks (
  session_id TEXT PRIMARY KEY REFERENCES sessions (id),
  looks INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The journal of what Claude asked to do on this machine: one row a call, by the id of its event.
CREATE TABLE IF NOT EXISTS calls (
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
CREATE INDEX IF NOT EXISTS calls_open ON calls (session_id, seen_at) WHERE state <> 'posted';
CREATE INDEX IF NOT EXISTS calls_session ON calls (session_id, seen_at);
CREATE INDEX IF NOT EXISTS calls_started ON calls (id) WHERE state = 'started';
CREATE INDEX IF NOT EXISTS calls_posted ON calls (changed_at) WHERE state = 'posted';

-- What files were before the first write of a turn; their bytes are files of the home, by hash. Null: there was none.
CREATE TABLE IF NOT EXISTS kept (
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
CREATE INDEX IF NOT EXISTS kept_order ON kept (session_id, root, seq);
CREATE INDEX IF NOT EXISTS kept_age ON kept (at);
CREATE INDEX IF NOT EXISTS kept_hash ON kept (before);

-- What was used, by conversation, day and person. What a conversation used before belongs to no day.
CREATE TABLE IF NOT EXISTS usage (
  session_id TEXT NOT NULL,
  day TEXT NOT NULL,
  person TEXT NOT NULL,
  input_tokens INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cost_cents REAL NOT NULL,
  unpriced INTEGER NOT NULL,
  PRIMARY KEY (session_id, day, person)
) STRICT;
CREATE INDEX IF NOT EXISTS usage_days ON usage (day);
CREATE INDEX IF NOT EXISTS usage_people ON usage (person, day);

-- Reminders, and questions that are asked at a time. A row goes with its last time.
CREATE TABLE IF NOT EXISTS reminders (
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
CREATE INDEX IF NOT EXISTS reminders_due ON reminders (due_at);
CREATE INDEX IF NOT EXISTS reminders_people ON reminders (person);
`;
