/** Text that grows at its end, with the styles and the line prefixes in force there: what the Markdown writer writes on. */
import type { StyledText, StyleRange } from "./model.ts";

export type Page = ReturnType<typeof createPage>;

export function createPage() {
  const pieces: string[] = [];
  const styles: StyleRange[] = [];
  const active = new Set<StyleRange["style"]>();
  let length = 0;
  let prefix = "";
  /** At the beginning of a list item or quote: what its first line begins with instead. */
  let firstPrefix: string | null = null;
  let isLineStart = true;

  const push = (text: string): void => {
    pieces.push(text);
    length += text.length;
  };
  /** A line on which nothing follows has no space at its end. */
  const startLine = (isEmpty = false): void => {
    const start = firstPrefix ?? prefix;
    if (isLineStart) push(isEmpty ? start.trimEnd() : start);
    isLineStart = false;
    firstPrefix = null;
  };
  const endLine = (): void => {
    startLine(true);
    push("\n");
    isLineStart = true;
  };

  return {
    /** Appends text; each of its lines gets the prefix in force. */
    write(text: string): void {
      text.split("\n").forEach((line, index) => {
        if (index > 0) endLine();
        if (line === "") return;
        startLine();
        push(line);
      });
    },
    /** Ends the line and leaves `lines - 1` blank ones; nothing at the very beginning of the page. */
    gap(lines: number): void {
      if (length > 0) for (let line = 0; line < lines; line++) endLine();
    },
    /** `work` writes text of this style. Inside the same style it gets no range of its own. */
    styled(style: StyleRange["style"], work: () => void): void {
      if (active.has(style)) return work();
      startLine();
      const start = length;
      active.add(style);
      work();
      active.delete(style);
      if (length > start) styles.push({ start, length: length - start, style });
    },
    /** `work` writes lines that begin with `rest`, the first of them with `first`; with `first` alone if it writes nothing. */
    indented(first: string, rest: string, work: () => void): void {
      const outer = prefix;
      firstPrefix = (firstPrefix ?? outer) + first;
      prefix = outer + rest;
      work();
      if (firstPrefix !== null) startLine(true);
      prefix = outer;
    },
    /** `work` writes lines without any prefix; a list marker that is due gets a line of its own before. */
    atMargin(work: () => void): void {
      if (firstPrefix !== null) endLine();
      const outer = prefix;
      prefix = "";
      work();
      prefix = outer;
    },
    /** Says what `work` wrote. */
    written(work: () => void): string {
      startLine();
      const from = pieces.length;
      work();
      return pieces.slice(from).join("");
    },
    /** What stands on it. */
    content: (): StyledText => ({ text: pieces.join(""), styles }),
  };
}
