/** The stored log as the messages that the Messages API wants. Pure. */
import type { SessionEvent } from "../core/model.ts";

export type HistoryMessage = { role: "user" | "assistant"; text: string };

/** Text in tokens, on the safe side: about 3 bytes each, and a little for the frame of a message. */
export const estimateTokens = (text: string): number => Math.ceil(new TextEncoder().encode(text).length / 3) + 8;

/** The beginning moves by this many messages at once: a prefix that stays the same is cached by the API. */
const trimStep = 8;

/**
 * The conversation before the next prompt, oldest first: neighbours of one role in one message, beginning with the user,
 * at most about `tokensMax` in all. Prompts that were never answered stay: they are part of what was said.
 */
export function toHistory(log: readonly SessionEvent[], tokensMax: number): HistoryMessage[] {
  const messages: HistoryMessage[] = [];
  for (const event of log) {
    if ((event.type !== "prompt" && event.type !== "reply") || event.text.trim() === "") continue;
    const role = event.type === "prompt" ? "user" : "assistant";
    const last = messages.at(-1);
    if (last?.role === role) last.text = `${last.text}\n\n${event.text}`;
    else messages.push({ role, text: event.text });
  }
  const costs = messages.map((message) => estimateTokens(message.text));
  let rest = costs.reduce((sum, cost) => sum + cost, 0);
  let start = 0;
  while (rest > tokensMax && start < messages.length)
    for (const cost of costs.slice(start, (start += trimStep))) rest -= cost;
  const kept = messages.slice(start);
  return kept[0]?.role === "assistant" ? kept.slice(1) : kept;
}
