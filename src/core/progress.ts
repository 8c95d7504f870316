/** What the phone shows while Claude is at work: a placeholder now and then, tool uses, and questions for a yes or no. */
import type { JsonValue, Millis, SessionEvent } from "./model.ts";

export type DraftState = {
  /** Monotonic time at which the turn began. */
  readonly startedAt: Millis;
  /** Of the last change; null before the first. */
  readonly changedAt: Millis | null;
  /** Changes so far, the first showing included. */
  readonly changes: number;
};

const firstAfterMs = 4_000;
const editAfterMs = 4_000;
/** Signal's clients take ten edits of a message at most, the answer included. **Source:** signal/SIGNAL-NATIVE.md 4.7. */
const changesMax = 6;

/** True where the placeholder may be shown or changed now: after 4 s, then 4, 8, 16 … s after the last change, six times in all. */
export function isDraftDue({ startedAt, changedAt, changes }: DraftState, now: Millis): boolean {
  if (changes >= changesMax) return false;
  if (changedAt === null) return now - startedAt >= firstAfterMs;
  return now - changedAt >= editAfterMs * 2 ** Math.max(0, changes - 1);
}

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
  const fields = new Map(Object.entries(input ?? {}));
  return (
    keys.map((key) => fields.get(key)).find((value): value is string => typeof value === "string" && value !== "") ??
    null
  );
}

const halfPair = /[\uD800-\uDBFF]$/u;

/** On one line, and cut where it is too long, never inside a surrogate pair. */
export function shorten(text: string, lengthMax: number): string {
  const line = text.replace(/\s+/gu, " ").trim();
  return line.length > lengthMax ? `${line.slice(0, lengthMax - 1).replace(halfPair, "")}…` : line;
}
