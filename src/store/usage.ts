/** Tokens and cost by conversation, day and person, written with the log. Rows outlive the conversation, as a limit holds for the day. */
import type { SessionEvent } from "../core/model.ts";
import type { Sum } from "../core/spend.ts";
import type { Database, Row } from "./database.ts";
import { statements } from "./statements.ts";

type UsageEvent = SessionEvent & { readonly type: "usage" };

const select = `SELECT coalesce(sum(input_tokens), 0) AS inputTokens, coalesce(sum(output_tokens), 0) AS outputTokens,
  coalesce(sum(cost_cents), 0) AS costCents, coalesce(max(unpriced), 0) AS isUnpriced FROM usage`;
const toSum = (row: Row): Sum => ({ ...(row as unknown as Sum), isUnpriced: row["isUnpriced"] === 1 });
const nothing: Sum = { inputTokens: 0, outputTokens: 0, costCents: 0, isUnpriced: false };

export type Usage = ReturnType<typeof createUsage>;

export function createUsage(db: Database) {
  const { one, run } = statements(db, select, toSum);
  const ofSession = (id: string): Sum => one`WHERE session_id = ${id}` ?? nothing;
  return {
    ofSession,
    /** The sum from one day to another, both included, of a person or of all people. */
    between: (from: string, to: string, person: string | null): Sum =>
      (person === null
        ? one`WHERE day BETWEEN ${from} AND ${to}`
        : one`WHERE person = ${person} AND day BETWEEN ${from} AND ${to}`) ?? nothing,
    /** Adds an entry that is new in the log; returns what it added. Part of the caller's transaction. */
    add(sessionId: string, day: string, person: string, { isTotal, ...said }: UsageEvent): Sum {
      // A total that comes late is smaller than the known one, and adds nothing.
      const known = isTotal ? ofSession(sessionId) : nothing;
      const above = (now: number, before: number): number => Math.max(0, now - before);
      const added = {
        inputTokens: above(said.inputTokens, known.inputTokens),
        outputTokens: above(said.outputTokens, known.outputTokens),
        costCents: above(said.costCents ?? 0, known.costCents),
        isUnpriced: said.costCents === null && said.inputTokens + said.outputTokens > 0,
      };
      run`INSERT INTO usage (session_id, day, person, input_tokens, output_tokens, cost_cents, unpriced)
        VALUES (${sessionId}, ${day}, ${person}, ${added.inputTokens}, ${added.outputTokens}, ${added.costCents}, ${added.isUnpriced ? 1 : 0})
        ON CONFLICT (session_id, day, person) DO UPDATE SET input_tokens = input_tokens + excluded.input_tokens,
          output_tokens = output_tokens + excluded.output_tokens, cost_cents = cost_cents + excluded.cost_cents,
          unpriced = max(unpriced, excluded.unpriced)`;
      return added;
    },
  };
}
