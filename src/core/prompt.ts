/** How a person's message becomes a prompt: pure text and the decision which files Claude can take. */
import { oneLine, spokenText } from "./inbound.ts";
import type { Account, Attachment, Envelope, TextContent } from "./model.ts";

/**
 * Largest file per kind in bytes: what the API takes of a picture (10 MB in base64), what leaves room for more in one request, and
 * what a sandbox is sent. **Source:** Claude API guide, "Vision" and "Request size limits"; the others are our own bounds.
 */
const kinds: readonly { readonly type: RegExp; readonly bytesMax: number }[] = [
  { type: /^image\//u, bytesMax: 7 * 1024 * 1024 },
  { type: /^application\/pdf$/u, bytesMax: 20 * 1024 * 1024 },
  { type: /^(?!video\/)/u, bytesMax: 20 * 1024 * 1024 },
];

/** Official clients allow 64 KiB of text in one message; more is refused to protect the prompt. */
export const longTextBytesMax = 64 * 1024;
const filesMax = 10;
const voiceNotesMax = 4;
/** About an hour as Signal records it. */
const voiceBytesMax = 16 * 1024 * 1024;

type Fetch = { readonly file: Attachment; readonly bytesMax: number };

export type FilePlan = {
  /** To be fetched, at most `bytesMax` each. */
  readonly fetch: readonly Fetch[];
  /** To be fetched and written down, where somebody can. */
  readonly voice: readonly Fetch[];
  /** Said to Claude in words, one sentence each. */
  readonly refused: readonly string[];
};

/** The text message inside a prompt's envelope, edits included; null where there is none. */
export function textOf(envelope: Envelope): TextContent | null {
  const { content } = envelope;
  return content.kind === "text" ? content : content.kind === "edit" ? content.body : null;
}

const viewOnce = "[A picture or video that may be seen only once was sent; it is not kept here, and cannot be seen.]";

/** Which files go to Claude. Sizes and types are those the sender announced: they are checked again when fetched. */
export function planFiles(body: TextContent): FilePlan {
  if (body.isViewOnce) return { fetch: [], voice: [], refused: [viewOnce] };
  const fetch: Fetch[] = [];
  const voice: Fetch[] = [];
  const refused: string[] = [];
  const refuse = (file: Attachment, why: string): void => void refused.push(`[The attached ${describe(file)} ${why}.]`);
  for (const file of body.attachments) {
    const kind = kinds.find(({ type }) => type.test(file.contentType.toLowerCase()));
    if (file.isLongText) continue;
    else if (file.isVoiceNote) {
      if ((file.sizeBytes ?? 0) <= voiceBytesMax && voice.length < voiceNotesMax)
        voice.push({ file, bytesMax: voiceBytesMax });
      else refused.push("[A voice note was too long to be written down, and left out.]");
    } else if (!kind) refuse(file, "is of a kind that cannot be read here");
    else if ((file.sizeBytes ?? 0) > kind.bytesMax)
      refuse(file, `is larger than the ${kind.bytesMax / 1024 / 1024} MB allowed here`);
    else if (fetch.length >= filesMax) refuse(file, "was one too many and left out");
    else fetch.push({ file, bytesMax: kind.bytesMax });
  }
  return { fetch, voice, refused };
}

/** A file in words: its name and type. */
export const describe = (file: Attachment): string => `file ${file.fileName ?? "without a name"} (${file.contentType})`;

/**
 * The prompt's text. A quoted message comes first as context; in a group the sender's name goes before the text, since one
 * session serves all its members.
 */
export function promptText(envelope: Envelope, account: Account, longText: string | null): string {
  const body = textOf(envelope);
  if (!body) return "";
  const spoken = longText === null ? spokenText(body, account) : longText.trim();
  const quoted = body.quote?.text ? `${body.quote.text.replace(/^/gmu, "> ")}\n\n` : "";
  const name = envelope.chat?.kind === "group" ? `${oneLine(envelope.sourceName) ?? "Someone"}: ` : "";
  return quoted + name + spoken;
}

/** What the person wrote, without what it quotes. */
export function promptWords(envelope: Envelope, account: Account): string {
  const body = textOf(envelope);
  return body ? spokenText(body, account) : "";
}
