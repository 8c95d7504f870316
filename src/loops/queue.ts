/**
 * Queues: serial work per key (a chat, a session), in parallel over keys up to a limit. The database holds the queue: `keys` lists
 * the keys with open work, `work` does the work of one and returns when to look again. Waits are kept in memory, in monotonic time: a
 * restart tries early, never late, and a clock that is set changes nothing.
 *
 *   wake(key) ─▶ not waiting, open, room left? ─▶ work ─▶ the key again, behind the others      a wait ─▶ sleep until it is over
 *   wake()    ─▶ keys: all of them
 */
import { backoffMs, isLogged } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Bridge } from "./bridge.ts";

export type QueueOptions = {
  readonly name: string;
  /** Keys with open work, those that have waited longest first. */
  readonly keys: () => readonly string[];
  /**
   * Does the work of a key; resolves to the wait before this key is looked at again, or null where only a wake makes it due.
   * A BridgeError means that the database failed: then the key is looked at again after a backoff of the queue's own.
   */
  readonly work: (key: string, kill: AbortSignal) => Promise<Millis | null>;
  /** Closed: nothing new starts; what runs goes on. A wake must follow when it opens. */
  readonly isOpen: () => boolean;
  /** Keys at work at the same time. */
  readonly max: number;
};

export interface Queue {
  /** Looks at this key, or at all, as there may be work. */
  wake(key?: string): void;
  isBusy(key: string): boolean;
  busyCount(): number;
  /** Does other work of this key as soon as it is not busy, while the queue leaves it alone. */
  hold<T>(key: string, work: () => Promise<T>): Promise<T>;
  /** Ends all waits. */
  hurry(): void;
  /**
   * Works until `stop` aborts (nothing new starts), then waits for what runs; `kill` is handed to the work.
   * Rejects only on a fault of our own.
   */
  run(stop: AbortSignal, kill: AbortSignal): Promise<void>;
}

/** All keys are looked at again after this time at the latest, which bounds the harm of a wake that was missed. */
const idleMs: Millis = 60_000;

type Base = Pick<Bridge, "clock" | "random" | "log">;

export function createQueue(bridge: Base, options: QueueOptions): Queue {
  const { clock } = bridge;
  // Work that ends makes room; its own key is in `ready` where it was woken meanwhile.
  const running = createOccupancy(() => alarm.abort());
  const waits = createWaits(bridge, options.name);
  /** Keys to be looked at, in the order of their turn. */
  const ready = new Set<string>();
  let isAllReady = true;
  let lookedAt = clock.monotonic();
  let alarm = new AbortController();
  const bugs: unknown[] = [];

  const wake = (key?: string): void => {
    if (key === undefined) isAllReady = true;
    else ready.add(key);
    alarm.abort();
  };
  const start = (key: string, kill: AbortSignal): void => {
    const task = options
      .work(key, kill)
      .then((waitMs) => waits.set(key, waitMs))
      .catch((error: unknown) => {
        if (error instanceof BridgeError) waits.failed(key, error);
        else bugs.push(error);
      });
    void running.occupy(key, task);
  };

  /** Starts what is due; resolves to how long to sleep. */
  const startDue = (kill: AbortSignal): Millis => {
    // With all room taken `keys` is not read: the first work that ends wakes the queue.
    if (!options.isOpen() || running.size() >= options.max) return idleMs;
    for (const key of waits.over()) if (!running.has(key)) ready.add(key);
    const now = clock.monotonic();
    if (isAllReady || now - lookedAt >= idleMs) {
      for (const key of options.keys()) ready.add(key);
      lookedAt = now;
    }
    isAllReady = false;
    for (const key of ready) {
      if (running.size() >= options.max) return idleMs;
      if (running.has(key)) continue;
      ready.delete(key);
      if (waits.isOver(key)) start(key, kill);
    }
    const nextMs = waits.nextMs((key) => !running.has(key));
    return Math.max(1, Math.min(idleMs, nextMs));
  };

  const beat = async (kill: AbortSignal): Promise<void> => {
    alarm = new AbortController();
    const { signal } = alarm;
    const sleepMs = attempt(bridge.log, `queue unreadable: ${options.name}`, () => startDue(kill));
    await clock.sleep(sleepMs ?? idleMs, signal);
    if (sleepMs === null) isAllReady = true;
  };

  return {
    wake,
    isBusy: running.has,
    busyCount: running.size,
    hold: running.hold,
    hurry() {
      waits.clear();
      wake();
    },
    run: async (stop, kill) => {
      stop.addEventListener("abort", () => wake());
      while (!stop.aborted && bugs.length === 0) await beat(kill);
      await running.ended();
      if (bugs.length > 0) throw bugs[0];
    },
  };
}

/** The keys at work, with one work at a time for each. */
function createOccupancy(onFree: () => void) {
  /** The last work of each occupied key: its end frees the key. */
  const running = new Map<string, Promise<unknown>>();
  const occupy = <T>(key: string, work: Promise<T>): Promise<T> => {
    const task: Promise<unknown> = work
      .catch(() => undefined)
      .finally(() => {
        if (running.get(key) === task) running.delete(key);
        onFree();
      });
    running.set(key, task);
    return work;
  };
  return {
    has: (key: string): boolean => running.has(key),
    size: (): number => running.size,
    occupy,
    /** Runs `work` right after what occupies the key: the key is never free in between, so that no other work of it begins before. */
    hold<T>(key: string, work: () => Promise<T>): Promise<T> {
      const before = running.get(key);
      return occupy(key, before === undefined ? work() : before.then(work));
    },
    ended: (): Promise<unknown> => Promise.all(running.values()),
  };
}

/** Returns what `work` returns, or null where the database refuses it now: the caller does it the next time. */
export function attempt<T>(log: Log, complaint: string, work: () => T, onFault: OnFault = () => undefined): T | null {
  try {
    const result = work();
    onFault(null);
    return result;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn(complaint, toFault(error));
    onFault(error.message);
    return null;
  }
}

/** Is called with the words of the database when it refuses a write, and with null as soon as a write works again. */
export type OnFault = (message: string | null) => void;

/** The waits of keys: none is looked at before its time, which is monotonic. */
function createWaits({ clock, random, log }: Base, loop: string) {
  const waiting = new Map<string, { readonly until: Millis; readonly attempt: number }>();
  const isOver = (key: string): boolean => (waiting.get(key)?.until ?? 0) <= clock.monotonic();
  return {
    isOver,
    over: (): string[] => [...waiting.keys()].filter(isOver),
    set(key: string, waitMs: Millis | null): void {
      if (waitMs === null) waiting.delete(key);
      else waiting.set(key, { until: clock.monotonic() + waitMs, attempt: 0 });
    },
    /** Sets a backoff for work that failed below its own retry (at the database, say). */
    failed(key: string, error: BridgeError): void {
      const attempt = (waiting.get(key)?.attempt ?? 0) + 1;
      const waitMs = backoffMs({ attempt, jitter: random(), retryAfterMs: error.retryAfterMs });
      waiting.set(key, { until: clock.monotonic() + waitMs, attempt });
      log[isLogged(attempt) ? "warn" : "debug"]("work postponed", { loop, ...toFault(error), waitMs });
    },
    nextMs(counts: (key: string) => boolean): Millis {
      let first = Infinity;
      for (const [key, { until }] of waiting) if (counts(key)) first = Math.min(first, until);
      return first - clock.monotonic();
    },
    clear: () => waiting.clear(),
  };
}

/**
 * Runs `work` in one transaction, again and again until it commits, so that a full disk makes no message be taken or sent twice.
 * Null where `signal` aborted first.
 */
export async function untilWritten<T>(
  { store, clock, random, log }: Bridge,
  loop: string,
  signal: AbortSignal,
  work: () => T,
  onFault: OnFault = () => undefined,
): Promise<T | null> {
  for (let attempt = 1; ; attempt++) {
    try {
      const result = store.db.transaction(work);
      if (attempt > 1) onFault(null);
      return result;
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      onFault(error.message);
      log.error("database not writable", { loop, ...toFault(error), attempt });
      if (!signal.aborted) await clock.sleep(backoffMs({ attempt, jitter: random(), retryAfterMs: null }), signal);
      if (signal.aborted) return null;
    }
  }
}
