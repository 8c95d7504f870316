/**
 * The line to Signal as a pure reducer: `step(state, event, limits) → [state, effects]`. Time and chance arrive in the event.
 *
 *             start · retryDue · reconnect      connected           synced and proven
 *               · woke · networkChanged
 *   DISCONNECTED ──────────────────▶ RECONNECTING ───────▶ SYNCING ───────────────▶ CONNECTED
 *     ▲   ▲                              │  ▲                 │ │                      │ │
 *     │   └── connectFailed · too slow ──┘  └── reconnect ────┘─│──────────────────────┘ │
 *     └────────────────────────── lost · stalled · stop ────────┴────────────────────────┘
 *
 * Invariants of every state (`checkInvariants`, after each step in tests, simulation and production):
 *
 *   counts      attempt and reconnects are whole and not negative; `since` is finite
 *   halted      DISCONNECTED has no `retryAt` exactly where it is stopped (no fault) or only a person can help
 *   failed      DISCONNECTED with a fault has counted it: attempt ≥ 1
 *   waiting     `retryAt` is never before `since`
 *   unfinished  SYNCING lacks the proof, or the sync, or both: with both it is CONNECTED
 *   proven      CONNECTED has seen a proof of life
 *
 * The table in `backoff.ts` says how long DISCONNECTED waits, and what else is tried again. The shell (`loops/connector.ts`) has to keep
 * to one life per `connect` and report nothing from a life that ended; where it does not, the table below still decides.
 */
import { backoffMs, defaultBackoff, serverMinimumMs, type BackoffLimits } from "./backoff.ts";
import { BridgeError, errorTable, toFault, type Fault } from "./errors.ts";
import { assert, type Millis } from "./model.ts";

type Common = {
  /** When this state was entered. */
  readonly since: Millis;
  /** Failures in a row; forgotten only after CONNECTED has held for `stableAfterMs`. */
  readonly attempt: number;
  /** The last completed receive round trip or stream keep-alive, of this or an earlier life. */
  readonly lastProofAt: Millis | null;
  /** How often the line came up again after it had worked before. */
  readonly reconnects: number;
};

export type State =
  | (Common & {
      readonly name: "DISCONNECTED";
      /** Null: stopped, or not yet started. */
      readonly fault: Fault | null;
      /** Null: nothing happens until a person acts. */
      readonly retryAt: Millis | null;
    })
  | (Common & { readonly name: "RECONNECTING" })
  | (Common & {
      readonly name: "SYNCING";
      readonly isProven: boolean;
      readonly isSynced: boolean;
      /** The time from which the line counts as stalled, unless a proof comes first. */
      readonly proofDueAt: Millis;
    })
  | (Common & { readonly name: "CONNECTED"; readonly proofDueAt: Millis });

export type StateName = State["name"];

/** `at`: monotonic time in ms, as all times of a state: a clock that is set changes nothing. `jitter`: in [0, 1), where the answer may be to wait. */
export type Event = { readonly at: Millis } & (
  | { readonly type: "start" }
  | { readonly type: "connected" }
  | { readonly type: "connectFailed"; readonly fault: Fault; readonly jitter: number }
  | { readonly type: "retryDue" }
  | { readonly type: "syncDone" }
  /** Claude's side is down: no reason to give up this line. */
  | { readonly type: "syncFailed"; readonly fault: Fault }
  | { readonly type: "lost"; readonly fault: Fault; readonly jitter: number }
  /** A completed receive round trip, or the stream's own keep-alive. */
  | { readonly type: "proof" }
  /** About once a second. */
  | { readonly type: "tick"; readonly jitter: number }
  /** The clock jumped: the machine slept. `sleptMs`: what the monotonic clock counted of that, 0 where it stood still. */
  | { readonly type: "woke"; readonly sleptMs: Millis }
  | { readonly type: "networkChanged" }
  /** A person asks (`signalman reconnect`, SIGUSR1). */
  | { readonly type: "reconnect" }
  | { readonly type: "stop" }
);

export type EventType = Event["type"];

export type Effect =
  /** Ends the last life and a running wait, then connects and reports `connected` or `connectFailed`. */
  | { readonly type: "connect" }
  /** Reports `retryDue` after `ms`; replaces a running wait. */
  | { readonly type: "wait"; readonly ms: Millis }
  /** Synchronizes contexts, then reports `syncDone` or `syncFailed`. Once per life. */
  | { readonly type: "sync" }
  /** Polls until the life ends; reports `proof` per round trip and `lost` at its failure. Once per life. */
  | { readonly type: "receive" }
  /** Lets answering and sending go on. */
  | { readonly type: "drainOutbox" }
  /** Ends the life and a running wait. */
  | { readonly type: "disconnect" }
  /** Tells `/status` that the state has changed. Always last. */
  | { readonly type: "publish" };

export type Limits = {
  readonly backoff: BackoffLimits;
  /** A service on loopback that is not up is tried this often instead: it costs nothing. Null elsewhere. */
  readonly probeMs: Millis | null;
  /** Earlier failures are forgotten after CONNECTED has held for so long. */
  readonly stableAfterMs: Millis;
  /** Oldest proof of life that still counts. Longer than a poll. */
  readonly staleAfterMs: Millis;
  /** How soon a fresh proof must come after a sleep or a change of network. Longer than a poll. */
  readonly wakeProofMs: Millis;
  readonly connectTimeoutMs: Millis;
  /** A sync that takes longer goes on beside the open line. */
  readonly syncTimeoutMs: Millis;
};

export const defaultLimits: Limits = {
  backoff: defaultBackoff,
  probeMs: null,
  stableAfterMs: 30_000,
  staleAfterMs: 90_000,
  wakeProofMs: 25_000,
  connectTimeoutMs: 45_000,
  syncTimeoutMs: 300_000,
};

export type Step = readonly [State, readonly Effect[]];

/** The state before the first `start`. */
export const initialState = (at: Millis): State => ({
  name: "DISCONNECTED",
  since: at,
  attempt: 0,
  lastProofAt: null,
  reconnects: 0,
  fault: null,
  retryAt: null,
});

/** The state after the event, and the effects to carry out in this order. Where nothing changes, the same state comes back. */
export function step(state: State, event: Event, limits: Limits): Step {
  // The table's type pairs every handler with its own state and event; a computed look-up cannot say so.
  const handle = table[event.type][state.name] as Handler<StateName, EventType>;
  return handle === stay ? stay(state) : handle(calmed(state, event.at, limits), event, limits);
}

type In<N extends StateName> = Extract<State, { readonly name: N }>;
type On<T extends EventType> = Extract<Event, { readonly type: T }>;
type Handler<N extends StateName, T extends EventType> = (state: In<N>, event: On<T>, limits: Limits) => Step;
type Table = { readonly [T in EventType]: { readonly [N in StateName]: Handler<N, T> } };

const nothing: readonly Effect[] = [];
const publish: Effect = { type: "publish" };
const disconnect: Effect = { type: "disconnect" };

const stay = (state: State): Step => [state, nothing];

/** Every pair of event and state has its handler, those of the shell's slips too: an event of an earlier life changes nothing. */
const table: Table = {
  start: { DISCONNECTED: begin, RECONNECTING: stay, SYNCING: stay, CONNECTED: stay },
  connected: { DISCONNECTED: hangUp, RECONNECTING: open, SYNCING: stay, CONNECTED: stay },
  connectFailed: { DISCONNECTED: stay, RECONNECTING: fail, SYNCING: stay, CONNECTED: stay },
  retryDue: { DISCONNECTED: retryIfAllowed, RECONNECTING: stay, SYNCING: stay, CONNECTED: stay },
  // A sync in CONNECTED has a backoff of its own and says nothing about the line.
  syncDone: { DISCONNECTED: stay, RECONNECTING: stay, SYNCING: synced, CONNECTED: stay },
  syncFailed: { DISCONNECTED: stay, RECONNECTING: stay, SYNCING: synced, CONNECTED: stay },
  lost: { DISCONNECTED: stay, RECONNECTING: stay, SYNCING: fail, CONNECTED: fail },
  proof: { DISCONNECTED: stay, RECONNECTING: stay, SYNCING: proven, CONNECTED: proven },
  tick: { DISCONNECTED: stay, RECONNECTING: failIfSlow, SYNCING: failIfStalled, CONNECTED: failIfStalled },
  // A connect that was under way while the machine slept is dead without a sign.
  woke: { DISCONNECTED: retryIfAllowed, RECONNECTING: connect, SYNCING: wake, CONNECTED: wake },
  // Networks of containers come and go: each change would start a running connect over.
  networkChanged: { DISCONNECTED: retryIfAllowed, RECONNECTING: stay, SYNCING: demandProof, CONNECTED: demandProof },
  reconnect: { DISCONNECTED: retryNow, RECONNECTING: stay, SYNCING: connect, CONNECTED: connect },
  stop: { DISCONNECTED: stop, RECONNECTING: stop, SYNCING: stop, CONNECTED: stop },
};

/** The fields that every state has, and no other: a state never carries what belonged to the one before. */
const common = ({ attempt, lastProofAt, reconnects }: State) => ({ attempt, lastProofAt, reconnects });

/** Forgets earlier failures once CONNECTED has held for `stableAfterMs`. */
function calmed(state: State, at: Millis, { stableAfterMs }: Limits): State {
  const hasHeld = state.name === "CONNECTED" && at - state.since >= stableAfterMs;
  return hasHeld && state.attempt > 0 ? { ...state, attempt: 0 } : state;
}

function connect(state: State, { at }: Event): Step {
  return [{ ...common(state), name: "RECONNECTING", since: at }, [{ type: "connect" }, publish]];
}

function begin(state: In<"DISCONNECTED">, event: Event): Step {
  return state.retryAt === null ? connect(state, event) : stay(state);
}

/** Tries a halted line once, too, and against the server's wish, since the person who asks may know better; not a stopped line. */
function retryNow(state: In<"DISCONNECTED">, event: Event): Step {
  return state.fault === null ? stay(state) : connect(state, event);
}

/**
 * The wait is over, or an event makes a try worth while now. Our own backoff gives way to such an event; the server's minimum does not.
 * A clock that jumped back (`at` before `since`) cannot make the wait longer than it was.
 */
function retryIfAllowed(state: In<"DISCONNECTED">, event: Event): Step {
  if (state.fault === null || state.retryAt === null) return stay(state);
  const remainingMs = state.since + serverMinimumMs(state.fault.retryAfterMs) - event.at;
  if (remainingMs <= 0 || event.at < state.since) return connect(state, event);
  return [{ ...state, retryAt: event.at + remainingMs }, [{ type: "wait", ms: remainingMs }, publish]];
}

/**
 * The connect was given up (stopped, too slow) and succeeded all the same: that line would have no user. `disconnect` ends the
 * running wait too, so what remains of it starts again, never more than it was.
 */
function hangUp(state: In<"DISCONNECTED">, { at }: Event): Step {
  if (state.retryAt === null) return [state, [disconnect]];
  return [state, [disconnect, { type: "wait", ms: Math.max(0, state.retryAt - Math.max(at, state.since)) }]];
}

function open(state: In<"RECONNECTING">, { at }: Event, { staleAfterMs }: Limits): Step {
  const reconnects = state.reconnects + (state.lastProofAt === null ? 0 : 1);
  const now = { since: at, isProven: false, isSynced: false, proofDueAt: at + staleAfterMs };
  return [{ ...common(state), ...now, name: "SYNCING", reconnects }, [{ type: "receive" }, { type: "sync" }, publish]];
}

function proven(state: In<"SYNCING" | "CONNECTED">, { at }: Event, { staleAfterMs }: Limits): Step {
  const alive = { ...state, lastProofAt: at, proofDueAt: at + staleAfterMs };
  return alive.name === "CONNECTED" ? stay(alive) : settle({ ...alive, isProven: true }, at);
}

function synced(state: In<"SYNCING">, { at }: Event): Step {
  return state.isSynced ? stay(state) : settle({ ...state, isSynced: true }, at);
}

/** SYNCING becomes CONNECTED as soon as it is proven and synced: a port that answers is not enough for CONNECTED. */
function settle(state: In<"SYNCING">, at: Millis): Step {
  if (!state.isProven || !state.isSynced) return stay(state);
  const { proofDueAt } = state;
  return [{ ...common(state), name: "CONNECTED", since: at, proofDueAt }, [{ type: "drainOutbox" }, publish]];
}

/** Time asleep is not waited for a proof, but neither does it renew the wait: a machine that sleeps again and again would never end it. */
function wake(state: In<"SYNCING" | "CONNECTED">, event: On<"woke">, limits: Limits): Step {
  return proofDue(state, Math.min(state.proofDueAt + event.sleptMs, event.at + limits.wakeProofMs));
}

/**
 * The line may be dead without a sign: it gets a short time for a fresh proof rather than being torn down blindly. A proof that is due
 * sooner stays so, or a restless network would put it off.
 */
function demandProof(state: In<"SYNCING" | "CONNECTED">, { at }: Event, { wakeProofMs }: Limits): Step {
  return proofDue(state, Math.min(state.proofDueAt, at + wakeProofMs));
}

const proofDue = (state: In<"SYNCING" | "CONNECTED">, at: Millis): Step =>
  stay(at === state.proofDueAt ? state : { ...state, proofDueAt: at });

function failIfSlow(state: In<"RECONNECTING">, event: On<"tick">, limits: Limits): Step {
  const { connectTimeoutMs } = limits;
  if (event.at - state.since < connectTimeoutMs) return stay(state);
  const why = `Cannot connect to Signal as it did not answer within ${connectTimeoutMs} ms`;
  return fail(state, { ...event, fault: toFault(new BridgeError("signal_timeout", why)) }, limits);
}

function failIfStalled(state: In<"SYNCING" | "CONNECTED">, event: On<"tick">, limits: Limits): Step {
  if (event.at >= state.proofDueAt) return fail(state, { ...event, fault: stalled }, limits);
  // A sync that takes longer goes on beside the open line.
  const isSlow = state.name === "SYNCING" && event.at - state.since >= limits.syncTimeoutMs;
  return isSlow ? synced(state, event) : stay(state);
}

const stalled = toFault(new BridgeError("stalled", "Cannot trust the line to Signal as no proof of life came in time"));

type Failure = Pick<On<"lost">, "at" | "fault" | "jitter">;

function fail(state: State, { at, fault, jitter }: Failure, limits: Limits): Step {
  const attempt = state.attempt + 1;
  const down = { ...common(state), name: "DISCONNECTED", since: at, attempt, fault } as const;
  // Codes of class `never` speak of one message; should one end the line all the same, trying again is the harmless answer.
  if (errorTable[fault.code].retry === "person") return [{ ...down, retryAt: null }, [disconnect, publish]];
  const isProbe = limits.probeMs !== null && (fault.code === "signal_unreachable" || fault.code === "signal_timeout");
  const ms = isProbe
    ? Math.max(limits.probeMs, serverMinimumMs(fault.retryAfterMs))
    : backoffMs({ attempt, jitter, retryAfterMs: fault.retryAfterMs }, limits.backoff);
  return [{ ...down, retryAt: at + ms }, [disconnect, { type: "wait", ms }, publish]];
}

function stop(state: State, { at }: Event): Step {
  if (state.name === "DISCONNECTED" && state.fault === null) return stay(state);
  return [{ ...common(state), name: "DISCONNECTED", since: at, fault: null, retryAt: null }, [disconnect, publish]];
}

/** The table of invariants in the header, as asserts. @throws Error naming the broken one: a bug */
export function checkInvariants(state: State): void {
  const { attempt, reconnects, since, lastProofAt } = state;
  const isCount = (count: number): boolean => Number.isSafeInteger(count) && count >= 0;
  assert(isCount(attempt) && isCount(reconnects) && Number.isFinite(since), "counts: whole, not negative, finite");
  if (state.name === "DISCONNECTED") {
    const isHalted = state.fault === null || errorTable[state.fault.code].retry === "person";
    assert((state.retryAt === null) === isHalted, "halted: no retryAt exactly where stopped or a person must help");
    assert(state.fault === null || attempt >= 1, "failed: a fault is a counted failure");
    assert(state.retryAt === null || state.retryAt >= since, "waiting: retryAt is not before since");
  }
  if (state.name === "SYNCING")
    assert(!(state.isProven && state.isSynced), "unfinished: proven and synced is CONNECTED");
  if (state.name === "CONNECTED") assert(lastProofAt !== null, "proven: CONNECTED has seen a proof of life");
}
