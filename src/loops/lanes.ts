/**
 * Lanes: serial work per chat, in parallel over chats up to a limit. The queue is the database: `heads` names the chats with
 * work and when it is due, `work` does one item of one chat and leaves the queue changed (done, or postponed).
 *
 *   wake ─▶ heads ─▶ due and free? ─▶ work ─▶ wake …        not due ─▶ sleep until the earliest
 */
import type { Clock, Random } from "../clock.ts";
import { backoffMs } from "../core/backoff.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Log } from "../log.ts";

export type LaneOptions = {
  readonly name: string;
  readonly heads: () => readonly { readonly chatKey: string; readonly notBefore: Millis }[];
  readonly work: (chatKey: string, signal: AbortSignal) => Promise<void>;
  /** Closed: nothing new starts; what runs goes on. */
  readonly isOpen: () => boolean;
  /** Lanes at work at the same time. */
  readonly max: number;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
};

export interface Lanes {
  /** Something may be due now. */
  wake(): void;
  isBusy(chatKey: string): boolean;
  busyCount(): number;
  /**
   * Works until `stop` aborts (nothing new starts), then waits for what runs; `kill` is handed to the work.
   * Rejects only on a fault of our own.
   */
  run(stop: AbortSignal, kill: AbortSignal): Promise<void>;
}

/** Longest sleep without a wake: bounds the harm of a wake that was missed or a clock that jumped. */
const idleMs = 60_000;

export function createLanes(options: LaneOptions): Lanes {
  const { clock } = options;
  const running = new Map<string, Promise<void>>();
  /** Chats whose work failed below its own retry (the database, say): not before this time, which is monotonic. */
  const cooling = new Map<string, { readonly until: Millis; readonly attempt: number }>();
  let alarm = new AbortController();
  const bugs: unknown[] = [];

  const wake = (): void => alarm.abort();

  const start = (chatKey: string, kill: AbortSignal): void => {
    const task = options
      .work(chatKey, kill)
      .then(() => void cooling.delete(chatKey))
      .catch((error: unknown) => cool(chatKey, error))
      .finally(() => {
        running.delete(chatKey);
        wake();
      });
    running.set(chatKey, task);
  };

  const cool = (chatKey: string, error: unknown): void => {
    if (!(error instanceof BridgeError)) {
      bugs.push(error);
      return;
    }
    const attempt = (cooling.get(chatKey)?.attempt ?? 0) + 1;
    const ms = backoffMs({ attempt, jitter: options.random(), retryAfterMs: error.retryAfterMs });
    cooling.set(chatKey, { until: clock.monotonic() + ms, attempt });
    options.log.warn("work postponed", { loop: options.name, code: error.code, error: error.message, waitMs: ms });
  };

  /** Starts what is due; returns how long to sleep. */
  const startDue = (kill: AbortSignal): Millis => {
    // With every lane taken the queue is not even looked at: the first that ends wakes.
    if (!options.isOpen() || running.size >= options.max) return idleMs;
    const now = clock.now();
    let sleepMs = idleMs;
    for (const { chatKey, notBefore } of safeHeads()) {
      if (running.has(chatKey)) continue;
      const coolingMs = (cooling.get(chatKey)?.until ?? 0) - clock.monotonic();
      const waitMs = Math.max(notBefore - now, coolingMs);
      if (waitMs > 0) sleepMs = Math.min(sleepMs, waitMs);
      else if (running.size < options.max) start(chatKey, kill);
    }
    return sleepMs;
  };

  const safeHeads = (): ReturnType<LaneOptions["heads"]> => {
    try {
      return options.heads();
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      options.log.error("queue unreadable", { loop: options.name, code: error.code, error: error.message });
      return [];
    }
  };

  return {
    wake,
    isBusy: (chatKey) => running.has(chatKey),
    busyCount: () => running.size,
    async run(stop, kill) {
      stop.addEventListener("abort", wake);
      while (!stop.aborted && bugs.length === 0) {
        alarm = new AbortController();
        const sleepMs = startDue(kill);
        await clock.sleep(sleepMs, alarm.signal);
      }
      await Promise.all(running.values());
      if (bugs.length > 0) throw bugs[0];
    },
  };
}
