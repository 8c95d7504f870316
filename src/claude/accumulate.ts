/** Frames of a Messages stream, gathered into one reply. **Source:** claude/CLAUDE-API.md section 4; SDK types RawMessageStreamEvent. */
import { fields, textOf } from "./events.ts";

type Block = { [key: string]: unknown };

export type Reply = {
  id: string;
  blocks: Block[];
  stopReason: string | null;
  /** Of a refusal. */
  category: string | null;
  inputTokens: number;
  outputTokens: number;
  /** `message_stop` came: anything less is a stream that broke off. */
  isComplete: boolean;
};

export const emptyReply = (): Reply => ({
  id: "",
  blocks: [],
  stopReason: null,
  category: null,
  inputTokens: 0,
  outputTokens: 0,
  isComplete: false,
});

export const replyText = (reply: Reply): string => textOf(reply.blocks);

/** Adds one frame in place; returns the text that it brought. Unknown frames add nothing. @throws Error for a frame that cannot be */
export function addFrame(reply: Reply, wire: unknown): string {
  const frame = fields(wire);
  switch (frame["type"]) {
    case "message_start": {
      const message = fields(frame["message"]);
      reply.id = typeof message["id"] === "string" ? message["id"] : "";
      addUsage(reply, message["usage"]);
      return "";
    }
    case "content_block_start":
      reply.blocks[indexOf(frame)] = { ...fields(frame["content_block"]) };
      return "";
    case "content_block_delta":
      return addDelta(reply.blocks[indexOf(frame)], fields(frame["delta"]));
    case "content_block_stop":
      finishInput(reply.blocks[indexOf(frame)]);
      return "";
    case "message_delta": {
      const delta = fields(frame["delta"]);
      if (typeof delta["stop_reason"] === "string") reply.stopReason = delta["stop_reason"];
      const { category } = fields(delta["stop_details"]);
      if (typeof category === "string") reply.category = category;
      addUsage(reply, frame["usage"]);
      return "";
    }
    case "message_stop":
      reply.isComplete = true;
      return "";
    default:
      return "";
  }
}

/** A list with a hole of millions would be walked for ever. */
const blocksMax = 1_000;

/** @throws Error for what is no index */
function indexOf({ index }: { readonly [key: string]: unknown }): number {
  if (typeof index === "number" && Number.isInteger(index) && index >= 0 && index < blocksMax) return index;
  throw new Error("a block without a place");
}

/** The key a delta's fragment belongs to; tool input arrives as pieces of JSON. */
const grows: ReadonlyMap<unknown, readonly [from: string, to: string]> = new Map([
  ["text_delta", ["text", "text"]],
  ["thinking_delta", ["thinking", "thinking"]],
  ["signature_delta", ["signature", "signature"]],
  ["input_json_delta", ["partial_json", "partialInput"]],
]);

function addDelta(block: Block | undefined, delta: Block): string {
  const [from, to] = grows.get(delta["type"]) ?? [];
  if (!block || from === undefined || to === undefined) return "";
  const piece = typeof delta[from] === "string" ? delta[from] : "";
  block[to] = `${typeof block[to] === "string" ? block[to] : ""}${piece}`;
  return delta["type"] === "text_delta" ? piece : "";
}

function finishInput(block: Block | undefined): void {
  if (!block || typeof block["partialInput"] !== "string") return;
  block["input"] = JSON.parse(block["partialInput"] || "{}");
  delete block["partialInput"];
}

/** Counts are cumulative within a message. */
function addUsage(reply: Reply, usage: unknown): void {
  const { input_tokens: input, output_tokens: output } = fields(usage);
  if (typeof input === "number") reply.inputTokens = input;
  if (typeof output === "number") reply.outputTokens = output;
}
