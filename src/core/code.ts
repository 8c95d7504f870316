/**
 * Blocks of code in Markdown: where a fence ends, code in lists, and the name of the file that a long block becomes.
 *
 * CommonMark closes a fence only by a line that is indented by less than four spaces, and reads the rest of the text as code
 * where it finds none. Models indent that line deeper now and then, and put fences into Markdown that is fenced itself: prose
 * must not become code by it.
 */

import { tab } from "./marks.ts";

export type Fence = {
  readonly raw: string;
  /** The text behind the opening marks: the language, and more. */
  readonly info: string;
  readonly text: string;
  readonly isClosed: boolean;
};

/** The fenced block at the beginning of `source`; null where there is none. Linear in its length. */
export function readFence(source: string): Fence | null {
  const [opening, indent = "", mark = "", info = ""] =
    /^( {0,3})(`{3,}(?=[^`\n]*(?:\n|$))|~{3,})([^\n]*)(?:\n|$)/.exec(source) ?? [];
  if (opening === undefined) return null;
  const start: Opening = { length: opening.length, indent: indent.length, mark, info: info.trim() };
  const fence = walk(source, start, /^(?:md|mdx|markdown)\b/i.test(start.info));
  return fence.isClosed ? fence : walk(source, start, false);
}

type Opening = { readonly length: number; readonly indent: number; readonly mark: string; readonly info: string };

/** Characters of a line that are looked at, so that an endless line is not copied. */
const headLength = 120;

/** @param isNesting fences with a language open a block within this one */
function walk(source: string, { length, indent, mark, info }: Opening, isNesting: boolean): Fence {
  const lines: string[] = [];
  let depth = 1;
  let isParted: boolean | null = null;
  for (let at = length; at < source.length;) {
    const newline = source.indexOf("\n", at);
    const end = newline < 0 ? source.length : newline;
    const [, space = "", marks = "", rest = ""] =
      /^([ \t]*)(`{3,}|~{3,})(.*)/.exec(source.slice(at, Math.min(end, at + headLength))) ?? [];
    const isDeep = space.length > 3;
    if (marks.startsWith(mark) && rest.trim() === "") {
      if (isDeep && depth === 1) isParted ??= isClosedLater(source, end, mark);
      if ((!isDeep || depth > 1 || isParted === false) && --depth === 0)
        return { raw: source.slice(0, end), info, text: lines.join("\n"), isClosed: true };
    } else if ((isNesting || isDeep) && marks.startsWith(mark) && /^[\w+#.-]+\s*$/.test(rest)) depth++;
    lines.push(source.slice(at, end).replace(new RegExp(`^ {0,${indent}}`), ""));
    at = end + 1;
  }
  return { raw: source, info, text: lines.join("\n"), isClosed: false };
}

/** True where the fences behind `from` that stand at the margin do not come in pairs: the first of them closes this block. */
function isClosedLater(source: string, from: number, mark: string): boolean {
  let count = 0;
  for (const _ of source.slice(from).matchAll(new RegExp(`\\n {0,3}${mark}`, "g"))) count++;
  return count % 2 === 1;
}

type FenceLine = {
  /** The words before the marks, without list markers and quote marks. */
  readonly words: string;
  /** The white space and quote marks that put a new line directly below this one, at its depth. */
  readonly margin: string;
  readonly marks: string;
  readonly rest: string;
  /** Whether `rest` is blank, or can be the info of an opening fence. */
  readonly isInfo: boolean;
  readonly kind: "end" | "opening" | "loose";
};

const markers = /^(?:[ \t>]|(?:[-*+]|\d{1,9}[.)])[ \t])*/;
const infoString = /^ ?[\w+#-]+(?:\.\w+)*(?: [\w-]+=\S+| ?\{[^}]*\})* *$/;

/** A line that holds one fence and no other backtick. `loose`: it ends code only where the text has no better end. */
function fenceLineOf(line: string): FenceLine | null {
  const at = line.indexOf("`");
  const [marks = ""] = /^`+/.exec(at < 0 ? "" : line.slice(at)) ?? [];
  const rest = line.slice(at + marks.length);
  if (marks.length < 3 || rest.includes("`")) return null;
  const before = line.slice(0, at);
  const [prefix = ""] = markers.exec(before) ?? [];
  const words = before.slice(prefix.length);
  const isBlank = rest.trim() === "";
  const isInfo = isBlank || (rest.length < headLength && infoString.test(rest));
  const isItem = /[^\s>]/.test(prefix);
  const isOpening = isInfo && (!isBlank || (words === "" && isItem));
  const kind = isOpening ? "opening" : words === "" && isInfo ? "end" : "loose";
  return { words, margin: prefix.replace(/[^\t>]/g, " "), marks, rest, isInfo, kind };
}

/**
 * The lines, with fences that models put behind words ("Use: ```sh") or words behind fences ("``` and run it") on lines of their
 * own: CommonMark takes the first for words, and then the end of the code for its beginning. Linear.
 */
function withFencesApart(lines: readonly string[]): string[] {
  const fences = lines.map(fenceLineOf);
  // For each line, from there on: the nearest loose fence, the nearest end or opening, and whether an odd number of ends follow in a row.
  const [loose, firm, isOdd] = [[] as number[], [] as number[], [] as boolean[]];
  for (let at = lines.length; at >= 0; at--) {
    const kind = fences[at]?.kind;
    loose[at] = kind === "loose" ? at : (loose[at + 1] ?? Infinity);
    firm[at] = kind === "end" || kind === "opening" ? at : (firm[at + 1] ?? Infinity);
    isOdd[at] = kind === "end" ? !isOdd[at + 1] : kind !== "opening" && (isOdd[at + 1] ?? false);
  }
  const endOf = (at: number, { words, marks, rest }: FenceLine): number | undefined => {
    const [next = Infinity, later = Infinity] = [loose[at + 1], firm[at + 1]];
    const isNesting = marks.length > 3 || /^ ?(?:md|mdx|markdown)\b/i.test(rest);
    if (words === "" && (isNesting || later < next)) {
      let depth = 1;
      for (let below = at + 1; below < lines.length; below++) {
        const fence = fences[below];
        if (!fence || fence.kind === "loose" || fence.marks.length < marks.length) continue;
        if (fence.kind === "opening") depth += isNesting ? 1 : 0;
        else if (--depth === 0) return below;
      }
      return undefined;
    }
    if (fences[later]?.kind === "end" && isOdd[later]) return later;
    // Marks followed by words that name no language (`npm`) enclose code within a line.
    const isLanguage = words === "" || rest.trim() === "" || languages.has(rest.trim().toLowerCase());
    return next < later && isLanguage ? next : undefined;
  };
  const apart: string[] = [];
  for (let at = 0; at < lines.length; at++) {
    const [line = "", fence] = [lines[at], fences[at]];
    const end = fence?.isInfo ? endOf(at, fence) : undefined;
    if (!fence || end === undefined) {
      apart.push(line);
      // The fence has no end, so that all lines below it are code.
      if (fence?.isInfo && fence.words === "") return [...apart, ...lines.slice(at + 1)];
      continue;
    }
    const { words, margin, marks, rest } = fence;
    if (words === "") apart.push(line);
    else apart.push(line.slice(0, -(marks + rest).length).trimEnd(), margin + marks + rest);
    apart.push(...lines.slice(at + 1, end));
    const last = fences[end];
    if (last?.kind !== "loose") apart.push(lines[end] ?? "");
    else {
      if (last.words !== "") apart.push(last.margin + last.words);
      apart.push(margin + last.marks);
      if (last.rest.trim() !== "") apart.push(margin + last.rest.trimStart());
    }
    at = end;
  }
  return apart;
}

/**
 * Moves code of a list or a quote to where its fence stands, since models put its lines, or its end, at the margin, and CommonMark then
 * ends the list or the quote. Tabs of that code are marked, since the lexer makes spaces of tabs in lists. Linear.
 */
export function withFallenCode(markdown: string): string {
  const lines = markdown.includes("```") ? withFencesApart(markdown.split("\n")) : markdown.split("\n");
  if (!lines.some((line) => /^[ \t>\-*+\d.)]+(?:```|~~~)/.test(line))) return lines.join("\n");
  const ends = new Map([
    ["```", endsIn(lines, /^[\s>]*```+\s*$/)],
    ["~~~", endsIn(lines, /^[\s>]*~~~+\s*$/)],
  ]);
  let isInList = false;
  let content = 0;
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? "";
    const [prefix = "", marker = ""] = /^\s*((?:> ?)+|(?:(?:[-*+]|\d{1,9}[.)])[ \t]{1,4})*)/.exec(line) ?? [];
    if (/[^ >]/.test(marker)) [isInList, content] = [true, widthOf(prefix)];
    else if (/^\S/.test(line) && lines[at - 1]?.trim() === "") isInList = false;
    const [mark = ""] = /^(?:`{3}|~{3})/.exec(line.slice(prefix.length)) ?? [];
    const left = ends.get(mark);
    if (!left) continue;
    while ((left.at(-1) ?? Infinity) <= at) left.pop();
    const end = left.at(-1);
    if (prefix === "" || (marker === "" && !isInList)) at = end ?? lines.length;
    else if (end !== undefined && moveCode(lines, at, end, prefix)) {
      // CommonMark takes a fence that is more than three columns deeper than its item, as below the words of a task, for words.
      const surplus = marker === "" ? widthOf(prefix) - content : 0;
      if (surplus > 3) for (let below = at; below <= end; below++) lines[below] = without(lines[below] ?? "", surplus);
      at = end;
    }
  }
  return lines.join("\n");
}

/** The lines that end a fence, the first of them last. */
const endsIn = (lines: readonly string[], end: RegExp): number[] =>
  lines.flatMap((line, at) => (end.test(line) ? [at] : [])).reverse();

/** Moves the lines from a fence to its end behind its prefix; false where the end belongs to another fence. */
function moveCode(lines: string[], at: number, end: number, prefix: string): boolean {
  const isQuote = prefix.includes(">");
  const width = widthOf(prefix);
  const depthOf = (line: string): number => (isQuote && /^\s*>/.test(line) ? width : widthOf(spaceOf(line)));
  const below = lines.slice(at + 1, end + 1);
  const missing = below.map((line) => (line.trim() === "" ? 0 : Math.max(0, width - depthOf(line))));
  const [first = 0] = missing;
  const last = missing.at(-1) ?? 0;
  const most = missing.slice(0, -1).reduce((a, b) => Math.max(a, b), 0);
  // Lines at the margin are prose where the code begins in its place but does not end there, and where they hold another fence.
  if (
    most > 0 &&
    ((first === 0 && last > 0) || below.some((line, index) => /^ *(?:```|~~~)\s*\w/.test(line) && missing[index]))
  )
    return false;
  const all = first > 0 ? most : 0;
  for (const [index, columns] of missing.entries()) {
    const line = lines[at + 1 + index] ?? "";
    const shift = index === missing.length - 1 ? columns : Math.max(all, columns);
    if (line.trim() === "" || (isQuote && columns === 0)) continue;
    lines[at + 1 + index] = isQuote ? `> ${line}` : " ".repeat(width) + without(line, width - shift);
  }
  if (!isQuote) lines[at] = " ".repeat(widthOf(spaceOf(prefix))) + (lines[at] ?? "").trimStart();
  return true;
}

const spaceOf = (line: string): string => /^\s*/.exec(line)?.[0] ?? "";

/** The line with up to `most` columns of its leading white space removed. */
function without(line: string, most: number): string {
  const columns = Math.min(most, widthOf(spaceOf(line)));
  let [at, width] = [0, 0];
  while (width < columns) width = widthOf(line.slice(0, ++at));
  return " ".repeat(width - columns) + line.slice(at).replaceAll("\t", tab);
}

const widthOf = (text: string): number => {
  let width = 0;
  for (const char of text) width += char === "\t" ? 4 - (width % 4) : 1;
  return width;
};

const tableOf = (words: string): { readonly [language: string]: string } =>
  Object.fromEntries(words.split(/\s+/).map((word) => word.split(":")));

/** Languages whose file ending is not the language's name. */
const endings =
  tableOf(`python:py python3:py typescript:ts javascript:js bash:sh shell:sh zsh:sh console:txt text:txt plaintext:txt
  yaml:yml rust:rs ruby:rb kotlin:kt markdown:md c++:cpp csharp:cs c#:cs objective-c:m haskell:hs perl:pl powershell:ps1 golang:go
  jsonc:json elixir:ex terraform:tf`);

/** Languages whose files have a fixed name in place of an ending. */
const wholeNames = tableOf(
  "dockerfile:Dockerfile docker:Dockerfile make:Makefile makefile:Makefile cmake:CMakeLists.txt gitignore:.gitignore dotenv:.env",
);

const isSame = (a: string, b: string): boolean =>
  a === b || [a, b].sort().join() === "yaml,yml" || (/^[jt]sx?$/.test(a) && a.slice(0, 2) === b.slice(0, 2));

/** A file name with its folders: characters on both sides of a dot, or a name that has no ending. */
const fileName =
  /(?:[\w.@~-]*[/\\])*(\.?[\w-][\w.-]{0,60}\.[A-Za-z]\w{0,9}|Dockerfile|Makefile|Containerfile)(?![\w/\\])/g;

/** A file name that marks enclose, in any script. */
const anyName = new RegExp(
  `(?<!\\S)(?:\\S*[/\\\\])?([^\\s/\\\\]{1,60}\\.[A-Za-z]\\w{0,9})(?!\\S)|${fileName.source}`,
  "gu",
);

/** Endings that tell the kind of a file, whatever language the fence below the name says. */
const telling = new Set([...Object.values(endings), "html", "css", "json", "java", "xml", "csv", "sql"]);

/** Languages: a fence behind words opens code where one of these follows it. */
const languages = new Set([
  ...Object.keys(endings),
  ...Object.keys(wholeNames),
  ...telling,
  ..."c h go swift php lua r scala dart diff ini toml http graphql fish cmd bat log env".split(" "),
]);

/** A first line of code that is a comment with the file's name: `# src/app.py`. */
const firstComment = /^\s*(?:#|\/\/|--|<!--|\/\*)\s*(?:file(?:name)?:\s*)?(\S+)\s*(?:-->|\*\/)?\s*$/i;

/**
 * The name for a block of code, from its info (`py title="app.py"`), the last sentence before it ("`src/app.py`", "**app.py**", plainly
 * only with the language's ending), the code's first line, or the text before that sentence; else `code` with an ending.
 */
export function fileNameOf(code: string, info: string, before: string): string {
  const language = (/^[\w+#-]+/.exec(info)?.[0] ?? "").toLowerCase();
  const ending = endings[language] ?? (/^[a-z][a-z0-9]{0,5}$/.test(language) ? language : "");
  const isFitting = (name: string): boolean => isSame(endingOf(name), ending);
  const isPossible = (name: string): boolean => ending === "" || !telling.has(endingOf(name));
  const text = before.trimEnd();
  const sentence = text.split(/[.!?]\s+(?=\S)|[。！？\n]\s*(?=\S)/).at(-1) ?? "";
  const marked = markedNames(sentence);
  const plain = namesIn(sentence).filter((name) => isFitting(name) && !/^[A-Z][a-z]+\.js$/.test(name));
  const comment = namesIn(firstComment.exec(code.split("\n", 1)[0] ?? "")?.[1] ?? "");
  const made = wholeNames[language] ?? `code.${ending === "" ? "txt" : ending}`;
  return (
    namesIn(info).at(-1) ??
    marked.findLast(isFitting) ??
    plain.at(-1) ??
    comment.at(-1) ??
    marked.findLast(isPossible) ??
    markedNames(text).findLast(isFitting) ??
    made
  );
}

/** The names that stand in code, in bold, in quotes. */
const markedNames = (text: string): string[] =>
  [...text.matchAll(/`([^`]+)`|\*\*([^*]+)\*\*|["“„«]([^"“”„»]+)["”»]/g)].flatMap(([, ...inside]) =>
    namesIn(inside.find((name) => name !== undefined) ?? "", anyName),
  );
const namesIn = (text: string, names = fileName): string[] =>
  Array.from(text.matchAll(names), ([, name, other]) => name ?? other ?? "");
const endingOf = (name: string): string => name.slice(name.lastIndexOf(".") + 1).toLowerCase();
