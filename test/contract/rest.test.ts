import { expect } from "bun:test";
import { createRest } from "../../src/signal/daemon/rest.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { startRestDouble } from "../doubles/signal-rest.ts";
import { alice, groupId, me } from "../doubles/wire.ts";
import type { TransportHarness } from "./transport.ts";
import { transportContract } from "./transport.ts";

const harness = (answersWithList: boolean) => async (): Promise<TransportHarness> => {
  const clock = createVirtualClock();
  const double = await startRestDouble({ clock, answersWithList });
  const transport = createRest({ baseUrl: double.url, account: me.number, clock, log: quietLog });
  const report = (result: object) =>
    `${JSON.stringify({ timestamp: 1_786_953_653_000, results: [{ recipientAddress: { uuid: alice.aci, number: alice.number }, ...result }] })}\nFailed to send message\n`;
  const results = {
    signal_rate_limited: { type: "RATE_LIMIT_FAILURE", retryAfterSeconds: 37 },
    captcha: { type: "RATE_LIMIT_FAILURE", token: "0f6d1a9e-3b5c-4d7e-8f90-a1b2c3d4e5f6" },
    untrusted_identity: { type: "IDENTITY_FAILURE" },
    unregistered: { type: "UNREGISTERED_FAILURE" },
  };
  return {
    transport,
    clock,
    phoneWrites: (text) => double.phoneWrites(text),
    personWrites: (text) => double.personWrites(alice, text),
    groupWrites: (text) => double.personWrites(alice, text, { groupId }),
    personSendsFile(bytes) {
      double.addFile("f1.bin", Buffer.from(bytes).toString("base64"));
      const attachments = [{ contentType: "image/png", filename: "a.png", id: "f1.bin", size: bytes.length }];
      double.personWrites(alice, null, { extra: { attachments } });
    },
    seen: () => double.sent(),
    readMarks: () => double.readMarks(),
    parked: () => double.parked(),
    cut: () => double.stop(),
    mend: () => double.start(),
    unlink: () => double.unlink(),
    loseAnswer: () => double.fail("send", "lost"),
    refuse: (code) => double.fail("send", { status: 400, body: JSON.stringify({ error: report(results[code]) }) }),
    async close() {
      await double.stop();
      await transport.disconnect();
      expect(double.violations()).toEqual([]);
      // Two calls for one number would have met at the lock.
      expect(double.waitingMax()).toBeLessThanOrEqual(1);
    },
  };
};

transportContract("rest up to release 0.100", harness(false));
transportContract("rest of the development version", harness(true));
