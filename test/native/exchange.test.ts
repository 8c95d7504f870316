/** What goes out, and what comes in, beyond plain text: edits, files, groups, devices that come and go. */
import { afterEach, expect, test } from "bun:test";
import { CiphertextMessageType, DecryptionErrorMessage, PlaintextContent } from "@signalapp/libsignal-client";
import { EMPTY_DATA_MESSAGE, type PrimaryDevice } from "@signalapp/mock-server";
import type { Chat, Envelope, Outbound } from "../../src/core/model.ts";
import { decryptAttachment } from "../../src/signal/native/attachments.ts";
import { groupIdOf } from "../../src/signal/native/ids.ts";
import { Envelope_Type } from "../../src/signal/native/proto/signal_pb.ts";
import { createPhone } from "../doubles/phone.ts";
import { envelopeBytes } from "./peer.ts";
import { failureOf, never, rawContent, type Rig, startRig } from "./mock.ts";

let rig: Rig;
afterEach(() => rig?.stop());

const at = 1_795_000_000_000;
const hello = (who: PrimaryDevice = rig.contact) => rig.receive(who.sendText(rig.device, "hello", { timestamp: at }));

test("styles, quote, edit and reaction arrive with the right fields", async () => {
  rig = await startRig();
  await hello();
  const me = { aci: rig.contact.device.aci, number: null };
  await rig.send(
    rig.direct,
    {
      kind: "text",
      text: "😀 bold",
      styles: [{ start: 3, length: 4, style: "BOLD" }],
      quote: { sentAt: at, author: me, text: "hello" },
      files: [],
    },
    at + 1,
  );
  const { dataMessage } = await rig.contact.waitForMessage();
  expect(dataMessage.bodyRanges?.[0]).toMatchObject({ start: 3, length: 4 });
  expect(dataMessage.bodyRanges?.[0]?.associatedValue).toMatchObject({ style: 1 });
  expect(Number(dataMessage.quote?.id)).toBe(at);
  expect(dataMessage.quote?.authorAciBinary).toEqual(Buffer.from(rig.contact.device.aciRawUuid));
  await rig.send(rig.direct, { kind: "edit", targetSentAt: at + 1, text: "better", styles: [] }, at + 2);
  const { editMessage } = await rig.contact.waitForEditMessage();
  expect(Number(editMessage.targetSentTimestamp)).toBe(at + 1);
  expect(editMessage.dataMessage?.body).toBe("better");
  const reaction: Outbound["body"] = {
    kind: "reaction",
    emoji: "🎉",
    targetAuthor: me,
    targetSentAt: at,
    isRemove: false,
  };
  await rig.send(rig.direct, reaction, at + 3);
  const reacted = await rig.contact.waitForMessage();
  expect(reacted.dataMessage.reaction?.emoji).toBe("🎉");
  expect(Number(reacted.dataMessage.reaction?.targetSentTimestamp)).toBe(at);
});

test("a timer of the chat is kept, and goes with every answer", async () => {
  rig = await startRig();
  const dataMessage = {
    ...EMPTY_DATA_MESSAGE,
    body: "brief",
    timestamp: BigInt(at),
    expireTimer: 60,
    expireTimerVersion: 3,
  };
  const came = await rig.receive(rig.contact.sendRaw(rig.device, rawContent({ dataMessage }), { timestamp: at }));
  expect(came.content).toMatchObject({ expiresInSeconds: 60 });
  await rig.send(rig.direct, "brief too", at + 1);
  const answer = await rig.contact.waitForMessage();
  expect(answer.dataMessage).toMatchObject({ expireTimer: 60, expireTimerVersion: 3 });
});

test("a long text goes as prefix and file", async () => {
  rig = await startRig();
  await hello();
  const text = "ä".repeat(2_500);
  await rig.send(rig.direct, text, at + 1);
  const { body, dataMessage } = await rig.contact.waitForMessage();
  expect(Buffer.byteLength(body)).toBeLessThanOrEqual(2048);
  expect(text.startsWith(body)).toBe(true);
  const [file] = dataMessage.attachments ?? [];
  expect(file?.contentType).toBe("text/x-signal-plain");
  expect(file?.size).toBe(5_000);
});

test("a file goes out once, and is read back by its pointer", async () => {
  rig = await startRig();
  await hello();
  const plain = Buffer.from("the file's bytes");
  const files = [{ fileName: "a.txt", contentType: "text/plain", base64: plain.toString("base64") }];
  await rig.send(rig.direct, { kind: "text", text: "see file", styles: [], quote: null, files }, at + 1);
  const [pointer] = (await rig.contact.waitForMessage()).dataMessage.attachments ?? [];
  if (!pointer?.key || !pointer.digest || typeof pointer.size !== "number") throw new Error("no pointer came");
  const url = `${rig.mock.service.cdn[3]}/attachments/${pointer.attachmentIdentifier?.cdnKey}`;
  const { body } = await rig.deps.service.fetch({ method: "GET", url, bytesMax: 10_000, timeoutMs: 5_000 });
  const opened = decryptAttachment(body, { key: pointer.key, digest: pointer.digest, size: pointer.size });
  expect(Buffer.from(opened).toString()).toBe("the file's bytes");
});

async function startGroup() {
  rig = await startRig();
  const third = await rig.mock.server.createPrimaryDevice({ profileName: "Bob" });
  const group = await rig.phone.createGroup({ title: "Team", members: [rig.phone, rig.contact, third] });
  const chat: Chat = { kind: "group", id: groupIdOf(group.masterKey) };
  return { group, third, chat };
}

test("a group message names its group, pairwise and by sender key", async () => {
  const { group, chat } = await startGroup();
  const pairwise = await rig.receive(rig.contact.sendText(rig.device, "pairwise", { timestamp: at, group }));
  expect(pairwise).toMatchObject({ chat, content: { text: "pairwise" } });
  let distributionId = "";
  await Promise.all([
    rig.expect(1, "empty"),
    rig.contact.sendSenderKey(rig.device, { timestamp: at + 1 }).then((id) => (distributionId = id)),
  ]);
  const options = { timestamp: at + 2, group, sealed: true, distributionId };
  const byKey = await rig.receive(rig.contact.sendText(rig.device, "by key", options));
  expect(byKey).toMatchObject({ chat, source: { aci: rig.contact.device.aci }, content: { text: "by key" } });
});

test("who is no member of the group is not heard there, even with a revision of their own making", async () => {
  const { group } = await startGroup();
  const outsider = await rig.mock.server.createPrimaryDevice({ profileName: "Mallory" });
  await rig.mock.introduce(outsider, rig.device);
  await rig.acked(outsider.sendText(rig.device, "let me in", { timestamp: at, group }));
  const later = await rig.phone.modifyGroupDisappearingMessageTimer(group, 60, { sendUpdateTo: [] });
  await rig.acked(outsider.sendText(rig.device, "now?", { timestamp: at + 1, group: later }));
  await rig.receive(rig.contact.sendText(rig.device, "a member", { timestamp: at + 2, group: later }));
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([{ text: "a member" }]);
});

test("who was removed by the owner's phone is not heard any more, also with the revision from before", async () => {
  const { group, third } = await startGroup();
  await rig.mock.introduce(third, rig.device);
  await rig.receive(rig.contact.sendText(rig.device, "a member", { timestamp: at, group }));
  const onServer = await rig.mock.server.getGroup(group.publicParams.serialize());
  onServer?.state.members?.splice(1, 1);
  const newer = await rig.phone.modifyGroupDisappearingMessageTimer(group, 60, { sendUpdateTo: [] });
  const phone = createPhone(rig.mock, rig.phone, rig.device, [newer], () => undefined);
  await rig.acked(phone.write(at + 1, { text: "they are out" }, newer));
  await rig.acked(rig.contact.sendText(rig.device, "still here", { timestamp: at + 2, group }));
  await rig.receive(third.sendText(rig.device, "I am", { timestamp: at + 3, group }));
  const sql = "SELECT text FROM inbox WHERE kind = 'text' AND source <> ?";
  expect(rig.database.all(sql, rig.phone.device.aci)).toEqual([{ text: "a member" }, { text: "I am" }]);
});

test("a send to a group reaches every member with one timestamp, and one transcript", async () => {
  const { group, third, chat } = await startGroup();
  await rig.receive(rig.contact.sendText(rig.device, "hi", { timestamp: at, group }));
  expect(await rig.send(chat, "to all", at + 1)).toEqual({ timestamp: at + 1, failed: [] });
  for (const member of [rig.contact, third]) {
    const { body, dataMessage } = await member.waitForMessage();
    expect({ body, at: Number(dataMessage.timestamp) }).toEqual({ body: "to all", at: at + 1 });
    expect(dataMessage.groupV2?.masterKey).toEqual(Buffer.from(group.masterKey));
  }
  const { syncMessage } = await rig.phone.waitForSyncMessage(({ syncMessage }) => Boolean(syncMessage.content?.sent));
  expect(syncMessage.content?.sent?.unidentifiedStatus?.length).toBe(2);
});

test("one member who is gone does not keep the others from getting it", async () => {
  const { group, third, chat } = await startGroup();
  await rig.receive(rig.contact.sendText(rig.device, "hi", { timestamp: at, group }));
  rig.mock.server.unregister(third);
  const { failed } = await rig.send(chat, "to the rest", at + 1);
  expect(failed).toEqual([{ recipient: third.device.aci, code: "unregistered" }]);
  expect((await rig.contact.waitForMessage()).body).toBe("to the rest");
});

test("a newer revision is fetched before the next send", async () => {
  const { group, chat } = await startGroup();
  await rig.receive(rig.contact.sendText(rig.device, "hi", { timestamp: at, group }));
  await rig.send(chat, "one", at + 1);
  const newer = await rig.phone.modifyGroupDisappearingMessageTimer(group, 3600, { sendUpdateTo: [] });
  await rig.receive(rig.contact.sendText(rig.device, "hi again", { timestamp: at + 2, group: newer }));
  await rig.send(chat, "two", at + 3);
  await rig.contact.waitForMessage();
  const { dataMessage } = await rig.contact.waitForMessage();
  expect(dataMessage.groupV2?.revision).toBe(newer.revision);
  expect(dataMessage.expireTimer).toBe(3600);
});

test("a new device of a contact gets the message too", async () => {
  rig = await startRig();
  await hello();
  await rig.send(rig.direct, "one", at + 1);
  await rig.contact.waitForMessage();
  const second = await rig.mock.server.createSecondaryDevice(rig.contact);
  await rig.contact.generateKeys(second, "ACI" as never).then((keys) => second.setKeys("ACI" as never, keys));
  await rig.send(rig.direct, "two", at + 2);
  expect((await rig.contact.waitForMessage()).body).toBe("two");
  const devices = rig.database.all(
    "SELECT device_id AS id FROM signal_sessions WHERE service_id = ?",
    rig.contact.device.aci,
  );
  expect(devices).toEqual([{ id: 1 }, { id: 2 }]);
});

test("a device that is gone is forgotten, and the rest gets the message", async () => {
  rig = await startRig();
  await hello();
  rig.database.run(
    "INSERT INTO signal_sessions SELECT own, service_id, 3, record, at FROM signal_sessions WHERE service_id = ?",
    rig.contact.device.aci,
  );
  await rig.send(rig.direct, "one", at + 1);
  expect((await rig.contact.waitForMessage()).body).toBe("one");
  const devices = rig.database.all(
    "SELECT device_id AS id FROM signal_sessions WHERE service_id = ?",
    rig.contact.device.aci,
  );
  expect(devices).toEqual([{ id: 1 }]);
});

test("a person who left Signal, a captcha and a rate limit each have their code", async () => {
  rig = await startRig();
  await hello();
  const pair = { source: rig.phone.device.aci, target: rig.contact.device.aci };
  rig.mock.server.rateLimit(pair);
  expect(await failureOf(rig.send(rig.direct, "one", at + 1))).toMatchObject({ code: "captcha" });
  rig.mock.server.stopRateLimiting(pair);
  rig.mock.server.respondToChallengesWith(200, {});
  await rig.transport.answerChallenge("solved");
  expect(await failureOf(rig.transport.answerChallenge("solved"))).toMatchObject({ code: "send_rejected" });
  rig.mock.server.unregister(rig.contact);
  expect(await failureOf(rig.send(rig.direct, "two", at + 2))).toMatchObject({ code: "unregistered" });
});

test("who cannot read our message gets it again, with its old timestamp", async () => {
  rig = await startRig();
  await hello();
  await rig.send(rig.direct, "once more", at + 1);
  await rig.contact.waitForMessage();
  const ask = async (deviceId: number) => {
    const error = DecryptionErrorMessage.forOriginal(
      new Uint8Array(),
      CiphertextMessageType.SenderKey,
      at + 1,
      deviceId,
    );
    const content = PlaintextContent.from(error).serialize();
    const envelope = envelopeBytes(Envelope_Type.PLAINTEXT_CONTENT, rig.contact.device.aci, at + deviceId, content);
    await rig.acked(rig.mock.server.send(rig.device, envelope));
  };
  await ask(rig.device.deviceId + 1);
  await ask(rig.device.deviceId);
  const again = await rig.contact.waitForMessage();
  expect({ body: again.body, at: Number(again.dataMessage.timestamp) }).toEqual({ body: "once more", at: at + 1 });
  for (let flood = 0; flood < 15; flood++) {
    const error = DecryptionErrorMessage.forOriginal(
      new Uint8Array([flood]),
      CiphertextMessageType.SenderKey,
      at + 1,
      rig.device.deviceId,
    );
    const content = PlaintextContent.from(error).serialize();
    const envelope = envelopeBytes(Envelope_Type.PLAINTEXT_CONTENT, rig.contact.device.aci, at + 100 + flood, content);
    await rig.acked(rig.mock.server.send(rig.device, envelope));
  }
  await rig.settled();
  expect(rig.contact.getMessageQueueSize()).toBe(9);
});

test("the same send twice carries the same timestamp", async () => {
  rig = await startRig();
  await hello();
  await rig.send(rig.direct, "twice", at + 1);
  await rig.send(rig.direct, "twice", at + 1);
  const copies = [await rig.contact.waitForMessage(), await rig.contact.waitForMessage()];
  expect(copies.map(({ dataMessage }) => Number(dataMessage.timestamp))).toEqual([at + 1, at + 1]);
});

test("a long text comes with a file that holds all of it, and a voice note says that it is one", async () => {
  rig = await startRig();
  const pointer = {
    attachmentIdentifier: { cdnKey: "k" },
    cdnNumber: 3,
    key: Buffer.alloc(64),
    digest: Buffer.alloc(32),
  };
  const attachments = [
    { ...pointer, contentType: "text/x-signal-plain", size: 5_000 } as never,
    { ...pointer, contentType: "audio/aac", size: 9, flags: 1 } as never,
  ];
  const dataMessage = { ...EMPTY_DATA_MESSAGE, body: "the beginning", timestamp: BigInt(at), attachments };
  const { content } = await rig.receive(
    rig.contact.sendRaw(rig.device, rawContent({ dataMessage }), { timestamp: at }),
  );
  expect(content).toMatchObject({
    text: "the beginning",
    attachments: [
      { isLongText: true, isVoiceNote: false, sizeBytes: 5_000 },
      { isLongText: false, isVoiceNote: true },
    ],
  });
});

test("what may be seen once comes without its file", async () => {
  rig = await startRig();
  const pointer = {
    attachmentIdentifier: { cdnKey: "k" },
    cdnNumber: 3,
    key: Buffer.alloc(64),
    digest: Buffer.alloc(32),
    size: 1,
  };
  const dataMessage = {
    ...EMPTY_DATA_MESSAGE,
    timestamp: BigInt(at),
    isViewOnce: true,
    attachments: [pointer as never],
  };
  const { content } = await rig.receive(
    rig.contact.sendRaw(rig.device, rawContent({ dataMessage }), { timestamp: at }),
  );
  expect(content).toMatchObject({ isViewOnce: true, attachments: [] });
});

test("a file from a contact is fetched by its reference", async () => {
  rig = await startRig();
  const { encryptAttachment } = await import("../../src/signal/native/attachments.ts");
  const { blob, key, digest, size } = encryptAttachment(Buffer.from("their bytes"));
  await rig.mock.server.storeAttachmentOnCdn(3, "their-key", blob);
  const pointer = {
    attachmentIdentifier: { cdnKey: "their-key" },
    cdnNumber: 3,
    contentType: "text/plain",
    fileName: "b.txt",
    key,
    digest,
    size,
  };
  const dataMessage = { ...EMPTY_DATA_MESSAGE, timestamp: BigInt(at), attachments: [pointer as never] };
  const envelope: Envelope = await rig.receive(
    rig.contact.sendRaw(rig.device, rawContent({ dataMessage }), { timestamp: at }),
  );
  if (envelope.content.kind !== "text") throw new Error("no text");
  const [file] = envelope.content.attachments;
  expect(file).toMatchObject({ contentType: "text/plain", fileName: "b.txt", sizeBytes: 11, isLongText: false });
  const bytes = await rig.transport.attachment(file?.ref ?? "", 1_000, never);
  expect(Buffer.from(bytes).toString()).toBe("their bytes");
  expect(await failureOf(rig.transport.attachment(file?.ref ?? "", 5, never))).toMatchObject({
    code: "attachment_unavailable",
  });
});
