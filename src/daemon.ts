/**
 * Builds everything, starts the loops, stops them in order. All wiring is here, by hand, with plain arguments.
 *
 *   Signal ─receive─▶ inbox ─┐                            ┌─▶ posts  ─follow─▶ Claude
 *                            ├─ decide (core/chat.ts) ────┤
 *   Claude ─follow──▶ log ───┘                            └─▶ outbox ─send───▶ Signal
 *
 * The connection (state machine) opens the gates: receive from SYNCING on, send in CONNECTED, follow as soon as the account is known.
 */
import mitt from "mitt";
import type { Line } from "./claude/line.ts";
import type { Clock, Random } from "./clock.ts";
import type { Config } from "./config.ts";
import { BridgeError, toFault, type Fault } from "./core/errors.ts";
import { ownProgram, type Millis } from "./core/model.ts";
import type { Log } from "./log.ts";
import { createReach, type Bridge, type NoticeBus, type Notices } from "./loops/bridge.ts";
import { begin, createCheckup, type Checkup } from "./loops/checkup.ts";
import { createConnectionLoop, type Work } from "./loops/connector.ts";
import { createFileLoop } from "./loops/made-files.ts";
import { createFollowLoop } from "./loops/follow.ts";
import { createBacklog } from "./loops/backlog.ts";
import { beat } from "./loops/heartbeat.ts";
import { receiveLoop } from "./loops/receive.ts";
import { createCallLoop, createGrants, toolsOf } from "./loops/tool-calls.ts";
import { createSendLoop } from "./loops/send.ts";
import { createSyncLoop } from "./loops/sync.ts";
import type { Transport } from "./signal/transport.ts";
import { createChats } from "./store/apply.ts";
import { createStatusModel, type Status } from "./status/status.ts";
import { openStore, type Store } from "./store/store.ts";
import { createCallDeps, surroundings, type Machine, type Outside } from "./surroundings.ts";
import { createTranscribe } from "./transcribe.ts";

export type DaemonDeps = Machine & {
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  /** Tells one network from another (names and addresses of the interfaces); a change reconnects at once. */
  readonly networkKey: () => string;
  /** Builds the adapters that the settings name; tests and the demo hand in their own. */
  readonly buildTransport: (store: Store) => Promise<Transport>;
  readonly buildLine: (store: Store) => Promise<Line>;
  /** The owner's own program, for projects that are worked on with it. */
  readonly buildCodeLine?: () => Promise<Line>;
};

export interface Daemon {
  status(): Status;
  /** Null while the process does its work and Signal has shown within `staleAfter` that it delivers, else what is wrong. */
  health(): string | null;
  isReady(): boolean;
  /** Wakes the loops after rows were added from outside of them. */
  wake(): void;
  /** Skips the wait; also tries a halted line and a paused outbox once. */
  reconnect(): void;
  /** Reads and writes all sessions now. @throws BridgeError when Claude's side is down */
  sync(): Promise<void>;
  readonly store: Store;
  readonly line: Line;
  readonly transport: Transport;
  /** Events as they happen: to show, never to decide. */
  readonly notices: NoticeBus;
  /** Stops receiving, ends or cancels turns and drains the outbox within `drainMs`; closes within five seconds more. Safe to call twice. */
  stop(): Promise<void>;
  /** Resolves to the exit code when the daemon has ended. */
  readonly finished: Promise<number>;
}

/** Resolves when the loops run; the line may still be down. @throws BridgeError `home_in_use` `database` `config` */
export async function startDaemon(config: Config, deps: DaemonDeps): Promise<Daemon> {
  const { log } = deps;
  const store = await openStore(config.home, { isExclusive: true });
  try {
    const transport = await deps.buildTransport(store);
    const line = await deps.buildLine(store);
    // A project that is worked on with the owner's own program may be added while this runs.
    const codeLine = line.name === ownProgram ? undefined : await deps.buildCodeLine?.();
    const lineOf: Bridge["lineOf"] = ({ backend }) => (backend === ownProgram ? (codeLine ?? line) : line);
    recoverOutbox(store, transport, log);
    return wire({ ...deps, config, store, transport, line, lineOf, notices: mitt<Notices>() });
  } catch (error) {
    store.close();
    throw error;
  }
}

/** Queues sends again that were under way when the last run ended, since their outcome is unknown. */
function recoverOutbox(store: Store, transport: Transport, log: Log): void {
  const rows = store.db.transaction(() => {
    const rows = store.outbox.recover();
    if (rows > 0 && !transport.capabilities.ownTimestamps) store.counters.add({ uncertain: rows });
    return rows;
  });
  if (rows > 0) log.warn("sends of the last run are repeated, as their outcome is unknown", { rows });
}

function wire(base: Base): Daemon {
  const { log, clock, config, store, transport, line } = base;
  const stopping = new AbortController();
  const killing = new AbortController();
  const sending = new AbortController();
  const end = Promise.withResolvers<number>();
  const tasks: Promise<void>[] = [];
  let bug: unknown = null;
  let stopped: Promise<void> | null = null;

  const onBug = (error: unknown): void => {
    bug ??= error;
    const stack = error instanceof Error ? error.stack : undefined;
    log.error("fault in signalman itself", { ...toFault(error), stack });
    void stop(1);
  };
  const onHalted = ({ code }: Fault): void => {
    if (code === "not_linked") void stop(3);
  };
  const loops = createLoops(base, stopping.signal, { onBug, onHalted });
  const { bridge, connection, follow, send, sync, wakeAll } = loops;
  const { snapshot } = createStatusModel({ ...base, connection, account: connection.account });

  const stop = (code: number): Promise<void> =>
    (stopped ??= (async () => {
      log.info("stopping", { code });
      const startedStop = clock.monotonic();
      stopping.abort();
      const kill = clock.sleep(config.limits.drainMs, killing.signal).then(() => killing.abort());
      // A database that cannot be read shows no work to wait for: the next start does what it holds.
      await drain(loops, store, clock, killing.signal).catch((error: unknown) => {
        if (!(error instanceof BridgeError)) throw error;
        log.warn("stopping without a drain", toFault(error));
      });
      killing.abort();
      sending.abort();
      connection.dispatch({ type: "stop" });
      // A task that hangs does not hold up the end: the next start repeats a send that was under way, and looks a request up.
      const leftMs = startedStop + config.limits.drainMs + endMs - clock.monotonic();
      await waitFor(Promise.all([...tasks, connection.stopped(), kill]), leftMs, clock);
      store.close();
      log.info("stopped", { code });
      end.resolve(bug === null ? code : 1);
    })());

  const spawn = (work: Promise<void>): void => void tasks.push(work.catch(onBug));
  const checkup = createCheckup(bridge);
  const health = createHealth(base, loops, checkup);
  const { onStoreFault, tidy } = loops;
  const hooks = { networkKey: base.networkKey, wakeAll, onStoreFault, checkup, tidy };
  spawn(beat({ ...bridge, ...hooks }, connection, stopping.signal));
  spawn(send.run(sending.signal));
  for (const loop of [follow, loops.files, loops.calls]) spawn(loop.run(stopping.signal, killing.signal));
  spawn(sync.keep(stopping.signal));
  connection.dispatch({ type: "start" });

  return {
    status: snapshot,
    health: () => (bug === null ? health() : "a loop has failed"),
    isReady: loops.isConnected,
    wake: wakeAll,
    reconnect() {
      connection.dispatch({ type: "reconnect" });
      send.resume();
      follow.hurry();
      wakeAll();
    },
    sync: () => sync.run(stopping.signal),
    store,
    line,
    transport,
    notices: base.notices,
    stop: () => stop(0),
    finished: end.promise,
  };
}

/** Resolves with the work, or after `ms`. */
async function waitFor(work: Promise<unknown>, ms: Millis, clock: Clock): Promise<void> {
  const over = new AbortController();
  await Promise.race([work.finally(() => over.abort()), clock.sleep(ms, over.signal)]);
}

/** Time for tasks to end after the drain: less than the five seconds that `stop` promises, more than a poll under way needs. */
const endMs: Millis = 4_500;
/** A drain looks this often whether it is over. */
const drainStepMs = 20;

/** Resolves when turns have ended and the outbox is empty or the line is down, or when `over` aborts. */
async function drain(
  { follow, send, isConnected }: Loops,
  store: Store,
  clock: Clock,
  over: AbortSignal,
): Promise<void> {
  while (!over.aborted) {
    if (follow.busyCount() === 0 && (!isConnected() || store.outbox.pending().count === 0)) return;
    send.wake();
    await clock.sleep(drainStepMs);
  }
}

type Base = { readonly config: Config } & Pick<Bridge, "store" | "transport" | "line" | "lineOf" | "notices"> &
  DaemonDeps;

type Loops = ReturnType<typeof createLoops>;

/** Builds the loops, and the calls by which they tell each other. */
function createLoops(base: Base, stopping: AbortSignal, ends: Pick<Work, "onBug" | "onHalted">) {
  const { log } = base;
  let storeFault: string | null = null;
  const isConnected = (): boolean => connection.state().name === "CONNECTED";
  const grants = createGrants(base.clock);
  const callDeps = createCallDeps(base, grants.isGranted);
  const reach = createReach(base);
  // Loops use the bridge and the bridge calls loops: each callback runs only once all loops are there.
  const bridge = createBridge({ ...base, reach }, callDeps, {
    isConnected,
    grants,
    claudeFault: reach.fault,
    account: () => connection.account(),
    isSendReady: (chatKey) => send.isReady(chatKey),
    models: () => sync.models(),
    onTouched(chatKey, sessionIds) {
      send.wake(chatKey);
      for (const id of sessionIds) {
        follow.touch(id);
        calls.wake(id);
      }
    },
    onOwed: () => void sync.run(stopping).catch((error: unknown) => log.warn("sync failed", toFault(error))),
    onFiles: (sessionId) => files.wake(sessionId),
    onDropped: (useId) => calls.drop(useId),
    onOwe: (inboxId) => calls.owe(inboxId),
  });
  const send = createSendLoop(bridge);
  const follow = createFollowLoop(bridge);
  const files = createFileLoop(bridge);
  const calls = createCallLoop(bridge, callDeps);
  const sync = createSyncLoop(bridge, follow);
  const backlog = createBacklog(bridge, stopping);
  const wakeAll = (): void => [send, follow, files, calls].forEach((queue) => queue.wake());
  const onStoreFault = (message: string | null): void => void (storeFault = message);
  const onProof = (): void => connection.dispatch({ type: "proof" });
  const hooks = { ...bridge, onAccepted: backlog.onAccepted, onProof, onStoreFault };
  let hasBegun = false;
  const connection = createConnectionLoop(bridge, {
    ...ends,
    receive(account, signal) {
      if (!hasBegun) begin(bridge);
      hasBegun = true;
      // The account is known now, so that waiting prompts may be asked already.
      wakeAll();
      return receiveLoop(hooks, account, AbortSignal.any([signal, stopping]));
    },
    sync: (signal) => sync.run(signal),
    resume() {
      backlog.onResumed();
      wakeAll();
    },
  });
  return {
    bridge,
    send,
    follow,
    files,
    calls,
    sync,
    connection,
    wakeAll,
    isConnected,
    onStoreFault,
    storeFault: () => storeFault,
    tidy: callDeps.tidy,
  };
}

function createBridge(
  base: Base & Pick<Bridge, "reach">,
  callDeps: ReturnType<typeof createCallDeps>,
  outside: Outside,
): Bridge {
  const { config, store } = base;
  const deviceTag = tagOf(base);
  return {
    ...base,
    chats: createChats(store, surroundings(base, deviceTag, outside)),
    deviceTag,
    transcribe: config.transcribe === null ? null : createTranscribe(config.transcribe, base),
    account: outside.account,
    isConnected: outside.isConnected,
    toolsOf: (session) => toolsOf(base, callDeps, session),
  };
}

function createHealth(
  { clock, config }: Base,
  { storeFault, connection }: Loops,
  checkup: Checkup,
): () => string | null {
  const startedAt = clock.monotonic();
  return () => {
    const known = storeFault() ?? checkup.fault();
    const state = connection.state();
    // A daemon without a recent proof of life from Signal is not healthy, even where it answers.
    const ageMs = clock.monotonic() - (state.lastProofAt ?? startedAt);
    if (known !== null || ageMs <= config.limits.staleAfterMs) return known;
    const why = state.name === "DISCONNECTED" && state.fault !== null ? `: ${state.fault.message}` : "";
    return `no proof of life from Signal for ${Math.round(ageMs / 1_000)} s${why}`;
  };
}

/** 4 hex digits that tell this home from others in stamps; made once and stored. */
function tagOf({ store, random }: Base): string {
  const known = store.settings.get("device_tag");
  if (known !== null) return known;
  const tag = Math.floor(random() * 0x10000)
    .toString(16)
    .padStart(4, "0");
  store.settings.set("device_tag", tag);
  return tag;
}
