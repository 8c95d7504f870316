/** No prompt and no command is repeated without an end, and each end is said. */
import type { Anthropic } from "@anthropic-ai/sdk";
import { afterEach, describe, expect, test } from "bun:test";
import type { ClaudeApi } from "../../src/claude/api.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { openStage, type Stage } from "../e2e/stage.ts";
import { isSettled, openBench, type Bench } from "../sim/bench.ts";

let stage: Stage | null = null;
afterEach(async () => {
  await stage?.close();
  stage = null;
});

type Frames = readonly unknown[];
const start = { type: "message_start", message: { id: "msg_1", usage: { input_tokens: 1 } } };
const text = (said: string) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: said } });
const stop = { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 1 } };
const lost = new BridgeError("claude_stream_lost", "Cannot ask Claude as the stream broke off");
const late = new BridgeError("claude_timeout", "Cannot ask Claude as the Claude API did not answer in time");

const overloaded = new BridgeError(
  "claude_overloaded",
  "Cannot ask Claude as the Claude API answered overloaded_error",
);

/**
 * The backend that keeps the conversation here, over an endpoint that answers each request with these frames; an error is thrown, and a
 * number is a wait in ms.
 */
async function openMessages(
  answer: (prompt: string) => Frames,
  flags: Readonly<Record<string, string>> = {},
  probe = (): Promise<void> => Promise.reject(new Error("messages asks by stream alone")),
) {
  const asked: { readonly prompt: string; readonly at: number }[] = [];
  const opened = await openStage({
    flags: { reactions: "off", ...flags },
    line(clock) {
      const stream: ClaudeApi["stream"] = async (_site, work, signal) => {
        let prompt = "";
        const create = ({ messages }: Anthropic.MessageCreateParams) => {
          const content = messages.at(-1)?.content ?? "";
          const last = typeof content === "string" ? { type: "text" as const, text: content } : content.at(-1);
          prompt = last?.type === "text" ? last.text : "";
          return { asResponse: () => new Promise<Response>(() => undefined) };
        };
        void work({ messages: { create } } as unknown as Anthropic, { signal, timeout: 60_000 }).asResponse();
        asked.push({ prompt, at: clock.monotonic() });
        const frames = answer(prompt);
        if (frames[0] instanceof Error) throw frames[0];
        return (async function* () {
          for (const frame of frames) {
            if (frame instanceof Error) throw frame;
            if (typeof frame === "number") await clock.sleep(frame, signal);
            else yield await Promise.resolve(frame);
          }
        })();
      };
      const api: ClaudeApi = {
        stream,
        call: <T>() => probe() as Promise<T>,
        bytes: () => Promise.resolve(null),
        bounds: { headersMs: 60_000, silenceMs: 75_000 },
        model: () => Promise.resolve(null),
        models: () => Promise.reject(new BridgeError("claude_protocol", "Cannot list the models as there are none")),
        skewMs: () => 0,
      };
      return createMessagesLine({ api, clock, hasWebSearch: false, newId: () => `id-${asked.length}` });
    },
  });
  stage = opened;
  return { stage: opened, asked };
}

const whole = (said: string): Frames => [start, text(said), stop, { type: "message_stop" }];

describe("an answer that breaks off, where the conversation is kept here", () => {
  test.each([
    ["without a word", [start, lost], /broke off three times.*send your message again/u],
    ["by a clean end", [start], /broke off three times/u],
    ["by an end without frames (JSON, say)", [], /broke off three times/u],
    ["by an error in its middle", [start, text(" "), overloaded], /broke off three times/u],
    ["by silence before the first byte", [late], /broke off three times/u],
  ] as const)(
    "%s: three requests, minutes apart, one sentence, and the next message is answered",
    async (_, frames, said) => {
      const { stage: seen, asked } = await openMessages((prompt) => (prompt === "bad" ? frames : whole("fine")));
      seen.write("bad");
      await seen.pass(3600);
      expect(asked.map(({ prompt }) => prompt)).toEqual(["bad", "bad", "bad"]);
      expect((asked[2]?.at ?? 0) - (asked[1]?.at ?? 0)).toBeGreaterThanOrEqual(60_000);
      expect(seen.texts()).toEqual([expect.stringMatching(said)]);
      seen.write("good");
      await seen.pass(60);
      expect(seen.texts().slice(1)).toEqual(["fine"]);
    },
  );

  test("what had come of the last is delivered, and said to be cut", async () => {
    const { stage: seen, asked } = await openMessages((prompt) =>
      prompt === "bad" ? [start, text("Half an ans"), lost] : whole("fine"),
    );
    seen.write("bad");
    await seen.pass(3600);
    expect(asked).toHaveLength(3);
    expect(seen.texts()).toEqual(["Half an ans", expect.stringContaining("broke off here")]);
    seen.write("good");
    await seen.pass(60);
    expect(seen.texts().at(-1)).toBe("fine");
  });

  test("a last try that ends by a fault of another class is told by its name, and not as a line that broke off", async () => {
    let count = 0;
    const refused = new BridgeError("claude_too_large", "Cannot ask Claude as the request is too large");
    const { stage: seen, asked } = await openMessages((prompt) => {
      if (prompt !== "bad") return whole("fine");
      return [start, text("Half an ans"), ++count < 3 ? lost : refused];
    });
    seen.write("bad");
    await seen.pass(3600);
    expect(asked).toHaveLength(3);
    expect(seen.texts().at(-1)).not.toContain("broke off");
    seen.write("good");
    await seen.pass(60);
    expect(seen.texts().at(-1)).toBe("fine");
  });

  /** For so many minutes. */
  const empty = (minutes: number): Frames =>
    Array.from({ length: minutes * 12 }, () => [5_000, text(""), start, { type: "new" }]).flat();

  test.each([
    ["pings", ["pinging"]],
    ["frames that bring nothing", empty(30)],
    ["beginnings", Array.from({ length: 400 }, () => [5_000, start]).flat()],
  ])("%s alone: its person hears of it within two minutes; three requests", async (_, frames) => {
    const { stage: seen, asked } = await openMessages((prompt) => (prompt === "bad" ? frames : whole("fine")));
    seen.write("bad");
    await seen.pass(125);
    expect(seen.texts()).toEqual([expect.stringContaining("I ask once more")]);
    await seen.pass(3600);
    expect(asked).toHaveLength(3);
    expect(seen.texts().slice(1)).toEqual([expect.stringMatching(/broke off three times/u)]);
    seen.write("good");
    await seen.pass(60);
    expect(seen.texts().at(-1)).toBe("fine");
  });

  test("what was long thinking is waited for by the second try", async () => {
    const { stage: seen, asked } = await openMessages(() => [...empty(4), ...whole("thought")]);
    seen.write("hard");
    await seen.pass(600);
    expect(asked).toHaveLength(2);
    expect(seen.texts()).toEqual([expect.stringContaining("I ask once more"), "thought"]);
  });

  test("an answer that trickles for hours is cut, and not asked for again", async () => {
    const thinking = { type: "content_block_delta", index: 0, delta: { type: "thinking_delta", thinking: "hm" } };
    const block = { type: "content_block_start", index: 0, content_block: { type: "thinking", thinking: "" } };
    const trickle = Array.from({ length: 200 }, () => [60_000, thinking]).flat();
    const { stage: seen, asked } = await openMessages(() => [start, block, ...trickle]);
    seen.write("hard");
    await seen.pass(4 * 3600);
    expect(asked).toHaveLength(1);
    expect(seen.texts()).toEqual([
      expect.stringContaining("still at work on that"),
      expect.stringContaining("length limit on thinking"),
    ]);
  });

  test("what was paid for counts, though it broke off or was stopped: by the endpoint's word, or by what had come", async () => {
    const dear = { type: "message_start", message: { id: "msg_1", usage: { input_tokens: 1_000 } } };
    const { stage: seen } = await openMessages((prompt) =>
      prompt === "bad" ? [dear, text("x".repeat(299)), lost] : [dear, text("x".repeat(599)), 3_600_000],
    );
    seen.write("bad");
    await seen.pass(3600);
    seen.write("/usage");
    await seen.pass(10);
    expect(seen.texts().at(-1)).toContain("Today: 3,000 tokens in, 300 out");
    seen.write("long");
    await seen.pass(10);
    seen.write("/stop");
    await seen.pass(10);
    seen.write("/usage");
    await seen.pass(10);
    expect(seen.texts().at(-1)).toContain("Today: 4,000 tokens in, 500 out");
    seen.write("long");
    await seen.pass(10);
    seen.write("/forget");
    await seen.pass(10);
    expect(seen.daemon.store.sessions.active("self")).toBeNull();
    expect(seen.daemon.store.db.all("SELECT id FROM events")).toEqual([]);
  });

  test("what a day may cost holds where the conversation is kept here, too", async () => {
    const dear = { type: "message_start", message: { id: "msg_1", usage: { input_tokens: 1_000_000 } } };
    const { stage: seen, asked } = await openMessages(() => [dear, text("dear"), stop], { spendLimit: "3" });
    for (const question of ["one", "two", "three"]) {
      seen.write(question);
      await seen.pass(10);
    }
    expect(asked).toHaveLength(2);
    expect(seen.texts().at(-1)).toMatch(/cost \$4\.00 of the \$3\.00 allowed.* So this one was not asked/u);
  });

  test("the count outlives a restart", async () => {
    const { stage: seen, asked } = await openMessages(() => [start, lost]);
    seen.write("bad");
    await seen.pass(30);
    await seen.restart();
    await seen.pass(3600);
    expect(asked).toHaveLength(3);
    expect(seen.texts()).toHaveLength(1);
  });

  test("a reply with a stop reason and a clean end is whole without its last frame", async () => {
    const { stage: seen, asked } = await openMessages(() => [start, text("All of it."), stop]);
    seen.write("hello");
    await seen.pass(60);
    expect(seen.texts()).toEqual(["All of it."]);
    expect(asked).toHaveLength(1);
  });

  test("/model without a list of models says so at once, and holds up nothing", async () => {
    const { stage: seen } = await openMessages(() => whole("fine"));
    seen.write("/model");
    seen.write("/model my-own");
    seen.write("/new");
    seen.write("hello");
    await seen.pass(10);
    expect(seen.texts()).toEqual([
      expect.stringContaining("cannot be had now"),
      expect.stringContaining("Model: my-own"),
      "New conversation.",
      "fine",
    ]);
  });
});

describe("a prompt that Claude's side dies of", () => {
  for (const code of ["model_request_failed_error", "unknown_error"])
    test(`${code}, after its own retries: asked twice, one sentence, and the next message is answered`, async () => {
      await using bench = await openBench({
        script: (prompt) => (prompt === "bad" ? [{ fail: code, retry: "exhausted" }] : [{ say: `re: ${prompt}` }]),
      });
      bench.signal.owner.write("bad");
      await bench.until("the end", () => isSettled(bench));
      await bench.pass(3_600_000);
      expect(bench.posts).toEqual(["bad", "bad"]);
      expect(bench.texts()).toEqual([expect.stringMatching(/failed on that message, twice/u)]);
      bench.signal.owner.write("good");
      await bench.until("the answer", () => isSettled(bench));
      expect(bench.texts().slice(1)).toEqual(["re: good"]);
      expect(bench.world.sessions()).toHaveLength(1);
    });

  test("with its session: asked once, said by its name and not as closed elsewhere, and the next message is answered", async () => {
    await using bench = await openBench({
      script: (prompt) =>
        prompt === "bad" ? [{ fail: "model_request_failed_error", retry: "terminal" }] : [{ say: `re: ${prompt}` }],
    });
    bench.signal.owner.write("bad");
    await bench.until("the end", () => isSettled(bench));
    await bench.pass(3_600_000);
    expect(bench.posts).toEqual(["bad"]);
    expect(bench.texts()).toEqual([expect.stringMatching(/session ended over that message: Claude failed/u)]);
    bench.signal.owner.write("good");
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts().slice(1)).toEqual(["re: good"]);
    expect(bench.world.sessions()).toHaveLength(2);
  });

  test("an overload passes: it is asked until it is over", async () => {
    let isBusy = true;
    await using bench = await openBench({
      script: (prompt) =>
        isBusy ? [{ fail: "model_overloaded_error", retry: "exhausted" }] : [{ say: `re: ${prompt}` }],
    });
    bench.signal.owner.write("hello");
    await bench.pass(10 * 60_000);
    isBusy = false;
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts()).toEqual([expect.stringContaining("overloaded"), "re: hello"]);
  });
});

describe("a server that fails on a prompt", () => {
  const failed = new BridgeError("claude_unreachable", "Cannot ask Claude as the Claude API answered 500", {
    isServerFault: true,
  });
  const said = [expect.stringContaining("can't reach Claude"), expect.stringContaining("failed on that message")];

  test("and answers others: a few requests, an end in words, and the next message is answered", async () => {
    let words = 0;
    const { stage: seen, asked } = await openMessages(
      (prompt) => (prompt === "bad" ? [failed] : whole("fine")),
      {},
      async () => void words++,
    );
    seen.write("bad");
    seen.write("good");
    await seen.pass(300);
    expect(asked.map(({ prompt }) => prompt)).toEqual(["bad", "bad", "bad", "bad", "bad", "good"]);
    expect(words).toBe(2);
    expect(seen.texts()).toEqual([...said, "fine"]);
  });

  test("and on all others: the prompt waits until that is over", async () => {
    let isOver = false;
    const { stage: seen, asked } = await openMessages(() => (isOver ? whole("fine") : [failed]));
    seen.write("bad");
    await seen.pass(6 * 3600);
    expect(asked.length).toBeGreaterThan(300);
    isOver = true;
    await seen.pass(90);
    expect(seen.texts()).toEqual([said[0], "fine"]);
  });

  test("where the conversation is kept at Claude, and a look at it goes through: the same, after some minutes", async () => {
    await using bench = await openBench({ script: (prompt) => [{ say: `re: ${prompt}` }] });
    bench.signal.owner.write("first");
    await bench.until("the first answer", () => isSettled(bench));
    for (let times = 0; times < 40; times++)
      bench.claude().fail("post", { kind: "refuse", code: "claude_unreachable", isServerFault: true });
    bench.signal.owner.write("bad");
    await bench.pass(5 * 60_000);
    expect(bench.texts()).toEqual(["re: first", said[0]]);
    await bench.pass(60 * 60_000);
    expect(bench.texts()).toEqual(["re: first", ...said]);
    // Of what is tried for long the log says ever less.
    const logged = bench.log.filter((line) => line.includes(" turn failed "));
    expect(logged.length).toBeGreaterThan(30);
    expect(logged.filter((line) => line.startsWith("warn")).length).toBeLessThan(8);
  });
});

test.each(["true", "false"])(
  "Claude works for long without a word (progress %s): within five minutes its person sees that it does, once",
  async (progress) => {
    await using bench = await openBench({
      flags: { progress },
      script: (prompt) =>
        prompt === "dig"
          ? [{ pauseMs: 60_000 }, { use: "bash", input: { command: "make" } }, { pauseMs: 3_600_000 }, { say: "Dug." }]
          : [{ say: `re: ${prompt}` }],
    });
    bench.signal.owner.write("dig");
    await bench.pass(5 * 60_000);
    const sign = progress === "true" ? "🔧 run: make …" : expect.stringContaining("still at work on that");
    expect(bench.texts()).toEqual([sign]);
    await bench.pass(3_600_000);
    bench.signal.owner.write("quick");
    await bench.until("the next answer", () => isSettled(bench));
    expect(bench.texts()).toEqual([progress === "true" ? "(see below)" : sign, "Dug.", "re: quick"]);
  },
);

test.each([
  ["an error", [{ fail: "tool_use_limit_reached_error", retry: "exhausted" }]],
  ["a stop", [{ stop: { kind: "other", name: "tool_use_limit_reached" } }]],
] as const)(
  "Claude has used as many tools as it may, told by %s: that is said, and not asked again",
  async (_, end) => {
    await using bench = await openBench({ script: (prompt) => (prompt === "dig" ? end : [{ say: `re: ${prompt}` }]) });
    for (const text of ["dig", "next"]) bench.signal.owner.write(text);
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts()).toEqual([expect.stringContaining('Say "go on"'), "re: next"]);
    expect(bench.posts).toHaveLength(2);
  },
);

test("how often an outage was tried is to be seen, and what ends it", async () => {
  await using bench = await openBench({ script: () => [{ fail: "model_overloaded_error", retry: "exhausted" }] });
  bench.signal.owner.write("hello");
  await bench.pass(10 * 60_000);
  const tries = bench.posts.length;
  expect(tries).toBeGreaterThan(10);
  bench.signal.owner.write("/status");
  await bench.pass(1_000);
  expect(bench.texts().at(-1)).toContain(
    `Waiting for an answer here: 1\nThe first was tried ${tries} times so far; /stop drops it.`,
  );
  bench.signal.owner.write("/stop");
  bench.signal.owner.write("/status");
  await bench.pass(1_000);
  expect(bench.texts().at(-1)).toContain("Nothing waits for an answer here.");
});

test("a command that Claude would have to hear of ends within seconds while Claude hangs; so does what is behind it", async () => {
  await using bench = await openBench({ script: () => [{ pauseMs: 600_000 }, { say: "late" }] });
  bench.signal.owner.write("long");
  await bench.until("the prompt", () => bench.posts.length === 1);
  bench.claude().fail("check", { kind: "hang" });
  bench.claude().fail("post", { kind: "hang" });
  for (const command of ["/model", "/stop", "/status"]) bench.signal.owner.write(command);
  await bench.pass(15_000);
  expect(bench.texts()).toEqual([
    expect.stringContaining("Model: "),
    "Stopped.",
    expect.stringContaining("Nothing waits for an answer"),
  ]);
});

test.each(["archived", "ended without a reason", "deleted"])(
  "a prompt whose session is %s each time is asked twice, and ends in words; the next message is answered",
  async (how) => {
    const there: { bench: Bench | null } = { bench: null };
    await using bench = await openBench({
      script(prompt) {
        const world = there.bench?.world;
        const session = world?.sessions().at(-1);
        if (prompt !== "bad" || !world || !session) return [{ say: `re: ${prompt}` }];
        queueMicrotask(() => {
          if (how === "deleted") return world.delete(session.id);
          world.archive(session.id);
          if (how === "archived") return;
          session.isArchived = false;
          const event = { id: `over ${session.id}`, at: bench.clock.now(), type: "terminated" } as const;
          session.log.push(event);
          for (const listener of session.listeners) listener({ kind: "event", event });
        });
        return [{ hold: new Promise<void>(() => undefined) }];
      },
    });
    there.bench = bench;
    bench.signal.owner.write("bad");
    await bench.until("the end", () => isSettled(bench));
    expect(bench.posts).toEqual(["bad", "bad"]);
    expect(bench.texts()).toEqual([
      expect.stringMatching(how === "ended without a reason" ? /broke off/u : /closed elsewhere/u),
      expect.stringContaining("failed on that message, twice"),
    ]);
    bench.signal.owner.write("good");
    await bench.until("the answer", () => isSettled(bench));
    expect(bench.texts().at(-1)).toBe("re: good");
  },
);

test("a model that calls a tool over and over is stopped after a hundred calls, in words; the next message is answered", async () => {
  const call = { call: "local_read", input: {} } as const;
  await using bench = await openBench({
    script: (prompt) => (prompt === "round" ? Array.from({ length: 300 }, () => call) : [{ say: `re: ${prompt}` }]),
  });
  bench.signal.owner.write("round");
  await bench.until("the end", () => isSettled(bench));
  await bench.pass(600_000);
  const results = bench.world.sessions().flatMap(({ log }) => log.filter(({ type }) => type === "tool_result"));
  expect(results.length).toBeLessThanOrEqual(101);
  expect(bench.texts()).toEqual([expect.stringContaining("used its tools 100 times")]);
  bench.signal.owner.write("good");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: good");
});

test("a turn that rests for what cannot be answered is stopped, in words; the next message is answered", async () => {
  await using bench = await openBench({
    script: (prompt) =>
      prompt === "odd" ? [{ stop: { kind: "requires_action", eventIds: ["sevt_odd"] } }] : [{ say: `re: ${prompt}` }],
  });
  bench.signal.owner.write("odd");
  await bench.until("the end", () => isSettled(bench));
  expect(bench.texts()).toEqual([expect.stringContaining("cannot be answered from here")]);
  bench.signal.owner.write("good");
  await bench.until("the answer", () => isSettled(bench));
  expect(bench.texts().at(-1)).toBe("re: good");
});
