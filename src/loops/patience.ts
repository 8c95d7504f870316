/** What a person waits for in the chat ends within seconds, whatever it asks of Claude. */
import type { Clock } from "../clock.ts";
import type { Millis } from "../core/model.ts";

/** For one request in the course of a command. */
export const commandMs: Millis = 5_000;

/** Runs `work` with a signal that aborts with `outer`, and after `ms`: what the work makes of that is its own. */
export async function within<T>(
  clock: Clock,
  ms: Millis,
  outer: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const [late, done] = [new AbortController(), new AbortController()];
  void clock.sleep(ms, done.signal).then(() => late.abort());
  try {
    return await work(AbortSignal.any([outer, late.signal]));
  } finally {
    done.abort();
  }
}
