/**
 * The receiving half that `signal-cli` and `rest` share. Both daemons acknowledge to Signal before we have seen anything, so
 * whatever is dropped here is gone for good. Hence two rules:
 *
 * - A poll is never cut. It outlives the `receive` that began it, and the next `receive`, after a reconnect if need be, takes
 *   what it brings.
 * - What was handed out is kept until its commit, and handed out again if that failed.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Envelope, Millis } from "../core/model.ts";
import type { Batch } from "./transport.ts";

export type Polled = { readonly envelopes: readonly Envelope[]; readonly isProof: boolean };

export type PollingOptions = {
  readonly clock: Clock;
  /** One poll; it looks at `stop` only where nothing can be lost by it. Rejects with BridgeError. */
  readonly poll: (timeoutMs: Millis, stop: AbortSignal) => Promise<Polled>;
  /** How much longer than its time-out `receive` waits for a poll. */
  readonly graceMs: Millis;
  /** How much longer than its time-out `settle` waits for a poll. */
  readonly settleMs: Millis;
};

export type Polling = {
  /** @throws BridgeError `signal_timeout` when the poll takes too long: it stays in the air; else what the poll throws */
  receive(timeoutMs: Millis, signal: AbortSignal): Promise<Batch>;
  ack(batch: Batch, isCommitted: boolean): void;
  /** Resolves when no poll is in the air, or the running one is overdue; a waiting `receive` ends with it. */
  settle(): Promise<void>;
};

type Landing = { readonly polled: Polled } | { readonly error: unknown };

export function createPolling(options: PollingOptions): Polling {
  const { clock } = options;
  let flight: { readonly landing: Promise<Landing>; readonly dueAt: Millis } | null = null;
  let isAwaited = false;
  let handedOut: Batch | null = null;
  let settling = new AbortController();
  let givingUp = new AbortController();

  function takeOff(timeoutMs: Millis, signal: AbortSignal) {
    const stop = AbortSignal.any([signal, settling.signal]);
    const landing = options.poll(timeoutMs, stop).then(
      (polled): Landing => ({ polled }),
      (error: unknown): Landing => {
        // A failure that nobody waits for is yesterday's: the next receive asks anew.
        if (!isAwaited) flight = null;
        return { error };
      },
    );
    return { landing, dueAt: clock.monotonic() + timeoutMs + options.settleMs };
  }

  return {
    async receive(timeoutMs, signal) {
      if (handedOut !== null) return handedOut;
      isAwaited = true;
      try {
        flight ??= takeOff(timeoutMs, signal);
        const landing = await within(clock, flight.landing, timeoutMs + options.graceMs, givingUp.signal);
        if (landing === null)
          throw new BridgeError("signal_timeout", "Cannot receive as the daemon is still busy with the last poll");
        flight = null;
        if ("error" in landing) throw landing.error;
        const { envelopes, isProof } = landing.polled;
        const batch: Batch = { envelopes, isProof, persist: null };
        if (envelopes.length > 0) handedOut = { ...batch, isProof: false };
        return batch;
      } finally {
        isAwaited = false;
      }
    },
    ack(_batch, isCommitted) {
      if (isCommitted) handedOut = null;
    },
    async settle() {
      settling.abort();
      const leftMs = flight === null ? 0 : flight.dueAt - clock.monotonic();
      if (flight !== null && leftMs > 0) await within(clock, flight.landing, leftMs);
      givingUp.abort();
      settling = new AbortController();
      givingUp = new AbortController();
    },
  };
}

/** What the promise resolves to, or null after `ms` or as soon as `signal` aborts. */
async function within<T>(clock: Clock, promise: Promise<T>, ms: Millis, signal?: AbortSignal): Promise<T | null> {
  const done = new AbortController();
  const stop = signal ? AbortSignal.any([signal, done.signal]) : done.signal;
  try {
    return await Promise.race([promise, clock.sleep(ms, stop).then(() => null)]);
  } finally {
    done.abort();
  }
}
