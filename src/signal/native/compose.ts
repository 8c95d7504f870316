/**
 * `Outbound` → the protocol's content, and the transcript by which our other devices show what we said. Pure but for the
 * random padding. **Source:** `docs/signal-protocol.md`, "Contents", "Sending".
 */
import { create, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { randomBytes } from "node:crypto";
import type { Millis, OutboundBody, Quote, StyleRange } from "../../core/model.ts";
import { owned } from "./bytes.ts";
import type { Bytes } from "./context.ts";
import { aciBytes } from "./ids.ts";
import * as wire from "./proto/signal_pb.ts";

export type MessageFrame = {
  readonly timestamp: Millis;
  /** Our key, which shows the recipient our name, and lets them seal their answers. */
  readonly profileKey: Bytes | null;
  /** Stored values of the chat: leaving them out would turn the recipient's timer off. */
  readonly timerSeconds: number;
  readonly timerVersion: number;
  readonly group: { readonly masterKey: Bytes; readonly revision: number } | null;
};

/** Text as the body carries it, and the uploaded files; the whole of a long text is the first of them. */
export type Parts = { readonly body: string; readonly files: readonly wire.AttachmentPointer[] };

/** The message in the form that content and transcript share. */
export type Composed = { readonly message: wire.DataMessage } | { readonly editMessage: wire.EditMessage };

const requiredForReactions = 4;
const quoteLengthMax = 2_000;
const paddingMax = 512;

export function compose(said: OutboundBody, parts: Parts, frame: MessageFrame): Composed {
  const common = {
    timestamp: BigInt(frame.timestamp),
    ...(frame.profileKey && { profileKey: frame.profileKey }),
    expireTimer: frame.timerSeconds,
    ...(frame.group ? { groupV2: frame.group } : { expireTimerVersion: frame.timerVersion }),
  };
  if (said.kind === "reaction") {
    const reaction = {
      emoji: said.emoji,
      remove: said.isRemove,
      targetAuthorAciBinary: aciBytes(said.targetAuthor.aci ?? ""),
      targetSentTimestamp: BigInt(said.targetSentAt),
    };
    const shape = { ...common, requiredProtocolVersion: requiredForReactions, reaction };
    return { message: create(wire.DataMessageSchema, shape) };
  }
  const message = create(wire.DataMessageSchema, {
    ...common,
    body: parts.body,
    attachments: [...parts.files],
    bodyRanges: said.styles.map(toRange),
    ...(said.kind === "text" && toQuote(said.quote)),
  });
  if (said.kind === "text") return { message };
  const edit = { targetSentTimestamp: BigInt(said.targetSentAt), dataMessage: message };
  return { editMessage: create(wire.EditMessageSchema, edit) };
}

const toRange = ({ start, length, style }: StyleRange) => ({
  start,
  length,
  value: { case: "style" as const, value: wire.BodyRange_Style[style] },
});

function toQuote(quote: Quote | null) {
  if (quote === null || quote.author.aci === null) return {};
  const text = quote.text?.slice(0, quoteLengthMax) ?? "";
  return { quote: { id: BigInt(quote.sentAt), authorAciBinary: aciBytes(quote.author.aci), text, type: 0 } };
}

type ContentShape = MessageInitShape<typeof wire.ContentSchema>;
const serialize = (content: NonNullable<ContentShape["content"]>, more: ContentShape = {}): Bytes =>
  owned(toBinary(wire.ContentSchema, create(wire.ContentSchema, { content, ...more })));
/** 1..511 bytes, so that the length of a transcript says nothing. */
const randomPadding = (): Bytes => owned(randomBytes(1 + (randomBytes(2).readUInt16BE() % (paddingMax - 1))));

type PniSignature = { readonly pni: Bytes; readonly signature: Bytes };

export function messageContent(composed: Composed, pniSignature: PniSignature | null): Bytes {
  const more = pniSignature === null ? {} : { pniSignatureMessage: pniSignature };
  if ("message" in composed) return serialize({ case: "dataMessage", value: composed.message }, more);
  return serialize({ case: "editMessage", value: composed.editMessage }, more);
}

/** ACIs of the recipients who have the message, and whether it went sealed. */
export type Delivered = ReadonlyMap<string, boolean>;

type Transcript = Record<"timestamp" | "now", Millis> & {
  /** An ACI, ours for Note to Self; null for a group. */
  readonly destination: string | null;
  readonly delivered: Delivered;
};

export function transcriptContent(composed: Composed, { timestamp, destination, delivered, now }: Transcript): Bytes {
  const status = [...delivered].map(([aci, unidentified]) => ({
    destinationServiceIdBinary: aciBytes(aci),
    unidentified,
  }));
  const value = {
    ...composed,
    timestamp: BigInt(timestamp),
    ...(destination === null ? {} : { destinationServiceIdBinary: aciBytes(destination) }),
    expirationStartTimestamp: BigInt(now),
    unidentifiedStatus: status,
  };
  return syncContent({ content: { case: "sent", value } });
}

export const requestContent = (type: wire.SyncMessage_Request_Type): Bytes =>
  syncContent({ content: { case: "request", value: { type } } });

/** Tells our other devices that a message was read here. */
export const readSyncContent = (aci: string, sentAt: Millis): Bytes =>
  syncContent({ read: [{ timestamp: BigInt(sentAt), senderAciBinary: aciBytes(aci) }] });

const syncContent = (sync: MessageInitShape<typeof wire.SyncMessageSchema>): Bytes =>
  serialize({ case: "syncMessage", value: { ...sync, padding: randomPadding() } });

export function receiptContent(kind: "DELIVERY" | "READ", sentAts: readonly Millis[]): Bytes {
  const type = wire.ReceiptMessage_Type[kind];
  return serialize({ case: "receiptMessage", value: { type, timestamp: sentAts.map(BigInt) } });
}

export function typingContent(timestamp: Millis, isTyping: boolean, groupId: Bytes | null): Bytes {
  const action = isTyping ? wire.TypingMessage_Action.STARTED : wire.TypingMessage_Action.STOPPED;
  const value = { timestamp: BigInt(timestamp), action, ...(groupId && { groupId }) };
  return serialize({ case: "typingMessage", value });
}

/** An empty content, which renews a session. */
export const nullContent = (): Bytes => serialize({ case: "nullMessage", value: { padding: randomPadding() } });
