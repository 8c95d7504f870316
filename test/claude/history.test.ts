import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { assistantRaw, estimateTokens, toHistory, userRaw, type Message } from "../../src/claude/history.ts";
import type { JsonValue, SessionEvent, StopReason } from "../../src/core/model.ts";

const model = "claude-sonnet-5-5";
let count = 0;
const said = (type: "prompt" | "reply", text: string): SessionEvent => ({ id: `h${++count}`, at: count, type, text });
const end = (stop: StopReason = { kind: "end_turn" }): SessionEvent => ({
  id: `h${++count}`,
  at: count,
  type: "idle",
  stop,
});
const raw = (name: string, value: JsonValue): SessionEvent => ({
  id: `h${++count}`,
  at: count,
  type: "other",
  name,
  raw: value,
});
const history = (log: readonly SessionEvent[], tokensMax = 100_000, of = model): Message[] =>
  toHistory(log.toReversed(), of, tokensMax).messages;
const user = (...texts: string[]) => ({ role: "user", content: texts.map((text) => ({ type: "text", text })) });
const claude = (...texts: string[]) => ({ ...user(...texts), role: "assistant" });
const picture = (size: number) => ({
  type: "image",
  source: { type: "base64", media_type: "image/png", data: "A".repeat(size) },
});
const thought = { type: "thinking", thinking: "hm", signature: "sig" };

describe("toHistory", () => {
  test("takes turns and begins with the user: no answer without its prompt", () => {
    const log = [
      said("reply", "stray"),
      said("prompt", "a"),
      said("prompt", "b"),
      said("reply", "c"),
      said("reply", "d"),
      said("prompt", " "),
    ];
    expect(history(log)).toEqual([user("a", "b"), claude("c", "d")] as never);
  });

  test("leaves out what Claude declined: with it, it would decline whatever comes next", () => {
    const turns = [
      [said("prompt", "a"), said("reply", "b"), end()],
      [said("prompt", "bad"), said("reply", "well, fir"), end({ kind: "refusal" })],
      [said("prompt", "c"), end({ kind: "max_tokens" }), said("prompt", "d")],
    ];
    expect(history(turns.flat())).toEqual([user("a"), claude("b"), user("c", "d")] as never);
  });

  test("keeps within the budget, loses the oldest first, and takes turns", () => {
    const entry = fc.tuple(fc.constantFrom("prompt" as const, "reply" as const), fc.string({ maxLength: 40 }));
    fc.assert(
      fc.property(fc.array(entry), fc.integer({ min: 0, max: 400 }), (entries, tokensMax) => {
        const log = entries.map(([type, text]) => said(type, text));
        const kept = history(log, tokensMax);
        const texts = (messages: readonly Message[]): string[] =>
          messages.flatMap(({ content }) => content.map((block) => block["text"] as string));
        const tokens = texts(kept).reduce((sum, text) => sum + estimateTokens(text), 0);
        expect(tokens).toBeLessThanOrEqual(tokensMax);
        for (const [index, { role }] of kept.entries()) expect(role).toBe(index % 2 === 0 ? "user" : "assistant");
        const whole = texts(history(log, Infinity));
        expect(whole.slice(whole.length - texts(kept).length)).toEqual(texts(kept));
      }),
    );
  });

  test.each([
    ["than there is room for", "an answer of some length", 1_000, 200],
    ["than five hundred turns, however short", "ok", Infinity, 1_010],
  ])("reads no further back %s", (_, answer, tokensMax, readMax) => {
    let read = 0;
    const endless = function* (): Generator<SessionEvent> {
      for (;;) {
        read += 2;
        yield said("reply", answer);
        yield said("prompt", "a question");
      }
    };
    expect(toHistory(endless(), model, tokensMax).messages.length).toBeGreaterThan(4);
    expect(read).toBeLessThan(readMax);
  });

  test("moves its beginning seldom, so that the API can cache it", () => {
    const log: SessionEvent[] = [];
    const starts = new Set<unknown>();
    for (let turn = 0; turn < 200; turn++) {
      log.push(said("prompt", `question ${turn}`), said("reply", `answer ${turn}`));
      starts.add(history(log, 600)[0]?.content[0]?.["text"]);
    }
    expect(starts.size).toBeLessThan(60);
  });

  test("gives whole blocks back unchanged, in place of the texts beside them", () => {
    const content = [thought, { type: "text", text: "It is 7.", citations: [] }];
    const files = [picture(8), { type: "text", text: "look" }];
    const log = [
      said("prompt", "look"),
      raw(userRaw, { content: files }),
      raw(assistantRaw, { model, content }),
      said("reply", "It is 7."),
      end(),
    ];
    expect(history(log)).toEqual([
      { role: "user", content: files },
      { role: "assistant", content },
    ] as never);
  });

  test("does not show one model the thinking of another, nor any once something was left out before it", () => {
    const turn = (text: string): SessionEvent[] => [
      said("prompt", text),
      raw(assistantRaw, { model, content: [thought, { type: "text", text: `re: ${text}` }] }),
      said("reply", `re: ${text}`),
      end(),
    ];
    const log = [turn("a"), turn("b"), turn("c".repeat(300)), turn("d")].flat();
    const thoughts = (messages: readonly Message[]): number =>
      messages.flatMap(({ content }) => content).filter(({ type }) => type === "thinking").length;
    expect(thoughts(history(log))).toBe(4);
    expect(thoughts(history(log, 100_000, "claude-opus-5-5"))).toBe(0);
    expect(thoughts(history(log, 400))).toBe(0);
  });

  test("keeps the newest pictures and documents within a budget, and names the others", () => {
    const turns = Array.from({ length: 24 }, (_, index) => [
      said("prompt", `p${index}`),
      raw(userRaw, {
        content: [index === 3 ? { ...picture(8), type: "document" } : picture(index === 20 ? 13_000_000 : 8)],
      }),
      said("reply", "nice"),
      end(),
    ]);
    const shown = history(turns.flat()).flatMap(({ role, content }) => (role === "user" ? content : []));
    expect(shown.map((block) => block["text"] ?? block["type"])).toEqual([
      "[picture sent]",
      "[picture sent]",
      "[picture sent]",
      "document",
      ...Array.from({ length: 20 }, (_, index) => (index + 4 === 20 ? "[picture sent]" : "image")),
    ]);
  });

  test("never leaves a tool use without its result, nor a result without its use", () => {
    const use = (id: string) => ({ type: "tool_use", id, name: "local_read", input: {} });
    const result = (tool_use_id: string) => ({ type: "tool_result", tool_use_id, content: "x", is_error: false });
    const block = fc.oneof(
      fc.constantFrom("a", "b").map((id) => ({ from: "claude", block: use(id) })),
      fc.constantFrom("a", "b").map((id) => ({ from: "user", block: result(id) })),
      fc.constant({ from: "prompt", block: null }),
      fc.constant({ from: "reply", block: null }),
    );
    fc.assert(
      fc.property(fc.array(block), (entries) => {
        const log = entries.map((entry) =>
          entry.from === "claude"
            ? raw(assistantRaw, { model, content: [entry.block] })
            : entry.from === "user"
              ? raw(userRaw, { content: [entry.block] })
              : said(entry.from as "prompt", "text"),
        );
        const messages = history(log);
        for (const [index, { role, content }] of messages.entries()) {
          expect(role).toBe(index % 2 === 0 ? "user" : "assistant");
          if (role === "assistant" && index === messages.length - 1) continue;
          const uses = (role === "user" ? (messages[index - 1]?.content ?? []) : []).filter(
            ({ type }) => type === "tool_use",
          );
          const results = content.filter(({ type }) => type === "tool_result");
          expect(new Set(results.map((entry) => entry["tool_use_id"]))).toEqual(new Set(uses.map(({ id }) => id)));
          expect(content.length).toBeGreaterThan(0);
        }
      }),
    );
  });
});
