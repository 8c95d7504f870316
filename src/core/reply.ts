/**
 * How Claude's words become messages on a phone: Markdown to styles, long code to files, then parts that Signal takes; ten parts at most,
 * and the rest as one file. Also when a placeholder shows that Claude is at work.
 */
import { chunk } from "./chunk.ts";
import { fileNameOf } from "./code.ts";
import { toSignalText, type SignalText } from "./markdown.ts";
import { styled } from "./marks.ts";
import type { Millis, OutboundBody, OutboundFile, StyledText } from "./model.ts";
import { textFile } from "./text.ts";

/** Largest body of one message in UTF-8 bytes. **Source:** Signal's apps send a longer body as an attached text. */
const partBytesMax = 2_000;
const partsMax = 10;
/** An answer beyond this length is cut: no phone opens a longer one, and its files are held in memory. */
const answerLengthMax = 4 * 1024 * 1024;

/** The number of parts from which they are numbered: two follow each other plainly. */
const countedFrom = 3;
const counterBytes = 12;

/** The bodies of a reply's messages, in order; an empty reply has none. Long code goes as files with the last message. */
export function renderReply(markdown: string): OutboundBody[] {
  const isCut = markdown.length > answerLengthMax;
  const { parts, files } = render(isCut ? `${markdown.slice(0, answerLengthMax)}\n\n${cutSentence}` : markdown);
  return parts.map(({ text, styles }, index) => {
    const counter = parts.length < countedFrom ? "" : `\n(${index + 1}/${parts.length})`;
    return { kind: "text", text: text + counter, styles, quote: null, files: index === parts.length - 1 ? files : [] };
  });
}

/** The last words of an answer that is too long. */
const cutSentence = `(This answer was longer than ${answerLengthMax / 1024 / 1024} million characters. The rest was left out.)`;

/** The beginning of an answer that is still being written, as its first message will show it. */
export const renderPreview = (markdown: string): StyledText =>
  render(markdown.slice(0, 4 * partBytesMax)).parts[0] ?? { text: "", styles: [] };

/** A sentence of signalman's own. */
export const plainText = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });

function render(markdown: string): { readonly parts: readonly StyledText[]; readonly files: readonly OutboundFile[] } {
  const files: OutboundFile[] = [];
  const signalText = toSignalText(markdown, {
    lengthMax: partsMax * partBytesMax,
    takeCode: (code, info, before) => takeCode(files, code, info, before),
  });
  const parts = chunk(signalText, partBytesMax - counterBytes, signalText.borders).filter(({ text }) => text !== "");
  const isUnread = signalText.end < signalText.source.length;
  const isCut = parts.length > partsMax || (isUnread && parts.length === partsMax);
  const shown = isCut ? parts.slice(0, partsMax - 1) : parts;
  const rest = restOf(signalText, shown, isCut);
  if (rest === "") return { parts, files };
  const kept = files.filter(({ fileName }) => shown.some(({ text }) => text.includes(fileName)));
  const name = distinctName("answer.md", kept);
  const note = `📎 The rest of this answer is in ${name} (${rest.length.toLocaleString("en")} characters).`;
  return { parts: [...shown, { text: note, styles: [] }], files: [...kept, textFile(name, rest)] };
}

/** The Markdown that `parts` do not show: its unread end, or everything from the first block on that is not whole in `parts`. */
function restOf(
  { text, source, borders, starts, end }: SignalText,
  parts: readonly StyledText[],
  isCut: boolean,
): string {
  if (!isCut) return source.slice(end).trim();
  let at = 0;
  for (const part of parts) at = text.indexOf(part.text, at) + part.text.length;
  const blocks = borders.filter(({ kind }) => kind !== "item");
  const next = blocks.findIndex((_, index) => text.slice(at, blocks[index + 1]?.at).trim() !== "");
  return source.slice(starts[Math.max(0, next)]).trim();
}

/** Lines and bytes that fit on a phone's screen: longer code becomes a file. */
const screenLines = 40;
const screenBytes = 1_500;
/** Signal's clients take 32 files with a message. */
const codeFilesMax = 20;

function takeCode(files: OutboundFile[], code: string, info: string, before: string): string | null {
  const lines = code.split("\n").length;
  const isShort =
    lines <= screenLines && code.length <= screenBytes && textFile("", code).base64.length * 0.75 <= screenBytes;
  if (isShort || files.length >= codeFilesMax) return null;
  const name = distinctName(fileNameOf(code, info, before), files);
  files.push(textFile(name, `${code}\n`));
  return `📎 ${styled("BOLD", name)}, ${lines.toLocaleString("en")} ${lines === 1 ? "line" : "lines"}`;
}

/** The name, with the number of the file in front where an earlier file has that name. */
const distinctName = (name: string, files: readonly OutboundFile[]): string =>
  files.some(({ fileName }) => fileName === name) ? `${files.length + 1}-${name}` : name;

// --- the placeholder

export type DraftState = {
  /** Monotonic time at which the turn began. */
  readonly startedAt: Millis;
  /** Monotonic time of the last change; null before the first. */
  readonly changedAt: Millis | null;
  /** Changes so far, the first showing included. */
  readonly changes: number;
};

const firstAfterMs = 4_000;
const editAfterMs = 4_000;
/** Signal's clients offer ten edits of a message at most; the answer, or the word that takes its place, is one of them. */
const changesMax = 6;
/** Phones take no edit of a message that is older than a day (Android) or two (iOS): an hour is left for its way. */
export const sendEditWithinMs: Millis = 23 * 3_600_000;
/** An edit rings no phone: a person who has waited longer than this for the answer has put the phone away. */
export const silentWithinMs: Millis = 30_000;

/** True where the placeholder may be shown or changed now: after 4 s, then 4, 8, 16 … s after the last change, six times in all. */
export function isDraftDue({ startedAt, changedAt, changes }: DraftState, now: Millis): boolean {
  if (changes >= changesMax) return false;
  if (changedAt === null) return now - startedAt >= firstAfterMs;
  return now - changedAt >= editAfterMs * 2 ** Math.max(0, changes - 1);
}
