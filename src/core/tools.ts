/** Claude's tool uses in a phone's words. */
import type { JsonValue, SessionEvent } from "./model.ts";

type ToolUse = SessionEvent & { readonly type: "tool_use" };

const lineLengthMax = 80;
/** What a tool is about, by the names its inputs go by, the most telling first. */
const tellingKeys = ["command", "file_path", "path", "url", "query", "pattern"];
const placeKeys = ["file_path", "path", "url", "cwd"];

/** One line: the tool and what it is about. */
export const toolLine = ({ name, input }: ToolUse): string => shorten(`🔧 ${name}: ${gist(input)}`, lineLengthMax);

/** What, where and why, in three lines, and how to answer. `count`: questions that are open at the same time. */
export function question(ask: ToolUse | null, prompt: string, count: number): string {
  const what = ask
    ? `Claude wants to use ${ask.name}: ${shorten(gist(ask.input), 300)}`
    : "Claude wants to use a tool.";
  const where = `Where: ${(ask && valueOf(ask.input, placeKeys)) ?? "Claude's sandbox"}`;
  const how = count > 1 ? `👍 yes, 👎 no; /approve or /deny answers all ${count}.` : "👍 or yes, 👎 or no.";
  return [what, shorten(where, lineLengthMax), `Why: you asked “${shorten(prompt, 60)}”`, how].join("\n");
}

function gist(input: JsonValue): string {
  const known = valueOf(input, tellingKeys);
  return known ?? (input === null ? "" : JSON.stringify(input));
}

function valueOf(input: JsonValue, keys: readonly string[]): string | null {
  if (typeof input !== "object" || input === null) return null;
  const fields = new Map(Object.entries(input));
  const found = keys.map((key) => fields.get(key)).find((value) => typeof value === "string" && value !== "");
  return typeof found === "string" ? found : null;
}

const halfPair = /[\uD800-\uDBFF]$/u;

/** On one line, and cut where it is too long, never inside a surrogate pair. */
export function shorten(text: string, lengthMax: number): string {
  const line = text.replace(/\s+/gu, " ").trim();
  return line.length > lengthMax ? `${line.slice(0, lengthMax - 1).replace(halfPair, "")}…` : line;
}
