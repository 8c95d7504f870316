/**
 * Marks in a text that is still to be indented and joined: where a style begins and ends, where a line stands at the margin, and
 * where a block begins. They are non-characters, which no text has (Unicode 23.7); `clean` takes them out of what comes in.
 */
import type { StyledText, StyleRange } from "./model.ts";

/** The place where a block or an item begins. */
export type Border = {
  readonly at: number;
  readonly kind: BorderKind;
  /** The text before it leads in to it (a heading, "For example:"): the two belong together. */
  readonly isLed: boolean;
};

/** `prose`: a block that may be cut. `solid`: a block that is better not cut (a list, a table, code). `item`: an item of a block. */
export type BorderKind = "prose" | "solid" | "item";

type Style = StyleRange["style"];

const styleMarks: { readonly [style in Style]: string } = {
  BOLD: "\ufdd0\ufdd1",
  ITALIC: "\ufdd2\ufdd3",
  STRIKETHROUGH: "\ufdd4\ufdd5",
  MONOSPACE: "\ufdd6\ufdd7",
  SPOILER: "\ufdd9\ufdda",
};
/** The mark before a line that stands at the margin, whatever it is nested in. */
export const margin = "\ufdd8";
/** The mark for a tab in the code of a list. */
export const tab = "\ufddf";
export const withTabs = (text: string): string => text.replaceAll(tab, "\t");
const ledMark = "\ufdde";
const borderMarks: { readonly [kind in BorderKind]: string } = { prose: "\ufddb", solid: "\ufddc", item: "\ufddd" };

const mark = /([\ufdd0-\ufdde])/g;
const styleNames = Object.keys(styleMarks) as Style[];
const kinds = Object.keys(borderMarks) as BorderKind[];

export const styled = (style: Style, text: string): string =>
  text && styleMarks[style].charAt(0) + text + styleMarks[style].charAt(1);

export const border = (kind: BorderKind, isLed = false): string => (isLed ? ledMark : "") + borderMarks[kind];

/** The text without its marks, as a phone shows it. */
export const shown = (marked: string): string => withTabs(marked.replace(mark, ""));

/** Colours and links of a terminal, and other control characters that garble a screen; line breaks and tabs stay. */
const escape = "\u001b";
const control = new RegExp(
  String.raw`${escape}(?:\[[0-?]*[ -/]*[@-~]|\][^\x07${escape}\n]{0,400}(?:\x07|${escape}\\))|(?![\n\t])[\p{Cc}\ufeff]`,
  "gu",
);

/** Text from outside: line breaks of one kind, no control characters, no marks. */
export const clean = (text: string): string =>
  text
    .replace(/\r\n?/g, "\n")
    .replace(control, "")
    .replace(/[\ufdd0-\ufdef]/g, "\ufffd");

/** The text without marks and without white space at its end, its ranges and borders. A style within the same style gets no range. */
export function unmark(marked: string): StyledText & { readonly borders: readonly Border[] } {
  const text = shown(marked).trimEnd();
  const styles: StyleRange[] = [];
  const borders: Border[] = [];
  const starts = new Map(styleNames.map((style) => [style, [] as number[]]));
  let at = 0;
  let isLed = false;
  for (const [index, piece] of marked.split(mark).entries()) {
    if (index % 2 === 0) {
      at += piece.length;
      continue;
    }
    if (piece === ledMark) isLed = true;
    const kind = kinds.find((name) => borderMarks[name] === piece);
    if (kind) {
      borders.push({ at, kind, isLed });
      isLed = false;
    }
    const style = styleNames.find((name) => styleMarks[name].includes(piece));
    if (style === undefined) continue;
    const open = starts.get(style) ?? [];
    if (styleMarks[style].startsWith(piece)) open.push(at);
    else {
      const start = open.pop() ?? at;
      const length = Math.min(at, text.length) - start;
      if (open.length === 0 && length > 0) styles.push({ start, length, style });
    }
  }
  return { text, styles: styles.sort((a, b) => a.start - b.start || b.length - a.length), borders };
}
