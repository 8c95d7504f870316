/**
 * Turns every failure of the Claude API into one `BridgeError`, by status, `error.type` and `error_code`; the API's sentence is read
 * only where these do not tell two cases apart, and is never shown or logged.
 * **Source:** Claude API guide, "Errors"; codes in the SDK's core/error-classes.
 */
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { fields, string } from "./wire.ts";

export type Site = {
  /** Ends the sentence "Cannot …". */
  readonly what: string;
  /** The code of a 404 here. */
  readonly notFound?: ErrorCode;
  /** The code of a bad request here. */
  readonly refused?: ErrorCode;
  /** The code where the endpoint does not serve this path (404, 405, 501; 403 where it is not Anthropic's). */
  readonly unserved?: ErrorCode;
  /** The endpoint is not Anthropic's. */
  readonly isForeign?: boolean;
  /** The headers have arrived, so that a fault is one of the stream. */
  readonly isStream?: boolean;
};

/** @param error whatever was thrown by the SDK, by `fetch`, or by a stream; a BridgeError passes unchanged */
export function claudeFailure(site: Site, error: unknown): BridgeError {
  if (error instanceof BridgeError) return error;
  const { status, type, errorCode, cause, apiMessage, requestID, headers } = fields(error);
  // The SDK wraps a fault that `watchedFetch` found as a connection error.
  if (cause instanceof BridgeError) return new BridgeError(cause.code, `Cannot ${site.what} as ${cause.message}`);
  const answer = { status: typeof status === "number" ? status : null, type: word(type), errorCode: word(errorCode) };
  if (answer.status === null && answer.type === null) return brokenLine(site, error);
  // Endpoints other than Anthropic's put their sentence elsewhere.
  const sentence = string(apiMessage) || (error instanceof Error ? error.message : "");
  const code = heed(codeOf(site, answer, sentence), site, answer.status, headers);
  const said = Object.values(answer).filter((part) => part !== null);
  const request = word(requestID);
  const suffix = request === null ? "" : ` (${request})`;
  const message = `Cannot ${site.what} as the Claude API answered ${said.join(" ")}${suffix}`;
  const isServerFault = code === "claude_unreachable" && (answer.status ?? 0) >= 500;
  const failure = new BridgeError(code, message, { retryAfterMs: retryAfter(headers), isServerFault });
  refusals.set(failure, { ...answer, sentence });
  return failure;
}

type Refusal = Answer & { readonly sentence: string };
const refusals = new WeakMap<BridgeError, Refusal>();

/** The server's answer, with its sentence, which no message has; null where the server did not answer. */
export const refusalOf = (error: unknown): Refusal | null =>
  (error instanceof BridgeError && refusals.get(error)) || null;

const byErrorCode: ReadonlyMap<string | null, ErrorCode> = new Map([
  ["contract_spend_limit_reached", "claude_spend_limit"],
  ["enforced_spend_limit_reached", "claude_spend_limit"],
  ["linked_organization_spend_limit_reached", "claude_spend_limit"],
  ["linked_organization_billing_unavailable", "claude_credit"],
  ["organization_not_enrolled_in_beta", "claude_forbidden"],
  ["organization_on_hold", "claude_forbidden"],
  ["organization_type_not_supported", "claude_forbidden"],
  ["image_dimensions_too_large", "claude_image"],
  ["request_body_too_large_after_decoding", "claude_too_large"],
]);

/** The words of `error.type`, then the statuses that say the same without one. */
const byTypeOrStatus: ReadonlyMap<string | number | null, ErrorCode> = new Map<string | number, ErrorCode>([
  ["authentication_error", "claude_key"],
  ["billing_error", "claude_credit"],
  ["permission_error", "claude_forbidden"],
  ["rate_limit_error", "claude_rate_limited"],
  ["overloaded_error", "claude_overloaded"],
  ["request_too_large", "claude_too_large"],
  ["timeout_error", "claude_unreachable"],
  ["gateway_timeout_error", "claude_timeout"],
  [401, "claude_key"],
  [402, "claude_credit"],
  [403, "claude_forbidden"],
  [408, "claude_unreachable"],
  // A conflict passes: the prompt is tried again, not lost.
  [409, "claude_protocol"],
  [413, "claude_too_large"],
  [429, "claude_rate_limited"],
  [499, "claude_unreachable"],
  [504, "claude_timeout"],
  [501, "claude_protocol"],
  [529, "claude_overloaded"],
]);

/** Read only where status and type are those of a plain bad request; the first that matches counts. */
const bySentence: readonly (readonly [RegExp, ErrorCode])[] = [
  [/credit balance/iu, "claude_credit"],
  [/usage limits?\b/iu, "claude_spend_limit"],
  [/waiting on responses? to events?/iu, "claude_busy"],
  [/prompt is too long|input is too long|context (window|limit|length|size)|maximum context/iu, "claude_context"],
  [/max_tokens|output tokens/iu, "claude_output"],
  [/\beffort\b/iu, "claude_effort"],
  [/\bpdfs?\b|password.protected|encrypted/iu, "claude_document"],
  [
    /\bimages?\b.*(dimension|pixel|size|exceed|large|process|format|type|support|invalid)|process image|invalid image/isu,
    "claude_image",
  ],
  [/\bbudget\b/iu, "claude_budget"],
  [/request.*(too large|exceeds)|too many (images|documents)/iu, "claude_too_large"],
];

type Answer = { readonly status: number | null; readonly type: string | null; readonly errorCode: string | null };

function codeOf(
  { refused = "claude_request", notFound = refused, unserved, isForeign }: Site,
  { status, type, errorCode }: Answer,
  sentence: string,
): ErrorCode {
  const isBadRequest = status === 400 || type === "invalid_request_error";
  const told = isBadRequest ? bySentence.find(([pattern]) => pattern.test(sentence))?.[1] : undefined;
  const known = byErrorCode.get(errorCode) ?? told;
  if (known) return known;
  if (unserved && (status === 404 || status === 405 || status === 501 || (status === 403 && isForeign)))
    return unserved;
  if (isBadRequest && refused === "claude_settings" && /\bmodel\b/iu.test(sentence)) return "claude_model";
  if (status === 404 && notFound === "claude_model" && /\bmodel\b/iu.test(sentence)) return notFound;
  // An answer without a type is not from the API but from a proxy, a portal, the wrong server.
  if (type === null && (status === 403 || status === 404)) return "claude_protocol";
  if (status === 404 || type === "not_found_error") return notFound;
  const named = byTypeOrStatus.get(type) ?? byTypeOrStatus.get(status);
  if (named) return named;
  if (status === null) return isBadRequest ? refused : "claude_stream_lost";
  return status >= 500 ? "claude_unreachable" : status >= 400 ? refused : "claude_protocol";
}

/** Refusals that say neither what is wrong nor that a person must mend it. */
const vague: ReadonlySet<ErrorCode> = new Set(["claude_unreachable", "claude_timeout", "claude_protocol"]);

/** Follows `x-should-retry`, by which the server says whether the same request may do later, where `code` is vague or a mere refusal. */
function heed(
  code: ErrorCode,
  { refused = "claude_request" }: Site,
  status: number | null,
  headers: unknown,
): ErrorCode {
  const said = headers instanceof Headers ? headers.get("x-should-retry") : null;
  if (said === "false" && vague.has(code)) return refused;
  return said === "true" && code === refused && status !== null ? "claude_unreachable" : code;
}

/** The failure without an answer, or of a stream that broke: runtimes throw different errors (TypeError, DOMException, SyntaxError). */
function brokenLine({ what, isStream }: Site, error: unknown): BridgeError {
  const failed = (code: ErrorCode, why: string, cause?: unknown): BridgeError =>
    new BridgeError(code, `Cannot ${what} as ${why}`, { cause });
  const name = error instanceof Error ? error.name : "";
  // `watchedFetch` throws it for a body that does not end.
  if (error instanceof RangeError) return failed("claude_protocol", error.message);
  if (isStream) return failed("claude_stream_lost", "the stream broke off", error);
  if (name === "APIConnectionTimeoutError") return failed("claude_timeout", "the Claude API did not answer in time");
  const { cause, code } = fields(error);
  const reason = word(code) ?? word(fields(cause)["code"]) ?? word(fields(fields(cause)["cause"])["code"]);
  if (reason === null && !name.startsWith("API") && !(error instanceof DOMException))
    return failed("claude_protocol", "the answer is not what the Claude API sends", error);
  const why = `the Claude API cannot be reached: ${reason ?? "no connection"}`;
  return failed("claude_unreachable", why, cause ?? error);
}

/**
 * The server's lower bound for the next try in ms, from `retry-after-ms` or `retry-after` (seconds or an HTTP date).
 * A date is read against the answer's own `Date`, so that our clock does not matter.
 */
function retryAfter(headers: unknown): Millis | undefined {
  if (!(headers instanceof Headers)) return undefined;
  const after = headers.get("retry-after") ?? "";
  const waits = [
    Number(headers.get("retry-after-ms") ?? Number.NaN),
    after === "" ? Number.NaN : Number(after) * 1000,
    Date.parse(after) - Date.parse(headers.get("date") ?? ""),
  ];
  return waits.find((ms) => ms >= 0);
}

/** Resolves to null where `work` fails with this code. */
export async function nullFor<T>(code: ErrorCode, work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof BridgeError && error.code === code) return null;
    throw error;
  }
}

/** A word of the protocol, else null: no sentence, body or key may get into a message. */
const word = (value: unknown): string | null =>
  typeof value === "string" && /^[\w.-]{1,64}$/u.test(value) ? value : null;
