/**
 * One answer of the Messages API, gathered from its stream, or from the JSON that some endpoints send instead. Lenient where
 * endpoints differ: indices may repeat or be −1, usage may be null, a second `message_start` begins the answer anew.
 * **Source:** SDK type `RawMessageStreamEvent`.
 */
import type { JsonValue, StopReason } from "../core/model.ts";
import type { Used } from "./prices.ts";
import { cacheWrites, fields, glue, string, textOf, toInput, type Fields } from "./wire.ts";

type Block = { [key: string]: JsonValue };

export type Reply = {
  /** As they came, but for text and input, which come in pieces. */
  blocks: Block[];
  /** Where each index of the stream is, the last one that began with it. */
  byIndex: Map<unknown, { readonly block: Block; json: string }>;
  stopReason: string | null;
  /** Of a refusal. */
  category: string | null;
  used: Used;
  /** `message_stop` came. */
  isStopped: boolean;
  /** How often the answer began anew after it had said something. */
  restarts: number;
};

const nothing: Used = { input: 0, cacheRead: 0, cacheWrite: 0, output: 0, searches: 0 };

export const emptyReply = (): Reply => ({
  blocks: [],
  byIndex: new Map(),
  stopReason: null,
  category: null,
  used: nothing,
  isStopped: false,
  restarts: 0,
});

/** More than a person is ever shown of it (`core/reply.ts`); an answer is cut here, and what is left is not waited for. */
const textLengthMax = 5 * 2 ** 20;

/** Ends an answer that has no end: true where it did. The person reads that the rest is left out (`core/reply.ts`). */
export function cutEndless(reply: Reply): boolean {
  if (lengthOf(reply) <= textLengthMax) return false;
  reply.stopReason = "end_turn";
  return true;
}

const lengthOf = ({ blocks }: Reply): number =>
  blocks.reduce((sum, { text, thinking }) => sum + string(text).length + string(thinking).length, 0);

/** Some endpoints leave `message_stop` out: a stop reason ends an answer as well. */
export const isComplete = ({ isStopped, stopReason }: Reply): boolean => isStopped || stopReason !== null;

/** The text of an answer as the person reads it: without the thinking that some models write in front of it. */
export const shownText = (blocks: unknown): string => withoutThinking(textOf(blocks));

/** Adds one frame in place; returns the text that it brought, raw. Unknown frames add nothing. */
export function addFrame(reply: Reply, wire: unknown): string {
  const frame = fields(wire);
  const message = fields(frame["message"]);
  addUsage(reply, fields(frame["usage"] ?? message["usage"]));
  switch (frame["type"]) {
    case "message_start":
      if (textOf(reply.blocks) !== "") reply.restarts++;
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
      closeInput(reply, frame["index"]);
      return "";
    case "message_delta":
      stop(reply, fields(frame["delta"]));
      return "";
    case "message_stop":
      reply.isStopped = true;
      for (const index of reply.byIndex.keys()) closeInput(reply, index);
      return "";
    default:
      return "";
  }
}

function stop(reply: Reply, delta: Fields): void {
  for (const index of reply.byIndex.keys()) closeInput(reply, index);
  reply.stopReason = string(delta["stop_reason"]) || reply.stopReason;
  reply.category = string(fields(delta["stop_details"])["category"]) || reply.category;
}

/** Counts are cumulative within an answer, and the last of each counts. */
function addUsage(reply: Reply, usage: Fields): void {
  const { input_tokens: input, output_tokens: output, cache_read_input_tokens: cacheRead, server_tool_use } = usage;
  const searches = fields(server_tool_use)["web_search_requests"];
  const cacheWrite = cacheWrites(usage) || reply.used.cacheWrite;
  const seen = Object.entries({ input, output, cacheRead, searches }).filter(([, value]) => typeof value === "number");
  reply.used = { ...reply.used, cacheWrite, ...(Object.fromEntries(seen) as Partial<Used>) };
}

const addWhole = (reply: Reply, content: unknown): string =>
  (Array.isArray(content) ? content : []).map((block, index) => addBlock(reply, index, fields(block))).join("");

function addBlock(reply: Reply, index: unknown, wire: Fields): string {
  const block = fields(toInput(wire)) as Block;
  const text = string(block["text"]);
  const before = block["type"] === "text" && text !== "" ? glueAt(reply, block, text) : "";
  const mine = { ...block };
  closeInput(reply, index);
  reply.blocks.push(mine);
  reply.byIndex.set(index, { block: mine, json: "" });
  return block["type"] === "text" ? before + text : "";
}

/** What stands before the first text of a block that is still to be added, or is the last. */
function glueAt(reply: Reply, block: Block, text: string): string {
  const at = reply.blocks.indexOf(block);
  const earlier = at < 0 ? reply.blocks : reply.blocks.slice(0, at);
  const last = earlier.at(-1);
  return glue(textOf(earlier), last?.["type"] === "text" && last["text"] !== "" ? last : null, block, text);
}

function addDelta(reply: Reply, index: unknown, delta: Fields): string {
  const type = delta["type"];
  const found = reply.byIndex.get(index);
  if (type === "text_delta") {
    const text = string(delta["text"]);
    // Some endpoints never begin the block.
    if (found?.block["type"] !== "text") return addBlock(reply, index, { type: "text", text });
    const { block } = found;
    const before = block["text"] ? "" : glueAt(reply, block, text);
    block["text"] = string(block["text"]) + text;
    return before + text;
  }
  if (!found) return "";
  const { block } = found;
  if (type === "input_json_delta") found.json += string(delta["partial_json"]);
  else if (type === "thinking_delta") block["thinking"] = string(block["thinking"]) + string(delta["thinking"]);
  else if (type === "signature_delta") block["signature"] = string(block["signature"]) + string(delta["signature"]);
  else if (type === "citations_delta") {
    const { citations } = block;
    block["citations"] = [...(Array.isArray(citations) ? (citations as JsonValue[]) : []), toInput(delta["citation"])];
  }
  return "";
}

/** The input of a tool use comes in pieces, and is read once it is whole. */
function closeInput(reply: Reply, index: unknown): void {
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

/** Shows text piece by piece; a leading `<think>…</think>` not at all, which is known only some pieces later. */
export function createPreview(show: (text: string) => void): (piece: string) => void {
  let held: string | null = "";
  return (piece) => {
    if (held === null) return piece === "" ? undefined : show(piece);
    held += piece;
    const start = held.trimStart();
    const isUndecided = start.startsWith(open) ? !start.includes(close) : open.startsWith(start);
    if (isUndecided) return;
    const text = withoutThinking(held);
    if (text === "") return;
    held = null;
    show(text);
  };
}

/** **Source:** SDK type `StopReason`. */
const stops: ReadonlyMap<string, StopReason> = new Map([
  ["end_turn", { kind: "end_turn" }],
  ["stop_sequence", { kind: "end_turn" }],
  ["max_tokens", { kind: "max_tokens" }],
  ["model_context_window_exceeded", { kind: "context_exceeded" }],
]);

export function toStop({ stopReason, category }: Reply): StopReason {
  if (stopReason === "refusal") return { kind: "refusal", category };
  return stopReason === null ? { kind: "end_turn" } : (stops.get(stopReason) ?? { kind: "other", name: stopReason });
}
