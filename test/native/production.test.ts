/** What production does and the mock server does not: read in the sources of Signal's server and clients (docs/signal-protocol.md). */
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { SenderCertificate } from "@signalapp/libsignal-client";
import { EMPTY_DATA_MESSAGE, Proto, StorageState } from "@signalapp/mock-server";
import { generateSenderCertificate } from "@signalapp/mock-server/src/crypto";
import { Connection } from "@signalapp/mock-server/src/server/ws/connection";
import { afterEach, expect, test } from "bun:test";
import { type Clock, systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { findRecipient } from "../../src/signal/native/account.ts";
import { owned } from "../../src/signal/native/bytes.ts";
import { aciBytes, groupIdOf } from "../../src/signal/native/ids.ts";
import { type Envelope, EnvelopeSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import type { Notice } from "../../src/signal/transport.ts";
import { createPhone } from "../doubles/phone.ts";
import { answerInstead, failureOf, linkRig, never, rawContent, type Rig, rigOf, startRig } from "./mock.ts";

let rig: Rig;
let closing: Disposable[] = [];
afterEach(async () => {
  for (const one of closing) one[Symbol.dispose]();
  closing = [];
  await rig?.stop();
});

const at = 1_795_000_000_000;
const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const texts = () => rig.database.all<{ text: string }>("SELECT text FROM inbox WHERE text IS NOT NULL ORDER BY id");
const quarantine = () =>
  rig.database.all<{ reason: string; isKept: number }>(
    "SELECT reason, envelope IS NOT NULL AS isKept FROM signal_quarantine",
  );
const deliver = (envelope: Uint8Array, change: Partial<Envelope>) =>
  rig.mock.server.send(
    rig.device,
    Buffer.from(owned(toBinary(EnvelopeSchema, { ...fromBinary(EnvelopeSchema, envelope), ...change }))),
  );
const instead = (answer: Parameters<typeof answerInstead>[0]) => {
  const answering = answerInstead(answer);
  closing.push(answering);
  return answering;
};
const contactTimer = () => {
  const { timerSeconds, timerVersion } = findRecipient(rig.database, rig.contact.device.aci);
  return [timerSeconds, timerVersion];
};
const say = (message: Partial<Proto.DataMessage.Params>, timestamp: number, expireTimer = 0, expireTimerVersion = 0) =>
  rig.acked(
    rig.contact.sendRaw(
      rig.device,
      rawContent({
        dataMessage: {
          ...EMPTY_DATA_MESSAGE,
          timestamp: BigInt(timestamp),
          expireTimer,
          expireTimerVersion,
          ...message,
        },
      }),
      { timestamp },
    ),
  );

/** Lets the contact seal with a certificate that ran out at `expires`. */
function sealUntil(expires: number): void {
  const { aci, deviceId } = rig.contact.device;
  const identityKey = rig.contact.publicKey;
  const sender = { aci, deviceId, identityKey, expires };
  Object.assign(rig.contact, {
    privSenderCertificate: generateSenderCertificate(rig.mock.server["certificate"], sender),
  });
}

// --- nothing is lost, nothing is spoilt

test("a certificate counts for when the server received the message, not for when it was delivered", async () => {
  rig = await startRig();
  sealUntil(at + dayMs);
  const sealed = (text: string, timestamp: number) =>
    rig.contact.encryptText(rig.device, text, { timestamp, sealed: true });
  await rig.acked(deliver(await sealed("waited", at), { serverTimestamp: BigInt(at + dayMs - 1) }));
  await rig.acked(deliver(await sealed("too late", at + 1), { serverTimestamp: BigInt(at + dayMs + 1) }));
  expect(texts()).toEqual([{ text: "waited" }]);
  // Kept, counted and told of, as its sender may write here.
  expect(quarantine()).toEqual([{ reason: "forged or expired certificate", isKept: 1 }]);
  expect(rig.transport.quarantined?.()).toBe(1);
  expect(rig.log.filter(({ level, message }) => level === "warn" && message.includes("set aside"))).toHaveLength(1);
});

/** The same certificate, signed by a key of Signal's that is known by its number alone. */
function nameSigner(certificate: SenderCertificate, number: number): SenderCertificate {
  const inner = new BinaryReader(certificate.certificate());
  const renamed = new BinaryWriter();
  while (inner.pos < inner.len) {
    const from = inner.pos;
    const [field, type] = inner.tag();
    inner.skip(type, field);
    if (field !== 5) renamed.raw(certificate.certificate().subarray(from, inner.pos));
  }
  renamed.tag(8, WireType.Varint).uint32(number);
  const whole = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(renamed.finish());
  whole.tag(2, WireType.LengthDelimited).bytes(certificate.signature());
  return SenderCertificate.deserialize(owned(whole.finish()));
}

test("a certificate of a signer that is newer than this program: its message is kept, and the log says what to do", async () => {
  rig = await startRig();
  await rig.contact.encryptText(rig.device, "makes a certificate", { timestamp: at, sealed: true });
  const { privSenderCertificate: certificate } = rig.contact as unknown as { privSenderCertificate: SenderCertificate };
  Object.assign(rig.contact, { privSenderCertificate: nameSigner(certificate, 99) });
  await rig.acked(rig.contact.sendText(rig.device, "x", { timestamp: at, sealed: true }));
  expect(quarantine()).toEqual([{ reason: expect.stringContaining("update signalman"), isKept: 1 }]);
  expect(rig.log.find(({ level }) => level === "warn")?.fields).toEqual({
    reason: expect.stringContaining("update signalman"),
  });
});

test("of a stranger's broken message only the fact is kept", async () => {
  rig = await startRig({ isAllowed: () => false });
  sealUntil(at);
  const envelope = await rig.contact.encryptText(rig.device, "x", { timestamp: at, sealed: true });
  await rig.acked(deliver(envelope, { serverTimestamp: BigInt(at + 1) }));
  expect(quarantine()).toEqual([{ reason: "forged or expired certificate", isKept: 0 }]);
  expect(rig.transport.quarantined?.()).toBe(0);
});

test("only what speaks of timers changes a timer", async () => {
  rig = await startRig();
  await say({ body: "brief" }, at, 3600, 5);
  expect(contactTimer()).toEqual([3600, 5]);
  const author = Buffer.from(rig.contact.device.aciRawUuid);
  const reaction = {
    emoji: "👍",
    remove: false,
    targetAuthorAci: null,
    targetAuthorAciBinary: author,
    targetSentTimestamp: BigInt(at),
  };
  await say({ reaction }, at + 1);
  await say({ delete: { targetSentTimestamp: BigInt(at) } }, at + 2);
  await say({ flags: 4, profileKey: Buffer.alloc(32, 1) }, at + 3);
  await say(
    { body: "to a story", storyContext: { authorAci: null, authorAciBinary: author, sentTimestamp: BigInt(at) } },
    at + 4,
  );
  const edit = rawContent({
    editMessage: {
      targetSentTimestamp: BigInt(at),
      dataMessage: { ...EMPTY_DATA_MESSAGE, body: "briefer", timestamp: BigInt(at + 5) },
    },
  });
  const edited = await rig.receive(rig.contact.sendRaw(rig.device, edit, { timestamp: at + 5 }), "edit");
  expect(contactTimer()).toEqual([3600, 5]);
  // What an edit says disappears as the chat does.
  expect(edited.content).toMatchObject({ body: { expiresInSeconds: 3600 } });
  await say({ body: "old news" }, at + 6, 60, 4);
  expect(contactTimer()).toEqual([3600, 5]);
  await say({ flags: 2 }, at + 7, 0, 6);
  expect(contactTimer()).toEqual([0, 6]);
});

test("a machine whose clock is a day and more behind forgets nothing, and its owner is told", async () => {
  const clock: Clock = { ...systemClock, now: () => Date.now() - 30 * hourMs };
  rig = await startRig({ clock, isConnected: false });
  rig.mock.server.setWebsocketUpgradeResponseHeaders({ "x-signal-timestamp": String(Date.now()) });
  await rig.transport.connect(never);
  const sentAt = Date.now();
  const sending = rig.contact.sendText(rig.device, "now", { timestamp: sentAt });
  const notices: Notice[] = [];
  await Promise.all([
    sending,
    (async () => {
      while (texts().length === 0) notices.push(...((await rig.poll(1000)).notices ?? []));
    })(),
  ]);
  expect(texts()).toEqual([{ text: "now" }]);
  expect(notices).toEqual([{ code: "clock_wrong", text: expect.stringContaining("1 d 6 h behind") }]);
  expect(Math.abs((rig.transport.skewMs?.() ?? 0) + 30 * hourMs)).toBeLessThan(60_000);
  // Our own notices bear the server's time.
  const asked = instead(() => undefined).asked;
  await rig.transport.typing(rig.direct, true);
  const typing = asked.find(({ path }) => path.startsWith("/v1/messages/"))?.json as { timestamp: number };
  expect(Math.abs(typing.timestamp - Date.now())).toBeLessThan(60_000);
});

test("the header of a delivery tells the time, also of an envelope that does not say when the server received it", async () => {
  const clock: Clock = { ...systemClock, now: () => Date.now() - 30 * hourMs };
  rig = await startRig({ clock, isConnected: false });
  const connection = Connection.prototype as unknown as { send(verb: string, path: string, what: object): unknown };
  const { send } = connection;
  let aheadMs = 0;
  connection.send = function (this: unknown, verb, path, what) {
    const headers = path === "/api/v1/message" ? [`X-Signal-Timestamp:${Date.now() + aheadMs}`] : null;
    return send.call(this, verb, path, { ...what, headers });
  };
  closing.push({ [Symbol.dispose]: () => void (connection.send = send) });
  await rig.transport.connect(never);
  sealUntil(Date.now() + hourMs);
  const notices: string[] = [];
  for (const [text, ahead] of [
    ["in time", 0],
    ["too late", 2 * hourMs],
  ] as const) {
    aheadMs = ahead;
    const sealed = await rig.contact.encryptText(rig.device, text, { timestamp: Date.now(), sealed: true });
    const sending = deliver(sealed, { serverTimestamp: 0n }).then(() => true);
    for (let isDone = false; !isDone; isDone = await Promise.race([sending, Promise.resolve(false)]))
      notices.push(...((await rig.poll(20)).notices ?? []).map(({ code }) => code));
  }
  expect(texts()).toEqual([{ text: "in time" }]);
  expect(quarantine().map(({ reason }) => reason)).toEqual(["forged or expired certificate"]);
  expect(notices).toEqual(["clock_wrong"]);
});

test("a clock that was ahead once does not stamp everything after it", async () => {
  let aheadMs = 400 * dayMs;
  rig = await startRig({ clock: { ...systemClock, now: () => Date.now() + aheadMs } });
  rig.database.run("UPDATE signal_account SET sends_typing = 1");
  await rig.transport.connect(never);
  const stamps: number[] = [];
  closing.push(
    answerInstead(({ path, json }) => {
      if (path.startsWith("/v1/messages/")) stamps.push((json as { timestamp: number }).timestamp);
      return undefined;
    }),
  );
  await rig.transport.typing(rig.direct, true);
  aheadMs = 0;
  await rig.transport.typing(rig.direct, false);
  expect((stamps[0] ?? 0) - Date.now()).toBeGreaterThan(399 * dayMs);
  expect(Math.abs((stamps[1] ?? 0) - Date.now())).toBeLessThan(60_000);
});

/** A storage host that can be down. The waits between two askings are short. */
async function startWithGroup() {
  const waits = new Set([300_000, ...Array.from({ length: 8 }, (_, n) => 2_000 * 2 ** n)]);
  const sleep: Clock["sleep"] = (ms, signal) => systemClock.sleep(waits.has(ms) ? 5 : ms, signal);
  const clock: Clock = { ...systemClock, sleep };
  let isDown = true;
  let asked = 0;
  rig = await startRig({
    clock,
    change: (service) => ({
      ...service,
      fetch: async (what) => {
        if (!what.url.includes("/v2/groups")) return service.fetch(what);
        asked++;
        if (isDown) throw new BridgeError("signal_unreachable", "Cannot GET the storage host");
        return service.fetch(what);
      },
    }),
  });
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact] });
  const send = (text: string, timestamp: number) => rig.contact.sendText(rig.device, text, { timestamp, group });
  return { group, send, setDown: (next: boolean) => void (isDown = next), asked: () => asked };
}

test("a group that cannot be read now holds up nothing else, and its messages come when it can", async () => {
  const { send, setDown, asked } = await startWithGroup();
  const waiting = [send("one", at), send("two", at + 1)];
  await rig.receive(rig.contact.sendText(rig.device, "direct", { timestamp: at + 2 }));
  for (let polls = 0; asked() < 3 && polls < 200; polls++) await rig.poll(20);
  expect(texts()).toEqual([{ text: "direct" }]);
  setDown(false);
  await rig.expect(2, "text");
  await Promise.all(waiting);
  expect(texts()).toEqual([{ text: "direct" }, { text: "one" }, { text: "two" }]);
});

test("who was removed is not heard on the strength of what was known before, where the storage host is down", async () => {
  const { group, send, setDown, asked } = await startWithGroup();
  setDown(false);
  await rig.receive(send("a member", at));
  const onServer = await rig.mock.server.getGroup(group.publicParams.serialize());
  onServer?.state.members?.splice(1, 1);
  const newer = await rig.phone.modifyGroupDisappearingMessageTimer(group, 60, { sendUpdateTo: [] });
  const phone = createPhone(rig.mock, rig.phone, rig.device, [newer], () => undefined);
  await rig.acked(phone.write(at + 1, { text: "they are out" }, newer));
  setDown(true);
  const before = asked();
  const late = send("still here", at + 2);
  for (let polls = 0; asked() < before + 3 && polls < 200; polls++) await rig.poll(20);
  setDown(false);
  await rig.acked(late);
  const from = "SELECT text FROM inbox WHERE kind = 'text' AND source = ?";
  expect(rig.database.all(from, rig.contact.device.aci)).toEqual([{ text: "a member" }]);
});

test("a group that can never be read is given up in the end: its messages are kept, and the line goes on", async () => {
  const { send, asked } = await startWithGroup();
  await rig.acked(send("one", at));
  expect(asked()).toBe(12);
  expect(quarantine()).toEqual([{ reason: "its group could not be read", isKept: 1 }]);
  await rig.receive(rig.contact.sendText(rig.device, "direct", { timestamp: at + 1 }));
});

test("a flood from a group that cannot be read leaves room for all others on the line", async () => {
  const { send } = await startWithGroup();
  const flood = Promise.all(Array.from({ length: 120 }, (_, n) => send(`${n}`, at + n)));
  for (let polls = 0; quarantine().length < 20 && polls < 200; polls++) await rig.poll(20);
  expect(new Set(quarantine().map(({ reason }) => reason))).toEqual(new Set(["its group could not be read"]));
  expect(quarantine().every(({ isKept }) => isKept === 1)).toBe(true);
  await rig.receive(rig.contact.sendText(rig.device, "direct", { timestamp: at + 500 }));
  await rig.acked(flood);
});

test("one file without key or digest costs that file, not the words beside it", async () => {
  rig = await startRig();
  const pointer = { cdnKey: "abc", cdnNumber: 3, contentType: "image/png", size: 10 } as never;
  await say({ body: "look", attachments: [pointer] }, at);
  expect(texts()).toEqual([{ text: "look" }]);
  const envelope = await rig.receive(
    rig.contact.sendRaw(
      rig.device,
      rawContent({
        dataMessage: { ...EMPTY_DATA_MESSAGE, body: "again", timestamp: BigInt(at + 1), attachments: [pointer] },
      }),
      { timestamp: at + 1 },
    ),
  );
  const ref = envelope.content.kind === "text" ? (envelope.content.attachments[0]?.ref ?? "") : "";
  expect(await failureOf(rig.transport.attachment(ref, 1000, never))).toMatchObject({ code: "attachment_unavailable" });
});

test("deliveries are taken as they come: the server says that the queue is empty only after the last of them was acknowledged", async () => {
  const connection = Connection.prototype as unknown as { sendMessage(message: unknown): Promise<void> };
  const original = connection.sendMessage;
  connection.sendMessage = async function (this: unknown, message: unknown) {
    if (message !== "empty") await original.call(this, message);
  };
  closing.push({ [Symbol.dispose]: () => void (connection.sendMessage = original) });
  rig = await startRig();
  const startedAt = performance.now();
  await rig.receive(rig.contact.sendText(rig.device, "soon", { timestamp: at }));
  expect(performance.now() - startedAt).toBeLessThan(4_000);
});

// --- who we are

test("the phone's new profile key is ours: from a transcript", async () => {
  rig = await startRig();
  const profileKey = Buffer.alloc(32, 9);
  const message = { ...EMPTY_DATA_MESSAGE, body: "note", timestamp: BigInt(at), profileKey };
  const sent = {
    timestamp: BigInt(at),
    message,
    destinationServiceIdBinary: Buffer.from(rig.contact.device.aciRawUuid),
  };
  const content = rawContent({
    syncMessage: { content: { sent }, read: [], viewed: [], stickerPackOperation: [] } as never,
  });
  await rig.acked(rig.phone.sendRaw(rig.device, content, { timestamp: at }));
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at + 1 }));
  await rig.send(rig.direct, "reply", at + 2);
  const { dataMessage } = await rig.contact.waitForMessage();
  expect(dataMessage.profileKey).toEqual(profileKey);
});

test("the storage service tells our profile key, names and keys of contacts, groups that have not written, who is blocked", async () => {
  const number = "+12025550142";
  rig = await startRig({ isConnected: false });
  const { phone, contact, mock } = rig;
  const second = await mock.server.createPrimaryDevice({ profileName: "Bob" });
  const group = await phone.createGroup({ title: "Silent", members: [phone, contact] });
  const allowed = new Set<string>([contact.device.aci, second.device.aci, groupIdOf(group.masterKey)]);
  const isAllowed = (who: { aci: string | null }, groupId: string | null) => allowed.has(groupId ?? who.aci ?? "");
  const transport = createNative({ ...rig.deps, isAllowed });
  const own = rigOf(mock, rig.device, rig.deps, transport);
  await transport.connect(never);
  await own.expect(3, "empty");
  await transport.settled();
  const { ACCOUNT } = Proto.ManifestRecord.Identifier.Type;
  const profileKey = Buffer.alloc(32, 4);
  const account = {
    ...Proto.AccountRecord.decode(Buffer.alloc(0)),
    profileKey,
    readReceipts: true,
    typingIndicators: false,
  };
  await phone.setStorageState(
    StorageState.getEmpty()
      .addRecord({ type: ACCOUNT, record: { account } })
      .addContact(contact, {
        givenName: "Alice",
        familyName: "Ames: hi",
        e164: number,
        profileKey: Buffer.from(contact.profileKey.serialize()),
      })
      .addContact(second, { blocked: true })
      .addGroup(group),
  );
  await own.acked(phone.sendFetchStorage({ timestamp: at - 1 }));
  await transport.settled();
  expect(findRecipient(rig.database, contact.device.aci)).toMatchObject({
    name: "Alice Ames hi",
    number,
    profileKey: owned(contact.profileKey.serialize()),
    isBlocked: 0,
  });
  expect(rig.database.get("SELECT sends_read_receipts AS reads, sends_typing AS types FROM signal_account")).toEqual({
    reads: 1,
    types: 0,
  });
  // A group that never wrote can be written to, with our new profile key.
  await own.send({ kind: "group", id: groupIdOf(group.masterKey) }, "hello, group", at);
  expect((await contact.waitForMessage()).dataMessage.profileKey).toEqual(profileKey);
  // What a blocked person writes is dropped, and the owner knows why.
  await mock.introduce(second, rig.device);
  const notices: string[] = [];
  const sending = second.sendText(rig.device, "let me in", { timestamp: at + 1 }).then(() => true);
  for (let isDone = false; !isDone; isDone = await Promise.race([sending, Promise.resolve(false)]))
    notices.push(...((await own.poll(20)).notices ?? []).map(({ code }) => code));
  expect(texts()).toEqual([]);
  expect(notices).toEqual(["blocked"]);
  // What changes there is read anew when the phone says so.
  const before = await phone.expectStorageState("storage");
  await phone.setStorageState(before.updateContact(second, { blocked: false }));
  await own.acked(phone.sendFetchStorage({ timestamp: at + 2 }));
  await transport.settled();
  await own.receive(second.sendText(rig.device, "thank you", { timestamp: at + 3 }));
  await transport.disconnect();
});

test.each(["acis", "acisBinary"] as const)(
  "the phone's list of the blocked (%s) is the whole list, of people and of groups",
  async (form) => {
    rig = await startRig();
    const { contact, device, phone } = rig;
    const group = await phone.createGroup({ title: "Team", members: [phone, contact] });
    let sentAt = at;
    const block = async (people: readonly string[], groups: readonly string[]) => {
      const [acis, acisBinary] = form === "acis" ? [[...people], null] : [null, people.map(aciBytes)];
      const groupIds = groups.map((id) => owned(Buffer.from(id, "base64")));
      const content = { blocked: { numbers: null, acis, acisBinary, groupIds } };
      const nothing = { read: null, stickerPackOperation: null, viewed: null, padding: null };
      const timestamp = ++sentAt;
      await rig.acked(phone.sendRaw(device, rawContent({ syncMessage: { ...nothing, content } }), { timestamp }));
    };
    const write = (text: string, more = {}) =>
      rig.acked(contact.sendText(device, text, { timestamp: ++sentAt, ...more }));
    await block([contact.device.aci], []);
    await write("blocked");
    await block([], []);
    await write("heard");
    await write("heard there", { group });
    await rig.receive(contact.sendText(device, "once more", { timestamp: ++sentAt, group }));
    await block([], [groupIdOf(group.masterKey)]);
    await write("blocked there", { group });
    await write("heard still");
    expect(texts().map(({ text }) => text)).toEqual(["heard", "heard there", "once more", "heard still"]);
  },
);

test("two chats, or two texts, of one sender in one millisecond are as many messages", async () => {
  rig = await startRig();
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact] });
  const [envelopes] = await Promise.all([
    rig.expect(3, "text"),
    rig.contact.sendText(rig.device, "one", { timestamp: at }),
    rig.contact.sendText(rig.device, "two", { timestamp: at }),
    rig.contact.sendText(rig.device, "there", { timestamp: at, group }),
  ]);
  const said = envelopes.map(({ chat, content }) => [chat?.kind, content.kind === "text" && content.text]);
  expect(said).toEqual([
    ["direct", "one"],
    ["direct", "two"],
    ["group", "there"],
  ]);
});

test("whom the owner has blocked is not heard in a group either, from the first message on", async () => {
  rig = await startRig({ isAllowed: (_, groupId) => groupId !== null });
  const { phone, contact } = rig;
  const group = await phone.createGroup({ title: "Team", members: [phone, contact] });
  await phone.setStorageState(StorageState.getEmpty().addGroup(group).addContact(contact, { blocked: true }));
  await rig.acked(phone.sendFetchStorage({ timestamp: at }));
  await rig.settled();
  await rig.acked(contact.sendText(rig.device, "let me in", { timestamp: at + 1, group }));
  expect(texts()).toEqual([]);
  const before = await phone.expectStorageState("storage");
  await phone.setStorageState(before.updateContact(contact, { blocked: false }));
  await rig.acked(phone.sendFetchStorage({ timestamp: at + 3 }));
  await rig.settled();
  await rig.receive(contact.sendText(rig.device, "thank you", { timestamp: at + 4, group }));
});

test("whom the owner has blocked is not asked to send again what cannot be read", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at - 1 }));
  await rig.send(rig.direct, "reply", at);
  await rig.contact.waitForMessage();
  const { asked } = instead(() => undefined);
  for (const [isBlocked, requests] of [
    [0, 1],
    [1, 0],
  ] as const) {
    rig.database.run("UPDATE signal_recipients SET is_blocked = ?", isBlocked);
    const damaged = await rig.contact.encryptText(rig.device, "damaged", { timestamp: at + isBlocked });
    const content = owned(fromBinary(EnvelopeSchema, damaged).content);
    content.fill(0xaa, content.length - 30, content.length - 20);
    asked.splice(0);
    await rig.acked(deliver(damaged, { content }));
    await rig.settled();
    const isRequest = ({ verb, path }: { verb: string; path: string }) =>
      verb === "PUT" && path.endsWith(rig.contact.device.aci);
    expect(asked.filter(isRequest)).toHaveLength(requests);
  }
});

test("a storage key that no longer fits is asked for again, and keeps no other work from being done", async () => {
  rig = await startRig({ allowedNumbers: ["+12025550199"], isConnected: false });
  await rig.phone.setStorageState(StorageState.getEmpty());
  rig.database.run("UPDATE signal_account SET storage_key = ?", new Uint8Array(32).fill(1));
  const { asked } = instead(() => undefined);
  await rig.transport.connect(never);
  await rig.settled();
  expect(rig.database.get("SELECT storage_key AS key FROM signal_account")).toEqual({ key: null });
  // The numbers come after the storage.
  expect(asked.some(({ path }) => path === "/v2/directory/auth")).toBe(true);
  expect(rig.log.filter(({ level }) => level === "error")).toEqual([]);
  await rig.transport.disconnect();
  // As after a restart, or an hour later.
  rig.database.run("UPDATE signal_account SET asked_at = NULL");
  const later = createNative(rig.deps);
  await later.connect(never);
  const own = rigOf(rig.mock, rig.device, rig.deps, later);
  const bytes = () => rig.database.get<{ n: number }>("SELECT length(storage_key) AS n FROM signal_account")?.n;
  for (let polls = 0; bytes() !== 32 && polls < 100; polls++) await own.poll(50);
  await later.disconnect();
  expect(bytes()).toBe(32);
});

// --- linking

for (const [status, hint] of [
  [403, "scan the new code"],
  [409, "Update signalman"],
  [411, "too many linked devices"],
  [422, "shorter name"],
] as const) {
  test(`a link that is answered ${status} says what to do`, async () => {
    rig = await startRig({ isConnected: false });
    const { asked } = instead(({ path }) => (path === "/v1/devices/link" ? { status } : undefined));
    const fault = await failureOf(linkRig(rig.mock, rig.deps));
    expect(fault).toMatchObject({ code: "rejected", hint: expect.stringContaining(hint) });
    const body = asked.find(({ path }) => path === "/v1/devices/link")?.json as {
      accountAttributes: { capabilities: object };
    };
    expect(Object.keys(body.accountAttributes.capabilities).toSorted()).toEqual([
      "attachmentBackfill",
      "optionalPhoneNumber",
      "spqr",
      "storage",
      "usernameChangeSyncMessage",
    ]);
    // The account of before is untouched.
    expect(rig.database.get("SELECT device_id AS id FROM signal_account")).toEqual({ id: 2 });
  });
}

test("linking to another account leaves nothing of the first, and takes its device off the phone's list", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at, sealed: true }));
  await rig.settled();
  await rig.transport.disconnect();
  rig.database.run("INSERT INTO signal_quarantine (hash, reason, envelope, at) VALUES (x'01', 'x', x'02', 1)");
  const { asked } = instead(() => undefined);
  const other = await rig.mock.server.createPrimaryDevice({ profileName: "Other" });
  Object.assign(rig.mock, { phone: other });
  let scanned: Promise<unknown> | null = null;
  const { linkNative } = await import("../../src/signal/native/linked-device.ts");
  for await (const progress of linkNative(rig.deps)("x".repeat(80), never)) {
    if (progress.event !== "url") continue;
    const pending = await rig.mock.server.waitForProvision();
    scanned = pending.complete({ provisionURL: progress.url, primaryDevice: other });
  }
  await scanned;
  expect(asked.some(({ verb, path }) => verb === "DELETE" && path === "/v1/devices/2")).toBe(true);
  const tables = rig.database.all<{ name: string }>(
    "SELECT name FROM sqlite_master WHERE name LIKE 'signal_%' AND type = 'table'",
  );
  const left = tables.flatMap(({ name }) =>
    rig.database
      .all(`SELECT * FROM ${name}`)
      .filter((row) => JSON.stringify(Object.values(row)).includes(rig.contact.device.aci)),
  );
  expect(left).toEqual([]);
  for (const table of ["sessions", "seen", "quarantine", "recipients", "send_log"])
    expect(rig.database.all(`SELECT * FROM signal_${table}`)).toEqual([]);
});

// --- what has no text

test("cards, stickers, polls and links are words; votes, pins and story replies are not", async () => {
  rig = await startRig();
  const preview = { url: "https://maps.google.com/?q=1", title: "Here", description: null, image: null, date: null };
  const poll = { question: "When?", allowMultiple: false, options: ["Mon", "Tue"] };
  const name = { givenName: "Ada", familyName: "Byron", prefix: null, suffix: null, middleName: null, nickname: null };
  const card = { name, number: [{ value: "+1 202" }], email: [], address: [], avatar: null, organization: null };
  const sticker = { packId: null, packKey: null, stickerId: 1, data: null, emoji: "🎈" };
  await say({ contact: [card] as never }, at);
  await say({ sticker }, at + 1);
  await say({ pollCreate: poll }, at + 2);
  await say({ preview: [preview] }, at + 3);
  await say({ pollTerminate: { targetSentTimestamp: BigInt(at + 2) } }, at + 4);
  expect(texts().map(({ text }) => text)).toEqual([
    '[Contact card: "Ada Byron", "+1 202"]',
    '[Sticker: "🎈"]',
    '[Poll: "When?", "Mon", "Tue"]',
    '[Location: "Here", "https://maps.google.com/?q=1"]',
  ]);
});

test("what an admin deletes in a group counts as deleted by its author; another member's word does not", async () => {
  rig = await startRig();
  const bob = await rig.mock.server.createPrimaryDevice({ profileName: "Bob" });
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact] });
  const adminDelete = { targetAuthorAciBinary: Buffer.from(bob.device.aciRawUuid), targetSentTimestamp: BigInt(at) };
  const message = { ...EMPTY_DATA_MESSAGE, groupV2: group.toContext(), timestamp: BigInt(at + 1), adminDelete };
  const sending = () => rig.contact.sendRaw(rig.device, rawContent({ dataMessage: message }), { timestamp: at + 1 });
  const envelope = await rig.receive(sending(), "delete");
  expect(envelope).toMatchObject({ source: { aci: bob.device.aci }, content: { targetSentAt: at } });
  const state = rig.database.get<{ state: string }>("SELECT state FROM signal_groups")?.state ?? "";
  rig.database.run("UPDATE signal_groups SET state = ?", state.replaceAll('"isAdmin":true', '"isAdmin":false'));
  await rig.acked(sending());
  expect(quarantine().map(({ reason }) => reason)).toEqual(["not a member of the group, or may not write there"]);
});
