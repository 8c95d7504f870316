/**
 * Builds everything, starts the loops, stops them in order. All wiring is here, by hand, with plain arguments.
 *
 *   Signal ─▶ receive ─▶ inbox ─▶ answer ◀─▶ Claude          connection (state machine) opens and closes the gates:
 *                          └────▶ control        │             receive: SYNCING, CONNECTED    send: CONNECTED
 *   Signal ◀── send ◀── outbox ◀─────────────────┘             answer: not before the first sync, not while SYNCING
 */
import mitt from "mitt";
import type { Backend } from "./claude/backend.ts";
import type { Clock, Random } from "./clock.ts";
import type { Config } from "./config.ts";
import { BridgeError, toFault } from "./core/errors.ts";
import type { Millis } from "./core/model.ts";
import { renderReply } from "./core/reply.ts";
import type { Log } from "./log.ts";
import { createAnswerLoop } from "./loops/answer.ts";
import type { Bridge, NoticeBus, Notices } from "./loops/bridge.ts";
import { createConnectionLoop } from "./loops/connection.ts";
import { createControlLoop } from "./loops/control.ts";
import { createFileLoop } from "./loops/files.ts";
import { announceBacklog } from "./loops/greet.ts";
import { beat, soon } from "./loops/heartbeat.ts";
import { receiveLoop } from "./loops/receive.ts";
import { createSendLoop } from "./loops/send.ts";
import { createSyncLoop } from "./loops/sync.ts";
import type { Transport } from "./signal/transport.ts";
import { createStatusModel, type Status } from "./status/status.ts";
import { openStore, type Store } from "./store/store.ts";
import { createTranscribe } from "./transcribe.ts";

export type DaemonDeps = {
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  /** What tells one network from another (names and addresses of the interfaces); changes reconnect at once. */
  readonly networkKey: () => string;
  readonly newId: () => string;
  /** Builds the adapters that the settings name; tests and the demo hand in their own. */
  readonly buildTransport: (store: Store) => Promise<Transport>;
  readonly buildBackend: (store: Store) => Promise<Backend>;
};

export interface Daemon {
  status(): Status;
  /** Null while the process does its work and Signal has shown within `staleAfter` that it delivers, else what is wrong. */
  health(): string | null;
  isReady(): boolean;
  /** Rows were added from outside the loops. */
  wake(): void;
  /** Skips the wait; also tries a halted line and a paused outbox once. */
  reconnect(): void;
  /** Reads and writes all sessions now. @throws BridgeError when Claude's side is down */
  sync(): Promise<void>;
  readonly store: Store;
  readonly backend: Backend;
  readonly transport: Transport;
  /** What happens, as it happens: to show, never to decide. */
  readonly notices: NoticeBus;
  /** Stops receiving, finishes or cancels turns and drains the outbox within `drainMs`, closes. Safe to call twice. */
  stop(): Promise<void>;
  /** Resolves to the exit code when the daemon has ended. */
  readonly finished: Promise<number>;
}

/** Resolves when the loops run; the line may still be down. @throws BridgeError `home_in_use` `database` `config` */
export async function startDaemon(config: Config, deps: DaemonDeps): Promise<Daemon> {
  const { log } = deps;
  const store = await openStore(config.home, { render: renderReply, isExclusive: true });
  try {
    const transport = await deps.buildTransport(store);
    const backend = await deps.buildBackend(store);
    recoverOutbox(store, transport, log);
    store.hasten(deps.clock.now(), config.approvalMinutes * 60_000);
    return wire(config, deps, store, transport, backend);
  } catch (error) {
    store.close();
    throw error;
  }
}

/** Sends that were under way when the last run ended: their outcome is unknown, and they go out again. */
function recoverOutbox(store: Store, transport: Transport, log: Log): void {
  const rows = store.db.transaction(() => {
    const rows = store.outbox.recover();
    if (rows > 0 && !transport.capabilities.ownTimestamps) store.settings.count("uncertain", rows);
    return rows;
  });
  if (rows > 0) log.warn("sends of the last run are repeated, as their outcome is unknown", { rows });
}

function wire(config: Config, deps: DaemonDeps, store: Store, transport: Transport, backend: Backend): Daemon {
  const { log, clock } = deps;
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
  const bridge = { ...deps, config, store, transport, backend, notices: mitt<Notices>() };
  const loops = createLoops(bridge, stopping.signal, onBug);
  const { connection, answer, control, send, sync, wakeAll } = loops;
  const { snapshot } = createStatusModel({ ...bridge, connection, account: connection.account });

  const stop = (code: number): Promise<void> =>
    (stopped ??= (async () => {
      log.info("stopping", { code });
      stopping.abort();
      const kill = clock.sleep(config.limits.drainMs, killing.signal).then(() => killing.abort());
      // With a database that cannot be read there is nothing to wait for: what it holds is done after the next start.
      await drain(loops, store, clock, killing.signal).catch((error: unknown) => {
        if (!(error instanceof BridgeError)) throw error;
        log.warn("stopping without a drain", toFault(error));
      });
      killing.abort();
      sending.abort();
      connection.dispatch({ type: "stop" });
      await Promise.all([...tasks, connection.stopped(), kill]);
      store.close();
      log.info("stopped", { code });
      end.resolve(bug === null ? code : 1);
    })());

  bridge.notices.on("connection", ({ state }) => {
    if (state.name === "DISCONNECTED" && state.fault?.code === "not_linked") void stop(3);
  });
  const spawn = (work: Promise<void>): void => void tasks.push(work.catch(onBug));
  spawn(beat(bridge, connection, wakeAll, loops.onStoreFault, stopping.signal));
  spawn(send.run(sending.signal, sending.signal));
  for (const loop of [answer, control, loops.files]) spawn(loop.run(stopping.signal, killing.signal));
  spawn(sync.keep(stopping.signal));
  connection.dispatch({ type: "start" });

  return {
    status: snapshot,
    health() {
      if (bug !== null) return "a loop has failed";
      return loops.storeFault() ?? proofFault(snapshot(), clock.now(), config.limits.staleAfterMs);
    },
    isReady: loops.isConnected,
    wake: wakeAll,
    reconnect() {
      connection.dispatch({ type: "reconnect" });
      send.resume();
      wakeAll();
    },
    sync: () => sync.run(stopping.signal),
    store,
    backend,
    transport,
    notices: bridge.notices,
    stop: () => stop(0),
    finished: end.promise,
  };
}

/** How often the end of a drain is looked for. */
const drainStepMs = 20;

/** Waits until turns have ended and the outbox is empty or the line is down, or the time is over. */
async function drain(
  { answer, send, isConnected }: Loops,
  store: Store,
  clock: Clock,
  over: AbortSignal,
): Promise<void> {
  while (!over.aborted) {
    if (answer.busyCount() === 0 && (!isConnected() || store.outbox.pending().count === 0)) return;
    send.wake();
    await clock.sleep(drainStepMs);
  }
}

type Base = { readonly config: Config } & Pick<Bridge, "store" | "transport" | "backend" | "notices"> & DaemonDeps;

type Loops = ReturnType<typeof createLoops>;

/** The loops, and what each tells the others. */
function createLoops(base: Base, stopping: AbortSignal, onBug: (error: unknown) => void) {
  const { config, log, store } = base;
  let hasSynced = false;
  let storeFault: string | null = null;
  /** The line has come back, and no message with it yet: those that proved it are committed later. */
  let isBack = false;
  const stateName = (): string => connection.state().name;
  const bridge: Bridge = {
    ...base,
    deviceTag: tagOf(base),
    transcribe: config.transcribe === null ? null : createTranscribe(config.transcribe, base),
    account: () => connection.account(),
    isConnected: () => stateName() === "CONNECTED",
    canAnswer: () => hasSynced && stateName() !== "SYNCING",
    follow: (session) => answer.follow(session),
    interrupt: (chatKey, inboxIds) => answer.interrupt(chatKey, inboxIds),
    syncSoon: () => void sync.run(stopping).catch((error: unknown) => log.warn("sync failed", toFault(error))),
    wake: (lane, chatKey) => lanes[lane].wake(chatKey),
  };
  const send = createSendLoop(bridge);
  const answer = createAnswerLoop(bridge);
  const sync = createSyncLoop(bridge);
  const connection = createConnectionLoop(bridge, {
    receive: (account, signal) => receiveLoop(ears, account, AbortSignal.any([signal, stopping])),
    sync: (signal) => sync.run(signal).finally(() => (hasSynced = true)),
    resume() {
      isBack = bridge.isConnected();
      if (isBack) announce();
      wakeAll();
    },
    onBug,
  });
  const announce = (): unknown => soon(log, () => announceBacklog(bridge));
  const onStoreFault = (message: string | null): void => void (storeFault = message);
  const ears = {
    ...bridge,
    onAccepted() {
      if (isBack) announce();
      isBack = false;
    },
    onProof: () => connection.dispatch({ type: "proof" }),
    onStoreFault,
  };
  let claude = "fine";
  base.notices.on("claude", ({ fault }) => void (claude = fault === null ? "fine" : fault.message));
  const describeState = (): string => {
    const pending = store.outbox.pending().count;
    const unsent = pending === 0 ? "" : `\nTo be sent: ${pending}`;
    return `Signal: ${stateName().toLowerCase()}\nClaude (${base.backend.name}): ${claude}${unsent}`;
  };
  const control = createControlLoop({ ...bridge, describeState });
  const files = createFileLoop(bridge);
  const lanes = { answer, control, files, send };
  const wakeAll = (): void => Object.values(lanes).forEach((lane) => lane.wake());
  return {
    ...lanes,
    sync,
    connection,
    wakeAll,
    isConnected: bridge.isConnected,
    onStoreFault,
    storeFault: () => storeFault,
  };
}

/** Whatever answers: when Signal has not shown for so long that it would deliver, the work is not done. */
function proofFault({ uptimeMs, connection }: Status, now: Millis, staleAfterMs: Millis): string | null {
  const { lastProofAt, fault } = connection;
  const ageMs = lastProofAt === null ? uptimeMs : now - Date.parse(lastProofAt);
  if (ageMs <= staleAfterMs) return null;
  return `no proof of life from Signal for ${Math.round(ageMs / 1_000)} s${fault === null ? "" : `: ${fault.message}`}`;
}

/** 4 hex digits that tell this home from others in stamps; made once. */
function tagOf({ store, random }: Base): string {
  const known = store.settings.get("device_tag");
  if (known !== null) return known;
  const tag = Math.floor(random() * 0x10000)
    .toString(16)
    .padStart(4, "0");
  store.settings.set("device_tag", tag);
  return tag;
}
