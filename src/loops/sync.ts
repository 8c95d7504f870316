/**
 * Run-time synchronization: after every reconnect, and now and then, the cached sessions meet the remote ones.
 *
 *   retrieve ─▶ list events from the cursor minus an overlap ─▶ decode ─▶ core/synchronizer decides
 *        ─▶ ONE transaction: context, stamps, events, replies into the outbox, cursor ─▶ push the patch ─▶ verify, once more on difference
 *
 * Sessions with open work or recent activity are always read, the rest in a slow sweep: cost grows with what changed.
 */
import type { RemoteSession, RemoteSessions } from "../claude/backend.ts";
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { believableStamps, nextStamp } from "../core/hlc.ts";
import { decodeMetadata, encodeMetadata, metadataPatch } from "../core/metadata.ts";
import type { Context, Millis, SessionEvent } from "../core/model.ts";
import { synchronize } from "../core/synchronizer.ts";
import { pendingAsks } from "../core/turn.ts";
import type { Session, Stamps } from "../store/sessions.ts";
import type { Store } from "../store/store.ts";
import type { Bridge } from "./bridge.ts";
import { questionKey } from "./questions.ts";

export interface SyncLoop {
  /** One whole sync. @throws BridgeError when Claude's side is down; then every session not read is marked stale */
  run(signal: AbortSignal): Promise<void>;
  /** Sweeps now and then, and retries a failed sync by its own backoff, until `stop` aborts. */
  keep(stop: AbortSignal): Promise<void>;
}

/** The time filter is on `processed_at`, where ties and late entries exist: always look back this far. */
const overlapMs = 60_000;
const recentMs = 24 * 3_600_000;
const sweepMs = 10 * 60_000;
/** While a question of Claude's is open, no stream is: somebody may answer it elsewhere. */
const questionMs = 30_000;
const sweepMax = 20;
const parallelMax = 4;

export function createSyncLoop(bridge: Bridge): SyncLoop {
  let attempt = 0;
  let alarm = new AbortController();
  const run = async (signal: AbortSignal): Promise<void> => {
    try {
      await syncAll(bridge, signal);
      attempt = 0;
    } catch (error) {
      attempt++;
      throw error;
    } finally {
      alarm.abort();
    }
  };
  return {
    run,
    async keep(stop) {
      const ring = (): void => alarm.abort();
      stop.addEventListener("abort", ring);
      let last = bridge.clock.monotonic();
      const look = async (): Promise<void> => {
        const now = bridge.clock.monotonic();
        if (attempt === 0 && now - last < sweepMs && !bridge.store.inbox.isAsking()) return;
        last = now;
        await run(stop);
      };
      while (!stop.aborted) {
        alarm = new AbortController();
        const waited = alarm;
        const wait = attempt === 0 ? questionMs : backoffMs({ attempt, jitter: bridge.random(), retryAfterMs: null });
        await bridge.clock.sleep(wait, waited.signal);
        // A sync by somebody else rang: the wait starts over.
        if (waited.signal.aborted) last = bridge.clock.monotonic();
        else
          await look().catch((error: unknown) => {
            if (!(error instanceof BridgeError)) throw error;
            bridge.log.warn("sync failed", toFault(error));
          });
      }
    },
  };
}

async function syncAll(bridge: Bridge, signal: AbortSignal): Promise<void> {
  const { remote } = bridge.backend;
  const { clock, store } = bridge;
  const startedAt = clock.monotonic();
  const todo = remote ? store.sessions.toSync(clock.now() - recentMs, sweepMax) : [];
  const tally = { checked: 0, changed: 0, pushed: 0, failed: 0 };
  let down: BridgeError | null = null;
  const one = async (session: Session): Promise<void> => {
    if (signal.aborted || down !== null || remote === null) return void store.sessions.setStale(session.id, true);
    try {
      await syncSession(bridge, remote, session, tally, signal);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      store.sessions.setStale(session.id, true);
      tally.failed++;
      bridge.log.warn("session not synced", { session: session.id, ...toFault(error) });
      // What fails for this session only must not stop the others; what is down is down for all.
      if (error.retry !== "never") down ??= error;
    }
  };
  const work = async (): Promise<void> => {
    for (let session = todo.shift(); session; session = todo.shift()) await one(session);
  };
  await Promise.all(Array.from({ length: parallelMax }, work));
  const at = clock.now();
  bridge.notices.emit("synced", { ...tally, durationMs: clock.monotonic() - startedAt, at });
  if (tally.changed > 0) for (const lane of ["answer", "control", "files", "send"] as const) bridge.wake(lane);
  if (down !== null) throw down;
  if (tally.checked > 0) bridge.notices.emit("claude", { fault: null, at });
}

type Tally = { checked: number; changed: number; pushed: number; failed: number };

async function syncSession(
  bridge: Bridge,
  remote: RemoteSessions,
  session: Session,
  tally: Tally,
  signal: AbortSignal,
): Promise<void> {
  const { store, clock } = bridge;
  if (session.remoteId === null) return;
  const there = await remote.retrieve(session.remoteId, signal);
  tally.checked++;
  if (there === null || there.isArchived || there.status === "terminated") {
    endGone(store, session, there?.isArchived === false, clock.now());
    tally.changed++;
    return;
  }
  const events: SessionEvent[] = [];
  const since = session.cursor === null ? null : session.cursor - overlapMs;
  for await (const page of remote.events(session.remoteId, since, signal)) events.push(...page);
  const theirs = readRemote(bridge, session, there, events, remote.skewMs());
  const result = synchronize(session.context, theirs.context, { local: session.stamps, remote: theirs.stamps });
  const applied = store.db.transaction(() => {
    if (result.changed || !sameStamps(result.stamps, session.stamps))
      store.sessions.setContext(session.id, result.merged, result.stamps);
    const applied = store.sessions.apply(session.id, events, clock.now());
    store.sessions.setSynced(session.id, there.updatedAt, clock.now());
    return applied;
  });
  const head = store.inbox.head(session.chatKey);
  const isNews = (id: string): boolean => store.outbox.byKey(questionKey(session.id, id)) === null;
  const open = head?.state === "waiting" ? pendingAsks(store.sessions.events(session.id)) : [];
  // Somebody said yes or no elsewhere; the turn may have come to its next question since, which is to be sent.
  const isAnswered = head?.state === "waiting" && (open.length === 0 || open.some(isNews));
  if (isAnswered && head.sessionId === session.id) store.inbox.markPending(head.id);
  if (result.changed || applied.added.length > 0 || isAnswered) tally.changed++;
  if (await push(bridge, remote, there, result.merged, result.stamps, signal)) tally.pushed++;
  if (there.status === "running") bridge.follow(session);
}

/**
 * The remote context. A title that differs from its mirror in the metadata was set elsewhere (the Console, say): it wins,
 * stamped with the time of the event that set it.
 */
function readRemote(
  bridge: Bridge,
  session: Session,
  there: RemoteSession,
  events: readonly SessionEvent[],
  skewMs: Millis,
): { context: Context; stamps: Stamps } {
  const serverNow = bridge.clock.now() + skewMs;
  const decoded = decodeMetadata(there.metadata);
  const { context } = decoded;
  const stamps = believableStamps(decoded.stamps, serverNow);
  const mirrored = context["title"] ?? session.context["title"];
  if (there.title === "" || there.title === mirrored) return { context, stamps };
  const renamed = events.findLast((event) => event.type === "updated" && event.title === there.title);
  // Without a mirror and without an event nothing says that anybody renamed it: ours goes out.
  if (!renamed && context["title"] === undefined) return { context, stamps };
  const stamp = nextStamp(null, renamed?.at ?? serverNow, bridge.deviceTag);
  return { context: { ...context, title: there.title }, stamps: { ...stamps, title: stamp } };
}

const sameStamps = (a: Stamps, b: Stamps): boolean =>
  Object.keys(a).length === Object.keys(b).length && Object.entries(a).every(([key, stamp]) => b[key] === stamp);

/** Writes what the remote side lacks or has older; true when something had to be written. */
async function push(
  bridge: Bridge,
  remote: RemoteSessions,
  there: RemoteSession,
  merged: Context,
  stamps: Stamps,
  signal: AbortSignal,
): Promise<boolean> {
  let now = there;
  for (let round = 0; round < 2; round++) {
    const metadata = metadataPatch(now.metadata, encodeMetadata(merged, stamps));
    const title = typeof merged["title"] === "string" && merged["title"] !== now.title ? merged["title"] : undefined;
    if (title === undefined && Object.keys(metadata).length === 0) return round > 0;
    now = await remote.update(there.id, { title, metadata }, signal);
  }
  bridge.log.warn("remote context still differs after two writes; the next sync decides", { session: there.id });
  return true;
}

/** The remote session is gone: its open prompts are asked anew in a fresh one, and the person is told. `isBroken`: it ended by itself. */
export function endGone(store: Store, session: Session, isBroken: boolean, now: Millis): void {
  store.db.transaction(() => {
    store.sessions.end(session.id);
    for (const row of store.inbox.openPrompts(session.chatKey))
      if (row.sessionId === session.id) store.inbox.markNew(row.id);
    const why = isBroken ? "broke off" : "was closed elsewhere";
    const text = `Claude's session for this chat ${why}. The next message starts a fresh one.`;
    const body = { kind: "text", text, styles: [], quote: null, files: [] } as const;
    store.outbox.add(`gone:${session.id}`, session.chat, body, now);
  });
}
