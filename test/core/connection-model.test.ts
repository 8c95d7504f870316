/** Any events in any order: a small model says what must hold, next to the invariants that `machine` checks after each step. */
import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { defaultLimits, type Effect, type StateName } from "../../src/core/connection.ts";
import { errorTable, type ErrorCode } from "../../src/core/errors.ts";
import { events, fault, machine, type BareEvent, type Machine } from "./connection-cases.ts";

const codes = Object.keys(errorTable) as ErrorCode[];
const anyFault = fc
  .tuple(fc.constantFrom(...codes), fc.option(fc.nat(200_000), { nil: null, freq: 3 }))
  .map(([code, retryAfterMs]) => fault(code, retryAfterMs));
const jitter = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

const anyEvent: fc.Arbitrary<BareEvent> = fc.oneof(
  fc.constantFrom(
    events.start,
    events.connected,
    events.retryDue,
    events.syncDone,
    events.syncFailed,
    events.proof,
    events.networkChanged,
    events.reconnect,
    events.stop,
  ),
  fc.record({ type: fc.constantFrom("connectFailed" as const, "lost" as const), fault: anyFault, jitter }),
  fc.record({ type: fc.constant("tick" as const), jitter }),
  fc.record({ type: fc.constant("woke" as const), sleptMs: fc.constantFrom(0, 1_000, 3_600_000) }),
);
const passes = fc.oneof(fc.nat(2_000), fc.constantFrom(0, 30_000, 90_000, 3_600_000));

type Seen = { next: StateName; effects: Effect[]; before: StateName };

function run(line: Machine, event: BareEvent, ms: number): Seen {
  line.pass(ms);
  const before = line.state.name;
  line.effects();
  line.send(event);
  return { before, next: line.state.name, effects: line.effects() };
}

/** The arrows of the diagram. */
const arrows: Record<StateName, readonly StateName[]> = {
  DISCONNECTED: ["RECONNECTING"],
  RECONNECTING: ["SYNCING", "DISCONNECTED"],
  SYNCING: ["CONNECTED", "DISCONNECTED", "RECONNECTING"],
  CONNECTED: ["DISCONNECTED", "RECONNECTING"],
};

describe("any sequence of events", () => {
  test("keeps the invariants and the arrows of the diagram", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyEvent, passes), { maxLength: 60 }), (steps) => {
        const line = machine();
        line.send(events.start);
        for (const [event, ms] of steps) {
          const { before, next, effects } = run(line, event, ms);
          if (next !== before) expect(arrows[before]).toContain(next);
          const types = effects.map(({ type }) => type);
          if (next !== before) expect(types.at(-1)).toBe("publish");
          // One life has one receive loop and one sync: both start with SYNCING and nowhere else.
          expect(types.includes("receive")).toBe(before === "RECONNECTING" && next === "SYNCING");
          expect(types.includes("sync")).toBe(types.includes("receive"));
          expect(types.includes("drainOutbox")).toBe(before === "SYNCING" && next === "CONNECTED");
          if (types.includes("connect")) expect(next).toBe("RECONNECTING");
          // What left an open or opening line closes it.
          if (next === "DISCONNECTED" && before !== next) expect(types).toContain("disconnect");
        }
      }),
      { numRuns: 300 },
    );
  });

  test("never leaves a wait without its retry: a wait is either timed or needs a person", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyEvent, passes), { maxLength: 60 }), (steps) => {
        const line = machine();
        line.send(events.start);
        // What a shell would have running: a wait is replaced by the next, and ended by connect and disconnect.
        let timer: number | null = null;
        for (const [event, ms] of steps) {
          const { effects } = run(line, event, ms);
          for (const effect of effects) {
            if (effect.type === "wait") timer = line.now + effect.ms;
            if (effect.type === "connect" || effect.type === "disconnect") timer = null;
          }
          const { state } = line;
          expect(timer !== null).toBe(state.name === "DISCONNECTED" && state.retryAt !== null);
        }
      }),
      { numRuns: 300 },
    );
  });

  test("forgets failures only when CONNECTED has held", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyEvent, passes), { maxLength: 60 }), (steps) => {
        const line = machine();
        line.send(events.start);
        for (const [event, ms] of steps) {
          const { attempt, since } = line.state;
          const { before } = run(line, event, ms);
          if (line.state.attempt < attempt) {
            expect(before).toBe("CONNECTED");
            expect(line.now - since).toBeGreaterThanOrEqual(defaultLimits.stableAfterMs);
          }
        }
      }),
      { numRuns: 300 },
    );
  });

  test("comes up again from anywhere once the faults stop", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(anyEvent, passes), { maxLength: 40 }), (steps) => {
        const line = machine();
        line.send(events.start);
        for (const [event, ms] of steps) run(line, event, ms);
        // A person looks after it, the server answers: within one round it stands.
        line.send(events.start, events.reconnect);
        line.send(events.connected, events.proof, events.syncDone);
        expect(line.state.name).toBe("CONNECTED");
      }),
    );
  });
});
