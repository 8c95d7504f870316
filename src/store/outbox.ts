/**
 * The durable outbox: written, timestamp included, before anything is sent.
 *
 *   add ─▶ queued ─▶ sending ─▶ sent | failed
 *             ▲         │ not sent for sure, or outcome unknown (counted): again, with the same timestamp
 *             └─────────┘
 */
import type { Chat, Millis, OutboundBody } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { Database } from "./database.ts";
import { createDrafts, type Drafts } from "./drafts.ts";

export type OutboxRow = {
  readonly id: number;
  readonly key: string;
  readonly chatKey: string;
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly body: OutboundBody;
  readonly state: "queued" | "sending" | "sent" | "failed";
  readonly attempts: number;
  readonly notBefore: Millis;
  readonly signalTimestamp: Millis | null;
  readonly createdAt: Millis;
};

type Raw = {
  id: number;
  key: string;
  chat_key: string;
  chat: string;
  timestamp: number;
  body: string;
  state: OutboxRow["state"];
  attempts: number;
  not_before: number;
  signal_timestamp: number | null;
  created_at: number;
};

export interface Outbox extends Drafts {
  /** Adds a message unless one with this key exists; chooses a Signal timestamp that is unique and grows. */
  add(key: string, chat: Chat, body: OutboundBody, now: Millis): boolean;
  head(chatKey: string): OutboxRow | null;
  heads(): { readonly chatKey: string; readonly notBefore: Millis }[];
  byKey(key: string): OutboxRow | null;
  /** The message with this identity on Signal, for reactions and quotes that name it. */
  bySignalTimestamp(timestamp: Millis): OutboxRow | null;
  /** The message for which this timestamp was chosen. */
  byTimestamp(timestamp: Millis): OutboxRow | null;
  markSending(id: number): void;
  markSent(id: number, signalTimestamp: Millis, now: Millis): void;
  markFailed(id: number, code: string, now: Millis): void;
  /** Back to the queue; `isUncertain`: it may have gone out. */
  requeue(id: number, notBefore: Millis, isUncertain: boolean): void;
  /** No row waits beyond `latest`. */
  hasten(latest: Millis): void;
  /** After a restart: rows whose send was under way, as their outcome is unknown. */
  recover(): number;
  pending(): { readonly count: number; readonly oldestAt: Millis | null };
  prune(before: Millis): number;
}

const columns = "id, key, chat_key, chat, timestamp, body, state, attempts, not_before, signal_timestamp, created_at";

export function createOutbox(db: Database): Outbox {
  const one = (sql: string, ...params: (string | number)[]): OutboxRow | null => {
    const raw = db.get<Raw>(sql, ...params);
    return raw ? toRow(raw) : null;
  };
  const add: Outbox["add"] = (key, chat, body, now) =>
    db.run(
      `INSERT INTO outbox (key, chat_key, chat, timestamp, body, state, created_at)
         VALUES (?, ?, ?, max(?, coalesce((SELECT max(timestamp) FROM outbox), 0) + 1), ?, 'queued', ?) ON CONFLICT (key) DO NOTHING`,
      key,
      chatKey(chat),
      JSON.stringify(chat),
      now,
      JSON.stringify(body),
      now,
    ).changes > 0;
  const byKey: Outbox["byKey"] = (key) => one(`SELECT ${columns} FROM outbox WHERE key = ?`, key);
  return {
    add,
    byKey,
    ...createDrafts(db, { add, byKey }),
    head: (chatKey) =>
      one(
        `SELECT ${columns} FROM outbox WHERE chat_key = ? AND state IN ('queued', 'sending') ORDER BY id LIMIT 1`,
        chatKey,
      ),
    heads: () =>
      db.all<{ chatKey: string; notBefore: number }>(
        `SELECT chat_key AS chatKey, not_before AS notBefore FROM outbox
         WHERE id IN (SELECT min(id) FROM outbox WHERE state IN ('queued', 'sending') GROUP BY chat_key)`,
      ),
    bySignalTimestamp: (timestamp) =>
      one(`SELECT ${columns} FROM outbox WHERE signal_timestamp = ? LIMIT 1`, timestamp),
    byTimestamp: (timestamp) => one(`SELECT ${columns} FROM outbox WHERE timestamp = ?`, timestamp),
    markSending: (id) => void db.run("UPDATE outbox SET state = 'sending', attempts = attempts + 1 WHERE id = ?", id),
    markSent: (id, signalTimestamp, now) =>
      void db.run(
        "UPDATE outbox SET state = 'sent', signal_timestamp = ?, done_at = ? WHERE id = ?",
        signalTimestamp,
        now,
        id,
      ),
    markFailed: (id, code, now) =>
      void db.run("UPDATE outbox SET state = 'failed', fault = ?, done_at = ? WHERE id = ?", code, now, id),
    requeue: (id, notBefore, isUncertain) =>
      void db.run(
        "UPDATE outbox SET state = 'queued', not_before = ?, is_uncertain = max(is_uncertain, ?) WHERE id = ?",
        notBefore,
        isUncertain ? 1 : 0,
        id,
      ),
    hasten: (latest) =>
      void db.run(
        "UPDATE outbox SET not_before = ? WHERE state IN ('queued', 'sending') AND not_before > ?",
        latest,
        latest,
      ),
    recover: () =>
      db.run(
        "UPDATE outbox SET state = 'queued', is_uncertain = 1 WHERE state IN ('queued', 'sending') AND state = 'sending'",
      ).changes,
    pending: () => {
      const row = db.get<{ count: number; oldestAt: number | null }>(
        "SELECT count(*) AS count, min(created_at) AS oldestAt FROM outbox WHERE state IN ('queued', 'sending')",
      );
      return row ?? { count: 0, oldestAt: null };
    },
    prune: (before) => db.run("DELETE FROM outbox WHERE done_at < ?", before).changes,
  };
}

function toRow(raw: Raw): OutboxRow {
  return {
    id: raw.id,
    key: raw.key,
    chatKey: raw.chat_key,
    chat: JSON.parse(raw.chat) as Chat,
    timestamp: raw.timestamp,
    body: JSON.parse(raw.body) as OutboundBody,
    state: raw.state,
    attempts: raw.attempts,
    notBefore: raw.not_before,
    signalTimestamp: raw.signal_timestamp,
    createdAt: raw.created_at,
  };
}
