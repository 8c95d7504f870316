/**
 * Every failure of the Claude API as one `BridgeError`. Decided by status, `error.type` and `error_code`; the API's sentence
 * is read in three known cases where nothing else tells them apart, and is never shown or logged.
 * **Source:** claude/CLAUDE-API.md sections 0.1, 1.6 and 5.1; codes in the SDK's core/error-classes.
 */
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { fields } from "./events.ts";

export type Site = {
  /** Ends the sentence "Cannot …". */
  readonly what: string;
  /** What a 404 means here. */
  readonly notFound?: ErrorCode;
  /** The headers had arrived: what breaks from here on is the stream. */
  readonly isStream?: boolean;
};

/** @param error whatever was thrown by the SDK, by `fetch`, or by a stream; a BridgeError passes unchanged */
export function claudeFailure(site: Site, error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  const api = fields(error);
  // What our own fetch found wrong comes back wrapped as a connection error.
  if (api["cause"] instanceof BridgeError)
    return new BridgeError(api["cause"].code, `Cannot ${site.what} as ${api["cause"].message}`);
  const status = typeof api["status"] === "number" ? api["status"] : null;
  const type = word(api["type"]);
  const errorCode = word(api["errorCode"]);
  if (status === null && type === null) return brokenLine(site, error);
  const sentence = typeof api["apiMessage"] === "string" ? api["apiMessage"] : "";
  const code = codeOf(site, status, type, errorCode, sentence);
  const requestId = word(api["requestID"]);
  const answer = [status, type, errorCode].filter((part) => part !== null).join(" ");
  const suffix = requestId === null ? "" : ` (${requestId})`;
  return new BridgeError(code, `Cannot ${site.what} as the Claude API answered ${answer}${suffix}`, {
    retryAfterMs: retryAfter(api["headers"]),
  });
}

type Words = { readonly [word: string]: ErrorCode };

/** "constructor" is no word of the protocol, though every object has one. */
const look = (words: Words, word: string | null): ErrorCode | undefined =>
  word !== null && Object.hasOwn(words, word) ? words[word] : undefined;

const byErrorCode: Words = {
  contract_spend_limit_reached: "claude_spend_limit",
  enforced_spend_limit_reached: "claude_spend_limit",
  linked_organization_spend_limit_reached: "claude_spend_limit",
  linked_organization_billing_unavailable: "claude_credit",
  organization_not_enrolled_in_beta: "claude_forbidden",
  organization_on_hold: "claude_forbidden",
  organization_type_not_supported: "claude_forbidden",
  image_dimensions_too_large: "claude_too_large",
  request_body_too_large_after_decoding: "claude_too_large",
};

const byType: Words = {
  authentication_error: "claude_key",
  billing_error: "claude_credit",
  permission_error: "claude_forbidden",
  rate_limit_error: "claude_rate_limited",
  overloaded_error: "claude_overloaded",
  request_too_large: "claude_too_large",
  timeout_error: "claude_unreachable",
  gateway_timeout_error: "claude_unreachable",
};

const byStatus: { readonly [status: number]: ErrorCode } = {
  401: "claude_key",
  402: "claude_credit",
  403: "claude_forbidden",
  408: "claude_unreachable",
  // A conflict passes, and the prompt must not be lost over it.
  409: "claude_protocol",
  413: "claude_too_large",
  429: "claude_rate_limited",
  499: "claude_unreachable",
  501: "claude_protocol",
  529: "claude_overloaded",
};

/** Only where status and type are the same as of a plain bad request. */
const bySentence: readonly (readonly [RegExp, ErrorCode])[] = [
  [/credit balance/iu, "claude_credit"],
  [/usage limits?\b/iu, "claude_spend_limit"],
  [/prompt is too long|context (window|limit)/iu, "claude_context"],
];

function codeOf(
  site: Site,
  status: number | null,
  type: string | null,
  errorCode: string | null,
  sentence: string,
): ErrorCode {
  const known = look(byErrorCode, errorCode);
  if (known) return known;
  if (status === 400 || type === "invalid_request_error") {
    const told = bySentence.find(([pattern]) => pattern.test(sentence));
    if (told) return told[1];
  }
  // Without a type it was not the API that spoke: a proxy, a portal, the wrong server.
  if (type === null && (status === 403 || status === 404)) return "claude_protocol";
  if (status === 404 || type === "not_found_error") return site.notFound ?? "claude_request";
  const named = look(byType, type) ?? (status === null ? undefined : byStatus[status]);
  if (named) return named;
  if (status === null) return type === "invalid_request_error" ? "claude_request" : "claude_stream_lost";
  return status >= 500 ? "claude_unreachable" : status >= 400 ? "claude_request" : "claude_protocol";
}

/** No answer at all, or a stream that broke: the runtimes throw what they like here (TypeError, DOMException, SyntaxError). */
function brokenLine(site: Site, error: unknown): BridgeError {
  const name = error instanceof Error ? error.name : "";
  if (site.isStream)
    return new BridgeError("claude_stream_lost", `Cannot ${site.what} as the stream broke off`, { cause: error });
  if (name === "APIConnectionTimeoutError")
    return new BridgeError("claude_unreachable", `Cannot ${site.what} as the Claude API did not answer in time`);
  const cause = fields(fields(error)["cause"]);
  const reason = word(fields(error)["code"]) ?? word(cause["code"]) ?? word(fields(cause["cause"])["code"]);
  const isLine = reason !== null || name.startsWith("API") || error instanceof DOMException;
  if (!isLine)
    return new BridgeError("claude_protocol", `Cannot ${site.what} as the answer is not what the Claude API sends`, {
      cause: error,
    });
  return new BridgeError(
    "claude_unreachable",
    `Cannot ${site.what} as the Claude API cannot be reached: ${reason ?? "no connection"}`,
    { cause: fields(error)["cause"] ?? error },
  );
}

/**
 * The server's lower bound for the next try in ms, from `retry-after-ms` or `retry-after` (seconds or an HTTP date).
 * A date is read against the answer's own `Date`, so that our clock does not matter.
 */
function retryAfter(headers: unknown): Millis | undefined {
  if (!(headers instanceof Headers)) return undefined;
  const ms = Number(headers.get("retry-after-ms") ?? Number.NaN);
  if (ms >= 0) return ms;
  const after = headers.get("retry-after");
  if (after === null) return undefined;
  const seconds = Number(after);
  if (seconds >= 0) return seconds * 1000;
  const wait = Date.parse(after) - Date.parse(headers.get("date") ?? "");
  return wait >= 0 ? wait : undefined;
}

/** Words of the protocol only: nothing that could be a sentence, a body or a key gets into a message. */
const word = (value: unknown): string | null =>
  typeof value === "string" && /^[\w.-]{1,64}$/u.test(value) ? value : null;
