/**
 * When a placeholder is worth showing, and when to edit it: late enough that a quick answer needs none, then ever more
 * seldom. Signal's clients take ten edits of a message at most, the answer included. **Source:** signal/SIGNAL-NATIVE.md 4.7.
 */
import type { Millis } from "./model.ts";

export type DraftState = {
  /** Monotonic time at which the turn began. */
  readonly startedAt: Millis;
  /** Of the last change; null before the first. */
  readonly changedAt: Millis | null;
  /** Changes so far, the first showing included. */
  readonly changes: number;
};

const firstAfterMs = 4_000;
const editAfterMs = 4_000;
const changesMax = 6;

/** True where the placeholder may be shown or changed now: after 4 s, then 4, 8, 16 … s after the last change, six times in all. */
export function isDraftDue({ startedAt, changedAt, changes }: DraftState, now: Millis): boolean {
  if (changes >= changesMax) return false;
  if (changedAt === null) return now - startedAt >= firstAfterMs;
  return now - changedAt >= editAfterMs * 2 ** Math.max(0, changes - 1);
}
