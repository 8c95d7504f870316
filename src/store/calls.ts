/**
 * The journal of what Claude asked to do on this machine.
 *
 *   seen ─▶ asked ─▶ allowed ─▶ started ─▶ done ─▶ posted
 *     │       ├─▶ denied ──────────────────────────▶ posted
 *     │       └─▶ expired ─────────────────────────▶ posted
 *     └─▶ done (what is free and only reads), started (edits after `always`)
 *
 * A row moves along an arrow once, so a second yes, a second start and a second post do nothing. A call that is started and not done when
 * the program starts has an unknown outcome: it is settled with those words, and never runs again.
 */
import { createHash } from "node:crypto";
import type { JsonValue, Millis, ToolUse } from "../core/model.ts";
import type { Database } from "./database.ts";
import { table } from "./statements.ts";

export type CallState = "seen" | "asked" | "allowed" | "denied" | "expired" | "started" | "done" | "posted";

export type Call = {
  /** The event's id, which the result is posted for. */
  readonly id: string;
  readonly sessionId: string;
  /** The prompt that it belongs to: `/undo` takes back one turn. */
  readonly turn: string;
  readonly project: string;
  readonly tool: string;
  readonly input: unknown;
  readonly inputHash: string;
  /** Hash of all that the question showed; null until it is asked. */
  readonly basis: string | null;
  readonly state: CallState;
  readonly approver: string | null;
  /** The result for Claude; null until the call is settled. */
  readonly content: string | null;
  readonly isError: boolean;
  /** Later than that of every earlier call of its session, so that calls stand in Claude's order. */
  readonly seenAt: Millis;
  /** When the call came into its state. */
  readonly changedAt: Millis;
};

export type CallResult = { readonly content: string; readonly isError: boolean };

export const hashInput = (tool: string, input: unknown): string =>
  createHash("sha256")
    .update(JSON.stringify([tool, input]))
    .digest("hex");

export const unknownOutcome =
  "The outcome is unknown: signalman was interrupted while this ran. It was not run again; look at what is there before you go on.";

const fields = [
  ...(["id", "sessionId", "turn", "project", "tool", "input", "inputHash", "basis", "state", "approver"] as const),
  ...(["content", "isError", "seenAt", "changedAt"] as const),
];

export type Calls = ReturnType<typeof createCalls>;

/** Every method that moves a row returns whether it did. */
export function createCalls(db: Database) {
  const { one, many, run, value, values } = table<Call>(db, "calls", fields, { json: ["input"], flags: ["isError"] });
  type Said = Partial<Pick<Call, "basis" | "approver" | "content" | "isError">>;
  const move = (id: string, from: readonly CallState[], to: CallState, now: Millis, said: Said = {}): boolean =>
    run`UPDATE calls SET state = ${to}, changed_at = ${now}, basis = coalesce(${said.basis ?? null}, basis),
      approver = coalesce(${said.approver ?? null}, approver), content = coalesce(${said.content ?? null}, content),
      is_error = max(is_error, ${said.isError === true ? 1 : 0})
      WHERE id = ${id} AND state IN (SELECT value FROM json_each(${JSON.stringify(from)}))` === 1;
  return {
    /** False where it is known already: an event may be read twice. */
    see: (call: Pick<Call, "id" | "sessionId" | "turn" | "project" | "tool" | "input">, now: Millis): boolean =>
      run`INSERT INTO calls (id, session_id, turn, project, tool, input, input_hash, state, seen_at, changed_at)
        VALUES (${call.id}, ${call.sessionId}, ${call.turn}, ${call.project}, ${call.tool}, ${JSON.stringify(call.input)},
          ${hashInput(call.tool, call.input)}, 'seen',
          max(${now}, coalesce((SELECT max(seen_at) + 1 FROM calls WHERE session_id = ${call.sessionId}), 0)), ${now})
        ON CONFLICT (id) DO NOTHING` === 1,
    get: (id: string) => one`WHERE id = ${id}`,
    /** Conversations with a call that is not posted yet, or waits for a person. */
    openSessions: () => values<string>`SELECT DISTINCT session_id FROM calls WHERE state <> 'posted'`,
    /** Conversations with a call that waits for a person. */
    askedSessions: () => values<string>`SELECT DISTINCT session_id FROM calls WHERE state = 'asked'`,
    /** Calls of a session that are not posted yet, oldest first. */
    open: (sessionId: string) => many`WHERE session_id = ${sessionId} AND state <> 'posted' ORDER BY seen_at`,
    /** How often our tools were called for one prompt. */
    count: (sessionId: string, turn: string) =>
      value<number>`SELECT count(*) FROM calls WHERE session_id = ${sessionId} AND turn = ${turn}` ?? 0,
    /** The newest calls of a session, newest first. */
    list: (sessionId: string, most: number) =>
      many`WHERE session_id = ${sessionId} ORDER BY seen_at DESC LIMIT ${most}`,
    ask: (id: string, basis: string, now: Millis) => move(id, ["seen"], "asked", now, { basis }),
    /** A yes counts once, as long as the question is open: `loops/heartbeat` closes it, by a time that no clock and no sleep changes. */
    allow: (id: string, approver: string, now: Millis) => move(id, ["asked"], "allowed", now, { approver }),
    /** `content`: the words for Claude, the person's reason in it. */
    deny: (id: string, content: string, approver: string, now: Millis) =>
      move(id, ["asked", "allowed"], "denied", now, { content, approver, isError: true }),
    expire: (id: string, content: string, now: Millis) =>
      move(id, ["seen", "asked", "allowed"], "expired", now, { content, isError: true }),
    start: (id: string, from: "seen" | "allowed", now: Millis) => move(id, [from], "started", now),
    finish: (id: string, result: CallResult, now: Millis) =>
      move(id, ["seen", "asked", "allowed", "started"], "done", now, result),
    markPosted: (id: string, now: Millis) => move(id, ["denied", "expired", "done"], "posted", now),
    /** At the start of the program: settles what a crash interrupted, and names it. */
    settleInterrupted: (now: Millis): readonly Call[] =>
      db.transaction(() => {
        const interrupted = many`WHERE state = 'started'`;
        run`UPDATE calls SET state = 'done', content = ${unknownOutcome}, is_error = 1, changed_at = ${now} WHERE state = 'started'`;
        return interrupted;
      }),
  };
}

/** The call as the tool use that Claude asked for, and that a person is asked about. */
export const toUse = ({ id, tool, input, seenAt }: Call): ToolUse => ({
  id,
  at: seenAt,
  type: "tool_use",
  name: tool,
  input: input as JsonValue,
  isAsk: true,
  isLocal: true,
});
