/** A message as signal-cli's parameters, and its answer as an outcome. **Source:** signal-cli 0.14.6, SendCommand.java. */
import { BridgeError } from "../core/errors.ts";
import type { Address, Chat, Millis, Outbound, StyleRange } from "../core/model.ts";
import { maskPeople } from "./mask.ts";
import type { RpcOutcome } from "./rpc.ts";
import { rpcFault } from "./rpc.ts";
import { sendFault, toOutcome, toReport } from "./send-report.ts";
import type { SendOutcome } from "./transport.ts";

/** ACI before number: the number may be hidden or belong to somebody else by now. */
export const toRecipient = ({ aci, number }: Address): string | null => aci ?? number;

/** The parameters that name a chat. @throws BridgeError `send_rejected` */
export function toTarget(chat: Chat): Readonly<Record<string, unknown>> {
  if (chat.kind === "self") return { noteToSelf: true };
  if (chat.kind === "group") return { groupId: chat.id };
  const recipient = toRecipient(chat.peer);
  if (recipient === null) throw new BridgeError("send_rejected", "Cannot send as the recipient has no address");
  return { recipient: [recipient] };
}

export type Call = { readonly method: string; readonly body: Readonly<Record<string, unknown>> };

/** signal-cli reads smaller integers as 32-bit ones and then fails on them. */
const isTimestamp = (at: Millis): boolean => Number.isSafeInteger(at) && at >= 2 ** 31;

/** Offsets are UTF-16 code units on both sides. Ranges outside of the text would be sent as they are. */
function toTextStyles(text: string, styles: readonly StyleRange[]): string[] {
  return styles
    .filter(({ start, length }) => start >= 0 && length > 0 && start + length <= text.length)
    .map(({ start, length, style }) => `${start}:${length}:${style}`);
}

/** The method and its parameters. @throws BridgeError `send_rejected` when it cannot be said to signal-cli */
export function toCall({ chat, body }: Outbound, stringLengthMax: number): Call {
  const target = toTarget(chat);
  if (body.kind === "reaction") {
    const { emoji, targetSentAt: targetTimestamp, isRemove: remove } = body;
    const targetAuthor = toRecipient(body.targetAuthor);
    if (targetAuthor === null) throw new BridgeError("send_rejected", "Cannot react as the author has no address");
    return { method: "sendReaction", body: { ...target, emoji, targetAuthor, targetTimestamp, remove } };
  }
  // Half a surrogate pair does not survive Java's UTF-8.
  const message = body.text.toWellFormed();
  const textStyle = toTextStyles(message, body.styles);
  const said = { ...target, message, ...(textStyle.length > 0 ? { textStyle } : {}) };
  if (body.kind === "edit") return { method: "send", body: { ...said, editTimestamp: body.targetSentAt } };
  const author = body.quote && toRecipient(body.quote.author);
  const quote =
    body.quote && author !== null && isTimestamp(body.quote.sentAt)
      ? { quoteTimestamp: body.quote.sentAt, quoteAuthor: author, quoteMessage: (body.quote.text ?? "").toWellFormed() }
      : {};
  const attachment = body.files.map(({ fileName, contentType, base64 }) => {
    const type = /^[\w.+-]+\/[\w.+-]+$/u.test(contentType) ? contentType : "application/octet-stream";
    return `data:${type};filename=${encodeURIComponent(fileName.toWellFormed())};base64,${base64}`;
  });
  if (attachment.some((uri) => uri.length > stringLengthMax))
    throw new BridgeError("send_rejected", "Cannot send as a file is larger than signal-cli takes");
  return { method: "send", body: { ...said, ...quote, ...(attachment.length > 0 ? { attachment } : {}) } };
}

/** What became of the call: only a request that never left, or was refused unread, is surely not sent. @throws BridgeError */
export function toSendOutcome(outcome: RpcOutcome): SendOutcome {
  if (outcome.kind === "fault") {
    const { code, message, retryAfterMs } = outcome.fault;
    if (code === "signal_rate_limited") throw outcome.fault;
    const details = { retryAfterMs: retryAfterMs ?? undefined, cause: outcome.fault };
    throw new BridgeError(outcome.isUnsent ? "signal_unreachable" : "send_uncertain", message, details);
  }
  const report = toReport(outcome.kind === "error" ? outcome.data : outcome.result);
  if (report) return toOutcome(report);
  if (outcome.kind === "result")
    throw new BridgeError("send_uncertain", "Cannot send as signal-cli does not tell the message's timestamp");
  switch (outcome.code) {
    case -4:
      throw sendFault("untrusted_identity");
    case -5:
      throw sendFault("signal_rate_limited");
    case -32602:
      throw rpcFault("send", outcome);
    case -3:
      throw sendFault("send_uncertain");
    default: {
      // An unexpected failure of the network is told apart by the name of its Java class only.
      const isNetwork =
        outcome.code === -32603 && /\((?:\w*IO|Socket|UnknownHost|\w*Timeout)\w*Exception\)/u.test(outcome.message);
      const message = `Cannot send as signal-cli answered ${outcome.code}: ${maskPeople(outcome.message)}`;
      throw new BridgeError(isNetwork ? "send_uncertain" : "send_rejected", message);
    }
  }
}
