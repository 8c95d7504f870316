/** Tells systemd that the daemon is ready, and again and again that its loop turns; without $NOTIFY_SOCKET it does nothing. */
import type { Io } from "./io.ts";
import { herePlace, type Exec } from "./service.ts";

/**
 * Runs until `signal` aborts. A line that is down, or a full disk, is no reason to start anew: only a program that is stuck
 * says nothing. **Source:** sd_notify(3), sd_watchdog_enabled(3): half of WATCHDOG_USEC is the pace they ask for.
 */
export async function keepWatch(
  { env, clock }: Pick<Io, "env" | "clock">,
  signal: AbortSignal,
  exec: Exec = herePlace().exec,
): Promise<void> {
  if (!env["NOTIFY_SOCKET"]) return;
  await exec("systemd-notify", "--ready");
  const periodMs = Number(env["WATCHDOG_USEC"] ?? 0) / 2000;
  if (periodMs === 0) return;
  while (!signal.aborted) {
    await exec("systemd-notify", "WATCHDOG=1");
    await clock.sleep(periodMs, signal);
  }
}
