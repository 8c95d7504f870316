/**
 * Claude's Markdown as Signal shows it: plain text plus style ranges.
 *
 *   **bold** *italic* ~~strike~~ ||spoiler|| `code`       styles
 *   # heading      bold
 *   ``` code ```   monospace, verbatim, at the margin      > quote          ▎ before each line
 *   - item         • item, nested ones indented            - [x] task       ☑ task
 *   [text](url)    text (url)                              ![alt](url)      alt (url)
 *   | table |      one line "Header: value" per cell, rows apart: a phone is too narrow for columns
 *
 * Each token is rendered as a string; marks in it say where a style begins and ends, and `unmark` makes ranges of them at the
 * end, when every line has its prefix. Total: never throws, on any string; what cannot be parsed comes back as it is. Linear in
 * the length: see `sections.ts`.
 */
import { Marked, type MarkedToken, type Token, type Tokens } from "marked";
import type { StyledText, StyleRange } from "./model.ts";
import { sections } from "./sections.ts";

/** The text and its styles; empty only for blank input. */
export function toSignalText(markdown: string): StyledText {
  const clean = markdown.replace(anyMark, "\ufffd");
  const context = { depth: 0, shownUrls: new Set<string>() };
  const pieces = sections(clean).map(({ text, gap }) => ({ gap, marked: render(text, context) }));
  const whole = pieces.reduce((before, { gap, marked }) => before + (before && "\n".repeat(gap)) + marked, "");
  const { text, styles } = unmark(whole);
  return text === "" ? { text: clean.trim(), styles: [] } : { text, styles };
}

type Context = {
  /** Quotes and lists around this. */
  readonly depth: number;
  /** Targets that a link has shown already: their definitions at the end of the text would only repeat them. */
  readonly shownUrls: Set<string>;
};

/** What Signal shows and Markdown lacks, written as chat programs do. Between words (`a||b or c||d`) it is no spoiler. */
type Spoiler = { readonly type: "spoiler"; readonly raw: string; readonly tokens: readonly Token[] };
const parser = new Marked({
  gfm: true,
  extensions: [
    {
      name: "spoiler",
      level: "inline",
      start: (source) => source.indexOf("||"),
      tokenizer(source) {
        const [raw, inside] = /^\|\|(?=\S)([^|\n]*[^|\s])\|\|(?!\w)/.exec(source) ?? [];
        return raw && inside ? { type: "spoiler", raw, tokens: this.lexer.inlineTokens(inside) } : undefined;
      },
    },
  ],
});

/** A phone has no room for more; and every level costs another pass over what is in it. */
const depthMax = 16;

function render(markdown: string, context: Context): string {
  try {
    return blocks(parser.lexer(markdown), context);
  } catch {
    // Nested too deeply for the stack, or a fault of the lexer: the words count more than their looks.
    return markdown;
  }
}

/** Marks are non-characters, which no text has (Unicode 23.7), and are taken out of what comes in. */
const anyMark = /([\ufdd0-\ufdda])/g;
const styleMarks = {
  BOLD: "\ufdd0\ufdd1",
  ITALIC: "\ufdd2\ufdd3",
  STRIKETHROUGH: "\ufdd4\ufdd5",
  MONOSPACE: "\ufdd6\ufdd7",
  SPOILER: "\ufdd9\ufdda",
};
/** Before a line that stands at the margin, whatever it is nested in. */
const margin = "\ufdd8";

type Style = keyof typeof styleMarks;
const styleNames = Object.keys(styleMarks) as Style[];

const styled = (style: Style, text: string): string =>
  text && styleMarks[style].charAt(0) + text + styleMarks[style].charAt(1);

/** The text without marks and without white space at its end, and the ranges. Inside the same style it gets no range of its own. */
function unmark(marked: string): StyledText {
  const text = marked.replace(anyMark, "").trimEnd();
  const styles: StyleRange[] = [];
  const starts: Record<Style, number[]> = { BOLD: [], ITALIC: [], STRIKETHROUGH: [], MONOSPACE: [], SPOILER: [] };
  let at = 0;
  for (const piece of marked.split(anyMark)) {
    const style = styleNames.find((name) => piece !== "" && styleMarks[name].includes(piece));
    if (style === undefined) at += piece === margin ? 0 : piece.length;
    else if (styleMarks[style].startsWith(piece)) starts[style].push(at);
    else {
      const start = starts[style].pop() ?? at;
      const length = Math.min(at, text.length) - start;
      if (starts[style].length === 0 && length > 0) styles.push({ start, length, style });
    }
  }
  return { text, styles: styles.sort((a, b) => a.start - b.start || b.length - a.length) };
}

/** Blocks one below the other: with a blank line between, or without where the list around them is tight. */
function blocks(tokens: readonly Token[], context: Context, isTight = false): string {
  const texts: string[] = [];
  for (const token of tokens as readonly MarkedToken[]) {
    if (token.type === "def" && context.shownUrls.has(token.href)) continue;
    const text = token.type === "space" ? "" : toText(token, context).replace(/\n+$/, "");
    if (text.trim() !== "") texts.push(text);
  }
  return texts.join(isTight ? "\n" : "\n\n");
}

function toText(token: MarkedToken | Spoiler, context: Context): string {
  const inner = { ...context, depth: context.depth + 1 };
  const inline = (tokens: readonly Token[]): string =>
    tokens.map((part) => toText(part as MarkedToken, context)).join("");
  switch (token.type) {
    case "heading":
    case "strong":
      return styled("BOLD", inline(token.tokens));
    case "em":
      return styled("ITALIC", inline(token.tokens));
    case "del":
      return styled("STRIKETHROUGH", inline(token.tokens));
    case "spoiler":
      return styled("SPOILER", inline(token.tokens));
    case "codespan":
      return styled("MONOSPACE", token.text);
    case "code":
      // At the margin: what is copied from the phone must be the code and nothing else.
      return margin + styled("MONOSPACE", token.text.replaceAll("\n", `\n${margin}`));
    case "blockquote":
      return indented(inner, blocks(token.tokens, inner), "▎ ", "▎ ");
    case "list":
      return token.items
        .map((item, index) => indented(inner, blocks(item.tokens, inner, !token.loose), markerOf(token, item, index)))
        .join(token.loose ? "\n\n" : "\n");
    case "table":
      return tableText(token, inline);
    case "link":
    case "image":
      return linkText(token, inline(token.tokens), context);
    case "text":
    case "paragraph":
      // A reference in digits may have become a mark.
      return token.tokens ? inline(token.tokens) : decoded(token.text).replace(anyMark, "\ufffd");
    case "escape":
      return token.text;
    case "html":
      return /^<br\s*\/?>$/i.test(token.text) ? "\n" : token.text.trimEnd();
    case "br":
      return "\n";
    case "hr":
      return "———";
    case "checkbox":
      return "";
    default:
      return token.raw.trimEnd();
  }
}

/** The first line begins with `first`, the others with `rest`. A marker before code gets a line of its own. */
function indented({ depth }: Context, text: string, first: string, rest = " ".repeat(first.length)): string {
  if (depth > depthMax) return text;
  const put = (prefix: string, line: string): string =>
    line === "" ? prefix.trimEnd() : line.startsWith(margin) ? line : prefix + line;
  const [head = "", ...others] = (text.startsWith(margin) ? `\n${text}` : text).split("\n");
  return [put(first, head), ...others.map((line) => put(rest, line))].join("\n");
}

function markerOf(list: Tokens.List, item: Tokens.ListItem, index: number): string {
  if (item.task) return item.checked ? "☑ " : "☐ ";
  return list.ordered ? `${Number(list.start) + index}. ` : "• ";
}

/** A line per cell that holds something, a blank line between the rows; the headers alone where no row holds anything. */
function tableText({ header, rows }: Tokens.Table, inline: (tokens: readonly Token[]) => string): string {
  const isFilled = ({ text }: Tokens.TableCell): boolean => text.trim() !== "";
  const titles = header.map((cell) => (isFilled(cell) ? `${styled("BOLD", inline(cell.tokens))}: ` : ""));
  const filled = rows.flatMap(
    (row) =>
      row.flatMap((cell, column) => (isFilled(cell) ? (titles[column] ?? "") + inline(cell.tokens) : [])).join("\n") ||
      [],
  );
  return filled.length > 0 ? filled.join("\n\n") : header.map(({ tokens }) => inline(tokens)).join("\n");
}

function linkText(link: Tokens.Link | Tokens.Image, text: string, { shownUrls }: Context): string {
  if ("autolink" in link && link.autolink) return link.text;
  shownUrls.add(link.href);
  const [url, words] = [decoded(link.href), text.replace(anyMark, "")];
  if (words === "") return url;
  return ["", words, `mailto:${words}`].includes(url) ? text : `${text} (${url})`;
}

/** Character references as people and models write them: HTML knows 2,231 names. marked has replaced those in digits already. */
const names = `amp & lt < gt > quot " apos ' copy © reg ® trade ™ deg ° plusmn ± micro µ sect § middot · cent ¢ pound £ yen ¥ euro €
  laquo « raquo » ndash – mdash — lsquo ‘ rsquo ’ ldquo “ rdquo ” bdquo „ bull • hellip … times × divide ÷ minus − frac12 ½ sup2 ²
  le ≤ ge ≥ ne ≠ asymp ≈ infin ∞ radic √ sum ∑ larr ← uarr ↑ rarr → darr ↓ harr ↔ rArr ⇒ check ✓ cross ✗ pi π`;
const named = new Map(Array.from(names.matchAll(/(\w+) (\S)/g), ([, name = "", character = ""]) => [name, character]));
named.set("nbsp", "\u00a0");

/** `text` with its references replaced; what is no known name stays as it was written. */
const decoded = (text: string): string => text.replace(/&(\w{2,32});/g, (raw, name: string) => named.get(name) ?? raw);
