/** How Claude's words become messages on a phone: Markdown to styles, then parts that Signal takes. */
import { chunk } from "./chunk.ts";
import { takeListings } from "./listing.ts";
import { toSignalText } from "./markdown.ts";
import type { OutboundBody } from "./model.ts";

/** Largest body of one message in UTF-8 bytes. **Source:** signal/SIGNAL-CLI.md section 6.1. */
const partBytesMax = 2000;

/** Two parts follow each other plainly; more are counted. */
const countedFrom = 3;
const counterBytes = 12;

/** One body per message, in order; an empty reply has none. Long code comes as files with the last. */
export function renderReply(markdown: string): OutboundBody[] {
  const { markdown: prose, files } = takeListings(markdown);
  const parts = chunk(toSignalText(prose), partBytesMax - counterBytes).filter(({ text }) => text !== "");
  return parts.map(({ text, styles }, index) => {
    const counter = parts.length < countedFrom ? "" : `\n(${index + 1}/${parts.length})`;
    const isLast = index === parts.length - 1;
    return { kind: "text", text: text + counter, styles, quote: null, files: isLast ? files : [] };
  });
}

/** A sentence of signalman's own. */
export const plainText = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });
