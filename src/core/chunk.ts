/**
 * Splits a long text into parts that Signal takes.
 *
 *   … second paragraph.⏎⏎Third para|graph …      a part ends before the block that does not fit in; where that would leave
 *                      ▲            ▲             little, or the block is too long for any part, at the last border in the
 *                      cut          bytesMax      second half, by preference: item, paragraph, line, sentence, word; else
 *                                                 at the last border at all in that order; else between two graphemes
 *
 * A list, a table, a block of code that fits into a part is never cut, and is not parted from the line that leads in to it; code
 * is cut between its lines; an address is not cut. Line breaks around a cut are dropped; nothing else is, so the parts joined by
 * those line breaks are the input. Linear: each part looks at its own window.
 */
import type { Border } from "./marks.ts";
import { assert, type StyledText, type StyleRange } from "./model.ts";

/**
 * Addresses that chats make links of: up to white space, or to Chinese or Japanese punctuation, which no space follows; without the marks
 * of emphasis and the punctuation behind the address.
 */
export const address =
  /(?:https?|ftp):\/\/(?:(?!\*\*|~~|\|\|)[^\s<>"`，。；：！？、（）「」『』【】《》…“”])+(?<![*_~.,:;!?'])/g;

/** A code point takes up to four bytes: a smaller part might hold none. */
const bytesMin = 4;

/** The parts in order, each at most `bytesMax` (≥ 4) bytes of UTF-8 and never empty; no part for an empty text. */
export function chunk({ text, styles }: StyledText, bytesMax: number, borders: readonly Border[] = []): StyledText[] {
  assert(bytesMax >= bytesMin, "a part has room for any code point");
  const ranges = styles
    .map(({ start, length, style }) => ({ from: Math.max(0, start), to: Math.min(text.length, start + length), style }))
    .filter(({ from, to }) => to > from)
    .sort((a, b) => a.from - b.from);
  // Monospace on a single line is no block.
  const blocks = ranges.filter(({ from, to, style }) => style === "MONOSPACE" && text.slice(from, to).includes("\n"));
  const spans: Span[] = [];
  let block = 0;
  for (let start = 0; start < text.length;) {
    const limit = fittingEnd(text, start, bytesMax);
    const isRest = limit === text.length;
    while ((blocks[block]?.to ?? Infinity) <= limit) block++;
    const codeFrom = blocks[block]?.from ?? limit;
    const cut = isRest
      ? limit
      : (blockCut(text, start, limit, borders, bytesMax) ??
        beforeAddress(text, start, cutBefore(text, start, limit, codeFrom < limit ? codeFrom : null), bytesMax));
    const end = isRest ? cut : skipLineBreaks(text, cut, start, -1);
    if (end > start) spans.push({ from: start, to: end, styles: [] });
    start = isRest ? cut : skipLineBreaks(text, cut, text.length, 1);
  }
  spread(ranges, spans);
  return spans.map(({ from, to, styles }) => ({ text: text.slice(from, to), styles }));
}

type Span = { readonly from: number; readonly to: number; readonly styles: StyleRange[] };

/** Gives every span its share of the ranges, counted from its own beginning. Both are sorted: one pass over them. */
function spread(ranges: readonly { from: number; to: number; style: StyleRange["style"] }[], spans: readonly Span[]) {
  let first = 0;
  for (const { from, to, style } of ranges) {
    while ((spans[first]?.to ?? Infinity) <= from) first++;
    for (let index = first; (spans[index]?.from ?? Infinity) < to; index++) {
      const span = spans[index];
      if (!span) break;
      const start = Math.max(from, span.from);
      span.styles.push({ start: start - span.from, length: Math.min(to, span.to) - start, style });
    }
  }
}

/** Moves `index` over the line breaks behind it (`direction` 1) or before it (−1), not beyond `bound`. */
function skipLineBreaks(text: string, index: number, bound: number, direction: 1 | -1): number {
  let at = index;
  while (at !== bound && isLineBreak(text, direction === 1 ? at : at - 1)) at += direction;
  return at;
}

const encoder = new TextEncoder();
const bytesIn = (text: string): number => encoder.encode(text).length;

/** The largest end such that `text` from `start` fits, never inside a surrogate pair; half of one alone is sent as U+FFFD. */
function fittingEnd(text: string, start: number, bytesMax: number): number {
  return start + encoder.encodeInto(text.slice(start, start + bytesMax), new Uint8Array(bytesMax)).read;
}

/** A part is filled to this share at least, unless the block behind the cut may not be cut. */
const stub = 1 / 3;

/** The end of the part where the last block that does not fit in begins, or an item of it; null where neither is a good end. */
function blockCut(
  text: string,
  start: number,
  limit: number,
  borders: readonly Border[],
  bytesMax: number,
): number | null {
  const reach = skipLineBreaks(text, limit, text.length, 1);
  const isInside = ({ at }: Border): boolean => at > start && at <= reach;
  const item = borders.findLast((candidate) => candidate.kind === "item" && isInside(candidate));
  for (const isLedToo of [false, true]) {
    const blocks = borders.filter(({ kind, isLed }) => kind !== "item" && (isLedToo || !isLed));
    const index = blocks.findLastIndex(isInside);
    const last = blocks[index];
    if (!last) continue;
    const end = blocks[index + 1]?.at ?? text.length;
    const isWhole = end - last.at <= bytesMax && bytesIn(text.slice(last.at, end).trimEnd()) <= bytesMax;
    // A block that must be cut anyway is cut behind its first item rather than behind the line that leads in to it.
    if (last.isLed && !isWhole && item && item.at > last.at) break;
    const isSolid = borders.some(({ at, kind }) => kind === "solid" && at >= last.at && at < end);
    if (isWhole ? isSolid || last.at - start >= (limit - start) * stub : last.at - start >= (limit - start) / 2)
      return last.at;
  }
  return item && item.at - start >= (limit - start) * stub ? item.at : null;
}

/** `cut`, or the beginning of the address that `cut` would part, unless that address fits into no part. */
function beforeAddress(text: string, start: number, cut: number, bytesMax: number): number {
  for (const { 0: url, index } of text.slice(start, cut + bytesMax).matchAll(address)) {
    const at = start + index;
    if (at >= cut) break;
    if (at > start && at + url.length > cut) return bytesIn(url) <= bytesMax ? at : cut;
  }
  return cut;
}

/** Patterns of the borders, by kind: the next part begins where a match ends. */
const paragraph = /\n[ \t\r]*\n/g;
const line = /\n/g;
/** Chinese and Japanese sentences end without a space. */
const sentence = /[.!?…]["')\]»”’]*\s|[。！？]/g;
const word = /\s/g;

/** The end of the part that begins at `start` and has room up to `limit`; always more than `start`. */
function cutBefore(text: string, start: number, limit: number, codeFrom: number | null): number {
  const half = Math.ceil((limit - start) / 2);
  if (codeFrom !== null && codeFrom - start >= half && isLineBreak(text, codeFrom - 1)) return codeFrom;
  // The border may lie just behind the limit where it is a line break, which is dropped.
  const room = text.slice(start, limit + (isLineBreak(text, limit) ? 1 : 0));
  const outside = [paragraph, line];
  const inside = [sentence, word];
  for (const kinds of codeFrom === null ? [[...outside, ...inside]] : [outside, inside])
    for (const minimum of [half, 1])
      for (const kind of kinds) {
        const cut = lastBorder(room, kind, minimum);
        if (cut !== null && isGraphemeBorder(text, start, start + cut)) return start + cut;
      }
  const cut = graphemeStart(text, start, limit);
  return cut > start ? cut : limit;
}

/** The last place in `room`, at least `minimum`, behind a match of `kind`. */
function lastBorder(room: string, kind: RegExp, minimum: number): number | null {
  let last: number | null = null;
  for (const match of room.matchAll(kind)) {
    const end = match.index + match[0].length;
    if (end >= minimum) last = end;
  }
  return last;
}

const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });

function isGraphemeBorder(text: string, start: number, index: number): boolean {
  // Below U+0300 nothing joins its neighbour but CR and LF (Unicode Standard Annex 29, rules GB3 to GB9b).
  const isPlain = text.charCodeAt(index - 1) < 0x300 && !(text.charCodeAt(index) >= 0x300);
  if (isPlain) return !(text[index - 1] === "\r" && text[index] === "\n");
  return graphemeStart(text, start, index) === index;
}

/** The beginning of the grapheme that holds `index`. Text before `start` or behind the next code point plays no part. */
function graphemeStart(text: string, start: number, index: number): number {
  const segment = graphemes.segment(text.slice(start, index + 2)).containing(index - start);
  return segment ? start + segment.index : index;
}

const isLineBreak = (text: string, index: number): boolean => text[index] === "\n" || text[index] === "\r";
