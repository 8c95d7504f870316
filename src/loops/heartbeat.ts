/** What time alone sets off: ticks, housekeeping, and what a sleeping laptop or a new network changes. */
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { ConnectionLoop } from "./connection.ts";
import type { Bridge } from "./bridge.ts";

const tickMs: Millis = 1_000;
/** A gap this much larger than a tick means that the machine slept, or that somebody set the clock. */
const gapMs: Millis = 10_000;
const minuteMs: Millis = 60_000;
const hourMs: Millis = 3_600_000;
const dayMs: Millis = 24 * hourMs;

/**
 * Beats until `stop` aborts. `networkKey` tells one network from another; a change reconnects at once. Once a minute something is
 * written, so that a database which refuses it is known (`onStoreFault`) before the next message comes.
 */
export async function beat(
  {
    config,
    clock,
    log,
    store,
    networkKey,
  }: Pick<Bridge, "config" | "clock" | "log" | "store"> & { networkKey(): string },
  { dispatch }: ConnectionLoop,
  wakeAll: () => void,
  onStoreFault: (message: string | null) => void,
  stop: AbortSignal,
): Promise<void> {
  const prune = (): unknown => soon(log, () => store.prune(clock.now() - config.limits.retentionDays * dayMs));
  let last = clock.now();
  let minute = last;
  let hour = last;
  let network = networkKey();
  /** Waits are kept in wall time; with a full disk they are shortened at a later tick. */
  let isClockSet = false;
  const hasten = (): void => {
    store.hasten(clock.now(), config.approvalMinutes * minuteMs);
    isClockSet = false;
    wakeAll();
  };
  prune();
  for (;;) {
    await clock.sleep(tickMs, stop);
    if (stop.aborted) return;
    const now = clock.now();
    if (Math.abs(now - last - tickMs) > gapMs) {
      dispatch({ type: "woke" });
      isClockSet = true;
      wakeAll();
    }
    last = now;
    const key = networkKey();
    if (key !== network) dispatch({ type: "networkChanged" });
    network = key;
    if (Math.abs(now - minute) >= minuteMs) {
      minute = now;
      const keep = (): void => {
        store.forget(now);
        store.db.transaction(() => store.settings.set("alive_at", String(now)));
      };
      onStoreFault(soon(log, keep));
    }
    if (Math.abs(now - hour) >= hourMs) {
      hour = now;
      prune();
    }
    dispatch({ type: "tick" });
    if (isClockSet) soon(log, hasten);
  }
}

/** What the database refuses now is done the next time; returns why it does, null where it does not. */
export function soon(log: Log, work: () => unknown): string | null {
  try {
    work();
    return null;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn("housekeeping postponed", toFault(error));
    return error.message;
  }
}
