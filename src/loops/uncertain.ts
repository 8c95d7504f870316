/** Posts whose outcome is unknown: posting has no idempotency key, so that the log is asked before anything goes out again. */
import type { Remote } from "../claude/line.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import { findUncertain, progressOf, trackAll } from "../core/turn.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";

/** How far a prompt may seem older than its sending: the clocks are known to a second, and a wrong guess asks twice. */
const askedSlackMs: Millis = 60_000;
/** Posts whose answer was not seen: they are in the log, or they are queued again. */
export async function lookUp(
  bridge: Bridge,
  remote: Remote,
  sessionId: string,
  remoteId: string,
  signal: AbortSignal,
): Promise<void> {
  const { store, chats } = bridge;
  const uncertain = store.posts.open(sessionId).filter(({ state }) => state === "posting");
  if (uncertain.length === 0) return;
  const prompts = uncertain.some(({ kind }) => kind === "prompt") ? await remote.prompts(remoteId, signal) : [];
  const session = store.sessions.get(sessionId);
  if (!session || signal.aborted) return;
  const posted: { id: number; eventId: string | null }[] = [];
  for (const post of uncertain) {
    const eventId = find(bridge, sessionId, post, prompts);
    if (eventId !== undefined) posted.push({ id: post.id, eventId });
    else store.posts.markQueued(post.id);
  }
  const ids = new Set(posted.map(({ eventId }) => eventId));
  if (posted.length > 0)
    chats.log(
      session,
      prompts.filter(({ id }) => ids.has(id)),
      posted,
    );
}

/** The entry that a post became; undefined where it did not arrive. */
function find(
  { store }: Bridge,
  sessionId: string,
  { kind, request, postedAt }: PostRow,
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
