/**
 * The shell of the state machine: hands events to `core/connection.ts` and does what its effects say. It decides nothing.
 *
 * Each attempt to connect is a *life* with an AbortController of its own; what a life reports after its end is ignored.
 */
import type { Clock, Random } from "../clock.ts";
import {
  checkInvariants,
  initialState,
  step,
  type Effect,
  type Event,
  type Limits,
  type State,
} from "../core/connection.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Account, Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { NoticeBus } from "./notices.ts";

export type ConnectionDeps = {
  readonly transport: Transport;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly notices: NoticeBus;
  readonly limits: Limits;
  /** Polls until `signal` aborts, or throws when the line is lost. */
  readonly receive: (account: Account, signal: AbortSignal) => Promise<void>;
  /** Reads and writes all sessions that need it. @throws BridgeError when Claude's side is down */
  readonly sync: (signal: AbortSignal) => Promise<void>;
  /** Sending and answering may go on. */
  readonly drainOutbox: () => void;
  readonly onConnected: (account: Account) => void;
  /** A fault of our own: ends the process. */
  readonly onBug: (error: unknown) => void;
};

/** An event without what the shell adds (`at`, `jitter`). */
type Bare<E> = E extends Event ? Omit<E, "at" | "jitter"> : never;

export interface ConnectionLoop {
  state(): State;
  dispatch(event: Bare<Event>): void;
  /** Resolves when every task of the last life has ended. */
  stopped(): Promise<void>;
}

export function createConnectionLoop(deps: ConnectionDeps): ConnectionLoop {
  const { clock } = deps;
  let state = initialState(clock.now());
  const lives = createLives(deps, (event) => dispatch(event));
  const dispatch = (event: Bare<Event>): void => {
    const previous = state;
    const [next, effects] = step(state, { ...event, at: clock.now(), jitter: deps.random() } as Event, deps.limits);
    state = next;
    checkInvariants(state);
    for (const effect of effects) perform(effect, previous);
  };
  const perform = (effect: Effect, previous: State): void => {
    switch (effect.type) {
      case "connect":
        return lives.connect();
      case "receive":
        return lives.receive();
      case "sync":
        return lives.sync();
      case "wait":
        return lives.wait(effect.ms);
      case "disconnect":
        return lives.disconnect();
      case "drainOutbox":
        return deps.drainOutbox();
      case "publish":
        logChange(deps.log, previous, state);
        return deps.notices.emit("connection", { state, previous });
    }
  };
  return { state: () => state, dispatch, stopped: lives.stopped };
}

/** The tasks of a life, each under the life's signal. */
function createLives(deps: ConnectionDeps, dispatch: (event: Bare<Event>) => void) {
  const { clock, transport } = deps;
  let life = new AbortController();
  const waiting = createWait(clock, () => dispatch({ type: "retryDue" }));
  let account: Account | null = null;
  /** The end of the last line: the next connect waits for it. */
  let ending: Promise<void> = Promise.resolve();
  const tasks = new Set<Promise<void>>();
  const track = (work: Promise<void>): void => {
    const task = work.finally(() => tasks.delete(task));
    tasks.add(task);
  };
  /** What a task reports after the end of its life is dropped. */
  const task = (
    work: (signal: AbortSignal) => Promise<Bare<Event> | null>,
    onFault: (fault: Fault) => Bare<Event>,
  ): void => {
    const { signal } = life;
    const report = (error: unknown): Bare<Event> | null => {
      if (error instanceof BridgeError) return onFault(toFault(error));
      if (!signal.aborted) deps.onBug(error);
      return null;
    };
    track(
      work(signal)
        .catch(report)
        .then((event) => {
          if (event !== null && !signal.aborted) dispatch(event);
        }),
    );
  };
  return {
    connect() {
      waiting.cancel();
      life.abort();
      life = new AbortController();
      const connect = async (signal: AbortSignal): Promise<Bare<Event>> => {
        await ending;
        account = await transport.connect(signal);
        if (!signal.aborted) deps.onConnected(account);
        return { type: "connected" };
      };
      task(connect, (fault) => ({ type: "connectFailed", fault }));
    },
    receive() {
      const receive = async (signal: AbortSignal): Promise<null> => {
        if (account) await deps.receive(account, signal);
        return null;
      };
      task(receive, (fault) => ({ type: "lost", fault }));
    },
    sync() {
      const done: Bare<Event> = { type: "syncDone" };
      task(
        (signal) => deps.sync(signal).then(() => done),
        (fault) => ({ type: "syncFailed", fault }),
      );
    },
    wait: waiting.start,
    disconnect() {
      waiting.cancel();
      life.abort();
      ending = transport.disconnect();
      track(ending);
    },
    async stopped() {
      while (tasks.size > 0) await Promise.all(tasks);
    },
  };
}

/** One wait at a time; a new one, or `cancel`, ends the one before. */
function createWait(clock: Clock, onDue: () => void): { start(ms: Millis): void; cancel(): void } {
  let waiting = new AbortController();
  return {
    start(ms) {
      waiting.abort();
      waiting = new AbortController();
      const { signal } = waiting;
      void clock.sleep(ms, signal).then(() => {
        if (!signal.aborted) onDue();
      });
    },
    cancel: () => waiting.abort(),
  };
}

function logChange(log: Log, previous: State, state: State): void {
  if (previous.name === state.name) return;
  if (state.name !== "DISCONNECTED") return log.info("connection", { state: state.name });
  const { fault, retryAt, attempt } = state;
  log[fault ? "warn" : "info"]("connection", {
    state: state.name,
    code: fault?.code,
    error: fault?.message,
    attempt,
    retryAt,
  });
}
