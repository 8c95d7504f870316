/** In Note to Self Claude's messages stand among one's own, on the same side and in one colour: a mark before them tells them apart. */
import type { Outbound } from "./core/model.ts";
import type { Transport } from "./signal/transport.ts";

/** What is longer becomes an attached text in Signal's apps: there the mark is left out. */
const bodyBytesMax = 2_000;

/** The transport, whose messages to Note to Self begin with `mark`. */
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
