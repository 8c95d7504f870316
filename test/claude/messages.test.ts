import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import fc from "fast-check";
import { createClaudeApi } from "../../src/claude/api.ts";
import type { Backend } from "../../src/claude/backend.ts";
import { createMessagesBackend, estimateTokens, toHistory, type MessagesDeps } from "../../src/claude/messages.ts";
import type { SessionEvent, StopReason } from "../../src/core/model.ts";
import { createLocal } from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { createFakeClock, type FakeClock } from "../doubles/fake-clock.ts";

const never = new AbortController().signal;
let count = 0;
const said = (type: "prompt" | "reply", text: string): SessionEvent => ({ id: `h${++count}`, at: count, type, text });

describe("toHistory", () => {
  test("takes turns and begins with the user", () => {
    const log = [
      said("reply", "stray"),
      said("prompt", "a"),
      said("prompt", "b"),
      said("reply", "c"),
      said("reply", "d"),
      said("prompt", " "),
    ];
    expect(toHistory(log, 1_000)).toEqual([
      { role: "user", text: "a\n\nb" },
      { role: "assistant", text: "c\n\nd" },
    ]);
  });

  test("leaves out what Claude declined: with it, it would decline whatever comes next", () => {
    const end = (stop: StopReason): SessionEvent => ({ id: `h${++count}`, at: count, type: "idle", stop });
    const turns = [
      [said("prompt", "a"), said("reply", "b"), end({ kind: "end_turn" })],
      [said("prompt", "bad"), said("reply", "well, fir"), end({ kind: "refusal", category: "bio" })],
      [said("prompt", "c"), end({ kind: "max_tokens" }), said("prompt", "d")],
    ];
    expect(toHistory(turns.flat(), 1_000)).toEqual([
      { role: "user", text: "a" },
      { role: "assistant", text: "b" },
      { role: "user", text: "c\n\nd" },
    ]);
  });

  test("keeps within the budget, loses the oldest first, and always begins with the user", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom("prompt" as const, "reply" as const), fc.string({ maxLength: 40 }))),
        fc.integer({ min: 0, max: 400 }),
        (entries, tokensMax) => {
          const log = entries.map(([type, text]) => said(type, text));
          const history = toHistory(log, tokensMax);
          const tokens = history.reduce((sum, { text }) => sum + estimateTokens(text), 0);
          expect(tokens).toBeLessThanOrEqual(tokensMax);
          expect(history[0]?.role ?? "user").toBe("user");
          for (const [index, { role }] of history.entries()) expect(role).toBe(index % 2 === 0 ? "user" : "assistant");
          const whole = toHistory(log, Infinity);
          expect(whole.slice(whole.length - history.length)).toEqual(history);
        },
      ),
    );
  });

  test("moves its beginning seldom, so that the API can cache it", () => {
    const log: SessionEvent[] = [];
    const starts = new Set<string>();
    for (let turn = 0; turn < 40; turn++) {
      log.push(said("prompt", `question ${turn}`), said("reply", `answer ${turn}`));
      starts.add(toHistory(log, 300)[0]?.text ?? "");
    }
    expect(starts.size).toBeLessThan(12);
  });
});

describe("messages", () => {
  let clock: FakeClock;
  let double: ClaudeDouble;
  let local: ReturnType<typeof createLocal>;
  let ids: number;
  const start = (change: Partial<MessagesDeps> = {}): Backend =>
    createMessagesBackend({
      api: createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock }),
      clock,
      newId: () => `id${++ids}`,
      ...change,
    });
  type Sent = { messages: { role: string; content: unknown }[]; [key: string]: unknown };
  const sent = (): Sent => double.requests.findLast(({ path }) => path === "/v1/messages")?.body as Sent;

  beforeEach(async () => {
    ids = 0;
    clock = createFakeClock();
    double = await startClaudeDouble({ clock });
    local = createLocal({ backend: start(), clock });
  });
  afterEach(() => double.close());

  test("stores prompt, reply, usage and end in one step, in this order", async () => {
    const { steps } = await local.ask("hello");
    const events = steps.flatMap((step) => (step.kind === "events" ? [step.events] : []));
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject([
      { id: "local:id1", type: "prompt", text: "hello" },
      { type: "reply", text: "You said: hello" },
      { type: "usage", inputTokens: 20, outputTokens: 41 },
      { type: "idle", stop: { kind: "end_turn" } },
    ]);
  });

  test("sends the conversation so far, the system prompt, and lets the API cache it", async () => {
    await local.ask("one");
    await local.ask("two");
    expect(sent()).toMatchObject({
      model: "claude-sonnet-5-5",
      system: "You answer in a Signal chat.",
      cache_control: { type: "ephemeral" },
      stream: true,
      messages: [
        { role: "user", content: "one" },
        { role: "assistant", content: "You said: one" },
        { role: "user", content: [{ type: "text", text: "two" }] },
      ],
    });
  });

  test("puts a prompt that was never answered before the next one", async () => {
    local.store([{ id: "lonely", at: clock.now(), type: "prompt", text: "are you there?" }]);
    await local.ask("hello?");
    expect(sent().messages).toEqual([
      {
        role: "user",
        content: [
          { type: "text", text: "are you there?" },
          { type: "text", text: "hello?" },
        ],
      },
    ]);
  });

  test("leaves the oldest out when the history is too long", async () => {
    local = createLocal({ backend: start({ historyTokensMax: 60 }), clock });
    for (let turn = 0; turn < 12; turn++) expect((await local.ask(`number ${turn}`)).fault).toBeNull();
    expect(sent().messages.length).toBeLessThan(12);
    expect(JSON.stringify(sent().messages)).not.toContain("number 0");
  });

  test("knows every way in which a reply stops", async () => {
    const stops = [
      { kind: "max_tokens" },
      { kind: "context_exceeded" },
      { kind: "refusal", category: "bio" },
      { kind: "other", name: "tool_use" },
    ] as const;
    for (const stop of stops) {
      double.setScript(() => [{ say: "so far" }, { stop }]);
      expect((await local.ask("go")).progress).toMatchObject({ kind: "ended", stop });
    }
  });

  test("goes on after a pause, as one reply under the first id", async () => {
    double.setScript((prompt) =>
      prompt === "(continue)"
        ? [{ say: "second half" }]
        : [{ say: "first half, " }, { stop: { kind: "other", name: "pause_turn" } }],
    );
    const { steps } = await local.ask("long");
    expect(local.replies()).toEqual(["first half, second half"]);
    expect(sent().messages.at(-1)).toMatchObject({
      role: "assistant",
      content: [{ type: "text", text: "first half, " }],
    });
    expect(new Set(steps.flatMap((step) => (step.kind === "delta" ? [step.eventId] : []))).size).toBe(1);
    expect(steps.flatMap((step) => (step.kind === "events" ? step.events : []))).toContainEqual(
      expect.objectContaining({ type: "usage", inputTokens: 40, outputTokens: 82 }),
    );
  });

  test("does not take an endpoint at its word that every message has the same id", async () => {
    double.engine.newId = () => "msg_same";
    double.setScript((prompt) => [{ write: [`re: ${prompt}`] }]);
    for (const prompt of ["a", "b", "c"]) await local.ask(prompt);
    expect(local.replies()).toEqual(["re: a", "re: b", "re: c"]);
  });

  test("stores nothing of a reply that broke off: end, reset, or an error inside the stream", async () => {
    for (const isClean of [true, false]) {
      double.fail(/messages$/u, { kind: "cutStream", bytes: 600, isClean });
      const outcome = await local.ask("hello");
      expect(outcome.fault?.code).toBe("claude_stream_lost");
      expect(outcome.steps.some(({ kind }) => kind === "events" || kind === "asked")).toBe(false);
    }
    double.setScript(() => [{ say: "well" }, { fail: "overloaded_error", retry: "exhausted" }]);
    expect((await local.ask("hello")).fault?.code).toBe("claude_overloaded");
    expect(local.replies()).toEqual([]);
  });

  test("says that the model is not there, and that there is too much", async () => {
    double.fail(/messages$/u, { kind: "status", status: 404, type: "not_found_error" });
    expect((await local.ask("hello")).fault?.code).toBe("claude_model");
    double.fail(/messages$/u, { kind: "status", status: 413, type: "request_too_large" });
    expect((await local.ask("hello")).fault?.code).toBe("claude_too_large");
  });

  test("gives back what the log has when a turn that is over is asked again", async () => {
    await local.ask("hello");
    const before = double.requests.length;
    expect((await local.again()).progress.kind).toBe("ended");
    expect(double.requests.length).toBe(before);
    expect(local.replies()).toHaveLength(1);
  });

  test("keeps the order of the log when the clock is set back", async () => {
    await local.ask("one");
    const back = createFakeClock(clock.now() - 3_600_000);
    const events: SessionEvent[] = [];
    const prompt = { text: "two", files: [], state: { kind: "new" } } as const;
    for await (const step of start({ clock: back }).turn(local.view(), prompt, never))
      if (step.kind === "events") events.push(...step.events);
    expect(events.every((event) => (event.at ?? 0) > (local.cursor() ?? 0))).toBe(true);
  });

  test("follows nothing, since nothing runs elsewhere", async () => {
    expect((await local.follow()).steps).toEqual([]);
    expect(double.requests).toEqual([]);
  });
});
