/**
 * The in-process Signal of the program (`src/signal/memory.ts`) with what tests want beside: other people, groups, files, edits and
 * reactions, and a look at all that was sent.
 */
import { Buffer } from "node:buffer";
import type {
  Account,
  Address,
  Content,
  Envelope,
  Millis,
  OutboundFile,
  Quote,
  TextContent,
} from "../../src/core/model.ts";
import { isSameAddress } from "../../src/core/model.ts";
import {
  createMemoryTransport,
  lineFault,
  type MemoryOptions,
  type Seen,
  type SeenReaction,
} from "../../src/signal/memory.ts";
import type { Transport } from "../../src/signal/transport.ts";

export type MemorySignal = ReturnType<typeof createMemorySignal>;

/** A Signal of its own: nothing is shared between two of them. */
export function createMemorySignal(options: MemoryOptions) {
  const signal = createMemoryTransport(options);
  const { account, world } = signal;
  /** Base64 by `ref`. */
  const files = new Map<string, string>();
  const mailbox = { files, stamp: world.stamp, deliver: world.deliver };
  const transport: Transport = {
    ...signal.transport,
    async attachment(ref, bytesMax) {
      if (world.isCut) throw lineFault("signal_unreachable", "fetch a file");
      const bytes = Buffer.from(files.get(ref) ?? "", "base64");
      if (!files.has(ref) || bytes.length > bytesMax) throw lineFault("attachment_unavailable", "fetch a file");
      return new Uint8Array(bytes);
    },
  };
  return {
    ...signal,
    transport,
    /** Our own account on its phone; writes to Note to Self. */
    owner: createPerson(mailbox, account, account, "Me"),
    person: (address: Address, name?: string) => createPerson(mailbox, account, address, name ?? null),
    /** Puts any envelope into the queue. */
    deliver: (envelope: Envelope): void => void world.deliver(envelope),
    reactions: (): readonly SeenReaction[] => world.reactions,
    /** Keys of the chats that show "typing". */
    typing: (): ReadonlySet<string> => world.typing,
    /** `sentAt` of the messages that we marked as read. */
    readMarks: (): readonly Millis[] => world.readMarks,
    /** Envelopes that are not acknowledged. */
    queued: (): readonly Envelope[] => world.queue,
    /** The server keeps this file no longer. */
    faults: { ...signal.faults, loseFile: (ref: string) => void files.delete(ref) },
  };
}

export type { Seen };
export type MemoryFaults = MemorySignal["faults"];

export type WriteOptions = {
  /** Group id; otherwise the direct chat with us, for the owner Note to Self. */
  readonly group?: string;
  readonly quote?: Quote;
  /** Begins the text with a mention of our account. */
  readonly isMention?: boolean;
  readonly files?: readonly OutboundFile[];
  readonly expiresInSeconds?: number;
};

/** A person with a phone. Each call puts one envelope into the queue and returns it. */
export type Person = {
  readonly address: Address;
  write(text: string, options?: WriteOptions): Envelope;
  edit(targetSentAt: Millis, text: string, options?: WriteOptions): Envelope;
  react(target: { readonly author: Address; readonly sentAt: Millis }, emoji: string, options?: WriteOptions): Envelope;
  delete(targetSentAt: Millis, options?: WriteOptions): Envelope;
};

/** Where it is put. */
type Mailbox = {
  readonly files: Map<string, string>;
  stamp(): Millis;
  deliver(envelope: Envelope): void;
};

/** `address` equal to our account's makes the owner, whose direct chat is Note to Self. */
function createPerson(world: Mailbox, account: Account, { aci, number }: Address, name: string | null): Person {
  const address = { aci, number };
  const isOwn = isSameAddress(address, account);
  const say = (content: Content, { group }: WriteOptions = {}): Envelope => {
    const sentAt = world.stamp();
    const envelope: Envelope = {
      source: address,
      sourceDevice: 1,
      sentAt,
      serverAt: sentAt,
      chat:
        group !== undefined
          ? { kind: "group", id: group }
          : isOwn
            ? { kind: "self" }
            : { kind: "direct", peer: address },
      isOwn,
      sourceName: name,
      content,
    };
    world.deliver(envelope);
    return envelope;
  };
  const attach = ({ fileName, contentType, base64 }: OutboundFile) => {
    const ref = `memory-${world.files.size + 1}`;
    world.files.set(ref, base64);
    const sizeBytes = Buffer.from(base64, "base64").length;
    const isVoiceNote = contentType.startsWith("audio/");
    return { ref, contentType, fileName, sizeBytes, isVoiceNote, isLongText: contentType === "text/x-signal-plain" };
  };
  const toText = (text: string, options: WriteOptions = {}): TextContent => ({
    kind: "text",
    text: options.isMention ? `\u{FFFC} ${text}` : text,
    quote: options.quote ?? null,
    mentions: options.isMention ? [{ start: 0, length: 1, who: { aci: account.aci, number: account.number } }] : [],
    attachments: (options.files ?? []).map(attach),
    expiresInSeconds: options.expiresInSeconds ?? 0,
    isViewOnce: false,
  });
  return {
    address,
    write: (text, options) => say(toText(text, options), options),
    edit: (targetSentAt, text, options) => say({ kind: "edit", targetSentAt, body: toText(text, options) }, options),
    react: ({ author, sentAt }, emoji, options) =>
      say({ kind: "reaction", emoji, targetAuthor: author, targetSentAt: sentAt, isRemove: false }, options),
    delete: (targetSentAt, options) => say({ kind: "delete", targetSentAt }, options),
  };
}
