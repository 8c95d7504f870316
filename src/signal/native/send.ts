/**
 * A message on its way out.
 *
 *   upload files ─▶ compose ─▶ send log ─▶ deliver to the peer · to each member of the group ─▶ transcript to our own devices
 *
 * The timestamp is the message's identity everywhere; a repeated send carries the same one, and the receiving clients drop the
 * second copy. Without the transcript the owner's phone would not show what was said. **Source:** SIGNAL-NATIVE 5.6 to 5.9.
 */
import { IdentityKeyPair } from "@signalapp/libsignal-client";
import type { AuthMessagesService } from "@signalapp/libsignal-client/dist/net.js";
import { Buffer } from "node:buffer";
import { BridgeError } from "../../core/errors.ts";
import type { Chat, Envelope, Millis, Outbound, OutboundBody } from "../../core/model.ts";
import type { SendOutcome } from "../transport.ts";
import { longTextType, splitLongText, uploadAttachment } from "./attachments.ts";
import { type Bytes, fromBase64, owned } from "./bytes.ts";
import {
  compose,
  type Composed,
  type Delivered,
  type Frame,
  messageContent,
  type Parts,
  type PniSignature,
  readSyncContent,
  receiptContent,
  transcriptContent,
  typingContent,
} from "./compose.ts";
import { deliver, type DeliverDeps } from "./deliver.ts";
import type { GroupKeeper, KnownGroup } from "./membership.ts";
import type { AttachmentPointer } from "./proto/signal_pb.ts";
import { findAci, findRecipient, saveRecipient, setPniSignature } from "./recipients.ts";
import type { Service } from "./service.ts";

/** Members that get a message at the same time. */
const fanOutMax = 8;
/** Typing goes to each member by itself: not worth it in larger groups. */
const typingMembersMax = 10;

export type SendDeps = DeliverDeps & {
  readonly service: Service;
  readonly groups: GroupKeeper;
  readonly connection: () => AuthMessagesService;
  /** Strictly increasing, near the clock. */
  readonly freshTimestamp: () => Millis;
};

/**
 * Resolves when the server has the message for at least one recipient, and our own devices have their transcript.
 * @throws BridgeError as `Transport.send`
 */
export async function sendOutbound(deps: SendDeps, message: Outbound, signal: AbortSignal): Promise<SendOutcome> {
  const { chat, timestamp, body } = message;
  const own = deps.account().aci.serviceId;
  const outcome = { timestamp, failed: [] };
  if (chat.kind === "group") return sendToGroup(deps, message, chat.id, signal);
  const aci = chat.kind === "self" ? own : findAci(deps.database, chat.peer);
  if (aci === null) throw new BridgeError("unregistered", "Cannot send as nobody with that number has written to us");
  const parts = await upload(deps, body, signal);
  const composed = compose(body, parts, directFrame(deps, aci, timestamp));
  if (aci === own) {
    await sendTranscript(deps, composed, timestamp, own, []);
    return outcome;
  }
  const isSealed = await deliverMessage(deps, composed, timestamp, aci, null);
  await sendTranscript(deps, composed, timestamp, aci, [{ aci, isSealed }]).catch(ignoreFinal(deps));
  return outcome;
}

/**
 * The peer has it by now. Where the line broke, the send is repeated as a whole, with the same timestamp; whatever else is
 * wrong with our own devices would be wrong again.
 */
const ignoreFinal = (deps: SendDeps) => (error: unknown) => {
  if (!(error instanceof BridgeError)) throw error;
  if (error.code === "signal_unreachable" || error.code === "send_uncertain")
    throw new BridgeError("send_uncertain", error.message, { cause: error });
  deps.log.warn("no transcript for our own devices", { code: error.code });
};

function directFrame(deps: SendDeps, aci: string, timestamp: Millis): Frame {
  const { timerSeconds, timerVersion } = findRecipient(deps.database, aci);
  return { timestamp, profileKey: deps.account().profileKey, timerSeconds, timerVersion, group: null };
}

async function upload(deps: SendDeps, said: OutboundBody, signal: AbortSignal): Promise<Parts> {
  if (said.kind === "reaction") return { body: "", files: [] };
  const { body, file } = splitLongText(said.text);
  const wanted = said.kind === "text" ? said.files : [];
  const files: AttachmentPointer[] = [];
  const put = async (plain: Bytes, contentType: string, fileName: string | null) => {
    const uploadedAt = deps.clock.now();
    files.push(
      await uploadAttachment(deps.service, deps.connection(), { plain, contentType, fileName, uploadedAt }, signal),
    );
  };
  if (file !== null) await put(file, longTextType, null);
  for (const { base64, contentType, fileName } of wanted) await put(fromBase64(base64), contentType, fileName);
  return { body, files };
}

/** To one person; true when it went sealed. Logged first, so that they can ask for it again. */
async function deliverMessage(
  deps: SendDeps,
  composed: Composed,
  timestamp: Millis,
  aci: string,
  groupId: Bytes | null,
): Promise<boolean> {
  const { needsPniSignature } = findRecipient(deps.database, aci);
  const content = messageContent(composed, needsPniSignature ? signPni(deps) : null);
  logSend(deps, timestamp, aci, content, groupId);
  const parcel = { to: aci, content, timestamp, isUrgent: true, isOnline: false, hint: 1, groupId } as const;
  const { isSealed } = await deliver(deps, parcel);
  if (needsPniSignature) setPniSignature(deps.database, aci, false);
  return isSealed;
}

/** Proves that our number and our account are the same person. **Source:** SIGNAL-NATIVE 4.12. */
function signPni(deps: SendDeps): PniSignature | null {
  const { pni, aci } = deps.account();
  if (pni === null) return null;
  const uuid = pni.serviceId.replace(/^PNI:/, "");
  return {
    pni: owned(Buffer.from(uuid.replaceAll("-", ""), "hex")),
    signature: new IdentityKeyPair(pni.publicKey, pni.identity).signAlternateIdentity(aci.publicKey),
  };
}

function logSend({ database }: SendDeps, timestamp: Millis, aci: string, content: Bytes, groupId: Bytes | null): void {
  const sql = "INSERT OR REPLACE INTO signal_send_log (sent_at, service_id, content, group_id) VALUES (?, ?, ?, ?)";
  database.run(sql, timestamp, aci, content, groupId);
}

/** `destination` null: a group. */
async function sendTranscript(
  deps: SendDeps,
  composed: Composed,
  timestamp: Millis,
  destination: string | null,
  delivered: readonly Delivered[],
): Promise<void> {
  const to = deps.account().aci.serviceId;
  const content = transcriptContent(composed, timestamp, destination, delivered, deps.clock.now());
  logSend(deps, timestamp, to, content, null);
  await deliver(deps, { to, content, timestamp, isUrgent: true, isOnline: false, hint: 0, groupId: null });
}

async function sendToGroup(
  deps: SendDeps,
  { timestamp, body }: Outbound,
  id: string,
  signal: AbortSignal,
): Promise<SendOutcome> {
  const group = await deps.groups.load(id, signal);
  const own = deps.account().aci.serviceId;
  const me = group.state.members.find(({ aci }) => aci === own);
  const isMuted = group.state.isTerminated || (group.state.isAnnouncementsOnly && me?.isAdmin !== true);
  if (me === undefined || isMuted)
    throw new BridgeError("send_rejected", "Cannot send as we may not write in this group");
  const parts = await upload(deps, body, signal);
  const composed = compose(body, parts, groupFrame(deps, group, timestamp));
  const groupId = fromBase64(id);
  const others = group.state.members.filter(({ aci }) => aci !== own).map(({ aci }) => aci);
  const delivered: Delivered[] = [];
  const failures: { readonly recipient: string; readonly error: BridgeError }[] = [];
  for (let at = 0; at < others.length; at += fanOutMax) {
    const wave = others.slice(at, at + fanOutMax).map(async (aci) => {
      try {
        delivered.push({ aci, isSealed: await deliverMessage(deps, composed, timestamp, aci, groupId) });
      } catch (error) {
        if (!(error instanceof BridgeError)) throw error;
        failures.push({ recipient: aci, error });
      }
    });
    await Promise.all(wave);
  }
  const [first] = failures;
  if (delivered.length === 0 && first !== undefined) throw first.error;
  await sendTranscript(deps, composed, timestamp, null, delivered).catch(ignoreFinal(deps));
  return { timestamp, failed: failures.map(({ recipient, error }) => ({ recipient, code: error.code })) };
}

const groupFrame = (deps: SendDeps, { masterKey, state }: KnownGroup, timestamp: Millis): Frame => ({
  timestamp,
  profileKey: deps.account().profileKey,
  timerSeconds: state.expiresInSeconds,
  timerVersion: 0,
  group: { masterKey, revision: state.revision },
});

/** Best effort: what nobody misses is never repeated. */
async function deliverQuietly(
  deps: SendDeps,
  to: string,
  content: Bytes,
  options: { readonly timestamp?: Millis; readonly isOnline?: boolean; readonly groupId?: Bytes | null } = {},
): Promise<void> {
  const { timestamp = deps.freshTimestamp(), isOnline = false, groupId = null } = options;
  try {
    await deliver(deps, { to, content, timestamp, isUrgent: false, isOnline, hint: 2, groupId });
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    deps.log.debug("notice not sent", { code: error.code });
  }
}

/** Shows that we are writing, where the owner lets it be shown. */
export async function sendTyping(deps: SendDeps, chat: Chat, isTyping: boolean, signal: AbortSignal): Promise<void> {
  if (!deps.account().sendsTyping || chat.kind === "self") return;
  const timestamp = deps.freshTimestamp();
  if (chat.kind === "direct") {
    const aci = findAci(deps.database, chat.peer);
    if (aci !== null)
      await deliverQuietly(deps, aci, typingContent(timestamp, isTyping, null), { timestamp, isOnline: true });
    return;
  }
  const groupId = fromBase64(chat.id);
  const { state } = await deps.groups.load(chat.id, signal);
  const others = state.members.filter(({ aci }) => aci !== deps.account().aci.serviceId);
  if (others.length > typingMembersMax) return;
  const content = typingContent(timestamp, isTyping, groupId);
  await Promise.all(
    others.map(({ aci }) => deliverQuietly(deps, aci, content, { timestamp, isOnline: true, groupId })),
  );
}

/**
 * The receipt that we owe for an accepted message: read, where the owner's settings allow it, else delivered. A read mark
 * goes to our own devices too.
 */
export async function sendReceipt(deps: SendDeps, envelope: Envelope): Promise<void> {
  const aci = envelope.source?.aci ?? null;
  if (aci === null || envelope.isOwn) return;
  const { sendsReadReceipts, aci: own } = deps.account();
  saveRecipient(deps.database, aci, envelope.source?.number ?? null, null);
  await deliverQuietly(deps, aci, receiptContent(sendsReadReceipts ? "READ" : "DELIVERY", [envelope.sentAt]));
  await deliverQuietly(deps, own.serviceId, readSyncContent(aci, envelope.sentAt));
}
