/** A clock that moves only when told: every wait is a timer in a queue, so that a run is a pure function of its seed. */
import type { Clock, Random } from "../../src/clock.ts";

export interface VirtualClock extends Clock {
  /** Fires the earliest timer, moving time to it; false when there is none before `until`. */
  next(until: number): boolean;
  /** Moves time without firing anything (the machine sleeps); `wallOnly`: somebody set the clock. */
  jump(ms: number, wallOnly?: boolean): void;
  /** Waits that have not ended. */
  timerCount(): number;
}

export function createVirtualClock(startMs = Date.UTC(2026, 10, 23, 12)): VirtualClock {
  let wall = startMs;
  let monotonic = 0;
  let order = 0;
  const timers = new Map<number, { at: number; fire: () => void }>();
  return {
    now: () => wall,
    monotonic: () => monotonic,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve();
        const id = order++;
        const fire = (): void => {
          timers.delete(id);
          signal?.removeEventListener("abort", fire);
          resolve();
        };
        timers.set(id, { at: monotonic + Math.max(0, ms), fire });
        signal?.addEventListener("abort", fire, { once: true });
      }),
    next(until) {
      let first: { at: number; fire: () => void } | null = null;
      for (const timer of timers.values()) if (first === null || timer.at < first.at) first = timer;
      if (first === null || first.at > until) return false;
      const step = Math.max(0, first.at - monotonic);
      wall += step;
      monotonic += step;
      first.fire();
      return true;
    },
    jump(ms, wallOnly = false) {
      wall += ms;
      if (!wallOnly) monotonic += ms;
    },
    timerCount: () => timers.size,
  };
}

/** Lets every promise that can settle without a timer settle: a macrotask, so that all microtasks have run. */
export async function boundary(): Promise<void> {
  await new Promise<void>((resolve) => setImmediate(resolve));
}

/** Runs virtual time until `isDone`, at most `ms`; true when it was reached. */
export async function runUntil(clock: VirtualClock, isDone: () => boolean, ms: number): Promise<boolean> {
  const until = clock.monotonic() + ms;
  for (;;) {
    await boundary();
    if (isDone()) return true;
    if (!clock.next(until)) return isDone();
  }
}

/** A small seeded generator (mulberry32): same seed, same numbers. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export type Dice = {
  readonly random: Random;
  /** A whole number from 0 to n − 1. */
  below(n: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Spread evenly over the orders of magnitude from `low` to `high`. */
  between(low: number, high: number): number;
};

/** Draws of one stream; `salt` keeps the streams of one seed apart, so that a draw more in one does not shift the others. */
export function createDice(seed: number, salt: number): Dice {
  const random = seeded(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(salt, 0x85ebca6b));
  const below = (n: number): number => Math.floor(random() * n);
  return {
    random,
    below,
    chance: (probability) => random() < probability,
    pick<T>(items: readonly T[]): T {
      if (items.length === 0) throw new Error("Nothing to pick from");
      return items[below(items.length)] as T;
    },
    between: (low, high) => Math.exp(Math.log(low) + random() * (Math.log(high) - Math.log(low))),
  };
}
