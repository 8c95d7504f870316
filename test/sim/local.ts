/**
 * Claude for the backend that keeps the conversation here: the real `messages` adapter, over an endpoint that is played. Each
 * request is answered by itself; what it may not be like (roles that do not take turns, words of another chat) is checked here.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import { headersTimeoutMs, silenceMs, type ClaudeApi } from "../../src/claude/api.ts";
import type { Line } from "../../src/claude/line.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import type { Fault, Point } from "../doubles/scripted.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Millis } from "../../src/core/model.ts";
import type { Dice } from "./dice.ts";
import type { Garden } from "./garden.ts";
import type { Life } from "./life.ts";

export type LocalDeps = {
  readonly dice: Dice;
  /** Everything that was said before, and what is asked now. */
  readonly onAsked: (history: readonly string[], prompt: string) => void;
  /** What Claude says to it. */
  readonly answer: (prompt: string) => string;
  /** What Claude calls on the machine, if anything. */
  readonly calls: Garden["calls"];
  readonly onBroken: (what: string) => void;
  readonly isDown: () => boolean;
  readonly isMute: () => boolean;
  readonly skewMs: () => Millis;
};

type Request = Pick<Anthropic.MessageCreateParams, "messages" | "tools">;

export type LocalClaude = { readonly line: Line; fail(point: Point, fault: Fault): void; calmDown(): void };

const unreachable = (): BridgeError => new BridgeError("claude_unreachable", "Cannot ask as no answer comes");

export function createLocalClaude(life: Life, deps: LocalDeps): LocalClaude {
  const { dice } = deps;
  const { clock } = life;
  const faults: Fault[] = [];
  let isCalm = false;
  let ids = 0;
  const pass = async (signal: AbortSignal | null): Promise<Fault | null> => {
    await Promise.resolve();
    if (deps.isDown() || signal?.aborted) throw unreachable();
    const fault = faults.shift() ?? null;
    if (fault?.kind === "refuse")
      throw new BridgeError(fault.code, "Cannot ask as the endpoint refuses", { retryAfterMs: fault.retryAfterMs });
    if (fault?.kind === "hang") await clock.sleep(headersTimeoutMs, signal ?? undefined);
    if (fault?.kind === "hang") throw unreachable();
    return fault;
  };
  const hear = ({ messages }: Request): string => {
    messages.forEach(({ role }, index) => {
      if (role !== (index % 2 === 0 ? "user" : "assistant")) deps.onBroken("the roles of a request do not take turns");
    });
    const unpaired = messages.find((message, index) => usesOf(messages[index - 1]) !== resultsOf(message));
    if (unpaired) deps.onBroken(`calls and results do not pair: ${JSON.stringify(unpaired.content)}`);
    // The adapter mends what cannot be asked otherwise; the log of these worlds is whole.
    if (JSON.stringify(messages).includes("It was interrupted.")) deps.onBroken("a call lost its result");
    const texts = messages.map(textOf);
    // Results alone go on with what was asked before.
    const asked = texts.findLastIndex((text, index) => index % 2 === 0 && text.trim() !== "");
    deps.onAsked(texts.slice(0, asked), texts[asked] ?? "");
    return texts[asked] ?? "";
  };
  async function* frames(request: Request, isLost: boolean, signal: AbortSignal): AsyncGenerator {
    const prompt = hear(request);
    life.delivered("prompt");
    yield { type: "message_start", message: { id: `msg_${++ids}`, usage: { input_tokens: 1 } } };
    yield { type: "content_block_start", index: 0, content_block: { type: "text", text: "" } };
    const calls = isCalm || !request.tools?.length ? [] : deps.calls();
    const pieces = [deps.answer(prompt), ...(dice.chance(0.3) ? [" in", " pieces"] : [])];
    for (const text of pieces) {
      if (!isCalm && dice.chance(0.4)) await clock.sleep(Math.round(dice.between(50, 20_000)), signal);
      while (deps.isMute() && !signal.aborted) {
        await clock.sleep(silenceMs, signal);
        yield "silent";
      }
      if (signal.aborted) return;
      // The end of the line, in the middle of a word.
      if (isLost || deps.isDown()) return;
      yield { type: "content_block_delta", index: 0, delta: { type: "text_delta", text } };
    }
    for (const [at, { name, input }] of calls.entries()) {
      const index = at + 1;
      yield {
        type: "content_block_start",
        index,
        content_block: { type: "tool_use", id: `use_${++ids}`, name, input: {} },
      };
      yield {
        type: "content_block_delta",
        index,
        delta: { type: "input_json_delta", partial_json: JSON.stringify(input) },
      };
      yield { type: "content_block_stop", index };
    }
    if (calls.length > 0) {
      yield { type: "message_delta", delta: { stop_reason: "tool_use" }, usage: { output_tokens: 1 } };
      return yield { type: "message_stop" };
    }
    const stop = isCalm
      ? "end_turn"
      : dice.pick(["end_turn", "end_turn", "end_turn", "end_turn", "max_tokens", "refusal"]);
    yield { type: "message_delta", delta: { stop_reason: stop }, usage: { output_tokens: 1 } };
    yield { type: "message_stop" };
  }
  const api: ClaudeApi = {
    call: () => Promise.reject(new Error("messages asks by stream alone")),
    bytes: () => Promise.resolve(null),
    bounds: { headersMs: headersTimeoutMs, silenceMs },
    model: () => Promise.resolve(null),
    async models(signal) {
      await pass(signal);
      return [{ id: "claude-scripted", outputTokensMax: null }];
    },
    async stream(_site, work, signal) {
      const asked = Promise.withResolvers<Request>();
      const create = (params: Request) => {
        asked.resolve(params);
        return { asResponse: () => new Promise<Response>(() => undefined) };
      };
      void work({ messages: { create } } as unknown as Anthropic, { signal, timeout: headersTimeoutMs }).asResponse();
      const fault = await pass(signal);
      return frames(await asked.promise, fault?.kind === "lose", signal);
    },
    skewMs: deps.skewMs,
  };
  return {
    line: createMessagesLine({ api, clock, hasWebSearch: false, newId: () => `${dice.below(2 ** 30)}` }),
    fail: (_point, fault) => void faults.push(fault),
    calmDown() {
      isCalm = true;
      faults.length = 0;
    },
  };
}

type Param = Anthropic.MessageParam | undefined;

const idsOf = (message: Param, pick: (block: Anthropic.ContentBlockParam) => string | null): string =>
  typeof message?.content === "string"
    ? ""
    : (message?.content ?? [])
        .flatMap((block) => pick(block) ?? [])
        .toSorted()
        .join(" ");
/** Each call is answered at the beginning of the next message, and nothing else is. */
const usesOf = (message: Param): string => idsOf(message, (block) => (block.type === "tool_use" ? block.id : null));
const resultsOf = (message: Param): string =>
  idsOf(message, (block) => (block.type === "tool_result" ? block.tool_use_id : null));

const textOf = ({ content }: Anthropic.MessageParam): string =>
  typeof content === "string" ? content : content.map((block) => (block.type === "text" ? block.text : "")).join("\n");
