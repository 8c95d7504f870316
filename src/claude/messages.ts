/**
 * The backend `messages`: one request per turn, the conversation kept here. Works with every endpoint that speaks the
 * Messages API. Nothing is stored before the reply is complete: a turn that broke off is simply asked again.
 * **Source:** claude/CLAUDE-API.md section 4; SDK types RawMessageStreamEvent.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { SessionEvent, StopReason } from "../core/model.ts";
import { uploadTimeoutMs, type ClaudeApi, type RequestOptions } from "./api.ts";
import type { Backend, Prompt, SessionView, TurnStep } from "./backend.ts";
import { fields, string, toBlocks } from "./wire.ts";

export type MessagesDeps = {
  readonly api: ClaudeApi;
  readonly clock: Clock;
  /** A fresh random id, for the prompt's entry in the log. */
  readonly newId: () => string;
  /** About how many tokens of history go along (estimated); the oldest is left out first. */
  readonly historyTokensMax?: number;
};

const defaultHistoryTokens = 100_000;
/** The API cuts a reply at this many tokens. */
const replyTokensMax = 8_192;
/** How often a paused turn is continued before we take what there is. */
const pausesMax = 8;

export function createMessagesBackend(deps: MessagesDeps): Backend {
  return {
    name: "messages",
    remote: null,
    async *turn(session, prompt, signal) {
      if (prompt === null) return;
      try {
        yield* ask(deps, session, prompt, signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    },
    check: async (signal) => void (await deps.api.models(signal)),
    models: deps.api.models,
  };
}

async function* ask(
  deps: MessagesDeps,
  session: SessionView,
  prompt: Prompt,
  signal: AbortSignal,
): AsyncGenerator<TurnStep> {
  const log = session.history();
  const known = knownTurn(log, prompt);
  if (known.length > 0) return yield { kind: "events", events: known };
  yield { kind: "sending" };
  const promptId = `local:${deps.newId()}`;
  const takenIds = new Set(["", ...log.map(({ id }) => id)]);
  const messages = toMessages(log, prompt, deps.historyTokensMax ?? defaultHistoryTokens);
  // Later than all that was said before, even if the clock was set back meanwhile: the log is read in this order.
  const startedAt = Math.max(deps.clock.now(), (log.findLast((event) => event.at !== null)?.at ?? 0) + 1);
  const timeout = uploadTimeoutMs(prompt.files);
  const parts: Reply[] = [];
  let replyId = "";
  for (;;) {
    const part = emptyReply();
    try {
      for await (const text of request(deps.api, session, messages, part, { signal, timeout })) {
        if (text === "") continue;
        // Some endpoints give every message the same id, or none: the log would take the second reply for the first.
        replyId ||= takenIds.has(part.id) ? `${promptId}:reply` : part.id;
        yield { kind: "delta", eventId: replyId, text };
      }
    } catch (error) {
      const isBlank = [...parts, part].every((said) => said.text.trim() === "");
      if (prompt.isLastTry !== true || isBlank || signal.aborted) throw error;
      part.stopReason = "cut";
    }
    if (signal.aborted) return;
    parts.push(part);
    if (part.stopReason !== "pause_turn" || part.text === "" || parts.length > pausesMax) break;
    messages.push({ role: "assistant", content: [{ type: "text", text: part.text }] });
  }
  yield { kind: "asked", eventId: promptId };
  const at = Math.max(deps.clock.now(), startedAt);
  const said = parts.map((part) => part.text).join("");
  const sum = (key: "inputTokens" | "outputTokens"): number => parts.reduce((total, part) => total + part[key], 0);
  const spent = { inputTokens: sum("inputTokens"), outputTokens: sum("outputTokens") };
  const events: SessionEvent[] = [
    { id: promptId, at: startedAt, type: "prompt", text: prompt.text },
    { id: replyId, at, type: "reply", text: said },
    { id: `${promptId}:usage`, at, type: "usage", ...spent, costCents: null },
    { id: `${promptId}:idle`, at, type: "idle", stop: toStop(parts.at(-1)) },
  ];
  yield { kind: "events", events: events.filter((event) => event.type !== "reply" || event.text.trim() !== "") };
}

/** The turn as the log has it already, for a prompt that was answered and then asked again by a restart. */
function knownTurn(log: readonly SessionEvent[], { state }: Prompt): readonly SessionEvent[] {
  const start = state.kind === "asked" ? log.findIndex((event) => event.id === state.eventId) : -1;
  if (start < 0) return [];
  const length = log.slice(start).findIndex((event) => event.type === "idle") + 1;
  return log.slice(start, start + length);
}

function toMessages(log: readonly SessionEvent[], prompt: Prompt, tokensMax: number): Anthropic.MessageParam[] {
  const history = toHistory(log, tokensMax);
  const blocks = toBlocks(prompt.text, prompt.files);
  // A prompt that was never answered is the beginning of this one: the roles take turns.
  const unanswered = history.at(-1)?.role === "user" ? history.pop() : undefined;
  return [
    ...history.map(({ role, text }) => ({ role, content: text })),
    { role: "user", content: unanswered ? [{ type: "text", text: unanswered.text }, ...blocks] : blocks },
  ];
}

export type HistoryMessage = { role: "user" | "assistant"; text: string };

/** Text in tokens, on the safe side: about 3 bytes each, and a little for the frame of a message. */
export const estimateTokens = (text: string): number => Math.ceil(new TextEncoder().encode(text).length / 3) + 8;

/** The beginning moves by this many messages at once: a prefix that stays the same is cached by the API. */
const trimStep = 8;

/**
 * The conversation before the next prompt, oldest first: neighbours of one role in one message, beginning with the user,
 * at most about `tokensMax` in all. Prompts that were never answered stay, those that were declined do not.
 */
export function toHistory(log: readonly SessionEvent[], tokensMax: number): HistoryMessage[] {
  const messages: HistoryMessage[] = [];
  for (const event of accepted(log)) {
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

/** Without the turns that Claude declined: with them in sight it would decline whatever comes next. */
function accepted(log: readonly SessionEvent[]): SessionEvent[] {
  const turns: SessionEvent[][] = [[]];
  for (const event of log) {
    if (event.type === "idle" && event.stop.kind === "refusal") turns.pop();
    else turns.at(-1)?.push(event);
    if (event.type === "idle") turns.push([]);
  }
  return turns.flat();
}

/** One request; its text piece by piece, and the whole gathered into `reply`. */
async function* request(
  api: ClaudeApi,
  { model, system }: SessionView,
  messages: readonly Anthropic.MessageParam[],
  reply: Reply,
  { signal, timeout }: Required<RequestOptions>,
): AsyncGenerator<string> {
  const frames = await api.stream(
    { what: "ask Claude", notFound: "claude_model" },
    (client, options) =>
      client.messages.create(
        {
          model,
          max_tokens: replyTokensMax,
          ...(system === "" ? {} : { system }),
          messages: [...messages],
          cache_control: { type: "ephemeral" },
          stream: true,
        },
        { ...options, timeout },
      ),
    signal,
  );
  for await (const frame of frames) {
    if (frame === "silent") throw streamLost("nothing came for too long");
    yield addFrame(reply, frame);
    if (reply.isComplete) return;
  }
  // Some endpoints leave `message_stop` out.
  if (!signal.aborted && reply.stopReason === null) throw streamLost("the stream ended before the reply did");
}

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot read Claude's reply as ${why}`);

/** What is kept of a Messages stream: without tools and thinking its text is all that Claude says. */
export type Reply = {
  id: string;
  text: string;
  stopReason: string | null;
  /** Of a refusal. */
  category: string | null;
  inputTokens: number;
  outputTokens: number;
  /** `message_stop` came: anything less is a stream that broke off. */
  isComplete: boolean;
};

export const emptyReply = (): Reply => {
  const nothing = { stopReason: null, category: null, inputTokens: 0, outputTokens: 0 };
  return { id: "", text: "", ...nothing, isComplete: false };
};

/** Adds one frame in place; returns the text that it brought. Unknown frames add nothing. */
export function addFrame(reply: Reply, wire: unknown): string {
  const frame = fields(wire);
  const [message, delta] = [fields(frame["message"]), fields(frame["delta"])];
  const { input_tokens: input, output_tokens: output } = fields(frame["usage"] ?? message["usage"]);
  // Counts are cumulative within a message.
  if (typeof input === "number") reply.inputTokens = input;
  if (typeof output === "number") reply.outputTokens = output;
  const block = fields(frame["content_block"]);
  let text = "";
  switch (frame["type"]) {
    case "message_start":
      reply.id = string(message["id"]);
      break;
    case "content_block_start":
      if (block["type"] === "text") text = string(block["text"]);
      break;
    case "content_block_delta":
      if (delta["type"] === "text_delta") text = string(delta["text"]);
      break;
    case "message_delta":
      reply.stopReason = string(delta["stop_reason"]) || reply.stopReason;
      reply.category = string(fields(delta["stop_details"])["category"]) || reply.category;
      break;
    case "message_stop":
      reply.isComplete = true;
  }
  reply.text += text;
  return text;
}

/** **Source:** claude/CLAUDE-API.md section 4.2. */
const stops: ReadonlyMap<string, StopReason> = new Map([
  ["end_turn", { kind: "end_turn" }],
  ["stop_sequence", { kind: "end_turn" }],
  ["max_tokens", { kind: "max_tokens" }],
  ["model_context_window_exceeded", { kind: "context_exceeded" }],
  ["cut", { kind: "cut" }],
]);

function toStop(last: Reply | undefined): StopReason {
  const name = last?.stopReason ?? "unknown";
  if (name === "refusal") return { kind: "refusal", category: last?.category ?? null };
  return stops.get(name) ?? { kind: "other", name };
}
