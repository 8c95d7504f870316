import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { createClaudeApi, silenceMs, type ClaudeApi } from "../../src/claude/api.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";
import { codeOf, settled } from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble, type Fault } from "../doubles/claude.ts";
import { createVirtualClock, type VirtualClock } from "../doubles/clock.ts";

const never = new AbortController().signal;
const secret = "SECRET-BODY";

describe("failures of the Claude API", () => {
  let clock: VirtualClock;
  let double: ClaudeDouble;
  let api: ClaudeApi;
  beforeAll(async () => {
    clock = createVirtualClock();
    double = await startClaudeDouble({ clock, skewMs: 5_000 });
    api = createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock });
  });
  afterAll(() => double.close());

  const failWith = async (fault: Fault, notFound?: ErrorCode): Promise<BridgeError> => {
    double.fail(/GET \/v1\/models/u, fault);
    const site = { what: "list the models", ...(notFound ? { notFound } : {}) };
    const error: unknown = await api
      .call(site, (client) => client.models.list({}, { signal: never }))
      .then(
        () => null,
        (thrown: unknown) => thrown,
      );
    if (!(error instanceof BridgeError)) throw new Error("expected a BridgeError");
    expect(error.message).toStartWith("Cannot list the models as ");
    // Neither what the API said nor the key gets into anything that is shown or logged.
    expect(
      JSON.stringify([error.message, error.hint, error.cause instanceof Error ? error.cause.message : ""]),
    ).not.toContain(secret);
    expect(error.message).not.toContain(double.apiKey);
    return error;
  };
  const status = (status: number, type?: string, more: Partial<Fault & { kind: "status" }> = {}): Fault => ({
    kind: "status",
    status,
    ...(type === undefined ? {} : { type }),
    message: secret,
    ...more,
  });
  const again = (isSo: boolean) => ({ headers: { "x-should-retry": String(isSo) } });
  const html = (code: number): Fault => status(code, undefined, { body: `<html>${secret}</html>` });

  const table: readonly [name: string, fault: Fault, code: ErrorCode][] = [
    ["400", status(400, "invalid_request_error"), "claude_request"],
    [
      "400, credit",
      status(400, "invalid_request_error", { message: "Your credit balance is too low" }),
      "claude_credit",
    ],
    [
      "400, usage limit",
      status(400, "invalid_request_error", { message: "You have reached your specified API usage limits." }),
      "claude_spend_limit",
    ],
    [
      "400, context",
      status(400, "invalid_request_error", { message: "prompt is too long: 9 tokens > 8 maximum" }),
      "claude_context",
    ],
    [
      "400, not in the beta",
      status(400, "invalid_request_error", { errorCode: "organization_not_enrolled_in_beta" }),
      "claude_forbidden",
    ],
    ["400, on hold", status(400, "invalid_request_error", { errorCode: "organization_on_hold" }), "claude_forbidden"],
    ["400, image", status(400, "invalid_request_error", { errorCode: "image_dimensions_too_large" }), "claude_image"],
    ["401", status(401, "authentication_error"), "claude_key"],
    ["402", status(402, "billing_error"), "claude_credit"],
    [
      "402, spend limit",
      status(402, "billing_error", { errorCode: "linked_organization_spend_limit_reached" }),
      "claude_spend_limit",
    ],
    ["403", status(403, "permission_error"), "claude_forbidden"],
    ["404", status(404, "not_found_error"), "claude_model"],
    ["408", status(408, "timeout_error"), "claude_unreachable"],
    ["409", status(409, "conflict_error"), "claude_protocol"],
    ["413", status(413, "request_too_large"), "claude_too_large"],
    ["422", status(422, "invalid_request_error"), "claude_request"],
    ["429", status(429, "rate_limit_error"), "claude_rate_limited"],
    ["429, ramp", status(429, "rate_limit_error", { errorCode: "ramp_limit_exceeded" }), "claude_rate_limited"],
    [
      "429, contract",
      status(429, "rate_limit_error", { errorCode: "contract_spend_limit_reached" }),
      "claude_spend_limit",
    ],
    [
      "429, enforced",
      status(429, "rate_limit_error", { errorCode: "enforced_spend_limit_reached" }),
      "claude_spend_limit",
    ],
    ["500", status(500, "api_error"), "claude_unreachable"],
    ["503", status(503), "claude_unreachable"],
    ["529", status(529, "overloaded_error"), "claude_overloaded"],
    ["529, compaction", status(529, "overloaded_error", { errorCode: "compaction_unavailable" }), "claude_overloaded"],
    ["500, not again", status(500, "api_error", again(false)), "claude_request"],
    ["409, not again", status(409, "invalid_request_error", again(false)), "claude_request"],
    ["401, not again", status(401, "authentication_error", again(false)), "claude_key"],
    ["429, not again", status(429, "rate_limit_error", again(false)), "claude_rate_limited"],
    ["529, not again", status(529, "overloaded_error", again(false)), "claude_overloaded"],
    ["400, again", status(400, "invalid_request_error", again(true)), "claude_unreachable"],
    [
      "400, context, again",
      status(400, "invalid_request_error", { message: "prompt is too long", ...again(true) }),
      "claude_context",
    ],
    ["502 from a proxy", html(502), "claude_unreachable"],
    ["403 from a portal", html(403), "claude_protocol"],
    ["404 from a wrong server", html(404), "claude_protocol"],
    ["200 with a page of HTML", html(200), "claude_protocol"],
    [
      "200 with broken JSON",
      status(200, undefined, { body: "{oops", headers: { "content-type": "application/json" } }),
      "claude_protocol",
    ],
    [
      "200 with JSON of another kind",
      status(200, undefined, { body: "null", headers: { "content-type": "application/json" } }),
      "claude_protocol",
    ],
  ];
  for (const [name, fault, code] of table)
    test(`${name} → ${code}`, async () => expect((await failWith(fault, "claude_model")).code).toBe(code));

  test("a body that does not end is not gathered", async () => {
    const body = `{"data":[],"has_more":false${" ".repeat(65 * 2 ** 20)}}`;
    const endless = status(200, undefined, { body, headers: { "content-type": "application/json" } });
    expect((await failWith(endless)).code).toBe("claude_protocol");
  });

  test("a 404 means what the caller says it means", async () =>
    expect((await failWith(status(404, "not_found_error"))).code).toBe("claude_request"));

  test("nothing listens there", async () => {
    const gone = await startClaudeDouble();
    await gone.close();
    const lost = createClaudeApi({ apiKey: "k", baseUrl: gone.url, clock });
    const call = lost.call({ what: "ask" }, (client) => client.models.list({}, { signal: never }));
    expect(await codeOf(call)).toBe("claude_unreachable");
  });

  test("no key at all", async () => {
    for (const apiKey of [null, ""]) {
      const keyless = createClaudeApi({ apiKey, baseUrl: double.url, clock });
      const call = keyless.call({ what: "ask" }, (client) => client.models.list({}, { signal: never }));
      expect(await codeOf(call)).toBe("claude_no_key");
    }
  });

  test("the server's wait, in every form", async () => {
    const waits = async (headers: Record<string, string>): Promise<number | null> =>
      (await failWith(status(429, "rate_limit_error", { headers }))).retryAfterMs;
    expect(await waits({ "retry-after": "7" })).toBe(7000);
    expect(await waits({ "retry-after": "0.5" })).toBe(500);
    expect(await waits({ "retry-after-ms": "1250", "retry-after": "2" })).toBe(1250);
    const date = new Date(Math.floor((clock.now() + 5_000) / 1000) * 1000 + 30_000).toUTCString();
    expect(await waits({ "retry-after": date })).toBe(30_000);
    expect(await waits({ "retry-after": "soon" })).toBeNull();
    expect(await waits({})).toBeNull();
  });

  test("fixture 12: the errors as recorded", async () => {
    const path = new URL("../fixtures/claude/12-http-errors.json", import.meta.url);
    type Recorded = { status: number; headers: Record<string, string>; body: object };
    const found: object[] = [];
    for (const { status, headers, body } of JSON.parse(readFileSync(path, "utf8")) as Recorded[]) {
      const { code, retryAfterMs, message } = await failWith({
        kind: "status",
        status,
        headers,
        body: JSON.stringify(body),
      });
      found.push({ code, retryAfterMs, id: /req_\w+/u.exec(message)?.[0] });
    }
    expect(found).toEqual([
      { code: "claude_request", retryAfterMs: null, id: "req_011SB400" },
      { code: "claude_rate_limited", retryAfterMs: 7000, id: "req_011SB429" },
      { code: "claude_overloaded", retryAfterMs: 1000, id: "req_011SB529" },
    ]);
  });

  test("nothing that changes something is tried twice, whatever happened to it", async () => {
    for (const fault of [{ kind: "cut" }, { kind: "lose" }, status(529, "overloaded_error")] as const) {
      const before = double.requests.length;
      double.fail(/POST \/v1\/agents$/u, fault);
      const params = { name: "n", model: "claude-sonnet-5-5" };
      const call = api.call({ what: "create" }, (client) => client.beta.agents.create(params, { signal: never }));
      expect(await codeOf(call)).toBe(fault.kind === "status" ? "claude_overloaded" : "claude_unreachable");
      expect(double.requests.length - before).toBe(1);
    }
  });

  test("the server's clock is known to about a second", async () => {
    await api.call({ what: "look" }, (client) => client.models.list({}, { signal: never }));
    expect(Math.abs(api.skewMs() - 5_000)).toBeLessThanOrEqual(1_000);
  });
});

describe("a stream of the Claude API", () => {
  type Bench = {
    clock: VirtualClock;
    looks(): number;
    double: ClaudeDouble;
    sessionId: string;
    open(signal?: AbortSignal): Promise<AsyncIterable<unknown>>;
  };
  const withBench = async (work: (bench: Bench) => Promise<void>): Promise<void> => {
    const clock = createVirtualClock();
    const double = await startClaudeDouble({ clock });
    let looks = 0;
    const watched: VirtualClock = { ...clock, monotonic: () => (looks++, clock.monotonic()) };
    const api = createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock: watched, timeoutMs: silenceMs });
    const session = double.engine.create({
      agentId: "a",
      environmentId: "e",
      model: "m",
      effort: null,
      tools: [],
      system: "",
      title: null,
      metadata: {},
    });
    const open: Bench["open"] = (signal = never) =>
      api.stream(
        { what: "follow" },
        (client, options) => client.beta.sessions.events.stream(session.id, {}, options),
        signal,
      );
    try {
      await work({ clock, double, looks: () => looks, sessionId: session.id, open });
    } finally {
      await double.close();
    }
  };
  const say = ({ double, sessionId }: Bench, text: string): void =>
    void double.engine.append(double.engine.need(sessionId), "agent.message", { content: [{ type: "text", text }] });
  const read = async (frames: AsyncIterable<unknown>): Promise<{ count: number; error: unknown }> => {
    let count = 0;
    try {
      for await (const _ of frames) count++;
      return { count, error: null };
    } catch (error) {
      return { count, error };
    }
  };

  test("cut at any byte, also inside a character, is an end or a lost stream, never half a frame", () =>
    withBench(async (bench) => {
      const whole = Buffer.byteLength(
        `event: agent.message\ndata: ${JSON.stringify({ type: "agent.message", id: "sevt_000000", content: [{ type: "text", text: "ü🌍" }], processed_at: "2026-11-23T18:00:00.000Z" })}\n\n`,
      );
      for (const isClean of [true, false])
        for (let bytes = 1; bytes <= whole; bytes += 3) {
          bench.double.fail(/stream$/u, { kind: "cutStream", bytes, isClean });
          const frames = await bench.open();
          say(bench, "ü🌍");
          const { count, error } = await read(frames);
          if (error !== null) expect(error).toMatchObject({ code: "claude_stream_lost" });
          // Whole, or without its closing blank line: the decoder must not make up a frame.
          expect(count).toBeLessThanOrEqual(bytes >= whole - 2 ? 1 : 0);
        }
    }));

  test("an error in the stream is typed like an answer's", () =>
    withBench(async (bench) => {
      const codes: string[] = [];
      for (const type of [
        "overloaded_error",
        "rate_limit_error",
        "authentication_error",
        "api_error",
        "invalid_request_error",
      ]) {
        const frames = await bench.open();
        for (const listener of bench.double.engine.need(bench.sessionId).listeners)
          listener({ type: "error", error: { type, message: secret } });
        const { error } = await read(frames);
        codes.push(error instanceof BridgeError ? error.code : String(error));
        bench.double.cutStreams();
      }
      expect(codes).toEqual([
        "claude_overloaded",
        "claude_rate_limited",
        "claude_key",
        "claude_stream_lost",
        "claude_request",
      ]);
    }));

  test("is silent only when not one byte comes: a heartbeat counts", () =>
    withBench(async (bench) => {
      const frames = (await bench.open())[Symbol.asyncIterator]();
      const first = frames.next();
      let isSilent = false;
      void first.then(() => (isSilent = true));
      await settled(() => bench.clock.timerCount() > 0);
      for (let beat = 0; beat < 4; beat++) {
        await bench.clock.advance(silenceMs - 1_000);
        // The comment crosses a socket; that it was heard shows in a look at the clock.
        const looks = bench.looks();
        bench.double.heartbeat();
        await settled(() => bench.looks() > looks);
      }
      expect(isSilent).toBe(false);
      await bench.clock.advance(silenceMs);
      expect((await first).value).toBe("silent");
      say(bench, "still alive");
      expect((await frames.next()).value).toMatchObject({ type: "agent.message" });
      await frames.return?.();
      expect(bench.clock.timerCount()).toBe(0);
    }));

  test("ends in silence when the caller aborts", () =>
    withBench(async (bench) => {
      const stop = new AbortController();
      const reading = read(await bench.open(stop.signal));
      stop.abort();
      expect(await reading).toEqual({ count: 0, error: null });
    }));

  test("unknown events come through, pings do not", () =>
    withBench(async (bench) => {
      const frames = (await bench.open())[Symbol.asyncIterator]();
      for (const listener of bench.double.engine.need(bench.sessionId).listeners) {
        listener({ type: "ping" });
        listener({ type: "session.something_new", id: "sevt_x" });
      }
      expect((await frames.next()).value).toEqual({ type: "session.something_new", id: "sevt_x" });
    }));
});
