/**
 * Decrypted content → `Envelope`. Pure, and total: what breaks a rule of the protocol becomes `null` with its reason, what we
 * do not know becomes `unknown` or `empty`. Whether an envelope is meant for us is decided elsewhere (`core/inbound`).
 * **Source:** SIGNAL-NATIVE 4.3 to 4.6, 4.13.
 */
import { Aci } from "@signalapp/libsignal-client";
import { Buffer } from "node:buffer";
import type { Address, Chat, Content as Said, Envelope, Mention, Millis, TextContent } from "../../core/model.ts";
import { longTextType, toRef } from "./attachments.ts";
import { owned } from "./bytes.ts";
import { groupIdOf } from "./groups.ts";
import {
  type AttachmentPointer,
  AttachmentPointer_Flags,
  type BodyRange,
  type Content,
  type DataMessage,
  DataMessage_Flags,
  type EditMessage,
  type ReceiptMessage,
  ReceiptMessage_Type,
  type SyncMessage,
  type SyncMessage_Sent,
  type TypingMessage,
  TypingMessage_Action,
} from "./proto/signal_pb.ts";

/** Who sent a content, and when; established by the cipher, not by the content. */
export type Sender = {
  readonly aci: string;
  readonly deviceId: number;
  readonly number: string | null;
  readonly name: string | null;
  /** Another device of our own account. */
  readonly isOwn: boolean;
  readonly sentAt: Millis;
  readonly serverAt: Millis | null;
};

/** `reason` says which rule of the protocol was broken: such a message is set aside, and nobody gets an answer. */
export type Reading = { readonly envelope: Envelope } | { readonly reason: string };

const dayMs: Millis = 86_400_000;
const timestampMax = 8_640_000_000_000_000;
/** What a client of our level understands. **Source:** SIGNAL-NATIVE 4.4, field 12. */
const protocolVersionMax = 8;
const textBytesMax = 256 * 1024;

/** `now` bounds timestamps from the future. `addressOf` adds what is known of a person. */
export function readContent(
  content: Content,
  sender: Sender,
  now: Millis,
  addressOf: (aci: string) => Address,
): Reading {
  if (sender.sentAt < 1 || sender.sentAt > Math.min(timestampMax, now + dayMs))
    return { reason: "timestamp out of range" };
  const { case: kind, value } = content.content;
  const source: Address = { aci: sender.aci, number: sender.number };
  const build = (said: Said, chat: Chat | null): Reading => ({
    envelope: {
      source,
      sourceDevice: sender.deviceId,
      sentAt: sender.sentAt,
      serverAt: sender.serverAt,
      chat,
      isOwn: sender.isOwn,
      sourceName: sender.name,
      content: said,
    },
  });
  const direct: Chat = sender.isOwn ? { kind: "self" } : { kind: "direct", peer: source };
  switch (kind) {
    case "dataMessage":
      return readData(value, sender.sentAt, direct, addressOf, build);
    case "editMessage":
      return readEdit(value, sender.sentAt, direct, addressOf, build);
    case "syncMessage":
      return readSync(value, sender, addressOf, build);
    case "receiptMessage":
      return build(toReceipt(value), null);
    case "typingMessage":
      if (Number(value.timestamp) !== sender.sentAt) return { reason: "typing timestamp differs" };
      return build(
        { kind: "typing", isTyping: value.action === TypingMessage_Action.STARTED },
        typingChat(value, direct),
      );
    case "callMessage":
    case "nullMessage":
    case "storyMessage":
    case "decryptionErrorMessage":
      return build({ kind: "empty", what: kind }, null);
    case undefined:
      return build({ kind: "empty", what: "nothing" }, null);
  }
}

type Build = (said: Said, chat: Chat | null) => Reading;
type AddressOf = (aci: string) => Address;

function readData(data: DataMessage, sentAt: Millis, direct: Chat, addressOf: AddressOf, build: Build): Reading {
  if (Number(data.timestamp) !== sentAt) return { reason: "message timestamp differs" };
  const chat = chatOf(data, direct);
  if (chat === null) return { reason: "group master key of wrong length" };
  const said = readBody(data, addressOf);
  return typeof said === "string" ? { reason: said } : build(said, chat);
}

function readEdit(edit: EditMessage, sentAt: Millis, direct: Chat, addressOf: AddressOf, build: Build): Reading {
  const data = edit.dataMessage;
  if (data === undefined || Number(data.timestamp) !== sentAt) return { reason: "edit timestamp differs" };
  if (edit.targetSentTimestamp === 0n) return { reason: "edit of nothing" };
  const chat = chatOf(data, direct);
  if (chat === null) return { reason: "group master key of wrong length" };
  const body = toText(data, addressOf);
  if (typeof body === "string") return { reason: body };
  return build({ kind: "edit", targetSentAt: Number(edit.targetSentTimestamp), body }, chat);
}

/** A transcript of what another of our devices sent, or news among our devices. */
function readSync(sync: SyncMessage, sender: Sender, addressOf: AddressOf, build: Build): Reading {
  if (!sender.isOwn) return { reason: "sync message from a stranger" };
  const { case: kind, value } = sync.content;
  if (kind !== "sent") {
    const what = kind ?? (sync.read.length > 0 ? "read" : sync.viewed.length > 0 ? "viewed" : "other");
    return build({ kind: "empty", what: `sync ${what}` }, null);
  }
  if (value.isRecipientUpdate) return build({ kind: "empty", what: "sync recipient update" }, null);
  const sentAt = Number(value.timestamp);
  if (sentAt < 1 || sentAt > timestampMax) return { reason: "transcript timestamp out of range" };
  const direct = destinationOf(value, sender.aci, addressOf);
  const restamp: Build = (said, chat) => {
    const reading = build(said, chat);
    return "envelope" in reading ? { envelope: { ...reading.envelope, sentAt } } : reading;
  };
  if (value.message !== undefined) return readData(value.message, sentAt, direct, addressOf, restamp);
  if (value.editMessage !== undefined) return readEdit(value.editMessage, sentAt, direct, addressOf, restamp);
  return build({ kind: "empty", what: "sync sent story" }, null);
}

function destinationOf(sent: SyncMessage_Sent, ownAci: string, addressOf: AddressOf): Chat {
  const aci = toAci(sent.destinationServiceIdBinary, sent.destinationServiceId);
  if (aci === ownAci) return { kind: "self" };
  const number = sent.destinationE164 === "" ? null : sent.destinationE164;
  return {
    kind: "direct",
    peer: aci === null ? { aci, number } : { ...addressOf(aci), ...(number ? { number } : {}) },
  };
}

/** The group wins over the destination. Null when the group's key cannot be one. */
function chatOf(data: DataMessage, direct: Chat): Chat | null {
  if (data.groupV2 === undefined) return direct;
  if (data.groupV2.masterKey.length !== 32) return null;
  return { kind: "group", id: groupIdOf(data.groupV2.masterKey) };
}

/** What a message says, or the rule that it breaks. */
function readBody(data: DataMessage, addressOf: AddressOf): Said | string {
  if (data.requiredProtocolVersion > protocolVersionMax) return { kind: "unknown", what: "newer protocol" };
  if ((data.flags & DataMessage_Flags.EXPIRATION_TIMER_UPDATE) !== 0)
    return { kind: "timer", expiresInSeconds: data.expireTimer };
  if ((data.flags & DataMessage_Flags.END_SESSION) !== 0) return { kind: "empty", what: "end session" };
  if ((data.flags & DataMessage_Flags.PROFILE_KEY_UPDATE) !== 0) return { kind: "empty", what: "profile key" };
  if (data.reaction !== undefined) {
    const author = toAci(data.reaction.targetAuthorAciBinary, data.reaction.targetAuthorAci);
    const targetSentAt = Number(data.reaction.targetSentTimestamp);
    if (author === null || data.reaction.emoji === "" || targetSentAt < 1) return "reaction without target";
    const { emoji, remove: isRemove } = data.reaction;
    return { kind: "reaction", emoji, targetAuthor: addressOf(author), targetSentAt, isRemove };
  }
  if (data.delete !== undefined) {
    const targetSentAt = Number(data.delete.targetSentTimestamp);
    return targetSentAt < 1 ? "deletion of nothing" : { kind: "delete", targetSentAt };
  }
  const other = otherKind(data);
  return other === null ? toText(data, addressOf) : { kind: "empty", what: other };
}

function otherKind(data: DataMessage): string | null {
  if (data.storyContext !== undefined) return "story reply";
  if (data.pollCreate ?? data.pollTerminate ?? data.pollVote) return "poll";
  if (data.pinMessage ?? data.unpinMessage) return "pin";
  if (data.adminDelete !== undefined) return "deletion by an admin";
  if (data.groupCallUpdate !== undefined) return "group call";
  if (data.sticker !== undefined) return "sticker";
  if (data.body !== "" || data.attachments.length > 0) return null;
  return data.groupV2 !== undefined && data.groupV2.groupChange.length > 0 ? "group update" : "no text";
}

/** The text of a message with all that belongs to it, or the rule that it breaks. */
function toText(data: DataMessage, addressOf: AddressOf): TextContent | string {
  if (data.body.length > textBytesMax) return "body too long";
  const isDamaged = data.attachments.some(({ key, digest }) => key.length !== 64 || digest.length !== 32);
  if (isDamaged) return "attachment without key or digest";
  const author = data.quote && toAci(data.quote.authorAciBinary, data.quote.authorAci);
  return {
    kind: "text",
    text: data.body,
    quote:
      data.quote && author
        ? { sentAt: Number(data.quote.id), author: addressOf(author), text: data.quote.text || null }
        : null,
    mentions: toMentions(data.bodyRanges, data.body.length, addressOf),
    // What may be seen once is not for a machine that keeps its inbox.
    attachments: data.isViewOnce ? [] : data.attachments.map(toAttachment),
    expiresInSeconds: data.expireTimer,
    isViewOnce: data.isViewOnce,
  };
}

/** Ranges come from the sender: what lies outside of the text is cut off or left out. */
function toMentions(ranges: readonly BodyRange[], length: number, addressOf: AddressOf): Mention[] {
  return ranges.flatMap(({ start, length: wanted, value }): Mention[] => {
    const aci =
      value.case === "mentionAciBinary"
        ? toAci(value.value, "")
        : value.case === "mentionAci"
          ? toAci(null, value.value)
          : null;
    const kept = Math.min(wanted, length - start);
    return aci === null || kept < 1 ? [] : [{ start, length: kept, who: addressOf(aci) }];
  });
}

const toAttachment = (pointer: AttachmentPointer): TextContent["attachments"][number] => ({
  ref: toRef(pointer),
  contentType: pointer.contentType || "application/octet-stream",
  fileName: pointer.fileName || null,
  sizeBytes: pointer.size,
  isVoiceNote: (pointer.flags & AttachmentPointer_Flags.VOICE_MESSAGE) !== 0,
  isLongText: pointer.contentType === longTextType,
});

const receiptKinds = {
  [ReceiptMessage_Type.DELIVERY]: "delivery",
  [ReceiptMessage_Type.READ]: "read",
  [ReceiptMessage_Type.VIEWED]: "viewed",
} as const;

const toReceipt = ({ type, timestamp }: ReceiptMessage): Said => ({
  kind: "receipt",
  receipt: receiptKinds[type],
  sentAts: timestamp.map(Number),
});

const typingChat = (typing: TypingMessage, direct: Chat): Chat =>
  typing.groupId.length === 0 ? direct : { kind: "group", id: Buffer.from(typing.groupId).toString("base64") };

/** An ACI in either of its forms, as lower-case UUID; null for a PNI, or for nothing. */
export function toAci(binary: Uint8Array | null, text: string): string | null {
  if (binary !== null && binary.length > 0)
    return binary.length === 16 ? Aci.fromUuidBytes(owned(binary)).getServiceIdString() : null;
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text) ? text.toLowerCase() : null;
}
