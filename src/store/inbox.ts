/**
 * The durable inbox: what was accepted from Signal and is owed an outcome.
 *
 *   accept ─▶ pending ─▶ (asking ─▶ asked) ─▶ done: answered | failed | cancelled
 *                └─▶ waiting (for a person's yes or no) ─▶ pending
 *
 * Rows of one chat are worked in order; the oldest open row blocks the later ones.
 */
import type { PromptState } from "../claude/backend.ts";
import type { FaultClass } from "../core/backoff.ts";
import type { Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { statements, type Database } from "./database.ts";

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
  readonly tries: Tries;
  readonly notBefore: Millis;
  /** The fault the person has been told of for this row, so that it is told once. */
  readonly told: string | null;
  readonly receivedAt: Millis;
};

/** Failures so far, by the class of the fault. */
export type Tries = { readonly [K in FaultClass]?: number };

type Raw = Omit<InboxRow, "envelope" | "prompt" | "tries"> & {
  readonly tries: string;
  readonly envelope: string;
  readonly askedAt: number | null;
  readonly askedText: string | null;
  readonly eventId: string | null;
};

const select = `SELECT id, chat_key AS chatKey, kind, envelope, state, session_id AS sessionId, asked_at AS askedAt, asked_text AS askedText,
  event_id AS eventId, attempts, tries, not_before AS notBefore, told, received_at AS receivedAt FROM inbox`;

const toRow = ({ envelope, tries, askedAt, askedText, eventId, ...row }: Raw): InboxRow => ({
  ...row,
  envelope: JSON.parse(envelope) as Envelope,
  tries: JSON.parse(tries) as Tries,
  prompt:
    eventId !== null
      ? { kind: "asked", eventId }
      : askedAt !== null
        ? { kind: "uncertain", askedAt, text: askedText ?? "" }
        : { kind: "new" },
});

export type Inbox = ReturnType<typeof createInbox>;

export function createInbox(db: Database) {
  const { one, many, run, get, all } = statements(db, select, toRow);
  return {
    /** False when the same message is there already (a redelivery). */
    accept(key: string, kind: InboxKind, envelope: Envelope, now: Millis): boolean {
      const chat = envelope.chat ? chatKey(envelope.chat) : "none";
      return (
        run`INSERT INTO inbox (key, chat_key, kind, envelope, state, received_at)
          VALUES (${key}, ${chat}, ${kind}, ${JSON.stringify(envelope)}, 'pending', ${now}) ON CONFLICT (key) DO NOTHING` >
        0
      );
    },
    get: (id: number) => one`WHERE id = ${id}`,
    /** Chats with anything open, those that have waited longest first. */
    openChats: () =>
      all<{
        chatKey: string;
      }>`SELECT chat_key AS chatKey FROM inbox WHERE state <> 'done' GROUP BY chat_key ORDER BY min(id)`.map(
        (row) => row.chatKey,
      ),
    /** The oldest open prompt of a chat, due or not. */
    head: (chat: string) => one`WHERE chat_key = ${chat} AND state <> 'done' AND kind = 'prompt' ORDER BY id LIMIT 1`,
    /** The same, where it waits for Claude alone: neither for a person's yes or no, nor behind an open command (`/new`, say). */
    headToAsk(chat: string): InboxRow | null {
      const row = one`WHERE chat_key = ${chat} AND state <> 'done' AND kind <> 'approval' ORDER BY id LIMIT 1`;
      return row?.kind === "prompt" && row.state === "pending" ? row : null;
    },
    /** The oldest open command or approval of a chat that is due; else the oldest. */
    headControl: (chat: string, now: Millis) =>
      one`WHERE chat_key = ${chat} AND state <> 'done' AND kind <> 'prompt' ORDER BY not_before > ${now}, id LIMIT 1`,
    openPrompts: (chat: string) => many`WHERE chat_key = ${chat} AND state <> 'done' AND kind = 'prompt' ORDER BY id`,
    /** The open row of a message of this person, for edits and deletes that name it. */
    findBySentAt: (chat: string, source: string, sentAt: Millis) =>
      one`WHERE chat_key = ${chat} AND state <> 'done' AND key LIKE ${`%|${source}|%|${sentAt}|%`} ORDER BY id LIMIT 1`,
    /** The request goes out with this text at `askedAt`, the server's time: from here on its fate may be unknown. */
    markAsking: (id: number, sessionId: string, askedAt: Millis, text: string) =>
      run`UPDATE inbox SET session_id = ${sessionId}, asked_at = ${askedAt}, asked_text = ${text}, event_id = NULL WHERE id = ${id}`,
    markAsked: (id: number, sessionId: string, eventId: string) =>
      run`UPDATE inbox SET session_id = ${sessionId}, event_id = ${eventId}, asked_text = NULL WHERE id = ${id}`,
    /** Never asked, or asked in a session that is gone: the next try starts anew. Not a row that has ended meanwhile. */
    markNew: (id: number) =>
      run`UPDATE inbox SET session_id = NULL, asked_at = NULL, asked_text = NULL, event_id = NULL, state = 'pending',
        not_before = iif(state = 'waiting', 0, not_before) WHERE id = ${id} AND state <> 'done'`,
    /** For a person's yes or no, until `until`. */
    markWaiting: (id: number, until: Millis) =>
      run`UPDATE inbox SET state = 'waiting', not_before = ${until} WHERE id = ${id} AND state = 'pending'`,
    /** A question of Claude's is open in some chat. */
    isAsking: () => get`SELECT 1 FROM inbox WHERE state <> 'done' AND state = 'waiting' LIMIT 1` !== undefined,
    markPending: (id: number) =>
      run`UPDATE inbox SET state = 'pending', not_before = 0 WHERE id = ${id} AND state = 'waiting'`,
    postpone: (id: number, attempts: number, notBefore: Millis, tries: Tries = {}) =>
      run`UPDATE inbox SET attempts = ${attempts}, not_before = ${notBefore}, tries = ${JSON.stringify(tries)} WHERE id = ${id}`,
    /** No row in this state waits beyond `latest`. */
    hasten: (state: "pending" | "waiting", latest: Millis) =>
      run`UPDATE inbox SET not_before = ${latest} WHERE state <> 'done' AND state = ${state} AND not_before > ${latest}`,
    markTold: (id: number, code: string) => run`UPDATE inbox SET told = ${code} WHERE id = ${id}`,
    finish: (id: number, outcome: Outcome, now: Millis) =>
      run`UPDATE inbox SET state = 'done', outcome = ${outcome}, done_at = ${now} WHERE id = ${id} AND state <> 'done'`,
    /** Event ids of prompts that belong to a row of this session. */
    mappedEventIds: (sessionId: string) =>
      new Set(
        all<{
          id: string;
        }>`SELECT event_id AS id FROM inbox WHERE session_id = ${sessionId} AND event_id IS NOT NULL`.map(
          ({ id }) => id,
        ),
      ),
    pending: () =>
      get<{ count: number; oldestAt: Millis | null }>`
        SELECT count(*) AS count, min(received_at) AS oldestAt FROM inbox WHERE state <> 'done'` ?? {
        count: 0,
        oldestAt: null,
      },
  };
}
