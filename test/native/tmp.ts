import { startRig } from "./mock.ts";
import { envelopeBytes } from "./peer.ts";
import { DecryptionErrorMessage, PlaintextContent, CiphertextMessageType } from "@signalapp/libsignal-client";
const rig = await startRig();
setTimeout(() => { console.log(rig.log); process.exit(1); }, 3000);
const at=1_795_000_000_000;
await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at }));
await rig.send(rig.direct, "once more", at + 1);
const error = DecryptionErrorMessage.forOriginal(new Uint8Array(), CiphertextMessageType.SenderKey, at + 1, 3);
const content = PlaintextContent.from(error).serialize();
console.log(Buffer.from(content).toString("hex"));
void rig.mock.server.send(rig.device, envelopeBytes(8, rig.contact.device.aci, at + 2, content)).then(()=>console.log("acked"));
for(;;){ const b= await rig.poll(500); console.log(JSON.stringify(b.envelopes), rig.database.all("select reason from signal_quarantine"));}
