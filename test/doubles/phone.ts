/**
 * The phone of one person on Signal's mock server: it writes as its owner would, and shows what it decrypts from the
 * linked device under test, receipts and typing included. What the official clients drop (a second copy) is not shown; an
 * edit of what is not the newest version is a message, as on a real phone.
 */
import { type Device, EMPTY_DATA_MESSAGE, type PrimaryDevice, Proto, type Group } from "@signalapp/mock-server";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { StyleRange } from "../../src/core/model.ts";
import { decryptAttachment, encryptAttachment } from "../../src/signal/native/attachments.ts";
import type { SignalMock } from "./signal-mock.ts";
import { createVersions } from "./versions.ts";
import { createTape } from "./wire.ts";

/** Where it happened: a group, or else the chat of this phone's owner with the linked account. */
export type Place = Group | null;
export type SeenFile = { readonly name: string; readonly bytes: Uint8Array };

export type Seen = { readonly place: Place } & (
  | {
      readonly kind: "message" | "edit";
      readonly sentAt: number;
      readonly text: string;
      readonly styles: readonly StyleRange[];
      readonly files: readonly SeenFile[];
      /** Disappears after so many seconds; 0 stays. */
      readonly expiresInSeconds: number;
    }
  | {
      readonly kind: "reaction";
      readonly sentAt: number;
      readonly emoji: string;
      readonly isRemove: boolean;
      readonly targetSentAt: number;
    }
  | { readonly kind: "read"; readonly targetSentAt: number }
  | { readonly kind: "typing"; readonly isTyping: boolean }
);

export type Letter = {
  readonly text?: string;
  /** Begins with a mention of the linked account. */
  readonly isMention?: boolean;
  readonly quote?: { readonly sentAt: number; readonly text: string };
  readonly files?: readonly {
    readonly name: string;
    readonly type: string;
    readonly bytes: Uint8Array;
    /** What the sender says of its size. */
    readonly announcedBytes?: number | undefined;
  }[];
  readonly expiresInSeconds?: number;
};

export type Phone = {
  readonly who: PrimaryDevice;
  /** Resolve when the linked device has acknowledged it, which may be after a reconnect. */
  write(sentAt: number, letter: Letter, place: Place): Promise<void>;
  edit(sentAt: number, targetSentAt: number, text: string, place: Place): Promise<void>;
  remove(sentAt: number, targetSentAt: number, place: Place): Promise<void>;
  react(sentAt: number, targetSentAt: number, emoji: string, place: Place): Promise<void>;
  /** Tells the linked device that others may see it typing; without, that is only said on request. */
  sendSettings(): Promise<void>;
};

type Data = Partial<Proto.DataMessage.Params>;
type Said = { message: Proto.DataMessage.Params } | { editMessage: Proto.EditMessage.Params };

export function createPhone(
  mock: SignalMock,
  who: PrimaryDevice,
  device: Device,
  groups: readonly Group[],
  onSeen: (seen: Seen) => void,
): Phone {
  const owner = mock.phone.device;
  const isOwner = who === mock.phone;
  const send = (content: Proto.Content.Params, sentAt: number): Promise<void> =>
    who.sendRaw(device, content, { timestamp: sentAt });
  const dataOf = (sentAt: number, place: Place, data: Data): Proto.DataMessage.Params => ({
    ...EMPTY_DATA_MESSAGE,
    timestamp: BigInt(sentAt),
    groupV2: place?.toContext() ?? null,
    ...data,
  });
  const post = (sentAt: number, said: Said): Promise<void> => {
    if (isOwner) return send(syncOf({ sent: sentTranscript(owner, sentAt, said) }), sentAt);
    return send(contentOf("message" in said ? { dataMessage: said.message } : said), sentAt);
  };
  watch(mock, who, groups, onSeen);
  if (isOwner) answerWithSettings(who);
  return {
    who,
    async write(sentAt, { text = "", isMention = false, quote, files = [], expiresInSeconds = 0 }, place) {
      const attachments: Proto.AttachmentPointer.Params[] = [];
      for (const file of files) attachments.push(await upload(mock, file));
      const mention = { start: 0, length: 1, associatedValue: { mentionAciBinary: owner.aciRawUuid } };
      const message = dataOf(sentAt, place, {
        body: isMention ? `\uFFFC ${text}` : text,
        bodyRanges: isMention ? [mention] : [],
        attachments,
        expireTimer: expiresInSeconds,
        ...(quote && { quote: quoteOf(owner, quote) }),
      });
      await post(sentAt, { message });
    },
    async edit(sentAt, targetSentAt, text, place) {
      const dataMessage = dataOf(sentAt, place, { body: text });
      await post(sentAt, { editMessage: { targetSentTimestamp: BigInt(targetSentAt), dataMessage } });
    },
    remove: (sentAt, targetSentAt, place) =>
      post(sentAt, { message: dataOf(sentAt, place, { delete: { targetSentTimestamp: BigInt(targetSentAt) } }) }),
    react(sentAt, targetSentAt, emoji, place) {
      const target = { targetAuthorAciBinary: owner.aciRawUuid, targetAuthorAci: null };
      const reaction = { emoji, remove: false, ...target, targetSentTimestamp: BigInt(targetSentAt) };
      return post(sentAt, { message: dataOf(sentAt, place, { reaction }) });
    },
    sendSettings: () => send(syncOf({ configuration: settings }), Date.now()),
  };
}

/** Note to Self on the owner's phone: texts in, and texts of messages and edits out. */
export function openNotes(mock: SignalMock, device: Device) {
  const shown = createTape<string>();
  const phone = createPhone(mock, mock.phone, device, [], (seen) => {
    if ("text" in seen && seen.text !== "") shown.push(seen.text);
  });
  let lastAt = 0;
  return {
    next: shown.next,
    write: (text: string, now = Date.now()): Promise<void> =>
      phone.write((lastAt = Math.max(lastAt + 1, now)), { text }, null),
  };
}

const settings = {
  readReceipts: true,
  unidentifiedDeliveryIndicators: false,
  typingIndicators: true,
  linkPreviews: false,
};

/** The mock's own phone answers a request for its settings with typing turned off. */
function answerWithSettings(who: PrimaryDevice): void {
  const hidden = who as unknown as { encryptContent(to: Device, content: Proto.Content.Params): Promise<unknown> };
  const encrypt = hidden.encryptContent.bind(who);
  hidden.encryptContent = (to, content, ...rest) => {
    const { configuration } = content.content?.syncMessage?.content ?? {};
    return encrypt(to, configuration ? syncOf({ configuration: settings }) : content, ...rest);
  };
}

const contentOf = (content: Proto.Content.Params["content"]): Proto.Content.Params => ({
  content,
  pniSignatureMessage: null,
  senderKeyDistributionMessage: null,
});

const syncOf = (content: Proto.SyncMessage.Params["content"]): Proto.Content.Params =>
  contentOf({ syncMessage: { content, stickerPackOperation: null, read: null, viewed: null, padding: null } });

/** What a phone tells its owner's other devices of a message to Note to Self or to a group. */
const sentTranscript = (owner: Device, sentAt: number, said: Said): Proto.SyncMessage.Sent.Params => ({
  destinationServiceIdBinary: owner.aciRawUuid,
  timestamp: BigInt(sentAt),
  message: null,
  editMessage: null,
  ...said,
  destinationE164: null,
  unidentifiedStatus: null,
  isRecipientUpdate: null,
  expirationStartTimestamp: null,
  storyMessage: null,
  storyMessageRecipients: null,
  destinationServiceId: null,
});

const quoteOf = (
  owner: Device,
  { sentAt, text }: { sentAt: number; text: string },
): Proto.DataMessage.Quote.Params => ({
  id: BigInt(sentAt),
  authorAci: null,
  authorAciBinary: owner.aciRawUuid,
  text,
  attachments: [],
  bodyRanges: [],
  type: Proto.DataMessage.Quote.Type.NORMAL,
});

let uploads = 0;
async function upload(
  mock: SignalMock,
  { name, type, bytes, announcedBytes }: NonNullable<Letter["files"]>[number],
): Promise<Proto.AttachmentPointer.Params> {
  const { blob, key, digest, size } = encryptAttachment(bytes);
  const cdnKey = `upload-${++uploads}`;
  await mock.server.storeAttachmentOnCdn(3, cdnKey, blob);
  return {
    attachmentIdentifier: { cdnKey },
    cdnNumber: 3,
    contentType: type,
    fileName: name,
    key,
    digest,
    size: announcedBytes ?? size,
    flags: type.startsWith("audio/") ? Proto.AttachmentPointer.Flags.VOICE_MESSAGE : 0,
    clientUuid: null,
    thumbnail: null,
    incrementalMac: null,
    chunkSize: null,
    width: null,
    height: null,
    caption: null,
    blurHash: null,
    uploadTimestamp: BigInt(Date.now()),
  };
}

const none = new Uint8Array();

type Decrypted = { readonly unsealedSource: Device; readonly content: Proto.Content };

/** The mock's phones put receipts and messages into queues of their own and drop typing: their order is only seen here. */
function watch(mock: SignalMock, who: PrimaryDevice, groups: readonly Group[], onSeen: (seen: Seen) => void): void {
  const hidden = who as unknown as { decrypt(...args: unknown[]): Promise<Decrypted> };
  const decrypt = hidden.decrypt.bind(who);
  const shown = new Set<bigint>();
  const versions = createVersions();
  hidden.decrypt = async (...args) => {
    const decrypted = await decrypt(...args);
    const { content } = decrypted.content;
    const { sent } = content?.syncMessage?.content ?? {};
    const isToSelf = Buffer.from(mock.phone.device.aciRawUuid).equals(sent?.destinationServiceIdBinary ?? none);
    if (decrypted.unsealedSource.aci !== mock.phone.device.aci || (sent && !isToSelf)) return decrypted;
    const message = content?.dataMessage ?? sent?.message;
    const edit = content?.editMessage ?? sent?.editMessage;
    const data = message ?? edit?.dataMessage;
    const groupOf = (isIt: (group: Group) => boolean): Place => groups.findLast(isIt) ?? null;
    const sees: (Promise<Seen> | Seen)[] = [];
    if (data && !shown.has(data.timestamp ?? 0n)) {
      shown.add(data.timestamp ?? 0n);
      const masterKey = data.groupV2?.masterKey;
      const place = groupOf((group) => group.masterKey.equals(masterKey ?? none));
      const editOf = edit ? Number(edit.targetSentTimestamp) : null;
      const isNewest = versions.note(null, Number(data.timestamp), editOf);
      sees.push(toSeen(mock, data, edit && isNewest ? "edit" : "message", place));
    }
    if (content?.receiptMessage?.type === Proto.ReceiptMessage.Type.READ)
      for (const at of content.receiptMessage.timestamp)
        sees.push({ kind: "read", targetSentAt: Number(at), place: null });
    if (content?.typingMessage) {
      const { groupId, action } = content.typingMessage;
      const place = groupOf(({ publicParams }) =>
        Buffer.from(publicParams.getGroupIdentifier().serialize()).equals(groupId ?? none),
      );
      sees.push({ kind: "typing", isTyping: action === Proto.TypingMessage.Action.STARTED, place });
    }
    for (const seen of sees) onSeen(await seen);
    return decrypted;
  };
}

async function toSeen(
  mock: SignalMock,
  data: Proto.DataMessage,
  kind: "message" | "edit",
  place: Place,
): Promise<Seen> {
  const { reaction } = data;
  if (reaction)
    return {
      kind: "reaction",
      sentAt: Number(data.timestamp),
      emoji: reaction.emoji ?? "",
      isRemove: reaction.remove === true,
      targetSentAt: Number(reaction.targetSentTimestamp),
      place,
    };
  const files: SeenFile[] = [];
  for (const pointer of data.attachments) files.push(await download(mock, pointer));
  return {
    kind,
    sentAt: Number(data.timestamp),
    text: data.body ?? "",
    styles: data.bodyRanges.flatMap(({ start, length, associatedValue }) =>
      associatedValue?.style === undefined
        ? []
        : [
            {
              start: start ?? 0,
              length: length ?? 0,
              style: Proto.BodyRange.Style[associatedValue.style] as StyleRange["style"],
            },
          ],
    ),
    files,
    expiresInSeconds: data.expireTimer ?? 0,
    place,
  };
}

/** From the CDN's folder: opening it proves that key and digest are those of the blob. */
async function download(mock: SignalMock, pointer: Proto.AttachmentPointer): Promise<SeenFile> {
  const { attachmentIdentifier, key, digest, size, fileName } = pointer;
  const blob = await readFile(join(mock.cdnFolder, "attachments", attachmentIdentifier?.cdnKey ?? ""));
  const sealed = { key: key ?? new Uint8Array(), digest: digest ?? new Uint8Array(), size: size ?? 0 };
  return { name: fileName ?? "", bytes: decryptAttachment(blob, sealed) };
}
