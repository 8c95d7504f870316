import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createClaudeApi } from "../../src/claude/api.ts";
import type { Line, Request } from "../../src/claude/line.ts";
import { createMessagesLine, type MessagesDeps } from "../../src/claude/messages.ts";
import {
  codeOf,
  createGate,
  createLocal,
  faultOf,
  heardOf,
  never,
  pixel,
  readTool,
  whileTimePasses,
} from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble, type Fault, type Script } from "../doubles/claude.ts";
import { createVirtualClock, type VirtualClock } from "../doubles/clock.ts";

describe("messages", () => {
  let clock: VirtualClock;
  let double: ClaudeDouble;
  let local: ReturnType<typeof createLocal>;
  let ids: number;
  const start = (change: Partial<MessagesDeps> = {}): Line =>
    createMessagesLine({
      api: createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock }),
      clock,
      newId: () => `id${++ids}`,
      hasWebSearch: false,
      ...change,
    });
  type Sent = {
    messages: { role: string; content: { type: string; [key: string]: unknown }[] }[];
    [key: string]: unknown;
  };
  const posts = (): Sent[] =>
    double.requests.filter(({ path }) => path === "/v1/messages").map(({ body }) => body as Sent);
  const sent = (): Sent => posts().at(-1) as Sent;

  beforeEach(async () => {
    ids = 0;
    clock = createVirtualClock();
    double = await startClaudeDouble({ clock });
    local = createLocal({ line: start() });
  });
  afterEach(() => double.close());

  test("asks for one word to see whether an endpoint answers at all; a failure of the server is known for one", async () => {
    await start().probe?.("claude-sonnet-5-5", never);
    expect(sent()).toMatchObject({ model: "claude-sonnet-5-5", max_tokens: 1 });
    double.fail(/messages/u, { kind: "status", status: 500, type: "api_error" });
    const failure = await start()
      .probe?.("claude-sonnet-5-5", never)
      .catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "claude_unreachable", isServerFault: true });
  });

  test("stores prompt, reply, usage and end at once, in this order", async () => {
    const prompt: Request = { kind: "prompt", text: "hello", files: [] };
    expect(await heardOf(start(), local.view(), [prompt])).toMatchObject([
      { id: "local:id1", type: "prompt", text: "hello" },
      { id: "local:id1:reply", type: "reply", text: "You said: hello" },
      { type: "usage", inputTokens: 30, outputTokens: 41, isTotal: false },
      { type: "idle", stop: { kind: "end_turn" } },
    ]);
  });

  test("sends the conversation so far, the system prompt and the effort, and lets the API cache it", async () => {
    await local.ask("one");
    await local.ask("two");
    expect(sent()).toEqual({
      model: "claude-sonnet-5-5",
      max_tokens: 64_000,
      system: "You answer in a Signal chat.",
      output_config: { effort: "medium" },
      stream: true,
      messages: [
        { role: "user", content: [{ type: "text", text: "one" }] },
        { role: "assistant", content: [{ type: "text", text: "You said: one" }] },
        { role: "user", content: [{ type: "text", text: "two", cache_control: { type: "ephemeral" } }] },
      ],
    });
  });

  test("costs one request a turn; the limit of a model is looked up once, and 32,000 where it is not known", async () => {
    for (const text of ["one", "two", "three"]) await local.ask(text);
    expect(double.requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
      "GET /v1/models/claude-sonnet-5-5",
      ...Array<string>(3).fill("POST /v1/messages"),
    ]);
    for (const status of [404, 501, 403, 503]) {
      double.fail(/GET .*models/u, { kind: "status", status });
      await createLocal({ line: start() }).ask("hello");
      expect(sent()["max_tokens"]).toBe(32_000);
    }
  });

  test("costs the list price, the cache included; what a model without a price costs is not known", async () => {
    const usage = {
      input_tokens: 1_000_000,
      cache_read_input_tokens: 1_000_000,
      cache_creation_input_tokens: 1_000_000,
    };
    double.setScript(() => [
      { frame: { type: "message_start", message: { id: "m", usage } } },
      { frame: { type: "content_block_start", index: 0, content_block: { type: "text", text: "hi" } } },
      {
        frame: {
          type: "message_delta",
          delta: { stop_reason: "end_turn" },
          usage: { output_tokens: 1_000_000, server_tool_use: { web_search_requests: 3 } },
        },
      },
      { frame: { type: "message_stop" } },
    ]);
    await local.ask("hello");
    // 2 + 0.10 + 2.50 + 10 dollars, and three cents.
    const all = { inputTokens: 3_000_000, outputTokens: 1_000_000, costCents: 1463 };
    expect(local.entries("usage")[0]).toMatchObject(all);
    const other = createLocal({ line: start() }, { model: "llama" });
    double.fail(/messages$/u, {
      kind: "status",
      status: 200,
      headers: { "content-type": "application/json" },
      body: '{"type":"message","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":null}',
    });
    await other.ask("hello");
    expect(other.entries("usage")[0]).toMatchObject({ inputTokens: 0, costCents: null });
  });

  test("leaves the oldest out when the history is too long, and cannot grow for ever", async () => {
    local = createLocal({ line: start({ historyTokensMax: 120 }) });
    for (let turn = 0; turn < 30; turn++) await local.ask(`number ${turn}`);
    expect(sent().messages.length).toBeLessThan(12);
    expect(JSON.stringify(sent().messages)).not.toContain("number 0");
  });

  test("sends the files of earlier turns again, and blocks that are more than text as they came", async () => {
    const thinking = { type: "thinking", thinking: "hm", signature: "c2ln" };
    double.setScript(() => [{ block: thinking }, { say: "A dot." }]);
    await local.ask("look", () => {}, never, [{ contentType: "image/png", fileName: null, base64: pixel }]);
    await local.ask("and?");
    const [first, second] = sent().messages;
    expect(first?.content.map(({ type }) => type)).toEqual(["image", "text"]);
    expect(second?.content).toEqual([thinking, { type: "text", text: "A dot.", citations: null }]);
    expect(local.replies()).toEqual(["A dot.", "A dot."]);
  });

  test("knows every way in which an answer stops", async () => {
    const stops = [
      { kind: "max_tokens" },
      { kind: "context_exceeded" },
      { kind: "refusal" },
      { kind: "other", name: "tool_use" },
    ] as const;
    for (const stop of stops) {
      double.setScript(() => [{ say: "so far" }, { stop }]);
      expect(await local.ask("go")).toEqual(stop);
    }
    // Cut in the middle of a call, or before a word: nothing waits for a result, and a blank answer is none.
    local = createLocal({ line: start() }, { tools: [readTool] });
    const cut = { type: "tool_use", id: "t", name: "local_read", input: {} };
    double.setScript(() => [{ block: cut }, { say: " \n" }, { stop: { kind: "max_tokens" } }]);
    expect(await local.ask("go")).toEqual({ kind: "max_tokens" });
    expect([local.replies(), local.entries("tool_use")]).toEqual([[], []]);
    double.setScript(() => [{ say: "fine" }]);
    expect(await local.ask("go on")).toEqual({ kind: "end_turn" });
  });

  test("goes on after a pause, as one answer under one id", async () => {
    double.setScript((prompt) =>
      prompt === "(continue)"
        ? [{ say: "second half" }]
        : [{ say: "first half, " }, { stop: { kind: "other", name: "pause_turn" } }],
    );
    const heard: string[] = [];
    await local.ask("long", (frame) => frame.kind === "delta" && heard.push(frame.eventId));
    expect(local.replies()).toEqual(["first half, second half"]);
    expect(sent().messages.at(-1)).toMatchObject({ role: "assistant", content: [{ text: "first half, " }] });
    expect(new Set(heard)).toEqual(new Set(local.entries("reply").map(({ id }) => id)));
    expect(local.entries("usage")).toMatchObject([{ inputTokens: 60, outputTokens: 82 }]);
  });

  test("does not take an endpoint at its word that every message and every call has the same id", async () => {
    double.engine.newId = () => "same";
    double.setScript((prompt) => [{ write: [`re: ${prompt}`] }]);
    for (const prompt of ["a", "b", "c"]) await local.ask(prompt);
    expect(local.replies()).toEqual(["re: a", "re: b", "re: c"]);
    local = createLocal({ line: start() }, { tools: [readTool] });
    double.setScript((prompt) => (prompt === "done" ? [{ say: "ok" }] : [{ call: "local_read", input: {} }]));
    await local.ask("read");
    for (const text of ["more", "done"]) {
      const toolUseId = local.entries("tool_use").at(-1)?.id ?? "";
      await local.post([{ kind: "result", toolUseId, text, isError: false }]);
    }
    expect(new Set(local.entries("tool_use").map(({ id }) => id)).size).toBe(2);
    expect(local.replies()).toEqual(["ok"]);
  });

  test("answers several calls in one message, one by one; a second answer changes nothing", async () => {
    local = createLocal({ line: start() }, { tools: [readTool] });
    const calls = ["a", "b"].map((file_path) => ({ name: "local_read", input: { file_path } }));
    double.setScript((prompt) => (prompt === "read" ? [{ say: "Let me look." }, { calls }] : [{ say: "both read" }]));
    const stop = await local.ask("read");
    const ids = stop?.kind === "requires_action" ? stop.eventIds : [];
    const answer = (toolUseId = "", text = "x"): Request => ({ kind: "result", toolUseId, text, isError: false });
    expect(await local.post([answer(ids[1])])).toEqual({ kind: "requires_action", eventIds: [ids[0] ?? ""] });
    expect(posts()).toHaveLength(1);
    expect(await local.post([answer(ids[1]), answer(ids[0], "")])).toEqual({ kind: "end_turn" });
    expect(
      sent()
        .messages.at(-1)
        ?.content.map(({ type, content }) => [type, content]),
    ).toEqual([
      ["tool_result", "x"],
      ["tool_result", "(no output)"],
    ]);
    expect(await heardOf(start(), local.view(), [answer(ids[0])])).toEqual([]);
    expect(local.replies()).toEqual(["Let me look.", "both read"]);
    expect(sent()["tools"]).toEqual([
      { name: "local_read", description: readTool.description, input_schema: readTool.inputSchema },
    ]);
  });

  test("an interrupt answers what is open with an error, so that the conversation stays valid", async () => {
    local = createLocal({ line: start() }, { tools: [readTool] });
    double.setScript((prompt) => (prompt === "read" ? [{ call: "local_read", input: {} }] : [{ say: "fine" }]));
    await local.ask("read");
    expect(await local.post([{ kind: "interrupt" }])).toEqual({ kind: "end_turn" });
    expect(await heardOf(start(), local.view(), [{ kind: "interrupt" }])).toEqual([]);
    expect(await local.ask("hello")).toEqual({ kind: "end_turn" });
    expect(
      sent()
        .messages.at(-1)
        ?.content.map(({ type, is_error }) => [type, is_error]),
    ).toEqual([
      ["tool_result", true],
      ["text", undefined],
    ]);
  });

  test("searches the web where it may, shows that it does, and gives the blocks of a search back as they came", async () => {
    const search = [
      { type: "server_tool_use", id: "srvtoolu_1", name: "web_search", input: { query: "weather" } },
      {
        type: "web_search_tool_result",
        tool_use_id: "srvtoolu_1",
        content: [{ type: "web_search_result", url: "https://example.org" }],
      },
      { type: "text", text: "It rains", citations: [{ type: "web_search_result_location" }] },
    ];
    double.setScript(() => [
      { say: "Let me look." },
      ...search.map((block) => ({ block })),
      { say: ", says the office." },
    ]);
    local = createLocal({ line: start({ hasWebSearch: true }) });
    await local.ask("weather?");
    expect(sent()["tools"]).toMatchObject([{ type: "web_search_20250305", name: "web_search" }]);
    expect(local.entries("tool_use")).toMatchObject([
      { name: "web_search", input: { query: "weather" }, isLocal: false },
    ]);
    expect(local.replies()).toEqual(["Let me look.\n\nIt rains, says the office."]);
    await local.ask("sure?");
    expect(sent().messages[1]?.content.slice(1, 4)).toEqual(search);
    // Without a search, what was found by one is plain text.
    const prompt: Request = { kind: "prompt", text: "again", files: [] };
    await heardOf(start(), local.view(), [prompt]);
    expect(sent().messages[1]?.content).toEqual([
      { type: "text", text: "Let me look." },
      { type: "text", text: "It rains" },
      { type: "text", text: ", says the office." },
    ]);
  });

  test("says that the model is not there, and what is too much", async () => {
    double.fail(/messages$/u, { kind: "status", status: 404, type: "not_found_error" });
    expect(await codeOf(local.ask("hello"))).toBe("claude_model");
    double.fail(/messages$/u, { kind: "status", status: 413, type: "request_too_large" });
    expect(await codeOf(local.ask("hello"))).toBe("claude_too_large");
  });

  test("keeps the order of the log when the clock is set back", async () => {
    await local.ask("one");
    const back = createVirtualClock(clock.now() - 3_600_000);
    const last = Math.max(...local.entries("idle").map(({ at }) => at ?? 0));
    const prompt: Request = { kind: "prompt", text: "two", files: [] };
    const events = await heardOf(start({ clock: back }), local.view(), [prompt]);
    expect(events.every((event) => (event.at ?? 0) > last)).toBe(true);
  });
});

describe("endpoints that differ", () => {
  let clock: VirtualClock;
  let double: ClaudeDouble;
  let local: ReturnType<typeof createLocal>;
  const start = (timeoutMs = 600_000): Line =>
    createMessagesLine({
      api: createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock, timeoutMs }),
      clock,
      newId: () => double.engine.newId("turn"),
      hasWebSearch: true,
    });
  const posts = (): { [key: string]: unknown }[] =>
    double.requests.filter(({ path }) => path === "/v1/messages").map(({ body }) => body as { [key: string]: unknown });
  const play = (...beats: ReturnType<Script>): void => double.setScript(() => beats);
  const frame = (type: string, fields: object = {}) => ({ frame: { type, ...fields } });
  const begin = frame("message_start", { message: { id: "msg_1", usage: { input_tokens: 3 } } });
  const text = (text: string, index = 0) =>
    frame("content_block_delta", { index, delta: { type: "text_delta", text } });
  const stop = frame("message_delta", { delta: { stop_reason: "end_turn" }, usage: { output_tokens: 2 } });
  const json = (body: object, status = 200): Fault => ({
    kind: "status",
    status,
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  beforeEach(async () => {
    clock = createVirtualClock();
    double = await startClaudeDouble({ clock });
    local = createLocal({ line: start() });
  });
  afterEach(() => double.close());

  test("a stop reason ends an answer, with or without message_stop, a clean end, or any end", async () => {
    const gate = createGate();
    for (const rest of [[], [frame("message_stop")], [{ hold: gate.opened }]]) {
      play(
        begin,
        frame("content_block_start", { index: 0, content_block: { type: "text", text: "" } }),
        text("whole"),
        stop,
        ...rest,
      );
      await local.ask("hello");
    }
    gate.open();
    expect(local.replies()).toEqual(["whole", "whole", "whole"]);
    expect(posts()).toHaveLength(3);
  });

  test("an answer without a stop of any kind broke off, and says what had come", async () => {
    play(begin, text("so fa"));
    expect(await faultOf(local.ask("hello"))).toMatchObject({ code: "claude_stream_lost", partial: "so fa" });
    play(begin);
    expect(await faultOf(local.ask("hello"))).toMatchObject({ code: "claude_stream_lost", partial: null });
    play({ say: "well" }, { fail: "overloaded_error", retry: "exhausted" });
    expect(await faultOf(local.ask("hello"))).toMatchObject({ code: "claude_overloaded", partial: "well" });
    expect(local.entries("prompt")).toEqual([]);
  });

  test("JSON in answer to a stream is an answer, an error in it a fault", async () => {
    const content = [
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ];
    double.fail(
      /messages$/u,
      json({ type: "message", role: "assistant", content, stop_reason: "max_tokens", usage: { input_tokens: 4 } }),
    );
    expect(await local.ask("hello")).toEqual({ kind: "max_tokens" });
    expect(local.replies()).toEqual(["one\n\ntwo"]);
    expect(local.entries("usage")[0]).toMatchObject({ inputTokens: 4 });
    for (const body of [
      { type: "error", error: { type: "overloaded_error" } },
      { error: { type: "overloaded_error", message: "x" } },
    ]) {
      double.fail(/messages$/u, json(body));
      expect(await codeOf(local.ask("hello"))).toBe("claude_overloaded");
    }
    double.fail(/messages$/u, json({ object: "chat.completion" }));
    expect(await codeOf(local.ask("hello"))).toBe("claude_stream_lost");
  });

  test("frames without event lines, comments, CRLF, [DONE], and an error frame among them", async () => {
    const lines = [begin, text("naked"), stop].map(
      (beat) => `: a comment\r\ndata: ${JSON.stringify(beat.frame)}\r\n\r\n`,
    );
    play({ sse: lines.join("") }, { sse: "data: [DONE]\n\n" });
    await local.ask("hello");
    expect(local.replies()).toEqual(["naked"]);
    for (const data of [
      '{"type":"error","error":{"type":"rate_limit_error"}}',
      '{"error":{"type":"rate_limit_error"}}',
    ]) {
      play({ sse: `data: ${data}\n\n` });
      expect(await codeOf(local.ask("hello"))).toBe("claude_rate_limited");
    }
  });

  test.each(["text/plain", "application/octet-stream", "text/event-stream", "application/json", ""])(
    "an answer is read as what it is, though it is called %p: asked and paid for once",
    async (type) => {
      const whole = { type: "message", content: [{ type: "text", text: "whole" }], stop_reason: "end_turn" };
      const frames = [begin, text("in frames"), stop].map(({ frame: data }) => `data: ${JSON.stringify(data)}\n\n`);
      for (const body of [JSON.stringify(whole, null, 2), frames.join("")]) {
        double.fail(/messages$/u, { kind: "status", status: 200, headers: { "content-type": type }, body });
        await local.ask("hello");
      }
      expect(local.replies()).toEqual(["whole", "in frames"]);
      expect(posts()).toHaveLength(2);
    },
  );

  test("a web page in place of an answer is none, whatever it is called", async () => {
    for (const type of ["text/html", "text/event-stream"]) {
      const page = { kind: "status", status: 200, headers: { "content-type": type }, body: "\n<html>Log in" } as const;
      double.fail(/messages$/u, page);
      expect(await codeOf(local.ask("hello"))).toBe("claude_protocol");
    }
  });

  test("a second message_start replaces the first, also in what is previewed", async () => {
    play(begin, text("first tr"), begin, text("second try"), stop);
    const heard = new Map<string, string>();
    await local.ask("hello", (frame) => {
      if (frame.kind === "delta") heard.set(frame.eventId, (heard.get(frame.eventId) ?? "") + frame.text);
    });
    expect(local.replies()).toEqual(["second try"]);
    expect(heard.get(local.entries("reply")[0]?.id ?? "")).toBe("second try");
  });

  test("an index of −1, an index that repeats, usage that is null, and blocks that never began", async () => {
    const block = (index: number) => frame("content_block_start", { index, content_block: { type: "text", text: "" } });
    play(
      frame("message_start", { message: { usage: null } }),
      block(-1),
      text("a", -1),
      block(-1),
      text("b", -1),
      text("c", 7),
      stop,
    );
    await local.ask("hello");
    expect(local.replies()).toEqual(["a\n\nb\n\nc"]);
  });

  test("leading thinking in the text is shown neither in the answer nor in the preview", async () => {
    play(begin, ...["\n<th", "ink>let me", " see</thi", "nk>\n\n", "It is ", "7."].map((piece) => text(piece)), stop);
    const heard: string[] = [];
    await local.ask("hello", (frame) => frame.kind === "delta" && heard.push(frame.text));
    expect(local.replies()).toEqual(["It is 7."]);
    expect(heard.join("")).toBe("It is 7.");
    play(begin, text("<think>cut in the midd"), frame("message_delta", { delta: { stop_reason: "max_tokens" } }));
    expect(await local.ask("more")).toEqual({ kind: "max_tokens" });
    expect(local.replies()).toHaveLength(1);
  });

  test("what an endpoint does not take is left out, asked once more, and remembered", async () => {
    const refuse = (message: string): void =>
      double.fail(/messages$/u, json({ type: "error", error: { type: "invalid_request_error", message } }, 400));
    refuse("messages.0.content.0.text.cache_control: Extra inputs are not permitted");
    await local.ask("one");
    expect(JSON.stringify(posts()[0])).toContain("cache_control");
    expect(JSON.stringify(posts()[1])).not.toContain("cache_control");
    refuse("output_config: Extra inputs are not permitted");
    await local.ask("two");
    refuse("tools.0: Input tag 'web_search_20250305' found using 'type' does not match any of the expected tags");
    await local.ask("three");
    refuse("max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens for this model");
    await local.ask("four");
    await local.ask("five");
    expect(posts()).toHaveLength(9);
    expect(posts().at(-1)).toMatchObject({ max_tokens: 8192 });
    expect(Object.keys(posts().at(-1) ?? {})).toEqual(["model", "max_tokens", "system", "messages", "stream"]);
    expect(local.replies()).toHaveLength(5);
  });

  test.each([
    [
      "a list of details",
      json({ detail: [{ loc: ["body", "cache_control"], msg: "Extra inputs are not permitted" }] }, 422),
    ],
    ["a string", json({ error: "cache_control: unknown field" }, 400)],
    ["a message beside nothing", json({ object: "error", message: "cache_control is not supported" }, 400)],
    ["no JSON at all", { kind: "status", status: 400, body: "unknown field cache_control" }],
    [
      "a fault of the server's",
      json({ error: { message: "upstream: cache_control: Extra inputs are not permitted" } }, 500),
    ],
    ["a 200", json({ type: "error", error: { type: "invalid_request_error", message: "cache_control?" } })],
  ] as const)("a refusal is understood whose words are in %s", async (_, fault) => {
    double.fail(/messages$/u, fault);
    await local.ask("one");
    expect(posts().map((body) => JSON.stringify(body).includes("cache_control"))).toEqual([true, false]);
    double.fail(/messages$/u, json({ error: "the input is longer than the context window" }, 400));
    expect(await codeOf(local.ask("two"))).toBe("claude_context");
    double.fail(/messages$/u, json({ error: "model 'claude' not found" }, 404));
    expect(await codeOf(local.ask("two"))).toBe("claude_model");
  });

  test("so is one that comes as the first frame; after the first word it is a fault", async () => {
    const error = { type: "invalid_request_error", message: "output_config: Extra inputs are not permitted" };
    const refuse = frame("error", { error });
    double.setScript(() => (posts().length === 1 ? [refuse] : [{ say: "fine" }]));
    await local.ask("one");
    expect(posts().map((body) => "output_config" in body)).toEqual([true, false]);
    play(begin, text("half"), refuse);
    expect(await faultOf(local.ask("two"))).toMatchObject({ code: "claude_request", partial: "half" });
  });

  test("a model that takes no tools is asked without any, ours included", async () => {
    local = createLocal({ line: start() }, { tools: [readTool] });
    const message = "registry/small-model does not support tools";
    double.fail(/messages$/u, json({ type: "error", error: { type: "invalid_request_error", message } }, 400));
    await local.ask("one");
    expect(posts().map((body) => "tools" in body)).toEqual([true, false]);
    await local.ask("two");
    expect(local.replies()).toHaveLength(2);
    expect(posts()).toHaveLength(3);
  });

  test("thinking that is not taken back is left out of that conversation", async () => {
    play({ block: { type: "thinking", thinking: "hm", signature: "x" } }, { say: "hi" });
    await local.ask("one");
    double.fail(
      /messages$/u,
      json(
        {
          type: "error",
          error: {
            type: "invalid_request_error",
            message: "messages.1.content.0: Invalid `signature` in `thinking` block",
          },
        },
        400,
      ),
    );
    await local.ask("two");
    expect(JSON.stringify(posts().at(-2))).toContain("signature");
    expect(JSON.stringify(posts().at(-1))).not.toContain("signature");
  });

  test("asks at most three times, whatever is refused, and says what the refusal said", async () => {
    const refuse = (...messages: string[]): void =>
      messages.forEach((message) =>
        double.fail(/messages$/u, json({ type: "error", error: { type: "invalid_request_error", message } }, 400)),
      );
    refuse("Extra inputs are not permitted", "thinking: Extra inputs are not permitted", "prompt is too long");
    expect(await codeOf(local.ask("hello"))).toBe("claude_context");
    expect(posts().map((body) => Object.keys(body).length)).toEqual([7, 5, 5]);
    expect(await local.ask("next")).toEqual({ kind: "end_turn" });
    refuse("strange");
    expect(await codeOf(local.ask("hello"))).toBe("claude_request");
    expect(posts()).toHaveLength(5);
  });

  test("waits for minutes before the first word and within an answer, as long as the setting says", async () => {
    const gates = [createGate(), createGate()];
    play({ write: ["slow"] }, { hold: gates[0]?.opened ?? Promise.resolve() }, { say: "but sure" });
    const asking = local.ask("hello");
    for (let minute = 0; minute < 9; minute++) await clock.advance(60_000);
    gates[0]?.open();
    await asking;
    expect(local.replies()).toEqual(["slow\n\nbut sure"]);
    expect(double.requests.at(-1)?.timeoutSeconds).toBe(600);
    const impatient = createLocal({ line: start(30_000) });
    play({ write: ["slow"] }, { hold: gates[1]?.opened ?? Promise.resolve() });
    expect(await whileTimePasses(clock, codeOf(impatient.ask("hello")))).toBe("claude_stream_lost");
    const boundsOf = (baseUrl: string | null) =>
      createClaudeApi({ apiKey: "k", baseUrl, clock, timeoutMs: 30_000 }).bounds;
    expect(boundsOf("http://localhost:11434").silenceMs).toBe(30_000);
    for (const url of [null, "https://api.anthropic.com", "https://eu.api.anthropic.com/x"])
      expect(boundsOf(url)).toEqual({ headersMs: 60_000, silenceMs: 75_000 });
    gates[1]?.open();
  });

  test("a model is known by its aliases; an endpoint without models is in order", async () => {
    expect(await start().model("claude-sonnet-latest", never)).toMatchObject({ id: "claude-sonnet-5-5" });
    for (const status of [404, 405, 501, 403]) {
      double.fail(/GET .*models$/u, { kind: "status", status });
      expect(await codeOf(start().models(never))).toBe("claude_models_unlisted");
      double.fail(/GET .*models$/u, { kind: "status", status });
      await start().check(never);
      double.fail(/GET .*models\//u, { kind: "status", status });
      expect(await start().model("llama", never)).toBeNull();
    }
    double.fail(/GET .*models$/u, { kind: "status", status: 401, type: "authentication_error" });
    expect(await codeOf(start().check(never))).toBe("claude_key");
  });

  test("a bearer token is enough", async () => {
    const api = createClaudeApi({ apiKey: null, authToken: double.apiKey, baseUrl: double.url, clock });
    expect((await api.models(never)).length).toBeGreaterThan(0);
  });
});
