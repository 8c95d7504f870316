/** The Messages half of the API double: checks a conversation and plays a script as a stream. */
import type { Clock } from "../../src/clock.ts";
import { badRequest, checkContent } from "./claude-checks.ts";
import type { Beat } from "./claude-sessions.ts";

/** Roles take turns, beginning and ending with the user (or, after a pause, ending with Claude); returns the last prompt. */
export function checkMessages(messages: unknown, isPaused: boolean): string {
  if (!Array.isArray(messages) || messages.length === 0) throw badRequest("messages");
  let prompt = "";
  for (const [index, message] of messages.entries()) {
    const { role, content, ...rest } = message as Record<string, unknown>;
    if (Object.keys(rest).length > 0) throw badRequest("messages: extra inputs are not permitted");
    if (role !== (index % 2 === 0 ? "user" : "assistant")) throw badRequest("messages: roles must alternate");
    if (typeof content === "string") {
      if (content.trim() === "") throw badRequest("messages: text content blocks must be non-empty");
    } else if (role === "user") checkContent(content);
    const blocks =
      typeof content === "string" ? [{ type: "text", text: content }] : (content as { type: string; text?: string }[]);
    if (role === "user") prompt = blocks.flatMap((block) => block.text ?? []).join("\n");
  }
  const last = (messages.at(-1) as { role: string }).role;
  if (last !== (isPaused ? "assistant" : "user")) throw badRequest("messages: the last turn must be the user's");
  return isPaused ? "(continue)" : prompt;
}

const stopReasons: { readonly [kind: string]: string } = {
  end_turn: "end_turn",
  max_tokens: "max_tokens",
  context_exceeded: "model_context_window_exceeded",
  refusal: "refusal",
};

/** Writes the frames of one message; resolves to its stop reason. */
export async function streamMessage(
  beats: readonly Beat[],
  id: string,
  clock: Clock,
  signal: AbortSignal,
  write: (name: string, data: object) => void,
): Promise<string> {
  const send = (data: { type: string; [key: string]: unknown }): void => write(data.type, data);
  const usage = { input_tokens: 20, output_tokens: 1, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 };
  send({
    type: "message_start",
    message: { id, type: "message", role: "assistant", content: [], stop_reason: null, stop_details: null, usage },
  });
  send({ type: "ping" });
  const stopped = new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
  let reason = "end_turn";
  let details: object | null = null;
  let index = 0;
  for (const beat of beats) {
    if (signal.aborted) return reason;
    if ("say" in beat || "write" in beat) {
      send({ type: "content_block_start", index, content_block: { type: "text", text: "", citations: null } });
      for (const text of "say" in beat ? [beat.say] : beat.write)
        if (typeof text === "string") send({ type: "content_block_delta", index, delta: { type: "text_delta", text } });
        else await Promise.race([text, stopped]);
      send({ type: "content_block_stop", index });
      index++;
    } else if ("pauseMs" in beat) await clock.sleep(beat.pauseMs, signal);
    else if ("hold" in beat) await Promise.race([beat.hold, stopped]);
    else if ("fail" in beat) {
      send({ type: "error", error: { type: beat.fail, message: "scripted" } });
      return reason;
    } else if ("stop" in beat) {
      reason = beat.stop.kind === "other" ? beat.stop.name : (stopReasons[beat.stop.kind] ?? "end_turn");
      if (beat.stop.kind === "refusal") details = { type: "refusal", category: beat.stop.category, explanation: null };
    }
  }
  send({
    type: "message_delta",
    delta: { stop_reason: reason, stop_sequence: null, stop_details: details, container: null },
    usage: { ...usage, output_tokens: 41 },
  });
  send({ type: "message_stop" });
  return reason;
}
