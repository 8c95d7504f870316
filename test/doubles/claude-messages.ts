/** The Messages half of the API double: checks a conversation and plays a script as a stream. */
import type { Clock } from "../../src/clock.ts";
import type { JsonValue } from "../../src/core/model.ts";
import { withoutTimeLine } from "../../src/core/when.ts";
import { badRequest, checkContent, only } from "./claude-checks.ts";
import type { Beat as SessionBeat } from "./claude-sessions.ts";

type Block = { readonly type: string; readonly [key: string]: unknown };

/** What a script says besides, where it is an answer of the Messages API: whole blocks, frames as they are, raw text. */
export type Beat =
  | SessionBeat
  | { readonly block: Block }
  | { readonly frame: { readonly type: string; readonly [key: string]: unknown } }
  | { readonly sse: string };

/**
 * Roles take turns, beginning and ending with the user (or, after a pause, ending with Claude); every tool use has its result in
 * the next message, and no result stands alone. Returns the last prompt.
 */
export function checkMessages(messages: unknown, mayGoOn: boolean): string {
  if (!Array.isArray(messages) || messages.length === 0) throw badRequest("messages");
  let prompt = "";
  let open = new Set<unknown>();
  for (const [index, message] of messages.entries()) {
    const { role, content, ...rest } = message as Record<string, unknown>;
    if (Object.keys(rest).length > 0) throw badRequest("messages: extra inputs are not permitted");
    if (role !== (index % 2 === 0 ? "user" : "assistant")) throw badRequest("messages: roles must alternate");
    if (typeof content === "string" && content.trim() === "")
      throw badRequest("messages: text content blocks must be non-empty");
    const blocks: Block[] =
      typeof content === "string" ? [{ type: "text", text: content }] : (content as { type: string; text?: string }[]);
    if (blocks.length === 0) throw badRequest("messages: content must not be empty");
    const results = blocks.filter(({ type }) => type === "tool_result");
    if (results.length !== open.size || results.some((block) => !open.delete(block["tool_use_id"])))
      throw badRequest("messages: each tool_use block must have a corresponding tool_result block in the next message");
    if (role === "user") {
      for (const result of results) only(result, ["type", "tool_use_id", "content", "is_error", "cache_control"]);
      const others = blocks
        .filter(({ type }) => type !== "tool_result")
        .map((block) => Object.fromEntries(Object.entries(block).filter(([key]) => key !== "cache_control")));
      if (others.length > 0) checkContent(others);
      prompt = blocks.flatMap(({ text, content }) => (text ?? content ?? []) as string | string[]).join("\n");
    }
    open = new Set(blocks.flatMap((block) => (block.type === "tool_use" ? [block["id"]] : [])));
  }
  const last = (messages.at(-1) as { role: string }).role;
  // A turn that paused is continued, or left.
  if (last !== "user" && !(last === "assistant" && mayGoOn))
    throw badRequest("messages: the last turn must be the user's");
  return last === "assistant" ? "(continue)" : withoutTimeLine(prompt);
}

const stopReasons: { readonly [kind: string]: string } = {
  end_turn: "end_turn",
  max_tokens: "max_tokens",
  context_exceeded: "model_context_window_exceeded",
  refusal: "refusal",
};

const sse = (data: { readonly type: string }): string => `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`;

/** Writes the frames of one message; resolves to its stop reason. */
export async function streamMessage(
  beats: readonly Beat[],
  id: string,
  clock: Clock,
  signal: AbortSignal,
  write: (text: string) => void,
): Promise<string> {
  const send = (data: { type: string; [key: string]: unknown }): void => write(sse(data));
  const usage = { input_tokens: 20, output_tokens: 1, cache_creation_input_tokens: 3, cache_read_input_tokens: 7 };
  const isRaw = beats.some((beat) => "frame" in beat || "sse" in beat);
  if (!isRaw)
    send({
      type: "message_start",
      message: { id, type: "message", role: "assistant", content: [], stop_reason: null, stop_details: null, usage },
    });
  if (!isRaw) send({ type: "ping" });
  const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  let reason = "end_turn";
  let details: object | null = null;
  let index = 0;
  const call = (name: string, input: JsonValue): void => {
    reason = "tool_use";
    send({
      type: "content_block_start",
      index,
      content_block: { type: "tool_use", id: `toolu_${id}_${index}`, name, input: {} },
    });
    const json = JSON.stringify(input);
    for (const partial_json of ["", json.slice(0, 4), json.slice(4)])
      send({ type: "content_block_delta", index, delta: { type: "input_json_delta", partial_json } });
    send({ type: "content_block_stop", index: index++ });
  };
  for (const beat of beats) {
    if (signal.aborted) return reason;
    if ("say" in beat || "write" in beat) {
      send({ type: "content_block_start", index, content_block: { type: "text", text: "", citations: null } });
      for (const text of "say" in beat ? [beat.say] : beat.write)
        if (typeof text === "string") send({ type: "content_block_delta", index, delta: { type: "text_delta", text } });
        else await Promise.race([text, stopped]);
      send({ type: "content_block_stop", index });
      index++;
    } else if ("block" in beat) {
      send({ type: "content_block_start", index, content_block: beat.block });
      send({ type: "content_block_stop", index: index++ });
    } else if ("frame" in beat) send(beat.frame);
    else if ("sse" in beat) write(beat.sse);
    else if ("call" in beat) call(beat.call, beat.input);
    else if ("calls" in beat) for (const { name, input } of beat.calls) call(name, input);
    else if ("pauseMs" in beat) await clock.sleep(beat.pauseMs, signal);
    else if ("hold" in beat) await Promise.race([beat.hold, stopped]);
    else if ("fail" in beat) {
      send({ type: "error", error: { type: beat.fail, message: "scripted" } });
      return reason;
    } else if ("stop" in beat) {
      reason = beat.stop.kind === "other" ? beat.stop.name : (stopReasons[beat.stop.kind] ?? "end_turn");
      if (beat.stop.kind === "refusal") details = { type: "refusal", category: "cyber", explanation: null };
    }
    if ("call" in beat || "calls" in beat) break;
  }
  if (isRaw) return reason;
  send({
    type: "message_delta",
    delta: { stop_reason: reason, stop_sequence: null, stop_details: details, container: null },
    usage: { ...usage, output_tokens: 41 },
  });
  send({ type: "message_stop" });
  return reason;
}
