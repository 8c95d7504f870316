/**
 * The shell of the state machine: hands events to `core/connection.ts` and does what its effects say. It decides nothing.
 *
 * Each attempt to connect is a *life* with an AbortController of its own; what a life reports after its end is ignored.
 */
import {
  checkInvariants,
  defaultLimits,
  initialState,
  step,
  type Effect,
  type Event,
  type Limits,
  type State,
} from "../core/connection.ts";
import type { Clock } from "../clock.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Account } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Bridge } from "./bridge.ts";

/** The work that effects of the state machine start. */
export type Work = {
  /** Polls until `signal` aborts, or throws when the line is lost. */
  readonly receive: (account: Account, signal: AbortSignal) => Promise<void>;
  /** Reads and writes all sessions that need it. @throws BridgeError when Claude's side is down */
  readonly sync: (signal: AbortSignal) => Promise<void>;
  /** Called when sending and answering may go on. */
  readonly resume: () => void;
  /** A fault of our own: ends the process. */
  readonly onBug: (error: unknown) => void;
  /** Called when the line is down until a person helps. */
  readonly onHalted: (fault: Fault) => void;
};

/** An event without what the shell adds (`at`, `jitter`). */
type Bare<E> = E extends Event ? Omit<E, "at" | "jitter"> : never;

export type ConnectionLoop = ReturnType<typeof createConnectionLoop>;

/** A daemon on this machine is tried this often: it costs nothing, and recovery takes a second. */
const loopbackProbeMs = 1_000;

type Base = Pick<Bridge, "config" | "clock" | "random" | "transport" | "log" | "notices">;

export function createConnectionLoop(bridge: Base, work: Work) {
  const { clock, transport } = bridge;
  const probeMs = transport.isLocal ? loopbackProbeMs : null;
  const limits: Limits = { ...defaultLimits, ...bridge.config.limits, probeMs };
  const publish = createPublishing(bridge, work.onHalted);
  let state = initialState(clock.monotonic());
  let account: Account | null = null;
  let life = new AbortController();
  let waiting = new AbortController();
  /** The disconnect under way: the next connect waits for its end. */
  let ending: Promise<void> = Promise.resolve();
  const dispatch = (event: Bare<Event>): void => {
    const previous = state;
    const [next, effects] = step(state, { ...event, at: clock.monotonic(), jitter: bridge.random() } as Event, limits);
    state = next;
    checkInvariants(state);
    for (const effect of effects) perform(effect, previous);
  };
  const tasks = createTasks(dispatch, work.onBug);
  const live = (run: Run, onFault: (fault: Fault) => Bare<Event>): void => tasks.live(life.signal, run, onFault);
  const connect = async (signal: AbortSignal): Promise<Bare<Event>> => {
    await ending;
    const connected = await transport.connect(signal);
    if (!signal.aborted) account = connected;
    return { type: "connected" };
  };
  const perform = (effect: Effect, previous: State): void => {
    switch (effect.type) {
      case "connect":
        waiting.abort();
        life.abort();
        life = new AbortController();
        return live(connect, (fault) => ({ type: "connectFailed", fault }));
      case "receive":
        return live(
          async (signal) => {
            if (account) await work.receive(account, signal);
          },
          (fault) => ({ type: "lost", fault }),
        );
      case "sync":
        return live(
          (signal) => work.sync(signal).then((): Bare<Event> => ({ type: "syncDone" })),
          (fault) => ({ type: "syncFailed", fault }),
        );
      case "wait": {
        waiting.abort();
        waiting = new AbortController();
        const { signal } = waiting;
        return void clock.sleep(effect.ms, signal).then(() => signal.aborted || dispatch({ type: "retryDue" }));
      }
      case "disconnect":
        waiting.abort();
        life.abort();
        ending = transport.disconnect();
        return tasks.track(ending);
      case "drainOutbox":
        return work.resume();
      case "publish":
        return publish(previous, state);
    }
  };
  return {
    /** The times in a state are monotonic: a clock that is set changes nothing. */
    state: (): State => state,
    /** The account that the last connect told; null before the first. */
    account: (): Account | null => account,
    dispatch,
    /** Resolves when every task of the last life has ended. */
    stopped: tasks.stopped,
  };
}

type Run = (signal: AbortSignal) => Promise<Bare<Event> | void>;

/** The tasks of a life; the event of a task that ends after its life is dropped. */
function createTasks(dispatch: (event: Bare<Event>) => void, onBug: Work["onBug"]) {
  const tasks = new Set<Promise<void>>();
  const track = (work: Promise<void>): void => {
    const task = work.finally(() => tasks.delete(task));
    tasks.add(task);
  };
  return {
    track,
    live(signal: AbortSignal, run: Run, onFault: (fault: Fault) => Bare<Event>): void {
      const report = (error: unknown): Bare<Event> | void => {
        if (error instanceof BridgeError) return onFault(toFault(error));
        if (!signal.aborted) onBug(error);
      };
      track(
        run(signal)
          .catch(report)
          .then((event) => {
            if (event && !signal.aborted) dispatch(event);
          }),
      );
    },
    async stopped(): Promise<void> {
      while (tasks.size > 0) await Promise.all(tasks);
    },
  };
}

/** Tells the log and the status of each change, and the daemon of a fault that only a person can mend. */
function createPublishing({ log, clock, notices }: Base, onHalted: Work["onHalted"]) {
  const logChange = createChangeLog(log, clock);
  return (previous: State, state: State): void => {
    logChange(previous, state);
    notices.emit("connection", { state, previous });
    if (state.name === "DISCONNECTED" && state.retryAt === null && state.fault !== null) onHalted(state.fault);
  };
}

/** A fault that stays is logged anew after this; each try in between is for `debug`. */
const loggedAgainMs = 3_600_000;

function createChangeLog(log: Log, clock: Clock) {
  let logged: { readonly code: string; readonly at: number } | null = null;
  return (previous: State, state: State): void => {
    if (previous.name === state.name) return;
    if (state.name === "CONNECTED") logged = null;
    if (state.name !== "DISCONNECTED")
      return log[logged === null || state.name !== "RECONNECTING" ? "info" : "debug"]("connection", {
        state: state.name,
      });
    const { fault, retryAt, attempt } = state;
    const at = clock.monotonic();
    const waitMs = retryAt && Math.round(retryAt - at);
    const fields = { state: state.name, code: fault?.code, error: fault?.message, attempt, waitMs };
    const isKnown = logged !== null && fault?.code === logged.code && at - logged.at < loggedAgainMs;
    if (fault !== null && !isKnown) logged = { code: fault.code, at };
    log[fault === null ? "info" : isKnown ? "debug" : "warn"]("connection", fields);
  };
}
