/** What the phone shows while Claude is at work: a placeholder now and then, and tool uses. */
import type { JsonValue, Millis, ToolUse } from "./model.ts";

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
/** Signal's clients offer ten edits of a message at most; the answer, or the word that takes its place, is one of them. */
const changesMax = 6;
/** Phones take no edit of a message that is older than a day (Android) or two (iOS): an hour is left for its way. */
export const editedWithinMs: Millis = 23 * 3_600_000;
/** An edit rings no phone: who has waited longer than this for the answer has put the phone away. */
export const silentWithinMs: Millis = 30_000;

/** True where the placeholder may be shown or changed now: after 4 s, then 4, 8, 16 … s after the last change, six times in all. */
export function isDraftDue({ startedAt, changedAt, changes }: DraftState, now: Millis): boolean {
  if (changes >= changesMax) return false;
  if (changedAt === null) return now - startedAt >= firstAfterMs;
  return now - changedAt >= editAfterMs * 2 ** Math.max(0, changes - 1);
}

const lineLengthMax = 80;
/** What a tool is about, by the names its inputs go by, the most telling first. */
const tellingKeys = ["command", "file_path", "path", "url", "query", "pattern"];

/**
 * What the agent's own tools do, and the input that tells most; another one goes by its name. **Source:** the SDK's
 * `BetaManagedAgentsAgentToolConfig.name`; the Managed Agents guide, "Tools".
 */
export const ownTools: ReadonlyMap<string, { readonly verb: string; readonly key: string }> = new Map([
  ["bash", { verb: "run", key: "command" }],
  ["read", { verb: "read", key: "file_path" }],
  ["write", { verb: "write", key: "file_path" }],
  ["edit", { verb: "edit", key: "file_path" }],
  ["glob", { verb: "look for", key: "pattern" }],
  ["grep", { verb: "look for", key: "pattern" }],
  ["web_fetch", { verb: "read", key: "url" }],
  ["web_search", { verb: "search the web", key: "query" }],
]);

/** One line: what Claude does, and with what. */
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

/** On one line, and cut where it is too long, never inside a surrogate pair. */
export function shorten(text: string, lengthMax: number): string {
  const line = text.replace(/\s+/gu, " ").trim();
  return line.length > lengthMax ? `${line.slice(0, lengthMax - 1).replace(halfPair, "")}…` : line;
}
