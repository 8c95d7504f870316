/**
 * signal-cli's message object → `Envelope`. Both daemons speak it: signal-cli itself and signal-cli-rest-api.
 *
 * Total: whatever JSON arrives becomes an envelope. The JSON is read field by field; a field of the wrong type counts as
 * absent, a list drops its bad entries, and what remains unrecognised is kept as `unknown`, so that a new release of signal-cli
 * can never stop the line. `core/inbound.ts`, not this file, decides whether a message is meant for us.
 *
 * **Source:** signal-cli, man/signal-cli-jsonrpc.5.adoc and src/main/java/org/asamk/signal/json/Json*.java (0.14.6).
 */
import type { Address, Attachment, Chat, Content, Envelope, Mention, Quote, TextContent } from "../../core/model.ts";
import { isSameAddress } from "../../core/model.ts";
import { mediumOf, toWords } from "../../core/prompt.ts";

type Json = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null;
const objectOf = (value: unknown): Json | null => (isObject(value) ? value : null);
/** JSON may carry half a surrogate pair, which is replaced here so that no later code meets one. */
const stringOf = (value: unknown): string | null => (typeof value === "string" ? value.toWellFormed() : null);

// Each reads the value of a key; null, or an empty list, where the value has another type.
const object = (json: Json | null, key: string): Json | null => objectOf(json?.[key]);
const string = (json: Json | null, key: string): string | null => stringOf(json?.[key]);
const list = (json: Json, key: string): unknown[] => (Array.isArray(json[key]) ? json[key] : []);
const objects = (json: Json, key: string): Json[] => list(json, key).filter(isObject);
const count = (json: Json | null, key: string): number | null => {
  const value = json?.[key];
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 ? value : null;
};
const number = (json: Json | null, key: string): string | null =>
  /^\+[0-9]{5,15}$/u.exec(string(json, key) ?? "")?.[0] ?? null;
const aci = (json: Json, key: string): string | null =>
  /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/iu.exec(string(json, key) ?? "")?.[0].toLowerCase() ?? null;

type Role = "source" | "destination" | "author" | "targetAuthor";
const person = (json: Json, role: Role): Address => ({
  aci: aci(json, `${role}Uuid`),
  number: number(json, `${role}Number`),
});
/** Null where neither ACI nor number is known. */
const personOrNull = (person: Address): Address | null => ((person.aci ?? person.number) === null ? null : person);

/** Known kinds of traffic that carry no message for us. */
const quietKinds = new Set(["receiptMessage", "typingMessage", "storyMessage", "callMessage", "syncMessage"]);
const readKinds = new Set(["dataMessage", "editMessage"]);
const quietData = new Set(["payment", "pollVote", "pollTerminate", "pinMessage", "unpinMessage"]);
const deeds = "reaction remoteDelete adminDelete storyContext editMessage";
const parts = "groupInfo quote mentions attachments sticker contacts pollCreate previews textStyles";
const readData = new Set(`${deeds} ${parts}`.split(" "));

/** `source` is set only where it differs from the envelope's. */
type Said = Pick<Envelope, "chat" | "isOwn" | "content"> & {
  readonly sentAt: number | null;
  readonly source?: Address;
};

/**
 * Reads one message object as an envelope. `own` is our account as far as it is known: the message object's `account` fills in
 * a missing number, and a sync message tells our ACI, since only our own account can send one.
 */
export function toEnvelope(wire: unknown, own: Address): Envelope {
  const whole = objectOf(wire);
  const envelope = object(whole, "envelope");
  if (whole === null || envelope === null)
    return { ...silence, ...blank, content: { kind: "unknown", what: "not a message object" } };
  const source = personOrNull(person(envelope, "source"));
  const exception = object(whole, "exception");
  const self = { aci: own.aci, number: own.number ?? accountOf(wire) };
  const said = exception ? fromFailure(exception, source, self) : toSaid(envelope, source, self);
  const data = object(envelope, "dataMessage") ?? object(object(envelope, "syncMessage"), "sentMessage");
  const groupName = string(object(data, "groupInfo"), "groupName");
  return {
    source,
    sourceDevice: count(envelope, "sourceDevice"),
    sourceName: string(envelope, "sourceName"),
    serverAt: count(envelope, "serverReceivedTimestamp") || null,
    ...(groupName === null ? {} : { groupName }),
    ...said,
    sentAt: said.sentAt ?? count(envelope, "timestamp") ?? 0,
  };
}

/** When Signal delivered a message object, by its own clock; null where the object does not tell. */
export const deliveredAt = (wire: unknown): number | null =>
  count(object(objectOf(wire), "envelope"), "serverDeliveredTimestamp") || null;

/** The number of the account that a message object is for. */
export const accountOf = (wire: unknown): string | null => number(objectOf(wire), "account");

const silence = { chat: null, isOwn: false, sentAt: null } as const;
const blank = { source: null, sourceDevice: null, sourceName: null, serverAt: null, sentAt: 0 };
const unknown = (what: string): Content => ({ kind: "unknown", what });
const empty = (what: string): Content => ({ kind: "empty", what });

function toSaid(envelope: Json, source: Address | null, own: Address): Said {
  const data = object(envelope, "dataMessage");
  if (data) return fromSender(data, toContent(data), source, own);
  const edit = editIn(envelope);
  if (edit) return fromSender(edit.data, edit.content, source, own);
  const sync = object(envelope, "syncMessage");
  if (sync) return fromOwnDevice(object(sync, "sentMessage"), source, own);
  const name = Object.keys(envelope).find((key) => isObject(envelope[key]) && !readKinds.has(key));
  if (name === undefined) return { ...silence, content: empty("no content") };
  return quietKinds.has(name) ? { ...silence, content: empty(name) } : newer(name, source, own);
}

/** A content that the daemon, or this program, is too old for. Its chat is unknown: from another person, the direct one is assumed. */
function newer(what: string, source: Address | null, own: Address): Said {
  const chat = directWith(source, own);
  return { ...silence, chat: chat?.kind === "direct" ? chat : null, content: unknown(what) };
}

function fromSender(data: Json, content: Content, source: Address | null, own: Address): Said {
  const chat = groupOf(data) ?? directWith(source, own);
  const isOwn = source !== null && isSameAddress(source, own);
  return { chat, isOwn, sentAt: count(data, "timestamp"), content, ...byAdmin(data) };
}

/** The author of a message that an admin deletes in a group: it is withdrawn as if its author had deleted it. */
function byAdmin(data: Json): Pick<Said, "source" | "isOwn"> | null {
  const deletion = object(data, "adminDelete");
  const author = deletion && personOrNull(person(deletion, "targetAuthor"));
  return author && groupOf(data) ? { source: author, isOwn: false } : null;
}

/** Reads a transcript of what another of our own devices sent: to Note to Self, or to another person. */
function fromOwnDevice(sent: Json | null, source: Address | null, own: Address): Said {
  if (source === null || isStranger(source, own)) return { ...silence, content: unknown("sync from another account") };
  if (sent === null) return { ...silence, isOwn: true, content: empty("sync") };
  const { data, content } = editIn(sent) ?? { data: sent, content: toContent(sent) };
  // Sync messages come from our own account only, so their source tells our ACI even where it was unknown until now.
  const self = { aci: own.aci ?? source.aci, number: own.number ?? source.number };
  const chat = groupOf(data) ?? directWith(personOrNull(person(sent, "destination")), self);
  const isAimless = chat === null && (content.kind === "text" || content.kind === "edit");
  return {
    chat,
    isOwn: true,
    sentAt: count(data, "timestamp"),
    content: isAimless ? unknown("sent message without a destination") : content,
    ...byAdmin(data),
  };
}

function groupOf(data: Json): Chat | null {
  const id = string(object(data, "groupInfo"), "groupId");
  return id === null ? null : { kind: "group", id };
}

function directWith(peer: Address | null, own: Address): Chat | null {
  if (peer === null) return null;
  return isSameAddress(peer, own) ? { kind: "self" } : { kind: "direct", peer };
}

/** True for surely another person; two addresses that do not both have an ACI, or both a number, prove nothing. */
function isStranger(who: Address, own: Address): boolean {
  const isComparable = (who.aci !== null && own.aci !== null) || (who.number !== null && own.number !== null);
  return isComparable && !isSameAddress(who, own);
}

function toContent(data: Json): Content {
  if (isObject(data["storyContext"])) return empty("story reply");
  const reaction = object(data, "reaction");
  const emoji = string(reaction, "emoji");
  if (reaction && emoji !== null) {
    const targetSentAt = count(reaction, "targetSentTimestamp") ?? 0;
    const targetAuthor = person(reaction, "targetAuthor");
    return { kind: "reaction", emoji, targetAuthor, targetSentAt, isRemove: reaction["isRemove"] === true };
  }
  const deletion = object(data, "remoteDelete");
  if (deletion) return { kind: "delete", targetSentAt: count(deletion, "timestamp") ?? 0 };
  const byAdmin = object(data, "adminDelete");
  if (byAdmin && groupOf(data)) return { kind: "delete", targetSentAt: count(byAdmin, "targetSentTimestamp") ?? 0 };
  if (data["isExpirationUpdate"] === true) return empty("timer");
  const body = toText(data);
  if (body.text !== "" || body.attachments.length > 0 || body.isViewOnce || body.quote !== null) return body;
  const names = Object.keys(data).filter((key) => isObject(data[key]) && !readData.has(key));
  const news = names.find((name) => !quietData.has(name));
  if (news !== undefined) return unknown(news);
  const isUpdate = string(object(data, "groupInfo"), "type") === "UPDATE";
  return empty(names[0] ?? (isUpdate ? "group update" : "data message"));
}

/** An edit that leaves no text counts too, since it withdraws the version before it. */
function editIn(json: Json): { readonly data: Json; readonly content: Content } | null {
  const edit = object(json, "editMessage");
  const data = object(edit, "dataMessage");
  if (data === null) return null;
  return { data, content: { kind: "edit", targetSentAt: count(edit, "targetSentTimestamp") ?? 0, body: toText(data) } };
}

/** Words for a message without text: its contacts, poll, sticker or links. signal-cli does not hand on the emoji of a sticker. */
function wordsOf(data: Json): string {
  const poll = object(data, "pollCreate");
  return toWords({
    cards: objects(data, "contacts").map((card) => ({
      ...Object.fromEntries(Object.entries(object(card, "name") ?? {}).map(([part, value]) => [part, stringOf(value)])),
      organization: string(card, "organization"),
      values: [...objects(card, "phone"), ...objects(card, "email")].map((one) => string(one, "value")),
    })),
    poll: poll && { question: string(poll, "question"), options: list(poll, "options").map(stringOf) },
    sticker: object(data, "sticker") && { emoji: null },
    links: objects(data, "previews").map((link) => ({
      url: string(link, "url"),
      title: string(link, "title"),
      description: string(link, "description"),
    })),
  });
}

function toText(data: Json): TextContent {
  const text = string(data, "message") || wordsOf(data);
  const isViewOnce = data["viewOnce"] === true;
  return {
    kind: "text",
    text,
    quote: toQuote(object(data, "quote")),
    mentions: toMentions(data, text),
    // View-once files are left out, since this machine keeps its inbox.
    attachments: isViewOnce ? [] : objects(data, "attachments").flatMap((file) => toAttachment(file, text) ?? []),
    expiresInSeconds: count(data, "expiresInSeconds") ?? 0,
    isViewOnce,
  };
}

function toQuote(quote: Json | null): Quote | null {
  if (quote === null) return null;
  const text = string(quote, "text");
  const files = objects(quote, "attachments");
  return {
    sentAt: count(quote, "id") ?? 0,
    author: person(quote, "author"),
    text,
    mentions: toMentions(quote, text ?? ""),
    described: files.map((file) => mediumOf(string(file, "contentType"), string(file, "filename"))).join(", ") || null,
  };
}

const toMentions = (json: Json, text: string): Mention[] =>
  objects(json, "mentions").flatMap((mention) => {
    const [start, length] = [count(mention, "start"), count(mention, "length")];
    if (start === null || length === null || start + length > text.length) return [];
    return [{ start, length, who: { aci: aci(mention, "uuid"), number: number(mention, "number") } }];
  });

/** Largest body in UTF-8 bytes that any client sends before the text travels as a file. **Source:** Signal-Android. */
const inlineBytesMax = 2048;

/**
 * signal-cli lists a long text as a file too. Since 0.14.0 the body already holds all of it, so that the file is left out. A
 * shorter body is only the text's beginning, and an empty one a failed download: then the file is kept, to be read.
 */
function toAttachment(file: Json, text: string): Attachment | null {
  const [sizeBytes, fileName] = [count(file, "size"), string(file, "filename")];
  const contentType = string(file, "contentType") ?? "application/octet-stream";
  const isLongText = contentType === "text/x-signal-plain";
  const bodyBytes = isLongText ? new TextEncoder().encode(text).length : 0;
  if (isLongText && (bodyBytes > inlineBytesMax || (sizeBytes !== null && bodyBytes >= sizeBytes))) return null;
  const ref = `${sizeBytes ?? ""}:${string(file, "id") ?? ""}`;
  const isVoiceNote = contentType.startsWith("audio/") && fileName === null;
  return { ref, contentType, fileName, sizeBytes, isVoiceNote, isLongText };
}

/** An `Attachment.ref` of this module, taken apart: the name at the daemon and the announced size in bytes. */
export function fromRef(ref: string): { readonly id: string; readonly sizeBytes: number | null } {
  const [size = "", ...id] = ref.split(":");
  return { id: id.join(":"), sizeBytes: size === "" ? null : Number(size) };
}

/** A duplicate counts as empty, since its message was read before: only signal-cli's acknowledgement was lost. */
function fromFailure(exception: Json, source: Address | null, own: Address): Said {
  const type = string(exception, "type") ?? "unknown";
  if (type === "UnsupportedDataMessageException") return newer(type, source, own);
  if (type === "ProtocolDuplicateMessageException") return { ...silence, content: empty("duplicate") };
  const isIdentityChange = type === "UntrustedIdentityException";
  return { ...silence, content: { kind: "undecryptable", code: type, isIdentityChange } };
}
