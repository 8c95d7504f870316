/**
 * Posts to a session, one request at a time: answers and stops together, so that Claude does not go on between them; then a prompt by
 * itself, once a session that was stopped has come to rest, or one that asks has its answers.
 *
 * Where the log is kept here, a post that broke off has left no entry, or the line recognizes it: it is posted again, as often as
 * `core/backoff.ts` allows, without a look-up.
 */
import type { Frame, Line, Request } from "../claude/line.ts";
import { faultClass, isLastTry } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import type { PostRow } from "../store/posts.ts";
import type { Bridge } from "./bridge.ts";
import { askedSlackMs, isSessionOver, listLog, type Followed } from "./elsewhere.ts";
import type { Live } from "./live.ts";
import { build, isAsking, viewOf } from "./request.ts";

/** The wait before a look at a stopped session, which takes a stop up within a second as a rule. */
const restMs: Millis = 2_000;
/** After this many looks at a stopped session that does not rest the prompt goes out, and Claude says whether it is busy. */
const restLooksMax = 150;

/** The state of a session that is followed. */
export type Reading = {
  readonly bridge: Bridge;
  readonly sessionId: string;
  readonly line: Line;
  /** Null where the log is kept here, and before the session was created at Claude. */
  there: Followed | null;
  readonly signal: AbortSignal;
  readonly live: Live;
  readonly mail: { put(heard: PostOutcome): void; ring(): void };
  /** Entries that are to be stored, and the posts that are among them. */
  readonly buffer: SessionEvent[];
  readonly posted: { readonly id: number; readonly eventId: string | null }[];
  /** The request under way: one at a time. */
  posting: (Posting & { readonly over: Promise<void> }) | null;
  /** A batch was refused: its posts go out one by one, which shows the refused one. */
  isOneByOne: boolean;
  /** When to look whether a stopped session rests, in monotonic time: no prompt goes out before. Null for one that was not stopped. */
  restingAt: Millis | null;
  /** Looks since the stop. */
  restLooks: number;
  /** When the turn under way began. */
  turnAt: Millis;
  /** The wait of a post that was queued anew; 0 for none. */
  waitMs: Millis;
  /** The session runs for another device: it is followed although no post of ours is open. */
  isWatched: boolean;
};

/** The end of a request: `isOut` where it went out and was taken; or the error with which it failed. */
export type PostOutcome =
  | { readonly kind: "answered"; readonly isOut: boolean }
  | { readonly kind: "failed"; readonly error: unknown };

type Posting = {
  readonly rows: readonly PostRow[];
  /** The rows that are not known to be in the log yet. */
  readonly unseen: Set<PostRow>;
  /** The request is of use while one of these is open. */
  readonly wanted: readonly PostRow[];
  readonly stop: AbortController;
};

const isPrompt = ({ kind }: PostRow): boolean => kind === "prompt";

/** The posts that go out together now; none while a request is under way. */
export function dueOf(reading: Reading, posts: readonly PostRow[]): readonly PostRow[] {
  if (reading.posting !== null) return [];
  const due = posts.filter((row) => row.state === "queued" || isPostedAgain(reading, row));
  const others = due.filter((row) => !isPrompt(row));
  if (others.length > 0) return reading.isOneByOne ? others.slice(0, 1) : others;
  return reading.restingAt === null && !isAsking(reading.bridge.store, reading.sessionId) ? due.slice(0, 1) : [];
}

/** True for a post that broke off, and for a prompt whose turn broke off, where the line remembers the turn and goes on with it. */
const isPostedAgain = ({ line }: Reading, row: PostRow): boolean =>
  line.remote === null &&
  (row.state === "posting" || (isPrompt(row) && row.state === "posted" && line.remembers === true));

export const isWanted = ({ bridge, sessionId }: Reading, { wanted }: Posting): boolean =>
  wanted.some(({ id }) => bridge.store.posts.isOpen(id, sessionId));

export function startPosts(reading: Reading, rows: readonly PostRow[], posts: readonly PostRow[]): void {
  const { bridge, there, mail } = reading;
  // A request that brings the whole turn along is of use as long as its prompt is open.
  const asking = there === null ? posts.find((row) => isPrompt(row) && row.state !== "queued") : undefined;
  const wanted = asking && !rows.some(isPrompt) ? [asking] : rows;
  if (rows.some(isPrompt)) reading.turnAt = bridge.clock.monotonic();
  const posting = { rows, unseen: new Set(rows), wanted, stop: new AbortController() };
  const over = post(reading, posting).then(
    (isOut) => mail.put({ kind: "answered", isOut }),
    (error: unknown) => mail.put({ kind: "failed", error }),
  );
  reading.posting = { ...posting, over };
}

/** Ends the request under way. After a stop the session is to come to rest before the next prompt. */
export function finishPost(reading: Reading, isOut: boolean): void {
  const { bridge, posting, there } = reading;
  reading.posting = null;
  if (posting === null) return;
  if (there !== null && posting.rows.some(({ kind }) => kind === "interrupt"))
    Object.assign(reading, { restingAt: bridge.clock.monotonic() + restMs, restLooks: 0 });
  if (isOut && (there !== null || isWanted(reading, posting))) see(reading, posting, null);
}

/** Buffers an entry that a request became; of a turn that was taken back only its cost. */
function keep(reading: Reading, posting: Posting, event: SessionEvent): void {
  const isCost = event.type === "usage";
  if (!isCost && reading.there === null && !isWanted(reading, posting)) return;
  reading.buffer.push(event);
  if (!isCost) see(reading, posting, event);
}

/** Marks posts of a request as in the log: a prompt with its own entry, the others with the first entry or the end of the request. */
function see({ bridge, sessionId, posted }: Reading, { unseen }: Posting, event: SessionEvent | null): void {
  const promptId = event?.type === "prompt" ? event.id : null;
  for (const row of unseen) {
    if (isPrompt(row) && promptId === null) continue;
    unseen.delete(row);
    if (bridge.store.posts.isOpen(row.id, sessionId))
      posted.push({ id: row.id, eventId: isPrompt(row) ? promptId : null });
  }
}

/** Looks whether a stopped session rests: until then it refuses a prompt, or its `idle` would pass for the end of the new turn. */
export async function lookForRest(reading: Reading): Promise<void> {
  const { bridge, there, restingAt } = reading;
  const { clock } = bridge;
  if (there === null || restingAt === null || clock.monotonic() < restingAt) return;
  const found = await there.remote.retrieve(there.remoteId, there.signal);
  const isAwaited = found?.status === "running" && ++reading.restLooks < restLooksMax;
  reading.restingAt = isAwaited ? clock.monotonic() + restMs : null;
}

/** Resolves to whether the request went out and was taken. */
async function post(reading: Reading, posting: Posting): Promise<boolean> {
  const { bridge, sessionId, line, there, live, mail } = reading;
  const { rows, stop } = posting;
  const { store, clock } = bridge;
  const signal = AbortSignal.any([reading.signal, stop.signal]);
  let requests: Request[] = [];
  try {
    const built: Awaited<ReturnType<typeof build>>[] = [];
    for (const row of rows) built.push(await build(bridge, row, signal));
    const session = store.sessions.get(sessionId);
    if (!session || signal.aborted) return false;
    // The mark serves the look-up after a crash: where there is none, it would cost a commit for nothing.
    const isMarked = there !== null || line.remembers === true || built.some(({ isNew }) => isNew);
    // The server's time, since our clock may be set before the look-up; past the cursor, since no entry up to there is this post.
    const postedAt = Math.max(clock.now() + (there?.remote.skewMs() ?? 0), (session.cursor ?? 0) + askedSlackMs);
    const mark = (): void =>
      rows.forEach(({ id, state }, index) => {
        const { request, isNew } = built[index] ?? {};
        if (state !== "posted") store.posts.markPosting(id, postedAt, isNew === true && request ? request : null);
      });
    if (isMarked) store.db.transaction(mark);
    else
      store.posts.begin(
        sessionId,
        rows.map(({ id }) => id),
      );
    mail.ring();
    requests = built.map(({ request }) => request);
    const hear = (frame: Frame): void => {
      if (frame.kind === "delta") live.text(frame.eventId, frame.text);
      if (frame.kind === "event") keep(reading, posting, frame.event);
      mail.ring();
    };
    await line.post(await viewOf(bridge, session), requests, hear, signal);
    return true;
  } catch (error) {
    if (signal.aborted && !reading.signal.aborted) return false;
    if (!(error instanceof BridgeError)) throw error;
    return settleFailure(reading, posting, requests, error);
  }
}

/** `chats` decides on a post that is refused for good and is no prompt. @throws BridgeError where the reader has to know */
async function settleFailure(
  reading: Reading,
  posting: Posting,
  requests: readonly Request[],
  error: BridgeError,
): Promise<boolean> {
  const { bridge, line, there } = reading;
  const { rows } = posting;
  const { store, chats, log } = bridge;
  const queueAgain = (): void => rows.forEach(({ id }) => store.posts.markQueued(id));
  const isNowhere = there === null && !line.remembers;
  if (isNowhere || error.code === "claude_busy" || error.code === "claude_running") queueAgain();
  const prompt = rows.find(isPrompt);
  if (prompt && there === null && isLastBreak(prompt, error)) {
    for (const event of cutTurn(bridge, prompt, requests, error)) keep(reading, posting, event);
    return true;
  }
  if (prompt || error.retry !== "never") throw error;
  log.warn("a request was refused", { kinds: rows.map(({ kind }) => kind), code: error.code });
  if (there !== null && rows.length > 1) {
    reading.isOneByOne = true;
    queueAgain();
  }
  // A session that is over refuses every answer: the reader settles that, and this answer is not at fault.
  else if (there !== null && isSessionOver(await there.remote.retrieve(there.remoteId, there.signal))) throw error;
  else {
    // The listing shows an answer of another device, after which Claude refuses this one.
    if (there !== null) await listLog(there);
    rows.forEach((row) => chats.refused(row, toFault(error)));
  }
  return false;
}

/** True where the turn of a prompt broke off for the last time: it is not asked again, and the part that came is kept. */
function isLastBreak({ tries }: PostRow, { code, partial }: BridgeError): boolean {
  if (partial === null || partial.trim() === "") return false;
  const kind = faultClass(code, { isFatal: false, isAskedAnew: true, hasSpoken: true });
  return kind === "broken" && isLastTry(kind, (tries.broken ?? 0) + 1);
}

/** Entries for a turn that broke off: the prompt, the part of a reply, the end; the next prompt goes on from there. */
function cutTurn(
  { clock, store }: Bridge,
  { id: postId, sessionId }: PostRow,
  requests: readonly Request[],
  { partial }: BridgeError,
): SessionEvent[] {
  const at = Math.max(clock.now(), (store.sessions.get(sessionId)?.cursor ?? 0) + 1);
  const id = `local:cut${postId}`;
  return [
    ...requests.flatMap((request) =>
      request.kind === "prompt" ? ({ id, at, type: "prompt", text: request.text } as const) : [],
    ),
    { id: `${id}:reply`, at, type: "reply", text: partial ?? "" },
    { id: `${id}:idle`, at, type: "idle", stop: { kind: "cut" } },
  ];
}
