/**
 * Text with style ranges as the markup of signal-cli-rest-api's `text_mode: "styled"`, which knows no ranges.
 *
 * Its markers `*` `**` `~` `||` and the backtick count wherever they stand, matched or not; a backslash in front of one makes
 * it a plain character. Between neighbouring markers there is no separator, so that not every set of ranges can be said.
 *
 * **Source:** signal-cli-rest-api, src/client/textstyleparser (commit a08db23).
 */
import type { StyleRange } from "../../core/model.ts";

const markers = { BOLD: "**", ITALIC: "*", STRIKETHROUGH: "~", MONOSPACE: "`", SPOILER: "||" } as const;

type Range = { readonly start: number; readonly end: number; readonly style: StyleRange["style"] };

/**
 * The marked text, or null where these ranges cannot be expressed: they overlap without nesting, two runs of asterisks
 * would touch, or a plain backslash stands right before a marker. Offsets count UTF-16 code units.
 */
export function toStyledText(text: string, styles: readonly StyleRange[]): string | null {
  const ranges = union(text, styles);
  if (!isNested(ranges)) return null;
  let out = "";
  for (let at = 0; at <= text.length; at++) {
    const closing = ranges.filter(({ end }) => end === at).reverse();
    const opening = ranges.filter(({ start }) => start === at);
    const marks = [...closing, ...opening].map(({ style }) => markers[style]).join("");
    if (marks.includes("***") || (marks !== "" && text[at - 1] === "\\")) return null;
    out += marks;
    const char = text[at] ?? "";
    out += "*~|`".includes(char) && char !== "" ? `\\${char}` : char;
  }
  return out;
}

/** Ranges of one style that touch become one; sorted so that an outer range comes before its inner ones. */
function union(text: string, styles: readonly StyleRange[]): readonly Range[] {
  const sorted = styles
    .map(({ start, length, style }) => ({
      start: Math.max(0, start),
      end: Math.min(text.length, start + length),
      style,
    }))
    .filter(({ start, end }) => start < end)
    .sort((a, b) => a.start - b.start);
  const merged: Range[] = [];
  for (const range of sorted) {
    const index = merged.findIndex(({ style, end }) => style === range.style && end >= range.start);
    const known = merged[index];
    if (known) merged[index] = { ...known, end: Math.max(known.end, range.end) };
    else merged.push(range);
  }
  return merged.sort((a, b) => a.start - b.start || b.end - a.end);
}

function isNested(ranges: readonly Range[]): boolean {
  const open: Range[] = [];
  for (const range of ranges) {
    while ((open.at(-1)?.end ?? Infinity) <= range.start) open.pop();
    if (range.end > (open.at(-1)?.end ?? Infinity)) return false;
    open.push(range);
  }
  return true;
}
