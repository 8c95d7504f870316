import { afterEach, expect, test } from "bun:test";
import { EMPTY_DATA_MESSAGE, Proto, ReceiptType, ServiceIdKind } from "@signalapp/mock-server";
import type { Chat } from "../../src/core/model.ts";
import type { ChatLine } from "../../src/signal/native/context.ts";
import { certificateKeeper } from "../../src/signal/native/deliver.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { createPhone } from "../doubles/phone.ts";
import { never, rawContent, type Rig, startRig } from "./mock.ts";

let rig: Rig;
afterEach(() => rig?.stop());

const self: Chat = { kind: "self" };
const at = 1_795_000_000_000;

test("a first message arrives once, acknowledged, and uses up the pre-keys it was made with", async () => {
  rig = await startRig();
  const count = () => rig.database.get<{ n: number }>("SELECT count(*) AS n FROM signal_pre_keys WHERE own = 'aci'")?.n;
  const before = count();
  const envelope = await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at }));
  expect(envelope).toMatchObject({
    source: { aci: rig.contact.device.aci },
    sourceDevice: 1,
    sentAt: at,
    chat: { kind: "direct", peer: { aci: rig.contact.device.aci } },
    isOwn: false,
    content: { kind: "text", text: "hello" },
  });
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([{ text: "hello" }]);
  expect(count()).toBe((before ?? 0) - 1);
});

test("after our reply the second message comes by the double ratchet", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at }));
  await rig.send(rig.direct, "reply", at + 1);
  const reply = await rig.contact.waitForMessage();
  expect(reply.body).toBe("reply");
  expect(Number(reply.dataMessage.timestamp)).toBe(at + 1);
  const second = await rig.receive(rig.contact.sendText(rig.device, "two", { timestamp: at + 2 }));
  expect(second.content).toMatchObject({ text: "two" });
});

test("a reply carries our exact timestamp, and the phone gets a transcript with the same one", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at }));
  expect(await rig.send(rig.direct, "reply", at + 1)).toEqual({ timestamp: at + 1, failed: [] });
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  const sent = syncMessage.content?.sent;
  expect(Number(sent?.timestamp)).toBe(at + 1);
  expect(sent?.message?.body).toBe("reply");
  expect(Number(sent?.message?.timestamp)).toBe(at + 1);
  expect(sent?.unidentifiedStatus?.[0]?.unidentified).toBe(false);
});

test("a reply in Note to Self goes to the phone only, as a transcript", async () => {
  rig = await startRig();
  await rig.send(self, "note", at);
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  expect(syncMessage.content?.sent?.message?.body).toBe("note");
  expect(rig.contact.getMessageQueueSize()).toBe(0);
});

test("the timer of Note to Self holds for what we say there", async () => {
  rig = await startRig();
  const phone = createPhone(rig.mock, rig.phone, rig.device, [], () => undefined);
  await rig.receive(phone.write(at, { text: "for five minutes", expiresInSeconds: 300 }, null));
  await rig.send(self, "note", at + 1);
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  expect(syncMessage.content?.sent?.message?.expireTimer).toBe(300);
});

test("what waited at the server is taken by the first poll, all of it", async () => {
  rig = await startRig({ isConnected: false });
  const sendings = ["one", "two", "three"].map((text, index) =>
    rig.contact.sendText(rig.device, text, { timestamp: at + index }),
  );
  await rig.transport.connect(never);
  const { envelopes } = await rig.poll();
  expect(envelopes.map(({ content }) => (content.kind === "text" ? content.text : content.kind))).toEqual([
    "one",
    "two",
    "three",
  ]);
  await Promise.all(sendings);
});

test("what the owner types in Note to Self is theirs, and in its chat", async () => {
  rig = await startRig();
  const options = { timestamp: at, destinationServiceId: rig.phone.device.aci };
  const typed = await rig.phone.encryptSyncSent(rig.device, "/status", options);
  const envelope = await rig.receive(rig.mock.server.send(rig.device, typed));
  expect(envelope).toMatchObject({
    isOwn: true,
    chat: self,
    sentAt: at,
    sourceDevice: 1,
    content: { text: "/status" },
  });
});

test("what the owner writes to others is marked as theirs, and nothing of it is kept", async () => {
  rig = await startRig({ isAllowed: () => false });
  const options = { timestamp: at, destinationServiceId: rig.contact.device.aci };
  const typed = await rig.phone.encryptSyncSent(rig.device, "private words", options);
  const envelope = await rig.receive(rig.mock.server.send(rig.device, typed));
  expect(envelope).toMatchObject({ isOwn: true, chat: rig.direct });
  for (const { name } of rig.database.all<{ name: string }>(
    "SELECT name FROM sqlite_master WHERE name LIKE 'signal_%'",
  )) {
    expect(
      JSON.stringify(rig.database.all(`SELECT * FROM ${name}`).map((row) => Object.values(row as object).map(String))),
    ).not.toContain("private words");
  }
  expect(JSON.stringify(rig.log)).not.toContain("private words");
  expect(rig.database.all("SELECT aci FROM signal_recipients")).toEqual([]);
});

test("a sealed message names its sender by the certificate", async () => {
  rig = await startRig();
  const envelope = await rig.receive(rig.contact.sendText(rig.device, "sealed", { timestamp: at, sealed: true }));
  expect(envelope).toMatchObject({
    source: { aci: rig.contact.device.aci },
    sourceDevice: 1,
    content: { text: "sealed" },
  });
});

test("once the profile key is known messages go out sealed", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at, withProfileKey: true }));
  await rig.send(rig.direct, "sealed reply", at + 1);
  expect((await rig.contact.waitForMessage()).body).toBe("sealed reply");
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  expect(syncMessage.content?.sent?.unidentifiedStatus?.[0]?.unidentified).toBe(true);
});

test("a refused seal is tried once more without, and remembered", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at, withProfileKey: true }));
  rig.database.run("UPDATE signal_recipients SET profile_key = ?", new Uint8Array(32).fill(7));
  await rig.send(rig.direct, "fallback", at + 1);
  expect((await rig.contact.waitForMessage()).body).toBe("fallback");
  // The transcript was encrypted beside the message, as a sealed one: another one went out.
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  expect(syncMessage.content?.sent?.unidentifiedStatus?.[0]?.unidentified).toBe(false);
  expect(rig.database.get("SELECT sealed_refused_at > 0 AS isRefused FROM signal_recipients")).toEqual({
    isRefused: 1,
  });
});

test("receipts are taken and say nothing; ours go out as the owner's settings say", async () => {
  rig = await startRig();
  const prompt = await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at }));
  const came = await rig.receive(
    rig.contact.sendReceipt(rig.device, { type: ReceiptType.Read, messageTimestamps: [5, 6], timestamp: at + 1 }),
    "empty",
  );
  expect(came.content).toEqual({ kind: "empty", what: "receiptMessage" });
  await rig.acked(rig.contact.sendUnencryptedReceipt(rig.device, { messageTimestamp: 9 }));
  await rig.transport.markRead(prompt);
  const { receiptMessage } = await rig.contact.waitForReceipt();
  expect(receiptMessage.timestamp?.map(Number)).toEqual([at]);
});

test("a message to our number is read, and the next reply proves whose number it is", async () => {
  rig = await startRig();
  await rig.mock.introduce(rig.contact, rig.device, ServiceIdKind.PNI);
  const envelope = await rig.receive(
    rig.contact.sendText(rig.device, "to the number", { timestamp: at, serviceIdKind: ServiceIdKind.PNI }),
  );
  expect(envelope.content).toMatchObject({ text: "to the number" });
  await rig.send(rig.direct, "it is me", at + 1);
  const { content } = await rig.contact.waitForMessage();
  expect(content.pniSignatureMessage?.pni?.length).toBe(16);
  await rig.send(rig.direct, "again", at + 2);
  expect((await rig.contact.waitForMessage()).content.pniSignatureMessage).toBeNull();
});

test("a number change replaces the identity of the number, and uploads its keys", async () => {
  rig = await startRig();
  rig.mock.server["provisionResultQueueByKey"].clear();
  const before = rig.deps.database.get<{ number: string }>("SELECT number FROM signal_account")?.number;
  await rig.receive(rig.phone.changeNumber(), "empty");
  await rig.transport.disconnect();
  const after = rig.database.get<{ number: string }>("SELECT number FROM signal_account")?.number;
  expect(after).toBe(rig.phone.device.checkedNumber);
  expect(after).not.toBe(before);
  expect(rig.database.get("SELECT service_id AS id FROM signal_own WHERE own = 'pni'")).toEqual({
    id: rig.phone.device.checkedPni,
  });
});

test("typing is taken and says nothing; ours goes out", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at }));
  const action = Proto.TypingMessage.Action.STARTED;
  const typingMessage = { timestamp: BigInt(at), action, groupId: null };
  const came = await rig.receive(
    rig.contact.sendRaw(rig.device, rawContent({ typingMessage }), { timestamp: at }),
    "empty",
  );
  expect(came.content).toEqual({ kind: "empty", what: "typingMessage" });
  await rig.transport.typing(rig.direct, true);
});

test("reaction, edit, deletion, quote and mention are understood", async () => {
  rig = await startRig();
  const data = (timestamp: number, more: object) => ({ ...EMPTY_DATA_MESSAGE, timestamp: BigInt(timestamp), ...more });
  const aciBinary = rig.phone.device.aciRawUuid;
  const raw = (timestamp: number, content: Parameters<typeof rawContent>[0]) =>
    rig.contact.sendRaw(rig.device, rawContent(content), { timestamp });
  const reaction = {
    emoji: "👍",
    remove: false,
    targetAuthorAci: null,
    targetAuthorAciBinary: aciBinary,
    targetSentTimestamp: 7n,
  };
  expect((await rig.receive(raw(at, { dataMessage: data(at, { reaction }) }), "reaction")).content).toEqual({
    kind: "reaction",
    emoji: "👍",
    isRemove: false,
    targetAuthor: { aci: rig.phone.device.aci, number: rig.phone.device.checkedNumber },
    targetSentAt: 7,
  });
  const edited = raw(at + 1, {
    editMessage: { targetSentTimestamp: BigInt(at), dataMessage: data(at + 1, { body: "new" }) },
  });
  expect((await rig.receive(edited, "edit")).content).toMatchObject({ targetSentAt: at, body: { text: "new" } });
  const deleted = raw(at + 2, { dataMessage: data(at + 2, { delete: { targetSentTimestamp: BigInt(at + 1) } }) });
  expect((await rig.receive(deleted, "delete")).content).toEqual({ kind: "delete", targetSentAt: at + 1 });
});

test("for however many recipients a sender certificate is asked for once at a time", async () => {
  let asked = 0;
  const request = async () => {
    asked++;
    await Promise.resolve();
    return { status: 503, json: null, retryAfterMs: null };
  };
  const line = () => ({ request }) as unknown as ChatLine;
  const certificate = certificateKeeper({ line, now: () => at, log: quietLog });
  expect(await Promise.all(Array.from({ length: 20 }, certificate))).toEqual(Array(20).fill(null));
  expect(asked).toBe(1);
  await certificate();
  expect(asked).toBe(2);
});
