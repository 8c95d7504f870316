import { describe, expect, test } from "bun:test";
import {
  checkInvariants,
  defaultLimits,
  initialState,
  step,
  type Effect,
  type Event,
  type EventType,
  type State,
  type StateName,
} from "../../src/core/connection.ts";
import { connectFully, events, fault, machine, stateIn, t0 } from "./connection-cases.ts";

type Expected = readonly [next: StateName | "same", ...effects: Effect["type"][]];
/** DISCONNECTED is three: waiting to try again, halted until a person acts, stopped. */
type Sample = "stopped" | "halted" | "waiting" | "RECONNECTING" | "SYNCING" | "CONNECTED";

const common = { since: t0, attempt: 0, lastProofAt: null, reconnects: 0 } as const;
const samples: Record<Sample, State> = {
  stopped: initialState(t0),
  halted: { ...common, name: "DISCONNECTED", attempt: 1, fault: fault("unlinked"), retryAt: null },
  waiting: { ...common, name: "DISCONNECTED", attempt: 1, fault: fault("signal_unreachable"), retryAt: t0 + 500 },
  RECONNECTING: { ...common, name: "RECONNECTING" },
  SYNCING: { ...common, name: "SYNCING", lastProofAt: t0, isProven: true, isSynced: false, proofDueAt: t0 + 90_000 },
  CONNECTED: { ...common, name: "CONNECTED", lastProofAt: t0, proofDueAt: t0 + 90_000 },
};

const same: Expected = ["same"];
const toConnect: Expected = ["RECONNECTING", "connect", "publish"];
const toStop: Expected = ["DISCONNECTED", "disconnect", "publish"];
const toWait: Expected = ["DISCONNECTED", "disconnect", "wait", "publish"];
const toHangUp: Expected = ["same", "disconnect"];
const toSync: Expected = ["SYNCING", "receive", "sync", "publish"];
const toOpen: Expected = ["CONNECTED", "drainOutbox", "publish"];

/** One second after the sample state was entered; the columns are the samples in their order. The compiler refuses a missing row. */
const table: Record<EventType, readonly [Expected, Expected, Expected, Expected, Expected, Expected]> = {
  // stopped, halted, waiting, RECONNECTING, SYNCING, CONNECTED
  start: [toConnect, toConnect, same, same, same, same],
  connected: [toHangUp, toHangUp, ["same", "disconnect", "wait"], toSync, same, same],
  connectFailed: [same, same, same, toWait, same, same],
  retryDue: [same, same, toConnect, same, same, same],
  syncDone: [same, same, same, same, toOpen, same],
  syncFailed: [same, same, same, same, toOpen, same],
  lost: [same, same, same, same, toWait, toWait],
  proof: [same, same, same, same, ["SYNCING"], ["CONNECTED"]],
  tick: [same, same, same, same, same, same],
  woke: [same, same, toConnect, toConnect, ["SYNCING"], ["CONNECTED"]],
  networkChanged: [same, same, toConnect, same, ["SYNCING"], ["CONNECTED"]],
  reconnect: [same, toConnect, toConnect, same, toConnect, toConnect],
  stop: [same, toStop, toStop, toStop, toStop, toStop],
};

describe("the table of the connection", () => {
  for (const [type, row] of Object.entries(table) as [EventType, readonly Expected[]][])
    for (const [column, [name, sample]] of Object.entries(samples).entries()) {
      const [expected, ...effects] = row[column] ?? same;
      test(`${name} + ${type} → ${[expected, ...effects].join(" ")}`, () => {
        const before = Object.freeze(sample);
        const event = { ...events[type], at: t0 + 1_000 } as Event;
        const [after, made] = step(before, event, defaultLimits);
        checkInvariants(after);
        if (expected === "same") expect(after).toBe(before);
        else {
          expect(after).not.toBe(before);
          expect(after.name).toBe(expected);
        }
        expect(made.map((effect) => effect.type)).toEqual(effects);
        expect(step(before, event, defaultLimits)).toEqual([after, made]);
      });
    }
});

describe("coming up", () => {
  test("is CONNECTED after a proof of life and the sync, whichever comes first", () => {
    const proofFirst = machine();
    proofFirst.send(events.start, events.connected, events.proof);
    expect(proofFirst.state.name).toBe("SYNCING");
    expect(proofFirst.send(events.syncDone)).toEqual(["drainOutbox", "publish"]);
    expect(proofFirst.state.name).toBe("CONNECTED");

    const syncFirst = machine();
    syncFirst.send(events.start, events.connected, events.syncDone, events.syncDone);
    expect(syncFirst.state.name).toBe("SYNCING");
    expect(syncFirst.send(events.proof)).toEqual(["drainOutbox", "publish"]);
    expect(syncFirst.state.name).toBe("CONNECTED");
  });

  test("an outage of Claude does not take the Signal line down", () => {
    const line = machine();
    line.send(events.start, events.connected, events.proof, events.syncFailed);
    expect(line.state.name).toBe("CONNECTED");
  });

  test("a sync without end does not keep an open line closed", () => {
    const line = machine({ syncTimeoutMs: 60_000 });
    line.send(events.start, events.connected, events.proof);
    line.pass(59_999);
    line.send(events.tick);
    expect(line.state.name).toBe("SYNCING");
    line.pass(1);
    expect(line.send(events.tick)).toEqual(["drainOutbox", "publish"]);
    expect(line.send(events.syncDone)).toEqual([]);
    expect(line.state.name).toBe("CONNECTED");
  });

  test("a connect that takes too long fails as a time-out and is tried again", () => {
    const line = machine({ connectTimeoutMs: 10_000 });
    line.send(events.start);
    line.pass(9_999);
    expect(line.send(events.tick)).toEqual([]);
    line.pass(1);
    expect(line.send(events.tick)).toEqual(["disconnect", "wait", "publish"]);
    expect(stateIn(line, "DISCONNECTED").fault?.code).toBe("signal_timeout");
  });

  test("a connect that succeeds after it was given up is closed, and the wait goes on", () => {
    const line = machine({ connectTimeoutMs: 10_000 });
    line.send(events.start);
    line.pass(10_000);
    line.send({ type: "tick", jitter: 0.9 });
    line.effects();
    line.pass(400);
    line.send(events.connected);
    expect(line.effects()).toEqual([{ type: "disconnect" }, { type: "wait", ms: 500 }]);
  });
});

describe("going down", () => {
  test("waits longer with every failure, and counts them", () => {
    const line = machine();
    line.send(events.start);
    const waits: number[] = [];
    for (let failure = 1; failure <= 8; failure++) {
      line.send(events.connectFailed);
      const { retryAt, attempt } = stateIn(line, "DISCONNECTED");
      expect(attempt).toBe(failure);
      waits.push((retryAt ?? 0) - line.now);
      line.pass(waits.at(-1) ?? 0);
      line.send(events.retryDue);
    }
    expect(waits).toEqual([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
  });

  test("a flapping line does not reset the count, one that held does", () => {
    const line = machine();
    connectFully(line);
    for (let flap = 1; flap <= 3; flap++) {
      line.pass(29_999);
      line.send(events.proof, events.lost);
      expect(line.state.attempt).toBe(flap);
      line.send(events.retryDue, events.connected, events.proof, events.syncDone);
    }
    line.pass(30_000);
    line.send(events.tick);
    expect(line.state).toMatchObject({ name: "CONNECTED", attempt: 0 });
    line.send(events.lost);
    expect(line.state.attempt).toBe(1);
  });

  test("a line that held counts as such even if no tick came in between", () => {
    const line = machine();
    line.send(events.start, events.connectFailed, events.retryDue, events.connected, events.proof, events.syncDone);
    expect(line.state.attempt).toBe(1);
    line.pass(30_000);
    line.send(events.lost);
    expect(line.state.attempt).toBe(1);
  });

  test("no proof of life for staleAfterMs is stalled, in CONNECTED and in SYNCING", () => {
    for (const synced of [true, false]) {
      const line = machine();
      line.send(events.start, events.connected, events.proof);
      if (synced) line.send(events.syncDone);
      line.pass(60_000);
      line.send(events.proof);
      line.pass(89_999);
      line.send(events.tick);
      expect(line.state.name).toBe(synced ? "CONNECTED" : "SYNCING");
      line.pass(1);
      expect(line.send(events.tick)).toEqual(["disconnect", "wait", "publish"]);
      expect(stateIn(line, "DISCONNECTED").fault?.code).toBe("stalled");
    }
  });

  test("a line without any proof after connecting is stalled too", () => {
    const line = machine();
    line.send(events.start, events.connected, events.syncDone);
    line.pass(90_000);
    line.send(events.tick);
    expect(stateIn(line, "DISCONNECTED").fault?.code).toBe("stalled");
  });

  test("halts where only a person can help: no wait, no try by itself", () => {
    for (const code of [
      "unlinked",
      "outdated",
      "captcha",
      "rejected",
      "replaced",
      "json_rpc_mode",
      "not_linked",
    ] as const) {
      const line = machine({ probeMs: 1_000 });
      line.send(events.start);
      expect(line.send({ type: "connectFailed", fault: fault(code, 5_000), jitter: 0.5 })).toEqual([
        "disconnect",
        "publish",
      ]);
      expect(stateIn(line, "DISCONNECTED").retryAt).toBeNull();
      const halted = line.state;
      line.pass(10 * 86_400_000);
      expect(line.send(events.tick, events.woke, events.networkChanged, events.retryDue)).toEqual([]);
      expect(line.state).toBe(halted);
    }
  });

  test("a person's reconnect tries a halted line once", () => {
    const line = machine();
    line.send(events.start, { type: "connectFailed", fault: fault("captcha"), jitter: 0.5 });
    expect(line.send(events.reconnect)).toEqual(["connect", "publish"]);
    line.send({ type: "connectFailed", fault: fault("captcha"), jitter: 0.5 });
    expect(stateIn(line, "DISCONNECTED").retryAt).toBeNull();
  });

  test("already_receiving backs off rather than halting", () => {
    const line = machine({ probeMs: 1_000 });
    connectFully(line);
    line.send({ type: "lost", fault: fault("already_receiving"), jitter: 0.5 });
    expect(line.effects()).toContainEqual({ type: "wait", ms: 500 });
  });
});

describe("waiting", () => {
  test("on loopback a daemon that is not up is tried every second, however often", () => {
    const line = machine({ probeMs: 1_000 });
    line.send(events.start);
    for (let failure = 0; failure < 20; failure++) {
      const code = failure % 2 === 0 ? "signal_unreachable" : "signal_timeout";
      line.effects();
      line.send({ type: "connectFailed", fault: fault(code), jitter: 0.99 });
      expect(line.effects()).toContainEqual({ type: "wait", ms: 1_000 });
      line.pass(1_000);
      line.send(events.retryDue);
    }
  });

  test("neither probe nor backoff undercuts the server's Retry-After", () => {
    for (const probeMs of [1_000, null]) {
      const line = machine({ probeMs });
      line.send(events.start, { type: "connectFailed", fault: fault("signal_unreachable", 120_000), jitter: 0 });
      expect(stateIn(line, "DISCONNECTED").retryAt).toBe(t0 + 120_000);
    }
  });

  test("waking up skips our backoff, but not what the server asked for", () => {
    const line = machine();
    line.send(events.start, { type: "connectFailed", fault: fault("signal_rate_limited", 60_000), jitter: 0.5 });
    line.effects();
    line.pass(20_000);
    line.send(events.woke);
    expect(line.effects()).toEqual([{ type: "wait", ms: 40_000 }, { type: "publish" }]);
    expect(stateIn(line, "DISCONNECTED").retryAt).toBe(t0 + 60_000);
    line.pass(40_000);
    expect(line.send(events.retryDue)).toEqual(["connect", "publish"]);
  });

  test("a person's reconnect skips even that", () => {
    const line = machine();
    line.send(events.start, { type: "connectFailed", fault: fault("signal_rate_limited", 60_000), jitter: 0.5 });
    expect(line.send(events.reconnect)).toEqual(["connect", "publish"]);
  });

  test("a clock that was set back does not make the wait longer", () => {
    const line = machine();
    line.send(events.start, { type: "connectFailed", fault: fault("signal_rate_limited", 60_000), jitter: 0.5 });
    line.pass(-3_600_000);
    expect(line.send(events.retryDue)).toEqual(["connect", "publish"]);
  });
});

describe("waking up with an open line", () => {
  const asleep = 8 * 3_600_000;
  const woke = { ...events.woke, sleptMs: asleep };

  test("demands a fresh proof soon instead of tearing the line down", () => {
    const line = machine();
    connectFully(line);
    line.pass(asleep);
    expect(line.send(woke, events.tick)).toEqual([]);
    expect(line.state.name).toBe("CONNECTED");
    line.pass(defaultLimits.wakeProofMs - 1);
    line.send(events.proof);
    line.pass(60_000);
    line.send(events.tick);
    expect(line.state.name).toBe("CONNECTED");
  });

  test("without that proof the line is stalled", () => {
    const line = machine();
    connectFully(line);
    line.pass(asleep);
    line.send(woke);
    line.pass(defaultLimits.wakeProofMs);
    line.send(events.tick);
    expect(stateIn(line, "DISCONNECTED").fault?.code).toBe("stalled");
  });

  test.each([asleep, 0])(
    "a machine that sleeps again and again (%d ms by our clock) does not put the proof off",
    (sleptMs) => {
      const line = machine();
      connectFully(line);
      for (let awakeMs = 0; awakeMs < 10_000 + defaultLimits.wakeProofMs; awakeMs += 10_000) {
        expect(line.state.name).toBe("CONNECTED");
        line.pass(10_000 + sleptMs);
        line.send({ ...events.woke, sleptMs }, events.tick);
      }
      expect(stateIn(line, "DISCONNECTED").fault?.code).toBe("stalled");
    },
  );

  test("a network that changes all the time does not put the proof off", () => {
    const line = machine();
    connectFully(line);
    for (let change = 0; change < 24; change++) {
      line.send(events.networkChanged, events.tick);
      expect(line.state.name).toBe("CONNECTED");
      line.pass(1_000);
    }
    line.pass(1_000);
    line.send(events.networkChanged, events.tick);
    expect(line.state.name).toBe("DISCONNECTED");
  });

  test("a connect that slept starts over", () => {
    const line = machine();
    line.send(events.start);
    line.pass(asleep);
    expect(line.send(events.woke)).toEqual(["connect", "publish"]);
    line.pass(1);
    expect(line.send(events.tick)).toEqual([]);
  });
});

describe("what a person sees", () => {
  test("counts how often the line came back, not the first time", () => {
    const line = machine();
    connectFully(line);
    expect(line.state.reconnects).toBe(0);
    line.send(events.lost, events.retryDue, events.connectFailed, events.retryDue, events.connected);
    expect(line.state.reconnects).toBe(1);
    line.send(events.proof, events.syncDone, events.reconnect, events.connected);
    expect(line.state.reconnects).toBe(2);
  });

  test("remembers the last proof of life across states", () => {
    const line = machine();
    connectFully(line);
    line.pass(5_000);
    line.send(events.lost, events.retryDue);
    expect(line.state).toMatchObject({ name: "RECONNECTING", since: t0 + 5_000, lastProofAt: t0 });
  });

  test("a stopped line stays stopped until it is started", () => {
    const line = machine();
    connectFully(line);
    expect(line.send(events.stop)).toEqual(["disconnect", "publish"]);
    line.pass(86_400_000);
    expect(line.send(events.retryDue, events.woke, events.networkChanged, events.reconnect, events.tick)).toEqual([]);
    expect(line.state).toMatchObject({ name: "DISCONNECTED", fault: null, retryAt: null });
    expect(line.send(events.start)).toEqual(["connect", "publish"]);
  });
});

describe("the invariants", () => {
  const broken: Record<string, State> = {
    counts: { ...common, name: "RECONNECTING", attempt: -1 },
    halted: { ...common, name: "DISCONNECTED", attempt: 1, fault: fault("unlinked"), retryAt: t0 },
    failed: { ...common, name: "DISCONNECTED", fault: fault("stalled"), retryAt: t0 + 1 },
    waiting: { ...common, name: "DISCONNECTED", attempt: 1, fault: fault("stalled"), retryAt: t0 - 1 },
    unfinished: { ...common, name: "SYNCING", lastProofAt: t0, isProven: true, isSynced: true, proofDueAt: t0 },
    proven: { ...common, name: "CONNECTED", proofDueAt: t0 },
  };
  for (const [name, state] of Object.entries(broken))
    test(`${name} is noticed when broken`, () =>
      expect(() => checkInvariants(state)).toThrow(`Invariant broken: ${name}`));

  test("every sample of the table keeps them", () => {
    for (const state of Object.values(samples)) expect(() => checkInvariants(state)).not.toThrow();
  });
});
