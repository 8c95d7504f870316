/** How Claude's words become messages on a phone: Markdown to styles, then parts that Signal takes. */
import { chunk } from "./chunk.ts";
import { toSignalText } from "./markdown.ts";
import type { OutboundBody } from "./model.ts";

/** Largest body of one message in UTF-8 bytes. **Source:** signal/SIGNAL-CLI.md section 6.1. */
export const partBytesMax = 2000;

/** One body per message, in order; an empty reply has none. */
export function renderReply(markdown: string): OutboundBody[] {
  const parts = chunk(toSignalText(markdown), partBytesMax).filter(({ text }) => text !== "");
  return parts.map(({ text, styles }) => ({ kind: "text", text, styles, quote: null, files: [] }));
}

/** A sentence of signalman's own. */
export const plainText = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });
