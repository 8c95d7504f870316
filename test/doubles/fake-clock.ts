/** A clock that stands still until it is told to move. */
import type { Clock } from "../../src/clock.ts";
import type { Millis } from "../../src/core/model.ts";

export type FakeClock = Clock & {
  /** Moves on and wakes, in the order of their times, whoever is due; each wake-up runs out before the next. */
  advance(ms: Millis): Promise<void>;
  /** How many sleep. */
  sleepers(): number;
  /** Waits, while real I/O goes on, until somebody sleeps for at most `ms`; then moves on by it. */
  step(ms: Millis): Promise<void>;
};

export function createFakeClock(startAt: Millis = 1_786_953_600_000): FakeClock {
  let elapsedMs = 0;
  let sleeping: { readonly wakeAt: Millis; readonly wake: () => void }[] = [];
  const clock: FakeClock = {
    now: () => startAt + elapsedMs,
    monotonic: () => elapsedMs,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) return resolve();
        const sleeper = {
          wakeAt: elapsedMs + Math.max(0, ms),
          wake() {
            sleeping = sleeping.filter((other) => other !== sleeper);
            signal?.removeEventListener("abort", sleeper.wake);
            resolve();
          },
        };
        signal?.addEventListener("abort", sleeper.wake, { once: true });
        sleeping.push(sleeper);
      }),
    async advance(ms) {
      const endAt = elapsedMs + ms;
      for (;;) {
        const next = sleeping.filter(({ wakeAt }) => wakeAt <= endAt).sort((a, b) => a.wakeAt - b.wakeAt)[0];
        if (!next) break;
        elapsedMs = Math.max(elapsedMs, next.wakeAt);
        next.wake();
        await new Promise((resolve) => setImmediate(resolve));
      }
      elapsedMs = endAt;
      await new Promise((resolve) => setImmediate(resolve));
    },
    sleepers: () => sleeping.length,
    async step(ms) {
      while (!sleeping.some(({ wakeAt }) => wakeAt <= elapsedMs + ms))
        await new Promise((resolve) => setImmediate(resolve));
      await clock.advance(ms);
    },
  };
  return clock;
}
