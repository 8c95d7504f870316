/**
 * signal-cli's message object → `Envelope`. Both daemons speak it: signal-cli itself and signal-cli-rest-api.
 *
 * Total: whatever JSON arrives becomes an envelope. A field of the wrong type counts as absent, a list drops its bad entries,
 * and what remains unrecognised is kept as `unknown`, so that a new release of signal-cli can never stop the line.
 *
 * **Source:** signal-cli, man/signal-cli-jsonrpc.5.adoc and src/main/java/org/asamk/signal/json/Json*.java (0.14.6).
 */
import * as v from "valibot";
import type { Address, Attachment, Chat, Content, Envelope, Mention, TextContent } from "../../core/model.ts";
import { mediumOf } from "../../core/prompt.ts";
import { toWords } from "../../core/wordless.ts";
import { isSameAddress } from "../../core/model.ts";

const bool = v.fallback(v.boolean(), false);
const count = v.fallback(v.nullable(v.pipe(v.number(), v.safeInteger(), v.minValue(0))), null);
/** JSON may carry half a surrogate pair; nothing behind this line has to cope with it. */
const wellFormed = v.pipe(
  v.string(),
  v.transform((value) => value.toWellFormed()),
);
const text = v.fallback(v.nullable(wellFormed), null);
const uuid = v.fallback(
  v.nullable(v.pipe(v.string(), v.regex(/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/iu), v.toLowerCase())),
  null,
);
const e164 = v.fallback(v.nullable(v.pipe(v.string(), v.regex(/^\+[0-9]{5,15}$/u))), null);
const maybe = <T extends v.GenericSchema>(schema: T) => v.fallback(v.nullable(schema), null);

/** The readable entries of a list; signal-cli leaves empty lists out. */
const list = <T extends v.GenericSchema>(schema: T) =>
  v.pipe(
    v.fallback(v.array(v.unknown()), []),
    v.transform((items) =>
      items.flatMap((item) => {
        const parsed = v.safeParse(schema, item);
        return parsed.success ? [parsed.output] : [];
      }),
    ),
  );

const mentionSchema = v.object({ start: count, length: count, number: e164, uuid });

const dataSchema = v.looseObject({
  timestamp: count,
  message: text,
  expiresInSeconds: count,
  isExpirationUpdate: bool,
  viewOnce: bool,
  groupInfo: maybe(v.object({ groupId: wellFormed, type: text })),
  reaction: maybe(
    v.object({
      emoji: wellFormed,
      targetAuthorNumber: e164,
      targetAuthorUuid: uuid,
      targetSentTimestamp: count,
      isRemove: bool,
    }),
  ),
  remoteDelete: maybe(v.object({ timestamp: count })),
  adminDelete: maybe(v.object({ targetAuthorNumber: e164, targetAuthorUuid: uuid, targetSentTimestamp: count })),
  storyContext: maybe(v.object({})),
  quote: maybe(
    v.object({
      id: count,
      authorNumber: e164,
      authorUuid: uuid,
      text,
      mentions: list(mentionSchema),
      attachments: list(v.object({ contentType: text, filename: text })),
    }),
  ),
  mentions: list(mentionSchema),
  attachments: list(v.object({ contentType: text, filename: text, id: text, size: count })),
  sticker: maybe(v.object({})),
  contacts: list(
    v.object({
      name: maybe(v.record(v.string(), text)),
      phone: list(v.object({ value: text })),
      email: list(v.object({ value: text })),
      organization: text,
    }),
  ),
  pollCreate: maybe(v.object({ question: text, options: list(wellFormed) })),
  previews: list(v.object({ url: text, title: text, description: text })),
});
type Data = v.InferOutput<typeof dataSchema>;

const editSchema = v.object({ targetSentTimestamp: count, dataMessage: dataSchema });

const sentSchema = v.looseObject({
  ...dataSchema.entries,
  destinationNumber: e164,
  destinationUuid: uuid,
  editMessage: maybe(editSchema),
});

const envelopeSchema = v.looseObject({
  sourceNumber: e164,
  sourceUuid: uuid,
  sourceName: text,
  sourceDevice: count,
  timestamp: count,
  serverReceivedTimestamp: count,
  dataMessage: maybe(dataSchema),
  editMessage: maybe(editSchema),
  syncMessage: maybe(v.looseObject({ sentMessage: maybe(sentSchema) })),
  receiptMessage: maybe(v.object({ isDelivery: bool, isRead: bool, isViewed: bool, timestamps: list(v.number()) })),
  typingMessage: maybe(v.object({ action: text, groupId: text })),
});
type Wire = v.InferOutput<typeof envelopeSchema>;

const wrapperSchema = v.object({
  envelope: envelopeSchema,
  account: e164,
  exception: maybe(v.object({ type: text })),
});

/** Traffic of a known kind that says nothing to us. */
const quietKinds = new Set(["storyMessage", "callMessage", "syncMessage"]);
const quietData = /^(?:payment|pollVote|pollTerminate|textStyles|(?:un)?pinMessage)$/u;

/** `source` where it is another than the envelope's. */
type Said = Pick<Envelope, "chat" | "isOwn" | "content"> & {
  readonly sentAt: number | null;
  readonly source?: Address;
};

/**
 * One message object as an envelope. `own` is our account as far as it is known: the number of the message object fills in
 * a missing one, and a sync message tells our ACI, since only our own account can send it.
 */
export function toEnvelope(wire: unknown, own: Address): Envelope {
  const parsed = v.safeParse(wrapperSchema, wire);
  if (!parsed.success) return { ...blank, content: { kind: "unknown", what: "not a message object" } };
  const { envelope, account, exception } = parsed.output;
  const source = toAddress(envelope.sourceUuid, envelope.sourceNumber);
  const self = { aci: own.aci, number: own.number ?? account };
  const said = exception ? { ...silence, content: toFailure(exception.type) } : toSaid(envelope, source, self);
  const { sourceDevice, sourceName, timestamp, serverReceivedTimestamp } = envelope;
  const serverAt = serverReceivedTimestamp === 0 ? null : serverReceivedTimestamp;
  return { source, sourceDevice, sourceName, serverAt, ...said, sentAt: said.sentAt ?? timestamp ?? 0 };
}

/** The number of the account that a message object is for. */
export function accountOf(wire: unknown): string | null {
  const parsed = v.safeParse(v.object({ account: e164 }), wire);
  return parsed.success ? parsed.output.account : null;
}

const silence = { chat: null, isOwn: false, sentAt: null } as const;
const blank = { ...silence, source: null, sourceDevice: null, sourceName: null, serverAt: null, sentAt: 0 };
const unknown = (what: string): Content => ({ kind: "unknown", what });
const empty = (what: string): Content => ({ kind: "empty", what });

function toSaid(wire: Wire, source: Address | null, own: Address): Said {
  if (wire.dataMessage) return fromSender(wire.dataMessage, toContent(wire.dataMessage), source, own);
  if (wire.editMessage) return fromSender(wire.editMessage.dataMessage, toEdit(wire.editMessage), source, own);
  if (wire.syncMessage) return fromOwnDevice(wire.syncMessage.sentMessage, source, own);
  if (wire.receiptMessage) return { ...silence, content: toReceipt(wire.receiptMessage) };
  if (wire.typingMessage) {
    const { action, groupId } = wire.typingMessage;
    const chat = groupId === null ? toDirect(source, own) : { kind: "group" as const, id: groupId };
    return { ...silence, chat, content: { kind: "typing", isTyping: action === "STARTED" } };
  }
  const name = Object.keys(wire).find((key) => !(key in envelopeSchema.entries) && isObject(wire[key]));
  if (name === undefined) return { ...silence, content: empty("no content") };
  return { ...silence, content: quietKinds.has(name) ? empty(name) : unknown(name) };
}

function fromSender(data: Data, content: Content, source: Address | null, own: Address): Said {
  const chat = toGroup(data) ?? toDirect(source, own);
  const isOwn = source !== null && isSameAddress(source, own);
  return { chat, isOwn, sentAt: data.timestamp, content, ...byAdmin(data) };
}

/** What an admin deletes in a group is withdrawn as if its author had deleted it. */
function byAdmin({ adminDelete, groupInfo }: Data): Pick<Said, "source" | "isOwn"> | null {
  const author = adminDelete && toAddress(adminDelete.targetAuthorUuid, adminDelete.targetAuthorNumber);
  return author && groupInfo ? { source: author, isOwn: false } : null;
}

/** A transcript of what another of our own devices sent: to Note to Self, or to another person. */
function fromOwnDevice(sent: v.InferOutput<typeof sentSchema> | null, source: Address | null, own: Address): Said {
  if (source === null || isStranger(source, own)) return { ...silence, content: unknown("sync from another account") };
  if (sent === null) return { ...silence, isOwn: true, content: empty("sync") };
  const data = sent.editMessage?.dataMessage ?? sent;
  const peer = toAddress(sent.destinationUuid, sent.destinationNumber);
  // Sync messages come from our own account only, so their source tells our ACI even where it was unknown until now.
  const self = { aci: own.aci ?? source.aci, number: own.number ?? source.number };
  const chat = toGroup(data) ?? (peer && toDirect(peer, self));
  const content = sent.editMessage ? toEdit(sent.editMessage) : toContent(data);
  const isAimless = chat === null && (content.kind === "text" || content.kind === "edit");
  return {
    chat,
    isOwn: true,
    sentAt: data.timestamp,
    content: isAimless ? unknown("sent message without a destination") : content,
    ...byAdmin(data),
  };
}

const toGroup = (data: Data): Chat | null => (data.groupInfo ? { kind: "group", id: data.groupInfo.groupId } : null);

function toDirect(peer: Address | null, own: Address): Chat | null {
  if (peer === null) return null;
  return isSameAddress(peer, own) ? { kind: "self" } : { kind: "direct", peer };
}

/** Surely another person; two addresses without a common part prove nothing. */
function isStranger(who: Address, own: Address): boolean {
  const isComparable = (who.aci !== null && own.aci !== null) || (who.number !== null && own.number !== null);
  return isComparable && !isSameAddress(who, own);
}

function toContent(data: Data): Content {
  if (data.storyContext) return empty("story reply");
  if (data.reaction) {
    const { emoji, targetAuthorNumber, targetAuthorUuid, targetSentTimestamp, isRemove } = data.reaction;
    const targetAuthor = { aci: targetAuthorUuid, number: targetAuthorNumber };
    return { kind: "reaction", emoji, targetAuthor, targetSentAt: targetSentTimestamp ?? 0, isRemove };
  }
  if (data.remoteDelete) return { kind: "delete", targetSentAt: data.remoteDelete.timestamp ?? 0 };
  if (data.adminDelete && data.groupInfo)
    return { kind: "delete", targetSentAt: data.adminDelete.targetSentTimestamp ?? 0 };
  if (data.isExpirationUpdate) return { kind: "timer", expiresInSeconds: data.expiresInSeconds ?? 0 };
  const body = toText(data);
  if (body.text !== "" || body.attachments.length > 0 || body.isViewOnce || body.quote !== null) return body;
  const names = Object.keys(data).filter((key) => !(key in sentSchema.entries) && data[key] !== null);
  const news = names.find((name) => !quietData.test(name));
  if (news !== undefined && isObject(data[news])) return unknown(news);
  return empty(names[0] ?? (data.groupInfo?.type === "UPDATE" ? "group update" : "data message"));
}

/** Also where nothing is left of the text: the version before it no longer stands. */
function toEdit(edit: v.InferOutput<typeof editSchema>): Content {
  return { kind: "edit", targetSentAt: edit.targetSentTimestamp ?? 0, body: toText(edit.dataMessage) };
}

/** What stands for the text where there is none. signal-cli does not hand on what a sticker stands for. */
const wordsOf = ({ contacts, sticker, pollCreate, previews }: Data): string =>
  toWords({
    cards: contacts.map(({ name, phone, email, organization }) => {
      const values = [...phone, ...email].map(({ value }) => value);
      return { ...name, organization, values };
    }),
    poll: pollCreate,
    sticker: sticker && { emoji: null },
    links: previews,
  });

function toText(data: Data): TextContent {
  const message = data.message || wordsOf(data);
  return {
    kind: "text",
    text: message,
    quote: data.quote && {
      sentAt: data.quote.id ?? 0,
      author: { aci: data.quote.authorUuid, number: data.quote.authorNumber },
      text: data.quote.text,
      mentions: toMentions(data.quote.mentions, data.quote.text ?? ""),
      described:
        data.quote.attachments.map(({ contentType, filename }) => mediumOf(contentType, filename)).join(", ") || null,
    },
    mentions: toMentions(data.mentions, message),
    // What may be seen once is not for a machine that keeps its inbox.
    attachments: data.viewOnce ? [] : data.attachments.flatMap((file) => toAttachment(file, message)),
    expiresInSeconds: data.expiresInSeconds ?? 0,
    isViewOnce: data.viewOnce,
  };
}

const toMentions = (wire: Data["mentions"], message: string): Mention[] =>
  wire.flatMap(({ start, length, number, uuid: aci }) =>
    start === null || length === null || start + length > message.length
      ? []
      : [{ start, length, who: { aci, number } }],
  );

/** Largest body in UTF-8 bytes that any client sends before the text travels as a file. **Source:** Signal-Android. */
const inlineBytesMax = 2048;

/**
 * A long text is listed as a file too. Since 0.14.0 the body already holds all of it: then the file says nothing new and is
 * left out. A shorter body is only the beginning, and an empty one a failed download: then the file is what has to be read.
 */
function toAttachment(file: Data["attachments"][number], message: string): Attachment[] {
  const contentType = file.contentType ?? "application/octet-stream";
  const isLongText = contentType === "text/x-signal-plain";
  const bodyBytes = isLongText ? new TextEncoder().encode(message).length : 0;
  if (isLongText && (bodyBytes > inlineBytesMax || (file.size !== null && bodyBytes >= file.size))) return [];
  return [
    {
      ref: `${file.size ?? ""}:${file.id ?? ""}`,
      contentType,
      fileName: file.filename,
      sizeBytes: file.size,
      isVoiceNote: contentType.startsWith("audio/") && file.filename === null,
      isLongText,
    },
  ];
}

/** An `Attachment.ref` of this module, taken apart: the name at the daemon and the announced size in bytes. */
export function fromRef(ref: string): { readonly id: string; readonly sizeBytes: number | null } {
  const [size = "", ...id] = ref.split(":");
  return { id: id.join(":"), sizeBytes: size === "" ? null : Number(size) };
}

function toReceipt(wire: NonNullable<Wire["receiptMessage"]>): Content {
  const receipt = wire.isViewed ? "viewed" : wire.isRead ? "read" : wire.isDelivery ? "delivery" : null;
  return receipt === null ? unknown("receipt") : { kind: "receipt", receipt, sentAts: wire.timestamps };
}

/** A duplicate was read before: signal-cli's acknowledgement was lost, not the message. */
function toFailure(type: string | null): Content {
  if (type === "ProtocolDuplicateMessageException") return empty("duplicate");
  return { kind: "undecryptable", code: type ?? "unknown", isIdentityChange: type === "UntrustedIdentityException" };
}

const toAddress = (aci: string | null, number: string | null): Address | null =>
  aci === null && number === null ? null : { aci, number };
const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;
