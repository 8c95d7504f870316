/**
 * Wire events of Managed Agents as entries of our log, and frames of the live stream. Total: what is unknown, or comes from
 * the future, becomes `other`; only what has no id at all is dropped.
 * **Source:** claude/CLAUDE-API.md sections 1.4 to 1.9 and 5.2.
 */
import type { JsonValue, Millis, SessionEvent, StopReason } from "../core/model.ts";

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
  if (id === "") return null;
  return { id, at: toMillis(event["processed_at"]), ...bodyOf(event) };
}

type Body = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;

function bodyOf(event: Fields): Body {
  const name = string(event["type"]);
  switch (name) {
    case "user.message":
      return { type: "prompt", text: textOf(event["content"]) };
    case "agent.message":
      return { type: "reply", text: textOf(event["content"]) };
    case "agent.tool_use":
    case "agent.mcp_tool_use":
    case "agent.custom_tool_use":
      return {
        type: "tool_use",
        name: string(event["name"]),
        input: toInput(event["input"]),
        isAsk: event["evaluated_permission"] === "ask",
      };
    case "agent.tool_result":
    case "user.tool_result":
      return toolResult(event, "tool_use_id");
    case "agent.mcp_tool_result":
      return toolResult(event, "mcp_tool_use_id");
    case "user.custom_tool_result":
      return toolResult(event, "custom_tool_use_id");
    case "user.tool_confirmation":
      return { type: "confirmation", toolUseId: string(event["tool_use_id"]), isAllowed: event["result"] === "allow" };
    default:
      return sessionBody(name, event);
  }
}

function sessionBody(name: string, event: Fields): Body {
  switch (name) {
    case "session.status_running":
      return { type: "running" };
    case "session.status_idle":
      return { type: "idle", stop: toStop(fields(event["stop_reason"]), fields(event["stop_details"])) };
    case "session.status_terminated":
      return { type: "terminated" };
    case "session.error": {
      const error = fields(event["error"]);
      const retry = fields(error["retry_status"])["type"];
      return {
        type: "error",
        code: string(error["type"]),
        retry: retry === "exhausted" || retry === "terminal" ? retry : "retrying",
      };
    }
    case "session.updated":
      return {
        type: "updated",
        title: typeof event["title"] === "string" ? event["title"] : null,
        metadata: event["metadata"] === undefined || event["metadata"] === null ? null : toMetadata(event["metadata"]),
      };
    case "session.usage": {
      const usage = fields(event["usage"]);
      const { amount } = fields(usage["list_cost"]);
      const cents = typeof amount === "string" || typeof amount === "number" ? Number(amount) : Number.NaN;
      return {
        type: "usage",
        inputTokens: count(usage["input_tokens"]),
        outputTokens: count(usage["output_tokens"]),
        costCents: Number.isFinite(cents) ? cents : null,
      };
    }
    default:
      return { type: "other", name: name === "" ? "unknown" : name };
  }
}

const toIds = (ids: unknown): readonly string[] =>
  Array.isArray(ids) ? ids.filter((id: unknown) => typeof id === "string") : [];

/** Nested deeper than this, writing it down could overflow the stack: it is left out. */
const depthMax = 100;
const isShallow = (value: unknown, depth = 0): boolean =>
  typeof value !== "object" ||
  value === null ||
  (depth < depthMax && Object.values(value).every((inner) => isShallow(inner, depth + 1)));

const toInput = (input: unknown): JsonValue => (isShallow(input) ? ((input ?? null) as JsonValue) : null);

const toolResult = (event: Fields, idKey: string): Body => ({
  type: "tool_result",
  toolUseId: string(event[idKey]),
  isError: event["is_error"] === true,
});

function toStop(reason: Fields, details: Fields): StopReason {
  const kind = string(reason["type"]);
  switch (kind) {
    case "end_turn":
    case "retries_exhausted":
    case "budget_reached":
      return { kind };
    case "requires_action":
      return { kind, eventIds: toIds(reason["event_ids"]) };
    case "refusal":
      return { kind, category: typeof details["category"] === "string" ? details["category"] : null };
    default:
      return { kind: "other", name: kind === "" ? "unknown" : kind };
  }
}

/** The string entries of a metadata bag. */
export function toMetadata(bag: unknown): { readonly [key: string]: string } {
  return Object.fromEntries(
    Object.entries(fields(bag)).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}

/** RFC 3339 as Unix ms; null where there is none. */
function toMillis(time: unknown): Millis | null {
  const at = typeof time === "string" ? Date.parse(time) : Number.NaN;
  return Number.isNaN(at) ? null : at;
}

/** The text blocks of a content list in one piece: citations cut a sentence into several blocks. */
export const textOf = (content: unknown): string =>
  Array.isArray(content)
    ? content
        .map(fields)
        .filter((block) => block["type"] === "text")
        .map((block) => string(block["text"]))
        .join("")
    : "";

/** An object's fields; of anything else, none. */
export const fields = (value: unknown): Fields =>
  typeof value === "object" && value !== null ? (value as Fields) : {};

const string = (value: unknown): string => (typeof value === "string" ? value : "");
const count = (value: unknown): number => (typeof value === "number" ? value : 0);
