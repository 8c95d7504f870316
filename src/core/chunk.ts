/**
 * Splits a long text into parts that Signal takes.
 *
 *   … second paragraph.⏎⏎Third para|graph …      a part ends at the last border in its second half, by preference:
 *                      ▲            ▲             paragraph, line, sentence, word; else the last border at all in that
 *                      cut          bytesMax      order; else between two graphemes; else between two code points
 *
 * A code block is cut before it, or between its lines, before it comes to the worst. Line breaks around a cut are dropped; nothing
 * else is, so the parts joined by those line breaks are the input. Linear: each part looks at its own window.
 */
import { assert, type StyleRange } from "./model.ts";
import type { StyledText } from "./page.ts";

/** A code point takes up to four bytes; less room than that would hold none. */
const bytesMin = 4;

/** The parts in order, each at most `bytesMax` (≥ 4) bytes of UTF-8 and never empty; no part for an empty text. */
export function chunk(input: StyledText, bytesMax: number): StyledText[] {
  assert(bytesMax >= bytesMin, "a part has room for any code point");
  const { text } = input;
  const styles = createSweep(input.styles, text);
  const parts: StyledText[] = [];
  for (let start = 0; start < text.length;) {
    const limit = fittingEnd(text, start, bytesMax);
    const isRest = limit === text.length;
    const cut = isRest ? limit : cutBefore(text, start, limit, styles.codeStart(limit));
    const end = isRest ? cut : skipLineBreaks(text, cut, start, -1);
    if (end > start) parts.push({ text: text.slice(start, end), styles: styles.take(start, end) });
    start = isRest ? cut : skipLineBreaks(text, cut, text.length, 1);
  }
  return parts;
}

/** From `index` over the line breaks behind it (`direction` 1) or before it (−1), not beyond `bound`. */
function skipLineBreaks(text: string, index: number, bound: number, direction: 1 | -1): number {
  let at = index;
  while (at !== bound && isLineBreak(text, direction === 1 ? at : at - 1)) at += direction;
  return at;
}

/** The largest end such that `text` from `start` fits, never inside a surrogate pair. */
function fittingEnd(text: string, start: number, bytesMax: number): number {
  let bytes = 0;
  let end = start;
  while (end < text.length) {
    const unit = text.charCodeAt(end);
    // A lone surrogate is encoded as U+FFFD: three bytes.
    const isPair = unit >= 0xd800 && unit < 0xdc00 && isLowSurrogate(text.charCodeAt(end + 1));
    bytes += unit < 0x80 ? 1 : unit < 0x800 ? 2 : isPair ? 4 : 3;
    if (bytes > bytesMax) break;
    end += isPair ? 2 : 1;
  }
  return end;
}

/** Each finds the borders of a kind; a match ends where the next part begins. */
const borders = {
  paragraph: /\n[ \t\r]*\n/g,
  line: /\n/g,
  // Chinese and Japanese sentences end without a space.
  sentence: /[.!?…]["')\]»”’]*\s|[。！？]/g,
  word: /\s/g,
} as const;

const proseBorders = [borders.paragraph, borders.line, borders.sentence, borders.word];
const codeBorders = [borders.paragraph, borders.line];

/** Where the part that begins at `start` and has room up to `limit` ends; more than `start`. */
function cutBefore(text: string, start: number, limit: number, codeStart: number | null): number {
  const half = Math.ceil((limit - start) / 2);
  if (codeStart !== null && codeStart - start >= half && isLineBreak(text, codeStart - 1)) return codeStart;
  // The border may lie just behind the limit where it is a line break, which is dropped.
  const room = text.slice(start, limit + (isLineBreak(text, limit) ? 1 : 0));
  for (const [kinds, minimum] of codeStart === null ? proseAttempts(half) : codeAttempts(half))
    for (const kind of kinds) {
      const cut = lastBorder(room, kind, minimum);
      if (cut !== null && isGraphemeBorder(text, start, start + cut)) return start + cut;
    }
  const cut = graphemeStart(text, start, limit);
  return cut > start ? cut : limit;
}

type Attempt = readonly [kinds: readonly RegExp[], minimum: number];
const proseAttempts = (half: number): Attempt[] => [
  [proseBorders, half],
  [proseBorders, 1],
];
const codeAttempts = (half: number): Attempt[] => [
  [codeBorders, half],
  [codeBorders, 1],
  [proseBorders, half],
];

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

/** Where the grapheme that holds `index` begins. What lies before `start` or behind the next code point plays no part. */
function graphemeStart(text: string, start: number, index: number): number {
  const segment = graphemes.segment(text.slice(start, index + 2)).containing(index - start);
  return segment ? start + segment.index : index;
}

/** The ranges as the parts pass over them: each is looked at once, and again for every part that it reaches into. */
function createSweep(ranges: readonly StyleRange[], text: string) {
  const waiting = ranges
    .map(({ start, length: units, style }) => ({
      from: Math.max(0, start),
      to: Math.min(text.length, start + units),
      style,
    }))
    .filter(({ from, to }) => to > from)
    .sort((a, b) => a.from - b.from);
  let next = 0;
  let open: typeof waiting = [];
  const reach = (index: number): void => {
    for (let range = waiting[next]; range && range.from < index; range = waiting[++next]) open.push(range);
  };
  return {
    /** Where the code block around `index` begins, null outside of one. Monospace on a single line is no block. */
    codeStart(index: number): number | null {
      reach(index);
      const block = open.find(
        ({ from, to, style }) => style === "MONOSPACE" && to > index && text.slice(from, to).includes("\n"),
      );
      return block ? block.from : null;
    },
    /** The styles of the part from `from` to `to`, counted from its beginning. Parts come in order. */
    take(from: number, to: number): StyleRange[] {
      reach(to);
      const styles = open
        .map((range) => ({
          style: range.style,
          start: Math.max(range.from, from) - from,
          end: Math.min(range.to, to) - from,
        }))
        .filter(({ start, end }) => end > start)
        .map(({ style, start, end }) => ({ start, length: end - start, style }));
      open = open.filter((range) => range.to > to);
      return styles;
    },
  };
}

const isLineBreak = (text: string, index: number): boolean => text[index] === "\n" || text[index] === "\r";
const isLowSurrogate = (unit: number): boolean => unit >= 0xdc00 && unit < 0xe000;
