/**
 * Catching up with a log that lives elsewhere: what it has is stored, and posts whose outcome is unknown are found in it. Posting has
 * no idempotency key, so that the log is asked before anything goes out again.
 */
import type { Remote } from "../claude/line.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import { findUncertain, progressOf, trackAll } from "../core/turn.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";

/** A session that is followed, by its name here and there. */
export type Followed = {
  readonly bridge: Bridge;
  readonly remote: Remote;
  readonly sessionId: string;
  readonly remoteId: string;
  readonly signal: AbortSignal;
};

/** The time filter is on `processed_at`, where ties and late entries exist: always look back this far. */
const overlapMs: Millis = 60_000;
/** How far a prompt may seem older than its sending: the clocks are known to a second, and a wrong guess asks twice. */
export const askedSlackMs: Millis = 60_000;

/** From far enough back to see what is under way again, wherever the cursor has gone since. */
export function sinceOf({ store }: Bridge, sessionId: string): Millis | "all" {
  const cursor = store.sessions.get(sessionId)?.cursor ?? null;
  if (cursor === null) return "all";
  const times = store.posts.open(sessionId).map(({ state, postedAt, eventId }) => {
    if (state === "posting") return postedAt ?? cursor;
    return (eventId === null ? null : store.log.at(sessionId, eventId)) ?? cursor;
  });
  return Math.min(cursor, ...times) - overlapMs;
}

/** A turn died with what was queued behind it. */
const isFlush = (event: SessionEvent): boolean => event.type === "idle" && event.stop.kind === "retries_exhausted";

/** Stores what the log has, page by page; but a flush with all that comes after it, which says what has survived it. */
export async function listLog({ bridge, remote, sessionId, remoteId, signal }: Followed): Promise<void> {
  const { store, chats } = bridge;
  const isSaid = store.settings.get(`said:${sessionId}`) !== null;
  const held: SessionEvent[] = [];
  const keep = (): void => {
    const page = held.splice(0);
    if (signal.aborted || page.length === 0) return;
    if (isSaid) chats.keep(sessionId, page);
    else chats.log(sessionId, page);
  };
  for await (const page of remote.list(remoteId, sinceOf(bridge, sessionId), signal)) {
    held.push(...page);
    if (!held.some(isFlush)) keep();
  }
  keep();
  if (isSaid && !signal.aborted) store.settings.remove(`said:${sessionId}`);
}

/** Posts whose answer was not seen: they are in the log, or they are queued again. */
export async function lookUp({ bridge, remote, sessionId, remoteId, signal }: Followed): Promise<void> {
  const { store, chats } = bridge;
  const uncertain = store.posts.open(sessionId).filter(({ state }) => state === "posting");
  const prompts: SessionEvent[] = [];
  if (uncertain.some(({ kind }) => kind === "prompt"))
    for await (const page of remote.list(remoteId, "prompts", signal)) prompts.push(...page);
  if (signal.aborted) return;
  const posted: { id: number; eventId: string | null }[] = [];
  for (const post of uncertain) {
    const eventId = find(bridge, post, prompts);
    if (eventId !== undefined) posted.push({ id: post.id, eventId });
    else store.posts.markQueued(post.id);
  }
  const ids = new Set(posted.map(({ eventId }) => eventId));
  const found = prompts.filter(({ id }) => ids.has(id));
  if (posted.length > 0) chats.log(sessionId, found, posted);
}

/** The entry that a post became; undefined where it did not arrive. */
function find(
  { store }: Bridge,
  { sessionId, kind, request, postedAt }: PostRow,
  prompts: readonly SessionEvent[],
): string | null | undefined {
  // Stopping twice stops once.
  if (kind === "interrupt") return undefined;
  if (request?.kind === "confirm" || request?.kind === "result")
    return store.log.isAnswered(sessionId, request.toolUseId) ? null : undefined;
  if (request?.kind !== "prompt") return undefined;
  const taken = new Set(store.posts.mappedEventIds(sessionId));
  for (;;) {
    const found = findUncertain(request.text, (postedAt ?? 0) - askedSlackMs, prompts, taken);
    if (found === null) return undefined;
    // One that was thrown away since is no answer.
    if (trackAll(progressOf(found), store.log.events(sessionId, found)).kind !== "flushed") return found;
    taken.add(found);
  }
}
