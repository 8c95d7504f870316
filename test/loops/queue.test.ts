/** The queue, in virtual time: who works, who waits, whose turn it is. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { BridgeError } from "../../src/core/errors.ts";
import { createQueue, untilWritten, type Queue, type QueueOptions } from "../../src/loops/queue.ts";
import type { Bridge } from "../../src/loops/bridge.ts";
import { createVirtualClock, type VirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";

let clock: VirtualClock;
let stop: AbortController;
let kill: AbortController;
let ended: Promise<unknown>;
/** Keys with open work, and the work that has begun and goes on until its step is over. */
let open: string[];
let begun: string[];
let steps: Map<string, PromiseWithResolvers<number | null>>;
let isOpen: boolean;
let looks: number;
let queue: Queue;

const settle = (): Promise<void> => clock.advance(0);

function start(more: Partial<QueueOptions> = {}): Queue {
  queue = createQueue(
    { clock, random: () => 0.5, log: quietLog },
    {
      name: "test",
      keys() {
        looks++;
        return open;
      },
      work(key) {
        begun.push(key);
        const step = Promise.withResolvers<number | null>();
        steps.set(key, step);
        return step.promise;
      },
      isOpen: () => isOpen,
      max: 2,
      ...more,
    },
  );
  ended = queue.run(stop.signal, kill.signal).catch((error: unknown) => error);
  return queue;
}
/** Ends a step of work; there is none of its key left, unless it is to be looked at again. */
async function finish(key: string, waitMs: number | null = null): Promise<void> {
  if (waitMs === null) open = open.filter((other) => other !== key);
  steps.get(key)?.resolve(waitMs);
  await settle();
}

beforeEach(() => {
  clock = createVirtualClock();
  stop = new AbortController();
  kill = new AbortController();
  [open, begun, steps, isOpen, looks] = [[], [], new Map(), true, 0];
});
afterEach(async () => {
  stop.abort();
  for (const step of steps.values()) step.resolve(null);
  await ended;
});

test("what was open before the start is worked on, in the order of its waiting", async () => {
  open = ["a", "b"];
  start();
  await settle();
  expect(begun).toEqual(["a", "b"]);
});

test("bounded: at most so many at once, and the first that ends makes room for the next", async () => {
  open = ["a", "b", "c"];
  start();
  await settle();
  expect([begun, queue.busyCount()]).toEqual([["a", "b"], 2]);
  await finish("b");
  expect(begun).toEqual(["a", "b", "c"]);
});

test("serial: a key that is woken while it is at work is worked on again afterwards, and not beside itself", async () => {
  open = ["a"];
  start();
  await settle();
  queue.wake("a");
  queue.wake("a");
  await settle();
  expect(begun).toEqual(["a"]);
  await finish("a");
  expect(begun).toEqual(["a", "a"]);
  await finish("a");
  expect(begun).toEqual(["a", "a"]);
});

test("fair: a key that always has more goes behind the others", async () => {
  start({ max: 1 });
  for (const key of ["a", "b", "c"]) queue.wake(key);
  await settle();
  for (const key of ["a", "b", "c", "a", "b"]) {
    queue.wake(key);
    await finish(key);
  }
  expect(begun).toEqual(["a", "b", "c", "a", "b", "c"]);
});

test("a wake without work costs one look, and no look is taken while all room is taken", async () => {
  open = ["a", "b"];
  start();
  await settle();
  const before = looks;
  for (let n = 0; n < 5; n++) queue.wake();
  await settle();
  expect(looks).toBe(before);
  open = ["b"];
  await finish("a");
  expect(looks).toBe(before + 1);
});

describe("rule 6: waits are memory, in monotonic time", () => {
  test("a key that waits is not woken early, and is worked on without a wake when its time has come", async () => {
    open = ["a"];
    start();
    await settle();
    await finish("a", 5_000);
    queue.wake("a");
    queue.wake();
    await clock.advance(4_999);
    expect(begun).toEqual(["a"]);
    await clock.advance(1);
    expect(begun).toEqual(["a", "a"]);
  });
  test("the others go on meanwhile", async () => {
    open = ["a"];
    start({ max: 1 });
    await settle();
    await finish("a", 60_000);
    queue.wake("b");
    await settle();
    expect(begun).toEqual(["a", "b"]);
  });
  test("whatever else wakes the queue, every key is looked at once a minute", async () => {
    start();
    await settle();
    // A wake that was missed: nothing says so.
    open = ["a"];
    for (let seconds = 0; seconds < 60; seconds += 20) {
      await queue.hold("other", () => Promise.resolve());
      await clock.advance(20_000);
    }
    expect(begun).toEqual(["a"]);
  });
  test("a restart tries early: nothing of a wait outlives the process", async () => {
    open = ["a"];
    start();
    await settle();
    await finish("a", 3_600_000);
    stop.abort();
    await ended;
    stop = new AbortController();
    start();
    await settle();
    expect(begun).toEqual(["a", "a"]);
  });
  test("a clock that is set changes nothing", async () => {
    open = ["a"];
    const { now } = clock;
    start();
    await settle();
    await finish("a", 5_000);
    clock.now = () => now() + 365 * 86_400_000;
    queue.wake();
    await clock.advance(4_999);
    expect(begun).toEqual(["a"]);
    clock.now = () => now() - 365 * 86_400_000;
    await clock.advance(1);
    expect(begun).toEqual(["a", "a"]);
  });
  test("hurry: no wait holds any more", async () => {
    open = ["a"];
    start();
    await settle();
    await finish("a", 3_600_000);
    queue.hurry();
    await settle();
    expect(begun).toEqual(["a", "a"]);
  });
  test("a wake that was missed does harm for a minute at most", async () => {
    start();
    await settle();
    open = ["a"];
    await clock.advance(59_999);
    expect(begun).toEqual([]);
    await clock.advance(1);
    expect(begun).toEqual(["a"]);
  });
});

describe("closed", () => {
  test("nothing new starts, and what was woken meanwhile starts when it opens", async () => {
    isOpen = false;
    open = ["a"];
    start();
    queue.wake("b");
    await settle();
    expect(begun).toEqual([]);
    isOpen = true;
    queue.wake();
    await settle();
    expect(begun.toSorted()).toEqual(["a", "b"]);
  });
  test("stopped: nothing new starts, what runs is waited for", async () => {
    open = ["a", "b"];
    start({ max: 1 });
    await settle();
    let isOver = false;
    void ended.then(() => (isOver = true));
    stop.abort();
    queue.wake("c");
    await settle();
    expect([begun, isOver]).toEqual([["a"], false]);
    await finish("a");
    expect([begun, isOver]).toEqual([["a"], true]);
  });
});

describe("hold", () => {
  test("other work of a key waits until the key is free, and the queue leaves it alone meanwhile", async () => {
    open = ["a"];
    start();
    await settle();
    const other = Promise.withResolvers<string>();
    const held = queue.hold("a", () => {
      begun.push("other");
      return other.promise;
    });
    queue.wake("a");
    await settle();
    expect(begun).toEqual(["a"]);
    open = [];
    steps.get("a")?.resolve(null);
    await settle();
    expect([begun, queue.isBusy("a")]).toEqual([["a", "other"], true]);
    other.resolve("done");
    await settle();
    expect(await held).toBe("done");
    // It was woken while it was held.
    expect(begun).toEqual(["a", "other", "a"]);
  });
  test("two wait for each other, whichever comes first", async () => {
    start();
    let atWork = 0;
    const work = async (): Promise<void> => {
      expect(++atWork).toBe(1);
      await clock.sleep(10);
      atWork--;
    };
    const all = Promise.all(Array.from({ length: 4 }, () => queue.hold("a", work)));
    await clock.advance(100);
    await all;
  });
  test("its fault is its caller's, and the queue goes on", async () => {
    start();
    expect(queue.hold("a", () => Promise.reject(new Error("mine")))).rejects.toThrow("mine");
    await settle();
    queue.wake("a");
    await settle();
    expect(begun).toEqual(["a"]);
  });
});

describe("when something fails", () => {
  const full = () => new BridgeError("database", "disk full");
  test("a fault below the work is tried again, after longer and longer waits, and the others go on", async () => {
    const times: number[] = [];
    start({
      work(key) {
        begun.push(key);
        if (key === "b") return Promise.resolve(null);
        times.push(clock.monotonic());
        return times.length < 6 ? Promise.reject(full()) : Promise.resolve(null);
      },
    });
    open = ["a", "b"];
    queue.wake();
    await settle();
    await clock.advance(120_000);
    const waits = times.slice(1).map((time, n) => time - (times[n] ?? 0));
    expect(waits.slice(0, 5)).toEqual([500, 1_000, 2_000, 4_000, 8_000]);
    expect(begun).toContain("b");
  });
  test("a success starts the waits over", async () => {
    const results = [full(), full(), null, full(), null];
    const times: number[] = [];
    start({
      work() {
        times.push(clock.monotonic());
        const result = results.shift() ?? null;
        return result === null ? Promise.resolve(null) : Promise.reject(result);
      },
    });
    for (let n = 0; n < 2; n++) {
      queue.wake("a");
      await settle();
      await clock.advance(10_000);
    }
    expect(times).toEqual([0, 500, 1_500, 10_000, 10_500]);
  });
  test("a database that cannot be read is read again", async () => {
    let fails = 1;
    open = ["a"];
    start({
      keys() {
        if (fails-- > 0) throw full();
        return open;
      },
    });
    await settle();
    expect(begun).toEqual([]);
    await clock.advance(60_000);
    expect(begun).toEqual(["a"]);
  });
  test("a bug of ours ends the queue, after what runs", async () => {
    open = ["b", "a"];
    let isOver = false;
    start({
      async work(key) {
        begun.push(key);
        if (key === "a") throw new TypeError("a bug");
        await clock.sleep(10);
        isOver = true;
        return null;
      },
    });
    await clock.advance(100);
    expect(await ended).toBeInstanceOf(TypeError);
    expect([begun, isOver]).toEqual([["b", "a"], true]);
  });
});

test("whatever is woken whenever: each key is worked on after its last wake, never beside itself, and never too many", async () => {
  const wakes = fc.array(fc.tuple(fc.constantFrom("a", "b", "c", "d"), fc.nat(300), fc.constantFrom(null, 50, 400)), {
    maxLength: 30,
  });
  await fc.assert(
    fc.asyncProperty(wakes, fc.integer({ min: 1, max: 3 }), async (plan, max) => {
      clock = createVirtualClock();
      stop = new AbortController();
      const atWork = new Set<string>();
      const lastStart = new Map<string, number>();
      const waitOf = new Map<string, number | null>();
      start({
        max,
        async work(key) {
          expect(atWork.has(key)).toBe(false);
          atWork.add(key);
          expect(atWork.size).toBeLessThanOrEqual(max);
          lastStart.set(key, clock.monotonic());
          await clock.sleep(120);
          atWork.delete(key);
          const waitMs = waitOf.get(key) ?? null;
          waitOf.set(key, null);
          return waitMs;
        },
      });
      const lastWake = new Map<string, number>();
      for (const [key, pauseMs, waitMs] of plan) {
        waitOf.set(key, waitMs);
        queue.wake(key);
        lastWake.set(key, clock.monotonic());
        await clock.advance(pauseMs);
      }
      await clock.advance(10_000);
      for (const [key, at] of lastWake) expect(lastStart.get(key)).toBeGreaterThanOrEqual(at);
      expect(queue.busyCount()).toBe(0);
      stop.abort();
      await ended;
    }),
    { numRuns: 60 },
  );
});

describe("untilWritten", () => {
  const bridge = (results: (string | Error)[]): Bridge =>
    ({
      clock,
      random: () => 0.5,
      log: quietLog,
      store: {
        db: {
          transaction(work: () => unknown) {
            const result = results.shift();
            if (result instanceof Error) throw result;
            return work();
          },
        },
      },
    }) as unknown as Bridge;
  const full = new BridgeError("database", "disk full");

  test("tries until it holds, and says that it does not, and that it does again", async () => {
    const said: (string | null)[] = [];
    const written = untilWritten(
      bridge([full, full, "ok"]),
      "test",
      stop.signal,
      () => 7,
      (fault) => void said.push(fault),
    );
    await clock.advance(5_000);
    expect(await written).toBe(7);
    expect(said).toEqual(["disk full", "disk full", null]);
  });
  test("gives up with the line: nothing is written then", async () => {
    const written = untilWritten(bridge(Array.from({ length: 99 }, () => full)), "test", stop.signal, () => 7);
    await clock.advance(5_000);
    stop.abort();
    expect(await written).toBeNull();
    ended = Promise.resolve();
  });
  test("a bug is no fault of the disk", () => {
    ended = Promise.resolve();
    expect(untilWritten(bridge([new TypeError("a bug")]), "test", stop.signal, () => 7)).rejects.toThrow("a bug");
  });
});
