/** How the line ends, and how it is known to be alive. */
import { afterEach, expect, test } from "bun:test";
import { type Clock, systemClock } from "../../src/clock.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { startRefusingHost } from "../doubles/signal-http2.ts";
import { failureOf, never, openNativeDatabase, type Rig, serviceOf, startRig } from "./mock.ts";

let rig: Rig;
afterEach(() => rig?.stop());

const at = 1_795_000_000_000;

/** The server's end of our connection. */
type ServerSocket = {
  close(code: number): void;
  ws: { terminate(): void };
  handleRequest(request: { path: string }): Promise<unknown>;
};
function serverSocket(): ServerSocket {
  const sockets = rig.mock.server["webSockets"] as unknown as Map<unknown, ServerSocket>;
  const socket = sockets.get(rig.device);
  if (socket === undefined) throw new Error("no connection at the server");
  return socket;
}

/** Polls until the line is lost. */
const lossOf = () => failureOf(rig.expect(1, "text"));

for (const [code, expected] of [
  [4409, "replaced"],
  [4401, "signal_unreachable"],
  [1000, "signal_unreachable"],
] as const) {
  test(`a line closed with ${code} is ${expected}, and can be opened again`, async () => {
    rig = await startRig();
    serverSocket().close(code);
    expect(await lossOf()).toMatchObject({ code: expected });
    await rig.transport.connect(never);
    await rig.receive(rig.contact.sendText(rig.device, "back", { timestamp: at }));
  });
}

test("a line that breaks off is noticed", async () => {
  rig = await startRig();
  serverSocket().ws.terminate();
  expect(await lossOf()).toMatchObject({ code: "signal_unreachable" });
  expect(await failureOf(rig.send(rig.direct, "no one is connected", at))).toMatchObject({
    code: "signal_unreachable",
  });
});

test("a second connection with our credentials replaces the first", async () => {
  rig = await startRig();
  const second = createNative(rig.deps);
  await second.connect(never);
  expect(await lossOf()).toMatchObject({ code: "replaced" });
  await second.disconnect();
});

test("a lost answer to a send is uncertain, and the repetition has the same timestamp", async () => {
  rig = await startRig();
  await rig.receive(rig.contact.sendText(rig.device, "hello", { timestamp: at }));
  const socket = serverSocket();
  const original = socket.handleRequest.bind(socket);
  socket.handleRequest = async (request) => {
    const response = await original(request);
    if (request.path.startsWith("/v1/messages/")) socket.ws.terminate();
    return response;
  };
  expect(await failureOf(rig.send(rig.direct, "twice", at + 1))).toMatchObject({ code: "send_uncertain" });
  await lossOf();
  await rig.transport.connect(never);
  await rig.send(rig.direct, "twice", at + 1);
  const copies = [await rig.contact.waitForMessage(), await rig.contact.waitForMessage()];
  expect(copies.map(({ dataMessage }) => Number(dataMessage.timestamp))).toEqual([at + 1, at + 1]);
});

test("while nothing comes the server is asked every 30 seconds, and only its answer is proof", async () => {
  let now = 0;
  // Only the wait of a receive passes at once.
  const sleep: Clock["sleep"] = async (ms, signal) => (ms === 0 ? undefined : systemClock.sleep(ms, signal));
  const clock: Clock = { ...systemClock, monotonic: () => now, sleep };
  rig = await startRig();
  const transport = createNative({ ...rig.deps, clock });
  await rig.transport.disconnect();
  await transport.connect(never);
  await transport.settled();
  const quiet = async () => {
    for (;;) {
      const batch = await transport.receive(0, never);
      if (batch.persist === null) return batch.isProof;
      rig.database.transaction(() => batch.persist?.());
      await transport.ack(batch, true);
    }
  };
  await quiet();
  now += 29_000;
  expect(await quiet()).toBe(false);
  now += 2_000;
  expect(await quiet()).toBe(true);
  expect(await quiet()).toBe(false);
  await transport.disconnect();
});

test("an aborted receive gives an empty batch that proves nothing", async () => {
  rig = await startRig();
  const abort = new AbortController();
  const receiving = rig.transport.receive(60_000, AbortSignal.any([abort.signal]));
  abort.abort();
  const batch = await receiving;
  expect(batch.isProof).toBe(false);
  await rig.transport.ack(batch, true);
});

test("only one may receive at a time", async () => {
  rig = await startRig();
  const abort = new AbortController();
  const first = rig.transport.receive(60_000, abort.signal);
  expect(await failureOf(rig.transport.receive(0, never))).toMatchObject({ code: "already_receiving" });
  abort.abort();
  await rig.transport.ack(await first, true);
});

test("without a linked account there is nothing to connect", async () => {
  rig = await startRig();
  const transport = createNative({ ...rig.deps, database: await openNativeDatabase() });
  expect(await failureOf(transport.connect(never))).toMatchObject({ code: "not_linked" });
});

test("a refused connect says why: unlinked, outdated, or how long to wait", async () => {
  rig = await startRig();
  const host = await startRefusingHost();
  const { port } = host;
  const service = await serviceOf({
    ...rig.mock,
    writeService: async (path) => {
      const file = { ...rig.mock.service, chat: { ...rig.mock.service.chat, port } };
      await Bun.write(path, JSON.stringify(file));
      return path;
    },
  });
  const codes = [];
  for (const answer of [{ status: 403 }, { status: 499 }, { status: 429, retryAfterSeconds: 7 }]) {
    host.answer = answer;
    const failure = await failureOf(createNative({ ...rig.deps, service }).connect(never));
    const { code, retryAfterMs } = failure as { code: string; retryAfterMs: number | null };
    codes.push([code, retryAfterMs]);
  }
  await host.stop();
  expect(codes).toEqual([
    ["unlinked", null],
    ["outdated", null],
    ["signal_rate_limited", 7_000],
  ]);
});

test("a port without a listener is unreachable", async () => {
  rig = await startRig();
  await rig.transport.disconnect();
  await rig.mock.server.close();
  expect(await failureOf(rig.transport.connect(never))).toMatchObject({ code: "signal_unreachable" });
  rig = { ...rig, stop: async () => rig.database.close() };
});
