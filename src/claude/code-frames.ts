/**
 * Frames that the `claude` program prints and reads, line by line, as entries of our log.
 *
 *   system init, user (echo)   the prompt was taken         control_request can_use_tool   it asks
 *   stream_event               text as it is written        result                         the turn is over
 *   assistant, user            what was said and done
 *
 * **Source:** Claude Code 2.1's own schemas of its stream (`--output-format stream-json`), seen at work against a local API.
 */
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { JsonValue, Millis, SessionEvent, StopReason } from "../core/model.ts";
import { count, fields, string, tokensRead, type Fields } from "./wire.ts";

export type PermissionAsk = { readonly requestId: string; readonly useId: string; readonly input: JsonValue };

/**
 * The last text of each message, so that no person's words are the last: the program takes the last text for typed input and puts files
 * that it names by `@path` into the conversation, unasked and from anywhere.
 */
const inputEnd = { type: "text", text: "(from the phone)" };

export const userFrame = (uuid: string, content: readonly JsonValue[]): object => {
  const message = { role: "user", content: [...content, inputEnd] };
  return { type: "user", uuid, session_id: "", parent_tool_use_id: null, message };
};
export const controlFrame = (request_id: string, request: object): object => ({
  type: "control_request",
  request_id,
  request,
});
const responseFrame = (request_id: string, response: object): object => ({
  type: "control_response",
  response: { request_id, ...response },
});
/** `refusal`: the words of a no; null for a yes. */
export function answerFrame({ requestId, useId, input }: PermissionAsk, refusal: string | null): object {
  const answer = refusal === null ? { behavior: "allow", updatedInput: input } : { behavior: "deny", message: refusal };
  return responseFrame(requestId, { subtype: "success", response: { ...answer, toolUseID: useId } });
}
export const unservedFrame = (requestId: string): object =>
  responseFrame(requestId, { subtype: "error", error: "signalman does not do that" });

export type SeenFrame =
  | { readonly kind: "text"; readonly eventId: string; readonly text: string }
  | { readonly kind: "events"; readonly events: readonly SessionEvent[] }
  | { readonly kind: "asks"; readonly ask: PermissionAsk; readonly events: readonly SessionEvent[] }
  /** A request of the program that we do not serve: it gets a refusal, or it would wait. */
  | { readonly kind: "unserved"; readonly requestId: string }
  | { readonly kind: "taken" }
  | { readonly kind: "echo"; readonly uuid: string }
  | { readonly kind: "over"; readonly result: Fields }
  | null;

const isBlock =
  (type: string) =>
  (block: Fields): boolean =>
    block["type"] === type;
const blocksOf = (frame: Fields): Fields[] => {
  const { content } = fields(frame["message"]);
  return Array.isArray(content) ? content.map(fields) : [];
};

/** The state of one turn so far. `now`: the time that its entries get. */
const createReading = (now: () => Millis) => ({
  now,
  /** Count the texts of each message in the stream and in the answer: equal numbers give the preview and the reply the same id. */
  shown: new Map<string, number>(),
  said: new Map<string, number>(),
  /** Tool uses without a result or a question yet. */
  uses: new Map<string, SessionEvent>(),
  asked: new Set<string>(),
  messageId: "",
  /** Text of the stream that is in no entry yet. */
  partial: "",
  fault: "",
  limitedUntil: null as Millis | null,
});
type Reading = ReturnType<typeof createReading>;

export type TurnReader = ReturnType<typeof createTurnReader>;

/** Reads one turn. */
export function createTurnReader(now: () => Millis) {
  const reading = createReading(now);
  return {
    partial: () => reading.partial,
    read: (frame: unknown): SeenFrame => read(reading, fields(frame)),
    /** @throws BridgeError where the turn failed */
    end(result: Fields, costBefore: number): readonly SessionEvent[] {
      const stop = toStop(result, reading);
      const id = string(result["uuid"]);
      const used = fields(result["usage"]);
      const inputTokens = tokensRead(used);
      const costCents = (count(result["total_cost_usd"]) - costBefore) * 100;
      const outputTokens = count(used["output_tokens"]);
      return [
        { id: `${id}:usage`, at: now(), type: "usage", inputTokens, outputTokens, costCents, isTotal: false },
        { id, at: now(), type: "idle", stop },
      ];
    },
  };
}

function read(reading: Reading, frame: Fields): SeenFrame {
  // The words of a subagent are not for the person; its questions are.
  const isOwn = (frame["parent_tool_use_id"] ?? null) === null;
  switch (frame["type"]) {
    case "stream_event":
      return isOwn ? readStream(reading, fields(frame["event"])) : null;
    case "assistant":
      return isOwn ? readAnswer(reading, frame) : null;
    case "user":
      return frame["isReplay"] === true
        ? { kind: "echo", uuid: string(frame["uuid"]) }
        : readResults(reading, blocksOf(frame));
    case "control_request":
      return readRequest(reading, string(frame["request_id"]), fields(frame["request"]));
    case "rate_limit_event": {
      const info = fields(frame["rate_limit_info"]);
      if (info["status"] === "rejected") reading.limitedUntil = count(info["resetsAt"]) * 1_000;
      return null;
    }
    case "system":
      // The program tries again by itself, but a fault that only a person can mend ends the turn at once.
      if (frame["subtype"] === "api_retry" && lasting.has(string(frame["error"])))
        return { kind: "over", result: { is_error: true, error: frame["error"] } };
      return frame["subtype"] === "init" ? { kind: "taken" } : null;
    case "result":
      return { kind: "over", result: frame };
    default:
      return null;
  }
}

function next(counts: Map<string, number>, id: string): string {
  counts.set(id, (counts.get(id) ?? 0) + 1);
  return `${id}:${counts.get(id)}`;
}

function readStream(reading: Reading, event: Fields): SeenFrame {
  const { type, delta } = event;
  const text = string(fields(delta)["text"]);
  if (type === "message_start") reading.messageId = string(fields(event["message"])["id"]);
  if (type === "content_block_start" && isBlock("text")(fields(event["content_block"])))
    next(reading.shown, reading.messageId);
  if (type !== "content_block_delta" || text === "") return null;
  reading.partial += text;
  return { kind: "text", eventId: `${reading.messageId}:${reading.shown.get(reading.messageId) ?? 1}`, text };
}

function readAnswer(reading: Reading, frame: Fields): SeenFrame {
  const messageId = string(fields(frame["message"])["id"]);
  reading.fault = string(frame["error"]);
  const events: SessionEvent[] = [];
  for (const block of blocksOf(frame)) {
    const { type, id, name, input } = block;
    const text = string(block["text"]);
    if (type === "text") reading.partial = "";
    // The program's words for a fault are not Claude's.
    if (type === "text" && text.trim() !== "" && reading.fault === "")
      events.push({ id: next(reading.said, messageId), at: reading.now(), type: "reply", text });
    if (type === "tool_use") reading.uses.set(string(id), toUse(reading, string(id), name, input, false));
  }
  return { kind: "events", events };
}

const toUse = ({ now }: Reading, id: string, name: unknown, input: unknown, isLocal: boolean): SessionEvent => ({
  id,
  at: now(),
  type: "tool_use",
  name: string(name),
  input: (input ?? null) as JsonValue,
  isAsk: false,
  isLocal,
});

export const toResultEvent = (toolUseId: string, at: Millis, isError: boolean): SessionEvent => {
  const id = `${toolUseId}:result`;
  return { id, at, type: "tool_result", toolUseId, isError };
};

function readResults({ uses, asked, now }: Reading, blocks: readonly Fields[]): SeenFrame {
  const events = blocks.filter(isBlock("tool_result")).flatMap((block): SessionEvent[] => {
    const toolUseId = string(block["tool_use_id"]);
    const use = uses.get(toolUseId);
    uses.delete(toolUseId);
    if (use === undefined && !asked.has(toolUseId)) return [];
    return [...(use ? [use] : []), toResultEvent(toolUseId, now(), block["is_error"] === true)];
  });
  return { kind: "events", events };
}

function readRequest(reading: Reading, requestId: string, request: Fields): SeenFrame {
  if (request["subtype"] !== "can_use_tool") return { kind: "unserved", requestId };
  const useId = string(request["tool_use_id"]) || requestId;
  const input = (request["input"] ?? null) as JsonValue;
  reading.uses.delete(useId);
  reading.asked.add(useId);
  const stop = { kind: "requires_action", eventIds: [useId] } as const;
  const use = toUse(reading, useId, request["tool_name"], input, true);
  const events = [use, { id: `${useId}:idle`, at: reading.now(), type: "idle", stop }] as const;
  return { kind: "asks", ask: { requestId, useId, input }, events };
}

/** The meaning of a word of `error`. **Source:** the program's own list of them. */
const faults: ReadonlyMap<string, ErrorCode> = new Map([
  ["authentication_failed", "claude_login"],
  ["oauth_org_not_allowed", "claude_login"],
  ["billing_error", "claude_credit"],
  ["rate_limit", "claude_rate_limited"],
  ["overloaded", "claude_overloaded"],
  ["model_not_found", "claude_model"],
  ["invalid_request", "claude_request"],
]);
const lasting: ReadonlySet<string> = new Set(["authentication_failed", "oauth_org_not_allowed", "billing_error"]);

function toStop(result: Fields, { fault, limitedUntil, now }: Reading): StopReason {
  const reason = string(result["stop_reason"]);
  if (result["is_error"] !== true) {
    return { kind: reason === "max_tokens" || reason === "refusal" ? reason : "end_turn" };
  }
  if (string(result["terminal_reason"]).startsWith("aborted")) return { kind: "end_turn" };
  const word = fault || string(result["error"]) || string(result["subtype"]);
  const status = result["api_error_status"];
  const isElsewhere = result["subtype"] !== "success" && result["error"] === undefined;
  const server = typeof status === "number" && status >= 500 ? "claude_overloaded" : "claude_unreachable";
  const code = faults.get(word) ?? (isElsewhere ? "claude_failed" : server);
  const message = `Cannot finish the turn as the claude program ended it: ${word}${typeof status === "number" ? ` ${status}` : ""}`;
  throw new BridgeError(code, message, {
    retryAfterMs: limitedUntil === null ? undefined : limitedUntil - now(),
  });
}
