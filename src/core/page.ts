/** Text that grows at the end, with the styles and the line prefixes in force there: what the Markdown writer writes on. */
import type { StyleRange } from "./model.ts";

export type StyledText = {
  readonly text: string;
  /** Sorted by `start`, inside the text, never empty; in UTF-16 units. Ranges of different styles may overlap. */
  readonly styles: readonly StyleRange[];
};

type Style = StyleRange["style"];

export type Page = {
  pieces: string[];
  length: number;
  styles: StyleRange[];
  readonly active: Set<Style>;
  /** What a new line begins with. */
  prefix: string;
  /** At the beginning of a list item or quote: what its first line begins with instead. */
  firstPrefix: string | null;
  isLineStart: boolean;
};

export const createPage = (): Page => ({
  pieces: [],
  length: 0,
  styles: [],
  active: new Set(),
  prefix: "",
  firstPrefix: null,
  isLineStart: true,
});

/** Appends text; each of its lines gets the prefix in force. */
export function write(page: Page, text: string): void {
  let from = 0;
  for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", from)) {
    writeInLine(page, text.slice(from, end));
    endLine(page);
    from = end + 1;
  }
  writeInLine(page, text.slice(from));
}

/** Ends the line and leaves `lines - 1` blank ones; nothing at the very beginning of the page. */
export function gap(page: Page, lines: number): void {
  for (let line = 0; page.length > 0 && line < lines; line++) endLine(page);
}

/** `work` writes text of this style. Inside the same style it gets no range of its own. */
export function styled(page: Page, style: Style, work: () => void): void {
  if (page.active.has(style)) return work();
  startLine(page);
  const start = page.length;
  page.active.add(style);
  try {
    work();
  } finally {
    page.active.delete(style);
  }
  if (page.length > start) page.styles.push({ start, length: page.length - start, style });
}

/** `work` writes lines that begin with `rest`, the first of them with `first`; with `first` alone, less its trailing space, if it writes nothing. */
export function indented(page: Page, first: string, rest: string, work: () => void): void {
  const outer = page.prefix;
  page.firstPrefix = (page.firstPrefix ?? outer) + first;
  page.prefix = outer + rest;
  try {
    work();
    if (page.firstPrefix !== null) startEmptyLine(page);
  } finally {
    page.prefix = outer;
  }
}

/** `work` writes lines without any prefix; a list marker that is due gets a line of its own before. */
export function atMargin(page: Page, work: () => void): void {
  if (page.firstPrefix !== null) endLine(page);
  const outer = page.prefix;
  page.prefix = "";
  try {
    work();
  } finally {
    page.prefix = outer;
  }
}

/** Runs `work` and says what it wrote. */
export function written(page: Page, work: () => void): string {
  startLine(page);
  const from = page.pieces.length;
  work();
  return page.pieces.slice(from).join("");
}

/** Runs `work`; where it throws, what it wrote is taken back. Says whether it stands. */
export function attempt(page: Page, work: () => void): boolean {
  const { length, isLineStart } = page;
  const [pieces, styles] = [page.pieces.length, page.styles.length];
  try {
    work();
    return true;
  } catch {
    page.pieces.length = pieces;
    page.styles.length = styles;
    Object.assign(page, { length, isLineStart, firstPrefix: null });
    return false;
  }
}

/** The page without white space at its end. */
export function finish(page: Page): StyledText {
  const text = page.pieces.join("").trimEnd();
  const styles = page.styles
    .map((range) => ({ ...range, length: Math.min(range.length, text.length - range.start) }))
    .filter((range) => range.length > 0)
    .sort((a, b) => a.start - b.start || b.length - a.length);
  return { text, styles };
}

function push(page: Page, text: string): void {
  if (text === "") return;
  page.pieces.push(text);
  page.length += text.length;
}

function startLine(page: Page): void {
  if (page.isLineStart) push(page, page.firstPrefix ?? page.prefix);
  page.isLineStart = false;
  page.firstPrefix = null;
}

function writeInLine(page: Page, text: string): void {
  if (text === "") return;
  startLine(page);
  push(page, text);
}

/** Begins a line on which nothing follows. */
function startEmptyLine(page: Page): void {
  if (page.isLineStart) push(page, (page.firstPrefix ?? page.prefix).trimEnd());
  page.isLineStart = false;
  page.firstPrefix = null;
}

function endLine(page: Page): void {
  startEmptyLine(page);
  push(page, "\n");
  page.isLineStart = true;
}
