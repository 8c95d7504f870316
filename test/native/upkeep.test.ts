/** Keys that run out, grow old or go stale; devices that cannot read; and a long run. */
import { afterEach, expect, test } from "bun:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { ServiceIdKind } from "@signalapp/mock-server";
import { systemClock } from "../../src/clock.ts";
import { owned } from "../../src/signal/native/bytes.ts";
import { pruneNative } from "../../src/signal/native/upkeep.ts";
import { EnvelopeSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { never, type Rig, startRig } from "./mock.ts";

let rig: Rig;
afterEach(() => rig?.stop());

const at = 1_795_000_000_000;
const dayMs = 86_400_000;
const forgetUploads = () => rig.mock.server["provisionResultQueueByKey"].clear();

test("pre-keys that ran low are filled up again, and the old ones are kept for who fetched one before", async () => {
  rig = await startRig();
  const early = await rig.device.popSingleUseKey();
  for (let n = 0; n < 60; n++) await rig.device.popSingleUseKey();
  await rig.transport.disconnect();
  forgetUploads();
  await rig.transport.connect(never);
  await rig.transport.settled();
  expect(await rig.device.getPreKeyCount()).toBe(100);
  await rig.contact.addSingleUseKey(rig.device, early);
  const envelope = await rig.receive(rig.contact.sendText(rig.device, "with an old key", { timestamp: at }));
  expect(envelope.content).toMatchObject({ text: "with an old key" });
});

test("standing keys are replaced after two days, and forgotten a month later", async () => {
  rig = await startRig();
  const signed = () =>
    rig.database
      .all<{ id: number }>("SELECT key_id AS id FROM signal_signed_pre_keys WHERE own = 'aci' ORDER BY at")
      .map(({ id }) => id);
  const [first] = signed();
  await rig.transport.disconnect();
  forgetUploads();
  const later = createNative({ ...rig.deps, clock: { ...systemClock, now: () => Date.now() + 2 * dayMs } });
  await later.connect(never);
  await later.settled();
  const [old, fresh] = signed();
  expect(old).toBe(first ?? 0);
  expect(rig.database.get("SELECT signed_id AS id FROM signal_own WHERE own = 'aci'")).toEqual({ id: fresh ?? 0 });
  expect((await rig.device.popSingleUseKey()).signedPreKey.keyId).toBe((fresh ?? 0) as never);
  await later.disconnect();
  pruneNative(rig.database, Date.now() + 33 * dayMs);
  expect(signed()).toEqual([fresh ?? 0]);
});

test("a contact who registered anew gets the message under a new session", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at }));
  Object.assign(rig.contact.device, { registrationId: 4_242 });
  await rig.send(rig.direct, "new session", at + 1);
  expect((await rig.contact.waitForMessage()).body).toBe("new session");
});

test("a message that we cannot read is asked for again, of all devices of a sender with two", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at }));
  await rig.send(rig.direct, "reply", at + 1);
  await rig.contact.waitForMessage();
  const second = await rig.mock.server.createSecondaryDevice(rig.contact);
  await second.setKeys(ServiceIdKind.ACI, await rig.contact.generateKeys(second, ServiceIdKind.ACI));
  const envelope = fromBinary(
    EnvelopeSchema,
    await rig.contact.encryptText(rig.device, "damaged", { timestamp: at + 2 }),
  );
  const content = owned(envelope.content);
  content.fill(0xaa, content.length - 30, content.length - 20);
  const bytes = Buffer.from(owned(toBinary(EnvelopeSchema, { ...envelope, content })));
  await rig.acked(rig.mock.server.send(rig.device, bytes));
  const asked = await rig.contact.waitForDecryptionError();
  expect({ at: asked.timestamp, device: asked.senderDevice }).toEqual({ at: at + 2, device: 1 });
});

test("five hundred messages come in order, each once", async () => {
  rig = await startRig();
  const sending = (async () => {
    for (let n = 0; n < 500; n++)
      void rig.mock.server.send(rig.device, await rig.contact.encryptText(rig.device, `${n}`, { timestamp: at + n }));
  })();
  await rig.expect(500, "text");
  await sending;
  const rows = rig.database.all<{ text: string }>("SELECT text FROM inbox WHERE kind = 'text' ORDER BY id");
  expect(rows.map(({ text }) => text)).toEqual(Array.from({ length: 500 }, (_, n) => `${n}`));
});
