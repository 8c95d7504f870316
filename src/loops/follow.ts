/**
 * Follows the logs of the sessions, by one reader for each that has work, and tries again where one fails.
 *
 *   (create) ─▶ open ─▶ list ─▶ look up what is uncertain ─▶ ┌ post what is queued ┐ ─▶ until nothing is under way
 *                                                            └ listen              ┘
 *
 * A stream has no replay, so it is opened before the log is listed; posting has no idempotency key, so a post whose answer was not
 * seen is looked up before anything goes out again; and a stream that ends says nothing about a turn. Each page and each frame is one
 * transaction: entries, cursor, and the changes that `decide` makes of them.
 *
 * `loops/reader.ts` alone listens to a log; `elsewhere.ts` lists it; `posting.ts` posts to it, and `elsewhere.ts` posts the stops
 * and answers that are open in an ended session.
 */
import { countTry, defaultBackoff, isLogged } from "../core/backoff.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Millis, Session } from "../core/model.ts";
import type { Bridge } from "./bridge.ts";
import { listLog } from "./elsewhere.ts";
import { createQueue } from "./queue.ts";
import { createReader, type Reader } from "./reader.ts";
import { isAsking, isEnd, viewOf, waitOf } from "./request.ts";
import type { PostRow } from "../store/posts.ts";

export type FollowLoop = ReturnType<typeof createFollowLoop>;

/** Sessions that are followed at the same time. */
const sessionsMax = 8;

export function createFollowLoop(bridge: Bridge) {
  const { store, line } = bridge;
  const watched = new Set<string>();
  const readers = new Map<string, Reader>();
  const attempts = new Map<string, number>();
  const queue = createQueue(bridge, {
    name: "follow",
    keys: () => [...new Set([...store.posts.dueSessions(), ...watched])],
    async work(sessionId, kill) {
      const session = store.sessions.get(sessionId);
      const isWatched = watched.delete(sessionId);
      if (!session || (!isWatched && store.posts.open(sessionId).length === 0)) return null;
      const reader = createReader(bridge, session, isWatched, kill);
      readers.set(sessionId, reader);
      try {
        const waitMs = await reader.run();
        attempts.delete(sessionId);
        return waitMs;
      } catch (error) {
        if (kill.aborted) return null;
        if (!(error instanceof BridgeError) || error.code === "database") throw error;
        const attempt = (attempts.get(sessionId) ?? 0) + 1;
        attempts.set(sessionId, attempt);
        return await workFailed(bridge, session, error, attempt, kill);
      } finally {
        readers.delete(sessionId);
        reader.end();
      }
    },
    isOpen: () => bridge.account() !== null,
    max: sessionsMax,
  });
  return {
    ...queue,
    /** Called when posts of this session are over or new: wakes its reader and the queue. */
    touch(sessionId: string): void {
      readers.get(sessionId)?.wake();
      queue.wake(sessionId);
    },
    /** Follows a session that runs at the API although nothing of ours is under way there. */
    watch(sessionId: string): void {
      if (readers.has(sessionId)) return;
      watched.add(sessionId);
      queue.wake(sessionId);
    },
    /** Resolves when everything that the log had is stored. @throws BridgeError */
    async catchUp(session: Session, signal: AbortSignal): Promise<void> {
      const { remote } = line;
      if (remote === null || session.remoteId === null) return;
      const reader = readers.get(session.id);
      if (reader) return reader.catchUp();
      const { remoteId } = session;
      await queue.hold(session.id, () => listLog({ bridge, remote, sessionId: session.id, remoteId, signal }));
      // A prompt of ours may have waited only for an answer that came from another device.
      const isQueued = store.posts.open(session.id).some(({ state }) => state === "queued");
      if (isQueued && !isAsking(store, session.id)) queue.wake(session.id);
    },
  };
}

/** Server failures of one prompt before a probe tells whether the prompt is the cause: `word` asks the model, `check` costs nothing. */
const suspectFrom = { word: 4, check: 32 } as const;

/** True where the server fails on this prompt and answers others: then no outage is waited for. */
async function isOwnFault(
  bridge: Bridge,
  session: Session,
  { tries }: PostRow,
  { isServerFault }: BridgeError,
  kill: AbortSignal,
): Promise<boolean> {
  const line = bridge.lineOf(session);
  const count = (tries.outage ?? 0) + 1;
  // `isLogged` makes probes ever rarer while the server fails on everything.
  const isSuspect = count >= (line.probe ? suspectFrom.word : suspectFrom.check) && isLogged(count);
  if (!isServerFault || !(isSuspect || tries.died)) return false;
  const { model } = await viewOf(bridge, session);
  const answer = line.probe ? line.probe(model, kill) : line.check(kill);
  return answer.then(
    () => true,
    () => false,
  );
}

/**
 * Counts a failure on the answers and stops themselves, where no prompt is under way to count it: of the way to the session, since a post
 * that is refused for itself is settled in `posting.ts`. After the last try a busy session takes no answer, and a session that could not
 * be reached is given up, so that the next prompt starts a fresh one. Returns the wait before the next try.
 */
function answersFailed(
  { store, chats, random }: Bridge,
  session: Session,
  rows: readonly PostRow[],
  fault: Fault,
): Millis | null {
  const kind = fault.code === "claude_busy" ? "busy" : "outage";
  return store.db.transaction(() => {
    const counted = rows.map((row) => {
      const { tries, waitMs } = countTry(kind, row.tries, { jitter: random(), retryAfterMs: fault.retryAfterMs });
      store.posts.setTries(row.id, tries);
      return { row: { ...row, tries }, waitMs };
    });
    const over = counted.filter(({ waitMs }) => waitMs === null);
    if (kind === "outage" && over.length > 0) chats.settle(session.chat, { type: "gone", session, isElsewhere: false });
    for (const { row } of over) chats.refused(row, fault);
    const waitsMs = counted.flatMap(({ waitMs }) => waitMs ?? []);
    return waitsMs.length === 0 ? null : Math.max(...waitsMs);
  });
}

/** Settles a request that failed: the prompt under way counts the failure. Resolves to the wait before the next try. */
async function workFailed(
  bridge: Bridge,
  session: Session,
  error: BridgeError,
  attempt: number,
  kill: AbortSignal,
): Promise<Millis | null> {
  const { store, chats, reach } = bridge;
  const rows = store.posts.open(session.id);
  const post = rows.find(({ kind }) => kind === "prompt");
  const isPoison = post !== undefined && (await isOwnFault(bridge, session, post, error, kill));
  if (kill.aborted) return null;
  const poison = "Cannot ask Claude as the API fails on this prompt, and answers others";
  const fault = toFault(isPoison ? new BridgeError("claude_failed", poison, { cause: error }) : error);
  bridge.log[isLogged(attempt) ? "warn" : "debug"]("turn failed", { ...fault, attempt });
  // A voice note that cannot be written down, or a file that Signal does not give, says nothing about Claude.
  if (error.code.startsWith("claude_")) reach.heard(fault);
  if (!post) return answersFailed(bridge, session, rows, fault);
  if (!store.posts.isOpen(post.id)) return 0;
  const id = Number(post.subject);
  const hasSpoken = error.partial !== null;
  const changes = chats.settle(session.chat, { type: "failed", id, fault, hasSpoken, isLost: false });
  // A prompt that ended is no reason for the next one to wait.
  return waitOf(changes) ?? (isEnd(changes) ? 0 : defaultBackoff.capMs);
}
