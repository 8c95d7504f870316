/**
 * Sessions that live at the API: creates one, catches up with its log, looks up uncertain posts, ends it.
 *
 * Posting has no idempotency key, so that the log is asked for a post whose outcome is unknown before anything goes out again.
 */
import type { Remote, RemoteSession } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, Session, SessionEvent } from "../core/model.ts";
import { findUncertain, progressOf, trackAll } from "../core/turn.ts";
import type { PostRow } from "../store/posts.ts";
import type { Key } from "../store/remembered.ts";
import type { Bridge } from "./bridge.ts";
import { metadataOf, viewOf } from "./request.ts";

/** The session is over at the API: nothing can be asked in it any more. */
export const isSessionOver = (there: RemoteSession | null): boolean =>
  there === null || there.isArchived || there.status === "terminated";

/** Creates a session and stores its id before anything is asked in it; one whose answer was lost is found again by its metadata. */
export async function create(bridge: Bridge, remote: Remote, session: Session, signal: AbortSignal): Promise<string> {
  const { settings, sessions, db } = bridge.store;
  const view = await viewOf(bridge, session);
  const mark = `creating:${session.id}` as const;
  const found = settings.get(mark) === null ? null : await remote.find(view, signal);
  if (found === null) settings.set(mark, "1");
  const remoteId = found ?? (await remote.create(view, signal));
  db.transaction(() => {
    sessions.setRemote(session.id, remoteId);
    // The session was forgotten while it was made.
    if (sessions.get(session.id) === null) settings.set(`forget:${remoteId}`, "1");
    settings.remove(mark);
  });
  return remoteId;
}

/** A session that is followed, with its id here and its id at the API. */
export type Followed = {
  readonly bridge: Bridge;
  readonly remote: Remote;
  readonly sessionId: string;
  readonly remoteId: string;
  readonly signal: AbortSignal;
};

/** A listing begins this long before its cursor, since the time filter is on `processed_at`, where ties and late entries exist. */
const overlapMs: Millis = 60_000;
/** A prompt may seem older than its sending by this much: the clocks are known to a second, and one that is not found is asked twice. */
export const askedSlackMs: Millis = 60_000;

/** The start of a listing: early enough to see each open post again, wherever the cursor has gone since. */
function sinceOf({ store }: Bridge, sessionId: string): Millis | "all" {
  const cursor = store.sessions.get(sessionId)?.cursor ?? null;
  if (cursor === null) return "all";
  const times = store.posts.open(sessionId).map(({ state, postedAt, eventId }) => {
    if (state === "posting") return postedAt ?? cursor;
    return (eventId === null ? null : store.log.at(sessionId, eventId)) ?? cursor;
  });
  return Math.min(cursor, ...times) - overlapMs;
}

/** Lists the log from `sinceOf` on, page by page: the one listing of a log that is followed. */
export const listPages = ({ bridge, remote, sessionId, remoteId, signal }: Followed): ReturnType<Remote["list"]> =>
  remote.list(remoteId, sinceOf(bridge, sessionId), signal);

/** True for the entry of a turn that died with the prompts queued behind it. */
const isFlush = (event: SessionEvent): boolean => event.type === "idle" && event.stop.kind === "retries_exhausted";

/** Stores the log page by page; a flush together with all that comes after it, which tells what has survived the flush. */
export async function listLog(followed: Followed): Promise<void> {
  const { bridge, sessionId, signal } = followed;
  const { store, chats } = bridge;
  const isSaid = store.settings.get(`said:${sessionId}`) !== null;
  const held: SessionEvent[] = [];
  const keep = (): void => {
    const page = held.splice(0);
    if (signal.aborted || page.length === 0) return;
    if (isSaid) chats.keep(sessionId, page);
    else chats.log(sessionId, page);
  };
  for await (const page of listPages(followed)) {
    held.push(...page);
    if (!held.some(isFlush)) keep();
  }
  keep();
  if (isSaid && !signal.aborted) store.settings.remove(`said:${sessionId}`);
}

/** Settles each post whose answer was not seen: one that the log has is posted, any other is queued again. */
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

/** The id of the entry that a post became, null for an answer, which needs none; undefined where the post did not arrive. */
function find(
  { store }: Bridge,
  { sessionId, kind, request, postedAt }: PostRow,
  prompts: readonly SessionEvent[],
): string | null | undefined {
  // An interrupt can be posted twice without harm.
  if (kind === "interrupt") return undefined;
  if (request?.kind === "confirm" || request?.kind === "result")
    return store.log.isAnswered(sessionId, request.toolUseId) ? null : undefined;
  if (request?.kind !== "prompt") return undefined;
  const taken = new Set(store.posts.mappedEventIds(sessionId));
  for (;;) {
    const found = findUncertain(request.text, (postedAt ?? 0) - askedSlackMs, prompts, taken);
    if (found === null) return undefined;
    // A prompt that was thrown away since is not the one that was posted.
    if (trackAll(progressOf(found), store.log.events(sessionId, found)).kind !== "flushed") return found;
    taken.add(found);
  }
}

/** The session is gone at Claude. `isElsewhere` tells one that was archived or deleted by a person from one that ended by itself. */
export function settleGone({ store, chats }: Bridge, sessionId: string, there: RemoteSession | null): void {
  const session = store.sessions.get(sessionId);
  if (session) chats.settle(session.chat, { type: "gone", session, isElsewhere: there?.isArchived !== false });
}

/** Posts the stops and answers that are open in an ended session, so that nothing runs on there; its log is not read any more. */
export async function finishEnded(bridge: Bridge, session: Session, signal: AbortSignal): Promise<void> {
  const { store } = bridge;
  const line = bridge.lineOf(session);
  for (const post of store.posts.open(session.id)) {
    if (post.request !== null && post.kind !== "prompt" && session.remoteId !== null && !signal.aborted)
      await line
        .post(await viewOf(bridge, session), [post.request], () => undefined, signal)
        .catch((error: unknown) => {
          if (!(error instanceof BridgeError)) throw error;
          // A refusal for good: there is nothing left to end.
          if (error.retry !== "never") throw error;
        });
    if (signal.aborted) return;
    store.posts.finish(post.id);
    if (post.request?.kind === "result") store.calls.markPosted(post.request.toolUseId, bridge.clock.now());
  }
}

/** Deletes at Claude the sessions that a person had deleted here, and those whose conversation was over before their id was known. */
export async function sweep({ store, log }: Bridge, remote: Remote, signal: AbortSignal): Promise<void> {
  const { settings, sessions } = store;
  const attempt = (key: Key, work: () => Promise<unknown>): Promise<unknown> =>
    work()
      .then(() => settings.remove(key))
      .catch((error: unknown) => {
        if (!(error instanceof BridgeError)) throw error;
        log.warn("a session is still to be deleted at Claude", toFault(error));
      });
  for (const remoteId of settings.idsOf("forget"))
    await attempt(`forget:${remoteId}`, () => remote.remove(remoteId, signal));
  for (const id of settings.idsOf("creating"))
    if (sessions.get(id)?.state !== "active")
      await attempt(`creating:${id}`, async () => {
        const remoteId = await remote.find({ metadata: metadataOf(id) }, signal);
        if (remoteId !== null) await remote.remove(remoteId, signal);
      });
}
