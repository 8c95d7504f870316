/**
 * Follows one session while something is under way in it, wherever its log is kept.
 *
 *   frames of the stream, where the log lives at Claude   ─┐
 *   frames of a request, where it is kept here            ─┼─▶ buffer ─▶ flush: ONE transaction (`store/apply.ts`)
 *   queued posts ─▶ `posting.ts` ─▶ the entries they became ─┘
 */
import type { Frame, Remote } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, Session, SessionEvent } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { create, finishEnded, isSessionOver, listLog, listPages, lookUp, settleGone } from "./elsewhere.ts";
import { createLive } from "./live.ts";
import { dueOf, finishPost, isWanted, lookForRest, startPosts, type PostOutcome, type Reading } from "./posting.ts";
import { isAsking, isEnd, waitOf } from "./request.ts";
import { untilWritten } from "./queue.ts";

/** The echo with our prompt's entry id waits this long for entries that share its commit: a crash before finds the prompt by its text. */
const echoHoldMs: Millis = 20;

export type Reader = ReturnType<typeof createReader>;

export function createReader(bridge: Bridge, session: Session, isWatched: boolean, kill: AbortSignal) {
  const line = bridge.lineOf(session);
  const cut = new AbortController();
  const signal = AbortSignal.any([kill, cut.signal]);
  const mail = createMailbox(bridge.clock);
  const waiting: PromiseWithResolvers<void>[] = [];
  const turnAt = bridge.clock.monotonic();
  const state = { posting: null, isOneByOne: false, restingAt: null, restLooks: 0, turnAt, waitMs: 0, isWatched };
  const kept = { there: null, live: createLive(bridge), mail, buffer: [], posted: [] };
  const reading: Reading = { bridge, sessionId: session.id, line, signal, ...kept, ...state };
  signal.addEventListener("abort", mail.ring);
  const wake = (): void => {
    const { posting } = reading;
    if (posting && !isWanted(reading, posting)) posting.stop.abort();
    mail.ring();
  };
  return {
    /** Posts of the session are new, or were taken back: the reader looks at them. */
    wake,
    /** Resolves when a listing that begins after this call is stored; rejects where the reader ends before. */
    catchUp(): Promise<void> {
      const caughtUp = Promise.withResolvers<void>();
      // `wake` reads the database and may throw: then no caller awaits this promise, and its rejection is not to end the process.
      caughtUp.promise.catch(() => undefined);
      waiting.push(caughtUp);
      wake();
      return caughtUp.promise;
    },
    /** Resolves when nothing is under way in the session: to the wait of a post that was queued anew. @throws BridgeError of what failed */
    async run(): Promise<Millis | null> {
      try {
        if (line.remote !== null && session.state === "ended") {
          await finishEnded(bridge, session, signal);
          return null;
        }
        if (line.remote !== null) await open(reading, session, line.remote, mail);
        return await read(reading, mail, waiting);
      } catch (error) {
        const { there } = reading;
        if (kill.aborted) return null;
        const isRefused = error instanceof BridgeError && error.code === "claude_request";
        const found = there && isRefused ? await there.remote.retrieve(there.remoteId, kill) : undefined;
        if (found === undefined || !isSessionOver(found)) throw error;
        settleGone(bridge, session.id, found);
        return null;
      } finally {
        cut.abort();
        await reading.posting?.over;
        bridge.store.posts.end(session.id);
        await reading.live.end();
      }
    },
    /** The reader is over: each caller that waits in `catchUp` is told so. */
    end(): void {
      const lost = new BridgeError("claude_stream_lost", "Cannot catch up with the session as the line to it ended");
      for (const one of waiting) one.reject(lost);
    },
  };
}

/** A stream has no replay: it is opened before the log is listed. */
async function open(reading: Reading, session: Session, remote: Remote, mail: Mailbox): Promise<void> {
  const { bridge, sessionId, signal } = reading;
  const remoteId = session.remoteId ?? (await create(bridge, remote, session, signal));
  reading.there = { bridge, remote, sessionId, remoteId, signal };
  void listen(await remote.open(remoteId, signal), mail);
  await listLog(reading.there);
  await lookUp(reading.there);
}

async function listen(frames: AsyncIterable<Frame>, mail: Mailbox): Promise<void> {
  try {
    for await (const frame of frames) mail.put(frame);
    mail.put({ kind: "failed", error: streamLost("its end came before the turn's") });
  } catch (error) {
    mail.put({ kind: "failed", error });
  }
}

/** Posts and listens, until nothing is under way. */
async function read(reading: Reading, mail: Mailbox, waiting: PromiseWithResolvers<void>[]): Promise<Millis | null> {
  const { bridge, signal, there } = reading;
  for (;;) {
    for (let next = mail.next(); next !== undefined && !signal.aborted; next = mail.next())
      if ((await hear(reading, next)) === "over") return null;
    if (signal.aborted) return null;
    if (reading.waitMs > 0) return reading.waitMs;
    const posts = bridge.store.posts.open(reading.sessionId);
    showWork(reading, posts);
    if (waiting.length > 0) {
      await flush(reading);
      if (there) await listLog(there);
      for (const one of waiting.splice(0)) one.resolve();
      continue;
    }
    const due = dueOf(reading, posts);
    const isOut = due.length === 0 && reading.posting === null && isDone(reading, posts);
    // The buffered entries may make new work, or end what there is.
    if ((due.length > 0 || isOut) && (await flush(reading))) continue;
    if (isOut) return null;
    if (due.length > 0) startPosts(reading, due, posts);
    const isHeld = await mail.wait(holdOf(reading));
    if (isHeld && !(await flush(reading))) await lookForRest(reading);
  }
}

/** Shows the prompt that Claude works on, at once, so that the typing indicator shares its commit with the receipts. */
function showWork({ bridge, sessionId, live }: Reading, posts: readonly PostRow[]): void {
  const isAt = (stage: PostRow["state"]) => posts.find(({ kind, state }) => kind === "prompt" && state === stage);
  const prompt = isAt("posted") ?? isAt("posting");
  const session = prompt && bridge.store.sessions.get(sessionId);
  live.at(session ? { inboxId: Number(prompt.subject), session } : null);
}

/** True where only posts that wait for a person are left, and no other device's turn is watched. A log kept here grows by posts only. */
function isDone(reading: Reading, posts: readonly PostRow[]): boolean {
  const { bridge, sessionId, isWatched, there } = reading;
  const waits = (post: PostRow): boolean =>
    post.state === "waiting" ||
    (post.state === "queued" && post.kind === "prompt" && isAsking(bridge.store, sessionId));
  if (there === null || (!isWatched && posts.every(waits))) return true;
  return bridge.store.sessions.get(sessionId)?.state !== "active";
}

/** True for an entry that can wait for the commit of a later one, since the log at the API keeps it. */
const isQuiet = ({ type }: SessionEvent): boolean =>
  type === "prompt" || type === "running" || type === "usage" || type === "other";

/** How long buffered entries may wait for the next input; null: without limit. */
function holdOf({ bridge, buffer, posted, restingAt }: Reading): Millis | null {
  if (!buffer.every(isQuiet)) return 0;
  if (posted.length > 0) return echoHoldMs;
  return restingAt && Math.max(1, restingAt - bridge.clock.monotonic());
}

/** Commits the buffer in one transaction; false where it is empty. */
async function flush(reading: Reading): Promise<boolean> {
  const { bridge, sessionId, there, signal, buffer, posted, live } = reading;
  const { chats, clock, notices, reach } = bridge;
  if (buffer.length === 0 && posted.length === 0) return false;
  const [events, rows] = [buffer.splice(0), posted.splice(0)];
  const write = () => chats.log(sessionId, events, rows);
  // An entry that is kept only here was paid for: it is held while the disk is full, and not asked for again.
  const changes = there ? write() : ((await untilWritten(bridge, "follow", signal, write)) ?? []);
  live.events(events);
  reading.waitMs = waitOf(changes) ?? 0;
  // A turn that ended, or a post that was taken, shows that Claude can be reached.
  if (isEnd(changes) || rows.length > 0) reach.heard(null);
  if (isEnd(changes)) notices.emit("ended", { session: sessionId, durationMs: clock.monotonic() - reading.turnAt });
  return true;
}

async function hear(reading: Reading, input: ReaderInput): Promise<"over" | void> {
  const { bridge, sessionId, buffer, live } = reading;
  switch (input.kind) {
    case "failed":
      await flush(reading);
      throw input.error;
    case "answered":
      return finishPost(reading, input.isOut);
    case "delta":
      return live.text(input.eventId, input.text);
    case "deleted":
      await flush(reading);
      settleGone(bridge, sessionId, null);
      return "over";
    case "silent":
      return afterSilence(reading);
    case "event":
      buffer.push(input.event);
      if (input.event.type === "idle") {
        reading.isWatched = false;
        if (input.event.stop.kind !== "requires_action") reading.restingAt = null;
        await settlePuzzle(reading);
      }
      if (input.event.type === "terminated") await flush(reading);
  }
}

/**
 * Lists the log at an `idle` while our prompt seems queued: the stream may have shown the prompt only once, unprocessed; or the `idle`
 * flushed only prompts that were queued before ours.
 */
async function settlePuzzle({ bridge, there, sessionId, buffer, posted }: Reading): Promise<void> {
  const prompt = bridge.store.posts.open(sessionId).find(({ kind }) => kind === "prompt");
  const eventId = prompt?.eventId ?? posted.find(({ id }) => id === prompt?.id)?.eventId ?? null;
  if (eventId === null || there === null) return;
  const isSeen = buffer.some((event) => event.id === eventId && event.at !== null);
  if (isSeen || bridge.store.log.at(sessionId, eventId) !== null) return;
  // The pages share the transaction of the `idle`, so that it is read together with the entries after it.
  for await (const page of listPages(there)) buffer.push(...page);
}

/**
 * Looks at the session after silence, which proves nothing by itself. Where the session rests although our prompt is still queued, the
 * prompt will never be taken up; otherwise the stream may be dead, and only a new one tells.
 */
async function afterSilence(reading: Reading): Promise<"over" | void> {
  const { bridge, there, sessionId } = reading;
  const { store, chats } = bridge;
  if (there === null) return;
  await flush(reading);
  const found = await there.remote.retrieve(there.remoteId, there.signal);
  if (isSessionOver(found)) {
    settleGone(bridge, sessionId, found);
    return "over";
  }
  await listLog(there);
  const posts = store.posts.open(sessionId);
  if (found?.status === "idle") reading.isWatched = false;
  if (isDone(reading, posts)) return "over";
  const prompt = posts.find(({ kind, state: standing }) => kind === "prompt" && standing === "posted");
  const eventId = prompt?.eventId ?? null;
  const isQueued = eventId !== null && store.log.turn(sessionId, eventId).kind === "queued";
  const session = store.sessions.get(sessionId);
  if (found?.status !== "idle" || !prompt || !isQueued || !session)
    throw streamLost("nothing came over it for too long");
  const fault = toFault(new BridgeError("claude_silent", "Cannot wait for the answer as Claude never began with it"));
  const id = Number(prompt.subject);
  const changes = chats.settle(session.chat, { type: "failed", id, fault, hasSpoken: false, isLost: true });
  reading.waitMs = waitOf(changes) ?? 0;
}

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`);

/** The input of a reader: frames of the log, and the ends of posts. */
type ReaderInput = Frame | PostOutcome;
type Mailbox = ReturnType<typeof createMailbox>;

/** Inputs in the order in which they came, and a bell that rings with each. */
function createMailbox({ sleep }: Bridge["clock"]) {
  const items: ReaderInput[] = [];
  let bell = Promise.withResolvers<void>();
  const ring = (): void => bell.resolve();
  return {
    ring,
    put(item: ReaderInput): void {
      items.push(item);
      ring();
    },
    next: (): ReaderInput | undefined => items.shift(),
    /** Resolves to false at the next ring, or at once where it rang since the last wait; to true after `ms` without a ring. */
    async wait(ms: Millis | null): Promise<boolean> {
      const over = new AbortController();
      const late = ms === null ? [] : [sleep(ms, over.signal).then(() => true)];
      const isLate = await Promise.race([bell.promise.then(() => false), ...late]).finally(() => over.abort());
      bell = Promise.withResolvers();
      return isLate;
    },
  };
}
