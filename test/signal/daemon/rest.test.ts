import { afterEach, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { BridgeError } from "../../../src/core/errors.ts";
import type { Chat, Outbound, OutboundBody } from "../../../src/core/model.ts";
import { createRest } from "../../../src/signal/daemon/rest.ts";
import { codeOf, faultOf } from "../../contract/transport.ts";
import { createVirtualClock } from "../../doubles/clock.ts";
import { createHeardLog, quietLog } from "../../doubles/quiet-log.ts";
import type { RestDoubleOptions } from "../../doubles/signal-rest.ts";
import { startRestDouble } from "../../doubles/signal-rest.ts";
import { alice, carol, groupId, me } from "../../doubles/wire.ts";

const never = new AbortController().signal;
const self: Chat = { kind: "self" };
const direct: Chat = { kind: "direct", peer: { aci: alice.aci, number: alice.number } };
const group: Chat = { kind: "group", id: groupId };
const body = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });
const hello = (chat: Chat = direct, text = "hello"): Outbound => ({
  chat,
  timestamp: 1_786_953_700_000,
  body: body(text),
});

const endings: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0)) await end();
});

async function setup(options: RestDoubleOptions & { account?: string | null; log?: typeof quietLog } = {}) {
  const clock = createVirtualClock(1_786_953_600_000);
  const double = await startRestDouble({ clock, ...options });
  const account = options.account === undefined ? me.number : options.account;
  const transport = createRest({ baseUrl: double.url, account, clock, log: options.log ?? quietLog });
  endings.push(async () => {
    await double.stop();
    await transport.disconnect();
    expect(double.violations()).toEqual([]);
    expect(double.waitingMax()).toBeLessThanOrEqual(1);
  });
  return { clock, double, transport };
}

async function connected(options: Parameters<typeof setup>[0] = {}) {
  const stage = await setup(options);
  await stage.transport.connect(never);
  return stage;
}

type Exchange = { readonly response: { readonly status: number; readonly body?: unknown; readonly bodyText?: string } };
const load = (name: string): Exchange[] =>
  [
    JSON.parse(readFileSync(new URL(`../../fixtures/signal/${name}`, import.meta.url), "utf8")) as
      | Exchange
      | Exchange[],
  ].flat();
const toFault = ({ response }: Exchange) => ({
  status: response.status,
  body: response.bodyText ?? JSON.stringify(response.body),
});

describe("connecting", () => {
  test("json-rpc mode is refused, with the way out", async () => {
    const { transport } = await setup({ mode: "json-rpc" });
    const error = await transport.connect(never).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BridgeError);
    expect(error).toMatchObject({
      code: "json_rpc_mode",
      retry: "person",
      hint: expect.stringContaining("MODE=native"),
    });
  });

  test.each([
    ["an account that is not in the list is refused", [alice], me.number, "rejected"],
    ["no account has to be linked", [], null, "not_linked"],
    ["several accounts need a setting", [me, alice], null, "rejected"],
  ] as const)("%s", async (_, accounts, account, code) => {
    const { transport } = await setup({ accounts, account });
    expect(await codeOf(transport.connect(never))).toBe(code);
  });

  test.each([
    ["about", { status: 200, body: "not JSON" }, "signal_protocol"],
    ["about", { status: 404 }, "signal_protocol"],
    ["about", { status: 503 }, "signal_unreachable"],
    ["accounts", { status: 500, body: '{"error":"x"}' }, "signal_protocol"],
    ["accounts", { status: 200, body: "{}" }, "signal_protocol"],
    ["accounts", "cut", "signal_unreachable"],
  ] as const)("a bad answer to %s is a typed fault", async (route, fault, code) => {
    const { double, transport } = await setup();
    // What fails on a used connection is asked once more on a new one.
    double.fail(route, fault, fault === "cut" ? 2 : 1);
    expect(await codeOf(transport.connect(never))).toBe(code);
  });

  test.each([
    [true, me.aci],
    [false, null],
  ])("our ACI is looked up in the account's identities with the first message: %p", async (tellsOwnAci, aci) => {
    const { clock, double, transport } = await setup({ tellsOwnAci });
    const account = await transport.connect(never);
    expect(account).toMatchObject({ aci: null, number: me.number });
    for (const text of ["one", "two"]) {
      double.personWrites(alice, text);
      const receiving = transport.receive(1000, never);
      await double.parked();
      await clock.advance(1000);
      await transport.ack(await receiving, true);
      expect(account).toMatchObject({ aci });
    }
    expect(double.calls().filter(({ path }) => path.startsWith("/v1/identities"))).toHaveLength(1);
  });

  test("a container that hangs is noticed", async () => {
    const { clock, double, transport } = await setup();
    double.fail("about", "hang");
    const connecting = codeOf(transport.connect(never));
    await double.nextCall();
    await clock.advance(31_000);
    expect(await connecting).toBe("signal_timeout");
  });
});

describe("receiving", () => {
  test("polls are short, with a rest between them, and abort is obeyed there", async () => {
    const { clock, double, transport } = await connected();
    const stop = new AbortController();
    const receiving = transport.receive(20_000, stop.signal);
    const polls = () => double.calls().filter(({ path }) => path.includes("/receive/"));
    await double.parked();
    expect(polls()[0]?.path).toEndWith("?timeout=1&max_messages=10&ignore_stories=true");
    // The first poll ends, then the rest between the two.
    await clock.step(1000);
    await clock.step(1000);
    await double.parked();
    expect(polls()).toHaveLength(2);
    stop.abort();
    await clock.step(1000);
    expect(await receiving).toMatchObject({ envelopes: [], isProof: true });
    expect(polls()).toHaveLength(2);
  });

  test("lines of log behind the messages do not cost the messages", async () => {
    const log = createHeardLog();
    const { double, transport } = await connected({ log });
    double.fail("receive", { status: 200, body: load("rest-receive-corrupt-200.json")[0]?.response.bodyText ?? "" });
    const { envelopes, isProof } = await transport.receive(1000, never);
    expect(envelopes).toMatchObject([{ content: { text: "hi" } }]);
    // signal-cli ended well: a log that always says something must not keep the line from being CONNECTED.
    expect(isProof).toBe(true);
    expect(log.lines()).toEqual(['warn an answer of the REST API came damaged {"salvaged":1,"lost":0}']);
  });

  test("messages that were printed before signal-cli failed are in the error, and are not lost", async () => {
    const { clock, double, transport } = await connected();
    double.phoneWrites("first");
    double.personWrites(alice, "second");
    double.fail("receive", "failed");
    const receiving = transport.receive(1000, never);
    await double.parked();
    await clock.advance(1000);
    const { envelopes } = await receiving;
    expect(envelopes).toMatchObject([{ content: { text: "first" } }, { content: { text: "second" } }]);
    expect(double.dropped()).toEqual([]);
  });

  test("the container's own example of a good answer is understood", async () => {
    const { double, transport } = await connected();
    const [full, empty] = load("rest-receive-normal-mode.json");
    if (!full || !empty) throw new Error("expected two exchanges");
    double.fail("receive", toFault(full));
    const batch = await transport.receive(1000, never);
    expect(batch.envelopes).toMatchObject([{ chat: { kind: "direct" } }, { chat: self, isOwn: true }]);
    await transport.ack(batch, true);
    double.fail("receive", toFault(empty));
    expect(await transport.receive(1000, never)).toMatchObject({ envelopes: [], isProof: true });
  });

  test("the container's refusals are typed faults", async () => {
    const { double, transport } = await connected();
    const codes = ["signal_protocol", "signal_protocol", "unlinked", "signal_timeout", "json_rpc_mode"] as const;
    for (const [index, exchange] of load("rest-receive-errors.json").entries()) {
      double.fail("receive", toFault(exchange));
      expect(await codeOf(transport.receive(1000, never))).toBe(codes[index] ?? "internal");
    }
  });

  test.each([
    ["500", { status: 500 }, "signal_protocol"],
    ["429", { status: 429 }, "signal_rate_limited"],
    ["a failed network", { status: 400, body: '{"error":"Error while checking account: x\\n"}' }, "signal_unreachable"],
    [
      "an active receiver",
      { status: 400, body: '{"error":"messages are already being received."}' },
      "already_receiving",
    ],
    ["a cut", "cut", "signal_unreachable"],
  ] as const)("%s is a typed fault", async (_, fault, code) => {
    const { double, transport } = await connected();
    double.fail("receive", fault);
    expect(await codeOf(transport.receive(1000, never))).toBe(code);
  });

  test.each([
    ["a page of HTML", "<html>login</html>", "signal_protocol"],
    ["nothing", "", "signal_protocol"],
    ["an error", '{"error":"User +15550100001 is not registered."}', "unlinked"],
    ["the beginning of an answer", '[{"envelope":{"sourceNumber":"+155501', "signal_protocol"],
  ] as const)("%s with status 200 is a typed fault", async (_, text, code) => {
    const { double, transport } = await connected();
    double.fail("receive", { status: 200, body: text });
    expect(await codeOf(transport.receive(1000, never))).toBe(code);
  });
});

describe("one call at a time", () => {
  test("sends that wait go before the next poll, in their order", async () => {
    const { clock, double, transport } = await connected();
    const receiving = transport.receive(3000, never);
    await double.parked();
    const sends = ["one", "two", "three"].map((text) => transport.send(hello(direct, text)));
    await clock.advance(1000);
    await Promise.all(sends);
    await clock.advance(1000);
    await double.parked();
    await clock.advance(1000);
    await receiving;
    expect(double.sent().map(({ text }) => text)).toEqual(["one", "two", "three"]);
    const order = double.calls().map(({ path }) => path.split("/")[2]);
    expect(order.slice(2)).toEqual(["receive", "send", "send", "send", "receive"]);
  });

  test("however much there is to send, a poll gets its turn", async () => {
    const { clock, double, transport } = await connected();
    const enough = new AbortController();
    const keepSending = async (): Promise<void> => {
      while (!enough.signal.aborted) await transport.send(hello());
    };
    const sending = Promise.all([keepSending(), keepSending()]);
    double.phoneWrites("and me?");
    const receiving = transport.receive(1000, never);
    await double.parked();
    await clock.advance(1000);
    expect((await receiving).envelopes).toHaveLength(1);
    enough.abort();
    await sending;
  });

  test("typing is shown only while nothing waits to be sent", async () => {
    const { double, transport } = await connected();
    const sending = transport.send(hello());
    await transport.typing(direct, true);
    await sending;
    expect(double.typing()).toEqual([]);
    await transport.typing(group, true);
    await transport.typing(direct, false);
    expect(double.typing()).toEqual(["group.SS9pa0YzalhYNUEzeWdYVkd4ZXNSM1VXc0lRbmZSNXV6d0ZneEhhVlpGcz0="]);
  });
});

describe("sending", () => {
  test.each([
    ["the answer of 0.100", 0, []],
    ["the answer since July 2026", 1, []],
    [
      "an answer with failures",
      2,
      [
        { recipient: "3c5e7a91-2b4d-4f60-8a1c-5d7e9f0b2c44", code: "unregistered" },
        { recipient: carol.aci, code: "untrusted_identity" },
      ],
    ],
  ] as const)("%s is understood", async (_, index, failed) => {
    const { double, transport } = await connected();
    const exchange = load("rest-send-success.json")[index];
    if (!exchange) throw new Error("expected an exchange");
    double.fail("send", toFault(exchange));
    const outcome = await transport.send(hello(group));
    expect(outcome.failed).toEqual([...failed]);
    expect(String(outcome.timestamp)).toMatch(/^178695365[12]000$/u);
  });

  test("the refusals of the fixtures are typed faults", async () => {
    const { double, transport } = await connected();
    const codes = [
      "send_rejected",
      "send_rejected",
      "untrusted_identity",
      "untrusted_identity",
      "captcha",
      "send_rejected",
    ];
    for (const [index, exchange] of load("rest-send-errors.json").entries()) {
      double.fail("send", toFault(exchange));
      expect(await codeOf(transport.send(hello()))).toBe((codes[index] ?? "internal") as "internal");
    }
  });

  const refusal = (error: string) => ({ status: 400, body: JSON.stringify({ error }) });
  const success = { recipientAddress: { uuid: alice.aci, number: null }, type: "SUCCESS" };
  test.each([
    ["stray text behind a success", refusal("invalid character 'E' after top-level value"), "send_uncertain"],
    [
      "a number that could not be read",
      refusal('strconv.ParseInt: parsing "1786953653000\\nx": invalid syntax'),
      "send_uncertain",
    ],
    ["a timestamp without results", refusal('{"timestamp":1786953653000}\nERROR x'), "send_uncertain"],
    [
      "an account that could not be checked",
      refusal("Error while checking account +1: x (IOException)\n"),
      "signal_unreachable",
    ],
    ["a killed command", refusal("process killed as timeout reached"), "send_uncertain"],
    ["an unknown group", refusal("Group not found: …"), "send_rejected"],
    ["a lost login", refusal(`User ${me.number} is not registered.\n`), "unlinked"],
    ["a rate limit in words", refusal("Failed to send message due to rate limiting\n"), "signal_rate_limited"],
    ["500", { status: 500 }, "send_uncertain"],
    ["404", { status: 404, body: "404 page not found" }, "signal_unreachable"],
    ["302 to a login page", { status: 302 }, "signal_unreachable"],
    ["429 without tokens", { status: 429, body: '{"challenge_tokens":[""]}' }, "signal_rate_limited"],
    ["201 without a timestamp", { status: 201, body: "{}" }, "send_uncertain"],
    ["201 with garbage", { status: 201, body: "<html>" }, "send_uncertain"],
    ["a cut answer", "truncated", "send_uncertain"],
    ["a cut connection", "cut", "send_uncertain"],
  ] as const)("%s is a typed fault", async (_, fault, code) => {
    const { double, transport } = await connected();
    double.fail("send", fault);
    expect(await codeOf(transport.send(hello()))).toBe(code);
  });

  test("a rate limit pauses its recipient alone, in words, in a list of results and in a success", async () => {
    const { double, transport } = await connected();
    const limited = [{ recipientAddress: { uuid: alice.aci, number: null }, type: "RATE_LIMIT_FAILURE" }];
    const errors = { recipients: [{ uuid: alice.aci, reason: "RATE_LIMIT_FAILURE" }] };
    for (const fault of [
      refusal("Failed to send message due to rate limiting\n"),
      refusal(JSON.stringify({ timestamp: 1_786_953_653_000, results: limited })),
      { status: 201, body: JSON.stringify([{ timestamp: "1786953653000", errors }]) },
    ]) {
      double.fail("send", fault);
      const limit = { code: "signal_rate_limited", scope: "recipient" };
      expect(await faultOf(transport.send(hello()))).toMatchObject(limit);
    }
  });

  test("a refusal whose results say that it went out is a success", async () => {
    const { double, transport } = await connected();
    const results = [success, { recipientAddress: { uuid: carol.aci }, type: "IDENTITY_FAILURE" }];
    double.fail("send", refusal(`${JSON.stringify({ timestamp: 1_786_953_653_000, results })}\nsome warning\n`));
    expect(await transport.send(hello(group))).toEqual({
      timestamp: 1_786_953_653_000,
      failed: [{ recipient: carol.aci, code: "untrusted_identity" }],
    });
  });

  test("a direct message whose only recipient failed is not sent", async () => {
    const { double, transport } = await connected();
    const errors = { recipients: [{ uuid: alice.aci, reason: "UNREGISTERED_FAILURE" }] };
    double.fail("send", { status: 201, body: JSON.stringify([{ timestamp: "1786953653000", errors }]) });
    expect(await codeOf(transport.send(hello()))).toBe("unregistered");
  });

  test("styles that cannot be expressed are left out, the text never suffers", async () => {
    const { double, transport } = await connected();
    const text = "**stars** and `ticks`";
    const styles = [
      { start: 0, length: 6, style: "BOLD" },
      { start: 3, length: 9, style: "ITALIC" },
    ] as const;
    await transport.send({ ...hello(), body: { kind: "text", text, styles, quote: null, files: [] } });
    expect(double.sent()).toMatchObject([{ text, styles: [styles[0]] }]);
  });

  const printed = (who: string, end = "") =>
    `Failed to send (some) messages:\nI/ikF3jXX5A3ygXVGxesR3UWsIQnfR5uzwFgxHaVZFs=: ${who}\n1786953653000\n${end}`;

  test.each([
    ["as it is", (text: string) => text],
    [
      "as a number that could not be read",
      (text: string) => `strconv.ParseInt: parsing ${JSON.stringify(text.trim())}: invalid syntax`,
    ],
  ])("a group of which one member did not get it counts as sent, also where it is a 400: %s", async (_, wrap) => {
    const { double, transport } = await connected();
    double.fail("send", refusal(wrap(printed(`Unregistered user "${carol.aci}"`))));
    double.fail("send", refusal(wrap(printed(`Untrusted Identity for "${alice.number}"`))));
    expect(await transport.send(hello(group))).toEqual({
      timestamp: 1_786_953_653_000,
      failed: [{ recipient: carol.aci, code: "unregistered" }],
    });
    expect(await transport.send(hello(group))).toEqual({
      timestamp: 1_786_953_653_000,
      failed: [{ recipient: alice.number, code: "untrusted_identity" }],
    });
  });

  test.each([
    ['Unregistered user "+15550100002"', "unregistered"],
    ['Network failure for "+15550100002"', "send_uncertain"],
    [
      'CAPTCHA proof required for sending to "+15550100002", available options "[RECAPTCHA]" with challenge token "0f6d", or wait "60" seconds.',
      "captcha",
    ],
    ["Something new", "send_uncertain"],
  ] as const)("a message that reached no member: %s", async (who, code) => {
    const { double, transport } = await connected();
    double.fail("send", refusal(printed(who, "Failed to send message\n")));
    expect(await codeOf(transport.send(hello()))).toBe(code);
  });

  test("a note to ourselves stays one, and a group gets no copy for us", async () => {
    const { double, transport } = await connected();
    await transport.send(hello({ kind: "self" }));
    await transport.send(hello(group));
    expect(double.sent()).toHaveLength(2);
  });

  test("files, whatever their names", async () => {
    const { double, transport } = await connected();
    const files = [{ fileName: "a;b,c/d é.png", contentType: "image/png", base64: "AQID" }];
    await transport.send({ ...hello(), body: { kind: "text", text: "", styles: [], quote: null, files } });
    expect(double.sent()[0]?.files).toEqual([{ fileName: "a_b_c_d é.png", contentType: "image/png", base64: "AQID" }]);
  });
});
