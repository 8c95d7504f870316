import { afterEach, expect, test } from "bun:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { ServiceIdKind } from "@signalapp/mock-server";
import { owned } from "../../src/signal/native/bytes.ts";
import { aciBytes } from "../../src/signal/native/ids.ts";
import { EnvelopeSchema } from "../../src/signal/native/proto/signal_pb.ts";
import { type Rig, startRig } from "./mock.ts";
import { bundleFrom, openPeer, textContent } from "./peer.ts";

let rig: Rig;
afterEach(() => rig?.stop());

// Found by fuzzing: --seed 20261123 --run 40012. libsignal makes no request to send again of such a time, and threw.
test("an unreadable message from an impossible time is acknowledged and set aside, and the line goes on", async () => {
  rig = await startRig();
  const { aci } = rig.contact.device;
  const key = await rig.contact.getIdentityKey(ServiceIdKind.ACI);
  const bundle = bundleFrom(rig.database, rig.device.deviceId, { kyberId: 424_242 });
  const peer = await openPeer(aci, key, rig.phone.device.aci, bundle);
  const { type, bytes } = await peer.encrypt(textContent("poison", 1));
  const envelope = create(EnvelopeSchema, {
    type,
    sourceServiceIdBinary: aciBytes(aci),
    sourceDeviceId: 1,
    clientTimestamp: 2n ** 60n,
    content: owned(bytes),
  });
  await rig.acked(rig.mock.server.send(rig.device, Buffer.from(owned(toBinary(EnvelopeSchema, envelope)))));
  expect(rig.database.all("SELECT reason FROM signal_quarantine")).toEqual([{ reason: "Generic" }]);
  const good = await rig.receive(rig.contact.sendText(rig.device, "still here", { timestamp: Date.now() }));
  expect(good.content).toMatchObject({ text: "still here" });
});
