/** A message as signal-cli-rest-api takes it, and its answers as an outcome. **Source:** signal-cli-rest-api, src/api/api.go. */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import type { Address, Chat, Outbound } from "../core/model.ts";
import type { Exchange } from "./http.ts";
import { lineFault, statusFault, toJson, toText } from "./http.ts";
import { maskPeople } from "./mask.ts";
import { sendFault, toErrorCode, toOutcome, toReport } from "./send-report.ts";
import { toStyledText } from "./styled.ts";
import type { SendOutcome } from "./transport.ts";

/** The REST API's name of a group: `group.` and the base64 of the base64 that envelopes carry. */
export const toRestGroup = (id: string): string => `group.${btoa(id)}`;

/** The id as envelopes carry it; null when this is no name of a group. */
export function fromRestGroup(name: string): string | null {
  try {
    return name.startsWith("group.") ? atob(name.slice("group.".length)) : null;
  } catch {
    return null;
  }
}

/** What the REST API calls a person or a group. @throws BridgeError `send_rejected` */
export function toRestRecipient(chat: Chat, account: string): string {
  if (chat.kind === "self") return account;
  if (chat.kind === "group") return toRestGroup(chat.id);
  return toPerson(chat.peer);
}

function toPerson({ aci, number }: Address): string {
  const name = aci ?? number;
  if (name === null) throw new BridgeError("send_rejected", "Cannot send as the recipient has no address");
  return name;
}

export type RestCall = {
  readonly method: "POST" | "DELETE";
  readonly path: string;
  readonly json: Readonly<Record<string, unknown>>;
};

/** @throws BridgeError `send_rejected` when it cannot be said to the REST API */
export function toRestCall({ chat, body }: Outbound, account: string): RestCall {
  const recipient = toRestRecipient(chat, account);
  if (body.kind === "reaction") {
    const target = { recipient, target_author: toPerson(body.targetAuthor), timestamp: body.targetSentAt };
    const path = `/v1/reactions/${encodeURIComponent(account)}`;
    // Removing needs the emoji too, where the daemon behind it is asked.
    return { method: body.isRemove ? "DELETE" : "POST", path, json: { ...target, reaction: body.emoji } };
  }
  const plain = body.text.toWellFormed();
  const styled = body.styles.length > 0 ? toStyledText(plain, body.styles) : null;
  const json = {
    number: account,
    recipients: [recipient],
    message: styled ?? plain,
    // Never left to the container's default, which may read markup into plain text.
    text_mode: styled === null ? "normal" : "styled",
    // The default is true, and would make a note to self an incoming message of its own.
    notify_self: false,
  };
  const path = "/v2/send";
  if (body.kind === "edit") return { method: "POST", path, json: { ...json, edit_timestamp: body.targetSentAt } };
  const author = body.quote && (body.quote.author.aci ?? body.quote.author.number);
  const quote =
    body.quote && author !== null
      ? {
          quote_timestamp: body.quote.sentAt,
          quote_author: author,
          quote_message: (body.quote.text ?? "").toWellFormed(),
        }
      : {};
  const base64_attachments = body.files.map(({ fileName, contentType, base64 }) => {
    const type = /^[\w.+-]+\/[\w.+-]+$/u.test(contentType) ? contentType : "application/octet-stream";
    return `data:${type};filename=${fileName.toWellFormed().replaceAll(/[;,\n\r/\\]/gu, "_")};base64,${base64}`;
  });
  const files = base64_attachments.length > 0 ? { base64_attachments } : {};
  return { method: "POST", path, json: { ...json, ...quote, ...files } };
}

const sentSchema = v.object({
  timestamp: v.pipe(v.union([v.string(), v.number()]), v.transform(Number), v.safeInteger(), v.minValue(1)),
  errors: v.optional(
    v.object({
      recipients: v.array(
        v.object({ uuid: v.optional(v.string()), number: v.optional(v.string()), reason: v.optional(v.string(), "") }),
      ),
    }),
  ),
});

/** What became of `/v2/send`. @throws BridgeError */
export function toRestOutcome(exchange: Exchange, chat: Chat, host: string): SendOutcome {
  if (exchange.kind !== "answer") {
    const { message } = lineFault("send", host, exchange);
    throw new BridgeError(exchange.kind === "unsent" ? "signal_unreachable" : "send_uncertain", message);
  }
  const text = toText(exchange.body);
  if (exchange.status === 201) return fromCreated(toJson(text), chat);
  if (exchange.status === 400) return fromRefusal(text);
  if (exchange.status === 429) throw fromRateLimit(toJson(text), exchange.retryAfterMs);
  const fault = statusFault("send", host, exchange);
  throw new BridgeError(exchange.status >= 500 ? "send_uncertain" : "signal_unreachable", fault.message);
}

/** An object up to release 0.100, a list after it; the timestamp is a string in both. */
function fromCreated(body: unknown, chat: Chat): SendOutcome {
  const parsed = v.safeParse(sentSchema, Array.isArray(body) ? body[0] : body);
  if (!parsed.success)
    throw new BridgeError("send_uncertain", "Cannot send as the answer does not tell the message's timestamp");
  const failed = (parsed.output.errors?.recipients ?? []).map(({ uuid, number, reason }) => ({
    recipient: uuid ?? number ?? "unknown",
    code: toErrorCode(reason),
  }));
  const [first] = failed;
  if (first && chat.kind !== "group") throw sendFault(first.code);
  return { timestamp: parsed.output.timestamp, failed };
}

/** In json-rpc mode only; otherwise signal-cli's own words come with status 400. */
function fromRateLimit(body: unknown, retryAfterMs: number | null): BridgeError {
  const parsed = v.safeParse(v.object({ challenge_tokens: v.array(v.string()) }), body);
  const token = parsed.success ? parsed.output.challenge_tokens.find((candidate) => candidate !== "") : undefined;
  return sendFault(token ? "captcha" : "signal_rate_limited", token, retryAfterMs ?? undefined);
}

/**
 * 400 says little: the error is all that signal-cli printed, its JSON first. A list of results decides. Without one, a
 * timestamp in it, or a complaint about stray text, means that signal-cli had something to report: the message may be out.
 */
function fromRefusal(text: string): SendOutcome {
  const parsed = v.safeParse(v.object({ error: v.string() }), toJson(text));
  const error = parsed.success ? parsed.output.error : text;
  const report = toReport(toJson(error.split("\n", 1)[0] ?? ""));
  if (report) return toOutcome(report);
  if (/untrusted/iu.test(error)) throw sendFault("untrusted_identity");
  if (/rate limit/iu.test(error)) throw sendFault("signal_rate_limited");
  const detail = `Cannot send as the REST API refused it: ${maskPeople(error)}`;
  if (/^User \S+ is not registered/mu.test(error)) throw new BridgeError("unlinked", detail);
  const isPossiblySent =
    /"timestamp":|(?<!\d)\d{13}(?!\d)|invalid character|strconv|timeout reached|IOException|Error while checking/u.test(
      error,
    );
  throw new BridgeError(isPossiblySent ? "send_uncertain" : "send_rejected", detail);
}
