/**
 * Where a turn stands, decided from the session's event log alone.
 *
 *   queued ──prompt processed──▶ running ──idle──▶ ended
 *      │                          │  ▲
 *      │             requires_action  └── every ask answered, or it runs again
 *      │                          ▼  │
 *      │                        waiting
 *      └──── retries exhausted ──▶ flushed (it died unanswered: ask anew; unless the log still has it after that)
 *
 * Events may arrive twice (stream, listing, after a crash) and from before the prompt: only what comes after the *processed*
 * prompt counts. The log's order is `processed_at`; where that ties, arrival decides, and a stop that was there before the
 * prompt was processed never ends it.
 * **Source:** the API's documentation of session events: `session.status_running` may precede the prompt that caused it; turns merge.
 */
import type { Millis, SessionEvent, StopReason } from "./model.ts";

type Facts = {
  /** Null: nothing was asked yet. */
  readonly promptId: string | null;
  /** The prompt was in the log, queued or processed: a flush after that concerns it. */
  readonly isSeen: boolean;
  readonly promptAt: Millis | null;
  /** The last stop that counted. */
  readonly stopAt: Millis | null;
  /** Stops that were there before the prompt was processed. */
  readonly earlierStopIds: ReadonlySet<string>;
  /** Tool uses with a confirmation or a result. */
  readonly resolvedIds: ReadonlySet<string>;
};

type Standing =
  | { readonly kind: "queued" }
  | { readonly kind: "running" }
  | { readonly kind: "waiting"; readonly toolUseIds: readonly string[] }
  | { readonly kind: "ended"; readonly stop: StopReason }
  | { readonly kind: "flushed" };

/** What the log says of our prompt. `ended` is final; `flushed` too, unless the prompt turns out to be processed after that. */
export type Progress = Standing & { readonly facts: Facts };

const none: ReadonlySet<string> = new Set();

/**
 * The start: the prompt is event `promptId`, or nothing was asked yet. Feed it the log from the prompt on, or earlier; what was fed
 * before the prompt was sent is handed on as `earlierStopIds`, for a listing may show it again.
 */
export const progressOf = (promptId: string | null, earlierStopIds = none): Progress => ({
  kind: "queued",
  facts: { promptId, isSeen: false, promptAt: null, stopAt: null, earlierStopIds, resolvedIds: none },
});

/** The next standing after one event of the log; the same reference when nothing changed. */
export const trackTurn = (progress: Progress, event: SessionEvent): Progress =>
  track(progress, event, (ids, id) => new Set(ids).add(id));

/** Folds a stretch of the log. The sets of ids are copied once, not with every event: a log may hold thousands of tool results. */
export function trackAll(progress: Progress, events: readonly SessionEvent[]): Progress {
  const earlierStopIds = new Set(progress.facts.earlierStopIds);
  const resolvedIds = new Set(progress.facts.resolvedIds);
  const own: Progress = { ...progress, facts: { ...progress.facts, earlierStopIds, resolvedIds } };
  return events.reduce((last, event) => track(last, event, (ids, id) => (ids as Set<string>).add(id)), own);
}

type WithId = (ids: ReadonlySet<string>, id: string) => ReadonlySet<string>;

function track(progress: Progress, event: SessionEvent, withId: WithId): Progress {
  const { kind, facts } = progress;
  if (facts.promptId === null) return event.type === "idle" ? stoppedBefore(progress, event, withId) : progress;
  if (kind === "ended") return progress;
  switch (event.type) {
    case "prompt":
      return event.id === facts.promptId ? promptSeen(progress, event.at) : progress;
    case "running":
      return kind === "waiting" && isLater(event.at, facts.stopAt) ? { kind: "running", facts } : progress;
    case "confirmation":
    case "tool_result":
      return resolve(progress, event.toolUseId, withId);
    case "idle":
      return facts.promptAt === null
        ? stoppedBefore(progress, event, withId)
        : stopped(progress, facts.promptAt, event);
    default:
      return progress;
  }
}

function promptSeen(progress: Progress, at: Millis | null): Progress {
  const { kind, facts } = progress;
  if (at === null || facts.promptAt !== null) {
    // A flush leaves nothing in the queue: what is there after one was posted after it.
    const isAlive = kind === "flushed" && facts.promptAt === null;
    if (isAlive) return { kind: "queued", facts: { ...facts, isSeen: true, stopAt: null } };
    return facts.isSeen ? progress : { ...progress, facts: { ...facts, isSeen: true } };
  }
  // Flushed on the strength of a stop that came before it was processed: it lives.
  const isDead = kind === "flushed" && facts.stopAt !== null && at < facts.stopAt;
  return { kind: isDead ? "flushed" : "running", facts: { ...facts, isSeen: true, promptAt: at } };
}

type Idle = SessionEvent & { readonly type: "idle" };

/** A stop while our prompt is still queued ends another's turn, unless it threw the queue away. */
function stoppedBefore(progress: Progress, { id, at, stop }: Idle, withId: WithId): Progress {
  if (progress.facts.earlierStopIds.has(id)) return progress;
  const facts = { ...progress.facts, earlierStopIds: withId(progress.facts.earlierStopIds, id) };
  const isFlush = stop.kind === "retries_exhausted" && facts.isSeen;
  return isFlush ? { kind: "flushed", facts: { ...facts, stopAt: at } } : { ...progress, facts };
}

function stopped(progress: Progress, promptAt: Millis, { id, at, stop }: Idle): Progress {
  const { stopAt, earlierStopIds, resolvedIds } = progress.facts;
  // What died stays dead: later stops are those of other prompts.
  if (progress.kind === "flushed" || (at !== null && at < promptAt)) return progress;
  if (!isLater(at, promptAt) && earlierStopIds.has(id)) return progress;
  if (at !== null && stopAt !== null && at < stopAt) return progress;
  const facts = { ...progress.facts, stopAt: at };
  if (stop.kind === "retries_exhausted") return { kind: "flushed", facts };
  if (stop.kind !== "requires_action") return { kind: "ended", stop, facts };
  return waitFor(
    facts,
    stop.eventIds.filter((id) => !resolvedIds.has(id)),
  );
}

function resolve(progress: Progress, toolUseId: string, withId: WithId): Progress {
  if (progress.facts.resolvedIds.has(toolUseId)) return progress;
  const facts = { ...progress.facts, resolvedIds: withId(progress.facts.resolvedIds, toolUseId) };
  if (progress.kind !== "waiting") return { ...progress, facts };
  return waitFor(
    facts,
    progress.toolUseIds.filter((id) => id !== toolUseId),
  );
}

const waitFor = (facts: Facts, toolUseIds: readonly string[]): Progress =>
  toolUseIds.length > 0 ? { kind: "waiting", toolUseIds, facts } : { kind: "running", facts };

const isLater = (at: Millis | null, than: Millis | null): boolean => at === null || than === null || at > than;

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

/** By the time Claude saw them, queued ones last; ties stay as they came. */
export const inLogOrder = (events: readonly SessionEvent[]): SessionEvent[] =>
  [...events].sort((a, b) => (a.at ?? Infinity) - (b.at ?? Infinity) || 0);

/** What a session waits for, by the log alone, without any local state; the part of the log since it last came to rest is enough. */
export type OpenLog = {
  /** Tool uses that wait for a person's yes or no, or for a result of ours, in the order of the log. */
  readonly uses: readonly ToolUse[];
  /** It rests until they are answered. */
  readonly isWaiting: boolean;
  /** The last error that was not overcome. */
  readonly error: (SessionEvent & { readonly type: "error" }) | null;
};

type ToolUse = SessionEvent & { readonly type: "tool_use" };

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
