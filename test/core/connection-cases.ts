/** Sample states, events and the two drivers that the connection tests share. */
import {
  checkInvariants,
  defaultLimits,
  initialState,
  step,
  type Effect,
  type Event,
  type EventType,
  type Limits,
  type State,
  type StateName,
} from "../../src/core/connection.ts";
import { errorRow, type ErrorCode, type Fault } from "../../src/core/errors.ts";

export const t0 = 1_750_000_000_000;

export const fault = (code: ErrorCode, retryAfterMs: number | null = null): Fault => ({
  code,
  message: `Cannot go on as of ${code}`,
  hint: errorRow(code).hint,
  retryAfterMs,
});

/** Omit that keeps a union a union. */
export type Bare<E> = E extends Event ? Omit<E, "at"> : never;
export type BareEvent = Bare<Event>;

export const events: { readonly [T in EventType]: Extract<BareEvent, { type: T }> } = {
  start: { type: "start" },
  connected: { type: "connected" },
  connectFailed: { type: "connectFailed", fault: fault("signal_unreachable"), jitter: 0.5 },
  retryDue: { type: "retryDue" },
  syncDone: { type: "syncDone" },
  syncFailed: { type: "syncFailed", fault: fault("claude_unreachable") },
  lost: { type: "lost", fault: fault("signal_unreachable"), jitter: 0.5 },
  proof: { type: "proof" },
  tick: { type: "tick", jitter: 0.5 },
  woke: { type: "woke", sleptMs: 0 },
  networkChanged: { type: "networkChanged" },
  reconnect: { type: "reconnect" },
  stop: { type: "stop" },
};

/** The machine with a clock: what the shell does, less the effects. */
export function machine(limits: Partial<Limits> = {}) {
  const all = { ...defaultLimits, ...limits };
  let now = t0;
  let state = initialState(now);
  const effects: Effect[] = [];
  return {
    get state(): State {
      return state;
    },
    get now(): number {
      return now;
    },
    /** Effects since the last call. */
    effects: (): Effect[] => effects.splice(0),
    pass(ms: number): void {
      now += ms;
    },
    /** Sends events in order, and says what they made happen. */
    send(...sent: readonly BareEvent[]): string[] {
      const types: string[] = [];
      for (const event of sent) {
        const [next, made] = step(state, { ...event, at: now }, all);
        checkInvariants(next);
        state = next;
        effects.push(...made);
        types.push(...made.map(({ type }) => type));
      }
      return types;
    },
  };
}

export type Machine = ReturnType<typeof machine>;

/** Through to CONNECTED. */
export function connectFully(machine: Machine): void {
  machine.send(events.start, events.connected, events.proof, events.syncDone);
}

/** The state where it is, narrowed. */
export function stateIn<N extends StateName>(machine: Machine, name: N): Extract<State, { name: N }> {
  if (machine.state.name !== name) throw new Error(`expected ${name}, is ${machine.state.name}`);
  return machine.state as Extract<State, { name: N }>;
}
