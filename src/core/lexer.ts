/**
 * The one reader of Markdown: marked's lexer, with what chats need and CommonMark lacks.
 *
 *   ||spoiler||                         between words and in code (`a||b`) it is none
 *   \( … \)  \\[ … \\]  $$ … $$  $x_1$  mathematics, kept as it was written
 *   * * * * * command                   a line of cron is no list; neither is a sum of "+ 30"
 *   | `a|b` | surplus |                 a pipe in code belongs to its cell; surplus cells are shown
 *
 * The lexer takes quadratic time on hostile input (a run of `>`, of `_a_`): it gets a window of the text at a time, and blocks
 * of code by themselves. Markup that spans windows (reference links, say) is lost only in very long texts.
 */
import { Marked, Tokenizer, type MarkedToken, type Token, type Tokens } from "marked";
import { address } from "./chunk.ts";
import { readFence, type Fence } from "./code.ts";
import { emphasisIn, type Emphasis } from "./emphasis.ts";
import { splitRow } from "./table.ts";

export type Spoiler = { readonly type: "spoiler"; readonly raw: string; readonly tokens: Token[] };
export type Verbatim = { readonly type: "verbatim"; readonly raw: string };
export type Block = { readonly token: MarkedToken | Verbatim; readonly from: number };

/** A window of 16,384 takes half a second at worst, of 32,768 three. */
const windowChars = 16_384;

/** The top-level blocks in order, and where each begins; `markdown` has line feeds only. */
export function* blocksOf(markdown: string): Generator<Block> {
  for (let at = 0; at < markdown.length;) {
    const window = markdown.slice(at, at + windowChars);
    const isLast = at + window.length === markdown.length;
    const blocks = isLast ? lex(window) : wholeBlocks(window, markdown.slice(at));
    for (const token of blocks) {
      yield { token, from: at };
      at += token.raw.length;
    }
    if (blocks.length === 0) return;
  }
}

/** The blocks that end within `window`; where none does, a whole block of code of `rest`, or the part of the block that is in `window`. */
function wholeBlocks(window: string, rest: string): (MarkedToken | Verbatim)[] {
  const blocks = lex(window);
  const end = blocks.findLastIndex(({ type }) => type !== "space");
  if (end > 0) return blocks.slice(0, end);
  const fence = readFence(rest);
  if (fence) return [codeOf(fence)];
  const line = window.lastIndexOf("\n") + 1;
  return lex(line > 0 ? window.slice(0, line) : window.replace(/[\ud800-\udbff]$/, ""));
}

function lex(markdown: string): (MarkedToken | Verbatim)[] {
  try {
    return parser.lexer(markdown) as MarkedToken[];
  } catch {
    // Nested too deeply for the stack, or a fault of the lexer: the words count more than their looks.
    return [{ type: "verbatim", raw: markdown }];
  }
}

const codeOf = ({ raw, info, text }: Fence): Tokens.Code => ({ type: "code", raw, lang: info, text });

/**
 * The numbered list at the beginning of `source`, with lines below a number moved to the depth of its words: models indent by two or three
 * spaces below `10. `, too, and CommonMark then ends the list. `rawOf` turns the piece of `text` that was read into that of `source`.
 */
function straightened(source: string): { text: string; rawOf: (raw: string) => string } {
  if (!/^ {0,1}\d{1,9}[.)] /.test(source) || !/\n {2,8}\S/.test(source)) return { text: source, rawOf: (raw) => raw };
  const lines = source.split("\n");
  const shifts: number[] = [];
  let isAfterBlank = false;
  for (let from = 0; from < lines.length;) {
    const [marker] = /^ ?\d{1,9}[.)] +(?=\S)/.exec(lines[from] ?? "") ?? [];
    if (marker === undefined && isAfterBlank) break;
    let to = from + 1;
    while (to < lines.length && /^(?: {2}|\s*$)/.test(lines[to] ?? "")) to++;
    const body = lines.slice(from + 1, to).filter((line) => line.trim() !== "");
    const depth = Math.min(...body.map((line) => line.search(/\S/)));
    for (let at = from; at < to; at++)
      shifts.push(at === from || lines[at]?.trim() === "" ? 0 : Math.max(0, (marker?.length ?? 0) - depth));
    isAfterBlank = lines[to - 1]?.trim() === "";
    from = to;
  }
  const text = lines.map((line, at) => " ".repeat(shifts[at] ?? 0) + line).join("\n");
  return {
    text,
    rawOf: (raw) => {
      const count = raw.split("\n").length;
      const read = lines.slice(0, count).join("\n");
      const left = text.split("\n").slice(0, count).join("\n").length - raw.length;
      return read.slice(0, read.length - left);
    },
  };
}

const cron = /^ {0,3}\*(?=.*\*)(?:[ \t]+[\d*][\d*,/-]*){4}(?=\s|$)/;
/** Fifty levels of nesting: each costs another pass over its content, and no sensible text has so many. */
const tooDeep = /^(?: {0,4}(?:[-*+>]|\d{1,9}[.)])){50}/;
const sum = /^ {0,3}\+ +[\d$€£(]/;

const blankLine = /\n[ \t]*\n/;
/** An underline of any length. `lheading` takes only three dashes or more for a heading: fewer begin a signature, or an empty item. */
const underlined = /\n {0,3}(?:=+|-+)[ \t]*(?:\n|$)/;

/** Lines that continue a paragraph. */
const moreWords = /^(?:(?! {0,3}(?:[-*+>#|=<]|[`~]{3}|\d{1,9}[.)] )|[ \t]*\n)[^\n]+(?:\n|$))*/;

/** Text between two `||` that is code of a shell or a program, hence no spoiler. */
const shell = /^(?:exit|return|echo|die|throw)\b|&&|==|[{}]|\$[\w(]*[A-Za-z(]/;

/** Emphasis found so far, by the masked source that holds it, kept as long as the lexer. */
const found = new WeakMap<object, Map<string, ReadonlyMap<number, Emphasis>>>();

function emphasisAt<T extends Token>(lexer: Tokenizer["lexer"], source: string, masked: string): T | undefined {
  const known = found.get(lexer) ?? new Map<string, ReadonlyMap<number, Emphasis>>();
  found.set(lexer, known);
  const emphasis = known.get(masked) ?? emphasisIn(masked);
  known.set(masked, emphasis);
  const here = emphasis.get(masked.length - source.length);
  if (!here) return undefined;
  const raw = source.slice(0, here.to - here.from);
  const text = raw.slice(here.size, -here.size);
  const type = source.startsWith("~") ? "del" : here.size === 1 ? "em" : "strong";
  return { type, raw, text, tokens: lexer.inlineTokens(text) } as T;
}

/** Between dollars there is mathematics only where it looks so: prices and variables of a shell have them, too. */
const dollars =
  /\$\$(?!\$)(?:(?!\$\$)[^]){1,800}?\$\$|\$(?=[^\s$])(?=[^$\n]{0,300}[\\^_])[^$\n]{1,300}(?<=[^\s\\])\$(?![\w$])/;
/** Mathematics in any of its brackets. Plain words in them are none: `\[optional\]` shows its brackets. */
const math = new RegExp(
  String.raw`^(?!\\[([][A-Za-z][A-Za-z -]{3,}\\[)\]])(?:(\\\\?)\((?:(?!\\\))[^]){1,800}?\1\)|(\\\\?)\[(?:(?!\\\])[^]){1,800}?\2\](?!\()|\\begin(\{[a-z]+\*?\})[^]{1,4000}?\\end\3|${dollars.source})`,
);
/** The end that a beginning needs: where the text lacks it, `math` would search in vain from each beginning on. */
const ends: ReadonlyMap<string, string> = new Map([
  ["(", "\\)"],
  ["[", "\\]"],
  ["b", "\\end{"],
]);
const mathBlock =
  /^ {0,3}(?:(\\\\?)\[(?:(?!\\\]|\n[ \t]*\n)[^]){1,4000}?\1\]|\$\$(?:(?!\$\$|\n[ \t]*\n)[^]){1,4000}?\$\$)[ \t]*(?:\n|$)/;
const folders = /(?:\\\*?[^\s\\`"'<>|*]*)+/;
const share = new RegExp(String.raw`^(?=\\\\[\w.-]+\\\w)${folders.source}`);
/** A pattern (`\d+\.\d`) or a path (`\\host\share`, `C:\a\*.b`) keeps its backslashes: nothing there needs an escape. */
const backslash = (source: string, before: string): readonly string[] =>
  (/\b[A-Za-z]:$/.test(before) ? new RegExp(`^${folders.source}`).exec(source) : null) ??
  (/\d$/.test(before) ? null : /^\\\.(?=\S)/.exec(source)) ??
  (/[A-Za-z]$/.test(before) ? /^\\\*(?=\.\w)/.exec(source) : null) ??
  (/\S$/.test(before) ? null : share.exec(source)) ??
  [];

/** Mathematics, addresses and paths: delimiters within them mean no emphasis. */
const masks = new RegExp(`${dollars.source}|${address.source}|\\b[A-Za-z]:${folders.source}`, "g");

const parser = new Marked({
  gfm: true,
  extensions: [
    {
      name: "spoiler",
      level: "inline",
      tokenizer(source, before) {
        const [raw, inside = ""] = /^\|\|(?=\S)((?:(?!\|\|)[^\n]){0,800}?[^\s|])\|\|(?![\w|])/.exec(source) ?? [];
        const isShell = shell.test(inside.replace(/`[^`]*`/g, "")) || /[\w)\]|]$/.test(before.at(-1)?.raw ?? "");
        return raw && !isShell ? { type: "spoiler", raw, tokens: this.lexer.inlineTokens(inside) } : undefined;
      },
    },
    {
      name: "verbatim",
      level: "inline",
      tokenizer(source, before) {
        const end = ends.get(/^\\\\?([[(b])/.exec(source)?.[1] ?? "") ?? "$";
        const [raw] = (source.includes(end, 1) && math.exec(source)) || backslash(source, before.at(-1)?.raw ?? "");
        return raw ? { type: "verbatim", raw } : undefined;
      },
    },
    {
      name: "verbatim",
      level: "block",
      start: (source) => {
        const index = source.search(/\n(?:\\\\?\[|\$\$)/);
        return index < 0 ? undefined : index + 1;
      },
      tokenizer(source) {
        const [raw] = mathBlock.exec(source) ?? [];
        return raw ? { type: "verbatim", raw } : undefined;
      },
    },
  ],
  hooks: { emStrongMask: (source) => source.replace(masks, (raw) => "a".repeat(raw.length)) },
  tokenizer: {
    fences(source) {
      const fence = readFence(source);
      return fence ? codeOf(fence) : undefined;
    },
    list(source) {
      if (cron.test(source) || sum.test(source) || tooDeep.test(source)) return undefined;
      const straight = straightened(source);
      const list = Tokenizer.prototype.list.call(this, straight.text);
      return list && { ...list, raw: straight.rawOf(list.raw) };
    },
    blockquote: (source) => (tooDeep.test(source) ? undefined : false),
    hr: (source) => (cron.test(source) ? undefined : false),
    // marked looks through the rest of a paragraph for an underline at 8 µs a character, so it is asked only where there is one.
    lheading(source) {
      const { 0: line, index = 0 } = underlined.exec(source.split(blankLine, 1)[0] ?? "") ?? {};
      if (line === undefined) return undefined;
      if (/-{3}|=/.test(line))
        // Three dashes below a sentence are a rule.
        return /-/.test(line) && /[.!?;,…。！？]\s*$/.test(source.slice(0, index)) ? undefined : false;
      const end = index + line.length;
      const raw = source.slice(0, end) + (moreWords.exec(source.slice(end))?.[0] ?? "");
      return {
        type: "paragraph",
        raw,
        text: raw,
        tokens: this.lexer.inline(raw.trimEnd()),
      } as unknown as Tokens.Heading;
    },
    def: (source) => (/^ {0,3}\[\^/.test(source) ? undefined : false),
    table(source) {
      // marked's own rule takes a millisecond and more, so the line of delimiters is looked for first.
      if (!delimited.test(source)) return undefined;
      const [raw, head = "", line = "", body = ""] = this.rules.block.table.exec(source) ?? [];
      const titles = splitRow(head);
      const aligns = splitRow(line);
      if (raw === undefined || titles.length !== aligns.length) return undefined;
      const cell = (text: string, header: boolean, column: number): Tokens.TableCell => ({
        text,
        tokens: this.lexer.inline(text),
        header,
        align: alignOf(aligns[column] ?? ""),
      });
      // A line without a pipe ends the table, unless the table has one column.
      const [rows = ""] = titles.length > 1 ? body.split(/^(?=[^|\n]+$)/m, 1) : [body];
      return {
        type: "table",
        raw: trimmed(raw.slice(0, trimmed(raw).length - trimmed(body).slice(rows.length).length)),
        align: aligns.map(alignOf),
        header: titles.map((text, column) => cell(text, true, column)),
        rows: rows
          .split("\n")
          .filter((row) => row.trim() !== "")
          .map((row) => splitRow(row).map((text, column) => cell(text, false, column))),
      };
    },
    // A plain address is text: chats make a link of it.
    url: () => undefined,
    // marked's own rule looks for a mail address from each character on, in quadratic time.
    inlineText(source) {
      const [raw = ""] = /^(?:`+|~+|[^])[^\\<![`*_~$|]*/.exec(source) ?? [];
      return { type: "text", raw, text: raw, escaped: false };
    },
    emStrong(source, masked) {
      return /^[*_]/.test(source) ? emphasisAt<Tokens.Em | Tokens.Strong>(this.lexer, source, masked) : undefined;
    },
    del(source, masked) {
      return source.startsWith("~") ? emphasisAt<Tokens.Del>(this.lexer, source, masked) : undefined;
    },
  },
});

const delimited = /^[^\n]*\n {0,3}[-: \t]*[|:][-|: \t]*(?:\n|$)/;
const trimmed = (lines: string): string => lines.replace(/\n+$/, "");

const alignOf = (text: string): "left" | "center" | "right" | null =>
  text.endsWith(":") ? (text.startsWith(":") ? "center" : "right") : text.startsWith(":") ? "left" : null;
