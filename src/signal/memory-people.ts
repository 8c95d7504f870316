/** The people at the other end of the in-process Signal: what they write, and what they see. */
import { Buffer } from "node:buffer";
import type { Clock } from "../clock.ts";
import type {
  Account,
  Address,
  Attachment,
  Chat,
  Content,
  Envelope,
  Millis,
  Outbound,
  OutboundFile,
  Quote,
  TextContent,
} from "../core/model.ts";
import { chatKey, isSameAddress } from "../core/model.ts";
import type { MemoryState, Seen } from "./memory-world.ts";
import { changed, enqueue, stamp } from "./memory-world.ts";

export type WriteOptions = {
  /** Group id; otherwise the direct chat with us, for the owner Note to Self. */
  readonly group?: string;
  readonly quote?: Quote;
  /** Begins the text with a mention of our account. */
  readonly isMention?: boolean;
  readonly files?: readonly OutboundFile[];
  readonly expiresInSeconds?: number;
};

/** Somebody with a phone. Each call puts one envelope into the queue and returns it. */
export type Person = {
  readonly address: Address;
  write(text: string, options?: WriteOptions): Envelope;
  edit(targetSentAt: Millis, text: string, options?: WriteOptions): Envelope;
  react(target: { readonly author: Address; readonly sentAt: Millis }, emoji: string, options?: WriteOptions): Envelope;
  delete(targetSentAt: Millis, options?: WriteOptions): Envelope;
};

/** A message of ours reaches the screens, unless a phone drops it as a duplicate. */
export function arrive(state: MemoryState, { chat, body }: Outbound, timestamp: Millis): void {
  const inChat = (sentAt: Millis) =>
    state.screen.find((seen) => seen.timestamp === sentAt && chatKey(seen.chat) === chatKey(chat));
  if (body.kind !== "reaction") state.typing.delete(chatKey(chat));
  if (body.kind === "edit") {
    const target = inChat(body.targetSentAt);
    if (target)
      show(state, Object.assign(target, { text: body.text, styles: body.styles, editCount: target.editCount + 1 }));
    return;
  }
  const blank = { chat, timestamp, text: "", styles: [], quote: null, files: [], reaction: null, editCount: 0 };
  if (body.kind === "reaction") {
    const emoji = body.isRemove ? null : body.emoji;
    const target = inChat(body.targetSentAt) ?? { ...blank, timestamp: body.targetSentAt };
    state.reactions.push({ chat, targetSentAt: body.targetSentAt, emoji });
    return show(state, Object.assign(target, { reaction: emoji }));
  }
  // Signal's clients drop a second message with the timestamp of the first.
  if (inChat(timestamp)) return;
  const { text, styles, quote, files } = body;
  const seen: Seen = { ...blank, text, styles, quote, files };
  state.screen.push(seen);
  show(state, seen);
}

function show(state: MemoryState, seen: Seen): void {
  state.arrivals.push(seen);
  changed(state);
}

/** `address` equal to our account's makes the owner, whose direct chat is Note to Self. */
export function createPerson(
  state: MemoryState,
  clock: Clock,
  account: Account,
  address: Address,
  name: string | null,
): Person {
  const isOwn = isSameAddress(address, account);
  const { aci, number } = address;
  const say = (content: Content, options: WriteOptions): Envelope => {
    const direct: Chat = isOwn ? { kind: "self" } : { kind: "direct", peer: { aci, number } };
    const sentAt = stamp(state, clock);
    const envelope: Envelope = {
      source: { aci, number },
      sourceDevice: 1,
      sentAt,
      serverAt: sentAt,
      chat: options.group === undefined ? direct : { kind: "group", id: options.group },
      isOwn,
      sourceName: name,
      content,
    };
    enqueue(state, envelope);
    return envelope;
  };
  const toText = (text: string, options: WriteOptions): TextContent => ({
    kind: "text",
    text: options.isMention ? `\u{FFFC} ${text}` : text,
    quote: options.quote ?? null,
    mentions: options.isMention ? [{ start: 0, length: 1, who: { aci: account.aci, number: account.number } }] : [],
    attachments: (options.files ?? []).map((file) => store(state, file)),
    expiresInSeconds: options.expiresInSeconds ?? 0,
    isViewOnce: false,
  });
  return {
    address: { aci, number },
    write: (text, options = {}) => say(toText(text, options), options),
    edit: (targetSentAt, text, options = {}) =>
      say({ kind: "edit", targetSentAt, body: toText(text, options) }, options),
    react: ({ author, sentAt }, emoji, options = {}) =>
      say({ kind: "reaction", emoji, targetAuthor: author, targetSentAt: sentAt, isRemove: false }, options),
    delete: (targetSentAt, options = {}) => say({ kind: "delete", targetSentAt }, options),
  };
}

function store(state: MemoryState, { fileName, contentType, base64 }: OutboundFile): Attachment {
  const ref = `memory-${state.files.size + 1}`;
  state.files.set(ref, base64);
  const sizeBytes = Buffer.from(base64, "base64").length;
  const isVoiceNote = contentType.startsWith("audio/");
  return { ref, contentType, fileName, sizeBytes, isVoiceNote, isLongText: contentType === "text/x-signal-plain" };
}
