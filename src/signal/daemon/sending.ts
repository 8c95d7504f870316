/**
 * Names and files as both daemons take them, and what signal-cli says about a send, recipient by recipient. A call that
 * succeeds may still have failed for some recipients, and one that fails may have reached others: only the list decides.
 *
 *   an answer ─▶ toSendOutcome ─▶ outcome, or the error that speaks for all recipients
 *   a refusal ─▶ judgeRefusal ─▶ the same where it holds a report, else an error that says whether the message may be out
 *
 * **Source:** signal-cli, SendMessageResultUtils.java and JsonSendMessageResult.java (0.14.6).
 */
import * as v from "valibot";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import type { Address, Chat, OutboundFile } from "../../core/model.ts";
import type { SendOutcome } from "../transport.ts";
import { maskPeople, DaemonRefusal } from "./http.ts";

/** ACI before number: the number may be hidden or belong to another person by now. @throws BridgeError `send_rejected` */
export function toName({ aci, number }: Address): string {
  const name = aci ?? number;
  if (name === null) throw new BridgeError("send_rejected", "Cannot send as the recipient has no address");
  return name;
}

/** `fileName` must be quoted as the daemon wants it. */
export function toDataUri({ contentType, base64 }: OutboundFile, fileName: string): string {
  const type = /^[\w.+-]+\/[\w.+-]+$/u.test(contentType) ? contentType : "application/octet-stream";
  return `data:${type};filename=${fileName};base64,${base64}`;
}

const text = v.fallback(v.nullish(v.string()), null);
const recipientSchema = v.fallback(v.object({ uuid: text, number: text }), { uuid: null, number: null });

/** The ACI that a list of people has for a number; null where it has none. */
export function aciOfNumber(people: unknown, number: string): string | null {
  const found = v.parse(v.fallback(v.array(recipientSchema), []), people).find((who) => who.number === number);
  return found?.uuid?.toLowerCase() ?? null;
}

const reportSchema = v.object({
  timestamp: v.pipe(v.number(), v.safeInteger()),
  results: v.array(
    v.object({
      type: v.string(),
      recipientAddress: recipientSchema,
      token: v.optional(text, null),
      retryAfterSeconds: v.optional(v.fallback(v.nullish(v.number()), null), null),
    }),
  ),
});

type SendReport = v.InferOutput<typeof reportSchema>;

/** The report in a result, or in the `data` of an error; null where there is none. */
export function toReport(value: unknown): SendReport | null {
  const parsed = v.safeParse(v.union([v.object({ response: reportSchema }), reportSchema]), value);
  if (!parsed.success) return null;
  return "response" in parsed.output ? parsed.output.response : parsed.output;
}

/**
 * Failures of one recipient: their name in JSON, their words in print, our code, the reason. Where a message reached no
 * recipient, the first row that occurred decides for all, and rows that allow another try come first. signal-cli reports
 * unexpected faults as network failures, so that the server may have taken the message.
 */
const failures: readonly (readonly [type: string, printed: string, code: ErrorCode, reason: string])[] = [
  ["PROOF_REQUIRED", "CAPTCHA proof required for sending to", "captcha", "Signal asks for a captcha"],
  ["RATE_LIMIT_FAILURE", "Rate limit failure for", "signal_rate_limited", "Signal limits the rate"],
  ["NETWORK_FAILURE", "Network failure for", "send_uncertain", "the network failed on the way"],
  ["IDENTITY_FAILURE", "Untrusted Identity for", "untrusted_identity", "the recipient's safety number changed"],
  ["UNREGISTERED_FAILURE", "Unregistered user", "unregistered", "the recipient is not on Signal"],
];

/** Signal limits the rate per recipient; only a challenge concerns all that the account sends. */
const scopeOf = (code: ErrorCode): BridgeError["scope"] => (code === "signal_rate_limited" ? "recipient" : "account");

/** The code of one recipient's failure; a limit with a token asks for a captcha. */
function toErrorCode(type: string, token?: string | null): ErrorCode {
  if (type === "RATE_LIMIT_FAILURE" && token) return "captcha";
  return failures.find(([name]) => name === type)?.[2] ?? "send_rejected";
}

/**
 * Reads the report that signal-cli prints for people: a line per failure, then the timestamp, and a last sentence where the
 * message reached no recipient. Null where the text holds none. **Source:** signal-cli-rest-api#409, signal-cli-rest-api#857.
 */
export function toPrintedReport(printed: string): SendReport | null {
  const [, lines = "", timestamp, after = ""] =
    /Failed to send \(some\) messages:([^]*?)(?<!\d)(\d{13})(?!\d)([^]*)/u.exec(printed) ?? [];
  if (timestamp === undefined) return null;
  const line = new RegExp(`(${failures.map(([, words]) => words).join("|")}) \\\\*"([^"\\\\]+)(.*)`, "gu");
  const results = [...lines.matchAll(line)].map(([, words = "", who = "", rest = ""]) => {
    const type = failures.find(([, known]) => known === words)?.[0] ?? "";
    const token = /challenge token \\*"([^"\\]+)/u.exec(rest)?.[1] ?? null;
    return toResult(type, { [who.startsWith("+") ? "number" : "uuid"]: who }, token);
  });
  const isForSome = !/Failed to send message/u.test(after);
  if (!isForSome && results.length === 0) return null;
  return { timestamp: Number(timestamp), results: isForSome ? [...results, toResult("SUCCESS")] : results };
}

const toResult = (type: string, who: unknown = null, token: string | null = null): SendReport["results"][number] => {
  const recipientAddress = v.parse(recipientSchema, who);
  return { type, recipientAddress, token, retryAfterSeconds: null };
};

/** Patterns of signal-cli's words with our code for each; the first that fits counts. */
export type Words = readonly (readonly [RegExp, ErrorCode])[];

/** The error for a refusal in words (`said`). `what` completes "Cannot …"; `otherwise` is the code where no pattern fits. */
export function refusedByDaemon(
  what: string,
  daemon: string,
  said: string,
  words: Words,
  otherwise: ErrorCode,
): BridgeError {
  const code = words.find(([pattern]) => pattern.test(said))?.[1] ?? otherwise;
  const message = `Cannot ${what} as ${daemon} answered ${maskPeople(said)}`;
  return new BridgeError(code, message, { scope: scopeOf(code) });
}

/** signal-cli's answer to a send that failed: its words, and the report that they hold, if any. */
export type Said = { readonly text: string; readonly report: SendReport | null };

/** How a daemon's refusals of a send are read. */
export type Judged = {
  /** signal-cli's own answer; null where another program answered, such as a proxy. */
  readRefusal(refusal: DaemonRefusal): Said | null;
  readonly sendWords: Words;
};

/**
 * The outcome of a send without a good answer.
 * @throws BridgeError `signal_unreachable` where it was surely not sent, `send_uncertain` where it may have been; else its reason
 */
export function judgeRefusal(error: unknown, { readRefusal, sendWords: words }: Judged): SendOutcome {
  if (!(error instanceof DaemonRefusal)) throw error;
  const said = readRefusal(error);
  if (said?.report) return toOutcome(said.report);
  if (said !== null) throw refusedByDaemon("send", "signal-cli", said.text, words, "send_rejected");
  if (error.code === "signal_rate_limited") throw error;
  const code = error.answer.isUnsent ? "signal_unreachable" : "send_uncertain";
  throw new BridgeError(code, error.message, { retryAfterMs: error.retryAfterMs ?? undefined, cause: error });
}

const sentSchema = v.object({
  /** The REST API writes it as a string. */
  timestamp: v.pipe(v.union([v.string(), v.number()]), v.transform(Number), v.safeInteger(), v.minValue(1)),
  errors: v.optional(v.object({ recipients: v.array(v.looseObject({ reason: v.optional(v.string(), "") })) })),
});

/**
 * Reads the outcome from a good answer. The REST API tells the failures alone; since release 0.101 its answer is a list of one.
 * @throws BridgeError when the message reached no recipient, or the answer does not tell its timestamp
 */
export function toSendOutcome(answer: unknown, chat: Chat): SendOutcome {
  const report = toReport(answer);
  if (report) return toOutcome(report);
  const sent = v.safeParse(sentSchema, Array.isArray(answer) ? answer[0] : answer);
  if (!sent.success)
    throw new BridgeError("send_uncertain", "Cannot send as the answer does not tell the message's timestamp");
  const { timestamp, errors } = sent.output;
  const failed = (errors?.recipients ?? []).map((who) => toResult(who.reason, who));
  return toOutcome({ timestamp, results: chat.kind === "group" ? [...failed, toResult("SUCCESS")] : failed });
}

/**
 * The outcome of a send. An empty list is a success: our account is then the group's only member.
 * @throws BridgeError when the message reached no recipient
 */
function toOutcome({ timestamp, results }: SendReport): SendOutcome {
  const failed = results
    .filter(({ type }) => type !== "SUCCESS")
    .map((result) => ({ ...result, code: toErrorCode(result.type, result.token) }));
  if (failed.length < results.length || results.length === 0) {
    const told = failed.map(({ recipientAddress: { uuid, number }, code, token }) => {
      const recipient = uuid ?? number ?? "unknown";
      return token ? { recipient, code, challenge: token } : { recipient, code };
    });
    return { timestamp, failed: told };
  }
  const [, , code = "send_rejected", why = "Signal does not take the message"] =
    failures.find(([, , known]) => failed.some((failure) => failure.code === known)) ?? [];
  const decisive = failed.filter((failure) => failure.code === code);
  const seconds = Math.max(0, ...decisive.map(({ retryAfterSeconds }) => retryAfterSeconds ?? 0));
  // The token tells Signal which challenge a solved captcha answers.
  throw new BridgeError(code, `Cannot send as ${why}`, {
    challenge: decisive[0]?.token ?? undefined,
    retryAfterMs: seconds > 0 ? seconds * 1000 : undefined,
    scope: scopeOf(code),
  });
}
