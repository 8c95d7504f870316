/** The suite of all transports, against the native one: a mock service behind a proxy, with the suite's people. */
import { EMPTY_DATA_MESSAGE, type Group, type PrimaryDevice, type Proto, type Server } from "@signalapp/mock-server";
import { Connection } from "@signalapp/mock-server/src/server/ws/connection";
import type { Chat, Millis } from "../../src/core/model.ts";
import { encryptAttachment } from "../../src/signal/native/attachments.ts";
import { groupIdOf } from "../../src/signal/native/ids.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import type { Transport } from "../../src/signal/transport.ts";
import { type SeenMessage, type TransportHarness, transportContract } from "../contract/transport.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { createVersions } from "../doubles/versions.ts";
import { startRefusingHost } from "../doubles/signal-http2.ts";
import { alice, groupId, me } from "../doubles/wire.ts";
import { rawContent, type Rig, startRig } from "./mock.ts";
import { startProxy } from "./proxy.ts";

/** The suite's people instead of invented ones: the contact is made first, then the phone. */
function chooseNames(server: Server): void {
  const people = [alice, me];
  const acis = people.map(({ aci }) => aci);
  const numbers = people.map(({ number }) => number);
  const original = server.generateAci.bind(server);
  server.generateAci = async () => (acis.shift() as never) ?? original();
  Object.assign(server, { generateNumber: async () => numbers.shift() });
}

/** A group's id follows from its key and cannot be chosen: the suite's id stands for it. */
function rename(transport: Transport, realId: string): Transport {
  const toReal = (chat: Chat): Chat => (chat.kind === "group" ? { kind: "group", id: realId } : chat);
  const toSuite = (chat: Chat | null): Chat | null => (chat?.kind === "group" ? { kind: "group", id: groupId } : chat);
  const originals = new Map<object, Parameters<Transport["ack"]>[0]>();
  return {
    ...transport,
    async receive(timeoutMs, signal) {
      const batch = await transport.receive(timeoutMs, signal);
      const renamed = { ...batch, envelopes: batch.envelopes.map((one) => ({ ...one, chat: toSuite(one.chat) })) };
      originals.set(renamed, batch);
      return renamed;
    },
    async ack(batch, isCommitted) {
      const original = originals.get(batch) ?? batch;
      if (isCommitted) database?.transaction(() => original.persist?.());
      await transport.ack(original, isCommitted);
    },
    send: (message) => transport.send({ ...message, chat: toReal(message.chat) }),
    typing: (chat, isTyping) => transport.typing(toReal(chat), isTyping),
  };
}
let database: Rig["database"] | null = null;

const styles = ["BOLD", "BOLD", "ITALIC", "SPOILER", "STRIKETHROUGH", "MONOSPACE"] as const;

function toSeen(chat: Chat, data: Proto.DataMessage, editOf: Millis | null): SeenMessage {
  const { reaction, quote } = data;
  return {
    chat,
    timestamp: Number(data.timestamp),
    text: data.body ?? "",
    styles: (data.bodyRanges ?? []).map((range) => ({
      start: range.start ?? 0,
      length: range.length ?? 0,
      style: styles[range.associatedValue?.style ?? 0] ?? "BOLD",
    })),
    quoteSentAt: quote ? Number(quote.id) : null,
    editOf,
    reaction: reaction ? { emoji: reaction.emoji ?? "", targetSentAt: Number(reaction.targetSentTimestamp) } : null,
  };
}

/** What the phone and the contact show, as it comes. */
function watch({ phone, contact }: Rig, isOver: () => boolean) {
  const seen: SeenMessage[] = [];
  const versions = createVersions();
  const readMarks: Millis[] = [];
  const chatOf = (data: Proto.DataMessage): Chat =>
    data.groupV2 ? { kind: "group", id: groupId } : { kind: "direct", peer: alice };
  const follow = async (next: () => Promise<void>) => {
    while (!isOver()) await next().catch(() => undefined);
  };
  void follow(async () => {
    const { dataMessage } = await contact.waitForMessage();
    versions.note(chatOf(dataMessage), Number(dataMessage.timestamp), null);
    seen.push(toSeen(chatOf(dataMessage), dataMessage, null));
  });
  void follow(async () => {
    const { editMessage } = await contact.waitForEditMessage();
    const data = editMessage.dataMessage;
    const editOf = Number(editMessage.targetSentTimestamp);
    if (data && versions.note(chatOf(data), Number(data.timestamp), editOf))
      seen.push(toSeen(chatOf(data), data, editOf));
  });
  void follow(async () => {
    const { receiptMessage } = await contact.waitForReceipt();
    readMarks.push(...(receiptMessage.timestamp ?? []).map(Number));
  });
  void follow(async () => {
    const { syncMessage } = await phone.waitForSyncMessage();
    const sent = syncMessage.content?.sent;
    const isSelf = sent?.unidentifiedStatus?.length === 0 && !sent.message?.groupV2;
    if (sent?.message && isSelf) seen.push(toSeen({ kind: "self" }, sent.message, null));
  });
  return { seen, readMarks };
}

type Handle = (
  this: Connection,
  request: Proto.WebSocketRequestMessage,
) => Promise<Proto.WebSocketResponseMessage.Params>;
const handle = Connection.prototype["handleRequest"];
const statuses = { signal_rate_limited: 429, captcha: 428, unregistered: 404 } as const;

/** Does something else with the next message that we send. */
function onNextSend(act: (socket: Connection, request: Proto.WebSocketRequestMessage) => ReturnType<Handle>): void {
  Object.assign(Connection.prototype, {
    handleRequest(this: Connection, request: Proto.WebSocketRequestMessage) {
      if (!request.path?.startsWith("/v1/messages/")) return handle.call(this, request);
      Object.assign(Connection.prototype, { handleRequest: handle });
      return act(this, request);
    },
  });
}

async function harness(): Promise<TransportHarness> {
  const proxy = await startProxy();
  const clock = createVirtualClock();
  const rig = await startRig({
    chatPort: proxy.port,
    prepare: (server) => {
      chooseNames(server);
      proxy.pointTo(server.address().port);
    },
  });
  ({ database } = rig);
  await rig.transport.disconnect();
  const group: Group = await rig.phone.createGroup({ title: "Weekend Hike", members: [rig.phone, rig.contact] });
  await prepareGroup(rig, group, clock.now());
  const refusal = await startRefusingHost();
  let isOver = false;
  const { seen, readMarks } = watch(rig, () => isOver);
  const transport = createNative({ ...rig.deps, clock });
  const realId = groupIdOf(group.masterKey);
  let last = clock.now();
  const unread = new Set<Millis>();
  let writing = Promise.resolve();
  /** In order, and without waiting for the acknowledgement. */
  const write = (make: (timestamp: Millis) => Promise<Buffer<ArrayBuffer>>): Millis => {
    const sentAt = ++last;
    unread.add(sentAt);
    writing = writing.then(async () => {
      const bytes = await make(sentAt);
      void rig.mock.server.send(rig.device, bytes).then(
        () => unread.delete(sentAt),
        () => undefined,
      );
    });
    return sentAt;
  };
  const own = rig.phone.device.aci;
  return {
    transport: rename(transport, realId),
    clock,
    phoneWrites: (text) =>
      write((timestamp) => rig.phone.encryptSyncSent(rig.device, text, { timestamp, destinationServiceId: own })),
    personWrites: (text) => write((timestamp) => rig.contact.encryptText(rig.device, text, { timestamp })),
    groupWrites: (text) => write((timestamp) => rig.contact.encryptText(rig.device, text, { timestamp, group })),
    personSendsFile: (bytes) => void write((timestamp) => sealFile(rig, rig.contact, bytes, timestamp)),
    seen: () => seen,
    readMarks: () => readMarks,
    async parked() {
      await writing;
      // What was written is on its way: the suite's time must not pass before it has come, unless the line is cut.
      const until = performance.now() + 1_000;
      for (let turns = 0; turns < 5 || (unread.size > 0 && performance.now() < until); turns++)
        await new Promise((resolve) => setImmediate(resolve));
    },
    async cut() {
      const isLost = () => rig.log.some(({ message }) => message === "signal line lost");
      await proxy.cut();
      // A send in the moment before the break is noticed would rightly be uncertain.
      while (!isLost()) await new Promise((resolve) => setImmediate(resolve));
    },
    mend: () => proxy.mend(),
    unlink: () => proxy.pointTo(refusal.port),
    loseAnswer: () =>
      onNextSend(async (socket, request) => {
        const answer = await handle.call(socket, request);
        socket["ws"].terminate();
        return answer;
      }),
    refuse(code) {
      if (code === "untrusted_identity") {
        const sql = "INSERT INTO signal_identities (service_id, record, at, is_blocked) VALUES (?, ?, 0, 1)";
        rig.database.run(sql, alice.aci, rig.contact.publicKey.serialize());
        return;
      }
      const body = Buffer.from(JSON.stringify({ token: "t", options: ["captcha"] }));
      const status = statuses[code];
      onNextSend(async (_, { id }) => ({ id, status, message: null, headers: ["retry-after:37"], body }));
    },
    async close() {
      isOver = true;
      Object.assign(Connection.prototype, { handleRequest: handle });
      await transport.disconnect();
      await rig.stop();
      await proxy.cut();
      await refusal.stop();
    },
  };
}

/** The contact has sent in the group before, and its state was fetched today by the suite's clock. */
async function prepareGroup(rig: Rig, group: Group, now: Millis): Promise<void> {
  const id = groupIdOf(group.masterKey);
  const state = {
    id,
    revision: group.revision,
    title: "Weekend Hike",
    members: [rig.phone, rig.contact].map(({ device }) => ({ aci: device.aci, isAdmin: true, profileKey: null })),
    expiresInSeconds: 0,
    isAnnouncementsOnly: false,
    isTerminated: false,
  };
  rig.database.run(
    "INSERT INTO signal_groups (group_id, master_key, revision, state, fetched_at) VALUES (?, ?, ?, ?, ?)",
    id,
    new Uint8Array(group.masterKey),
    group.revision,
    JSON.stringify(state),
    now,
  );
}

async function sealFile(
  rig: Rig,
  from: PrimaryDevice,
  bytes: Uint8Array,
  timestamp: Millis,
): Promise<Buffer<ArrayBuffer>> {
  const { blob, key, digest, size } = encryptAttachment(bytes);
  const cdnKey = `file-${timestamp}`;
  await rig.mock.server.storeAttachmentOnCdn(3, cdnKey, blob);
  const pointer = {
    attachmentIdentifier: { cdnKey },
    cdnNumber: 3,
    contentType: "image/png",
    fileName: "a.png",
    key,
    digest,
    size,
  };
  const dataMessage = { ...EMPTY_DATA_MESSAGE, timestamp: BigInt(timestamp), attachments: [pointer as never] };
  const sent = from["encryptContent"] as (
    device: unknown,
    content: unknown,
    options: unknown,
  ) => Promise<Buffer<ArrayBuffer>>;
  return sent.call(from, rig.device, rawContent({ dataMessage }), { timestamp });
}

transportContract("native", harness);
