/**
 * The durable outbox: written, timestamp included, before anything is sent.
 *
 *   add ─▶ queued ─▶ sending ─▶ sent | failed
 *             ▲         │ not sent for sure, or outcome unknown (counted): again, with the same timestamp
 *             └─────────┘
 *
 * The reason of a message is typed: `why`, `session_id`, `subject` and `part` are its identity, so that it exists once. An edit names its
 * message by the timestamp chosen for it, which the send loop replaces by the timestamp on Signal of the newest version.
 */
import type { Stage, Subject, Why as Reason } from "../core/changes.ts";
import type { Chat, Millis, OutboundBody } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { Database } from "./database.ts";
import { table } from "./statements.ts";

/** Reasons of a decision, and of previews, marks on people's messages, Claude's files, the command line, Signal's news for the owner. */
export type OutboxWhy = Reason | "draft" | "below" | "mark" | "file" | "send" | "notice";

export type OutboxRow = {
  readonly id: number;
  readonly why: OutboxWhy;
  /** "" for a message that is about no entry of a log. */
  readonly sessionId: string;
  readonly subject: string;
  /** The tool uses that a question shows, in the order of its numbers; null for any other message. */
  readonly uses: readonly string[] | null;
  readonly part: number;
  readonly chatKey: string;
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly body: OutboundBody;
  readonly state: "queued" | "sending" | "sent" | "failed";
  readonly attempts: number;
  /** An attempt may have reached the phones. */
  readonly isUncertain: boolean;
  readonly signalTimestamp: Millis | null;
  /** When the first attempt that may have reached the phones began. */
  readonly sendingAt: Millis | null;
  readonly createdAt: Millis;
  readonly doneAt: Millis | null;
};

const fields = [
  ...(["id", "why", "sessionId", "subject", "uses", "part", "chatKey", "chat", "timestamp", "body"] as const),
  ...(["state", "attempts", "isUncertain", "signalTimestamp", "sendingAt", "createdAt", "doneAt"] as const),
];

export const outboxTable = (db: Database) =>
  table<OutboxRow>(db, "outbox", fields, { json: ["uses", "chat", "body"], flags: ["isUncertain"] });

export type Outbox = ReturnType<typeof createOutbox>;

export function createOutbox(db: Database) {
  const { one, many, run, values, has } = outboxTable(db);
  /** The next message of a chat and its next marks, in one look. */
  const nextOf = (chat: string) =>
    many`WHERE id IN (
      SELECT * FROM (SELECT id FROM outbox WHERE chat_key = ${chat} AND done_at IS NULL AND why <> 'mark' ORDER BY id LIMIT 1)
      UNION ALL SELECT * FROM (SELECT id FROM outbox WHERE chat_key = ${chat} AND done_at IS NULL AND why = 'mark' ORDER BY id LIMIT ${marksAtOnce})
    ) ORDER BY id`;
  const head = (chat: string): OutboxRow | null => nextOf(chat).find(({ why }) => why !== "mark") ?? null;
  const markSent = (id: number, signalTimestamp: Millis, now: Millis) =>
    run`UPDATE outbox SET state = 'sent', signal_timestamp = ${signalTimestamp}, done_at = ${now},
      body = json_replace(body, '$.files', json_array()) WHERE id = ${id} AND done_at IS NULL`;
  const adding = createAdding(db);
  return {
    ...adding,
    ...createMarks(db, nextOf, markSent, adding.add),
    /** Chats with anything to send but marks, those that have waited longest first. */
    openChats: () =>
      values<string>`SELECT chat_key FROM outbox WHERE done_at IS NULL AND why <> 'mark' GROUP BY chat_key ORDER BY min(id)`,
    head,
    /** Messages with this reason and subject, in the order of their parts. */
    of(why: OutboxWhy, subject: Subject) {
      const { sessionId, id } = named(subject);
      return many`WHERE why = ${why} AND session_id = ${sessionId} AND subject = ${id} ORDER BY part`;
    },
    /** The newest questions and reminders of a session: one of them is open at a time. */
    questions: (sessionId: string) =>
      many`WHERE why IN ('ask', 'reminder') AND session_id = ${sessionId} ORDER BY id DESC LIMIT ${questionsMax}`,
    has: (why: OutboxWhy, subject: string) =>
      has`SELECT 1 FROM outbox WHERE why = ${why} AND session_id = '' AND subject = ${subject} LIMIT 1`,
    /** Whether a message of ours has this timestamp on Signal. */
    isSaid: (timestamp: Millis) => has`SELECT 1 FROM outbox WHERE signal_timestamp = ${timestamp} LIMIT 1`,
    /** The message for which this timestamp was chosen. */
    byTimestamp: (timestamp: Millis) => one`WHERE timestamp = ${timestamp}`,
    /** The last edit of a preview that is on the phones, or may be (then it has failed): what comes next must name it. */
    lastEdit: (subject: string) =>
      one`WHERE why = 'draft' AND session_id = '' AND subject = ${subject} AND part > 0 AND (state = 'sent' OR fault = 'send_uncertain') ORDER BY part DESC LIMIT 1`,
    markSending: (id: number, now: Millis) =>
      run`UPDATE outbox SET state = 'sending', attempts = attempts + 1, sending_at = coalesce(sending_at, ${now}) WHERE id = ${id}`,
    /** Marks a message as sent and drops its files. Does nothing where it has been taken back meanwhile; nor does `markFailed`. */
    markSent,
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
  };
}

/** A mark waits for the messages before it and delays none; that it was sent is written late. */
function createMarks(
  db: Database,
  nextOf: (chat: string) => readonly OutboxRow[],
  markSent: (id: number, signalTimestamp: Millis, now: Millis) => unknown,
  add: ReturnType<typeof createAdding>["add"],
) {
  const { one, run, get, values, has } = outboxTable(db);
  /** Reactions that went out and are not recorded yet, with their chats. */
  const shown = new Map<number, string>();
  /** Messages of people of which the first mark went out, and no other was added: none is left to be taken back. */
  const started = new Set<string>();
  const lastShown = (chat: string): number =>
    Math.max(0, ...[...shown].map(([id, chatKey]) => (chatKey === chat ? id : 0)));
  const markAfter = (chat: string, id: number): OutboxRow | null =>
    one`WHERE chat_key = ${chat} AND done_at IS NULL AND why = 'mark' AND id > ${id} ORDER BY id LIMIT 1`;
  return {
    chatsWithMarks: () => values<string>`SELECT DISTINCT chat_key FROM outbox WHERE done_at IS NULL AND why = 'mark'`,
    nextMark(chat: string): OutboxRow | null {
      const rows = nextOf(chat);
      const marks = rows.filter(({ why }) => why === "mark");
      const first = marks.find(({ id }) => id > lastShown(chat));
      // All of `marks` are sent and only to be recorded: the mark to send comes behind them.
      const mark = first ?? (marks.length < marksAtOnce ? null : markAfter(chat, lastShown(chat)));
      const message = rows.find(({ why }) => why !== "mark");
      return mark !== null && (message === undefined || message.id > mark.id) ? mark : null;
    },
    /** A reaction was sent: the next commit, whichever it is, records it. A reaction that is sent again after a crash replaces itself. */
    markShown(row: Pick<OutboxRow, "id" | "chatKey" | "subject" | "part">, signalTimestamp: Millis, now: Millis): void {
      const { id, chatKey, subject, part } = row;
      shown.set(id, chatKey);
      if (part === 0) started.add(subject);
      db.alongside(() => {
        markSent(id, signalTimestamp, now);
        db.afterCommit(() => shown.delete(id));
      });
    },
    /** Shows how a message of a person stands, once a stage; an earlier mark that did not go out yet is taken back. */
    addMark(inboxId: number, stage: Stage, chat: Chat, body: OutboundBody, now: Millis): void {
      const subject = String(inboxId);
      const part = stages.indexOf(stage);
      if (part > 0 && !started.delete(subject))
        run`UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ${now}
          WHERE why = 'mark' AND session_id = '' AND subject = ${subject} AND part <> ${part} AND state = 'queued' AND attempts = 0`;
      add("mark", subject, part, chat, body, now);
    },
    /** Messages that are still to be sent, marks included: their number, and when the oldest was added. */
    pending(): { readonly count: number; readonly oldestAt: Millis | null } {
      const open = get<{ count: number; oldestAt: Millis | null }>`
        SELECT count(*) AS count, min(created_at) AS oldestAt FROM outbox WHERE done_at IS NULL`;
      // A mark that the transaction at work records is counted as done already.
      const isOpen = (id: number): boolean => has`SELECT 1 FROM outbox WHERE id = ${id} AND done_at IS NULL`;
      const count = (open?.count ?? 0) - [...shown.keys()].filter(isOpen).length;
      return { count, oldestAt: count > 0 ? (open?.oldestAt ?? null) : null };
    },
  };
}

const stages: readonly Stage[] = ["taken", "waiting", "done", "failed", "cleared"];

/** Marks read at once: mostly one is to be sent, and the one before it to be recorded. */
const marksAtOnce = 2;

/** A question, its reminder, and what was left of it after each answer; older versions had up to five open. */
const questionsMax = 20;

/** Clocks are set back by less than this as a rule; phones take a message that is dated so far ahead. */
const aheadMs: Millis = 10 * 60_000;

/** The columns of a subject. */
function named(subject: Subject): { readonly sessionId: string; readonly id: string; readonly uses: string | null } {
  if (typeof subject === "string") return { sessionId: "", id: subject, uses: null };
  const { sessionId } = subject;
  if ("id" in subject) return { sessionId, id: subject.id, uses: null };
  return { sessionId, id: subject.uses[0] ?? "", uses: JSON.stringify(subject.uses) };
}

export function createAdding(db: Database) {
  const { run, value } = outboxTable(db);
  /**
   * Adds a message unless this one exists; chooses a Signal timestamp that no other has: later than all before, but for those that a
   * clock far ahead once chose. `isHurried`: where it is the next of its chat it is `sending` already, in the commit that writes it,
   * and the chat's queue sends it at once. Returns whether it is new.
   */
  const add = (
    why: OutboxWhy,
    subject: Subject,
    part: number,
    chat: Chat,
    body: OutboundBody,
    now: Millis,
    isHurried = false,
  ): boolean => {
    const { sessionId, id, uses } = named(subject);
    const added = run`INSERT INTO outbox (why, session_id, subject, uses, part, chat_key, chat, timestamp, body, state, attempts, sending_at, created_at)
      SELECT ${why}, ${sessionId}, ${id}, ${uses}, ${part}, ${chatKey(chat)}, ${JSON.stringify(chat)},
        (WITH RECURSIVE free (at) AS (
          VALUES (max(${now}, coalesce((SELECT max(timestamp) FROM outbox WHERE timestamp <= ${now + aheadMs}), 0) + 1))
          UNION ALL SELECT at + 1 FROM free WHERE EXISTS (SELECT 1 FROM outbox WHERE timestamp = at))
          SELECT max(at) FROM free), ${JSON.stringify(body)},
        iif(is_next, 'sending', 'queued'), is_next, iif(is_next, ${now}, NULL), ${now}
      FROM (SELECT ${isHurried ? 1 : 0} AND NOT EXISTS (SELECT 1 FROM outbox
        WHERE chat_key = ${chatKey(chat)} AND done_at IS NULL AND why <> 'mark') AS is_next) WHERE true
      ON CONFLICT (why, session_id, subject, part) DO NOTHING`;
    return added > 0;
  };
  /** Takes back a message that has surely not gone out; false where it has, or may have. */
  const supersede = (id: number, now: Millis): boolean =>
    run`UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ${now}
      WHERE id = ${id} AND state = 'queued' AND attempts = 0` > 0;
  return {
    /** The fault for which a message with this reason and subject was given up; null where none was. */
    faultOf: (why: OutboxWhy, subject: string) =>
      value<string>`SELECT fault FROM outbox WHERE why = ${why} AND session_id = '' AND subject = ${subject} AND fault IS NOT NULL LIMIT 1`,
    add,
    supersede,
  };
}
