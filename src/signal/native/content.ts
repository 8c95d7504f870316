/**
 * Decrypted content → `Envelope`. Pure, and total: a content that breaks a rule of the protocol becomes a sentence that names
 * the rule, one that we do not know becomes `unknown` or `empty`. `core/inbound.ts` decides whether an envelope is meant for
 * us. **Source:** `docs/signal-protocol.md`, "Contents".
 */
import type {
  Address,
  Chat,
  Content as Said,
  Envelope,
  Mention,
  Millis,
  Quote,
  TextContent,
} from "../../core/model.ts";
import { mediumOf, toWords } from "../../core/prompt.ts";
import { longTextType, toRef } from "./attachments.ts";
import { groupIdOf, toAci } from "./ids.ts";
import * as wire from "./proto/signal_pb.ts";

/** The sender of a content, and its time, as established by the cipher, not by the content. */
export type Sender = {
  readonly aci: string;
  readonly deviceId: number;
  readonly number: string | null;
  readonly name: string | null;
  readonly isOwn: boolean;
  readonly sentAt: Millis;
  readonly serverAt: Millis | null;
  /** The timer of the direct chat, as stored. */
  readonly timerSeconds: number;
  readonly isBlocked: boolean;
};

type AddressOf = (aci: string) => Address;
/** `author` wrote the message that an admin deletes: it is withdrawn as if the author had deleted it. */
type What = { readonly said: Said; readonly chat: Chat | null; readonly sentAt?: Millis; readonly author?: string };
/** A text names the rule of the protocol that was broken: such a message is set aside unanswered. */
type Read = What | string;
/** `latest` bounds timestamps from the future; `addressOf` adds what is known of a person. */
type Known = { readonly latest: Millis; readonly ownAci: string; readonly addressOf: AddressOf };

const dayMs: Millis = 86_400_000;
const timestampMax = 8_640_000_000_000_000;
const protocolVersionMax = 8;
const textBytesMax = 256 * 1024;

export function readContent(content: wire.Content, sender: Sender, known: Known): Envelope | string {
  const { sentAt, aci, number } = sender;
  const { latest, ownAci, addressOf } = known;
  if (sentAt < 1 || sentAt > Math.min(timestampMax, latest + dayMs)) return "timestamp out of range";
  const direct: Chat = sender.isOwn ? { kind: "self" } : { kind: "direct", peer: { aci, number } };
  const read = readKind(content, sender, direct, addressOf);
  if (typeof read === "string") return read;
  const envelope = composeEnvelope({ ...sender, sentAt: read.sentAt ?? sentAt }, read.said, read.chat);
  const { author } = read;
  return author === undefined ? envelope : { ...envelope, source: addressOf(author), isOwn: author === ownAci };
}

export function composeEnvelope(sender: Sender, content: Said, chat: Chat | null): Envelope {
  const { aci, number, deviceId, name: sourceName, sentAt, serverAt, isOwn } = sender;
  return {
    source: { aci, number },
    sourceDevice: deviceId || null,
    sentAt,
    serverAt,
    chat,
    isOwn,
    sourceName,
    content,
  };
}

const empty = (what: string): Said => ({ kind: "empty", what });
const aside = (said: Said): What => ({ said, chat: null });

function readKind(whole: wire.Content, sender: Sender, direct: Chat, addressOf: AddressOf): Read {
  const { content } = whole;
  switch (content.case) {
    case "dataMessage":
      return readData(content.value, sender.sentAt, direct, addressOf);
    case "editMessage":
      return readEdit(content.value, sender, direct, addressOf);
    case "syncMessage":
      return sender.isOwn ? readSync(content.value, sender, addressOf) : "sync message from a stranger";
    case undefined:
      // A content with a sender key may be a group's, and our own devices write to people by transcripts alone: neither has a known chat.
      if (!whole.$unknown) return aside(empty("nothing"));
      return {
        said: newer(whole.$unknown),
        chat: sender.isOwn || whole.senderKeyDistributionMessage.length > 0 ? null : direct,
      };
    default:
      return aside(empty(content.case));
  }
}

function readData(data: wire.DataMessage, sentAt: Millis, direct: Chat, addressOf: AddressOf): Read {
  if (Number(data.timestamp) !== sentAt) return "message timestamp differs";
  const chat = chatOf(data, direct);
  if (typeof chat === "string") return chat;
  const { adminDelete } = data;
  if (adminDelete !== undefined) {
    const author = chat.kind === "group" ? toAci(adminDelete.targetAuthorAciBinary, "") : null;
    const targetSentAt = Number(adminDelete.targetSentTimestamp);
    if (author === null || targetSentAt < 1) return "deletion by an admin of nothing";
    return { said: { kind: "delete", targetSentAt }, chat, author };
  }
  const said = readBody(data, addressOf);
  return typeof said === "string" ? said : { said, chat };
}

function readEdit(edit: wire.EditMessage, { sentAt, timerSeconds }: Sender, direct: Chat, addressOf: AddressOf): Read {
  const data = edit.dataMessage;
  if (data === undefined || Number(data.timestamp) !== sentAt) return "edit timestamp differs";
  if (edit.targetSentTimestamp === 0n) return "edit of nothing";
  const chat = chatOf(data, direct);
  const body = toText(data, addressOf);
  if (typeof chat === "string") return chat;
  if (typeof body === "string") return body;
  // An edit does not state the timer, so that the chat's timer goes on.
  const expiresInSeconds = chat.kind === "group" ? body.expiresInSeconds : timerSeconds;
  const targetSentAt = Number(edit.targetSentTimestamp);
  return { said: { kind: "edit", targetSentAt, body: { ...body, expiresInSeconds } }, chat };
}

/** True for a message that states the chat's timer; in all others the timer's fields are missing. */
export function speaksOfTimer({ flags, body, attachments, sticker, contact, storyContext, groupV2 }: wire.DataMessage) {
  const isUpdate = (flags & wire.DataMessage_Flags.EXPIRATION_TIMER_UPDATE) !== 0;
  const isSaying = body !== "" || attachments.length > 0 || sticker !== undefined || contact.length > 0;
  return groupV2 === undefined && storyContext === undefined && (isUpdate || isSaying);
}

/** Reads a transcript of what another of our devices sent, or news among our devices. */
function readSync({ content }: wire.SyncMessage, sender: Sender, addressOf: AddressOf): Read {
  if (content.case !== "sent") return aside(empty(`sync ${content.case ?? "read"}`));
  const sent = content.value;
  if (sent.isRecipientUpdate) return aside(empty("sync recipient update"));
  const sentAt = Number(sent.timestamp);
  if (sentAt < 1 || sentAt > timestampMax) return "transcript timestamp out of range";
  const aci = toAci(sent.destinationServiceIdBinary, sent.destinationServiceId);
  const number = sent.destinationE164 || null;
  const peer = { aci, number: number ?? (aci && addressOf(aci).number) };
  const direct: Chat = aci === sender.aci ? { kind: "self" } : { kind: "direct", peer };
  const { message, editMessage } = sent;
  const edited = editMessage && readEdit(editMessage, { ...sender, sentAt }, direct, addressOf);
  const inner = message ? readData(message, sentAt, direct, addressOf) : (edited ?? aside(empty("sync sent story")));
  return typeof inner === "string" ? inner : { ...inner, sentAt };
}

function chatOf({ groupV2 }: wire.DataMessage, direct: Chat): Chat | string {
  if (groupV2 === undefined) return direct;
  if (groupV2.masterKey.length !== 32) return "group master key of wrong length";
  return { kind: "group", id: groupIdOf(groupV2.masterKey) };
}

function readBody(data: wire.DataMessage, addressOf: AddressOf): Said | string {
  const { flags, reaction } = data;
  if (data.requiredProtocolVersion > protocolVersionMax) {
    const body = toText(data, addressOf);
    return typeof body === "string" ? body : { kind: "unknown", what: "newer protocol", body };
  }
  if (flags & wire.DataMessage_Flags.EXPIRATION_TIMER_UPDATE) return empty("timer");
  if (flags & wire.DataMessage_Flags.END_SESSION) return empty("end session");
  if (flags & wire.DataMessage_Flags.PROFILE_KEY_UPDATE) return empty("profile key");
  if (reaction !== undefined) {
    const author = toAci(reaction.targetAuthorAciBinary, reaction.targetAuthorAci);
    const targetSentAt = Number(reaction.targetSentTimestamp);
    if (author === null || reaction.emoji === "" || targetSentAt < 1) return "reaction without target";
    const { emoji, remove: isRemove } = reaction;
    return { kind: "reaction", emoji, targetAuthor: addressOf(author), targetSentAt, isRemove };
  }
  if (data.delete !== undefined) {
    const targetSentAt = Number(data.delete.targetSentTimestamp);
    return targetSentAt < 1 ? "deletion of nothing" : { kind: "delete", targetSentAt };
  }
  if (data.storyContext) return empty("story reply");
  const isSaying = data.body !== "" || data.attachments.length > 0 || data.quote !== undefined || wordsOf(data) !== "";
  return (isSaying ? null : wordlessKind(data)) ?? toText(data, addressOf);
}

/** Null for a message that says nothing at all, such as a forward of nothing: a person sent it still, and gets an answer. */
function wordlessKind(data: wire.DataMessage): Said | null {
  if (data.pollTerminate ?? data.pollVote) return empty("poll");
  if (data.pinMessage ?? data.unpinMessage) return empty("pin");
  if (data.groupCallUpdate) return empty("group call");
  if (data.payment ?? data.giftBadge) return empty("payment");
  if (data.$unknown) return newer(data.$unknown);
  if (!data.groupV2) return null;
  return empty(data.groupV2.groupChange.length > 0 ? "group update" : "no text");
}

/** A content that this program is too old for. */
const newer = ([field]: readonly { readonly no: number }[]): Said => ({ kind: "unknown", what: `field ${field?.no}` });

function toText(data: wire.DataMessage, addressOf: AddressOf): TextContent | string {
  if (data.body.length > textBytesMax) return "body too long";
  // Mentions count in the whole of a long text, which its file holds.
  const length = data.attachments.some(isLongText) ? textBytesMax : data.body.length;
  return {
    kind: "text",
    text: data.body || wordsOf(data),
    quote: toQuote(data.quote, addressOf),
    mentions: toMentions(data.bodyRanges, length, addressOf),
    // View-once files are left out, since this machine keeps its inbox.
    attachments: data.isViewOnce ? [] : data.attachments.map(toAttachment),
    expiresInSeconds: data.expireTimer,
    isViewOnce: data.isViewOnce,
  };
}

function toQuote(quote: wire.DataMessage_Quote | undefined, addressOf: AddressOf): Quote | null {
  const aci = quote ? toAci(quote.authorAciBinary, quote.authorAci) : null;
  if (quote === undefined || aci === null) return null;
  const { id, text, attachments, bodyRanges } = quote;
  return {
    sentAt: Number(id),
    author: addressOf(aci),
    text: text || null,
    mentions: toMentions(bodyRanges, text.length, addressOf),
    described: attachments.map(({ contentType, fileName }) => mediumOf(contentType, fileName)).join(", ") || null,
  };
}

const wordsOf = ({ contact, pollCreate, sticker, preview }: wire.DataMessage): string =>
  toWords({
    cards: contact.map(({ name, number, email, organization }) => {
      const { givenName: given, middleName: middle, familyName: family, ...rest } = name ?? {};
      return { ...rest, given, middle, family, organization, values: [...number, ...email].map(({ value }) => value) };
    }),
    poll: pollCreate,
    sticker,
    links: preview,
  });

const textOf = (value: wire.BodyRange["value"]) => (value.case === "mentionAci" ? value.value : "");

/** Ranges come from the sender: those that reach outside of the text are cut off or left out. */
function toMentions(ranges: readonly wire.BodyRange[], textLength: number, addressOf: AddressOf): Mention[] {
  return ranges.flatMap(({ start, length: wanted, value }): Mention[] => {
    const aci = value.case === "mentionAciBinary" ? toAci(value.value, "") : toAci(null, textOf(value));
    const length = Math.min(wanted, textLength - start);
    return aci === null || length < 1 ? [] : [{ start, length, who: addressOf(aci) }];
  });
}

const isLongText = ({ contentType }: wire.AttachmentPointer): boolean => contentType === longTextType;

const toAttachment = (pointer: wire.AttachmentPointer): TextContent["attachments"][number] => ({
  ref: toRef(pointer),
  contentType: pointer.contentType || "application/octet-stream",
  fileName: pointer.fileName || null,
  sizeBytes: pointer.size,
  isVoiceNote: (pointer.flags & wire.AttachmentPointer_Flags.VOICE_MESSAGE) !== 0,
  isLongText: isLongText(pointer),
});

/** The data message of a message or of an edit; undefined for other contents. */
export function dataOf({ content: { case: kind, value } }: wire.Content): wire.DataMessage | undefined {
  return kind === "dataMessage" ? value : kind === "editMessage" ? value.dataMessage : undefined;
}
