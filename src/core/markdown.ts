/**
 * Claude's Markdown as Signal shows it: plain text plus style ranges.
 *
 *   **bold** *italic* ~~strike~~ ||spoiler|| `code`       styles
 *   # heading      bold                                   \( x_1 \)  $$ … $$     as written
 *   ``` code ```   monospace, verbatim, at the margin     > quote, > [!NOTE]     ▎ before each line
 *   - item, 7. it  • item, 7. it, nested ones indented    - [x] task             ☑ task
 *   [text](url)    text (url)                             ![alt](url)            alt (url)
 *   | table |      columns in monospace, or one line "Header: value" per cell (table.ts)
 *
 * A block is rendered as a string with marks in it (marks.ts). Total: never throws, on any string; markup that cannot be parsed comes
 * back as it is.
 */
import { decodeHTMLStrict } from "entities";
import type { MarkedToken, Token, Tokens } from "marked";
import { withFallenCode } from "./code.ts";
import { blocksOf, type Block, type Spoiler, type Verbatim } from "./lexer.ts";
import { border, clean, margin, shown, styled, unmark, withTabs, type Border } from "./marks.ts";
import type { StyledText } from "./model.ts";
import { cards, columns, type Cell } from "./table.ts";

export type SignalText = StyledText & {
  /** The places where blocks and items begin: a message ends best before one. */
  readonly borders: readonly Border[];
  /** The Markdown that was read, and where in it the blocks begin: one for each border that is no item's. */
  readonly source: string;
  readonly starts: readonly number[];
  /** The index in `source` at which reading ended. */
  readonly end: number;
};

export type RenderOptions = {
  /** Reading ends with the block that makes the text longer than this, or the source many times as long. */
  readonly lengthMax: number;
  /** Takes a block of code away, and returns what stands in its place. `before` is the Markdown in front of it. */
  readonly takeCode: (code: string, info: string, before: string) => string | null;
};

/** The text and its styles; empty only for blank input. */
export function toSignalText(markdown: string, options: Partial<RenderOptions> = {}): SignalText {
  const { lengthMax = Infinity, takeCode = () => null } = options;
  const source = withFallenCode(clean(markdown));
  const context: Context = { depth: 0, shownUrls: new Set(), cited: new Set(), takeCode, before: "" };
  const starts: number[] = [];
  let whole = "";
  let isLed = false;
  let end = 0;
  let prose = 0;
  for (const { token, from } of blocksOf(source)) {
    const text = block(token, context);
    if (text.trim() !== "") {
      whole += (whole && "\n\n") + border(isSolid(token) ? "solid" : "prose", isLed) + text;
      starts.push(from);
      isLed = token.type === "heading" || leads.test(token.raw);
    }
    context.before = textBefore(context.before, token);
    end = from + token.raw.length;
    prose += token.type === "code" ? 0 : token.raw.length;
    if (whole.length > lengthMax || prose > lengthMax * proseFactor) break;
  }
  const signalText = unmark(whole);
  if (signalText.text === "")
    return { text: source.trim(), styles: [], borders: [], source, starts: [], end: source.length };
  return { ...signalText, source: withTabs(source), starts, end };
}

const isSolid = ({ type }: Block["token"]): boolean => ["list", "table", "code", "blockquote"].includes(type);

/** The end of a block that leads in to the next: "For example:", or a line in bold alone, which models write for a heading. */
const leads = /[:：][*_]*\s*$|^\*\*[^*\n]+\*\*\s*$/;

/** Reading ends at this many times `lengthMax` of prose, as Markdown is hardly longer than its text, unless it shows nothing. */
const proseFactor = 16;

/** The end of the text before a block of code, which may name it: the last lines since the last block of code. */
const textBefore = (before: string, { type, raw }: Token): string =>
  type === "code" ? "" : `${before}${before === "" ? "" : "\n"}${raw}`.slice(-beforeLength);
const beforeLength = 400;

type Context = {
  /** How many quotes and lists are around the token. */
  readonly depth: number;
  /** Targets that a link has shown already: their definitions at the end of the text would only repeat them. */
  readonly shownUrls: Set<string>;
  /** Targets that the text names by the number of their definition. */
  readonly cited: Set<string>;
  readonly takeCode: RenderOptions["takeCode"];
  before: string;
};

/** Levels of nesting that are indented: a phone has no room for more, and every level costs another pass over its content. */
const depthMax = 16;

function block(token: Block["token"], context: Context): string {
  if (token.type === "def" && context.shownUrls.has(token.href) && !context.cited.has(token.href)) return "";
  try {
    if (token.type === "space") return "";
    const text = toText(token, context).trimEnd();
    return token.type === "paragraph" || token.type === "text" ? text.trimStart() : text;
  } catch {
    // Nested too deeply for the stack: the words count more than their looks.
    return token.raw.trimEnd();
  }
}

/** Blocks one below the other: with a blank line between, or without where the list around them is tight. */
function blocks(tokens: readonly Token[], { ...context }: Context, isTight = false): string {
  const texts: string[] = [];
  for (const token of tokens as readonly MarkedToken[]) {
    const text = block(token, context);
    if (text.trim() !== "") texts.push(text);
    context.before = textBefore(context.before, token);
  }
  return texts.join(isTight ? "\n" : "\n\n");
}

function toText(token: MarkedToken | Spoiler | Verbatim, context: Context): string {
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
      return codeText(token, context);
    case "blockquote":
      return indented(inner, blocks(token.tokens, inner).replace(alert, alertWord), "▎ ", "▎ ");
    case "list":
      return listText(token, context);
    case "table":
      return tableText(token, inline, context);
    case "link":
    case "image":
      return linkText(token, inline, context);
    case "text":
    case "paragraph":
      return token.tokens ? inline(token.tokens) : plain(token.text);
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

/** A character reference by CommonMark; a number out of Unicode's range becomes U+FFFD. */
const reference = /&(?:#\d{1,7}|#[Xx][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,40});/g;
const decoded = (text: string): string => clean(text.replace(reference, (raw) => decodeHTMLStrict(raw)));

/** The spaces before a line break are not shown. */
const plain = (text: string): string => {
  const lines = decoded(text).split("\n");
  return lines.map((line, index) => (index < lines.length - 1 ? line.trimEnd() : line)).join("\n");
};

/** Code stands at the margin, so that copying it from the phone gives the code and nothing else. */
function codeText({ text, lang = "" }: Tokens.Code, { takeCode, before }: Context): string {
  // The words on the line of the fence are no language where the block has no other text.
  if (text.trim() === "") return lang.includes(" ") ? styled("MONOSPACE", lang) : "";
  const code = withTabs(text).trimEnd();
  return takeCode(code, lang, before) ?? atMargin(styled("MONOSPACE", code));
}

const atMargin = (text: string): string => margin + text.replaceAll("\n", `\n${margin}`);

/** The first line begins with `first`, the others with `rest`. The marker of a list gets a line of its own before code. */
function indented({ depth }: Context, text: string, first: string, rest = " ".repeat(first.length)): string {
  if (depth > depthMax) return text;
  const put = (prefix: string, line: string): string =>
    line === "" ? prefix.trimEnd() : line.startsWith(margin) ? line : prefix + line;
  const [head = "", ...others] = (first !== rest && text.startsWith(margin) ? `\n${text}` : text).split("\n");
  return [put(first, head), ...others.map((line) => put(rest, line))].join("\n");
}

/** The beginning of a quote that GitHub and Obsidian show as a note. */
const alert = /^\[!([A-Za-z]+)\][+-]?(?:[ \t]+(?=\S))?/;
const alertWord = (raw: string, name: string): string => {
  const word = name.charAt(0).toUpperCase() + name.slice(1).toLowerCase();
  return styled("BOLD", raw.endsWith(" ") ? `${word}:` : word) + (raw.endsWith(" ") ? " " : "");
};

function listText(list: Tokens.List, context: Context): string {
  const inner = { ...context, depth: context.depth + 1 };
  const marker = markers(list);
  const items = list.items.map((item, index) =>
    indented(inner, blocks(item.tokens, inner, !list.loose), marker(item, index)),
  );
  return items.join((list.loose ? "\n\n" : "\n") + (context.depth === 0 ? border("item") : ""));
}

/** Numbers as they were written (`007.`, `25. Dezember`); counted on only where all are the same, as lazy writers do. */
function markers(list: Tokens.List): (item: Tokens.ListItem, index: number) => string {
  const written = list.items.map(({ raw }) => /^\s*(\d+)([.)])/.exec(raw) ?? ["", "", ""]);
  const isCounted = list.items.length > 1 && new Set(written.map(([, number]) => number)).size === 1;
  return (item, index) => {
    const [, number = "", dot = ""] = written[index] ?? [];
    const task = item.task ? (item.checked ? "☑ " : "☐ ") : "";
    if (!list.ordered) return task || "• ";
    return `${isCounted ? Number(number) + index : number}${dot} ${task}`;
  };
}

function tableText(table: Tokens.Table, inline: (tokens: readonly Token[]) => string, { depth }: Context): string {
  const cellOf = ({ tokens }: Tokens.TableCell): Cell => {
    const marked = inline(tokens);
    return { marked, shown: shown(marked) };
  };
  const [header, rows] = [table.header.map(cellOf), table.rows.map((row) => row.map(cellOf))];
  const joint = `\n\n${depth === 0 ? border("item") : ""}`;
  const bold = (text: string): string => styled("BOLD", text);
  const pieces =
    rows.length > 0
      ? columns(
          header.map((cell) => ({ ...cell, marked: bold(cell.marked) })),
          rows,
          table.align,
        )
      : null;
  return pieces
    ? pieces.map((piece) => atMargin(styled("MONOSPACE", piece))).join(joint)
    : cards(header, rows, bold).join(joint);
}

function linkText(
  link: Tokens.Link | Tokens.Image,
  inline: (tokens: readonly Token[]) => string,
  context: Context,
): string {
  if ("autolink" in link && link.autolink) return link.text;
  // "as in [1]": the list at the end says what that is.
  if (/^\[\d+\]$/.test(link.raw)) {
    context.cited.add(link.href);
    return link.raw;
  }
  // A badge is a picture as a link: its target is an address for a reader, its picture's address is none.
  const isBadge = link.type === "link" && link.tokens.length === 1 && link.tokens[0]?.type === "image";
  const text = inline(isBadge ? ((link.tokens[0] as Tokens.Image).tokens ?? []) : link.tokens);
  context.shownUrls.add(link.href);
  const url = decoded(link.href);
  const words = shown(text);
  if (words.trim() === "") return url;
  // Places on the same page, and pictures within the text, lead nowhere on a phone.
  if (url === "" || url.startsWith("#") || url.startsWith("data:")) return text;
  if (bare(words) !== bare(url)) return `${text} (${url})`;
  return words === url || !/^https?:/.test(url) ? text : url;
}

/** An address without what people leave out when they write it. */
const bare = (url: string): string => {
  const short = url
    .trim()
    .replace(/^(?:https?:\/\/|mailto:|tel:)(?:www\.)?|^www\./i, "")
    .replace(/\/$/, "")
    .replace(/^\+?[\d ().-]+$/, (number) => number.replace(/[^+\d]/g, ""));
  try {
    return decodeURI(short).toLowerCase();
  } catch {
    return short.toLowerCase();
  }
};
