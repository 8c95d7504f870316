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
import { defaultLimits } from "./core/connection.ts";
import { BridgeError, toFault } from "./core/errors.ts";
import type { Account } from "./core/model.ts";
import { renderReply } from "./core/reply.ts";
import type { Log } from "./log.ts";
import { createAnswerLoop } from "./loops/answer.ts";
import { createConnectionLoop, type ConnectionLoop } from "./loops/connection.ts";
import { createFileLoop } from "./loops/files.ts";
import { createControlLoop } from "./loops/control.ts";
import { announceBacklog } from "./loops/greet.ts";
import type { NoticeBus, Notices } from "./loops/notices.ts";
import { createPresence } from "./loops/presence.ts";
import { receiveLoop } from "./loops/receive.ts";
import { createSendLoop } from "./loops/send.ts";
import { createSyncLoop } from "./loops/sync.ts";
import { createWatch } from "./loops/watch.ts";
import type { Transport } from "./signal/transport.ts";
import { createStatusModel, type Status } from "./status/status.ts";
import type { InboxKind } from "./store/inbox.ts";
import type { Store } from "./store/store.ts";
import { openStore } from "./store/store.ts";
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
    store.hasten(deps.clock.now());
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
    log.error("fault in signalman itself", {
      ...toFault(error),
      stack: error instanceof Error ? error.stack : undefined,
    });
    void stop(1);
  };
  const base = { ...deps, config, store, transport, backend, notices: mitt<Notices>(), onBug };
  const loops = createLoops(base, stopping.signal);
  const { connection, send, answer } = loops;
  const isConnected = (): boolean => connection.state().name === "CONNECTED";

  const stop = (code: number): Promise<void> =>
    (stopped ??= (async () => {
      log.info("stopping", { code });
      stopping.abort();
      const kill = clock.sleep(config.limits.drainMs, killing.signal).then(() => killing.abort());
      await drain(clock, store, {
        isOver: () => killing.signal.aborted,
        isBusy: () => answer.busyCount() > 0,
        isConnected,
        wake: send.wake,
      });
      killing.abort();
      sending.abort();
      connection.dispatch({ type: "stop" });
      await Promise.all([...tasks, connection.stopped(), kill]);
      store.close();
      log.info("stopped", { code });
      end.resolve(bug === null ? code : 1);
    })());

  base.notices.on("connection", ({ state }) => {
    if (state.name === "DISCONNECTED" && state.fault?.code === "not_linked") void stop(3);
  });
  const spawn = (work: Promise<void>): void => void tasks.push(work.catch(onBug));
  spawn(loops.watch.run(stopping.signal));
  spawn(send.run(sending.signal, sending.signal));
  for (const loop of [answer, loops.files, loops.control]) spawn(loop.run(stopping.signal, killing.signal));
  spawn(loops.sync.keep(stopping.signal));
  connection.dispatch({ type: "start" });

  return {
    status: loops.model.snapshot,
    health: () =>
      bug === null ? (loops.storeFault() ?? proofFault(loops.model.snapshot(), base)) : "a loop has failed",
    isReady: isConnected,
    wake: loops.wakeAll,
    reconnect() {
      connection.dispatch({ type: "reconnect" });
      send.resume();
      loops.wakeAll();
    },
    sync: () => loops.sync.run(stopping.signal),
    store,
    backend,
    transport,
    notices: base.notices,
    stop: () => stop(0),
    finished: end.promise,
  };
}

/** Whatever answers: when Signal has not shown for so long that it would deliver, the work is not done. */
function proofFault({ uptimeMs, connection }: Status, { clock, config }: Base): string | null {
  const { lastProofAt, fault } = connection;
  const ageMs = lastProofAt === null ? uptimeMs : clock.now() - Date.parse(lastProofAt);
  if (ageMs <= config.limits.staleAfterMs) return null;
  return `no proof of life from Signal for ${Math.round(ageMs / 1_000)} s${fault === null ? "" : `: ${fault.message}`}`;
}

type Base = DaemonDeps & {
  readonly config: Config;
  readonly store: Store;
  readonly transport: Transport;
  readonly backend: Backend;
  readonly notices: NoticeBus;
  readonly onBug: (error: unknown) => void;
};

function createLoops(base: Base, stopping: AbortSignal) {
  const { config, log, store, clock, backend } = base;
  /** What one loop learns and another needs. */
  const facts = { account: null as Account | null, storeFault: null as string | null, hasSynced: false, isBack: false };
  const account = (): Account | null => facts.account;
  const isState = (name: string): boolean => connection.state().name === name;
  const isConnected = (): boolean => isState("CONNECTED");
  const canAnswer = (): boolean => facts.hasSynced && !isState("SYNCING");
  const wakeAll = (): void => [answer, control, files, send].forEach((loop) => loop.wake());
  const warn = (error: unknown): void => log.warn("not done; the next sync sees to it", toFault(error));
  const deviceTag = tagOf(store, base);
  const access = { allow: config.allow, isGroupAlways: config.groupAlways };
  const { model, system, limits } = config;

  const send = createSendLoop({ ...base, lanesMax: limits.lanesMax, isOpen: isConnected });
  const { presence, speech, isInterrupting, digest } = mannersOf(base);
  /** Once the line is back, and again with the first messages: those that proved it are committed later. */
  const announce = (): void => soon(log, () => announceBacklog(store, digest, clock.now()));
  const files = createFileLoop({ ...base, isOpen: canAnswer, onOutbox: send.wake });
  const onOutbox = (chatKey: string): void => {
    send.wake(chatKey);
    files.wake();
  };
  const gates = { account, isOpen: canAnswer, isConnected, onOutbox, presence };
  const answer = createAnswerLoop({ ...base, ...gates, ...speech, model, system, lanesMax: limits.lanesMax });
  const sync = createSyncLoop({ ...base, deviceTag, onRunning: answer.follow, onChanged: () => wakeAll() });
  const control = createControlLoop({
    ...base,
    ...gates,
    ...access,
    answer,
    model,
    deviceTag,
    describeState: () => describe(connection, backend, status.snapshot()),
    syncSoon: () => void sync.run(stopping).catch(warn),
  });
  const receive = {
    ...base,
    ...access,
    presence,
    isInterrupting,
    onProof: () => connection.dispatch({ type: "proof" }),
    onAccepted(chatKey: string, kind: InboxKind) {
      if (facts.isBack) announce();
      facts.isBack = false;
      (kind === "prompt" ? answer : control).wake(chatKey);
      send.wake(chatKey);
    },
    onWithdrawn(chatKey: string, inboxId: number) {
      send.wake(chatKey);
      answer.interrupt(chatKey, [inboxId]).catch(warn);
    },
    onStoreFault: (message: string | null) => void (facts.storeFault = message),
  };
  const connection: ConnectionLoop = createConnectionLoop({
    ...base,
    limits: { ...defaultLimits, ...limits, probeMs: base.transport.isLocal ? loopbackProbeMs : null },
    receive: (account, signal) => receiveLoop(receive, account, AbortSignal.any([signal, stopping])),
    sync: (signal) => sync.run(signal).finally(() => (facts.hasSynced = true)),
    drainOutbox() {
      facts.isBack = isConnected();
      if (facts.isBack) announce();
      wakeAll();
    },
    onConnected: (connected) => void (facts.account = connected),
  });
  const status = createStatusModel({ ...base, connection, account });
  const watch = createHeartbeat(base, connection, wakeAll);
  const storeFault = (): string | null => facts.storeFault;
  return { send, answer, files, sync, control, connection, watch, model: status, wakeAll, storeFault };
}

/** What time alone sets off. */
function createHeartbeat({ config, clock, log, store, networkKey }: Base, line: ConnectionLoop, wakeAll: () => void) {
  let isClockSet = false;
  /** With a full disk it is tried at the next tick again. */
  const hasten = (): void => {
    store.hasten(clock.now());
    isClockSet = false;
    wakeAll();
  };
  return createWatch({
    clock,
    networkKey,
    onTick() {
      line.dispatch({ type: "tick" });
      if (isClockSet) soon(log, hasten);
    },
    onWoke() {
      line.dispatch({ type: "woke" });
      isClockSet = true;
      wakeAll();
    },
    onNetworkChange: () => line.dispatch({ type: "networkChanged" }),
    onMinute: () => soon(log, () => store.forget(clock.now())),
    onHour: () => soon(log, () => store.prune(clock.now() - config.limits.retentionDays * dayMs)),
  });
}

/** How the loops behave towards a person, as set. */
function mannersOf(base: Base) {
  const { config } = base;
  const { reactions, readReceipts: isReceiptSent, progress: isProgressShown } = config;
  const transcribe = config.transcribe === null ? null : createTranscribe(config.transcribe, base);
  return {
    presence: createPresence({ ...base, reactions, isReceiptSent }),
    speech: {
      isProgressShown,
      isWelcoming: config.welcome,
      approvalMs: config.approvalMinutes * minuteMs,
      transcribe,
    },
    isInterrupting: config.busy === "interrupt",
    digest: { messages: config.digestAfterMessages, minutes: config.digestAfterMinutes },
  };
}

/** What the database refuses now is done the next time. */
function soon(log: Log, work: () => unknown): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn("housekeeping postponed", toFault(error));
  }
}

/** A daemon on this machine is tried this often: it costs nothing, and recovery takes a second. */
const loopbackProbeMs = 1_000;
const minuteMs = 60_000;
const dayMs = 24 * 3_600_000;
/** How often the end of a drain is looked for. */
const drainStepMs = 20;

/** Waits until turns have ended and the outbox is empty or the line is down, or the time is over. */
async function drain(
  clock: Clock,
  store: Store,
  line: { isOver: () => boolean; isBusy: () => boolean; isConnected: () => boolean; wake: () => void },
): Promise<void> {
  while (!line.isOver()) {
    if (!line.isBusy() && (!line.isConnected() || store.outbox.pending().count === 0)) return;
    line.wake();
    await clock.sleep(drainStepMs);
  }
}

/** 4 hex digits that tell this home from others in stamps; made once. */
function tagOf(store: Store, deps: DaemonDeps): string {
  const known = store.settings.get("device_tag");
  if (known !== null) return known;
  const tag = Math.floor(deps.random() * 0x10000)
    .toString(16)
    .padStart(4, "0");
  store.settings.set("device_tag", tag);
  return tag;
}

function describe(connection: ConnectionLoop, backend: Backend, status: Status): string {
  const claude = status.claude.lastError === null ? "fine" : status.claude.lastError.message;
  const signal = connection.state().name.toLowerCase();
  const { pending } = status.outbox;
  return `Signal: ${signal}\nClaude (${backend.name}): ${claude}${pending === 0 ? "" : `\nTo be sent: ${pending}`}`;
}
