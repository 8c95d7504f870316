/**
 * The whole program over the double of the API, on both lines: whatever goes wrong at Claude's side, a question costs a bounded number
 * of requests, ends in words, and the next message is answered.
 */
import { afterEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClaudeApi } from "../../src/claude/api.ts";
import { createManagedLine } from "../../src/claude/managed.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import { loadConfig } from "../../src/config.ts";
import { startDaemon } from "../../src/daemon.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { pass } from "../contract/line.ts";
import { startClaudeDouble, type Fault, type Script } from "../doubles/claude.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { quietLog } from "../doubles/quiet-log.ts";

type Kind = "messages" | "sessions";
let close: (() => Promise<void>) | null = null;
afterEach(async () => {
  await close?.();
  close = null;
});

async function open(kind: Kind, script: Script) {
  const clock = createVirtualClock();
  const double = await startClaudeDouble({ clock, script });
  const signal = createMemorySignal({ clock });
  const home = mkdtempSync(join(tmpdir(), "signalman-program-"));
  const flags = { transport: "signal-cli", account: "+15550100001", listen: "off", welcome: "false", home };
  const { config } = loadConfig({ flags: { ...flags, backend: kind, reactions: "off", progress: "false" }, env: {} });
  const api = createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock });
  let ids = 0;
  const newId = (): string => `${String(++ids).padStart(8, "0")}-5eed-4000-8000-000000000000`;
  const { model, tools: toolPolicy } = config;
  const random = (): number => 0.5;
  const daemon = await startDaemon(config, {
    log: quietLog,
    clock,
    random,
    networkKey: () => "",
    newId,
    isChecked: true,
    buildTransport: () => Promise.resolve(signal.transport),
    buildLine: ({ settings: memory }) =>
      Promise.resolve(
        kind === "messages"
          ? createMessagesLine({ api, clock, newId, hasWebSearch: true })
          : createManagedLine({
              api,
              clock,
              model,
              toolPolicy,
              memory,
              random,
              log: quietLog,
            }),
      ),
  });
  /** But the sign that Claude is at work: here time passes fast, and sockets are slow. */
  const texts = (): string[] =>
    signal.screen().flatMap(({ text }) => (text.includes("still at work on that") ? [] : text));
  /** Time passes slowly enough for the sockets, until it is so. */
  const until = async (what: string, isSo: () => boolean, secondsMax = 3_600): Promise<void> => {
    for (let waited = 0; !isSo(); waited++) {
      if (waited > secondsMax) throw new Error(`${what}: it never came: ${JSON.stringify(texts())}`);
      for (let round = 0; round < 40 && !isSo(); round++) await pass(5);
      await clock.advance(1_000);
    }
  };
  close = async () => {
    let isOver = false;
    void daemon.stop().then(() => (isOver = true));
    await until("the end", () => isOver);
    await double.close();
    rmSync(home, { recursive: true, force: true });
  };
  await until("the start", () => daemon.isReady());
  const postPath = /^POST \/v1\/(messages|sessions\/\w+\/events)$/u;
  const posts = (): number => double.requests.filter(({ method, path }) => postPath.test(`${method} ${path}`)).length;
  return { clock, double, signal, texts, until, posts, write: (text: string) => void signal.owner.write(text) };
}

const refusal = (message: string): Fault => ({ kind: "status", status: 400, type: "invalid_request_error", message });
const json = (body: object): Fault => ({
  kind: "status",
  status: 200,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});
const naked = (...frames: object[]): { sse: string }[] =>
  frames.map((frame) => ({ sse: `data: ${JSON.stringify(frame)}\n\n` }));
const begin = { type: "message_start", message: {} };
const said = (text: string) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
const stop = (stop_reason: string) => ({ type: "message_delta", delta: { stop_reason } });

type Case = {
  readonly name: string;
  readonly requests: number;
  readonly hears: RegExp;
  readonly beats?: ReturnType<Script>;
  readonly faults?: readonly Fault[];
};

const localCases: readonly Case[] = [
  {
    name: "no message_stop, no event lines",
    requests: 1,
    hears: /^whole$/u,
    beats: naked(begin, said("whole"), stop("end_turn")),
  },
  {
    name: "a second message_start",
    requests: 1,
    hears: /^second$/u,
    beats: naked(begin, said("first"), begin, said("second"), stop("end_turn")),
  },
  {
    name: "JSON",
    requests: 1,
    hears: /^as JSON$/u,
    faults: [json({ type: "message", content: [{ type: "text", text: "as JSON" }], stop_reason: "end_turn" })],
  },
  {
    name: "thinking in the text",
    requests: 1,
    hears: /^seven$/u,
    beats: naked(begin, said("<think>hm</think>\nseven"), stop("end_turn")),
  },
  {
    name: "an answer that ends nowhere",
    requests: 3,
    hears: /half an ans[\s\S]*broke off/u,
    beats: naked(begin, said("half an ans")),
  },
  {
    name: "a limit that comes before a word",
    requests: 1,
    hears: /limit|long|cut/iu,
    beats: naked(begin, stop("max_tokens")),
  },
  {
    name: "an answer that is lost, each time",
    requests: 3,
    hears: /broke off three times/u,
    faults: Array.from({ length: 9 }, (): Fault => ({ kind: "lose" })),
  },
  {
    name: "an error in place of an answer",
    requests: 1,
    hears: /too long[\s\S]*\/new/u,
    faults: [json({ type: "error", error: { type: "invalid_request_error", message: "prompt is too long" } })],
  },
  {
    name: "index -1, no usage, comments and CRLF",
    requests: 1,
    hears: /^odd$/u,
    beats: [
      { sse: ": a comment\r\n\r\n" },
      ...naked({ type: "message_start", message: { usage: null } }, { ...said("odd"), index: -1 }).map(({ sse }) => ({
        sse: sse.replaceAll("\n", "\r\n"),
      })),
      ...naked({ ...stop("end_turn"), usage: null }),
    ],
  },
  {
    name: "an answer that pauses, each time",
    requests: 3,
    hears: /^a bit\s+a bit\s+a bit$/u,
    beats: [{ say: "a bit" }, { stop: { kind: "other", name: "pause_turn" } }],
  },
  {
    name: "fields that are not taken",
    requests: 2,
    hears: /^fine$/u,
    faults: [refusal("cache_control: Extra inputs are not permitted")],
  },
];
const bothCases: readonly Case[] = [
  { name: "a blank answer", requests: 1, hears: /finished without a message/u, beats: [{ say: "  " }] },
  {
    name: "a refusal",
    requests: 1,
    hears: /declined/u,
    beats: [{ stop: { kind: "refusal" } }],
  },
  {
    name: "a fault of the server that it says will last",
    requests: 1,
    hears: /could not take that message/u,
    faults: [{ kind: "status", status: 500, type: "api_error", headers: { "x-should-retry": "false" } }],
  },
  {
    name: "a context that is too long",
    requests: 1,
    hears: /too long[\s\S]*\/new/u,
    faults: [refusal("prompt is too long: 9 tokens > 8 maximum")],
  },
  {
    name: "a PDF that is locked",
    requests: 1,
    hears: /PDF/u,
    faults: [refusal("The PDF specified is password protected.")],
  },
  {
    name: "a picture that is too large",
    requests: 1,
    hears: /picture/u,
    faults: [refusal("image dimensions exceed max allowed size: 8000 pixels")],
  },
  {
    name: "a refusal without a reason",
    requests: 1,
    hears: /could not take that message/u,
    faults: [refusal("strange")],
  },
  {
    name: "an overload that passes",
    requests: 2,
    hears: /overloaded|^fine$/u,
    faults: [{ kind: "status", status: 529, type: "overloaded_error" }],
  },
];

const sessionCases: readonly Case[] = [
  { name: "an echo that is missing", requests: 1, hears: /^fine$/u, faults: [{ kind: "unechoed" }] },
  { name: "an answer that is lost", requests: 1, hears: /^fine$/u, faults: [{ kind: "lose" }] },
  {
    name: "a prompt that the model does not take",
    requests: 2,
    hears: /failed on that message/u,
    beats: [{ fail: "model_request_failed_error", retry: "exhausted" }],
  },
  {
    name: "a session that dies of its prompt",
    requests: 1,
    hears: /ended over that message/u,
    beats: [{ fail: "model_request_failed_error", retry: "terminal" }],
  },
];

for (const [kind, cases] of [
  ["messages", [...localCases, ...bothCases]],
  ["sessions", [...sessionCases, ...bothCases]],
] as const)
  describe(`what goes wrong at Claude's side ends in words: ${kind}`, () => {
    test.each(cases.map((one) => [one.name, one] as const))(
      "%s",
      async (_, { requests, hears, beats, faults = [] }) => {
        let isBad = true;
        const { double, texts, until, posts, write } = await open(kind, () =>
          isBad && beats ? beats : [{ say: "fine" }],
        );
        write("hello");
        const pattern = /POST .*(messages|events)$/u;
        const whileBad = { test: (line: string) => isBad && pattern.test(line) } as RegExp;
        for (const fault of faults) double.fail(whileBad, fault);
        await until("an end in words", () => hears.test(texts().join("\n")) && posts() >= requests);
        expect(posts()).toBe(requests);
        isBad = false;
        const before = texts().length;
        write("and now?");
        await until("the next answer", () => texts().slice(before).includes("fine"));
        expect(posts()).toBe(requests + 1);
      },
    );
  });

test.each(["until stopped", "for ever"] as const)(
  "a session that waits for what its log does not show, %s: three requests, with a stop before the last",
  async (waits) => {
    const { double, texts, until, write } = await open("sessions", (prompt) => [{ say: `re: ${prompt}` }]);
    write("hello");
    await until("the answer", () => texts().includes("re: hello"));
    const [session] = [...double.engine.sessions.values()];
    if (session) session.waitsUnseen = waits;
    const before = double.requests.length;
    const types = (): string[] =>
      double.requests
        .slice(before)
        .flatMap(({ method, path, body }) =>
          method === "POST" && path.endsWith("/events")
            ? (body as { events: { type: string }[] }).events.map(({ type }) => type)
            : [],
        );
    write("and now?");
    await until("an end", () => texts().length > 1);
    expect(types()).toEqual(["user.message", "user.message", "user.interrupt", "user.message"]);
    if (waits === "until stopped") return expect(texts().at(-1)).toBe("re: and now?");
    expect(texts().at(-1)).toContain("Send /new");
    write("/new");
    write("again");
    await until("the next answer", () => texts().includes("re: again"));
  },
);

test("a session that cannot be made is tried once for a message, and not again without one", async () => {
  const { double, texts, until, write, clock } = await open("sessions", () => [{ say: "fine" }]);
  let isBad = true;
  const pattern = { test: (line: string) => isBad && line.endsWith("POST /v1/sessions") } as RegExp;
  for (let fault = 0; fault < 9; fault++) double.fail(pattern, refusal("strange"));
  write("hello");
  await until("the end", () => texts().length > 0);
  const makings = (): number =>
    double.requests.filter(({ method, path }) => `${method} ${path}` === "POST /v1/sessions").length;
  const endsAt = clock.monotonic() + 600_000;
  await until("ten minutes", () => clock.monotonic() > endsAt);
  expect(makings()).toBe(1);
  isBad = false;
  write("and now?");
  await until("the next answer", () => texts().includes("fine"));
});

test("a session whose making was never answered is found again, and is no second one", async () => {
  const { double, texts, until, write } = await open("sessions", () => [{ say: "fine" }]);
  double.fail(/POST \/v1\/sessions$/u, { kind: "lose" });
  write("hello");
  await until("the answer", () => texts().includes("fine"));
  expect(double.engine.sessions.size).toBe(1);
});

test("a stream that brings pings and nothing else is looked at after a minute", async () => {
  const { double, texts, until, write, clock, posts } = await open("sessions", () => [{ say: "fine" }]);
  double.setDeaf(true);
  write("hello");
  await until("the post", () => posts() === 1);
  const beganAt = clock.monotonic();
  await until("the answer", () => {
    double.heartbeat();
    return texts().includes("fine");
  });
  expect(clock.monotonic() - beganAt).toBeLessThan(130_000);
  expect(posts()).toBe(1);
});

test("an answer kept here that only pings is said to be late within two minutes, asked again, and given up in words", async () => {
  const { double, texts, until, write, clock, posts } = await open("messages", () => [{ pauseMs: 3_600_000 }]);
  write("hello");
  await until("the post", () => posts() === 1);
  await until("the stream", () => double.openStreams() === 1);
  const beganAt = clock.monotonic();
  await until("a word", () => {
    double.heartbeat();
    return texts().length > 0;
  });
  expect(clock.monotonic() - beganAt).toBeLessThan(120_000);
  expect(texts()[0]).toContain("Nothing has come from Claude");
  await until("the end", () => {
    double.heartbeat();
    return texts().length > 1;
  });
  expect(texts().slice(1).join()).toContain("broke off three times");
  expect(posts()).toBe(3);
});

test.each(["messages", "sessions"] as const)(
  "an answer of megabytes is ten messages at most, the last with the rest as one file, and is asked for once: %s",
  async (kind) => {
    const piece = "word ".repeat(200_000);
    const { texts, until, write, posts } = await open(kind, (prompt) =>
      prompt === "much" ? [{ write: Array.from({ length: 12 }, () => piece) }] : [{ say: "fine" }],
    );
    write("much");
    await until("the file", () => texts().some((text) => text.includes("The rest of this answer is in")));
    expect(posts()).toBe(1);
    expect(texts().length).toBeLessThanOrEqual(10);
    write("and now?");
    await until("the next answer", () => texts().includes("fine"));
    expect(texts().length).toBeLessThanOrEqual(11);
  },
);

test("a conversation costs one post and one stream a turn, whatever came before", async () => {
  const { double, texts, until, write } = await open("sessions", (prompt) => [{ say: `re: ${prompt}` }]);
  const lines: string[][] = [];
  for (const text of ["one", "two", "three"]) {
    const before = double.requests.length;
    write(text);
    await until("the answer", () => texts().some((shown) => shown === `re: ${text}`));
    const own = double.requests
      .slice(before)
      .map(({ method, path }) => `${method} ${path.replace(/\?.*|sesn_\d+/gu, "")}`);
    lines.push(own.filter((line) => !line.endsWith("/v1/sessions/")).sort());
  }
  const turn = ["GET /v1/sessions//events", "GET /v1/sessions//events/stream", "POST /v1/sessions//events"];
  for (const own of lines.slice(1)) expect([...new Set(own)]).toEqual(turn);
});
