/**
 * Text with style ranges as the markup of signal-cli-rest-api's `text_mode: "styled"`, which knows no ranges.
 *
 * The markers `*` `**` `~` `||` and the backtick count wherever they stand, matched or not; a backslash in front of one makes
 * it a plain character. Neighbouring markers have no separator, and `***` means two things to two releases, so that not every
 * set of ranges can be expressed. **Source:** signal-cli-rest-api, src/client/textstyleparser (commit a08db23).
 */
import type { StyleRange } from "../../core/model.ts";

/** Ordered by rank: where two styles exclude each other, the one that comes first here is kept. */
const markers = { MONOSPACE: "`", SPOILER: "||", BOLD: "**", STRIKETHROUGH: "~", ITALIC: "*" } as const;
type Style = StyleRange["style"];
const ranks = Object.keys(markers) as Style[];

type Range = { readonly start: number; readonly end: number; readonly style: Style };

/** The marked text, without the ranges that cannot be expressed beside the others. Offsets count UTF-16 code units. */
export function toStyledText(text: string, styles: readonly StyleRange[]): string {
  const ranges = choose(text, styles);
  const opening = Map.groupBy(ranges, ({ start }) => start);
  const closing = Map.groupBy(ranges.toReversed(), ({ end }) => end);
  let out = "";
  for (let at = 0; at <= text.length; at++) {
    for (const { style } of [...(closing.get(at) ?? []), ...(opening.get(at) ?? [])]) out += markers[style];
    const char = text[at] ?? "";
    out += /[*~|`]/u.test(char) ? `\\${char}` : char;
  }
  return out;
}

/** The ranges that can be expressed together, an outer range before its inner ones. */
function choose(text: string, styles: readonly StyleRange[]): readonly Range[] {
  const kept: Range[] = [];
  const isEdge = (at: number): boolean => text[at - 1] !== "\\";
  for (const range of union(text, styles).sort((a, b) => ranks.indexOf(a.style) - ranks.indexOf(b.style)))
    if (isEdge(range.start) && isEdge(range.end) && kept.every((other) => areSayable(range, other))) kept.push(range);
  return kept.sort((a, b) => a.start - b.start || b.end - a.end);
}

function areSayable(a: Range, b: Range): boolean {
  if (
    (a.start < b.start && b.start < a.end && a.end < b.end) ||
    (b.start < a.start && a.start < b.end && b.end < a.end)
  )
    return false;
  if (!markers[a.style].startsWith("*") || !markers[b.style].startsWith("*")) return true;
  return ![a.start, a.end].some((edge) => edge === b.start || edge === b.end);
}

/** Merges ranges of one style that touch, and cuts off the parts that lie outside of the text. */
function union(text: string, styles: readonly StyleRange[]): Range[] {
  const merged: Range[] = [];
  for (const { start, length, style } of styles.toSorted((a, b) => a.start - b.start)) {
    const range = { start: Math.max(0, start), end: Math.min(text.length, start + length), style };
    const index = merged.findIndex((known) => known.style === style && known.end >= range.start);
    const known = merged[index];
    if (range.start >= range.end) continue;
    if (known) merged[index] = { ...known, end: Math.max(known.end, range.end) };
    else merged.push(range);
  }
  return merged;
}
