/** Receives until a text comes, and dies by SIGKILL before or after its commit; never acknowledges it. */
import { systemClock, systemRandom } from "../../src/clock.ts";
import { loadService } from "../../src/signal/native/signal-service.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { commit, never, openNativeDatabase, recordLog } from "./mock.ts";

const [databasePath = "", servicePath = "", moment] = process.argv.slice(2);
const database = await openNativeDatabase(databasePath);
const transport = createNative({
  database,
  service: await loadService(servicePath, systemClock),
  clock: systemClock,
  random: systemRandom,
  log: recordLog().log,
  userAgent: "signalman/0.0.0",
  isAllowed: () => true,
  allowedNumbers: [],
});
await transport.connect(never);
for (let isReady = false; ;) {
  const batch = await transport.receive(isReady ? 5_000 : 0, never);
  const isText = batch.envelopes.some(({ content }) => content.kind === "text");
  if (isText && moment === "before") process.kill(process.pid, "SIGKILL");
  commit(database, batch);
  if (isText) process.kill(process.pid, "SIGKILL");
  await transport.ack(batch, true);
  if (!isReady) process.stdout.write("ready\n");
  isReady = true;
}
