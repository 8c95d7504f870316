/**
 * Gathers an answer of the Messages API from its stream, or from the JSON that some endpoints send instead; and tells its list price.
 * Lenient where endpoints differ: indices may repeat or be −1, usage may be null, a second `message_start` begins the answer anew.
 * **Source:** SDK type `RawMessageStreamEvent`.
 */
import type { JsonValue, Millis, StopReason } from "../core/model.ts";
import type { Hear } from "./line.ts";
import { cacheWrites, fields, string, textOfBlocks, toInput, type Fields } from "./wire.ts";

type Block = { [key: string]: JsonValue };

const nothing: Used = { input: 0, cacheRead: 0, cacheWrite: 0, output: 0, searches: 0 };

export const emptyReply = () => ({
  /** The content blocks as they came; text and input come in pieces. */
  blocks: [] as Block[],
  /** The block of each index of the stream: the last that began with it. */
  byIndex: new Map<unknown, { readonly block: Block; json: string }>(),
  stopReason: null as string | null,
  used: nothing,
  /** `message_stop` came. */
  isStopped: false,
  /** How often the answer began anew after it had said something. */
  restarts: 0,
  /** The greatest `lengthOf` since the answer began, or began anew. */
  longest: 0,
});
export type ApiReply = ReturnType<typeof emptyReply>;

/** Characters after which an answer is ended: more than a person is ever shown of it (`core/reply.ts`). */
const textLengthMax = 5 * 2 ** 20;
/** An answer is ended after this: a slow model writes its longest answer in less. */
const answerMaxMs: Millis = 2 * 3_600_000;

/**
 * True where an answer is over. One that is too long or too slow is ended here without waiting for its rest: its person reads that the
 * rest is left out, or that it was cut.
 */
export function isReplyOver(reply: ApiReply, ageMs: Millis): boolean {
  const isLong = lengthOf(reply) > textLengthMax;
  if (isLong || ageMs > answerMaxMs) reply.stopReason ??= isLong ? "end_turn" : "max_tokens";
  return isComplete(reply);
}

/** The characters that all frames have brought, of any kind. */
const lengthOf = ({ blocks, byIndex }: ApiReply): number =>
  blocks.reduce((sum, { text, thinking }) => sum + 1 + string(text).length + string(thinking).length, 0) +
  [...byIndex.values()].reduce((sum, { json }) => sum + json.length, 0);

/** Some endpoints leave `message_stop` out: a stop reason ends an answer as well. */
export const isComplete = ({ isStopped, stopReason }: ApiReply): boolean => isStopped || stopReason !== null;

/** The text of an answer as the person reads it: without the thinking that some models write in front of it. */
export const shownText = (blocks: unknown): string => withoutThinking(textOfBlocks(blocks));

/** Adds one frame in place; true where it brought more of the answer. Unknown frames bring nothing. */
export function addFrame(reply: ApiReply, wire: unknown): boolean {
  add(reply, fields(wire));
  const before = reply.longest;
  reply.longest = Math.max(before, lengthOf(reply));
  return reply.longest > before;
}

function add(reply: ApiReply, frame: Fields): void {
  const message = fields(frame["message"]);
  addUsage(reply, fields(frame["usage"] ?? message["usage"]));
  switch (frame["type"]) {
    case "message_start":
      if (textOfBlocks(reply.blocks) !== "") Object.assign(reply, { restarts: reply.restarts + 1, longest: 0 });
      Object.assign(reply, { blocks: [], stopReason: null });
      reply.byIndex.clear();
      return addWhole(reply, message["content"]);
    case "message":
      stop(reply, frame);
      reply.isStopped = true;
      return addWhole(reply, frame["content"]);
    case "content_block_start":
      return addBlock(reply, frame["index"], fields(frame["content_block"]));
    case "content_block_delta":
      return addDelta(reply, frame["index"], fields(frame["delta"]));
    case "content_block_stop":
      return closeInput(reply, frame["index"]);
    case "message_delta":
      return stop(reply, fields(frame["delta"]));
    case "message_stop":
      reply.isStopped = true;
      for (const index of reply.byIndex.keys()) closeInput(reply, index);
  }
}

function stop(reply: ApiReply, delta: Fields): void {
  for (const index of reply.byIndex.keys()) closeInput(reply, index);
  reply.stopReason = string(delta["stop_reason"]) || reply.stopReason;
}

/** Takes the counts of a frame: they are cumulative within an answer, so that the last of each holds. */
function addUsage(reply: ApiReply, usage: Fields): void {
  const { input_tokens: input, output_tokens: output, cache_read_input_tokens: cacheRead, server_tool_use } = usage;
  const searches = fields(server_tool_use)["web_search_requests"];
  const cacheWrite = cacheWrites(usage) || reply.used.cacheWrite;
  const seen = Object.entries({ input, output, cacheRead, searches }).filter(([, value]) => typeof value === "number");
  reply.used = { ...reply.used, cacheWrite, ...(Object.fromEntries(seen) as Partial<Used>) };
}

/** About the characters of a token. */
const tokenLength = 3;

/** The usage of an answer. Output tokens are told at its end; of an answer that has none they are estimated. */
export const usedOf = (reply: ApiReply): Used => ({
  ...reply.used,
  output: isComplete(reply) ? reply.used.output : Math.max(reply.used.output, Math.ceil(reply.longest / tokenLength)),
});

const addWhole = (reply: ApiReply, content: unknown): void =>
  (Array.isArray(content) ? content : []).forEach((block, index) => addBlock(reply, index, fields(block)));

function addBlock(reply: ApiReply, index: unknown, wire: Fields): void {
  const block = { ...(fields(toInput(wire)) as Block) };
  closeInput(reply, index);
  reply.blocks.push(block);
  reply.byIndex.set(index, { block, json: "" });
}

function addDelta(reply: ApiReply, index: unknown, delta: Fields): void {
  const { type } = delta;
  const found = reply.byIndex.get(index);
  // Some endpoints send no `content_block_start`.
  if (type === "text_delta" && found?.block["type"] !== "text")
    return addBlock(reply, index, { type: "text", text: string(delta["text"]) });
  if (!found) return;
  const { block } = found;
  const append = (key: string): void => void (block[key] = string(block[key]) + string(delta[key]));
  if (type === "text_delta") append("text");
  else if (type === "thinking_delta") append("thinking");
  else if (type === "signature_delta") append("signature");
  else if (type === "input_json_delta") found.json += string(delta["partial_json"]);
  else if (type === "citations_delta") {
    const { citations } = block;
    block["citations"] = [...(Array.isArray(citations) ? (citations as JsonValue[]) : []), toInput(delta["citation"])];
  }
}

/** The input of a tool use comes in pieces, and is read once it is whole. */
function closeInput(reply: ApiReply, index: unknown): void {
  const found = reply.byIndex.get(index);
  if (!found || found.json === "") return;
  found.block["input"] = parse(found.json);
  found.json = "";
}

function parse(json: string): JsonValue {
  try {
    return toInput(JSON.parse(json));
  } catch {
    return {};
  }
}

const [open, close] = ["<think>", "</think>"];

function withoutThinking(text: string): string {
  const start = text.trimStart();
  if (!start.startsWith(open)) return text;
  const end = start.indexOf(close);
  return end < 0 ? "" : start.slice(end + close.length).trimStart();
}

/** Characters of an answer that are previewed: a preview is one message. */
const previewedAnswerMax = 16_384;

/** Shows an answer piece by piece, as `shownText` has it; not a beginning that may yet turn out to be thinking. */
export function createPreview(hear: Hear): (id: string, replies: readonly ApiReply[]) => void {
  let shown = { id: "", length: 0 };
  return (id, replies) => {
    if (replies.reduce((sum, reply) => sum + lengthOf(reply), 0) > previewedAnswerMax) return;
    const text = shownText(replies.flatMap(({ blocks }) => blocks));
    const before = shown.id === id ? shown.length : 0;
    if (text.length <= before || open.startsWith(text.trimStart())) return;
    shown = { id, length: text.length };
    hear({ kind: "delta", eventId: id, text: text.slice(before) });
  };
}

/** **Source:** SDK type `StopReason`. */
const stops: ReadonlyMap<string, StopReason> = new Map([
  ["end_turn", { kind: "end_turn" }],
  ["stop_sequence", { kind: "end_turn" }],
  ["max_tokens", { kind: "max_tokens" }],
  ["refusal", { kind: "refusal" }],
  ["model_context_window_exceeded", { kind: "context_exceeded" }],
]);

export function toStop({ stopReason }: ApiReply): StopReason {
  return stopReason === null ? { kind: "end_turn" } : (stops.get(stopReason) ?? { kind: "other", name: stopReason });
}

// --- list prices

/** **Source:** https://platform.claude.com/docs/en/about-claude/pricing as of 24 Oct 2026; a model without a row has no price. */
type Price = { readonly input: number; readonly output: number; readonly cacheRead: number };

/** US dollars per million tokens; the first pattern that matches a model's id counts. */
const prices: readonly (readonly [RegExp, Price])[] = [
  [/^claude-(fable|mythos)-5-1/u, { input: 10, output: 50, cacheRead: 0.25 }],
  [/^claude-(fable|mythos)-5(?!-\d\b)/u, { input: 10, output: 50, cacheRead: 1 }],
  [/^claude-opus-5-5/u, { input: 4, output: 20, cacheRead: 0.2 }],
  [/^claude-opus-(4-[5-8]|5(?!-\d\b))/u, { input: 5, output: 25, cacheRead: 0.5 }],
  [/^claude-opus-4/u, { input: 15, output: 75, cacheRead: 1.5 }],
  [/^claude-sonnet-5-5/u, { input: 2, output: 10, cacheRead: 0.1 }],
  [/^claude-sonnet-5(?!-\d\b)/u, { input: 2, output: 10, cacheRead: 0.2 }],
  [/^claude-sonnet-4/u, { input: 3, output: 15, cacheRead: 0.3 }],
  [/^claude-haiku-5-5/u, { input: 0.1, output: 0.5, cacheRead: 0.01 }],
  [/^claude-haiku-4/u, { input: 1, output: 5, cacheRead: 0.1 }],
];

/** Haiku 5.5 costs five times as much, for the whole request, where the prompt has more tokens than this. */
const longPromptTokens = 100_000;
const cacheWriteFactor = 1.25;
const centsPerSearch = 1;

/** The usage of a request to the Messages API: counts of tokens and of searches. */
export type Used = {
  readonly input: number;
  readonly cacheRead: number;
  readonly cacheWrite: number;
  readonly output: number;
  readonly searches: number;
};

/** The list cost of one request in US cents; null where the model has no price here. */
export function centsOf(model: string, { input, cacheRead, cacheWrite, output, searches }: Used): number | null {
  const price = prices.find(([pattern]) => pattern.test(model))?.[1];
  if (!price) return null;
  const isLong = model.startsWith("claude-haiku-5-5") && input + cacheRead + cacheWrite > longPromptTokens;
  const written = cacheWrite * price.input * cacheWriteFactor;
  const dollarsPerMillion = input * price.input + cacheRead * price.cacheRead + written + output * price.output;
  return (dollarsPerMillion * (isLong ? 5 : 1)) / 10_000 + searches * centsPerSearch;
}
