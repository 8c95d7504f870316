/** A clock that moves only when told: every wait is a timer in a queue, so that a run is a pure function of its seed. */
import type { Clock } from "../../src/clock.ts";

export interface VirtualClock extends Clock {
  /** Fires the earliest timer, moving time to it; false when there is none before `until`. */
  next(until: number): boolean;
  /** Moves time without firing anything (the machine sleeps); `wallOnly`: a person set the clock. */
  jump(ms: number, wallOnly?: boolean): void;
  /** Fires what is due within `ms`, in the order of its times; what each sets off runs out before the next. */
  advance(ms: number): Promise<void>;
  /** Waits, while real I/O goes on, until there is a timer within `ms`; then advances by it. */
  step(ms: number): Promise<void>;
  /** Waits that have not ended. */
  timerCount(): number;
}

export function createVirtualClock(startMs = Date.UTC(2026, 10, 23, 12)): VirtualClock {
  let wall = startMs;
  let monotonic = 0;
  let order = 0;
  const timers = new Map<number, { at: number; fire: () => void }>();
  const isDueWithin = (ms: number): boolean => [...timers.values()].some(({ at }) => at <= monotonic + ms);
  const clock: VirtualClock = {
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
    async advance(ms) {
      const until = monotonic + ms;
      while (clock.next(until)) await boundary();
      clock.jump(until - monotonic);
      await boundary();
    },
    async step(ms) {
      while (!isDueWithin(ms)) await boundary();
      await clock.advance(ms);
    },
    timerCount: () => timers.size,
  };
  return clock;
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
