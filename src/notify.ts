/**
 * Signal rings for nothing in Note to Self. Where a message of ours has stood there for a minute, and the owner has written nothing
 * since, a command of theirs is run, once until they write again. It gets no content: no argument, no input, no variable.
 */
import type { Clock } from "./clock.ts";
import type { Millis } from "./core/model.ts";
import type { Log } from "./log.ts";
import { runHelper } from "./projects/runner.ts";
import type { Transport } from "./signal/transport.ts";

const patienceMs: Millis = 60_000;
const commandMs: Millis = 60_000;

type Deps = { readonly clock: Clock; readonly log: Log; readonly signal: AbortSignal };

/** The transport, listened to. */
export function withNotify(transport: Transport, command: string, { clock, log, signal }: Deps): Transport {
  let waiting: AbortController | null = null;
  const ring = async (): Promise<void> => {
    const { code, ended } = await runHelper(command, [], commandMs, clock, signal);
    if (code !== 0 || ended !== null) log.warn("the notify command failed", { code, ended });
  };
  const stands = (): void => {
    if (waiting !== null) return;
    const seen = (waiting = new AbortController());
    const stop = AbortSignal.any([seen.signal, signal]);
    void clock.sleep(patienceMs, stop).then(() => (stop.aborted ? undefined : ring()));
  };
  const isSeen = (): void => {
    waiting?.abort();
    waiting = null;
  };
  return {
    ...transport,
    async receive(timeoutMs, stop) {
      const batch = await transport.receive(timeoutMs, stop);
      if (batch.envelopes.some(({ chat }) => chat?.kind === "self")) isSeen();
      return batch;
    },
    async send(message) {
      const outcome = await transport.send(message);
      if (message.chat.kind === "self" && message.body.kind === "text") stands();
      return outcome;
    },
  };
}
