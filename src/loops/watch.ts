/** The heartbeat: ticks, and notices what a sleeping laptop or a new network changes. */
import type { Clock } from "../clock.ts";
import type { Millis } from "../core/model.ts";

export type WatchDeps = {
  readonly clock: Clock;
  readonly networkKey: () => string;
  readonly onTick: () => void;
  readonly onWoke: () => void;
  readonly onNetworkChange: () => void;
  readonly onMinute: () => void;
  readonly onHour: () => void;
};

const tickMs: Millis = 1_000;
/** A gap this much larger than a tick means that the machine slept, or that somebody set the clock. */
const gapMs: Millis = 10_000;
const minuteMs: Millis = 60_000;
const hourMs: Millis = 3_600_000;

export function createWatch(deps: WatchDeps): { run(stop: AbortSignal): Promise<void> } {
  return {
    async run(stop) {
      const { clock } = deps;
      let last = clock.now();
      let hour = last;
      let minute = last;
      let network = deps.networkKey();
      deps.onHour();
      while (!stop.aborted) {
        await clock.sleep(tickMs, stop);
        if (stop.aborted) return;
        const now = clock.now();
        if (Math.abs(now - last - tickMs) > gapMs) deps.onWoke();
        last = now;
        const key = deps.networkKey();
        if (key !== network) deps.onNetworkChange();
        network = key;
        if (Math.abs(now - minute) >= minuteMs) {
          minute = now;
          deps.onMinute();
        }
        if (Math.abs(now - hour) >= hourMs) {
          hour = now;
          deps.onHour();
        }
        deps.onTick();
      }
    },
  };
}
