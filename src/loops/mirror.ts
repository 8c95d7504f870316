/**
 * One session that lives elsewhere, mirrored while something is under way in it.
 *
 *   frames ─▶ buffer ─▶ flush: ONE transaction (`store/apply.ts`)        queued posts ─▶ request ─▶ posting ─▶ echo ─▶ buffer
 */
import type { Frame, Remote, RemoteSession } from "../claude/line.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis, Session, SessionEvent } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { createLive, type Live } from "./live.ts";
import { build, isOver, noteTurn, refused, viewOf, waitOf, type Worker } from "./post.ts";
import { lookUp } from "./uncertain.ts";

/** The time filter is on `processed_at`, where ties and late entries exist: always look back this far. */
const overlapMs: Millis = 60_000;
/** The echo that says what our prompt is called may wait this long for company: until then a crash finds it by its text. */
const echoHoldMs: Millis = 20;
/** A stop is taken up within a second as a rule. */
const restMs: Millis = 2_000;

type Mirror = {
  readonly bridge: Bridge;
  readonly remote: Remote;
  readonly sessionId: string;
  readonly remoteId: string;
  readonly signal: AbortSignal;
  readonly live: Live;
  readonly buffer: SessionEvent[];
  readonly posted: { readonly id: number; readonly eventId: string | null }[];
  /** A turn was stopped, and the session is to come to rest before the next prompt: looked at then, in monotonic time. */
  restingAt: Millis | null;
  /** A batch was refused: which of it is told one by one. */
  isOneByOne: boolean;
  /** The prompt was given up there, and is queued anew for after this. */
  waitMs: Millis;
  /** Nothing of ours is under way, but the session runs. */
  isWatched: boolean;
  startedAt: Millis;
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
    const startedAt = bridge.clock.monotonic();
    const common = { bridge, remote, sessionId: session.id, remoteId, signal, live, isWatched, startedAt };
    const state: Mirror = { ...common, buffer: [], posted: [], restingAt: null, isOneByOne: false, waitMs: 0 };
    const frames = (await remote.open(remoteId, signal))[Symbol.asyncIterator]();
    await listLog(bridge, remote, session.id, remoteId, signal);
    await lookUp(bridge, remote, session.id, remoteId, signal);
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
    worker.wake = () => undefined;
    await live.end();
  }
}

/** What ended by itself was not closed elsewhere. */
function settleGone({ store, chats }: Bridge, sessionId: string, there: RemoteSession | null): void {
  const session = store.sessions.get(sessionId);
  if (session) chats.settle(session.chat, { type: "gone", session, isElsewhere: there?.isArchived !== false });
}

/** In a conversation that is over nothing is read any more; what still runs there is ended. */
async function finishEnded(bridge: Bridge, session: Session, signal: AbortSignal): Promise<void> {
  const { store, line } = bridge;
  for (const post of store.posts.open(session.id)) {
    if (post.request !== null && post.kind !== "prompt" && session.remoteId !== null && !signal.aborted)
      await line
        .post(await viewOf(bridge, session), [post.request], () => undefined, signal)
        .catch((error: unknown) => {
          if (!(error instanceof BridgeError)) throw error;
          // What it does not take there is nothing left to end.
          if (error.retry !== "never") throw error;
        });
    if (signal.aborted) return;
    store.posts.finish(post.id);
    if (post.request?.kind === "result") store.calls.markPosted(post.request.toolUseId, bridge.clock.now());
  }
}

/** A session whose making was answered is stored before anything is asked in it; one whose answer was lost is found again. */
async function create(bridge: Bridge, remote: Remote, session: Session, signal: AbortSignal): Promise<string> {
  const { settings, sessions, db } = bridge.store;
  const view = await viewOf(bridge, session);
  const mark = `creating:${session.id}` as const;
  const found = settings.get(mark) === null ? null : await remote.find(view, signal);
  if (found === null) settings.set(mark, "1");
  const remoteId = found ?? (await remote.create(view, signal));
  db.transaction(() => {
    sessions.setRemote(session.id, remoteId);
    // It was forgotten while it was made.
    if (sessions.get(session.id) === null) settings.set(`forget:${remoteId}`, "1");
    settings.remove(mark);
  });
  return remoteId;
}

/** From far enough back to see what is under way again, wherever the cursor has gone since. */
function sinceOf({ store }: Bridge, sessionId: string): Millis | null {
  const cursor = store.sessions.get(sessionId)?.cursor ?? null;
  if (cursor === null) return null;
  const times = store.posts.open(sessionId).map(({ state, postedAt, eventId }) => {
    if (state === "posting") return postedAt ?? cursor;
    return (eventId === null ? null : store.log.at(sessionId, eventId)) ?? cursor;
  });
  return Math.min(cursor, ...times) - overlapMs;
}

/** Stores what the log has, page by page. */
export async function listLog(
  bridge: Bridge,
  remote: Remote,
  sessionId: string,
  remoteId: string,
  signal: AbortSignal,
): Promise<void> {
  const { store, chats } = bridge;
  const isSaid = store.settings.get(`said:${sessionId}`) !== null;
  for await (const page of remote.list(remoteId, sinceOf(bridge, sessionId), signal)) {
    const session = store.sessions.get(sessionId);
    if (!session || signal.aborted) continue;
    if (isSaid) chats.keep(session, page);
    else chats.log(session, page);
  }
  if (isSaid && !signal.aborted) store.settings.remove(`said:${sessionId}`);
}

type Happened =
  | { readonly kind: "frame"; readonly result: IteratorResult<Frame> }
  | { readonly kind: "echo"; readonly posts: readonly PostRow[]; readonly echoes: readonly SessionEvent[] }
  | { readonly kind: "woken" }
  | { readonly kind: "held" };

type Posting = {
  readonly posts: readonly PostRow[];
  readonly stop: AbortController;
  readonly done: Promise<Happened>;
};

/** Posts and listens, until nothing is under way; resolves to how long what is queued anew waits. */
async function run(state: Mirror, frames: AsyncIterator<Frame>, worker: Worker): Promise<Millis | null> {
  const { bridge, signal } = state;
  let frame: Promise<Happened> | null = null;
  let posting: Posting | null = null;
  for (;;) {
    if (state.waitMs > 0) return state.waitMs;
    const posts = bridge.store.posts.open(state.sessionId);
    showWork(state, posts);
    if (worker.waiting.length > 0) {
      flush(state);
      await listLog(bridge, state.remote, state.sessionId, state.remoteId, signal);
      for (const one of worker.waiting.splice(0)) one.resolve();
      continue;
    }
    const batch: readonly PostRow[] = posting === null ? nextPosts(state, posts) : [];
    if (batch.length > 0) {
      flush(state);
      const stop = new AbortController();
      posting = { posts: batch, stop, done: post(state, batch, AbortSignal.any([signal, stop.signal])) };
    }
    if (posting === null && isDone(state, posts)) {
      if (!flush(state)) return null;
      // What was held may have made new work.
      continue;
    }
    const woken = Promise.withResolvers<Happened>();
    worker.wake = () => {
      if (posting?.posts.every(({ id }) => !bridge.store.posts.isOpen(id))) posting.stop.abort();
      woken.resolve({ kind: "woken" });
    };
    frame ??= frames.next().then((result) => ({ kind: "frame", result }));
    frame.catch(() => undefined);
    const timer = new AbortController();
    const holdMs = holdOf(state);
    const held =
      holdMs === null ? [] : [bridge.clock.sleep(holdMs, timer.signal).then((): Happened => ({ kind: "held" }))];
    const racing = posting === null ? [] : [posting.done];
    let happened: Happened;
    try {
      happened = await Promise.race([frame, ...racing, woken.promise, ...held]);
    } catch (error) {
      flush(state);
      throw error;
    } finally {
      timer.abort();
    }
    if (signal.aborted) return null;
    if (happened.kind === "held" && !flush(state)) await lookForRest(state);
    if (happened.kind === "echo") {
      posting = null;
      take(state, happened.posts, happened.echoes);
    }
    if (happened.kind !== "frame") continue;
    frame = null;
    if (happened.result.done) {
      flush(state);
      throw streamLost("its end came before the turn's");
    }
    if ((await hear(state, happened.result.value)) === "over") return null;
  }
}

/** The prompt that Claude works on is shown as such; at once, so that the notice shares its commit with the receipts. */
function showWork({ bridge, sessionId, live }: Mirror, posts: readonly PostRow[]): void {
  const isAt = (stage: PostRow["state"]) => posts.find(({ kind, state }) => kind === "prompt" && state === stage);
  const prompt = isAt("posted") ?? isAt("posting");
  const session = prompt && bridge.store.sessions.get(sessionId);
  live.at(
    session
      ? { inboxId: Number(prompt.subject), chat: session.chat, isVerbose: session.context["verbose"] === true }
      : null,
  );
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
function holdOf({ bridge, buffer, posted, restingAt }: Mirror): Millis | null {
  if (!buffer.every(isQuiet)) return 0;
  if (posted.length > 0) return echoHoldMs;
  return restingAt === null ? null : Math.max(1, restingAt - bridge.clock.monotonic());
}

/**
 * A session that was stopped takes the next prompt when it has come to rest: until then it refuses the prompt, or its last stop would
 * pass for the end of the new turn. No rest is waited for where there was nothing to stop.
 */
async function lookForRest(state: Mirror): Promise<void> {
  const { bridge, remote, remoteId, signal, restingAt } = state;
  if (restingAt === null || bridge.clock.monotonic() < restingAt) return;
  const there = await remote.retrieve(remoteId, signal);
  state.restingAt = there?.status === "running" ? bridge.clock.monotonic() + restMs : null;
}

/** One transaction; false where nothing was held. */
function flush(state: Mirror): boolean {
  const { bridge, sessionId, buffer, posted, live } = state;
  if (buffer.length === 0 && posted.length === 0) return false;
  const session = bridge.store.sessions.get(sessionId);
  const [events, echoes] = [buffer.splice(0), posted.splice(0)];
  if (!session) return true;
  const changes = bridge.chats.log(session, events, echoes);
  live.events(events);
  state.waitMs = waitOf(changes) ?? 0;
  if (changes.some((change) => change.do === "finish")) {
    bridge.notices.emit("claude", { fault: null, at: bridge.clock.now() });
    noteTurn(bridge, sessionId, "ended", state.startedAt);
  }
  if (changes.some((change) => change.do === "wait" && change.isWaiting))
    noteTurn(bridge, sessionId, "waiting", state.startedAt);
  return true;
}

/**
 * What goes out next, in one request: answers and stops together, so that Claude does not go on between them; then a prompt by itself,
 * and not before a session that was stopped has come to rest, or one that asks has its answers.
 */
function nextPosts(state: Mirror, posts: readonly PostRow[]): PostRow[] {
  const queued = posts.filter((post) => post.state === "queued");
  const others = queued.filter(({ kind }) => kind !== "prompt");
  if (others.length > 0) return state.isOneByOne ? others.slice(0, 1) : others;
  return state.restingAt === null && !isAsking(state) ? queued.slice(0, 1) : [];
}

/** Posts requests; resolves to their echoes. What is refused for good and is no prompt is over: there is nothing left to tell. */
async function post(state: Mirror, rows: readonly PostRow[], signal: AbortSignal): Promise<Happened> {
  const { bridge, remote, sessionId } = state;
  const { store, line, clock } = bridge;
  const nothing = { kind: "echo", posts: rows, echoes: [] } as const;
  const isPrompt = rows.some(({ kind }) => kind === "prompt");
  try {
    const built: Awaited<ReturnType<typeof build>>[] = [];
    for (const row of rows) built.push(await build(bridge, row, signal));
    const session = store.sessions.get(sessionId);
    if (!session || signal.aborted) return nothing;
    if (isPrompt) {
      state.startedAt = clock.monotonic();
      noteTurn(bridge, sessionId, "started", state.startedAt);
    }
    // In the server's time, as known now: our clock may be set before the post is looked for.
    const postedAt = clock.now() + remote.skewMs();
    store.db.transaction(() =>
      rows.forEach(({ id }, index) => {
        const { request, isNew } = built[index] ?? {};
        store.posts.markPosting(id, postedAt, isNew === true && request ? request : null);
      }),
    );
    const requests = built.map(({ request }) => request);
    return { ...nothing, echoes: await line.post(await viewOf(bridge, session), requests, () => undefined, signal) };
  } catch (error) {
    if (signal.aborted && !state.signal.aborted) return nothing;
    if (!(error instanceof BridgeError)) throw error;
    if (error.code === "claude_busy") rows.forEach(({ id }) => store.posts.markQueued(id));
    if (isPrompt || error.retry !== "never") throw error;
    bridge.log.warn("a request was refused", { kinds: rows.map(({ kind }) => kind), code: error.code });
    if (rows.length === 1) store.db.transaction(() => rows.forEach((row) => refused(bridge, row)));
    else rows.forEach(({ id }) => store.posts.markQueued(id));
    state.isOneByOne = true;
    return nothing;
  }
}

function take(state: Mirror, rows: readonly PostRow[], echoes: readonly SessionEvent[]): void {
  const { bridge, buffer, posted } = state;
  if (rows.some(({ kind }) => kind === "interrupt")) state.restingAt = bridge.clock.monotonic() + restMs;
  const isKnown = echoes.length === rows.length;
  rows.forEach((row, index) => {
    const echo = isKnown ? echoes[index] : undefined;
    if (!bridge.store.posts.isOpen(row.id) || (row.kind === "prompt" && echo?.type !== "prompt")) return;
    if (echo === undefined && bridge.store.posts.get(row.id)?.state === "queued") return;
    if (echo !== undefined) buffer.push(echo);
    posted.push({ id: row.id, eventId: echo?.id ?? null });
  });
}

async function hear(state: Mirror, frame: Frame): Promise<"over" | "on"> {
  const { bridge, sessionId, buffer, live } = state;
  switch (frame.kind) {
    case "delta":
      live.text(frame.eventId, frame.text);
      return "on";
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
        if (frame.event.stop.kind !== "requires_action") state.restingAt = null;
        await settlePuzzle(state);
      }
      if (frame.event.type === "terminated") flush(state);
      return "on";
  }
}

/** A stop while our prompt seems queued: the stream may have shown the prompt once only, unprocessed. The log knows. */
async function settlePuzzle({ bridge, remote, sessionId, remoteId, signal, buffer, posted }: Mirror): Promise<void> {
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
async function afterSilence(state: Mirror): Promise<"over" | "on"> {
  const { bridge, remote, sessionId, remoteId, signal } = state;
  flush(state);
  const there = await remote.retrieve(remoteId, signal);
  if (isOver(there)) {
    settleGone(bridge, sessionId, there);
    return "over";
  }
  await listLog(bridge, remote, sessionId, remoteId, signal);
  const posts = bridge.store.posts.open(sessionId);
  if (there?.status === "idle") state.isWatched = false;
  if (isDone(state, posts)) return "over";
  const prompt = posts.find(({ kind, state: standing }) => kind === "prompt" && standing === "posted");
  const eventId = prompt?.eventId ?? null;
  const isQueued = eventId !== null && bridge.store.log.turn(sessionId, eventId).kind === "queued";
  if (there?.status !== "idle" || !prompt || !isQueued) throw streamLost("nothing came over it for too long");
  bridge.store.posts.markQueued(prompt.id);
  return "on";
}

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`);
