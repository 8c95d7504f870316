/**
 * The durable inbox: what was accepted from Signal and is owed an outcome.
 *
 *   accept ─▶ pending ─▶ (asking ─▶ asked) ─▶ done: answered | failed | cancelled
 *                └─▶ waiting (for a person's yes or no) ─▶ pending
 *
 * Rows of one chat are worked in order; the oldest open row blocks the later ones.
 */
import type { Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { PromptState } from "../claude/backend.ts";
import type { Database } from "./database.ts";

export type InboxKind = "prompt" | "command" | "approval";
export type Outcome = "answered" | "failed" | "cancelled";

export type InboxRow = {
  readonly id: number;
  readonly chatKey: string;
  readonly kind: InboxKind;
  readonly envelope: Envelope;
  readonly state: "pending" | "waiting" | "done";
  readonly sessionId: string | null;
  readonly prompt: PromptState;
  readonly attempts: number;
  readonly notBefore: Millis;
  /** The fault the person has been told of for this row, so that it is told once. */
  readonly told: string | null;
  readonly receivedAt: Millis;
};

type Raw = {
  id: number;
  chat_key: string;
  kind: InboxKind;
  envelope: string;
  state: InboxRow["state"];
  session_id: string | null;
  asked_at: number | null;
  asked_text: string | null;
  event_id: string | null;
  attempts: number;
  not_before: number;
  told: string | null;
  received_at: number;
};

export interface Inbox {
  /** False when the same message is there already (a redelivery). */
  accept(key: string, kind: InboxKind, envelope: Envelope, now: Millis): boolean;
  /** The oldest open row of a chat of one of the kinds, due or not. */
  head(chatKey: string, kind: InboxKind): InboxRow | null;
  /** Chats whose oldest open prompt is pending and behind no open command (`/new`, say, comes first), with the time it is due. */
  heads(): { readonly chatKey: string; readonly notBefore: Millis }[];
  /** Open commands and approvals, oldest first. */
  openControls(): InboxRow[];
  openPrompts(chatKey: string): InboxRow[];
  get(id: number): InboxRow | null;
  /** The row of a message of this person, for edits and deletes that name it. */
  findBySentAt(chatKey: string, source: string, sentAt: Millis): InboxRow | null;
  /** The request goes out with this text at `askedAt`, the server's time: from here on its fate may be unknown. */
  markAsking(id: number, sessionId: string, askedAt: Millis, text: string): void;
  markAsked(id: number, sessionId: string, eventId: string): void;
  /** Never asked, or asked in a session that is gone: the next try starts anew. Not a row that has ended meanwhile. */
  markNew(id: number): void;
  /** For a person's yes or no, until `until`. */
  markWaiting(id: number, until: Millis): void;
  /** Prompts that wait for a yes or no, with the time at which the question expires. */
  waiting(): { readonly id: number; readonly chatKey: string; readonly until: Millis }[];
  markPending(id: number): void;
  postpone(id: number, attempts: number, notBefore: Millis): void;
  /** No row waits beyond `latest`. */
  hasten(latest: Millis): void;
  markTold(id: number, code: string): void;
  finish(id: number, outcome: Outcome, now: Millis): void;
  /** Event ids of prompts that belong to a row of this session. */
  mappedEventIds(sessionId: string): Set<string>;
  pending(): { readonly count: number; readonly oldestAt: Millis | null };
  /** Removes done rows older than `before`; resolves to their number. */
  prune(before: Millis): number;
}

const columns =
  "id, chat_key, kind, envelope, state, session_id, asked_at, asked_text, event_id, attempts, not_before, told, received_at";

export function createInbox(db: Database): Inbox {
  return {
    ...createReads(db),
    accept: (key, kind, envelope, now) =>
      db.run(
        "INSERT INTO inbox (key, chat_key, kind, envelope, state, received_at) VALUES (?, ?, ?, ?, 'pending', ?) ON CONFLICT (key) DO NOTHING",
        key,
        envelope.chat ? chatKey(envelope.chat) : "none",
        kind,
        JSON.stringify(envelope),
        now,
      ).changes > 0,
    markAsking: (id, sessionId, askedAt, text) =>
      void db.run(
        "UPDATE inbox SET session_id = ?, asked_at = ?, asked_text = ?, event_id = NULL WHERE id = ?",
        sessionId,
        askedAt,
        text,
        id,
      ),
    markAsked: (id, sessionId, eventId) =>
      void db.run(
        "UPDATE inbox SET session_id = ?, event_id = ?, asked_text = NULL WHERE id = ?",
        sessionId,
        eventId,
        id,
      ),
    markNew: (id) =>
      void db.run(
        `UPDATE inbox SET session_id = NULL, asked_at = NULL, asked_text = NULL, event_id = NULL, state = 'pending',
           not_before = iif(state = 'waiting', 0, not_before) WHERE id = ? AND state <> 'done'`,
        id,
      ),
    markWaiting: (id, until) =>
      void db.run("UPDATE inbox SET state = 'waiting', not_before = ? WHERE id = ? AND state = 'pending'", until, id),
    waiting: () =>
      db.all(
        "SELECT id, chat_key AS chatKey, not_before AS until FROM inbox WHERE state <> 'done' AND state = 'waiting'",
      ),
    markPending: (id) =>
      void db.run("UPDATE inbox SET state = 'pending', not_before = 0 WHERE id = ? AND state = 'waiting'", id),
    postpone: (id, attempts, notBefore) =>
      void db.run("UPDATE inbox SET attempts = ?, not_before = ? WHERE id = ?", attempts, notBefore, id),
    hasten: (latest) =>
      void db.run(
        "UPDATE inbox SET not_before = ? WHERE state <> 'done' AND state = 'pending' AND not_before > ?",
        latest,
        latest,
      ),
    markTold: (id, code) => void db.run("UPDATE inbox SET told = ? WHERE id = ?", code, id),
    finish: (id, outcome, now) =>
      void db.run(
        "UPDATE inbox SET state = 'done', outcome = ?, done_at = ? WHERE id = ? AND state <> 'done'",
        outcome,
        now,
        id,
      ),
    prune: (before) => db.run("DELETE FROM inbox WHERE state = 'done' AND done_at < ?", before).changes,
  };
}

type Reads = Pick<
  Inbox,
  "head" | "heads" | "openControls" | "openPrompts" | "get" | "findBySentAt" | "mappedEventIds" | "pending"
>;

function createReads(db: Database): Reads {
  const one = (sql: string, ...params: (string | number)[]): InboxRow | null => {
    const raw = db.get<Raw>(sql, ...params);
    return raw ? toRow(raw) : null;
  };
  const many = (sql: string, ...params: (string | number)[]): InboxRow[] => db.all<Raw>(sql, ...params).map(toRow);
  return {
    head: (chatKey, kind) =>
      one(
        `SELECT ${columns} FROM inbox WHERE chat_key = ? AND state <> 'done' AND kind = ? ORDER BY id LIMIT 1`,
        chatKey,
        kind,
      ),
    heads: () =>
      db.all<{ chatKey: string; notBefore: number }>(
        `SELECT chat_key AS chatKey, not_before AS notBefore FROM inbox
         WHERE state = 'pending' AND id IN (SELECT min(id) FROM inbox WHERE state <> 'done' AND kind = 'prompt' GROUP BY chat_key)
         AND NOT EXISTS (SELECT 1 FROM inbox AS command WHERE command.state <> 'done' AND command.kind = 'command'
           AND command.chat_key = inbox.chat_key AND command.id < inbox.id)`,
      ),
    openControls: () => many(`SELECT ${columns} FROM inbox WHERE state <> 'done' AND kind <> 'prompt' ORDER BY id`),
    openPrompts: (chatKey) =>
      many(
        `SELECT ${columns} FROM inbox WHERE chat_key = ? AND state <> 'done' AND kind = 'prompt' ORDER BY id`,
        chatKey,
      ),
    get: (id) => one(`SELECT ${columns} FROM inbox WHERE id = ?`, id),
    findBySentAt: (chatKey, source, sentAt) =>
      one(
        `SELECT ${columns} FROM inbox WHERE chat_key = ? AND state <> 'done' AND key LIKE ? ORDER BY id LIMIT 1`,
        chatKey,
        `%|${source}|%|${sentAt}|%`,
      ),
    mappedEventIds: (sessionId) =>
      new Set(
        db
          .all<{ event_id: string }>(
            "SELECT event_id FROM inbox WHERE session_id = ? AND event_id IS NOT NULL",
            sessionId,
          )
          .map((row) => row.event_id),
      ),
    pending: () =>
      db.get<{ count: number; oldestAt: number | null }>(
        "SELECT count(*) AS count, min(received_at) AS oldestAt FROM inbox WHERE state <> 'done'",
      ) ?? { count: 0, oldestAt: null },
  };
}

function toRow(raw: Raw): InboxRow {
  return {
    id: raw.id,
    chatKey: raw.chat_key,
    kind: raw.kind,
    envelope: JSON.parse(raw.envelope) as Envelope,
    state: raw.state,
    sessionId: raw.session_id,
    prompt:
      raw.event_id !== null
        ? { kind: "asked", eventId: raw.event_id }
        : raw.asked_at !== null
          ? { kind: "uncertain", askedAt: raw.asked_at, text: raw.asked_text ?? "" }
          : { kind: "new" },
    attempts: raw.attempts,
    notBefore: raw.not_before,
    told: raw.told,
    receivedAt: raw.received_at,
  };
}
