/**
 * Names and files as both daemons take them, and what signal-cli says about a send, recipient by recipient. A call that
 * succeeds may still have failed for some, and one that fails may have reached others: only the list decides.
 *
 * **Source:** signal-cli, SendMessageResultUtils.java and JsonSendMessageResult.java (0.14.6).
 */
import * as v from "valibot";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import type { Address, OutboundFile } from "../../core/model.ts";
import type { SendOutcome } from "../transport.ts";

/** ACI before number: the number may be hidden or belong to another person by now. @throws BridgeError `send_rejected` */
export function toName({ aci, number }: Address): string {
  const name = aci ?? number;
  if (name === null) throw new BridgeError("send_rejected", "Cannot send as the recipient has no address");
  return name;
}

/** `fileName` as the daemon wants it quoted. */
export function toDataUri({ contentType, base64 }: OutboundFile, fileName: string): string {
  const type = /^[\w.+-]+\/[\w.+-]+$/u.test(contentType) ? contentType : "application/octet-stream";
  return `data:${type};filename=${fileName};base64,${base64}`;
}

const text = v.fallback(v.nullish(v.string()), null);
const recipientSchema = v.fallback(v.object({ uuid: text, number: text }), { uuid: null, number: null });
const resultSchema = v.object({
  type: v.string(),
  recipientAddress: recipientSchema,
  token: text,
  retryAfterSeconds: v.fallback(v.nullish(v.number()), null),
});
const reportSchema = v.object({ timestamp: v.pipe(v.number(), v.safeInteger()), results: v.array(resultSchema) });

export type SendReport = v.InferOutput<typeof reportSchema>;

/** The report in a result, or in the `data` of an error; null where there is none. */
export function toReport(value: unknown): SendReport | null {
  const wrapped = v.pipe(
    v.object({ response: reportSchema }),
    v.transform(({ response }) => response),
  );
  const parsed = v.safeParse(v.union([wrapped, reportSchema]), value);
  return parsed.success ? parsed.output : null;
}

const wordings: Readonly<Record<string, string>> = {
  "Unregistered user": "UNREGISTERED_FAILURE",
  "Untrusted Identity for": "IDENTITY_FAILURE",
  "Network failure for": "NETWORK_FAILURE",
  "Rate limit failure for": "RATE_LIMIT_FAILURE",
  "CAPTCHA proof required for sending to": "RATE_LIMIT_FAILURE",
  "Invalid pre keys for": "INVALID_PRE_KEY_FAILURE",
};

/**
 * The report in what signal-cli prints for people: a line per failure, then the timestamp, and a last sentence where the
 * message reached nobody. Null where there is none. **Source:** signal-cli-rest-api#409, signal-cli-rest-api#857.
 */
export function toPrintedReport(printed: string): SendReport | null {
  const [, failures = "", timestamp, after = ""] =
    /Failed to send \(some\) messages:([^]*?)(?<!\d)(\d{13})(?!\d)([^]*)/u.exec(printed) ?? [];
  if (timestamp === undefined) return null;
  const line = new RegExp(`(${Object.keys(wordings).join("|")}) \\\\*"([^"\\\\]+)(.*)`, "gu");
  const results = [...failures.matchAll(line)].map(([, words = "", who = "", rest = ""]) => ({
    type: wordings[words] ?? "",
    recipientAddress: who.startsWith("+") ? { uuid: null, number: who } : { uuid: who, number: null },
    token: /challenge token \\*"([^"\\]+)/u.exec(rest)?.[1] ?? null,
    retryAfterSeconds: null,
  }));
  const address = { uuid: null, number: null };
  const others = { type: "SUCCESS", recipientAddress: address, token: null, retryAfterSeconds: null };
  if (!/Failed to send message/u.test(after)) return { timestamp: Number(timestamp), results: [...results, others] };
  return results.length === 0 ? null : { timestamp: Number(timestamp), results };
}

/** The code of one recipient's failure; `RATE_LIMIT_FAILURE` with a token asks for a captcha. */
export function toErrorCode(type: string, token?: string | null): ErrorCode {
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

/** Why a message reached nobody. The first one that happened speaks for all: those that let it be tried again come before. */
const reasons: Partial<Record<ErrorCode, string>> = {
  captcha: "Signal asks for a captcha",
  signal_rate_limited: "Signal limits the rate",
  send_uncertain: "the network failed on the way",
  untrusted_identity: "the recipient's safety number changed",
  unregistered: "the recipient is not on Signal",
};

/**
 * The outcome of a send. An empty list is a success: a group whose only member is our account.
 * @throws BridgeError when the message reached nobody
 */
export function toOutcome({ timestamp, results }: SendReport): SendOutcome {
  const failures = results
    .filter(({ type }) => type !== "SUCCESS")
    .map(({ type, recipientAddress: { uuid, number }, token, retryAfterSeconds }) => ({
      recipient: uuid ?? number ?? "unknown",
      code: toErrorCode(type, token),
      token,
      retryAfterSeconds,
    }));
  if (failures.length < results.length || results.length === 0)
    return { timestamp, failed: failures.map(({ recipient, code }) => ({ recipient, code })) };
  const worst = Object.keys(reasons).find((code) => failures.some((failure) => failure.code === code));
  const decisive = failures.filter(({ code }) => code === (worst ?? "send_rejected"));
  const seconds = Math.max(0, ...decisive.map(({ retryAfterSeconds }) => retryAfterSeconds ?? 0));
  const code = decisive[0]?.code ?? "send_rejected";
  // The token names the challenge to the person who solves the captcha.
  throw new BridgeError(code, `Cannot send as ${reasons[code] ?? "Signal does not take the message"}`, {
    challenge: decisive[0]?.token ?? undefined,
    retryAfterMs: seconds > 0 ? seconds * 1000 : undefined,
  });
}
