import { expect, test } from "bun:test";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import { createConnectionLoop } from "../../src/loops/connector.ts";
import { runUntil } from "../doubles/clock.ts";
import { openBench } from "../sim/bench.ts";

test("a fault of the line is a line of the log when it changes, and once an hour while it stays; the tries are for debug", async () => {
  await using bench = await openBench();
  const { clock } = bench;
  const lines: string[] = [];
  const halted: string[] = [];
  const say =
    (level: string) =>
    (_: string, fields: { readonly state?: string; readonly code?: string } = {}) =>
      void (level === "debug" || lines.push([level, fields.state, fields.code].filter(Boolean).join(" ")));
  let code: ErrorCode | null = "signal_unreachable";
  let tries = 0;
  const loop = createConnectionLoop(
    {
      config: { limits: { staleAfterMs: 90_000, stableAfterMs: 30_000, drainMs: 10_000 } },
      clock,
      random: () => 0.5,
      transport: {
        isLocal: true,
        connect: async () => {
          tries++;
          if (code !== null) throw new BridgeError(code, "Cannot connect");
          return { aci: null, number: "+15550100001", deviceId: 2 };
        },
        disconnect: async () => undefined,
      },
      log: { debug: say("debug"), info: say("info"), warn: say("warn"), error: say("error") },
      notices: { emit: () => undefined },
    } as unknown as Parameters<typeof createConnectionLoop>[0],
    {
      receive: () => new Promise(() => undefined),
      sync: async () => undefined,
      resume: () => undefined,
      onBug: (error) => void lines.push(String(error)),
      onHalted: ({ code }) => void halted.push(code),
    },
  );
  loop.dispatch({ type: "start" });
  await runUntil(clock, () => false, 2.5 * 3_600_000);
  expect(tries).toBeGreaterThan(1_000);
  expect(lines).toEqual([
    "info RECONNECTING",
    ...Array.from({ length: 3 }, () => "warn DISCONNECTED signal_unreachable"),
  ]);
  lines.length = 0;
  code = "json_rpc_mode";
  await runUntil(clock, () => lines.length > 0, 60_000);
  expect(lines).toEqual(["warn DISCONNECTED json_rpc_mode"]);
  expect(halted).toEqual(["json_rpc_mode"]);
  code = null;
  loop.dispatch({ type: "reconnect" });
  await runUntil(clock, () => loop.state().name === "SYNCING", 60_000);
  loop.dispatch({ type: "proof" });
  await runUntil(clock, () => loop.state().name === "CONNECTED", 60_000);
  expect(lines.slice(1)).toEqual(["info SYNCING", "info CONNECTED"]);
  loop.dispatch({ type: "stop" });
});

test("a device that is not linked any more ends the process with code 3: a service is not started over and over", async () => {
  await using bench = await openBench();
  const daemon = bench.daemon();
  const codes: number[] = [];
  void daemon.finished.then((code) => codes.push(code));
  const connect = async (): Promise<never> => {
    throw new BridgeError("not_linked", "Cannot connect");
  };
  Object.assign(daemon.transport, { connect });
  daemon.reconnect();
  await bench.until("the process ends", () => codes.length > 0);
  expect(codes).toEqual([3]);
});

test("/status names what keeps Claude, and /model lists what the key may use, once a sync has asked", async () => {
  await using bench = await openBench();
  const { owner } = bench.signal;
  owner.write("/model");
  await bench.until("the list is there", () => bench.texts().some((text) => /Others:\n1\. \S/u.test(text)));
  owner.write("/status");
  await bench.until("all is well", () => bench.texts().some((text) => text.startsWith("✅")));
  bench.claude().setDown(true);
  owner.write("hello");
  await bench.pass(1_000);
  owner.write("/status");
  await bench.until("it is said", () => bench.texts().some((text) => /^⚠️ .*Claude/u.test(text)));
});
