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
import type { StyledText, StyleRange } from "./model.ts";
import { createPage, type Page } from "./page.ts";
import { sections } from "./sections.ts";

/** The text and its styles; empty only for blank input. */
export function toSignalText(markdown: string): StyledText {
  const shownUrls = new Set<string>();
  const styles: StyleRange[] = [];
  let text = "";
  for (const section of sections(markdown)) {
    if (text !== "") text += "\n".repeat(section.gap);
    const part = toStyled(section.text, shownUrls);
    for (const range of part.styles) styles.push({ ...range, start: text.length + range.start });
    text += part.text;
  }
  text = text.trimEnd();
  if (text.trim() === "") return { text: markdown.trim(), styles: [] };
  const inside = styles.map((range) => ({ ...range, length: Math.min(range.length, text.length - range.start) }));
  return {
    text,
    styles: inside.filter(({ length }) => length > 0).sort((a, b) => a.start - b.start || b.length - a.length),
  };
}

function toStyled(markdown: string, shownUrls: Set<string>): StyledText {
  try {
    const page = createPage();
    writeBlocks({ page, shownUrls }, Lexer.lex(markdown, { gfm: true }), false);
    return page.content();
  } catch {
    // Nested too deeply for the stack, or a fault of the lexer: the words count more than their looks.
    return { text: markdown, styles: [] };
  }
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
    if (!isFirst) writer.page.gap(isTight ? 1 : 2);
    isFirst = false;
    writeToken(writer, token);
  }
}

function writeInline(writer: Writer, tokens: readonly Token[]): void {
  for (const token of tokens as readonly MarkedToken[]) writeToken(writer, token);
}

function writeToken(writer: Writer, token: MarkedToken): void {
  const { page } = writer;
  switch (token.type) {
    case "heading":
    case "strong":
      return page.styled("BOLD", () => writeInline(writer, token.tokens));
    case "em":
      return page.styled("ITALIC", () => writeInline(writer, token.tokens));
    case "del":
      return page.styled("STRIKETHROUGH", () => writeInline(writer, token.tokens));
    case "codespan":
      return page.styled("MONOSPACE", () => page.write(token.text));
    case "code":
      // At the margin whatever it is nested in: what is copied from the phone must be the code and nothing else.
      return page.atMargin(() => page.styled("MONOSPACE", () => page.write(token.text)));
    case "blockquote":
      return page.indented("▎ ", "▎ ", () => writeBlocks(writer, token.tokens, false));
    case "list":
      return writeList(writer, token);
    case "table":
      return writeTable(writer, token);
    case "link":
    case "image":
      return writeLink(writer, token);
    case "text":
    case "paragraph":
      return token.tokens ? writeInline(writer, token.tokens) : page.write(decodeEntities(token.text));
    case "escape":
      return page.write(token.text);
    case "html":
      return page.write(/^<br\s*\/?>$/i.test(token.text) ? "\n" : token.text.trimEnd());
    case "br":
      return page.write("\n");
    case "hr":
      return page.write("———");
    case "checkbox":
      return;
    default:
      return page.write(token.raw.trimEnd());
  }
}

function writeList(writer: Writer, list: Tokens.List): void {
  const first = typeof list.start === "number" ? list.start : 1;
  list.items.forEach((item, index) => {
    if (index > 0) writer.page.gap(list.loose ? 2 : 1);
    const bullet = list.ordered ? `${first + index}. ` : "• ";
    const marker = item.task ? (item.checked ? "☑ " : "☐ ") : bullet;
    writer.page.indented(marker, " ".repeat(marker.length), () => writeBlocks(writer, item.tokens, !list.loose));
  });
}

function writeTable(writer: Writer, { header, rows }: Tokens.Table): void {
  const { page } = writer;
  const filled = rows
    .map((row) => row.map((cell, column) => ({ title: header[column], cell })))
    .map((row) => row.filter(({ cell }) => cell.text.trim() !== ""))
    .filter((row) => row.length > 0);
  const titlesOnly = [header.map((cell) => ({ title: undefined, cell }))];
  for (const [index, row] of (filled.length > 0 ? filled : titlesOnly).entries()) {
    if (index > 0) page.gap(2);
    for (const [column, { title, cell }] of row.entries()) {
      if (column > 0) page.gap(1);
      if (title && title.text.trim() !== "") {
        page.styled("BOLD", () => writeInline(writer, title.tokens));
        page.write(": ");
      }
      writeInline(writer, cell.tokens);
    }
  }
}

function writeLink(writer: Writer, link: Tokens.Link | Tokens.Image): void {
  const { page, shownUrls } = writer;
  if ("autolink" in link && link.autolink) return page.write(link.text);
  const url = decodeEntities(link.href);
  const text = page.written(() => writeInline(writer, link.tokens));
  shownUrls.add(link.href);
  if (text === "") page.write(url);
  else if (url !== "" && url !== text && url !== `mailto:${text}`) page.write(` (${url})`);
}

/**
 * Character references as people and models write them. HTML knows 2,231 names; what is not here stays as it was written.
 * **Source:** HTML standard, section 13.5 "Named character references"; a number that is no character is U+FFFD by 13.2.5.80.
 */
const names = `amp & lt < gt > quot " apos ' copy © reg ® trade ™ deg ° plusmn ± micro µ sect § middot · cent ¢ pound £ yen ¥ euro €
  laquo « raquo » ndash – mdash — lsquo ‘ rsquo ’ ldquo “ rdquo ” bdquo „ bull • hellip … times × divide ÷ minus − frac12 ½ sup2 ²
  le ≤ ge ≥ ne ≠ asymp ≈ infin ∞ radic √ sum ∑ larr ← uarr ↑ rarr → darr ↓ harr ↔ rArr ⇒ check ✓ cross ✗ pi π`;
const named = new Map(Array.from(names.matchAll(/(\w+) (\S)/g), ([, name = "", character = ""]) => [name, character]));
named.set("nbsp", "\u00a0");

/** `text` with its references replaced. */
export const decodeEntities = (text: string): string =>
  text.replace(
    /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([A-Za-z][A-Za-z0-9]{1,31}));/g,
    (raw: string, decimal?: string, hex?: string, name?: string) => {
      if (name !== undefined) return named.get(name) ?? raw;
      const code = decimal === undefined ? Number.parseInt(hex ?? "", 16) : Number(decimal);
      const isCharacter = code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
      return isCharacter ? String.fromCodePoint(code) : "\ufffd";
    },
  );
