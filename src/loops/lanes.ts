/**
 * Lanes: serial work per chat, in parallel over chats up to a limit. The queue is the database: `chats` names those with open
 * work, `head` the next item of one and when it is due, `work` does it and leaves the queue changed (done, or postponed).
 *
 *   wake(chat) ─▶ head ─▶ due, open, a lane free? ─▶ work ─▶ the chat again, behind the others      not due ─▶ sleep until it is
 *   wake()     ─▶ chats: all of them
 */
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Bridge, LaneName } from "./bridge.ts";

type Due = { readonly notBefore: Millis };

export type LaneOptions<Item extends Due> = {
  readonly name: LaneName;
  readonly chats: () => readonly string[];
  readonly head: (chatKey: string) => Item | null;
  readonly work: (item: Item, chatKey: string, kill: AbortSignal) => Promise<void>;
  /** Closed: nothing new starts; what runs goes on. Whoever opens it wakes it. */
  readonly isOpen: () => boolean;
  /** Lanes at work at the same time. */
  readonly max: number;
};

export interface Lanes {
  /** Something may be due now in this chat, or in any. */
  wake(chatKey?: string): void;
  isBusy(chatKey: string): boolean;
  busyCount(): number;
  /**
   * Works until `stop` aborts (nothing new starts), then waits for what runs; `kill` is handed to the work.
   * Rejects only on a fault of our own.
   */
  run(stop: AbortSignal, kill: AbortSignal): Promise<void>;
}

/** Longest sleep without a wake, after which every chat is looked at: bounds the harm of a wake that was missed. */
const idleMs = 60_000;

export function createLanes<Item extends Due>(bridge: Bridge, options: LaneOptions<Item>): Lanes {
  const { clock, log } = bridge;
  const running = new Map<string, Promise<void>>();
  const queue = createQueue(bridge, options, (chatKey) => running.has(chatKey));
  let alarm = new AbortController();
  const bugs: unknown[] = [];

  const wake = (chatKey?: string): void => {
    queue.add(chatKey);
    alarm.abort();
  };

  const start = (chatKey: string, item: Item, kill: AbortSignal): void => {
    const task = options
      .work(item, chatKey, kill)
      .then(() => queue.worked(chatKey))
      .catch((error: unknown) => {
        if (error instanceof BridgeError) queue.failed(chatKey, error);
        else bugs.push(error);
      })
      .finally(() => {
        running.delete(chatKey);
        wake(chatKey);
      });
    running.set(chatKey, task);
  };

  /** Starts what is due; returns how long to sleep. */
  const startDue = (kill: AbortSignal): Millis => {
    // With every lane taken the queue is not even looked at: the first that ends wakes.
    if (!options.isOpen() || running.size >= options.max) return idleMs;
    try {
      for (const [chatKey, item] of queue.due()) {
        start(chatKey, item, kill);
        if (running.size >= options.max) return idleMs;
      }
      return Math.min(idleMs, queue.nextMs());
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      queue.add();
      log.error("queue unreadable", { loop: options.name, ...toFault(error) });
      return idleMs;
    }
  };

  return {
    wake,
    isBusy: (chatKey) => running.has(chatKey),
    busyCount: () => running.size,
    async run(stop, kill) {
      stop.addEventListener("abort", () => wake());
      while (!stop.aborted && bugs.length === 0) {
        alarm = new AbortController();
        const { signal } = alarm;
        await clock.sleep(startDue(kill), signal);
        if (!signal.aborted) queue.add();
      }
      await Promise.all(running.values());
      if (bugs.length > 0) throw bugs[0];
    },
  };
}

/** Whose turn it is, and when: only what the database does not know. */
function createQueue<Item extends Due>(
  { clock, random, log }: Bridge,
  { chats, head, name }: LaneOptions<Item>,
  isBusy: (chatKey: string) => boolean,
) {
  /** Chats to be looked at, in the order of their turn. */
  const ready = new Set<string>();
  /** Chats whose next item is not due yet, with the time it is. */
  const later = new Map<string, Millis>();
  /** Chats whose work failed below its own retry (the database, say): not before this time, which is monotonic. */
  const cooling = new Map<string, { readonly until: Millis; readonly attempt: number }>();
  let isAllToBeSeen = true;
  return {
    add(chatKey?: string): void {
      if (chatKey === undefined) isAllToBeSeen = true;
      else ready.add(chatKey);
    },
    /** Each chat that is due, as it is asked for. */
    *due(): Generator<[string, Item]> {
      const now = clock.now();
      if (isAllToBeSeen) for (const chatKey of chats()) ready.add(chatKey);
      isAllToBeSeen = false;
      for (const [chatKey, at] of later) if (at <= now) ready.add(chatKey);
      for (const chatKey of ready) {
        if (isBusy(chatKey)) continue;
        const item = head(chatKey);
        ready.delete(chatKey);
        later.delete(chatKey);
        if (item === null) continue;
        const coolingMs = (cooling.get(chatKey)?.until ?? 0) - clock.monotonic();
        const waitMs = Math.max(item.notBefore - now, coolingMs);
        if (waitMs > 0) later.set(chatKey, now + waitMs);
        else yield [chatKey, item];
      }
    },
    nextMs: (): Millis => [...later.values()].reduce((first, at) => Math.min(first, at), Infinity) - clock.now(),
    worked: (chatKey: string): void => void cooling.delete(chatKey),
    failed(chatKey: string, error: BridgeError): void {
      const attempt = (cooling.get(chatKey)?.attempt ?? 0) + 1;
      const waitMs = backoffMs({ attempt, jitter: random(), retryAfterMs: error.retryAfterMs });
      cooling.set(chatKey, { until: clock.monotonic() + waitMs, attempt });
      log.warn("work postponed", { loop: name, ...toFault(error), waitMs });
    },
  };
}

/**
 * Writes in one transaction, and tries until it holds: what came in, or went out, must not be taken or said twice because the disk
 * is full. Null where `signal` aborted first. `onFault` hears why it does not hold, and null when it does again.
 */
export async function untilWritten<T>(
  { store, clock, random, log }: Bridge,
  loop: string,
  signal: AbortSignal,
  work: () => T,
  onFault: (message: string | null) => void = () => undefined,
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
