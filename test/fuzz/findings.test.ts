/** What fuzzing found, each as the smallest input that showed it. */
import { describe, expect, test } from "bun:test";
import { createClaudeApi } from "../../src/claude/api.ts";
import { toSessionEvent } from "../../src/claude/wire.ts";
import { claudeFailure } from "../../src/claude/failure.ts";
import { addFrame, emptyReply } from "../../src/claude/response.ts";
import { systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { decodeMetadata } from "../../src/core/metadata.ts";
import { nativeTargets } from "./native.ts";
import { fuzz } from "./run.ts";
import { targets } from "./targets.ts";

const unsayable = { toString: 1, valueOf: null };

test("a stream that is no JSON is a fault, and nothing of it is printed", async () => {
  const printed: unknown[] = [];
  const { error } = console;
  console.error = (...args: unknown[]): void => void printed.push(args);
  try {
    const api = createClaudeApi({ apiKey: "k", baseUrl: null, clock: systemClock });
    const body = 'event: agent.message\ndata: {"type":"agent.message","content":"private words\n\n';
    const response = new Response(body, { headers: { "content-type": "text/event-stream" } });
    const frames = await api.stream(
      { what: "follow" },
      () => ({ asResponse: () => Promise.resolve(response) }),
      new AbortController().signal,
    );
    const fault = await Array.fromAsync(frames).catch((caught: unknown) => caught);
    expect(fault).toBeInstanceOf(BridgeError);
    expect(printed).toEqual([]);
  } finally {
    console.error = error;
  }
});

describe("a hostile answer of Claude", () => {
  test.each(["constructor", "__proto__", unsayable])("has no delta of type %p", (type) => {
    const reply = emptyReply();
    addFrame(reply, { type: "content_block_start", index: 0, content_block: { type: "text", text: "x" } });
    addFrame(reply, { type: "content_block_delta", index: 0, delta: { type, text: "y" } });
    expect(reply.blocks).toEqual([{ type: "text", text: "x" }]);
  });

  test("is not taken for a cost, nor for the id of a question, where it cannot be said", () => {
    const usage = { type: "session.usage", id: "e", usage: { list_cost: { amount: unsayable } } };
    expect(toSessionEvent(usage)).toMatchObject({ costCents: null });
    const idle = {
      type: "session.status_idle",
      id: "e",
      stop_reason: { type: "requires_action", event_ids: [unsayable, "a"] },
    };
    expect(toSessionEvent(idle)).toMatchObject({ stop: { kind: "requires_action", eventIds: ["a"] } });
  });

  test("is not kept where it is nested too deep to be written down", () => {
    let input: unknown = "x";
    for (let level = 0; level < 100_000; level++) input = [input];
    expect(toSessionEvent({ type: "agent.tool_use", id: "e", name: "bash", input })).toMatchObject({ input: null });
  });

  test.each(["constructor", "toString", "__proto__"])("with the error code %p is a failure like any other", (word) => {
    const error = { status: 400, type: word, errorCode: word };
    expect(claudeFailure({ what: "ask" }, error).code).toBe("claude_request");
  });

  test("cannot make us wait for more than a day", () => {
    const headers = new Headers({ "retry-after": "1e300" });
    expect(claudeFailure({ what: "ask" }, { status: 429, headers }).retryAfterMs).toBe(24 * 3_600_000);
  });

  test("has no metadata longer than the API's own limit", () => {
    expect(decodeMetadata({ "c.title": `~${"[".repeat(300)}1${"]".repeat(300)}` }).context).toEqual({});
  });
});

test("10,000 damaged inputs: every parser answers in its own words, in time and in bounds", async () => {
  const { findings, runs } = await fuzz([...targets, ...(await nativeTargets())], { seed: 1, runs: 10_000 });
  expect(findings).toEqual([]);
  expect(runs).toBe(10_000);
}, 60_000);
