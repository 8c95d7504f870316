import { expect } from "bun:test";
import { createSignalCli } from "../../src/signal/daemon/signal-cli.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { startSignalCliDouble } from "../doubles/signal-cli.ts";
import { alice, groupId, me } from "../doubles/wire.ts";
import type { TransportHarness } from "./transport.ts";
import { transportContract } from "./transport.ts";

const harness = (mode: "multi" | "single") => async (): Promise<TransportHarness> => {
  const clock = createVirtualClock();
  const double = await startSignalCliDouble({ clock, mode });
  const transport = createSignalCli({ baseUrl: double.url, account: me.number, clock, log: quietLog });
  const results = {
    signal_rate_limited: { type: "RATE_LIMIT_FAILURE", retryAfterSeconds: 37 },
    captcha: { type: "RATE_LIMIT_FAILURE", token: "0f6d1a9e-3b5c-4d7e-8f90-a1b2c3d4e5f6", retryAfterSeconds: 86_400 },
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
    refuse: (code) => double.fail("send", { results: [results[code]] }),
    async close() {
      await double.stop();
      await transport.disconnect();
      expect(double.violations()).toEqual([]);
    },
  };
};

transportContract("signal-cli serving several accounts", harness("multi"));
