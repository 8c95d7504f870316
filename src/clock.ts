/** Time and chance, injected everywhere: no other file in `src/` asks the machine for either. */
import { setImmediate, setTimeout } from "node:timers/promises";
import type { Millis } from "./core/model.ts";

/** Largest delay that `setTimeout` takes; above it fires at once (HTML standard, "timers": a 32-bit signed integer). */
const timeoutMaxMs = 2 ** 31 - 1;

export interface Clock {
  /** Wall time in Unix ms: only to show and to store. It may jump. */
  now(): Millis;
  /** Time in ms that never goes back: for waits and durations. */
  monotonic(): Millis;
  /**
   * Resolves after `ms` (≥ 0, capped at 2³¹−1) or as soon as `signal` aborts; with 0 when all that is ready has run. Never
   * rejects.
   */
  sleep(ms: Millis, signal?: AbortSignal): Promise<void>;
}

/** Ends when `ms` have passed, which sets `isLate`, or any of `signals` aborts; dispose of it when the bounded work is over. */
export function startDeadline(clock: Clock, ms: Millis, ...signals: readonly AbortSignal[]) {
  const [done, late] = [new AbortController(), new AbortController()];
  void clock.sleep(ms, done.signal).then(() => done.signal.aborted || late.abort());
  return {
    signal: AbortSignal.any([late.signal, ...signals]),
    isLate: () => late.signal.aborted,
    [Symbol.dispose]: () => done.abort(),
  };
}

/** A number in [0, 1). */
export type Random = () => number;

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  async sleep(ms, signal) {
    const bound = signal && { signal };
    await (ms <= 0 ? setImmediate(undefined, bound) : setTimeout(Math.min(ms, timeoutMaxMs), undefined, bound)).catch(
      () => undefined,
    );
  },
};

export const systemRandom: Random = () => Math.random();

/** The time zone of this machine, as an IANA name. */
export const localZone = (): string => Intl.DateTimeFormat().resolvedOptions().timeZone;
