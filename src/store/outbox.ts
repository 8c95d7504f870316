/**
 * The durable outbox: written, timestamp included, before anything is sent.
 *
 *   add ─▶ queued ─▶ sending ─▶ sent | failed
 *             ▲         │ not sent for sure, or outcome unknown (counted): again, with the same timestamp
 *             └─────────┘
 *
 * A placeholder `draft:<inbox id>` is edited while Claude writes, and ends as the answer, or, where that took long, with a word
 * that it stands below: an edit rings no phone. An edit names its message by the timestamp chosen for it; the send loop puts
 * the newest version's in its place.
 */
import type { Chat, Millis, OutboundBody } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { silentWithinMs } from "../core/progress.ts";
import { statements, type Database } from "./database.ts";

export type OutboxRow = {
  readonly id: number;
  readonly key: string;
  readonly chatKey: string;
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly body: OutboundBody;
  readonly state: "queued" | "sending" | "sent" | "failed";
  readonly attempts: number;
  /** An attempt may have reached the phones. */
  readonly isUncertain: 0 | 1;
  readonly notBefore: Millis;
  readonly signalTimestamp: Millis | null;
  /** When the first attempt that may have reached the phones began. */
  readonly sendingAt: Millis | null;
  readonly createdAt: Millis;
};

type Raw = Omit<OutboxRow, "chat" | "body"> & { readonly chat: string; readonly body: string };

const select = `SELECT id, key, chat_key AS chatKey, chat, timestamp, body, state, attempts, is_uncertain AS isUncertain, not_before AS notBefore,
  signal_timestamp AS signalTimestamp, sending_at AS sendingAt, created_at AS createdAt FROM outbox`;

const toRow = (raw: Raw): OutboxRow => ({
  ...raw,
  chat: JSON.parse(raw.chat) as Chat,
  body: JSON.parse(raw.body) as OutboundBody,
});

export type Outbox = ReturnType<typeof createOutbox>;

export function createOutbox(db: Database) {
  const { one, run, get, all } = statements(db, select, toRow);
  return {
    ...createAdding(db),
    /** Chats with anything to send, those that have waited longest first. */
    openChats: () =>
      all<{ chatKey: string }>`
        SELECT chat_key AS chatKey FROM outbox WHERE state IN ('queued', 'sending') GROUP BY chat_key ORDER BY min(id)`.map(
        (row) => row.chatKey,
      ),
    head: (chat: string) => one`WHERE chat_key = ${chat} AND state IN ('queued', 'sending') ORDER BY id LIMIT 1`,
    byKey: (key: string) => one`WHERE key = ${key}`,
    /** The message for which this timestamp was chosen. */
    byTimestamp: (timestamp: Millis) => one`WHERE timestamp = ${timestamp}`,
    /** The last edit of a draft that is on the phones, or may be (then it has failed): what comes next must name it. */
    lastEdit: (draftKey: string) =>
      one`WHERE key > ${`${draftKey}:`} AND key < ${`${draftKey};`} AND (state = 'sent' OR fault = 'send_uncertain')
        ORDER BY id DESC LIMIT 1`,
    markSending: (id: number, now: Millis) =>
      run`UPDATE outbox SET state = 'sending', attempts = attempts + 1, sending_at = coalesce(sending_at, ${now}) WHERE id = ${id}`,
    /** What it carried is with Signal now. Nothing where it has been taken back meanwhile; so the next two. */
    markSent: (id: number, signalTimestamp: Millis, now: Millis) =>
      run`UPDATE outbox SET state = 'sent', signal_timestamp = ${signalTimestamp}, done_at = ${now},
        body = json_replace(body, '$.files', json_array()) WHERE id = ${id} AND done_at IS NULL`,
    markFailed: (id: number, code: string, now: Millis) =>
      run`UPDATE outbox SET state = 'failed', fault = ${code}, done_at = ${now} WHERE id = ${id} AND done_at IS NULL`,
    /** Back to the queue; `isUncertain`: it may have gone out. */
    requeue: (id: number, attempts: number, notBefore: Millis, isUncertain: boolean) =>
      run`UPDATE outbox SET state = 'queued', attempts = ${attempts}, not_before = ${notBefore},
        is_uncertain = max(is_uncertain, ${isUncertain ? 1 : 0}), sending_at = iif(${isUncertain ? 1 : 0}, sending_at, NULL) WHERE id = ${id} AND done_at IS NULL`,
    /** No row waits beyond `latest`. */
    hasten: (latest: Millis) =>
      run`UPDATE outbox SET not_before = ${latest} WHERE state IN ('queued', 'sending') AND not_before > ${latest}`,
    /** After a restart: rows whose send was under way, as their outcome is unknown. */
    recover: () =>
      run`UPDATE outbox SET state = 'queued', is_uncertain = 1 WHERE state IN ('queued', 'sending') AND state = 'sending'`,
    pending: () =>
      get<{ count: number; oldestAt: Millis | null }>`
        SELECT count(*) AS count, min(created_at) AS oldestAt FROM outbox WHERE state IN ('queued', 'sending')` ?? {
        count: 0,
        oldestAt: null,
      },
  };
}

function createAdding(db: Database) {
  const { one, run } = statements(db, select, toRow);
  /** Adds a message unless one with this key exists; chooses a Signal timestamp that is unique and grows. */
  const add = (key: string, chat: Chat, body: OutboundBody, now: Millis): boolean =>
    run`INSERT INTO outbox (key, chat_key, chat, timestamp, body, state, created_at)
      VALUES (${key}, ${chatKey(chat)}, ${JSON.stringify(chat)}, max(${now}, coalesce((SELECT max(timestamp) FROM outbox), 0) + 1),
        ${JSON.stringify(body)}, 'queued', ${now}) ON CONFLICT (key) DO NOTHING` > 0;
  /** The placeholder that the answer to the prompt at work in this session takes the place of; null where there is none (left). */
  const openDraft = (sessionId: string): OutboxRow | null =>
    one`AS draft WHERE state <> 'failed' AND key = 'draft:' || (
         SELECT id FROM inbox WHERE session_id = ${sessionId} AND state <> 'done' AND kind = 'prompt' ORDER BY id LIMIT 1)
       AND NOT EXISTS (SELECT 1 FROM outbox AS answer WHERE answer.chat_key = draft.chat_key AND answer.id > draft.id
         AND answer.key NOT LIKE 'draft:%' AND json_extract(answer.body, '$.targetSentAt') = draft.timestamp)`;
  /** Takes back what has surely not gone out; false where it has, or may have. */
  const supersede = (id: number, now: Millis): boolean =>
    run`UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ${now}
      WHERE id = ${id} AND state = 'queued' AND attempts = 0` > 0;
  /** The same for every message whose key begins with `prefix` and a colon, but for one. */
  const supersedeAll = (prefix: string, now: Millis, butKey = ""): number =>
    run`UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ${now}
      WHERE key > ${`${prefix}:`} AND key < ${`${prefix};`} AND key <> ${butKey} AND state = 'queued' AND attempts = 0`;
  /**
   * Adds a message that takes the place of the open draft where there is one: as an edit of it, files in a message of their own.
   * Where the draft has stood for long it is a message of its own, for that one rings, and the draft says where it is.
   */
  const addAnswer = (key: string, sessionId: string, chat: Chat, body: OutboundBody, now: Millis): void => {
    const draft = body.kind === "text" ? openDraft(sessionId) : null;
    if (body.kind !== "text" || draft === null) return void add(key, chat, body, now);
    supersedeAll(draft.key, now);
    if (supersede(draft.id, now)) return void add(key, chat, body, now);
    const edit = { kind: "edit", targetSentAt: draft.timestamp } as const;
    if (now - draft.createdAt > silentWithinMs) {
      add(key, chat, body, now);
      return void add(`below:${draft.id}`, chat, { ...edit, text: "(see below)", styles: [] }, now);
    }
    const { text, styles, files } = body;
    add(key, chat, { ...edit, text, styles }, now);
    if (files.length > 0) add(`${key}:files`, chat, { ...body, text: "", styles: [] }, now);
  };
  return {
    add,
    openDraft,
    supersede,
    supersedeAll,
    addAnswer,
    /** Says in place of the open draft that nothing more comes. */
    endDraft(key: string, sessionId: string, chat: Chat, text: string, now: Millis): void {
      const draft = openDraft(sessionId);
      if (draft === null) return;
      supersedeAll(draft.key, now);
      if (!supersede(draft.id, now))
        add(key, chat, { kind: "edit", targetSentAt: draft.timestamp, text, styles: [] }, now);
    },
  };
}
