/** How a person's message becomes a prompt: pure text and the decision which files Claude can take. */
import { expectFile, isVoice } from "./filetype.ts";
import { textOf, type Account, type Attachment, type Envelope, type Quote, type TextContent } from "./model.ts";
import { oneLine, spokenText, withNames, type NameOf } from "./text.ts";

/** Official clients allow 64 KiB of text in one message; more is refused to protect the prompt. */
export const longTextBytesMax = 64 * 1024;
const filesMax = 10;
const voiceNotesMax = 4;
/** About an hour as Signal records it. */
const voiceBytesMax = 16 * 1024 * 1024;

type Fetch = { readonly file: Attachment; readonly bytesMax: number };

export type FilePlan = {
  /** Files to fetch, at most `bytesMax` each. */
  readonly fetch: readonly Fetch[];
  /** Voice notes to fetch and to write down, where a program for it is set. */
  readonly voice: readonly Fetch[];
  /** Sentences that tell Claude of files which it does not get, one each. */
  readonly refused: readonly string[];
};

const viewOnce = "[A picture or video that may be seen only once was sent; it is not kept here, and cannot be seen.]";

/** Which files go to Claude. Sizes and types are those the sender announced: they are checked again when fetched. */
export function planFiles(body: TextContent, hasSandbox = false): FilePlan {
  if (body.isViewOnce) return { fetch: [], voice: [], refused: [viewOnce] };
  const fetch: Fetch[] = [];
  const voice: Fetch[] = [];
  const refused: string[] = [];
  const refuse = (file: Attachment, why: string): void => void refused.push(`[The attached ${describe(file)} ${why}.]`);
  for (const file of body.attachments) {
    if (file.isLongText) continue;
    if (isVoice(file)) {
      if ((file.sizeBytes ?? 0) <= voiceBytesMax && voice.length < voiceNotesMax)
        voice.push({ file, bytesMax: voiceBytesMax });
      else refused.push("[A voice note was too long to be written down, and left out.]");
      continue;
    }
    const expected = expectFile(file, hasSandbox);
    if ("refused" in expected) refuse(file, expected.refused);
    else if (fetch.length >= filesMax) refuse(file, "was one too many and left out");
    else fetch.push({ file, bytesMax: expected.bytesMax });
  }
  return { fetch, voice, refused };
}

/** A file in words: its name, as its sender chose it and so in quotation marks, and the type that was announced. */
export function describe({ fileName, contentType }: Attachment): string {
  const name = oneLine(fileName?.replaceAll('"', "'") ?? null);
  return `file ${name === null ? "without a name" : `"${name}"`} (${oneLine(contentType) ?? "of no type"})`;
}

/**
 * The prompt's text. A quoted message comes first as context; in a group the sender's name goes before the text, since one
 * session serves all its members. Mentions become names, in the text and in the quote.
 */
export function promptText(envelope: Envelope, account: Account, longText: string | null, nameOf?: NameOf): string {
  const body = textOf(envelope);
  if (!body) return "";
  const spoken = withNames(longText ?? body.text, body.mentions, account, nameOf);
  const quoted = body.quote ? quotedText(body.quote, account, nameOf) : "";
  const name = envelope.chat?.kind === "group" ? `${speakerName(envelope.sourceName)}: ` : "";
  const isAlone = spoken === "" && body.attachments.length === 0 && !body.isViewOnce;
  const said = isAlone && quoted !== "" ? "Please answer the message quoted above." : spoken;
  return (quoted === "" ? "" : `${quoted.replace(/^/gmu, "> ")}\n\n`) + name + said;
}

/** The quoted file or the like in brackets, then the quoted text. */
function quotedText({ text, mentions, described }: Quote, account: Account, nameOf?: NameOf): string {
  const known = mentions ?? [];
  const isKnown = (at: number): boolean => known.some(({ start, length }) => at >= start && at < start + length);
  // A placeholder that no known mention covers stands for an unknown person.
  const strangers = [...(text ?? "").matchAll(/\uFFFC/gu)].flatMap(({ index }) =>
    isKnown(index) ? [] : [{ start: index, length: 1, who: { aci: null, number: null } }],
  );
  const words = withNames(text ?? "", [...known, ...strangers], account, nameOf);
  const medium = oneLine(described ?? null, 200);
  return [...(medium === null ? [] : [`[${medium}]`]), ...(words === "" ? [] : [words])].join(" ");
}

/** Everything that could end a name and begin another speaker's words, in any script. */
const colons = /[:\uFF1A\uFE13\uFE55\uFE30\u2236\u02D0\u02F8\uA789\u05C3\u0589\u1361\u1365\u1366\u1804\u205A]/gu;

/** A display name as it goes before what its owner says. */
export const speakerName = (name: string | null): string =>
  oneLine(name?.replaceAll(colons, " ") ?? null, 40) ?? "Someone";

/** A quoted file in words for people: "a photo", "the file "plan.pdf"". */
export function mediumOf(contentType: string | null, fileName: string | null): string {
  const type = (contentType ?? "").toLowerCase();
  const name = oneLine(fileName?.replaceAll('"', "'") ?? null);
  const named = name === null ? "" : ` "${name}"`;
  if (type.startsWith("image/gif")) return `a GIF${named}`;
  if (type.startsWith("image/")) return `a photo${named}`;
  if (type.startsWith("video/")) return `a video${named}`;
  if (type.startsWith("audio/")) return name === null ? "a voice note" : `an audio file${named}`;
  return name === null ? "a file" : `the file${named}`;
}

/** The person's own words, without the message that they quote. */
export function promptWords(envelope: Envelope, account: Account): string {
  const body = textOf(envelope);
  return body ? spokenText(body, account) : "";
}

// --- a message without text in words, alike on every transport. Words that others chose (names, questions, titles) stand in quotation
// marks on one line: data, never speech.

const partChars = 300;
const partsMax = 12;

/** `[what: "one", "two"]`; empty parts are left out. */
function say(what: string, parts: readonly (string | null | undefined)[]): string {
  const said = parts.flatMap((part) => {
    const line = oneLine(part?.replaceAll(/["“”„«»]/gu, "'") ?? null, partChars);
    return line === null ? [] : `"${line}"`;
  });
  const shown = [...said.slice(0, partsMax), ...(said.length > partsMax ? ["…"] : [])].join(", ");
  return shown === "" ? `[${what}]` : `[${what}: ${shown}]`;
}

type Maybe = string | null | undefined;

/** The parts that a message may have beside its text, or in its place. */
export type Wordless = {
  readonly cards: readonly ({
    readonly [part in "prefix" | "given" | "middle" | "family" | "suffix" | "nickname" | "organization"]?: Maybe;
  } & { readonly values: readonly Maybe[] })[];
  readonly poll: { readonly question: Maybe; readonly options: readonly Maybe[] } | null | undefined;
  readonly sticker: { readonly emoji: Maybe } | null | undefined;
  readonly links: readonly { readonly url: Maybe; readonly title: Maybe; readonly description: Maybe }[];
};

/** A place is shared as a link to a map. */
const place =
  /^https?:\/\/(?:maps\.google\.[a-z.]+|(?:www\.)?google\.[a-z.]+\/maps|maps\.apple\.com|(?:www\.)?openstreetmap\.org)\b/iu;

/** The parts of a message in words, one line each; empty where there are none. */
export function toWords({ cards, poll, sticker, links }: Wordless): string {
  const lines = cards.map(({ prefix, given, middle, family, suffix, nickname, organization, values }) => {
    const full = [prefix, given, middle, family, suffix].filter(Boolean).join(" ");
    return say("Contact card", [full || nickname, organization, ...values]);
  });
  if (poll) lines.push(say("Poll", [poll.question, ...poll.options]));
  if (sticker) lines.push(say("Sticker", [sticker.emoji]));
  for (const { url, title, description } of links)
    lines.push(say(place.test(url ?? "") ? "Location" : "Link", [title, description, url]));
  return lines.join("\n");
}
