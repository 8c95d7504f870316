/** The typing indicator: shown while Claude works, renewed, and ended for sure. */
import type { Clock } from "../clock.ts";
import type { Chat } from "../core/model.ts";
import type { Transport } from "../signal/transport.ts";

export type TypingDeps = {
  readonly transport: Transport;
  readonly clock: Clock;
  readonly isConnected: () => boolean;
};

/** A peer shows it for about 15 s. **Source:** signal/SIGNAL-CLI.md section 3.7. */
const renewMs = 10_000;

/** The end of the indicator is waited for, so that it is told before a stop; no longer than this. */
const endMs = 2_000;

/** Runs `work` with the indicator on as soon as it says that Claude has begun. A failing indicator never disturbs the work. */
export async function whileTyping<T>(
  deps: TypingDeps,
  chat: Chat,
  work: (onBegun: () => void) => Promise<T>,
): Promise<T> {
  if (!deps.transport.capabilities.typing) return work(() => undefined);
  const done = new AbortController();
  const show = async (isTyping: boolean): Promise<void> => {
    if (deps.isConnected()) await deps.transport.typing(chat, isTyping).catch(() => undefined);
  };
  let shown = Promise.resolve();
  const keep = async (): Promise<void> => {
    while (!done.signal.aborted) {
      await show(true);
      await deps.clock.sleep(renewMs, done.signal);
    }
    await show(false);
  };
  try {
    return await work(() => void (shown = keep()));
  } finally {
    done.abort();
    const over = new AbortController();
    await Promise.race([shown.finally(() => over.abort()), deps.clock.sleep(endMs, over.signal)]);
  }
}
