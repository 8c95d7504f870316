/**
 * The durable inbox: messages that were accepted from Signal and are owed an outcome.
 *
 *   accept ─▶ open ─▶ done: answered | failed | cancelled        commands and answers are done with the decision about them
 *
 * The request to Claude for a row is its post (`posts.ts`).
 */
import { createHash } from "node:crypto";
import type { Outcome } from "../core/changes.ts";
import type { Envelope, Millis } from "../core/model.ts";
import { chatKey, textOf } from "../core/model.ts";
import type { Database } from "./database.ts";
import { table } from "./statements.ts";

export type InboxKind = "prompt" | "command" | "answer";

export type InboxRow = {
  readonly id: number;
  readonly kind: InboxKind;
  readonly envelope: Envelope;
  /** Times of sending that name it: its own, and those of the versions it replaced. */
  readonly versions: readonly Millis[];
  readonly state: "open" | "done";
  /** The fault that the person has been told of for this row, so that it is told once. */
  readonly told: string | null;
  readonly receivedAt: Millis;
};

const fields = ["id", "kind", "envelope", "versions", "state", "told", "receivedAt"] as const;

/** Tells apart two texts that were sent within one millisecond, which are two messages. */
const digest = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 12);

export type Inbox = ReturnType<typeof createInbox>;

export function createInbox(db: Database) {
  const { one, many, run, get, value, values } = table<InboxRow>(db, "inbox", fields, {
    json: ["envelope", "versions"],
  });
  const insert = (key: string, kind: InboxKind, envelope: Envelope, now: Millis): number | null =>
    value<number>`
      INSERT INTO inbox (key, chat_key, kind, envelope, versions, state, received_at)
      VALUES (${key}, ${envelope.chat ? chatKey(envelope.chat) : "none"}, ${kind}, ${JSON.stringify(envelope)},
        ${JSON.stringify([envelope.sentAt])}, 'open', ${now}) ON CONFLICT (key) DO NOTHING RETURNING id`;
  /** The prompt that was written last: a decision that takes it as it came needs no second write. */
  let last: { readonly id: number; readonly envelope: Envelope } | null = null;
  return {
    /** The new row; null when the same message is there already (a redelivery). */
    accept(key: string, kind: InboxKind, envelope: Envelope, now: Millis): number | null {
      const text = textOf(envelope)?.text;
      // The row of a command may take other words (`/new words`, `/retry`): its own are in its key.
      if (kind === "command" && text !== undefined) return insert(`${key}|${digest(text)}`, kind, envelope, now);
      const id = insert(key, kind, envelope, now);
      last = id !== null && kind === "prompt" ? { id, envelope } : null;
      if (id !== null || text === undefined) return id;
      const known = one`WHERE key = ${key}`;
      const knownText = known && textOf(known.envelope)?.text;
      // A text that has disappeared meanwhile cannot be compared.
      if (typeof knownText !== "string" || knownText === text) return null;
      return insert(`${key}|${digest(text)}`, kind, envelope, now);
    },
    get: (id: number) => one`WHERE id = ${id}`,
    /** The two oldest open prompts of a chat. */
    head: (chat: string, exceptId = 0) =>
      many`WHERE chat_key = ${chat} AND state = 'open' ORDER BY id LIMIT 3`
        .filter(({ id }) => id !== exceptId)
        .slice(0, 2),
    openPrompts: (chat: string, exceptId = 0) =>
      many`WHERE chat_key = ${chat} AND state = 'open' AND id <> ${exceptId} ORDER BY id`,
    /** How many are open in a chat, and the id of the newest. */
    waiting: (chat: string, exceptId = 0) =>
      get<{ count: number; newest: number }>`
        SELECT count(*) AS count, coalesce(max(id), 0) AS newest FROM inbox
        WHERE chat_key = ${chat} AND state = 'open' AND id <> ${exceptId}` ?? { count: 0, newest: 0 },
    /** The open prompts of a chat that this time of sending names. */
    named: (chat: string, sentAt: Millis, exceptId = 0) =>
      many`WHERE chat_key = ${chat} AND state = 'open' AND id <> ${exceptId} AND instr(versions, ${String(sentAt)}) > 0
        ORDER BY id`.filter(({ versions }) => versions.includes(sentAt)),
    /** Chats with anything open, those that have waited longest first. */
    openChats: () => values<string>`SELECT chat_key FROM inbox WHERE state = 'open' GROUP BY chat_key ORDER BY min(id)`,
    /** The prompt of a chat that ended last. */
    lastEnded: (chat: string) =>
      one`WHERE chat_key = ${chat} AND kind = 'prompt' AND state = 'done' ORDER BY id DESC LIMIT 1`,
    /** The newest ended message that this time of sending names. */
    ended: (chat: string, sentAt: Millis) =>
      one`WHERE chat_key = ${chat} AND kind = 'prompt' AND state = 'done' AND envelope ->> '$.sentAt' = ${sentAt} ORDER BY id DESC LIMIT 1`,
    /** Makes the row a prompt with this message, which may be another than the one that was written. */
    open(id: number, envelope: Envelope, versions: readonly Millis[]): void {
      if (last?.id !== id || last.envelope !== envelope || versions.length > 1)
        run`UPDATE inbox SET kind = 'prompt', envelope = ${JSON.stringify(envelope)}, versions = ${JSON.stringify(versions)}
          WHERE id = ${id} AND state = 'open'`;
    },
    markTold: (id: number, code: string) => run`UPDATE inbox SET told = ${code} WHERE id = ${id}`,
    finish: (id: number, outcome: Outcome, now: Millis) =>
      run`UPDATE inbox SET state = 'done', outcome = ${outcome}, done_at = ${now} WHERE id = ${id} AND state = 'open'`,
    pending: () =>
      get<{ count: number; oldestAt: Millis | null }>`
        SELECT count(*) AS count, min(received_at) AS oldestAt FROM inbox WHERE state = 'open'` ?? {
        count: 0,
        oldestAt: null,
      },
  };
}
