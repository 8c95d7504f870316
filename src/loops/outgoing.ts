/**
 * What goes out to a session that lives elsewhere, one request at a time: answers and stops together, so that Claude does not go on
 * between them; then a prompt by itself, and not before a session that was stopped has come to rest, or one that asks has its answers.
 */
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import { askedSlackMs, type Followed } from "./catchup.ts";
import { isOver } from "./lifetime.ts";
import { build, viewOf } from "./post.ts";

/** A stop is taken up within a second as a rule. */
const restMs: Millis = 2_000;

/** What a request went out with, and the entries that it became; without entries nothing is known of it, or it did not go out. */
export type Echo = { readonly posts: readonly PostRow[]; readonly echoes: readonly SessionEvent[] };

type Posting = { readonly posts: readonly PostRow[]; readonly stop: AbortController; readonly echo: Promise<Echo> };

export type Outgoing = ReturnType<typeof createOutgoing>;

export function createOutgoing(followed: Followed) {
  const { bridge, remote, remoteId, signal } = followed;
  const { store, clock } = bridge;
  /** A turn was stopped, and the session is to come to rest before the next prompt: looked at then, in monotonic time. */
  let restingAt: Millis | null = null;
  /** A batch was refused: which of it is told one by one. */
  let isOneByOne = false;
  let posting: Posting | null = null;
  let turnAt = clock.monotonic();
  return {
    /** When the turn under way began. */
    turnAt: (): Millis => turnAt,
    /** Null while nothing is under way. */
    echo: (): Promise<Echo> | null => posting?.echo ?? null,
    /** What of these goes out together now; nothing while something is under way. */
    due(posts: readonly PostRow[], isAsking: boolean): readonly PostRow[] {
      const queued = posting === null ? posts.filter((row) => row.state === "queued") : [];
      const others = queued.filter(({ kind }) => kind !== "prompt");
      if (others.length > 0) return isOneByOne ? others.slice(0, 1) : others;
      return restingAt === null && !isAsking ? queued.slice(0, 1) : [];
    },
    start(rows: readonly PostRow[]): void {
      const stop = new AbortController();
      if (rows.some(({ kind }) => kind === "prompt")) turnAt = clock.monotonic();
      const sent = post(followed, rows, AbortSignal.any([signal, stop.signal]));
      posting = { posts: rows, stop, echo: sent };
      sent.catch(() => undefined);
    },
    /** What was taken back is not waited for. */
    drop(): void {
      if (posting?.posts.every(({ id }) => !store.posts.isOpen(id))) posting.stop.abort();
    },
    /** The request is over: its entries with the posts that are among them. */
    take({ posts, echoes }: Echo): { readonly event: SessionEvent | null; readonly id: number }[] {
      posting = null;
      if (posts.length > 1 && echoes.length === 0) isOneByOne = true;
      if (posts.some(({ kind }) => kind === "interrupt")) restingAt = clock.monotonic() + restMs;
      const isKnown = echoes.length === posts.length;
      return posts.flatMap((row, index) => {
        const event = (isKnown ? echoes[index] : undefined) ?? null;
        if (!store.posts.isOpen(row.id) || (row.kind === "prompt" && event?.type !== "prompt")) return [];
        return event === null && store.posts.get(row.id)?.state === "queued" ? [] : { event, id: row.id };
      });
    },
    /** Null where no rest is waited for. */
    restInMs: (): Millis | null => restingAt && Math.max(1, restingAt - clock.monotonic()),
    rested: (): void => void (restingAt = null),
    /** Until it rests it refuses a prompt, or its last stop would pass for the end of the new turn. */
    async lookForRest(): Promise<void> {
      if (restingAt === null || clock.monotonic() < restingAt) return;
      const there = await remote.retrieve(remoteId, signal);
      restingAt = there?.status === "running" ? clock.monotonic() + restMs : null;
    },
  };
}

/** Resolves to the echoes of one request. What is refused for good and is no prompt is decided on: `chats.refused`. */
async function post(
  { bridge, remote, sessionId, remoteId, signal: followed }: Followed,
  posts: readonly PostRow[],
  signal: AbortSignal,
): Promise<Echo> {
  const { store, clock, chats } = bridge;
  const nothing: Echo = { posts, echoes: [] };
  const isPrompt = posts.some(({ kind }) => kind === "prompt");
  try {
    const built: Awaited<ReturnType<typeof build>>[] = [];
    for (const row of posts) built.push(await build(bridge, row, signal));
    const session = store.sessions.get(sessionId);
    if (!session || signal.aborted) return nothing;
    // In the server's time, as known now: our clock may be set before the post is looked for. What is in the log already is not it.
    const postedAt = Math.max(clock.now() + remote.skewMs(), (session.cursor ?? 0) + askedSlackMs);
    store.db.transaction(() =>
      posts.forEach(({ id }, index) => {
        const { request, isNew } = built[index] ?? {};
        store.posts.markPosting(id, postedAt, isNew === true && request ? request : null);
      }),
    );
    const requests = built.map(({ request }) => request);
    return {
      posts,
      echoes: await bridge.lineOf(session).post(await viewOf(bridge, session), requests, () => undefined, signal),
    };
  } catch (error) {
    if (signal.aborted && !followed.aborted) return nothing;
    if (!(error instanceof BridgeError)) throw error;
    if (error.code === "claude_busy" || error.code === "claude_running")
      posts.forEach(({ id }) => store.posts.markQueued(id));
    if (isPrompt || error.retry !== "never") throw error;
    bridge.log.warn("a request was refused", { kinds: posts.map(({ kind }) => kind), code: error.code });
    if (posts.length > 1) posts.forEach(({ id }) => store.posts.markQueued(id));
    // Of a session that is over nothing is wrong with the answer.
    else if (isOver(await remote.retrieve(remoteId, signal))) throw error;
    else posts.forEach((row) => chats.refused(row, toFault(error)));
    return nothing;
  }
}
