import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { BridgeError } from "../../../src/core/errors.ts";
import { classify } from "../../../src/core/inbound.ts";
import type { Chat, Envelope, Outbound, OutboundBody } from "../../../src/core/model.ts";
import { createSignalCli } from "../../../src/signal/daemon/signal-cli.ts";
import { codeOf, faultOf } from "../../contract/transport.ts";
import { createVirtualClock } from "../../doubles/clock.ts";
import { createHeardLog, quietLog } from "../../doubles/quiet-log.ts";
import type { SignalCliDoubleOptions } from "../../doubles/signal-cli.ts";
import { startSignalCliDouble } from "../../doubles/signal-cli.ts";
import { alice, createWriter, groupId, me } from "../../doubles/wire.ts";

const never = new AbortController().signal;
const self: Chat = { kind: "self" };
const direct: Chat = { kind: "direct", peer: { aci: alice.aci, number: alice.number } };
const group: Chat = { kind: "group", id: groupId };
const body = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });
const hello = (chat: Chat = direct): Outbound => ({ chat, timestamp: 1_786_953_700_000, body: body("hello") });

type Exchange = {
  readonly request: { readonly body: { readonly params: Readonly<Record<string, unknown>> } };
  readonly response: {
    readonly body: {
      readonly result?: unknown;
      readonly error?: { readonly code: number; readonly message: string; readonly data: unknown };
    };
  };
};
const load = (name: string): Exchange[] =>
  [
    JSON.parse(readFileSync(new URL(`../../fixtures/signal/${name}`, import.meta.url), "utf8")) as
      | Exchange
      | Exchange[],
  ].flat();

const endings: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0)) await end();
});

async function setup(options: SignalCliDoubleOptions & { account?: string | null; log?: typeof quietLog } = {}) {
  const clock = createVirtualClock(1_786_953_600_000);
  const double = await startSignalCliDouble({ clock, ...options });
  const account = options.account === undefined ? me.number : options.account;
  const transport = createSignalCli({ baseUrl: double.url, account, clock, log: options.log ?? quietLog });
  endings.push(async () => {
    await double.stop();
    await transport.disconnect();
    expect(double.violations()).toEqual([]);
  });
  const receive = async () => {
    const batch = await transport.receive(20_000, never);
    await transport.ack(batch, true);
    return batch;
  };
  return { clock, double, transport, receive };
}

async function connected(options: Parameters<typeof setup>[0] = {}) {
  const stage = await setup(options);
  await stage.transport.connect(never);
  return stage;
}

describe("choosing the account", () => {
  test("a daemon of one account serves without the account parameter", async () => {
    const { double, transport, receive } = await setup({ mode: "single" });
    expect(await transport.connect(never)).toEqual({ aci: me.aci, number: me.number, deviceId: null });
    double.phoneWrites("hi");
    expect((await receive()).envelopes).toMatchObject([{ chat: self }]);
    await transport.send(hello(self));
    expect(double.sent()).toHaveLength(1);
  });

  test.each([me.number, null])(
    "where nothing names the account, the first message does: a mention in it counts",
    async (number) => {
      const { double, transport, receive } = await setup({ mode: "single", account: null });
      const account = await transport.connect(never);
      expect(account).toEqual({ aci: null, number: null, deviceId: null });
      const mentions = [{ name: me.aci, number, uuid: me.aci, start: 0, length: 1 }];
      double.personWrites(alice, "\u{FFFC} hello", { groupId, extra: { mentions } });
      const [envelope] = (await receive()).envelopes;
      expect(account).toMatchObject({ aci: me.aci, number: me.number });
      const allow = [{ kind: "group", id: groupId }] as const;
      const options = { account, allow, questions: [], isGroupAlways: false };
      expect(envelope && classify(envelope, options)).toMatchObject({ kind: "prompt" });
      expect(await transport.connect(never)).toMatchObject({ aci: me.aci, number: me.number });
    },
  );

  test("without a setting the only account is taken", async () => {
    const { transport } = await setup({ account: null });
    expect(await transport.connect(never)).toMatchObject({ number: me.number });
  });

  test.each([
    ["several accounts need a setting", [me, alice], null, "rejected"],
    ["no account has to be linked", [], null, "not_linked"],
    ["an unknown account is refused", [alice], me.number, "rejected"],
  ] as const)("%s", async (_, accounts, account, code) => {
    const { transport } = await setup({ accounts, account });
    expect(await codeOf(transport.connect(never))).toBe(code);
  });

  test("an account that cannot be loaded now is tried again", async () => {
    const { double, transport } = await setup();
    double.fail("listContacts", { error: { code: -32602, message: "Failed to load the given account" } });
    expect(await codeOf(transport.connect(never))).toBe("signal_unreachable");
    expect(await transport.connect(never)).toMatchObject({ number: me.number });
  });

  test.each(["contacts", "identities", "directory"] as const)("our own ACI is told by the %s", async (tellsOwnAci) => {
    const { transport } = await setup({ tellsOwnAci });
    expect(await transport.connect(never)).toMatchObject({ aci: me.aci });
  });

  test("a directory that refuses keeps nothing from beginning", async () => {
    const { double, transport } = await setup({ tellsOwnAci: "directory" });
    double.fail("getUserStatus", { error: { code: -32602, message: "Failed" } });
    expect(await transport.connect(never)).toMatchObject({ number: me.number, aci: null });
    expect(await transport.connect(never)).toMatchObject({ aci: me.aci });
  });

  test("or it is learnt from the first sync message and kept", async () => {
    const { double, transport, receive } = await setup({ tellsOwnAci: "never" });
    expect(await transport.connect(never)).toMatchObject({ aci: null });
    double.personWrites(alice, "not mine");
    await receive();
    expect(await transport.connect(never)).toMatchObject({ aci: null });
    double.phoneWrites("note");
    await receive();
    expect(await transport.connect(never)).toMatchObject({ aci: me.aci });
  });

  test("what Signal's clock said with a message tells how far ours is off; the way of a message is no such thing", async () => {
    const { clock, double } = await setup();
    for (const [offMs, told] of [
      [30_000, 0],
      [-7_200_000, -7_200_000],
      [600_000, 600_000],
    ] as const) {
      const own = { ...clock, now: () => clock.now() + offMs };
      const transport = createSignalCli({ baseUrl: double.url, account: me.number, clock: own, log: quietLog });
      await transport.connect(never);
      expect(transport.skewMs?.()).toBe(0);
      double.personWrites(alice, "now");
      await transport.ack(await transport.receive(20_000, never), true);
      expect(Math.abs((transport.skewMs?.() ?? 0) - told)).toBeLessThan(1_000);
      await transport.disconnect();
    }
  });

  test("a message that waited in the daemon makes no clock seem ahead while others say that it is right", async () => {
    const { clock, double } = await setup();
    let waitedMs = 0;
    const own = { ...clock, now: () => clock.now() + waitedMs };
    const transport = createSignalCli({ baseUrl: double.url, account: me.number, clock: own, log: quietLog });
    await transport.connect(never);
    for (waitedMs of [0, 3_600_000]) {
      double.personWrites(alice, "hello");
      await transport.ack(await transport.receive(20_000, never), true);
      expect(transport.skewMs?.()).toBe(0);
    }
    await transport.disconnect();
  });

  test("connections are used again, but for sends and polls", async () => {
    const { double, transport } = await connected();
    for (const isTyping of [true, false, true]) await transport.typing(direct, isTyping);
    expect({ calls: double.calls().length, connections: double.connections() }).toEqual({ calls: 6, connections: 1 });
    await transport.send(hello());
    await transport.send(hello());
    expect(double.connections()).toBe(3);
  });

  test("a daemon that does not answer to its name says what to do", async () => {
    const { double } = await setup();
    const clock = createVirtualClock(1_786_953_600_000);
    // The name is one that the daemon was not started with, as behind a container's.
    const throughName = (url: string, init: RequestInit) =>
      fetch(url, { ...init, headers: { ...(init.headers as Record<string, string>), Host: "signal-cli:8080" } });
    const named = createSignalCli({ baseUrl: double.url, account: null, clock, log: quietLog, fetch: throughName });
    const fault = await faultOf(named.connect(never));
    expect(fault.message).toContain("does not answer to the name");
    expect(fault.hint).toContain("--http");
  });

  test("only loopback is local", () => {
    const at = (baseUrl: string) =>
      createSignalCli({ baseUrl, account: null, clock: createVirtualClock(1_786_953_600_000), log: quietLog }).isLocal;
    expect(["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"].map(at)).toEqual([true, true, true]);
    expect(["http://192.0.2.7:1", "https://signal.example/", "http://127.example/"].map(at)).toEqual([
      false,
      false,
      false,
    ]);
    expect(() => at("ftp://x")).toThrow(BridgeError);
    expect(() => at("nonsense")).toThrow(BridgeError);
  });
});

describe("receiving", () => {
  test("one envelope per poll, larger batches in a backlog, then one again", async () => {
    const { clock, double, receive } = await connected();
    for (let index = 0; index < 12; index++) double.phoneWrites(`message ${index}`);
    const sizes: number[] = [];
    for (let count = 0; count < 12; count += sizes.at(-1) ?? 0) {
      const receiving = receive();
      if (count + 4 > 12 - 3) void double.parked().then(() => clock.advance(1000));
      sizes.push((await receiving).envelopes.length);
    }
    expect(sizes).toEqual([1, 1, 1, 2, 4, 3]);
    double.phoneWrites("later");
    await receive();
    const polls = double.calls().filter(({ method }) => method === "receive");
    expect(polls.at(-1)?.params).toMatchObject({ maxMessages: 1, timeout: 20 });
    expect(polls.at(-2)?.params).toMatchObject({ maxMessages: 8, timeout: 0.1 });
  });

  test("what waits is all handed over before a poll counts as proof; a single message in a quiet time is one", async () => {
    const { clock, double, receive } = await connected();
    const next = async (isPatient: boolean) => {
      const receiving = receive();
      if (isPatient) void double.parked().then(() => clock.advance(1000));
      const { envelopes, isProof } = await receiving;
      return [envelopes.length, isProof];
    };
    for (let index = 0; index < 4; index++) double.phoneWrites(`message ${index}`);
    const polls = [await next(false), await next(false), await next(false), await next(true)];
    expect(polls).toEqual([
      [1, false],
      [1, false],
      [1, false],
      [1, true],
    ]);
    const receiving = receive();
    await double.parked();
    await clock.advance(3000);
    double.phoneWrites("later");
    expect((await receiving).isProof).toBe(true);
  });

  test("a flood is proof all the same", async () => {
    const { double, receive } = await connected();
    for (let index = 0; index < 60; index++) double.phoneWrites(`message ${index}`);
    const proofs: boolean[] = [];
    for (let count = 0; count < 49;) {
      const { envelopes, isProof } = await receive();
      count += envelopes.length;
      proofs.push(isProof);
    }
    expect(proofs).toEqual([false, false, false, false, false, false, true, true]);
  });

  test("the silence that ends a batch is four times what the poll before took", async () => {
    const { clock, double, receive } = await connected();
    const slowly = async (count: number, ms: number): Promise<void> => {
      const receiving = receive();
      await double.parked();
      await clock.advance(ms);
      for (let index = 0; index < count; index++) double.phoneWrites("x");
      await receiving;
    };
    for (const [count, ms] of [
      [1, 50],
      [1, 50],
      [1, 50],
      [2, 90],
    ] as const)
      await slowly(count, ms);
    double.phoneWrites("x");
    const last = receive();
    await clock.step(360);
    expect((await last).envelopes).toHaveLength(1);
    const timeouts = double.calls().flatMap(({ method, params }) => (method === "receive" ? [params["timeout"]] : []));
    expect(timeouts).toEqual([20, 20, 20, 0.2, 0.36]);
  });

  test("an empty answer that comes at once is not asked for again at once", async () => {
    const { clock, double, transport } = await connected();
    double.fail("receive", { result: [] });
    const receiving = transport.receive(5000, never);
    await clock.step(100);
    expect((await receiving).envelopes).toEqual([]);
    expect(clock.monotonic()).toBe(100);
  });

  test("a poll whose answer never comes does not keep the next connection from receiving", async () => {
    const { clock, double, transport, receive } = await connected();
    double.fail("receive", "hang");
    const receiving = codeOf(transport.receive(20_000, never));
    while ((await double.nextCall()).method !== "receive");
    await clock.advance(81_000);
    expect(await receiving).toBe("signal_timeout");
    await transport.connect(never);
    double.phoneWrites("a new day");
    expect((await receive()).envelopes).toMatchObject([{ content: { text: "a new day" } }]);
  });

  test("aborting does not cut a poll: what it brings is handed out", async () => {
    const { double, transport } = await connected();
    const stop = new AbortController();
    const receiving = transport.receive(20_000, stop.signal);
    await double.parked();
    stop.abort();
    double.phoneWrites("just in time");
    expect((await receiving).envelopes).toHaveLength(1);
    expect(double.dropped()).toEqual([]);
  });

  test("a poll that hangs while the daemon is offline is taken over after the reconnect, and loses nothing", async () => {
    const { clock, double, transport, receive } = await connected();
    const receiving = codeOf(transport.receive(20_000, never));
    await double.parked();
    double.stall();
    await clock.advance(90_000);
    expect(await receiving).toBe("signal_timeout");
    await transport.connect(never);
    double.phoneWrites("written meanwhile");
    double.resume();
    const { envelopes } = await receive();
    expect(envelopes).toMatchObject([{ content: { text: "written meanwhile" } }]);
    expect(double.dropped()).toEqual([]);
  });

  test("a poll that broke while no call waited for it does not spoil the next connection", async () => {
    const { clock, double, transport, receive } = await connected();
    double.fail("receive", "hang");
    const receiving = codeOf(transport.receive(20_000, never));
    while ((await double.nextCall()).method !== "receive");
    await clock.advance(81_000);
    expect(await receiving).toBe("signal_timeout");
    await double.stop();
    expect(await codeOf(transport.connect(never))).toBe("signal_unreachable");
    await double.start();
    await transport.connect(never);
    double.phoneWrites("a new day");
    expect((await receive()).envelopes).toHaveLength(1);
  });

  test("after another client vanished in its poll, the account is busy for a while", async () => {
    const { clock, double, transport } = await connected();
    const stop = new AbortController();
    const rpc = JSON.stringify({ jsonrpc: "2.0", method: "receive", params: { timeout: 5 }, id: 1 });
    const headers = { "Content-Type": "application/json", Connection: "close" };
    const orphan = fetch(`${double.url}/api/v1/rpc`, { method: "POST", body: rpc, headers, signal: stop.signal });
    await double.parked();
    stop.abort();
    await orphan.catch(() => {});
    expect(await codeOf(transport.receive(1000, never))).toBe("already_receiving");
    await clock.advance(5000);
    double.phoneWrites("free again");
    expect((await transport.receive(1000, never)).envelopes).toHaveLength(1);
  });

  test.each([
    ["500", { status: 500 }, "signal_protocol"],
    ["502 of a proxy", { status: 502 }, "signal_unreachable"],
    ["404", { status: 404 }, "signal_protocol"],
    ["429", { status: 429, headers: { "Retry-After": "7" } }, "signal_rate_limited"],
    ["garbage", "garbage", "signal_protocol"],
    ["a cut", "cut", "signal_unreachable"],
    ["a lost login", { error: { code: -32602, message: "Specified account does not exist" } }, "rejected"],
    ["a failed network", { error: { code: -3, message: "Error while receiving messages: x" } }, "signal_unreachable"],
    ["a changed mode", { error: { code: -32600, message: 'Unrecognized field "account"' } }, "signal_protocol"],
  ] as const)("%s is a typed fault", async (_, fault, code) => {
    const { double, transport } = await connected();
    double.fail("receive", fault);
    double.phoneWrites("something to answer with");
    const error = await faultOf(transport.receive(1000, never));
    expect(error.code).toBe(code);
    expect(error.message).toStartWith("Cannot receive as ");
    if (code === "signal_rate_limited") expect(error.retryAfterMs).toBe(7000);
  });

  test("an answer that is cut off still gives the messages that came whole", async () => {
    const log = createHeardLog();
    const clock = createVirtualClock(1_786_953_600_000);
    const double = await startSignalCliDouble({ clock });
    endings.push(() => double.stop());
    const writer = createWriter(clock, me);
    const [whole, half] = [writer.own("secret 1"), writer.own("secret 2")].map(({ wire }) => JSON.stringify(wire));
    const cutAnswer = `{"jsonrpc":"2.0","result":[${whole},${half?.slice(0, -20)}`;
    let isCutting = false;
    const transport = createSignalCli({
      baseUrl: double.url,
      account: me.number,
      clock,
      log,
      async fetch(url, init) {
        if (!isCutting) return fetch(url, init);
        return new Response(
          new ReadableStream<Uint8Array>({
            pull(controller) {
              if (!isCutting) return controller.error(new Error("ECONNRESET"));
              isCutting = false;
              controller.enqueue(new TextEncoder().encode(cutAnswer));
            },
          }),
        );
      },
    });
    await transport.connect(never);
    isCutting = true;
    const { envelopes, isProof } = await transport.receive(1000, never);
    expect(envelopes).toMatchObject([{ content: { text: "secret 1" } }]);
    expect(isProof).toBe(false);
    expect(log.lines()).toEqual(['warn an answer of signal-cli came damaged {"salvaged":1,"lost":1}']);
  });

  test("a hung daemon is noticed", async () => {
    const { clock, double, transport } = await connected();
    double.fail("receive", "hang");
    const receiving = codeOf(transport.receive(20_000, never));
    await double.nextCall();
    while (double.calls().at(-1)?.method !== "receive") await double.nextCall();
    await clock.advance(81_000);
    expect(await receiving).toBe("signal_timeout");
  });
});

describe("sending", () => {
  test.each([
    ["NETWORK_FAILURE", "send_uncertain"],
    ["INVALID_PRE_KEY_FAILURE", "send_rejected"],
    ["IDENTITY_FAILURE", "untrusted_identity"],
    ["UNREGISTERED_FAILURE", "unregistered"],
    ["SOMETHING_NEW", "send_rejected"],
  ] as const)("%s is %s", async (type, code) => {
    const { double, transport } = await connected();
    double.fail("send", { results: [{ type }] });
    expect(await codeOf(transport.send(hello()))).toBe(code);
  });

  test("a captcha that one member of a group met is answered like any other", async () => {
    const { double, transport } = await connected();
    const asked = { type: "PROOF_REQUIRED", recipientAddress: { uuid: alice.aci, number: null }, token: "0f6d1a9e" };
    double.fail("send", { results: [{ type: "SUCCESS" }, asked] });
    const failed = [{ recipient: alice.aci, code: "captcha", challenge: "0f6d1a9e" }];
    expect((await transport.send(hello(group))).failed).toEqual(failed as never);
    await transport.answerChallenge?.("signalcaptcha://solved");
    expect(double.calls().at(-1)).toMatchObject({ params: { challenge: "0f6d1a9e" } });
  });

  test("a rate limit says how long, and pauses its recipient alone; a captcha says how to go on", async () => {
    const { double, transport } = await connected();
    double.fail("send", { results: [{ type: "RATE_LIMIT_FAILURE", retryAfterSeconds: 37 }] });
    const limit = { code: "signal_rate_limited", scope: "recipient" };
    expect(await faultOf(transport.send(hello()))).toMatchObject({ ...limit, retryAfterMs: 37_000 });
    double.fail("send", {
      error: { code: -5, message: "Rate limit reached\nNext attempt may be tomorrow", data: null },
    });
    expect(await faultOf(transport.send(hello()))).toMatchObject(limit);
    double.fail("send", { results: [{ type: "RATE_LIMIT_FAILURE", token: "0f6d1a9e", retryAfterSeconds: -1 }] });
    const captcha = await faultOf(transport.send(hello()));
    expect(captcha).toMatchObject({ code: "captcha", retryAfterMs: null, scope: "account" });
    expect(captcha).toMatchObject({ challenge: "0f6d1a9e", hint: expect.stringContaining("reconnect --captcha") });
    await transport.answerChallenge?.("signalcaptcha://solved");
    expect(double.calls().at(-1)).toMatchObject({
      method: "submitRateLimitChallenge",
      params: { challenge: "0f6d1a9e", captcha: "signalcaptcha://solved" },
    });
    expect(await faultOf(transport.answerChallenge?.("again") ?? Promise.resolve())).toMatchObject({
      code: "send_rejected",
    });
  });

  test("a captcha that Signal does not take can be tried again", async () => {
    const { double, transport } = await connected();
    double.fail("send", { results: [{ type: "RATE_LIMIT_FAILURE", token: "0f6d1a9e" }] });
    expect(await codeOf(transport.send(hello()))).toBe("captcha");
    const { error } = load("rpc-submit-rate-limit-challenge.json")[1]?.response.body ?? {};
    if (!error) throw new Error("expected an error");
    double.fail("submitRateLimitChallenge", { error });
    expect(await codeOf(transport.answerChallenge?.("stale") ?? Promise.resolve())).toBe("send_rejected");
    await transport.answerChallenge?.("signalcaptcha://solved");
  });

  test("a group counts as sent when one member got it; the others are told", async () => {
    const { double, transport } = await connected();
    const recipientAddress = { uuid: alice.aci, number: alice.number };
    double.fail("send", {
      results: [{ type: "SUCCESS" }, { type: "IDENTITY_FAILURE", recipientAddress }],
    });
    const { failed } = await transport.send(hello(group));
    expect(failed).toEqual([{ recipient: alice.aci, code: "untrusted_identity" }]);
  });

  test("a group of which no member got it is tried again if that can help one of them", async () => {
    const { double, transport } = await connected();
    double.fail("send", { results: [{ type: "UNREGISTERED_FAILURE" }, { type: "NETWORK_FAILURE" }] });
    expect(await codeOf(transport.send(hello(group)))).toBe("send_uncertain");
    double.fail("send", { results: [] });
    expect((await transport.send(hello(group))).failed).toEqual([]);
  });

  test.each([
    ["garbage", "garbage", "send_uncertain"],
    ["a truncated answer", "truncated", "send_uncertain"],
    ["a cut connection", "cut", "send_uncertain"],
    ["500", { status: 500 }, "send_uncertain"],
    ["421, which is decided before the body is read", { status: 421 }, "signal_unreachable"],
    ["429 of a proxy", { status: 429 }, "signal_rate_limited"],
    ["a failed network", { error: { code: -3, message: "Failed: closed" } }, "send_uncertain"],
    ["an IOException", { error: { code: -32603, message: "Failed: closed (IOException)" } }, "send_uncertain"],
    ["a bad file", { error: { code: -32603, message: "a.png (AttachmentInvalidException)" } }, "send_rejected"],
    ["a lost login", { error: { code: -32602, message: "Specified account does not exist" } }, "rejected"],
    ["exhausted discovery", { error: { code: -5, message: "Rate limit reached" } }, "signal_rate_limited"],
  ] as const)("%s is a typed fault", async (_, fault, code) => {
    const { double, transport } = await connected();
    double.fail("send", fault);
    expect(await codeOf(transport.send(hello()))).toBe(code);
  });

  test("a success counts by its timestamp, listed recipients or not", async () => {
    const { double, transport } = await connected();
    double.fail("send", { result: { timestamp: 1_786_953_653_000 } });
    expect(await transport.send(hello())).toEqual({ timestamp: 1_786_953_653_000, failed: [] });
    double.fail("send", { result: {} });
    expect(await codeOf(transport.send(hello()))).toBe("send_uncertain");
  });

  test("a send that hangs is uncertain in the end", async () => {
    const { clock, double, transport } = await connected();
    double.fail("send", "hang");
    const sending = codeOf(transport.send(hello()));
    while ((await double.nextCall()).method !== "send");
    await clock.advance(121_000);
    expect(await sending).toBe("send_uncertain");
  });

  test("what signal-cli says about people does not get into messages", async () => {
    const { double, transport } = await connected();
    double.fail("send", { error: { code: -1, message: `The user ${alice.number} (${alice.aci}) is not there` } });
    const { message } = await faultOf(transport.send(hello()));
    expect(message).toBe("Cannot send as signal-cli answered -1: The user …02 (b1a6…) is not there");
  });

  test("files go as data URIs, whatever their name and type", async () => {
    const { double, transport } = await connected();
    const files = [
      { fileName: "a b;c,d+é.png", contentType: "image/png", base64: "AQID" },
      { fileName: "x", contentType: "text/plain; charset=utf-8", base64: "AQID" },
    ];
    await transport.send({ ...hello(), body: { kind: "text", text: "", styles: [], quote: null, files } });
    expect(double.sent()[0]?.files).toMatchObject([
      { fileName: "a b;c,d+é.png", contentType: "image/png" },
      { fileName: "x", contentType: "application/octet-stream" },
    ]);
    const tooLarge = [{ fileName: "x", contentType: "image/png", base64: "A".repeat(20_000_000) }];
    const message: Outbound = {
      ...hello(),
      body: { kind: "text", text: "", styles: [], quote: null, files: tooLarge },
    };
    expect(await codeOf(transport.send(message))).toBe("send_rejected");
  });

  test("ranges outside of the text, and quotes that signal-cli cannot read, are left out", async () => {
    const { double, transport } = await connected();
    const quote = { sentAt: 5, author: { aci: alice.aci, number: null }, text: null };
    const styles = [
      { start: 0, length: 2, style: "BOLD" },
      { start: 3, length: 9, style: "BOLD" },
    ] as const;
    await transport.send({ ...hello(), body: { kind: "text", text: "hello", styles, quote, files: [] } });
    expect(double.sent()[0]).toMatchObject({ styles: [styles[0]], quoteSentAt: null });
  });

  test("typing starts and stops in chats with others", async () => {
    const { double, transport } = await connected();
    await transport.typing(direct, true);
    await transport.typing(group, false);
    await transport.typing(self, true);
    expect(double.typing()).toEqual([
      { target: [alice.aci], isTyping: true },
      { target: groupId, isTyping: false },
    ]);
  });
});

describe("the requests of the fixtures", () => {
  const number = { kind: "direct", peer: { aci: null, number: "+15550100002" } } as const;
  const bold = { start: 11, length: 5, style: "BOLD" } as const;

  test.each([
    ["rpc-send-direct-success.json", number, { ...body("Done ✅ see notes"), styles: [bold] }],
    ["rpc-send-note-to-self.json", self, body("reminder")],
    ["rpc-send-group-partial-failure.json", group, body("meeting at 18:00")],
  ] as const)("%s is what we send", async (name, chat, said) => {
    const { double, transport } = await connected();
    await transport.send({ chat, timestamp: 1_786_953_700_000, body: said });
    expect(double.calls().at(-1)?.params).toEqual(load(name)[0]?.request.body.params ?? {});
  });

  test.each([
    ["rpc-send-untrusted-identity.json", ["untrusted_identity"]],
    ["rpc-send-rate-limit-proof-required.json", ["captcha"]],
    ["rpc-send-unregistered.json", ["unregistered"]],
    [
      "rpc-send-user-errors.json",
      ["send_rejected", "send_rejected", "send_rejected", "send_rejected", "send_rejected", "rejected"],
    ],
  ] as const)("the answers of %s are understood", async (name, codes) => {
    const { double, transport } = await connected();
    for (const [index, { response }] of load(name).entries()) {
      const { code = 0, message = "", data } = response.body.error ?? {};
      double.fail("send", { error: { code, message, data } });
      expect(await codeOf(transport.send(hello()))).toBe(codes[index] ?? "internal");
    }
  });
});

test("one sender, one millisecond, two chats and two texts: all of them are handed out", async () => {
  const { double, receive } = await connected();
  const writer = createWriter({ ...createVirtualClock(1_786_953_600_000), now: () => 5 }, me);
  const wires = [
    writer.person(alice, "direct"),
    writer.person(alice, "group", { groupId }),
    writer.person(alice, "more"),
  ];
  const sameTime = (_key: string, value: unknown) => (typeof value === "number" && value > 4 && value < 10 ? 5 : value);
  for (const { wire } of wires) double.deliver(JSON.parse(JSON.stringify(wire, sameTime)));
  const received: Envelope[] = [];
  while (received.length < wires.length) received.push(...(await receive()).envelopes);
  expect(received.map(({ sentAt }) => sentAt)).toEqual([5, 5, 5]);
  expect(received.map(({ chat }) => chat?.kind)).toEqual(["direct", "group", "direct"]);
});

describe("files", () => {
  test("an empty or a cut file is not handed out, since its download has failed", async () => {
    const { double, transport } = await connected();
    double.addFile("empty.png", "");
    double.addFile("cut.png", Buffer.alloc(10).toString("base64"));
    expect(await codeOf(transport.attachment(":empty.png", 99, never))).toBe("attachment_unavailable");
    expect(await codeOf(transport.attachment("11:cut.png", 99, never))).toBe("attachment_unavailable");
    expect(await transport.attachment(":cut.png", 99, never)).toHaveLength(10);
    expect(await codeOf(transport.attachment(":cut.png", 9, never))).toBe("attachment_unavailable");
  });
});

test("a file that cannot be fetched because the line is down is not given up", async () => {
  const { double, transport } = await connected();
  await double.stop();
  expect(await codeOf(transport.attachment(":a.png", 99, never))).toBe("signal_unreachable");
});
