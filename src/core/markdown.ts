/**
 * Claude's Markdown as Signal shows it: plain text plus style ranges.
 *
 *   **bold** *italic* ~~strike~~ `code`   styles           # heading        bold
 *   ``` code ```   monospace, verbatim, at the margin      > quote          ▎ before each line
 *   - item         • item, nested ones indented            - [x] task       ☑ task
 *   [text](url)    text (url)                              ![alt](url)      alt (url)
 *   | table |      one line "Header: value" per cell, rows apart: a phone is too narrow for columns
 *
 * Total: never throws, on any string; what cannot be parsed comes back as it is. Linear in the length: see `sections.ts`.
 */
import { Lexer, type MarkedToken, type Token, type Tokens } from "marked";
import { decodeEntities } from "./entities.ts";
import { atMargin, attempt, createPage, finish, gap, indented, styled, write, written, type Page } from "./page.ts";
import type { StyledText } from "./page.ts";
import { sections } from "./sections.ts";

/** The text and its styles; empty only for blank input. */
export function toSignalText(markdown: string): StyledText {
  const page = createPage();
  const writer: Writer = { page, shownUrls: new Set() };
  for (const section of sections(markdown)) {
    const isWritten = attempt(page, () => {
      gap(page, section.gap);
      writeBlocks(writer, Lexer.lex(section.text, { gfm: true }), false);
    });
    if (isWritten) continue;
    // Nested too deeply for the stack, or a fault of the lexer: the words count more than their looks.
    gap(page, section.gap);
    write(page, section.text);
  }
  const result = finish(page);
  return result.text.trim() === "" ? { text: markdown.trim(), styles: [] } : result;
}

type Writer = {
  readonly page: Page;
  /** Targets that a link has shown already: their definitions at the end of the text would only repeat them. */
  readonly shownUrls: Set<string>;
};

/** Blocks one below the other: with a blank line between, or without where the list around them is tight. */
function writeBlocks(writer: Writer, tokens: readonly Token[], isTight: boolean): void {
  let isFirst = true;
  for (const token of tokens as readonly MarkedToken[]) {
    if (token.type === "space" || token.type === "checkbox") continue;
    if (token.type === "def" && writer.shownUrls.has(token.href)) continue;
    if (!isFirst) gap(writer.page, isTight ? 1 : 2);
    isFirst = false;
    writeBlock(writer, token);
  }
}

function writeBlock(writer: Writer, token: MarkedToken): void {
  const { page } = writer;
  switch (token.type) {
    case "heading":
      return styled(page, "BOLD", () => writeInline(writer, token.tokens));
    case "code":
      // At the margin whatever it is nested in: what is copied from the phone must be the code and nothing else.
      return atMargin(page, () => styled(page, "MONOSPACE", () => write(page, token.text)));
    case "blockquote":
      return indented(page, "▎ ", "▎ ", () => writeBlocks(writer, token.tokens, false));
    case "list":
      return writeList(writer, token);
    case "table":
      return writeTable(writer, token);
    case "hr":
      return write(page, "———");
    case "def":
      return write(page, token.raw.trimEnd());
    case "html":
      return write(page, token.text.trimEnd());
    default:
      return writeSpan(writer, token);
  }
}

function writeList(writer: Writer, list: Tokens.List): void {
  const { page } = writer;
  const first = typeof list.start === "number" ? list.start : 1;
  list.items.forEach((item, index) => {
    if (index > 0) gap(page, list.loose ? 2 : 1);
    const bullet = list.ordered ? `${first + index}. ` : "• ";
    const marker = item.task ? (item.checked ? "☑ " : "☐ ") : bullet;
    indented(page, marker, " ".repeat(marker.length), () => writeBlocks(writer, item.tokens, !list.loose));
  });
}

function writeTable(writer: Writer, table: Tokens.Table): void {
  const { page } = writer;
  const rows = table.rows
    .map((row) => row.map((cell, column) => ({ header: table.header[column], cell })))
    .map((row) => row.filter(({ cell }) => cell.text.trim() !== ""))
    .filter((row) => row.length > 0);
  if (rows.length === 0)
    return writeRow(
      writer,
      table.header.map((cell) => ({ header: undefined, cell })),
    );
  rows.forEach((row, index) => {
    if (index > 0) gap(page, 2);
    writeRow(writer, row);
  });
}

type Cell = { readonly header: Tokens.TableCell | undefined; readonly cell: Tokens.TableCell };

function writeRow(writer: Writer, row: readonly Cell[]): void {
  const { page } = writer;
  row.forEach(({ header, cell }, column) => {
    if (column > 0) gap(page, 1);
    if (header && header.text.trim() !== "") {
      styled(page, "BOLD", () => writeInline(writer, header.tokens));
      write(page, ": ");
    }
    writeInline(writer, cell.tokens);
  });
}

function writeInline(writer: Writer, tokens: readonly Token[]): void {
  for (const token of tokens as readonly MarkedToken[]) writeSpan(writer, token);
}

function writeSpan(writer: Writer, token: MarkedToken): void {
  const { page } = writer;
  switch (token.type) {
    case "strong":
      return styled(page, "BOLD", () => writeInline(writer, token.tokens));
    case "em":
      return styled(page, "ITALIC", () => writeInline(writer, token.tokens));
    case "del":
      return styled(page, "STRIKETHROUGH", () => writeInline(writer, token.tokens));
    case "codespan":
      return styled(page, "MONOSPACE", () => write(page, token.text));
    case "br":
      return write(page, "\n");
    case "escape":
      return write(page, token.text);
    case "link":
      return token.autolink === true ? write(page, token.text) : writeLink(writer, token);
    case "image":
      return writeLink(writer, token);
    case "html":
      return write(page, /^<br\s*\/?>$/i.test(token.text) ? "\n" : token.text);
    case "text":
    case "paragraph":
      return token.tokens ? writeInline(writer, token.tokens) : write(page, decodeEntities(token.text));
    case "checkbox":
      return;
    default:
      return write(page, token.raw);
  }
}

function writeLink({ page, shownUrls }: Writer, { href, tokens }: Tokens.Link | Tokens.Image): void {
  const url = decodeEntities(href);
  const text = written(page, () => writeInline({ page, shownUrls }, tokens));
  shownUrls.add(href);
  if (text === "") write(page, url);
  else if (url !== "" && url !== text && url !== `mailto:${text}`) write(page, ` (${url})`);
}
