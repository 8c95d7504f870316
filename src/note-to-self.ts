/**
 * `mark` and `notify`, for Note to Self. Claude's messages stand among one's own there, on the same side and in one colour: `mark` before
 * them tells them apart. Signal rings for nothing there: where a message of ours has stood for a minute, and the owner has written
 * nothing since, the owner's command `notify` is run, once until they write again, without content: no argument, no input, no variable.
 */
import type { Clock } from "./clock.ts";
import type { Millis, Outbound } from "./core/model.ts";
import type { Log } from "./log.ts";
import { runHelper } from "./projects/runner.ts";
import type { Transport } from "./signal/transport.ts";

/** A longer message gets no mark, since Signal's apps make an attached text of it. */
const bodyBytesMax = 2_000;

/** Wraps the transport, so that messages to Note to Self begin with `mark`. */
export function withMark(transport: Transport, mark: string): Transport {
  const head = `${mark} `;
  const marked = (message: Outbound): Outbound => {
    const { chat, body } = message;
    if (chat.kind !== "self" || body.kind === "reaction" || body.text === "") return message;
    const text = head + body.text;
    if (Buffer.byteLength(text) > bodyBytesMax) return message;
    const styles = body.styles.map((range) => ({ ...range, start: range.start + head.length }));
    return { ...message, body: { ...body, text, styles } };
  };
  return { ...transport, send: (message) => transport.send(marked(message)) };
}

const patienceMs: Millis = 60_000;
const commandMs: Millis = 60_000;

type Deps = { readonly clock: Clock; readonly log: Log; readonly signal: AbortSignal };

/** Wraps the transport, so that `command` runs for a message in Note to Self after which the owner writes nothing. */
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
