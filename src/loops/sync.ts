/**
 * Run-time synchronization of contexts: after every reconnect, and now and then, the sessions here and at the API are brought together.
 * The log of each is caught up by its only reader (`follow.ts`).
 *
 *   retrieve ─▶ catch up with the log ─▶ decode ─▶ core/synchronizer decides ─▶ ONE transaction: context, stamps
 *        ─▶ push the patch ─▶ verify, once more on difference
 *
 * Sessions with open work or recent activity are always read, the rest in a slow sweep: cost grows with what changed.
 */
import type { Remote, RemoteSession } from "../claude/line.ts";
import { backoffMs, isLogged } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { believableStamps, nextStamp } from "../core/hlc.ts";
import { decodeMetadata, encodeMetadata, metadataPatch } from "../core/metadata.ts";
import type { Context, Millis, Session, Stamps } from "../core/model.ts";
import { synchronize } from "../core/synchronizer.ts";
import type { Bridge } from "./bridge.ts";
import type { FollowLoop } from "./follow.ts";
import { isSessionOver, settleGone, sweep } from "./elsewhere.ts";

const recentMs = 24 * 3_600_000;
const sweepMs = 10 * 60_000;
/** Sessions are synced this often while Claude asks: no stream is open then, and another device may answer. */
const questionMs = 30_000;
const tickMs = 1_000;
const sweepMax = 20;
const modelsTimeoutMs: Millis = 10_000;
const parallelMax = 4;

export function createSyncLoop(bridge: Bridge, follow: FollowLoop) {
  const { clock, store, log } = bridge;
  let attempt = 0;
  /** `lookAt`: the next look whether to sync; `dueAt`: the next sync in any case; both in monotonic time. */
  let lookAt = clock.monotonic() + questionMs;
  let dueAt = clock.monotonic() + sweepMs;
  const run = async (signal: AbortSignal): Promise<void> => {
    try {
      await syncAll(bridge, follow, signal);
      attempt = 0;
    } catch (error) {
      attempt++;
      throw error;
    } finally {
      const now = clock.monotonic();
      lookAt = now + (attempt === 0 ? questionMs : backoffMs({ attempt, jitter: bridge.random(), retryAfterMs: null }));
      dueAt = attempt === 0 ? now + sweepMs : lookAt;
      void listModels();
    }
  };
  let models: readonly string[] = [];
  /** No sync waits for the list of models, which only helps; after a failure the next sync asks for it again. */
  const listModels = async (): Promise<void> => {
    if (models.length > 0) return;
    const found = await bridge.line.models(AbortSignal.timeout(modelsTimeoutMs)).catch(() => null);
    if (found !== null) models = found.map(({ id }) => id);
  };
  return {
    /** One whole sync. @throws BridgeError when Claude's side is down; then every session not read is marked stale */
    run,
    /** The models that the key may use; none before they are known. */
    models: (): readonly string[] => models,
    /** Sweeps now and then, and retries a failed sync by its own backoff, until `stop` aborts. */
    async keep(stop: AbortSignal): Promise<void> {
      const look = async (): Promise<void> => {
        const now = clock.monotonic();
        if (stop.aborted || now < lookAt || bridge.account() === null) return;
        lookAt = now + questionMs;
        if (now >= dueAt || store.posts.isWaiting()) await run(stop);
      };
      while (!stop.aborted) {
        await clock.sleep(tickMs, stop);
        await look().catch((error: unknown) => {
          if (!(error instanceof BridgeError)) throw error;
          log[isLogged(attempt) ? "warn" : "debug"]("sync failed", toFault(error));
        });
      }
    },
  };
}

async function syncAll(bridge: Bridge, follow: FollowLoop, signal: AbortSignal): Promise<void> {
  const { remote } = bridge.line;
  const { clock, store } = bridge;
  const startedAt = clock.monotonic();
  const todo = remote ? [...store.sessions.toSync(clock.now() - recentMs, sweepMax)] : [];
  const tally = { checked: 0, changed: 0, pushed: 0, failed: 0 };
  let down: BridgeError | null = null;
  const one = async (session: Session): Promise<void> => {
    if (signal.aborted || down !== null || remote === null) return void store.sessions.setStale(session.id);
    try {
      await syncSession(bridge, follow, remote, session, tally, signal);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      store.sessions.setStale(session.id);
      tally.failed++;
      bridge.log[error.retry === "never" ? "warn" : "debug"]("session not synced", {
        session: session.id,
        ...toFault(error),
      });
      // A fault of this session alone must not stop the others; an outage is one for all of them.
      if (error.retry !== "never") down ??= error;
    }
  };
  const work = async (): Promise<void> => {
    for (let session = todo.shift(); session; session = todo.shift()) await one(session);
  };
  await Promise.all(Array.from({ length: parallelMax }, work));
  if (remote !== null && down === null) await sweep(bridge, remote, signal);
  bridge.notices.emit("synced", { ...tally, durationMs: clock.monotonic() - startedAt, at: clock.now() });
  if (down !== null) throw down;
  if (tally.checked > 0) bridge.reach.heard(null);
}

type Tally = { checked: number; changed: number; pushed: number; failed: number };

async function syncSession(
  bridge: Bridge,
  follow: FollowLoop,
  remote: Remote,
  session: Session,
  tally: Tally,
  signal: AbortSignal,
): Promise<void> {
  if (session.remoteId === null) return;
  const there = await remote.retrieve(session.remoteId, signal);
  tally.checked++;
  if (isSessionOver(there) || there === null) {
    settleGone(bridge, session.id, there);
    tally.changed++;
    return;
  }
  await follow.catchUp(session, signal);
  const met = await meet(bridge, remote, session.id, there, signal);
  if (met === null) return;
  if (met.isChanged || bridge.store.sessions.get(session.id)?.cursor !== session.cursor) tally.changed++;
  if (met.isPushed) tally.pushed++;
  if (there.status === "running") follow.watch(session.id);
}

const writesMax = 2;

/**
 * Merges both contexts, commits the result here, then writes there what the remote side lacks or has older. The metadata that a write
 * answers with is merged like what was read, since another device may have changed it in between. Null where the session is not ours to
 * synchronize any more.
 */
async function meet(bridge: Bridge, remote: Remote, id: string, read: RemoteSession, signal: AbortSignal) {
  const { store, clock, log } = bridge;
  let there = read;
  let isChanged = false;
  for (let writes = 0; ; writes++) {
    const session = store.sessions.get(id);
    if (session?.state !== "active" || signal.aborted) return null;
    const theirs = readRemote(bridge, session, there, remote.skewMs());
    const result = synchronize(session.context, theirs.context, { local: session.stamps, remote: theirs.stamps });
    const { changed, merged, stamps } = result;
    isChanged ||= changed;
    store.db.transaction(() => {
      if (changed || !sameStamps(stamps, session.stamps)) store.sessions.setContext(id, merged, stamps);
      store.sessions.setSynced(id, there.updatedAt, clock.now());
    });
    const patch = patchOf(there, merged, stamps);
    if (patch === null) return { isChanged, isPushed: writes > 0 };
    if (writes === writesMax) {
      log.warn("remote context still differs after two writes; the next sync decides", { session: there.id });
      return { isChanged, isPushed: true };
    }
    there = await remote.update(there.id, patch, signal);
  }
}

/** The title and metadata that the remote side lacks or has older; null for none. */
function patchOf(there: RemoteSession, merged: Context, stamps: Stamps) {
  const metadata = metadataPatch(there.metadata, encodeMetadata(merged, stamps));
  const title = typeof merged["title"] === "string" && merged["title"] !== there.title ? merged["title"] : undefined;
  return title === undefined && Object.keys(metadata).length === 0 ? null : { title, metadata };
}

/**
 * Reads the remote context. A title that differs from its mirror in the metadata was set elsewhere (in the Console, say): it wins,
 * stamped with the time of the event that set it.
 */
function readRemote(
  bridge: Bridge,
  session: Session,
  there: RemoteSession,
  skewMs: Millis,
): { context: Context; stamps: Stamps } {
  const serverNow = bridge.clock.now() + skewMs;
  const decoded = decodeMetadata(there.metadata);
  const { context } = decoded;
  const stamps = believableStamps(decoded.stamps, serverNow);
  const mirrored = context["title"] ?? session.context["title"];
  if (there.title === "" || there.title === mirrored) return { context, stamps };
  const renamed = bridge.store.log.renamed(session.id, there.title);
  // Without a mirror and without an event no sign says that the session was renamed there: our title goes out.
  if (!renamed && context["title"] === undefined) return { context, stamps };
  const stamp = nextStamp(null, renamed?.at ?? serverNow, bridge.deviceTag);
  return { context: { ...context, title: there.title }, stamps: { ...stamps, title: stamp } };
}

const sameStamps = (a: Stamps, b: Stamps): boolean =>
  Object.keys(a).length === Object.keys(b).length && Object.entries(a).every(([key, stamp]) => b[key] === stamp);
