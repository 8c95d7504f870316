/**
 * The durable outbox: written, timestamp included, before anything is sent.
 *
 *   add ─▶ queued ─▶ sending ─▶ sent | failed
 *             ▲         │ not sent for sure, or outcome unknown (counted): again, with the same timestamp
 *             └─────────┘
 *
 * Why a message exists is typed: `why`, `subject` and `part` are its identity, so that it exists once. The preview of a prompt's
 * answer (`draft`, subject the inbox id, part 0) is edited while Claude writes (parts 1, 2 …), and ends as the answer, or, where that
 * took long, with a word that it stands below: an edit rings no phone. An edit names its message by the timestamp chosen for it; the
 * send loop puts the newest version's on Signal in its place.
 */
import type { Stage, Why as Reason } from "../core/changes.ts";
import type { Chat, Millis, OutboundBody } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { silentWithinMs } from "../core/progress.ts";
import { statements, type Database } from "./database.ts";

/** Besides what a decision says: previews, marks on the messages of people, files that Claude made, messages of the command line. */
export type Why = Reason | "draft" | "below" | "mark" | "file" | "send";

export type OutboxRow = {
  readonly id: number;
  readonly why: Why;
  readonly subject: string;
  readonly part: number;
  readonly chatKey: string;
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly body: OutboundBody;
  readonly state: "queued" | "sending" | "sent" | "failed";
  readonly attempts: number;
  /** An attempt may have reached the phones. */
  readonly isUncertain: 0 | 1;
  readonly signalTimestamp: Millis | null;
  /** When the first attempt that may have reached the phones began. */
  readonly sendingAt: Millis | null;
  readonly createdAt: Millis;
};

type Raw = Omit<OutboxRow, "chat" | "body"> & { readonly chat: string; readonly body: string };

const select = `SELECT id, why, subject, part, chat_key AS chatKey, chat, timestamp, body, state, attempts,
  is_uncertain AS isUncertain, signal_timestamp AS signalTimestamp, sending_at AS sendingAt, created_at AS createdAt FROM outbox`;

const toRow = (raw: Raw): OutboxRow => ({
  ...raw,
  chat: JSON.parse(raw.chat) as Chat,
  body: JSON.parse(raw.body) as OutboundBody,
});

export type Outbox = ReturnType<typeof createOutbox>;

export function createOutbox(db: Database) {
  const { one, many, run, get, all } = statements(db, select, toRow);
  return {
    ...createAdding(db),
    /** Chats with anything to send, those that have waited longest first. */
    openChats: () =>
      all<{ chatKey: string }>`
        SELECT chat_key AS chatKey FROM outbox WHERE done_at IS NULL GROUP BY chat_key ORDER BY min(id)`.map(
        (row) => row.chatKey,
      ),
    head: (chat: string) => one`WHERE chat_key = ${chat} AND done_at IS NULL ORDER BY id LIMIT 1`,
    /** Messages with this reason and subject, in the order of their parts. */
    of: (why: Why, subject: string) => many`WHERE why = ${why} AND subject = ${subject} ORDER BY part`,
    has: (why: Why, subject: string): boolean =>
      get`SELECT 1 FROM outbox WHERE why = ${why} AND subject = ${subject} LIMIT 1` !== undefined,
    /** The message for which this timestamp was chosen. */
    byTimestamp: (timestamp: Millis) => one`WHERE timestamp = ${timestamp}`,
    /** The last edit of a preview that is on the phones, or may be (then it has failed): what comes next must name it. */
    lastEdit: (subject: string) =>
      one`WHERE why = 'draft' AND subject = ${subject} AND part > 0 AND (state = 'sent' OR fault = 'send_uncertain') ORDER BY part DESC LIMIT 1`,
    markSending: (id: number, now: Millis) =>
      run`UPDATE outbox SET state = 'sending', attempts = attempts + 1, sending_at = coalesce(sending_at, ${now}) WHERE id = ${id}`,
    /** What it carried is with Signal now. Nothing where it has been taken back meanwhile; so the next two. */
    markSent: (id: number, signalTimestamp: Millis, now: Millis) =>
      run`UPDATE outbox SET state = 'sent', signal_timestamp = ${signalTimestamp}, done_at = ${now},
        body = json_replace(body, '$.files', json_array()) WHERE id = ${id} AND done_at IS NULL`,
    markFailed: (id: number, code: string, now: Millis) =>
      run`UPDATE outbox SET state = 'failed', fault = ${code}, done_at = ${now} WHERE id = ${id} AND done_at IS NULL`,
    /** Back to the queue; `isUncertain`: it may have gone out. */
    requeue: (id: number, attempts: number, isUncertain: boolean) =>
      run`UPDATE outbox SET state = 'queued', attempts = ${attempts},
        is_uncertain = max(is_uncertain, ${isUncertain ? 1 : 0}),
        sending_at = iif(${isUncertain ? 1 : 0}, sending_at, NULL) WHERE id = ${id} AND done_at IS NULL`,
    /** After a restart: rows whose send was under way, as their outcome is unknown. */
    recover: () =>
      run`UPDATE outbox SET state = 'queued', is_uncertain = 1 WHERE done_at IS NULL AND state = 'sending'`,
    pending: () =>
      get<{ count: number; oldestAt: Millis | null }>`
        SELECT count(*) AS count, min(created_at) AS oldestAt FROM outbox WHERE done_at IS NULL` ?? {
        count: 0,
        oldestAt: null,
      },
  };
}

function createAdding(db: Database) {
  const { one, many, run, get } = statements(db, select, toRow);
  /** Adds a message unless this one exists; chooses a Signal timestamp that is unique and grows. Resolves to whether it is new. */
  const add = (why: Why, subject: string, part: number, chat: Chat, body: OutboundBody, now: Millis): boolean =>
    run`INSERT INTO outbox (why, subject, part, chat_key, chat, timestamp, body, state, created_at)
      VALUES (${why}, ${subject}, ${part}, ${chatKey(chat)}, ${JSON.stringify(chat)},
        max(${now}, coalesce((SELECT max(timestamp) FROM outbox), 0) + 1), ${JSON.stringify(body)}, 'queued', ${now})
      ON CONFLICT (why, subject, part) DO NOTHING` > 0;
  /** Takes back what has surely not gone out; false where it has, or may have. */
  const supersede = (id: number, now: Millis): boolean =>
    run`UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ${now}
      WHERE id = ${id} AND state = 'queued' AND attempts = 0` > 0;
  /** The preview that the answer to this prompt takes the place of; null where there is none (left). */
  const openDraft = (inboxId: number): OutboxRow | null => {
    const draft = one`WHERE why = 'draft' AND subject = ${String(inboxId)} AND part = 0 AND state <> 'failed'`;
    if (draft === null) return null;
    const isOver = get`SELECT 1 FROM outbox WHERE chat_key = ${draft.chatKey} AND id > ${draft.id} AND why <> 'draft'
      AND body ->> '$.targetSentAt' = ${draft.timestamp} AND body ->> '$.kind' <> 'reaction' LIMIT 1`;
    return isOver === undefined ? draft : null;
  };
  /** The preview that is on the phones and is to be changed; what of it has not gone out is taken back. */
  const takeDraft = (inboxId: number, now: Millis): OutboxRow | null => {
    const draft = openDraft(inboxId);
    if (draft === null) return null;
    for (const edit of many`WHERE why = 'draft' AND subject = ${draft.subject} AND part > 0`) supersede(edit.id, now);
    return supersede(draft.id, now) ? null : draft;
  };
  return {
    add,
    /** Adds, or changes, the preview of a prompt's answer; resolves to the number of changes so far. */
    addDraft(
      inboxId: number,
      chat: Chat,
      text: string,
      styles: Extract<OutboundBody, { kind: "text" }>["styles"],
      now: Millis,
    ): number {
      const subject = String(inboxId);
      const body = { kind: "text", text, styles, quote: null, files: [] } as const;
      if (add("draft", subject, 0, chat, body, now)) return 1;
      const draft = openDraft(inboxId);
      // Shown in an earlier life, and answered or given up since.
      if (draft === null) return Infinity;
      const edits = many`WHERE why = 'draft' AND subject = ${subject} AND part > 0 ORDER BY part`;
      for (const edit of edits) supersede(edit.id, now);
      const part = (edits.at(-1)?.part ?? 0) + 1;
      add("draft", subject, part, chat, { kind: "edit", targetSentAt: draft.timestamp, text, styles }, now);
      return part + 1;
    },
    /**
     * Adds a message that takes the place of a prompt's preview where there is one: as an edit of it, files in a message of their own.
     * Where the preview has stood for long it is a message of its own, for that one rings, and the preview says where it is.
     */
    addAnswer(
      why: Why,
      subject: string,
      part: number,
      inboxId: number,
      chat: Chat,
      body: OutboundBody,
      now: Millis,
    ): void {
      const draft = body.kind === "text" ? takeDraft(inboxId, now) : null;
      if (body.kind !== "text" || draft === null) return void add(why, subject, part, chat, body, now);
      const edit = { kind: "edit", targetSentAt: draft.timestamp } as const;
      if (now - draft.createdAt > silentWithinMs) {
        add(why, subject, part, chat, body, now);
        return void add("below", draft.subject, 0, chat, { ...edit, text: "(see below)", styles: [] }, now);
      }
      const { text, styles, files } = body;
      const isNew = add(why, subject, part, chat, { ...edit, text, styles }, now);
      if (isNew && files.length > 0) add(why, subject, part + filesPart, chat, { ...body, text: "", styles: [] }, now);
    },
    /** Says in place of the preview that nothing more comes. */
    endDraft(inboxId: number, chat: Chat, text: string, now: Millis): void {
      const draft = takeDraft(inboxId, now);
      if (draft !== null)
        add("stopped", draft.subject, 0, chat, { kind: "edit", targetSentAt: draft.timestamp, text, styles: [] }, now);
    },
    /** Shows how a message of a person stands, once a stage; an earlier mark that did not go out yet is taken back. */
    addMark(inboxId: number, stage: Stage, chat: Chat, body: OutboundBody, now: Millis): void {
      const subject = String(inboxId);
      const part = stages.indexOf(stage);
      if (stage !== "taken")
        for (const mark of many`WHERE why = 'mark' AND subject = ${subject} AND part <> ${part} AND done_at IS NULL`)
          supersede(mark.id, now);
      add("mark", subject, part, chat, body, now);
    },
  };
}

const stages: readonly Stage[] = ["taken", "waiting", "done", "failed", "cleared"];

/** The files of an answer that took the place of a preview: numbered behind all its parts. */
const filesPart = 1_000;
