/**
 * One session that lives elsewhere, mirrored while something is under way in it.
 *
 *   frames ─▶ buffer ─▶ flush: ONE transaction (`store/apply.ts`)        queued posts ─▶ outgoing ─▶ posting ─▶ echo ─▶ buffer
 */
import type { Frame, Remote } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, Session, SessionEvent } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { listLog, lookUp, sinceOf, type Followed } from "./catchup.ts";
import { create, finishEnded, isOver, settleGone } from "./lifetime.ts";
import { createLive, workOf, type Live } from "./live.ts";
import { createOutgoing, type Echo, type Outgoing } from "./outgoing.ts";
import { isEnd, noteEnd, waitOf, type Worker } from "./post.ts";

/** The echo that says what our prompt is called may wait this long for company: until then a crash finds it by its text. */
const echoHoldMs: Millis = 20;

type Mirror = Followed & {
  readonly live: Live;
  readonly outgoing: Outgoing;
  readonly buffer: SessionEvent[];
  readonly posted: { readonly id: number; readonly eventId: string | null }[];
  /** The prompt was given up there, and is queued anew for after this. */
  waitMs: Millis;
  /** Nothing of ours is under way, but the session runs. */
  isWatched: boolean;
};

/** Follows the session until nothing is under way in it. @throws BridgeError of what failed */
export async function mirror(
  bridge: Bridge,
  remote: Remote,
  session: Session,
  worker: Worker,
  isWatched: boolean,
  kill: AbortSignal,
): Promise<Millis | null> {
  const cut = new AbortController();
  const signal = AbortSignal.any([kill, cut.signal]);
  const live = createLive(bridge);
  let remoteId = session.remoteId;
  try {
    if (session.state === "ended") {
      await finishEnded(bridge, session, signal);
      return null;
    }
    remoteId ??= await create(bridge, remote, session, signal);
    const followed: Followed = { bridge, remote, sessionId: session.id, remoteId, signal };
    const outgoing = createOutgoing(followed);
    const state: Mirror = { ...followed, live, outgoing, isWatched, buffer: [], posted: [], waitMs: 0 };
    const frames = (await remote.open(remoteId, signal))[Symbol.asyncIterator]();
    await listLog(followed);
    await lookUp(followed);
    return await run(state, frames, worker);
  } catch (error) {
    if (kill.aborted) return null;
    const isRefused = error instanceof BridgeError && error.code === "claude_request";
    const there = remoteId !== null && isRefused ? await remote.retrieve(remoteId, kill) : undefined;
    if (there === undefined || !isOver(there)) throw error;
    settleGone(bridge, session.id, there);
    return null;
  } finally {
    cut.abort();
    await live.end();
  }
}

/** What is done about what has happened. */
type Act = () => void | "over" | Promise<unknown>;

/** Posts and listens, until nothing is under way; resolves to how long what is queued anew waits. */
async function run(state: Mirror, frames: AsyncIterator<Frame>, worker: Worker): Promise<Millis | null> {
  const { bridge, signal, outgoing } = state;
  let frame: Promise<Act> | null = null;
  for (;;) {
    if (state.waitMs > 0) return state.waitMs;
    const posts = bridge.store.posts.open(state.sessionId);
    showWork(state, posts);
    if (worker.waiting.length > 0) {
      flush(state);
      await listLog(state);
      for (const one of worker.waiting.splice(0)) one.resolve();
      continue;
    }
    const due = outgoing.due(posts, isAsking(state));
    if (due.length > 0) {
      flush(state);
      outgoing.start(due);
    } else if (outgoing.echo() === null && isDone(state, posts)) {
      if (!flush(state)) return null;
      // What was held may have made new work.
      continue;
    }
    frame ??= frames.next().then((result) => () => {
      frame = null;
      return hear(state, result);
    });
    frame.catch(() => undefined);
    const act = await next(state, frame, worker);
    if (signal.aborted || (await act()) === "over") return null;
  }
}

/** A request is over: what it became is buffered like what is heard. */
function takeEcho({ outgoing, buffer, posted }: Mirror, echo: Echo): void {
  for (const { event, id } of outgoing.take(echo)) {
    if (event !== null) buffer.push(event);
    posted.push({ id, eventId: event?.id ?? null });
  }
}

/** What happens first; what was heard before a failure is kept. */
async function next(state: Mirror, frame: Promise<Act>, worker: Worker): Promise<Act> {
  const { bridge, outgoing } = state;
  const woken = Promise.withResolvers<Act>();
  worker.wake = () => {
    outgoing.drop();
    woken.resolve(() => undefined);
  };
  const timer = new AbortController();
  const holdMs = holdOf(state);
  const onHeld: Act = () => (flush(state) ? undefined : outgoing.lookForRest());
  const held = holdMs === null ? [] : [bridge.clock.sleep(holdMs, timer.signal).then(() => onHeld)];
  const echo = outgoing.echo()?.then(
    (echo): Act =>
      () =>
        takeEcho(state, echo),
  );
  try {
    return await Promise.race([frame, ...(echo ? [echo] : []), woken.promise, ...held]);
  } catch (error) {
    flush(state);
    throw error;
  } finally {
    timer.abort();
  }
}

/** The prompt that Claude works on is shown as such; at once, so that the notice shares its commit with the receipts. */
function showWork({ bridge, sessionId, live }: Mirror, posts: readonly PostRow[]): void {
  const isAt = (stage: PostRow["state"]) => posts.find(({ kind, state }) => kind === "prompt" && state === stage);
  const prompt = isAt("posted") ?? isAt("posting");
  const session = prompt && bridge.store.sessions.get(sessionId);
  live.at(session ? workOf(session, prompt) : null);
}

/** Claude waits for answers, and takes no prompt before it has them. */
const isAsking = ({ bridge, sessionId }: Mirror): boolean => bridge.store.log.open(sessionId).isWaiting;

/** Only what waits for a person is left, and no turn of another device is watched. */
function isDone(state: Mirror, posts: readonly PostRow[]): boolean {
  const { bridge, sessionId, isWatched } = state;
  const waits = (post: PostRow): boolean =>
    post.state === "waiting" || (post.state === "queued" && post.kind === "prompt" && isAsking(state));
  return (!isWatched && posts.every(waits)) || bridge.store.sessions.get(sessionId)?.state !== "active";
}

/** What can wait for the commit of the next that matters: the log at the API keeps it. */
const isQuiet = ({ type }: SessionEvent): boolean =>
  type === "prompt" || type === "running" || type === "usage" || type === "other";

/** How long what is buffered may wait for what comes next; null: as long as it takes. */
function holdOf({ buffer, posted, outgoing }: Mirror): Millis | null {
  if (!buffer.every(isQuiet)) return 0;
  return posted.length > 0 ? echoHoldMs : outgoing.restInMs();
}

/** One transaction; false where nothing was held. */
function flush(state: Mirror): boolean {
  const { bridge, sessionId, buffer, posted, live, outgoing } = state;
  if (buffer.length === 0 && posted.length === 0) return false;
  const [events, echoes] = [buffer.splice(0), posted.splice(0)];
  const changes = bridge.chats.log(sessionId, events, echoes);
  live.events(events);
  state.waitMs = waitOf(changes) ?? 0;
  if (isEnd(changes)) noteEnd(bridge, sessionId, outgoing.turnAt());
  return true;
}

async function hear(state: Mirror, { done, value: frame }: IteratorResult<Frame>): Promise<"over" | void> {
  const { bridge, sessionId, buffer, live } = state;
  if (done) {
    flush(state);
    throw streamLost("its end came before the turn's");
  }
  switch (frame.kind) {
    case "delta":
      return live.text(frame.eventId, frame.text);
    case "deleted":
      flush(state);
      settleGone(bridge, sessionId, null);
      return "over";
    case "silent":
      return afterSilence(state);
    case "event":
      buffer.push(frame.event);
      if (frame.event.type === "idle") {
        state.isWatched = false;
        if (frame.event.stop.kind !== "requires_action") state.outgoing.rested();
        await settlePuzzle(state);
      }
      if (frame.event.type === "terminated") flush(state);
  }
}

/**
 * A stop while our prompt seems queued: the stream may have shown the prompt once only, unprocessed; or the stop threw away what was
 * queued before our prompt was. The log knows.
 */
async function settlePuzzle(state: Mirror): Promise<void> {
  const { bridge, remote, sessionId, remoteId, signal, buffer, posted } = state;
  const prompt = bridge.store.posts.open(sessionId).find(({ kind }) => kind === "prompt");
  const eventId = prompt?.eventId ?? posted.find(({ id }) => id === prompt?.id)?.eventId ?? null;
  if (eventId === null) return;
  const isSeen = buffer.some((event) => event.id === eventId && event.at !== null);
  if (isSeen || bridge.store.log.at(sessionId, eventId) !== null) return;
  for await (const page of remote.list(remoteId, sinceOf(bridge, sessionId), signal)) buffer.push(...page);
}

/**
 * Silence proves nothing by itself. Where the session rests although our prompt is still queued, it will never be taken up; otherwise
 * the line may be dead, and a new stream is the only way to know.
 */
async function afterSilence(state: Mirror): Promise<"over" | void> {
  const { bridge, remote, sessionId, remoteId, signal } = state;
  const { store, chats } = bridge;
  flush(state);
  const there = await remote.retrieve(remoteId, signal);
  if (isOver(there)) {
    settleGone(bridge, sessionId, there);
    return "over";
  }
  await listLog(state);
  const posts = store.posts.open(sessionId);
  if (there?.status === "idle") state.isWatched = false;
  if (isDone(state, posts)) return "over";
  const prompt = posts.find(({ kind, state: standing }) => kind === "prompt" && standing === "posted");
  const eventId = prompt?.eventId ?? null;
  const isQueued = eventId !== null && store.log.turn(sessionId, eventId).kind === "queued";
  const session = store.sessions.get(sessionId);
  if (there?.status !== "idle" || !prompt || !isQueued || !session)
    throw streamLost("nothing came over it for too long");
  const fault = toFault(new BridgeError("claude_silent", "Cannot wait for the answer as Claude never began with it"));
  const id = Number(prompt.subject);
  state.waitMs = waitOf(chats.settle(session.chat, { type: "failed", id, fault, hasSpoken: false, isLost: true })) ?? 0;
}

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`);
