/**
 * Wire and program: events of Managed Agents as entries of our log, frames of the live stream, prompts as content blocks.
 * Total: what is unknown, or comes from the future, becomes `other`; only what has no id at all is dropped.
 * **Source:** claude/CLAUDE-API.md sections 1.4 to 1.9 and 5.2.
 */
import { BridgeError } from "../core/errors.ts";
import type { JsonValue, Millis, PromptFile, SessionEvent, StopReason } from "../core/model.ts";

/** One frame of a live session stream. Its end, for whatever reason, is a drop: a stream never says that a turn is over. */
export type Frame =
  | { readonly kind: "event"; readonly event: SessionEvent }
  /** A preview of the message `eventId` begins, or goes on by `text`. */
  | { readonly kind: "start"; readonly eventId: string }
  | { readonly kind: "delta"; readonly eventId: string; readonly text: string }
  /** The session was deleted. Appears on the stream only. */
  | { readonly kind: "deleted" }
  /** Not one byte for as long as the watchdog waits; it comes again after as long again. */
  | { readonly kind: "silent" };

type Fields = { readonly [key: string]: unknown };

/** An object's fields; of anything else, none. */
export const fields = (value: unknown): Fields =>
  typeof value === "object" && value !== null ? (value as Fields) : {};
export const string = (value: unknown): string => (typeof value === "string" ? value : "");
export const count = (value: unknown): number => (typeof value === "number" ? value : 0);

/** The id of what the API answered with. @throws BridgeError `claude_protocol` */
export function idOf(wire: unknown, what: string): string {
  const id = string(fields(wire)["id"]);
  if (id === "") throw new BridgeError("claude_protocol", `Cannot ${what} as the answer has no id`);
  return id;
}

/** RFC 3339 as Unix ms; null where there is none. */
export function toMillis(time: unknown): Millis | null {
  const at = Date.parse(string(time));
  return Number.isNaN(at) ? null : at;
}

/** The text blocks of a content list in one piece: citations cut a sentence into several blocks. */
const textOf = (content: unknown): string =>
  (Array.isArray(content) ? content : [])
    .map(fields)
    .map((block) => (block["type"] === "text" ? string(block["text"]) : ""))
    .join("");

/** The string entries of a metadata bag. */
export const toMetadata = (bag: unknown): { readonly [key: string]: string } =>
  Object.fromEntries(
    Object.entries(fields(bag)).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );

/** The frame of a parsed SSE `data`, or null for what says nothing to us. */
export function toFrame(wire: unknown): Frame | null {
  const frame = fields(wire);
  switch (frame["type"]) {
    case "event_start": {
      const event = fields(frame["event"]);
      return event["type"] === "agent.message" ? { kind: "start", eventId: string(event["id"]) } : null;
    }
    case "event_delta": {
      const text = string(fields(fields(frame["delta"])["content"])["text"]);
      return text === "" ? null : { kind: "delta", eventId: string(frame["event_id"]), text };
    }
    case "session.deleted":
      return { kind: "deleted" };
    default: {
      const event = toSessionEvent(wire);
      return event && { kind: "event", event };
    }
  }
}

/** The log entry of a wire event; null where it has no id. */
export function toSessionEvent(wire: unknown): SessionEvent | null {
  const event = fields(wire);
  const id = string(event["id"]);
  const name = string(event["type"]) || "unknown";
  if (id === "") return null;
  const body = Object.hasOwn(bodies, name) ? bodies[name]?.(event) : undefined;
  return { id, at: toMillis(event["processed_at"]), ...(body ?? { type: "other", name }) };
}

type Body = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;

const toolUse = (event: Fields): Body => ({
  type: "tool_use",
  name: string(event["name"]),
  input: toInput(event["input"]),
  isAsk: event["evaluated_permission"] === "ask",
});

const toolResult =
  (idKey: string) =>
  (event: Fields): Body => ({
    type: "tool_result",
    toolUseId: string(event[idKey]),
    isError: event["is_error"] === true,
  });

const bodies: { readonly [name: string]: (event: Fields) => Body } = {
  "user.message": (event) => ({ type: "prompt", text: textOf(event["content"]) }),
  "agent.message": (event) => ({ type: "reply", text: textOf(event["content"]) }),
  "agent.tool_use": toolUse,
  "agent.mcp_tool_use": toolUse,
  "agent.custom_tool_use": toolUse,
  "agent.tool_result": toolResult("tool_use_id"),
  "user.tool_result": toolResult("tool_use_id"),
  "agent.mcp_tool_result": toolResult("mcp_tool_use_id"),
  "user.custom_tool_result": toolResult("custom_tool_use_id"),
  "user.tool_confirmation": (event) => ({
    type: "confirmation",
    toolUseId: string(event["tool_use_id"]),
    isAllowed: event["result"] === "allow",
  }),
  "session.status_running": () => ({ type: "running" }),
  "session.status_idle": (event) => ({
    type: "idle",
    stop: toStop(fields(event["stop_reason"]), fields(event["stop_details"])),
  }),
  "session.status_terminated": () => ({ type: "terminated" }),
  "session.error": (event) => {
    const error = fields(event["error"]);
    const retry = fields(error["retry_status"])["type"];
    return {
      type: "error",
      code: string(error["type"]),
      retry: retry === "exhausted" || retry === "terminal" ? retry : "retrying",
    };
  },
  "session.updated": ({ title, metadata }) => ({
    type: "updated",
    title: typeof title === "string" ? title : null,
    metadata: metadata === undefined || metadata === null ? null : toMetadata(metadata),
  }),
  "session.usage": (event) => {
    const usage = fields(event["usage"]);
    const { amount } = fields(usage["list_cost"]);
    const cents = typeof amount === "string" || typeof amount === "number" ? Number(amount) : Number.NaN;
    return {
      type: "usage",
      inputTokens: count(usage["input_tokens"]),
      outputTokens: count(usage["output_tokens"]),
      costCents: Number.isFinite(cents) ? cents : null,
    };
  },
};

/** Nested deeper than this, writing it down could overflow the stack: it is left out. */
const depthMax = 100;
const isShallow = (value: unknown, depth = 0): boolean =>
  typeof value !== "object" ||
  value === null ||
  (depth < depthMax && Object.values(value).every((inner) => isShallow(inner, depth + 1)));

const toInput = (input: unknown): JsonValue => (isShallow(input) ? ((input ?? null) as JsonValue) : null);

function toStop(reason: Fields, details: Fields): StopReason {
  const kind = string(reason["type"]);
  switch (kind) {
    case "end_turn":
    case "retries_exhausted":
    case "budget_reached":
      return { kind };
    case "requires_action": {
      const ids: unknown = reason["event_ids"];
      return { kind, eventIds: Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [] };
    }
    case "refusal":
      return { kind, category: string(details["category"]) || null };
    default:
      return { kind: "other", name: kind || "unknown" };
  }
}

type PromptBlock = ReturnType<typeof toBlock> | { readonly type: "text"; readonly text: string };

/** A prompt, the same for Managed Agents and Messages: files first, then the text; never empty, nor with an empty block (refused). */
export function toBlocks(text: string, files: readonly PromptFile[]): PromptBlock[] {
  const blocks: PromptBlock[] = files.map(toBlock);
  if (text.trim() !== "") blocks.push({ type: "text", text });
  return blocks.length > 0 ? blocks : [{ type: "text", text: "(an empty message)" }];
}

type ImageType = "image/jpeg" | "image/png" | "image/gif" | "image/webp";
const isImage = (type: string): type is ImageType => /^image\/(jpeg|png|gif|webp)$/u.test(type);
const textLike = /^text\/|^application\/(json|xml|yaml|toml|x-sh)$/u;

function toBlock({ contentType, fileName, base64 }: PromptFile) {
  const type = contentType.toLowerCase().split(";")[0]?.trim() ?? "";
  const title = fileName === null ? {} : { title: fileName };
  if (isImage(type)) return { type: "image", source: { type: "base64", media_type: type, data: base64 } } as const;
  if (type === "application/pdf")
    return { type: "document", source: { type: "base64", media_type: type, data: base64 }, ...title } as const;
  const text = textLike.test(type) ? new TextDecoder().decode(Uint8Array.fromBase64(base64)) : "";
  // Never a text block: a prompt of unknown fate is known again by its text alone.
  const data = text.trim() === "" ? `[This file (${type}) is empty, or could not be read here.]` : text;
  return { type: "document", source: { type: "text", media_type: "text/plain", data }, ...title } as const;
}
