/**
 * Cuts a very long Markdown text into pieces that are parsed one by one. The lexer takes quadratic time on hostile input (a run
 * of `>`, of `_a_`); on pieces of bounded size that is linear in the whole.
 *
 *   from `pieceChars` on    after a blank line outside code, before a line that is not indented
 *   at `pieceCharsMax`      at any line, or within an endless one; code that is cut goes on as code
 *
 * A text up to `wholeCharsMax` is one piece: nearly every reply is, and what spans pieces (reference links, say) is lost only in
 * the very long ones.
 */

const wholeCharsMax = 16_384;
const pieceChars = 1_024;
const pieceCharsMax = 2_048;
/** The beginning of a line says what it is; an endless one is not copied to look at it. */
const headCharsMax = 256;

/** `gap`: newlines to set before the piece; 0 for the first, and where a line was cut. */
export type Section = { readonly text: string; readonly gap: 0 | 1 | 2 };

/** The pieces in order. Together they hold every character; where code was cut, the next one begins with its fence. */
export function sections(markdown: string): Section[] {
  if (markdown.length <= wholeCharsMax) return [{ text: markdown, gap: 0 }];
  const pieces: Section[] = [];
  let start = 0;
  let gap: Section["gap"] = 0;
  let reopened = "";
  let fence = "";
  let isAfterBlank = false;
  const cut = (end: number, nextGap: Section["gap"]): number => {
    pieces.push({ text: reopened + markdown.slice(start, end), gap });
    gap = nextGap;
    reopened = fence === "" ? "" : `${fence}\n`;
    return end;
  };
  for (let line = 0; line < markdown.length;) {
    const newline = markdown.indexOf("\n", line);
    const end = newline < 0 ? markdown.length : newline + 1;
    const isBorder = fence === "" && isAfterBlank && !/\s/.test(markdown.charAt(line));
    if (isBorder && line - start >= pieceChars) start = cut(line, 2);
    else if (end - start > pieceCharsMax && line > start) start = cut(line, 1);
    while (end - start > pieceCharsMax) start = cut(beforePair(markdown, start + pieceCharsMax), 0);
    const head = markdown.slice(line, Math.min(end, line + headCharsMax));
    fence = fenceAfter(fence, head);
    isAfterBlank = end - line <= headCharsMax && head.trim() === "";
    line = end;
  }
  if (start < markdown.length) cut(markdown.length, 0);
  return pieces;
}

/** The fence that is open after this line, "" for none. Indented ones count: they stand in lists. */
function fenceAfter(open: string, line: string): string {
  const [, mark = "", rest = ""] = /^[\s>]*(?:(?:[-*+]|\d+[.)])\s+)?(`{3,}|~{3,})(.*)/.exec(line) ?? [];
  if (open !== "") return mark.startsWith(open) && rest.trim() === "" ? "" : open;
  return mark.startsWith("`") && rest.includes("`") ? "" : mark;
}

/** The index, or the one before where it would part a surrogate pair. */
const beforePair = (text: string, index: number): number =>
  /[\uDC00-\uDFFF]/.test(text.charAt(index)) && /[\uD800-\uDBFF]/.test(text.charAt(index - 1)) ? index - 1 : index;
