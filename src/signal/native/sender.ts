/**
 * Sends a message to its recipients, and its transcript to our own devices.
 *
 *   target ─▶ upload files ─▶ compose ─▶ deliver to the peer · to each member ─▶ transcript to our own devices
 *                                            └ the transcript is encrypted with the first of them, in one commit
 *
 * A repeated send carries the same timestamp, and the receiving clients drop the second copy. Without the transcript the owner's
 * phone would not show what was said. **Source:** `docs/signal-protocol.md`, "Sending", "Groups".
 */
import { IdentityKeyPair } from "@signalapp/libsignal-client";
import { BridgeError, errorRow } from "../../core/errors.ts";
import type { Chat, Envelope, Millis, Outbound, OutboundBody } from "../../core/model.ts";
import type { SendOutcome } from "../transport.ts";
import { findAci, findRecipient, saveRecipient } from "./account.ts";
import { longTextType, splitLongText, uploadAttachment } from "./attachments.ts";
import { tolerate, fromBase64, toBase64 } from "./bytes.ts";
import { compose, type Composed, type Delivered, type MessageFrame, messageContent, type Parts } from "./compose.ts";
import { readSyncContent, receiptContent, transcriptContent, typingContent } from "./compose.ts";
import type { Bytes, NativeContext } from "./context.ts";
import { deliver, deliverOnce, prepare, sealFor } from "./deliver.ts";
import { aciBytes } from "./ids.ts";
import type { AttachmentPointer } from "./proto/signal_pb.ts";
import { putRow } from "./tables.ts";

const fanOutMax = 8;
const catchUpsMax = 3;
const catchUpMs: Millis = 10_000;
const captchaMs: Millis = 3_600_000;
/** A typing message goes to each member by itself, which is not worth it in larger groups. */
const typingMembersMax = 10;

type Target = {
  readonly others: readonly string[];
  /** The recipient that the transcript names; null for a group. */
  readonly destination: string | null;
  readonly groupId: Bytes | null;
  readonly frame: Pick<MessageFrame, "timerSeconds" | "timerVersion" | "group">;
};

/** @throws BridgeError `unregistered` `send_rejected`, and those of `FetchGroup` */
async function targetOf(
  { database, groups, account }: NativeContext,
  chat: Chat,
  signal: AbortSignal,
): Promise<Target> {
  const own = account().aci.serviceId;
  if (chat.kind === "group") {
    const { state, masterKey } = await groups.load(chat.id, signal);
    const me = state.members.find(({ aci }) => aci === own);
    if (me === undefined || state.isTerminated || (state.isAnnouncementsOnly && !me.isAdmin))
      throw new BridgeError("send_rejected", "Cannot send as we may not write in this group");
    const others = state.members.filter((member) => member !== me).map(({ aci }) => aci);
    const group = { masterKey, revision: state.revision };
    const frame = { timerSeconds: state.expiresInSeconds, timerVersion: 0, group };
    return { others, destination: null, groupId: fromBase64(chat.id), frame };
  }
  const to = chat.kind === "self" ? own : findAci(database, chat.peer);
  if (to === null) throw new BridgeError("unregistered", "Cannot send as no account with that number is known");
  const { timerSeconds, timerVersion } = findRecipient(database, to);
  const frame = { timerSeconds, timerVersion, group: null };
  return { others: to === own ? [] : [to], destination: to, groupId: null, frame };
}

/** Resolves when at least one recipient and our own devices, by a transcript, have the message. @throws BridgeError as `Transport.send` */
export async function sendOutbound(
  context: NativeContext,
  message: Outbound,
  signal: AbortSignal,
): Promise<SendOutcome> {
  const { chat, timestamp, body } = message;
  const { profileKey, aci: own } = context.account();
  const { others, destination, groupId, frame } = await targetOf(context, chat, signal);
  const composed = compose(body, await upload(context, body, signal), { timestamp, profileKey, ...frame });
  const transcriptOf = (delivered: Delivered) => {
    const content = transcriptContent(composed, { timestamp, destination, delivered, now: context.now() });
    return { kind: "transcript", to: own.serviceId, content, timestamp } as const;
  };
  const expect = async (aci: string) => [aci, (await sealFor(context, aci)) !== null] as const;
  const expected = new Map(await Promise.all(others.map(expect)));
  const preparing =
    others.length === 0 ? undefined : prepare(context, transcriptOf(expected), false, []).catch(() => undefined);
  const delivered = new Map<string, boolean>();
  const failures: { readonly recipient: string; readonly error: BridgeError }[] = [];
  for (let at = 0; at < others.length; at += fanOutMax) {
    const wave = others.slice(at, at + fanOutMax).map((recipient) => {
      const delivering = deliverMessage(context, { composed, timestamp, groupId }, recipient);
      const counted = delivering.then((isSealed) => delivered.set(recipient, isSealed));
      return tolerate(counted, (error) => failures.push({ recipient, error }));
    });
    await Promise.all(wave);
  }
  const worst = failures.find(({ error }) => error.retry !== "never") ?? failures[0];
  if (delivered.size === 0 && worst !== undefined) throw worst.error;
  const isExpected = others.every((aci) => delivered.get(aci) === expected.get(aci));
  try {
    await deliver(context, transcriptOf(delivered), isExpected ? await preparing : undefined);
  } catch (error) {
    if (!(error instanceof BridgeError) || others.length === 0) throw error;
    // The recipients have the message by now. After a broken line the whole send is repeated, with the same timestamp; any
    // other fault of our own devices would only recur.
    if (error.code === "signal_unreachable" || error.code === "send_uncertain")
      throw new BridgeError("send_uncertain", error.message, { cause: error });
    context.log.warn("no transcript for our own devices", { code: error.code });
  }
  for (const { recipient: to, error } of failures)
    if (groupId !== null && error.retry !== "never")
      owe(context, { to, timestamp, content: messageContent(composed, null), groupId }, error, 1);
  return { timestamp, failed: failures.map(({ recipient, error }) => ({ recipient, code: error.code })) };
}

/**
 * A message that a member of a group did not get for a reason that passes, such as a rate limit. It is a row, so that a restart
 * forgets none; its wait is kept in memory.
 */
type Owed = Pick<Message, "timestamp"> & { readonly to: string; readonly content: Bytes; readonly groupId: Bytes };

/** Stores an owed message and tries it later, after hours where a person must solve a captcha. The last failure is told to the owner. */
function owe(context: NativeContext, owed: Owed, fault: BridgeError, times: number): void {
  const { to, timestamp, content, groupId } = owed;
  if (fault.retry === "never" || times > catchUpsMax) {
    settle(context, owed);
    const text = `A member of a group did not get what I wrote there: ${errorRow(fault.code).title}. ${fault.hint}`;
    return context.notify({ code: "member_missed", text });
  }
  const row = { sent_at: timestamp, service_id: to, content, group_id: groupId, tries: times };
  putRow(context.database, "owed", row);
  const waitMs = Math.max(fault.retryAfterMs ?? 0, times * (fault.code === "captcha" ? captchaMs : catchUpMs));
  context.dueAt.set(nameOf(owed), context.clock.monotonic() + waitMs);
  payLater(context, owed, times, waitMs);
}

const nameOf = ({ to, timestamp }: Owed): string => `${to} ${timestamp}`;

function settle({ database, dueAt }: NativeContext, owed: Owed): void {
  dueAt.delete(nameOf(owed));
  database.run("DELETE FROM signal_owed WHERE sent_at = ? AND service_id = ?", owed.timestamp, owed.to);
}

/** Starts the waits of owed messages again on a new connection, since those of the one before ended with it. */
export function resumeOwed(context: NativeContext): void {
  const sql = `SELECT service_id AS "to", sent_at AS timestamp, content, group_id AS groupId, tries FROM signal_owed`;
  for (const { tries, ...owed } of context.database.all<Owed & { tries: number }>(sql)) {
    const dueAt = context.dueAt.get(nameOf(owed)) ?? -Infinity;
    payLater(context, owed, tries, Math.max(0, dueAt - context.clock.monotonic()));
  }
}

function payLater(context: NativeContext, owed: Owed, times: number, waitMs: Millis): void {
  const signal = context.closing();
  const pay = async () => {
    const { state } = await context.groups.load(toBase64(owed.groupId), signal);
    // A member who left meanwhile is owed nothing.
    if (state.members.some(({ aci }) => aci === owed.to)) await deliver(context, { kind: "message", ...owed });
    settle(context, owed);
  };
  // A try that the end of the connection cut short does not count.
  const again = (fault: BridgeError) => signal.aborted || owe(context, owed, fault, times + 1);
  context.later(waitMs, () => tolerate(pay(), again));
}

async function upload(context: NativeContext, said: OutboundBody, signal: AbortSignal): Promise<Parts> {
  if (said.kind === "reaction") return { body: "", files: [] };
  const { body, file } = splitLongText(said.text);
  const given = said.kind === "text" ? said.files : [];
  const wanted = given.map(({ base64, ...rest }) => ({ ...rest, plain: fromBase64(base64) }));
  const long = file === null ? [] : [{ plain: file, contentType: longTextType, fileName: null }];
  const files: AttachmentPointer[] = [];
  for (const one of [...long, ...wanted]) {
    const { connection } = context.line();
    const file = { ...one, uploadedAt: context.now() };
    files.push(await uploadAttachment(context.service, connection, file, signal));
  }
  return { body, files };
}

type Message = { readonly composed: Composed; readonly timestamp: Millis; readonly groupId: Bytes | null };

async function deliverMessage(context: NativeContext, message: Message, to: string): Promise<boolean> {
  const { composed, ...rest } = message;
  const { needsPniSignature } = findRecipient(context.database, to);
  const { aci, pni } = context.account();
  // The signature proves that our number and our account are the same person.
  const proof = needsPniSignature && pni && new IdentityKeyPair(pni.publicKey, pni.identity);
  const number = pni && aciBytes(pni.serviceId.replace(/^PNI:/, ""));
  const pniSignature = proof && number && { pni: number, signature: proof.signAlternateIdentity(aci.publicKey) };
  const content = messageContent(composed, pniSignature || null);
  const isSealed = await deliver(context, { kind: "message", to, content, ...rest });
  if (needsPniSignature) context.database.run("UPDATE signal_recipients SET needs_pni_signature = 0 WHERE aci = ?", to);
  return isSealed;
}

/** Shows that we are writing, where the owner's settings allow it. */
export async function sendTyping(
  context: NativeContext,
  chat: Chat,
  isTyping: boolean,
  signal: AbortSignal,
): Promise<void> {
  if (!context.account().sendsTyping) return;
  const { others, groupId } = await targetOf(context, chat, signal);
  if (others.length > typingMembersMax) return;
  const timestamp = context.freshTimestamp();
  const content = typingContent(timestamp, isTyping, groupId);
  await Promise.all(others.map((to) => deliver(context, { kind: "typing", to, content, timestamp, groupId })));
}

/** Tells that an accepted message was read: its sender, where the owner's settings allow it, and our other devices. */
export async function sendReceipt(context: NativeContext, { source, isOwn, sentAt }: Envelope): Promise<void> {
  const to = source?.aci ?? null;
  if (to === null || isOwn) return;
  const { sendsReadReceipts, aci } = context.account();
  saveRecipient(context.database, to, source?.number ?? null, null);
  const notices: [string, Bytes][] = [[aci.serviceId, readSyncContent(to, sentAt)]];
  if (sendsReadReceipts) notices.unshift([to, receiptContent("READ", [sentAt])]);
  await Promise.all(notices.map(([whom, content]) => deliverOnce(context, { kind: "notice", to: whom, content })));
}
