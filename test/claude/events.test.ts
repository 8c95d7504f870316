import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { addFrame, emptyReply, shownText } from "../../src/claude/response.ts";
import { createFrameReader, toMetadata, toSessionEvent } from "../../src/claude/wire.ts";
import type { SessionEvent } from "../../src/core/model.ts";
import { openLog, progressOf, readEntry, trackAll } from "../../src/core/turn.ts";

const read = (name: string): string => readFileSync(new URL(`../fixtures/claude/${name}`, import.meta.url), "utf8");
const page = (name: string): unknown[] => (JSON.parse(read(name)) as { data: unknown[] }).data;
const sse = (name: string): unknown[] =>
  read(name)
    .split("\n")
    .flatMap((line) => (line.startsWith("data: ") ? [JSON.parse(line.slice(6)) as unknown] : []));
const id = (n: number): string => `sevt_01SB${String(n).padStart(20, "0")}`;
const events = (frames: readonly unknown[]): SessionEvent[] =>
  frames.map(createFrameReader()).flatMap((frame) => {
    return frame?.kind === "event" ? [frame.event] : [];
  });

describe("wire events", () => {
  test("fixture 07: a whole turn with previews, a question and its answer", () => {
    const frames = sse("07-sse-turn-tool-confirmation.sse").map(createFrameReader());
    const deltas = frames.flatMap((frame) => (frame?.kind === "delta" ? [frame] : []));
    expect(new Set(deltas.map(({ eventId }) => eventId))).toEqual(new Set([id(13)]));
    const log = events(sse("07-sse-turn-tool-confirmation.sse"));
    expect(log.map(({ type }) => type).join(" ")).toBe(
      "running prompt other other tool_use other usage idle confirmation running tool_result other reply other usage idle",
    );
    expect(deltas.map(({ text }) => text).join("")).toBe("Done: notes.md now has a TODO line.");
    expect(log.find(({ type }) => type === "reply")).toEqual({
      id: id(13),
      at: Date.parse("2026-11-23T18:00:44Z"),
      type: "reply",
      text: "Done: notes.md now has a TODO line.",
    });
    expect(log[4]).toMatchObject({ type: "tool_use", name: "edit", isAsk: true, input: { file_path: "notes.md" } });
    expect(log[6]).toEqual({
      id: id(7),
      at: Date.parse("2026-11-23T18:00:13.200Z"),
      type: "usage",
      inputTokens: 1200,
      outputTokens: 95,
      costCents: 1,
      isTotal: true,
    });
    expect(log[8]).toMatchObject({ type: "confirmation", toolUseId: id(5), isAllowed: true });
    expect(log[10]).toMatchObject({ type: "tool_result", toolUseId: id(5), isError: false });
    const until = (n: number) => trackAll(progressOf(id(1)), log.slice(0, n));
    expect(until(1).kind).toBe("queued");
    expect(until(2).kind).toBe("running");
    expect(until(8).kind).toBe("running");
    expect(log.slice(0, 8).reduce(readEntry, openLog)).toMatchObject({ isWaiting: true, uses: [{ id: id(5) }] });
    expect(until(9).kind).toBe("running");
    expect(until(16)).toMatchObject({ kind: "ended", stop: { kind: "end_turn" } });
  });

  test("fixtures 08 and 09: the listing says the same as the stream, and its queued tail is queued", () => {
    const listed = [...page("08-events-page-1.json"), ...page("09-events-page-2-queued-tail.json")].map(toSessionEvent);
    expect(listed.slice(0, -1)).toEqual(events(sse("07-sse-turn-tool-confirmation.sse")));
    expect(listed.at(-1)).toEqual({ id: id(17), at: null, type: "prompt", text: "thanks" });
  });

  test("fixture 10: the echo of a queued prompt has no time", () => {
    expect(page("10-events-send-response.json").map(toSessionEvent)).toEqual([
      { id: id(17), at: null, type: "prompt", text: "thanks" },
    ]);
  });

  test("fixture 11: errors, a turn given up, and metadata changed elsewhere", () => {
    const log = events(sse("11-sse-session-error.sse"));
    expect(log).toMatchObject([
      { type: "error", code: "model_overloaded_error", retry: "retrying" },
      { type: "other", name: "session.status_rescheduled" },
      { type: "error", code: "model_overloaded_error", retry: "exhausted" },
      { type: "idle", stop: { kind: "retries_exhausted" } },
      { type: "updated", title: null, metadata: { "sb.schema": "1", "c.topic": "mhq8x9k100d3f1~refunds" } },
    ]);
    const asked: SessionEvent = { id: "p", at: null, type: "prompt", text: "hi" };
    expect(trackAll(progressOf("p"), [asked, ...log]).kind).toBe("flushed");
  });

  test("fixture 15: a Messages stream; a tool use is kept as it came", () => {
    const reply = emptyReply();
    for (const frame of sse("15-messages-stream-tool-use.sse")) addFrame(reply, frame);
    expect(shownText(reply.blocks)).toBe("Let me look.");
    expect(reply).toMatchObject({
      stopReason: "tool_use",
      isStopped: true,
      used: { input: 20, output: 41 },
    });
    expect(shownText(reply.blocks)).toBe("Let me look.");
    expect(reply.blocks.at(-1)).toMatchObject({ type: "tool_use" });
  });

  test("the kinds that no fixture shows", () => {
    const at = "2026-11-23T18:00:00.123456Z";
    const decode = (wire: object): SessionEvent | null => toSessionEvent({ id: "x", processed_at: at, ...wire });
    const idle = (stop_reason: object, stop_details: object | null = null) =>
      decode({ type: "session.status_idle", stop_reason, stop_details });
    expect(decode({ type: "session.status_terminated" })).toEqual({
      id: "x",
      at: Date.parse("2026-11-23T18:00:00.123Z"),
      type: "terminated",
    });
    expect(idle({ type: "refusal" }, { type: "refusal", category: "bio" })).toMatchObject({
      stop: { kind: "refusal" },
    });
    expect(idle({ type: "budget_reached" })).toMatchObject({ stop: { kind: "budget_reached" } });
    expect(idle({ type: "from_the_future" })).toMatchObject({ stop: { kind: "other", name: "from_the_future" } });
    expect(
      decode({ type: "agent.mcp_tool_use", name: "find", input: {}, evaluated_permission: "allow" }),
    ).toMatchObject({ isAsk: false });
    expect(decode({ type: "agent.mcp_tool_result", mcp_tool_use_id: "m", is_error: true })).toMatchObject({
      toolUseId: "m",
      isError: true,
    });
    expect(decode({ type: "user.custom_tool_result", custom_tool_use_id: "c" })).toMatchObject({ toolUseId: "c" });
    expect(decode({ type: "user.tool_confirmation", tool_use_id: "t", result: "deny" })).toMatchObject({
      isAllowed: false,
    });
    expect(decode({ type: "session.updated", title: "New" })).toMatchObject({ title: "New", metadata: null });
    expect(decode({ type: "session.usage", usage: {} })).toMatchObject({ inputTokens: 0, costCents: null });
    expect(decode({ type: "user.interrupt" })).toMatchObject({ type: "other", name: "user.interrupt" });
    const read = createFrameReader();
    expect(read({ type: "session.deleted", id: "x", processed_at: at })).toEqual({ kind: "deleted" });
    expect(read({ type: "event_start", event: { type: "agent.thinking", id: "t" } })).toBeNull();
    expect(toSessionEvent({ type: "user.interrupt" })).toBeNull();
  });

  test("joins text that citations cut into blocks, and leaves other blocks out", () => {
    const content = [
      { type: "text", text: "So it is" },
      { type: "redacted" },
      { type: "text", text: ", as they say." },
    ];
    expect(toSessionEvent({ type: "agent.message", id: "x", content })).toMatchObject({
      text: "So it is, as they say.",
    });
  });

  test("never throws, whatever comes", () => {
    const types = [
      "user.message",
      "agent.message",
      "session.error",
      "session.status_idle",
      "event_delta",
      "event_start",
      "session.usage",
      "session.updated",
    ];
    fc.assert(
      fc.property(
        fc.dictionary(
          fc.constantFrom(
            "id",
            "type",
            "content",
            "error",
            "event",
            "delta",
            "usage",
            "stop_reason",
            "metadata",
            "processed_at",
          ),
          fc.oneof(fc.jsonValue(), fc.constantFrom(...types)),
        ),
        (wire) => {
          createFrameReader()(wire);
          toSessionEvent(wire);
        },
      ),
    );
    for (const wire of [null, undefined, 7, "text", [], "silent"]) expect(createFrameReader()(wire)).toBeNull();
    expect(toMetadata({ a: "1", b: 2, c: null })).toEqual({ a: "1" });
  });
});
