/**
 * The standing of a turn, decided from the session's event log alone.
 *
 *   queued ──prompt processed──▶ running ──idle──▶ ended
 *      └──── retries exhausted ──┴──▶ flushed (it died unanswered: ask anew; unless the log still has it after that)
 *
 * A stop that waits for answers ends nothing: `OpenLog` says what it waits for.
 *
 * Events may arrive twice (stream, listing, after a crash) and from before the prompt: only what comes after the *processed*
 * prompt counts. The log's order is `processed_at`; where that ties, arrival decides, and a stop that was there before the
 * prompt was processed never ends it.
 * **Source:** the API's documentation of session events: `session.status_running` may precede the prompt that caused it; turns merge.
 */
import type { Millis, SessionEvent, StopReason, ToolUse } from "./model.ts";

type Facts = {
  readonly promptId: string;
  /** The prompt was in the log, queued or processed: a flush after that concerns it. */
  readonly isSeen: boolean;
  readonly promptAt: Millis | null;
  /** The last stop that counted. */
  readonly stopAt: Millis | null;
  /** Stops that were there before the prompt was processed. */
  readonly earlierStopIds: ReadonlySet<string>;
};

type Standing =
  | { readonly kind: "queued" }
  | { readonly kind: "running" }
  | { readonly kind: "ended"; readonly stop: StopReason }
  | { readonly kind: "flushed" };

/** The standing of our prompt by the log. `ended` is final; `flushed` too, unless the prompt turns out to be processed after that. */
export type Progress = Standing & { readonly facts: Facts };

/**
 * The start: the prompt is event `promptId`. Feed it the log from the prompt on, or earlier; stops that were there before the prompt
 * was sent are handed on as `earlierStopIds`, for a listing may show them again.
 */
export const progressOf = (promptId: string, earlierStopIds: ReadonlySet<string> = new Set()): Progress => ({
  kind: "queued",
  facts: { promptId, isSeen: false, promptAt: null, stopAt: null, earlierStopIds },
});

/** The next standing after a stretch of the log; the same reference when nothing changed. */
export const trackAll = (progress: Progress, events: readonly SessionEvent[]): Progress =>
  events.reduce(track, progress);

function track(progress: Progress, event: SessionEvent): Progress {
  const { promptId, promptAt } = progress.facts;
  if (progress.kind === "ended") return progress;
  if (event.type === "prompt") return event.id === promptId ? promptSeen(progress, event.at) : progress;
  if (event.type !== "idle") return progress;
  return promptAt === null ? stoppedBefore(progress, event) : stopped(progress, promptAt, event);
}

function promptSeen(progress: Progress, at: Millis | null): Progress {
  const { kind, facts } = progress;
  if (at === null || facts.promptAt !== null) {
    // A flush empties the queue: a prompt that is in it after a flush was posted later.
    const isAlive = kind === "flushed" && facts.promptAt === null;
    if (isAlive) return { kind: "queued", facts: { ...facts, isSeen: true, stopAt: null } };
    return facts.isSeen ? progress : { ...progress, facts: { ...facts, isSeen: true } };
  }
  // The prompt lives where the stop that seemed to flush it came before it was processed.
  const isDead = kind === "flushed" && facts.stopAt !== null && at < facts.stopAt;
  return { kind: isDead ? "flushed" : "running", facts: { ...facts, isSeen: true, promptAt: at } };
}

type Idle = SessionEvent & { readonly type: "idle" };

/** A stop while our prompt is still queued ends another's turn, unless it threw the queue away. */
function stoppedBefore(progress: Progress, { id, at, stop }: Idle): Progress {
  if (progress.facts.earlierStopIds.has(id)) return progress;
  const facts = { ...progress.facts, earlierStopIds: new Set(progress.facts.earlierStopIds).add(id) };
  const isFlush = stop.kind === "retries_exhausted" && facts.isSeen;
  return isFlush ? { kind: "flushed", facts: { ...facts, stopAt: at } } : { ...progress, facts };
}

function stopped(progress: Progress, promptAt: Millis, { id, at, stop }: Idle): Progress {
  const { stopAt, earlierStopIds } = progress.facts;
  // A flushed prompt stays flushed: later stops are those of other prompts.
  if (progress.kind === "flushed" || (at !== null && at < promptAt)) return progress;
  if (at === promptAt && earlierStopIds.has(id)) return progress;
  if (at !== null && stopAt !== null && at < stopAt) return progress;
  const facts = { ...progress.facts, stopAt: at };
  if (stop.kind === "retries_exhausted") return { kind: "flushed", facts };
  return stop.kind === "requires_action" ? { ...progress, facts } : { kind: "ended", stop, facts };
}

/**
 * The reconciliation of a send whose answer was never seen: the id of the event that must be it, or null when it did not
 * arrive. The API has no idempotency key, so this is all that stands between a lost answer and asking twice. Two equal
 * texts ("ok", "ok") are told apart by order, and by the ids that belong to other prompts already.
 *
 * @param notBefore server time, Unix ms: when it was sent, minus an allowance for the clocks
 * @param events any part of the log that contains everything since `notBefore`, queued prompts included
 */
export function findUncertain(
  text: string,
  notBefore: Millis,
  events: readonly SessionEvent[],
  mappedIds: ReadonlySet<string>,
): string | null {
  const candidates = events.filter(
    (event) =>
      event.type === "prompt" &&
      event.text.trim() === text.trim() &&
      !mappedIds.has(event.id) &&
      (event.at === null || event.at >= notBefore),
  );
  return inLogOrder(candidates)[0]?.id ?? null;
}

/** Events by the time at which Claude saw them, queued ones last; ties stay as they came. */
export const inLogOrder = (events: readonly SessionEvent[]): SessionEvent[] =>
  [...events].sort((a, b) => (a.at ?? Infinity) - (b.at ?? Infinity) || 0);

/** The state of a session's waits, by the log alone; the part of the log since the session last came to rest is enough. */
export type OpenLog = {
  /** Tool uses that wait for a person's yes or no, or for a result of ours, in the order of the log. */
  readonly uses: readonly ToolUse[];
  /** The session rests until `uses` are answered. */
  readonly isWaiting: boolean;
  /** The last error that was not overcome. */
  readonly error: (SessionEvent & { readonly type: "error" }) | null;
};

export const openLog: OpenLog = { uses: [], isWaiting: false, error: null };

/** Folds one entry that is new; the same reference when nothing changed. */
export function readEntry(open: OpenLog, event: SessionEvent): OpenLog {
  switch (event.type) {
    case "tool_use":
      return event.isAsk || event.isLocal ? { ...open, uses: [...open.uses, event] } : open;
    case "confirmation":
    case "tool_result": {
      const uses = open.uses.filter(({ id }) => id !== event.toolUseId);
      return uses.length === open.uses.length ? open : { ...open, uses, isWaiting: open.isWaiting && uses.length > 0 };
    }
    case "running":
      return open.isWaiting || open.error !== null ? { ...open, isWaiting: false, error: null } : open;
    case "error":
      return { ...open, error: event.retry === "retrying" ? open.error : event };
    case "reply":
      return open.error === null ? open : { ...open, error: null };
    case "idle":
      return event.stop.kind === "requires_action"
        ? { ...open, isWaiting: open.uses.length > 0, error: null }
        : { ...openLog, error: event.stop.kind === "retries_exhausted" ? open.error : null };
    default:
      return open;
  }
}
