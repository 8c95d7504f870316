/** Tells systemd that the daemon is ready, and again and again that it is in health; without $NOTIFY_SOCKET it does nothing. */
import { herePlace, type Exec } from "./service.ts";
import type { Io } from "./io.ts";

/**
 * Runs until `signal` aborts. A daemon that is not in health says nothing, and is started anew by systemd.
 * **Source:** sd_notify(3), sd_watchdog_enabled(3): half of WATCHDOG_USEC is the pace they ask for.
 */
export async function keepWatch(
  io: Pick<Io, "env" | "clock">,
  health: () => string | null,
  signal: AbortSignal,
  exec: Exec = herePlace().exec,
): Promise<void> {
  if (!io.env["NOTIFY_SOCKET"]) return;
  await exec("systemd-notify", "--ready");
  const periodMs = Number(io.env["WATCHDOG_USEC"] ?? 0) / 2000;
  while (periodMs > 0 && !signal.aborted) {
    if (health() === null) await exec("systemd-notify", "WATCHDOG=1");
    await io.clock.sleep(periodMs, signal);
  }
}
