import { afterEach, expect, test } from "bun:test";
import { PrivateKey } from "@signalapp/libsignal-client";
import { ServiceIdKind } from "@signalapp/mock-server";
import { Envelope_Type } from "../../src/signal/native/proto/signal_pb.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { never, type Rig, rigOf, startRig } from "./mock.ts";
import { bundleFrom, contentBytes, envelopeBytes, openPeer, textContent } from "./peer.ts";

let rig: Rig;
afterEach(() => rig?.stop());

const at = 1_795_000_000_000;
const quarantine = () =>
  rig.database
    .all<{ reason: string }>("SELECT reason FROM signal_quarantine ORDER BY at, reason")
    .map(({ reason }) => reason);

const deliver = (bytes: Buffer<ArrayBuffer>) => rig.acked(rig.mock.server.send(rig.device, bytes));

const contactKey = () => rig.contact.getIdentityKey(ServiceIdKind.ACI);
const openContact = async (options?: Parameters<typeof bundleFrom>[2]) =>
  openPeer(
    rig.contact.device.aci,
    await contactKey(),
    rig.phone.device.aci,
    bundleFrom(rig.database, rig.device.deviceId, options),
  );

/** The line still works: the next good message comes through. */
async function expectWorking(): Promise<void> {
  const envelope = await rig.receive(rig.contact.sendText(rig.device, "still here", { timestamp: at + 999 }));
  expect(envelope.content).toMatchObject({ text: "still here" });
}

test("a first message that names an unknown Kyber key is set aside, and does not stop the line", async () => {
  rig = await startRig();
  const peer = await openContact({ kyberId: 424_242 });
  const { bytes } = await peer.encrypt(textContent("poison", at));
  await deliver(envelopeBytes(Envelope_Type.PREKEY_MESSAGE, rig.contact.device.aci, at, bytes));
  expect(quarantine()).toEqual(["Generic"]);
  const { timestamp } = await rig.contact.waitForDecryptionError();
  expect(timestamp).toBe(at);
  await expectWorking();
});

test("a stranger's poison gets no request to send again, and only the fact of it is kept", async () => {
  rig = await startRig({ isAllowed: () => false });
  const peer = await openContact({ kyberId: 424_242 });
  const { bytes } = await peer.encrypt(textContent("poison", at));
  await deliver(envelopeBytes(Envelope_Type.PREKEY_MESSAGE, rig.contact.device.aci, at, bytes));
  await rig.transport.disconnect();
  expect(rig.contact.getDecryptionErrorQueueSize()).toBe(0);
  expect(rig.database.all("SELECT reason, envelope FROM signal_quarantine")).toEqual([
    { reason: "Generic", envelope: null },
  ]);
});

test("a replayed first message for the last-resort key is refused", async () => {
  rig = await startRig();
  const peer = await openContact({ isLastResort: true });
  const { bytes } = await peer.encrypt(textContent("first", at));
  const envelope = envelopeBytes(Envelope_Type.PREKEY_MESSAGE, rig.contact.device.aci, at, bytes);
  await deliver(envelope);
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([{ text: "first" }]);
  rig.database.exec("DELETE FROM signal_seen; DELETE FROM signal_sessions; DELETE FROM inbox");
  await deliver(envelope);
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([]);
  expect(quarantine()).toEqual(["Generic"]);
});

test("damage of every kind is acknowledged and set aside, and the next good message is read", async () => {
  rig = await startRig();
  const aci = rig.contact.device.aci;
  const peer = await openContact();
  const first = await peer.encrypt(textContent("good", at));
  await deliver(envelopeBytes(first.type, aci, at, first.bytes));
  const corrupt = Buffer.from((await peer.encrypt(textContent("corrupt", at + 1))).bytes);
  corrupt.fill(0xaa, 60, 120);
  await deliver(envelopeBytes(first.type, aci, at + 1, corrupt));
  const unpadded = await peer.encrypt(new Uint8Array([1, 2, 3]), false);
  await deliver(envelopeBytes(unpadded.type, aci, at + 2, unpadded.bytes));
  const invalid = await peer.encrypt(new Uint8Array([0xff, 0xff, 0xff]));
  await deliver(envelopeBytes(invalid.type, aci, at + 3, invalid.bytes));
  const sync = await peer.encrypt(
    contentBytes({ content: { case: "syncMessage", value: { read: [{ timestamp: 1n }] } } }),
  );
  await deliver(envelopeBytes(sync.type, aci, at + 4, sync.bytes));
  const late = await peer.encrypt(textContent("another time", at));
  await deliver(envelopeBytes(late.type, aci, at + 5, late.bytes));
  const plaintext = new Uint8Array([0xc0, ...textContent("unsigned", at + 6), 0x80]);
  await deliver(envelopeBytes(Envelope_Type.PLAINTEXT_CONTENT, aci, at + 6, plaintext));
  await deliver(Buffer.from([0xff, 0xff]));
  expect(quarantine().sort()).toEqual([
    "Generic",
    "Malformed",
    "content not readable",
    "envelope not readable",
    "message timestamp differs",
    "plaintext with content",
    "sync message from a stranger",
  ]);
  const good = await peer.encrypt(textContent("good again", at + 7));
  await deliver(envelopeBytes(good.type, aci, at + 7, good.bytes));
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([
    { text: "good" },
    { text: "good again" },
  ]);
});

test("an envelope of a type that is newer than this program is kept, and its sender's chat hears of it", async () => {
  rig = await startRig();
  const newer = envelopeBytes(Envelope_Type.UNKNOWN, rig.contact.device.aci, at, new Uint8Array(9));
  const come = await rig.receive(rig.mock.server.send(rig.device, newer), "unknown");
  expect(come.chat).toMatchObject({ kind: "direct", peer: { aci: rig.contact.device.aci } });
  expect(rig.transport.quarantined?.()).toBe(1);
});

test("a certificate of another authority is forged: forgotten, and not answered", async () => {
  rig = await startRig();
  await rig.transport.disconnect();
  const trustRoots = [PrivateKey.generate().getPublicKey().serialize()];
  const transport = createNative({ ...rig.deps, service: { ...rig.deps.service, trustRoots } });
  await transport.connect(never);
  const forged = rigOf(rig.mock, rig.device, rig.deps, transport);
  await forged.acked(rig.contact.sendText(rig.device, "forged", { timestamp: at, sealed: true }));
  await transport.disconnect();
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([]);
  expect(quarantine()).toEqual(["forged or expired certificate"]);
});

test("another identity key of a contact is taken and told, and we can go on writing", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "one", { timestamp: at }));
  const bundle = bundleFrom(rig.database, rig.device.deviceId);
  const { aci } = rig.contact.device;
  const peer = await openPeer(aci, PrivateKey.generate(), rig.phone.device.aci, bundle);
  const { type, bytes } = await peer.encrypt(textContent("new phone", at + 1));
  await deliver(envelopeBytes(type, aci, at + 1, bytes));
  expect(rig.database.all("SELECT text FROM inbox WHERE kind = 'text'")).toEqual([
    { text: "one" },
    { text: "new phone" },
  ]);
  expect(rig.log.filter(({ message }) => message.includes("identity")).length).toBe(1);
});
