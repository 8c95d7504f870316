/**
 * What signal-cli says about a send, recipient by recipient. A call that succeeds may still have failed for some, and one
 * that fails may have reached others: only the list decides.
 *
 * **Source:** signal-cli, SendMessageResultUtils.java and JsonSendMessageResult.java (0.14.6).
 */
import * as v from "valibot";
import type { ErrorCode } from "../core/errors.ts";
import { BridgeError } from "../core/errors.ts";
import type { SendOutcome } from "./transport.ts";

const resultSchema = v.object({
  type: v.string(),
  recipientAddress: v.fallback(
    v.object({ uuid: v.optional(v.nullable(v.string())), number: v.optional(v.nullable(v.string())) }),
    {},
  ),
  token: v.fallback(v.optional(v.string()), undefined),
  retryAfterSeconds: v.fallback(v.optional(v.number()), undefined),
});

const reportSchema = v.object({
  timestamp: v.pipe(v.number(), v.safeInteger()),
  results: v.array(resultSchema),
});

export type SendReport = v.InferOutput<typeof reportSchema>;

/** The report in a result, or in the `data` of an error; null where there is none. */
export function toReport(value: unknown): SendReport | null {
  const inError = v.safeParse(v.object({ response: reportSchema }), value);
  if (inError.success) return inError.output.response;
  const plain = v.safeParse(reportSchema, value);
  return plain.success ? plain.output : null;
}

/** The code of one recipient's failure; `RATE_LIMIT_FAILURE` with a token asks for a captcha. */
export function toErrorCode(type: string, token?: string): ErrorCode {
  switch (type) {
    case "UNREGISTERED_FAILURE":
      return "unregistered";
    case "IDENTITY_FAILURE":
      return "untrusted_identity";
    case "RATE_LIMIT_FAILURE":
      return token ? "captcha" : "signal_rate_limited";
    // The catch-all of signal-cli: the server may have taken the message before the line broke.
    case "NETWORK_FAILURE":
      return "send_uncertain";
    default:
      return "send_rejected";
  }
}

/** Where nobody got it, the failure that lets the message be tried again speaks for all. */
const precedence: readonly ErrorCode[] = [
  "captcha",
  "signal_rate_limited",
  "send_uncertain",
  "untrusted_identity",
  "unregistered",
  "send_rejected",
];

/**
 * The outcome of a send. An empty list is a success: a group whose only member is our account.
 * @throws BridgeError when nobody got it
 */
export function toOutcome(report: SendReport): SendOutcome {
  const failures = report.results
    .filter(({ type }) => type !== "SUCCESS")
    .map((result) => ({ ...result, code: toErrorCode(result.type, result.token) }));
  if (failures.length < report.results.length || report.results.length === 0) {
    const failed = failures.map(({ recipientAddress: { uuid, number }, code }) => ({
      recipient: uuid ?? number ?? "unknown",
      code,
    }));
    return { timestamp: report.timestamp, failed };
  }
  const code =
    precedence.find((candidate) => failures.some((failure) => failure.code === candidate)) ?? "send_rejected";
  const worst = failures.filter((failure) => failure.code === code);
  const seconds = Math.max(0, ...worst.map(({ retryAfterSeconds = 0 }) => retryAfterSeconds));
  throw sendFault(code, worst[0]?.token, seconds > 0 ? seconds * 1000 : undefined);
}

/** The fault of a send that reached nobody. `token` names the challenge to whoever solves the captcha. */
export function sendFault(code: ErrorCode, token?: string, retryAfterMs?: number): BridgeError {
  const reason: Partial<Record<ErrorCode, string>> = {
    captcha: "Signal asks for a captcha",
    signal_rate_limited: "Signal limits the rate",
    send_uncertain: "the network failed on the way",
    untrusted_identity: "the recipient's safety number changed",
    unregistered: "the recipient is not on Signal",
  };
  const message = `Cannot send as ${reason[code] ?? "Signal does not take the message"}`;
  return new BridgeError(code, message, { challenge: token, retryAfterMs });
}
