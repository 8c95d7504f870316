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

/** Adds one frame in place; returns the text that it brought. Unknown frames add nothing. */
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
      reply.blocks[Number(frame["index"])] = { ...fields(frame["content_block"]) };
      return "";
    case "content_block_delta":
      return addDelta(reply.blocks[Number(frame["index"])], fields(frame["delta"]));
    case "content_block_stop":
      finishInput(reply.blocks[Number(frame["index"])]);
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

/** The key a delta's fragment belongs to; tool input arrives as pieces of JSON. */
const grows: { readonly [deltaType: string]: readonly [from: string, to: string] } = {
  text_delta: ["text", "text"],
  thinking_delta: ["thinking", "thinking"],
  signature_delta: ["signature", "signature"],
  input_json_delta: ["partial_json", "partialInput"],
};

function addDelta(block: Block | undefined, delta: Block): string {
  const type = String(delta["type"]);
  const [from, to] = grows[type] ?? [];
  if (!block || from === undefined || to === undefined) return "";
  const piece = typeof delta[from] === "string" ? delta[from] : "";
  block[to] = `${typeof block[to] === "string" ? block[to] : ""}${piece}`;
  return type === "text_delta" ? piece : "";
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
