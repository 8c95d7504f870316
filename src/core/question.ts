/**
 * The text of a question for a yes or no: the whole tool use, as it is. Line breaks stay, invisible characters are made visible, an edit is
 * shown as a diff, and text that does not fit the screen is counted and goes along as a file. Also a tool use in one line.
 */
import { structuredPatch } from "diff";
import type { JsonValue, OutboundFile, ToolUse } from "./model.ts";
import { oneLine, textFile } from "./text.ts";

export type QuestionItem = {
  /** Follows "Claude wants to". */
  readonly what: string;
  /** Everything that the tool would do, or do it with. */
  readonly detail: string;
  /** The place that the tool works in; null for Claude's sandbox. */
  readonly where: string | null;
  /** Name of the file that holds the whole detail where it does not fit the screen. */
  readonly fileName: string;
};

export type Question = { readonly text: string; readonly file: OutboundFile | null };

export type QuestionOptions = {
  /** The person's own words. */
  readonly prompt: string;
  /** True in a group, where a bare yes is talk: the question asks for a reaction or a quote. */
  readonly isGroup?: boolean;
  /** Words for the tool uses that "always" would free from questions; null where it may not be said. */
  readonly mayAlways?: string | null;
};

const charsMax = 1_000;
const linesMax = 24;
const promptMax = 60;
/** Longer than any path, so that the place is shown whole. */
const placeMax = 1_000;

/** A single message that asks for all `items`, in their order. */
export function question(items: readonly QuestionItem[], options: QuestionOptions): Question {
  const shown = items.map((item) => ({
    ...item,
    what: visible(item.what).replaceAll(/[\n\t]/gu, byNumber),
    detail: visible(item.detail),
  }));
  const cuts = shown.map(({ detail }) => firstOf(detail, Math.max(1, items.length)));
  const isWhole = cuts.every(({ left }) => left === 0);
  const blocks = shown.map(({ what }, index) => block(what, cuts[index] ?? { text: "", left: 0 }));
  const asked = `as you asked “${shorten(oneLine(options.prompt, 200) ?? "", promptMax)}”`;
  const between = blocks.some((text) => text.includes("\n")) ? "\n\n" : "\n";
  const head =
    blocks.length === 1
      ? `Claude wants to ${blocks[0] ?? ""}\n${placeOf(items)}, ${asked}`
      : `Claude wants to do ${blocks.length} things, ${asked}:\n\n${blocks.map((text, index) => `${index + 1}. ${text}`).join(between)}\n\n${placeOf(items)}.`;
  const text = `${head}\n${howTo(items.length, options)}`;
  return { text, file: isWhole ? null : fileOf(shown) };
}

function block(what: string, { text, left }: Cut): string {
  const rest = left === 0 ? "" : `\n… and ${left.toLocaleString("en")} characters more, in the file.`;
  if (text === "") return what + rest;
  return text.includes("\n") || left > 0 ? `${what}:\n${text}${rest}` : `${what}: ${text}`;
}

function placeOf(items: readonly QuestionItem[]): string {
  const places = new Set(items.map(({ where }) => where ?? "Claude's sandbox"));
  return `In ${[...places].map((place) => oneLine(visible(place), placeMax) ?? "").join(", ")}`;
}

function howTo(count: number, { isGroup = false, mayAlways = null }: QuestionOptions): string {
  const always = mayAlways === null ? "" : `\n♾️ or always: yes, and ${mayAlways} without asking.`;
  if (count === 1)
    return `${isGroup ? "👍 or 👎 on this message, or quote it with yes or no." : "👍 or yes, 👎 or no."}${always}`;
  const all = count === 2 ? "both" : `all ${count}`;
  const some = count === 2 ? "yes 1" : "yes 1 3";
  return isGroup
    ? `👍 or 👎 on this message for ${all}, or quote it with yes, no, or ${some}.${always}`
    : `👍 or yes for ${all}, 👎 or no for none; by number: ${some}.${always}`;
}

type Cut = { readonly text: string; readonly left: number };

/** The first lines of `detail`, or all of it where it fits; `left` counts the characters that are left out. */
function firstOf(detail: string, count: number): Cut {
  const chars = Array.from(detail);
  const byLines = detail
    .split("\n")
    .slice(0, Math.max(6, Math.floor(linesMax / count)))
    .join("\n");
  const most = Math.min(Array.from(byLines).length, Math.max(200, Math.floor(charsMax / count)));
  if (most >= chars.length) return { text: detail, left: 0 };
  const text = chars.slice(0, most).join("");
  // The cut moves back to the end of a line where that does not hide much.
  const lineEnd = text.lastIndexOf("\n");
  const kept = lineEnd > text.length / 2 ? text.slice(0, lineEnd) : text;
  return { text: kept, left: chars.length - Array.from(kept).length };
}

function fileOf(items: readonly QuestionItem[]): OutboundFile {
  const [only, ...others] = items;
  const whole =
    only && others.length === 0
      ? `${only.detail}\n`
      : items.map(({ what, detail }, index) => `${index + 1}. ${what}\n\n${detail}\n`).join("\n");
  const fileName = only && others.length === 0 ? only.fileName : "question.txt";
  return textFile(fileName, whole);
}

/**
 * Shows hidden and misleading characters by their numbers: controls, marks that turn the direction of writing, blanks other than a space,
 * halves of surrogate pairs. Line breaks and tabs stay; so do the joiners inside an emoji.
 */
export function visible(text: string): string {
  return text
    .toWellFormed()
    .replaceAll(hidden, (found, index: number, whole: string) =>
      isInEmoji(found, whole.slice(Math.max(0, index - 4), index), whole.slice(index + 1, index + 3))
        ? found
        : byNumber(found),
    );
}

const hidden =
  /(?![\n\t])[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Variation_Selector}\p{Default_Ignorable_Code_Point}]|(?! )\p{Zs}|\uFFFD/gu;

const byNumber = (found: string): string =>
  `⟨U+${(found.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}⟩`;

const pictureEnd = /[\p{Extended_Pictographic}\p{Emoji_Modifier}#*0-9]\uFE0F?$/u;
const pictureStart = /^\p{Extended_Pictographic}/u;

function isInEmoji(found: string, before: string, after: string): boolean {
  const end = pictureEnd.test(before);
  if (found === "\uFE0F") return end && !before.endsWith("\uFE0F");
  return found === "\u200D" && end && pictureStart.test(after);
}

type Fields = { readonly [key: string]: JsonValue };

/** A tool use as an item of a question; a tool that is not known here shows every input. */
export function itemOf({ name, input }: ToolUse): QuestionItem {
  const fields: Fields = typeof input === "object" && input !== null && !Array.isArray(input) ? (input as Fields) : {};
  const known = writeItem(name, fields) ?? editItem(name, fields) ?? primaryItem(name, fields);
  if (known) return known;
  const line = JSON.stringify(input) ?? "";
  const detail = input === null ? "" : line.length > 80 ? JSON.stringify(input, null, 2) : line;
  return { what: `use ${oneLine(name) ?? "a tool"}`, detail, where: null, fileName: "inputs.json.txt" };
}

function primaryItem(name: string, fields: Fields): QuestionItem | null {
  const { verb, key } = ownTools.get(name) ?? { verb: "", key: "" };
  const { [key]: main, cwd, ...others } = fields;
  if (typeof main !== "string") return null;
  const where = typeof cwd === "string" ? cwd : null;
  return { what: verb, detail: [main, ...rest(others)].join("\n"), where, fileName: `${name}.txt` };
}

function writeItem(name: string, fields: Fields): QuestionItem | null {
  const { file_path: path, content, ...others } = fields;
  if (name !== "write" || typeof path !== "string" || typeof content !== "string") return null;
  const detail = [content === "" ? "(nothing: the file is emptied)" : content, ...rest(others)].join("\n");
  return { what: `write ${path}`, detail, where: null, fileName: "content.txt" };
}

function editItem(name: string, fields: Fields): QuestionItem | null {
  const { file_path: path, old_string: before, new_string: after, replace_all: isAll, ...others } = fields;
  if (name !== "edit" || typeof path !== "string" || typeof before !== "string" || typeof after !== "string")
    return null;
  const where = isAll === true ? "every occurrence in " : "";
  const detail = [changeOf(before, after), ...rest(others)].join("\n");
  return { what: `edit ${where}${path}`, detail, where: null, fileName: "change.diff.txt" };
}

/** Inputs besides the one that tells most, each on one line. */
const rest = (fields: Fields): string[] =>
  Object.entries(fields).map(([key, value]) => `(${key}: ${JSON.stringify(value)})`);

/** The lines that an edit takes away and puts in, with the lines around them. */
export function changeOf(before: string, after: string): string {
  // `before` and `after` are parts of a file, so how their last line ends does not matter.
  const patch = structuredPatch("", "", `${before}\n`, `${after}\n`, "", "", { context: 3, maxEditLength: 2_000 });
  const marked = (text: string, sign: string): string[] => text.split("\n").map((line) => sign + line);
  // `structuredPatch` gave up, as the texts differ so much that a line by line comparison would take long.
  if (!patch) return [...marked(before, "-"), ...marked(after, "+")].join("\n");
  if (patch.hunks.length === 0) return "(no change)";
  return patch.hunks.map(({ lines }) => lines.join("\n")).join("\n…\n");
}

// --- one line

const lineLengthMax = 80;
/** Names of inputs that tell what a tool use is about, the most telling first. */
const tellingKeys = ["command", "file_path", "path", "url", "query", "pattern"];

/**
 * The agent's own tools, each with a verb and the input that tells most; any other tool is called by its name. **Source:** the SDK's
 * `BetaManagedAgentsAgentToolConfig.name`; the Managed Agents guide, "Tools".
 */
const ownTools: ReadonlyMap<string, { readonly verb: string; readonly key: string }> = new Map([
  ["bash", { verb: "run", key: "command" }],
  ["read", { verb: "read", key: "file_path" }],
  ["write", { verb: "write", key: "file_path" }],
  ["edit", { verb: "edit", key: "file_path" }],
  ["glob", { verb: "look for", key: "pattern" }],
  ["grep", { verb: "look for", key: "pattern" }],
  ["web_fetch", { verb: "read", key: "url" }],
  ["web_search", { verb: "search the web", key: "query" }],
]);

/** A tool use in one line: what Claude does, and with what. */
export const toolLine = ({ name, input }: ToolUse): string =>
  shorten(`🔧 ${ownTools.get(name.replace(/^local_/u, ""))?.verb ?? name}: ${gist(input)}`, lineLengthMax);

function gist(input: JsonValue): string {
  const fields = new Map(Object.entries(input ?? {}));
  const known = tellingKeys
    .map((key) => fields.get(key))
    .find((value): value is string => typeof value === "string" && value !== "");
  return known ?? (input === null ? "" : JSON.stringify(input));
}

const halfPair = /[\uD800-\uDBFF]$/u;

/** The text on one line, cut where it is too long, never inside a surrogate pair. */
export function shorten(text: string, lengthMax: number): string {
  const line = text.replace(/\s+/gu, " ").trim();
  return line.length > lengthMax ? `${line.slice(0, lengthMax - 1).replace(halfPair, "")}…` : line;
}
