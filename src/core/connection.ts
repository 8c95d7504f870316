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
 * What holds in every state (`checkInvariants`, after each step in tests, simulation and production):
 *
 *   counts      attempt and reconnects are whole and not negative; `since` is finite
 *   halted      DISCONNECTED has no `retryAt` exactly where it is stopped (no fault) or only a person can help
 *   failed      DISCONNECTED with a fault has counted it: attempt ≥ 1
 *   waiting     `retryAt` is never before `since`
 *   unfinished  SYNCING lacks the proof, or the sync, or both: with both it is CONNECTED
 *   proven      CONNECTED has seen a proof of life
 *
 * How long DISCONNECTED waits, and everybody else who tries again: the table in `backoff.ts`. The shell (`loops/connection.ts`)
 * owes us: one life per `connect`, and nothing reported from a life that ended. Where it slips, the tables below still decide.
 */
import { backoffMs, defaultBackoff, serverMinimumMs, type BackoffLimits } from "./backoff.ts";
import { errorRow, errorTable, type Fault } from "./errors.ts";
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
      /** Without a proof until then, the line counts as stalled. */
      readonly proofDueAt: Millis;
    })
  | (Common & { readonly name: "CONNECTED"; readonly proofDueAt: Millis });

export type StateName = State["name"];

/** `at`: wall time, Unix ms. `jitter`: in [0, 1), where the answer may be to wait. */
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
  /** The clock jumped: the machine slept. */
  | { readonly type: "woke" }
  | { readonly type: "networkChanged" }
  /** A person asks (`signalman reconnect`, SIGUSR1). */
  | { readonly type: "reconnect" }
  | { readonly type: "stop" }
);

export type EventType = Event["type"];

export type Effect =
  /** Ends what runs of the last life and a running wait, then connects: `connected` or `connectFailed`. */
  | { readonly type: "connect" }
  /** `retryDue` after `ms`; replaces a running wait. */
  | { readonly type: "wait"; readonly ms: Millis }
  /** `syncDone` or `syncFailed`. Once per life. */
  | { readonly type: "sync" }
  /** Polls until the life ends: `proof` per round trip, `lost` at its failure. Once per life. */
  | { readonly type: "receive" }
  /** Answering and sending may go on. */
  | { readonly type: "drainOutbox" }
  /** Ends the life and a running wait. */
  | { readonly type: "disconnect" }
  /** What `/status` shows has changed. Always last. */
  | { readonly type: "publish" };

export type Limits = {
  readonly backoff: BackoffLimits;
  /** A service on loopback that is not up is tried this often instead: it costs nothing. Null elsewhere. */
  readonly probeMs: Millis | null;
  /** CONNECTED for so long makes earlier failures history. */
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

/** Not started. `at` is Unix ms. */
export const initialState = (at: Millis): State => ({
  name: "DISCONNECTED",
  since: at,
  attempt: 0,
  lastProofAt: null,
  reconnects: 0,
  fault: null,
  retryAt: null,
});

/** What the event makes of the state, and what is to be done in this order. Where nothing changes, the same state comes back. */
export function step(state: State, event: Event, limits: Limits): Step {
  // The table's type pairs every handler with its own state and event; a computed look-up cannot say so.
  const handle = table[state.name][event.type] as (state: State, event: Event, limits: Limits) => Step;
  return handle(state, event, limits);
}

type In<N extends StateName> = Extract<State, { readonly name: N }>;
type On<T extends EventType> = Extract<Event, { readonly type: T }>;
type Row<N extends StateName> = {
  readonly [T in EventType]: (state: In<N>, event: On<T>, limits: Limits) => Step;
};

const nothing: readonly Effect[] = [];
const stay = (state: State): Step => [state, nothing];

const disconnected: Row<"DISCONNECTED"> = {
  start: (state, event) => (state.retryAt === null ? connect(state, event) : stay(state)),
  // The connect was given up (stopped, too slow) and succeeded all the same: nobody would use that line.
  connected: (state, { at }) => [state, [{ type: "disconnect" }, ...waitAgain(state, at)]],
  connectFailed: stay,
  retryDue: retryIfAllowed,
  syncDone: stay,
  syncFailed: stay,
  lost: stay,
  proof: stay,
  tick: stay,
  woke: retryIfAllowed,
  networkChanged: retryIfAllowed,
  // Also tries a halted line once, and against the server's wish: a person may know better. Not a stopped one.
  reconnect: (state, event) => (state.fault === null ? stay(state) : connect(state, event)),
  stop: (state, event) => (state.fault === null ? stay(state) : stop(state, event)),
};

const reconnecting: Row<"RECONNECTING"> = {
  start: stay,
  connected: (state, { at }, limits) => [
    {
      ...common(state),
      name: "SYNCING",
      since: at,
      reconnects: state.reconnects + (state.lastProofAt === null ? 0 : 1),
      isProven: false,
      isSynced: false,
      proofDueAt: at + limits.staleAfterMs,
    },
    [{ type: "receive" }, { type: "sync" }, { type: "publish" }],
  ],
  connectFailed: (state, { at, fault, jitter }, limits) => fail(state, at, fault, jitter, limits),
  retryDue: stay,
  syncDone: stay,
  syncFailed: stay,
  // Of an earlier life: the present connect reports for itself.
  lost: stay,
  proof: stay,
  tick: (state, { at, jitter }, limits) =>
    at - state.since < limits.connectTimeoutMs ? stay(state) : fail(state, at, connectTimeout(limits), jitter, limits),
  // A connect that slept is dead, and nobody tells it.
  woke: connect,
  // Not here: containers come and go, and each would start the connect over.
  networkChanged: stay,
  reconnect: stay,
  stop,
};

const syncing: Row<"SYNCING"> = {
  start: stay,
  connected: stay,
  connectFailed: stay,
  retryDue: stay,
  syncDone: synced,
  syncFailed: synced,
  lost: (state, { at, fault, jitter }, limits) => fail(state, at, fault, jitter, limits),
  proof: (state, { at }, limits) =>
    settle({ ...state, isProven: true, lastProofAt: at, proofDueAt: at + limits.staleAfterMs }, at),
  tick(state, event, limits) {
    if (event.at >= state.proofDueAt) return fail(state, event.at, stalled, event.jitter, limits);
    return event.at - state.since >= limits.syncTimeoutMs ? synced(state, event) : stay(state);
  },
  woke: demandProof,
  networkChanged: demandProof,
  reconnect: connect,
  stop,
};

const connected: Row<"CONNECTED"> = {
  start: stay,
  connected: stay,
  connectFailed: stay,
  retryDue: stay,
  // A sync of its own backoff: nothing about the line.
  syncDone: stay,
  syncFailed: stay,
  lost: (state, { at, fault, jitter }, limits) => fail(calmed(state, at, limits), at, fault, jitter, limits),
  proof: (state, { at }, limits) => [{ ...state, lastProofAt: at, proofDueAt: at + limits.staleAfterMs }, nothing],
  tick: (state, { at, jitter }, limits) => {
    const calm = calmed(state, at, limits);
    return at >= state.proofDueAt ? fail(calm, at, stalled, jitter, limits) : stay(calm);
  },
  woke: demandProof,
  networkChanged: demandProof,
  reconnect: (state, event, limits) => connect(calmed(state, event.at, limits), event),
  stop,
};

const table: { readonly [N in StateName]: Row<N> } = {
  DISCONNECTED: disconnected,
  RECONNECTING: reconnecting,
  SYNCING: syncing,
  CONNECTED: connected,
};

/** The fields that every state has, and no other: a state never carries what belonged to the one before. */
const common = ({ attempt, lastProofAt, reconnects }: State) => ({ attempt, lastProofAt, reconnects });

function connect(state: State, { at }: Event): Step {
  return [{ ...common(state), name: "RECONNECTING", since: at }, [{ type: "connect" }, { type: "publish" }]];
}

function stop(state: State, { at }: Event): Step {
  const stopped: State = { ...common(state), name: "DISCONNECTED", since: at, fault: null, retryAt: null };
  return [stopped, [{ type: "disconnect" }, { type: "publish" }]];
}

function fail(state: State, at: Millis, fault: Fault, jitter: number, limits: Limits): Step {
  const attempt = state.attempt + 1;
  const down = { ...common(state), name: "DISCONNECTED", since: at, attempt, fault } as const;
  // Codes of class `never` speak of one message; should one end the line all the same, trying again is the harmless answer.
  if (errorTable[fault.code].retry === "person")
    return [{ ...down, retryAt: null }, [{ type: "disconnect" }, { type: "publish" }]];
  const ms = waitMs(fault, attempt, jitter, limits);
  return [{ ...down, retryAt: at + ms }, [{ type: "disconnect" }, { type: "wait", ms }, { type: "publish" }]];
}

function waitMs(fault: Fault, attempt: number, jitter: number, limits: Limits): Millis {
  const isProbe = limits.probeMs !== null && (fault.code === "signal_unreachable" || fault.code === "signal_timeout");
  return isProbe
    ? Math.max(limits.probeMs, serverMinimumMs(fault.retryAfterMs))
    : backoffMs({ attempt, jitter, retryAfterMs: fault.retryAfterMs }, limits.backoff);
}

/**
 * The wait is over, or something happened that makes a try worth while now. Our own backoff gives way to that; the server's
 * minimum does not. A clock that jumped back (`at` before `since`) cannot make it longer than it was.
 */
function retryIfAllowed(state: In<"DISCONNECTED">, event: On<"retryDue" | "woke" | "networkChanged">): Step {
  if (state.fault === null || state.retryAt === null) return stay(state);
  const remainingMs = state.since + serverMinimumMs(state.fault.retryAfterMs) - event.at;
  if (remainingMs <= 0 || event.at < state.since) return connect(state, event);
  return [{ ...state, retryAt: event.at + remainingMs }, [{ type: "wait", ms: remainingMs }, { type: "publish" }]];
}

/** `disconnect` ends the running wait too: what remains of it, never more than it was. */
const waitAgain = ({ retryAt, since }: In<"DISCONNECTED">, at: Millis): readonly Effect[] =>
  retryAt === null ? nothing : [{ type: "wait", ms: Math.max(0, retryAt - Math.max(at, since)) }];

function synced(state: In<"SYNCING">, { at }: Event): Step {
  return state.isSynced ? stay(state) : settle({ ...state, isSynced: true }, at);
}

/** From SYNCING to CONNECTED as soon as both are there: no word of CONNECTED on the strength of an answering port. */
function settle(state: In<"SYNCING">, at: Millis): Step {
  if (!state.isProven || !state.isSynced) return [state, nothing];
  return [
    { ...common(state), name: "CONNECTED", since: at, proofDueAt: state.proofDueAt },
    [{ type: "drainOutbox" }, { type: "publish" }],
  ];
}

/**
 * The line may be dead without knowing it: it gets a short time to show that it lives, rather than being torn down blindly. What
 * fell due while the machine slept is forgiven; a proof that is due sooner stays so, or a restless network would put it off.
 */
function demandProof(state: In<"SYNCING" | "CONNECTED">, event: Event, limits: Limits): Step {
  const soon = event.at + limits.wakeProofMs;
  const isForgiven = event.type === "woke" && state.proofDueAt <= event.at;
  return isForgiven || state.proofDueAt > soon ? [{ ...state, proofDueAt: soon }, nothing] : stay(state);
}

/** Forgets earlier failures once the line has held. */
function calmed(state: In<"CONNECTED">, at: Millis, limits: Limits): In<"CONNECTED"> {
  return state.attempt === 0 || at - state.since < limits.stableAfterMs ? state : { ...state, attempt: 0 };
}

const ownFault = (code: "stalled" | "signal_timeout", message: string): Fault => ({
  code,
  message,
  hint: errorRow(code).hint,
  retryAfterMs: null,
});
const stalled = ownFault("stalled", "Cannot trust the line to Signal as no proof of life came in time");
const connectTimeout = ({ connectTimeoutMs }: Limits): Fault =>
  ownFault("signal_timeout", `Cannot connect to Signal as it did not answer within ${connectTimeoutMs} ms`);

/** The table of invariants in the header, as asserts. @throws Error naming the broken one: a bug */
export function checkInvariants(state: State): void {
  const { attempt, reconnects, since, lastProofAt } = state;
  const isCount = (count: number): boolean => Number.isSafeInteger(count) && count >= 0;
  assert(isCount(attempt) && isCount(reconnects) && Number.isFinite(since), "counts: whole, not negative, finite");
  switch (state.name) {
    case "DISCONNECTED": {
      const isHalted = state.fault === null || errorTable[state.fault.code].retry === "person";
      assert((state.retryAt === null) === isHalted, "halted: no retryAt exactly where stopped or a person must help");
      assert(state.fault === null || attempt >= 1, "failed: a fault is a counted failure");
      assert(state.retryAt === null || state.retryAt >= since, "waiting: retryAt is not before since");
      return;
    }
    case "RECONNECTING":
      return;
    case "SYNCING":
      return assert(!(state.isProven && state.isSynced), "unfinished: proven and synced is CONNECTED");
    case "CONNECTED":
      return assert(lastProofAt !== null, "proven: CONNECTED has seen a proof of life");
  }
}
