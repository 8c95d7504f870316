/**
 * Translates between wire and program: a prompt to content blocks, the same for every line; events of Managed Agents to entries of our
 * log, and frames of the live stream. No event fails: one of an unknown or future type becomes `other`; only one without an id is dropped.
 * **Source:** the SDK's types `BetaManagedAgentsSessionEvent` and `BetaManagedAgentsStreamSessionEvents`.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import { BridgeError } from "../core/errors.ts";
import type { JsonValue, Millis, PromptFile, SessionEvent, StopReason } from "../core/model.ts";
import type { Frame, LocalTool, Request } from "./line.ts";

export type Fields = { readonly [key: string]: unknown };

/** The fields of an object; none for any other value. */
export const fields = (value: unknown): Fields =>
  typeof value === "object" && value !== null ? (value as Fields) : {};
export const string = (value: unknown): string => (typeof value === "string" ? value : "");
export const count = (value: unknown): number => (typeof value === "number" ? value : 0);

/** The id of the object that the API answered with. @throws BridgeError `claude_protocol` */
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

const isText = (block: Fields): boolean => block["type"] === "text" && string(block["text"]) !== "";
const isCited = (block: Fields): boolean => Array.isArray(block["citations"]);

/**
 * Joins the text blocks of a content list: with a blank line in between, but without one where citations have cut a sentence into
 * blocks.
 */
export function textOfBlocks(content: unknown): string {
  const blocks = (Array.isArray(content) ? content : []).map(fields);
  return blocks.reduce((all, block, index) => {
    if (!isText(block)) return all;
    const text = string(block["text"]);
    const before = blocks[index - 1];
    const isOneSentence = before !== undefined && isText(before) && (isCited(before) || isCited(block));
    const isJoined = all === "" || isOneSentence || /\s$/u.test(all) || /^[\s,.;:!?)\]»”’]/u.test(text);
    return all + (isJoined ? "" : "\n\n") + text;
  }, "");
}

/** The string entries of a metadata bag. */
export const toMetadata = (bag: unknown): { readonly [key: string]: string } =>
  Object.fromEntries(
    Object.entries(fields(bag)).filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );

/**
 * Reads one stream: the frame of each parsed SSE `data`, or null for one that has no meaning here. A preview without its start is
 * dropped, as the tail of a message that began before we listened.
 */
export function createFrameReader(): (wire: unknown) => Frame | null {
  const started = new Set<string>();
  return (wire) => {
    const frame = fields(wire);
    switch (frame["type"]) {
      case "event_start": {
        const event = fields(frame["event"]);
        if (event["type"] === "agent.message") started.add(string(event["id"]));
        return null;
      }
      case "event_delta": {
        const text = string(fields(fields(frame["delta"])["content"])["text"]);
        const eventId = string(frame["event_id"]);
        return text === "" || !started.has(eventId) ? null : { kind: "delta", eventId, text };
      }
      case "session.deleted":
        return { kind: "deleted" };
      default: {
        const event = toSessionEvent(wire);
        if (event) started.delete(event.id);
        return event && { kind: "event", event };
      }
    }
  };
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

const replyLengthMax = 5 * 2 ** 20;

type Body = SessionEvent extends infer E ? (E extends SessionEvent ? Omit<E, "id" | "at"> : never) : never;

const toolUse =
  (isLocal: boolean) =>
  (event: Fields): Body => ({
    type: "tool_use",
    name: string(event["name"]),
    input: toInput(event["input"]),
    isAsk: event["evaluated_permission"] === "ask",
    isLocal,
  });

const toolResult =
  (idKey: string) =>
  (event: Fields): Body => ({
    type: "tool_result",
    toolUseId: string(event[idKey]),
    isError: event["is_error"] === true,
  });

const bodies: { readonly [name: string]: (event: Fields) => Body } = {
  "user.message": (event) => ({ type: "prompt", text: textOfBlocks(event["content"]) }),
  "agent.message": (event) => {
    // A longer reply is cut: no person is ever shown more of it (`core/reply.ts`).
    const text = textOfBlocks(event["content"]).slice(0, replyLengthMax);
    // A blank reply counts as no reply.
    return text.trim() === "" ? { type: "other", name: "agent.message" } : { type: "reply", text };
  },
  "agent.tool_use": toolUse(false),
  "agent.mcp_tool_use": toolUse(false),
  "agent.custom_tool_use": toolUse(true),
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
  "session.status_idle": (event) => ({ type: "idle", stop: toStop(fields(event["stop_reason"])) }),
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
      inputTokens: tokensRead(usage),
      outputTokens: count(usage["output_tokens"]),
      costCents: Number.isFinite(cents) ? cents : null,
      isTotal: true,
    };
  },
};

/** All input tokens, with those read from the cache and those written to it. */
export const tokensRead = (usage: Fields): number =>
  count(usage["input_tokens"]) + count(usage["cache_read_input_tokens"]) + cacheWrites(usage);

/** Tokens that were written to the cache: the API gives one number, or one for each time that they are kept. */
export const cacheWrites = (usage: Fields): number =>
  count(usage["cache_creation_input_tokens"]) ||
  Object.values(fields(usage["cache_creation"])).reduce<number>((sum, tokens) => sum + count(tokens), 0);

/** A value that is nested deeper is left out, since `JSON.stringify` could overflow the stack. */
const depthMax = 100;
const isShallow = (value: unknown, depth = 0): boolean =>
  typeof value !== "object" ||
  value === null ||
  (depth < depthMax && Object.values(value).every((inner) => isShallow(inner, depth + 1)));

export const toInput = (input: unknown): JsonValue => (isShallow(input) ? ((input ?? null) as JsonValue) : null);

function toStop(reason: Fields): StopReason {
  const kind = string(reason["type"]);
  switch (kind) {
    case "end_turn":
    case "retries_exhausted":
    case "budget_reached":
    case "refusal":
      return { kind };
    case "requires_action": {
      const ids: unknown = reason["event_ids"];
      return { kind, eventIds: Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [] };
    }
    default:
      return { kind: "other", name: kind || "unknown" };
  }
}

// --- a prompt: files first, then the text. `core/filetype.ts` told the type of each file, and that Claude takes it, when it was fetched.

export type PromptBlock = ReturnType<typeof toBlock> | { readonly type: "text"; readonly text: string };
type ImageType = "image/jpeg" | "image/png" | "image/gif" | "image/webp";

/**
 * The content blocks of a prompt: at least one, and none empty, since the API refuses both.
 * @param mounted the words for the place of each file that Claude reads by its tools
 */
export function toBlocks(
  text: string,
  files: readonly PromptFile[],
  mounted: ReadonlyMap<PromptFile, string> = new Map(),
): PromptBlock[] {
  const blocks = files.map((file): PromptBlock => toBlock(file, mounted.get(file)));
  if (text.trim() !== "") blocks.push({ type: "text", text });
  return blocks.length > 0 ? blocks : [{ type: "text", text: "(an empty message)" }];
}

/** Characters of base64: a longer text is easier read in a sandbox, where there is one. */
const inlineTextMax = 64 * 1024;

const isImage = ({ contentType }: PromptFile): boolean => /^image\/(jpeg|png|gif|webp)$/u.test(contentType);
const isPdf = ({ contentType }: PromptFile): boolean => contentType === "application/pdf";
const isTextFile = ({ contentType }: PromptFile): boolean => contentType.startsWith("text/plain");

/** True for a file that goes along as a block of its own; a sandbox may be able to read any other. */
export const isReadable = (file: PromptFile): boolean =>
  isImage(file) || isPdf(file) || (isTextFile(file) && file.base64.length < inlineTextMax);

function toBlock(file: PromptFile, place: string | undefined) {
  const { contentType, base64: data } = file;
  if (place !== undefined) return toNote(file, place);
  if (isImage(file))
    return { type: "image", source: { type: "base64", media_type: contentType as ImageType, data } } as const;
  if (isPdf(file))
    return {
      type: "document",
      source: { type: "base64", media_type: "application/pdf", data },
      ...titleOf(file),
    } as const;
  if (isTextFile(file)) return toDocument(file, new TextDecoder().decode(Uint8Array.fromBase64(data)));
  return toNote(file, "is of a kind that cannot be read here");
}

const titleOf = ({ fileName }: PromptFile): { title?: string } => (fileName === null ? {} : { title: fileName });

const toDocument = (file: PromptFile, data: string) =>
  ({ type: "document", source: { type: "text", media_type: "text/plain", data }, ...titleOf(file) }) as const;

/** Words in place of a file. They are no text block, since a prompt of unknown outcome is found by its text alone. */
const toNote = (file: PromptFile, what: string) =>
  toDocument(file, `[The file ${file.fileName ?? "without a name"} (${file.contentType}) ${what}.]`);

export type SentEvent = Anthropic.Beta.Sessions.EventSendParams["events"][number];
/** **Source:** SDK type `BetaManagedAgentsUserToolConfirmationEventParams`. */
const denyMessageMax = 10_000;

/** @param mounted the words for the place of each file that does not go along as a block */
export const toSentEvents = (requests: readonly Request[], mounted: ReadonlyMap<PromptFile, string>): SentEvent[] =>
  requests.map((request) => {
    switch (request.kind) {
      case "prompt":
        return { type: "user.message", content: toBlocks(request.text, request.files, mounted) };
      case "confirm":
        return {
          type: "user.tool_confirmation",
          tool_use_id: request.toolUseId,
          result: request.isAllowed ? "allow" : "deny",
          ...(request.isAllowed || request.reason === null
            ? {}
            : { deny_message: request.reason.slice(0, denyMessageMax) }),
        };
      case "result":
        return {
          type: "user.custom_tool_result",
          custom_tool_use_id: request.toolUseId,
          content: [{ type: "text", text: request.text.trim() === "" ? "(no output)" : request.text }],
          is_error: request.isError,
        };
      case "interrupt":
        return { type: "user.interrupt" };
    }
  });

/** A tool of ours as both APIs take it. */
export const toToolParam = ({ name, description, inputSchema }: LocalTool) => ({
  name,
  description,
  input_schema: { ...inputSchema, type: "object" as const },
});
