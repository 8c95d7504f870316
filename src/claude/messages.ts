/**
 * The backend `messages`: one request per turn, the conversation kept here. Works with every endpoint that speaks the
 * Messages API. Nothing is stored before the reply is complete: a turn that broke off is simply asked again.
 * **Source:** claude/CLAUDE-API.md section 4.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { SessionEvent, StopReason } from "../core/model.ts";
import { addFrame, emptyReply, replyText, type Reply } from "./accumulate.ts";
import type { ClaudeApi } from "./api.ts";
import type { Backend, Prompt, SessionView, TurnStep } from "./backend.ts";
import { toBlocks } from "./content.ts";
import { toHistory } from "./history.ts";
import { listModels } from "./models.ts";

export type MessagesDeps = {
  readonly api: ClaudeApi;
  readonly clock: Clock;
  /** A fresh random id, for the prompt's entry in the log. */
  readonly newId: () => string;
  /** About how many tokens of history go along (estimated, 100 000 by default); the oldest is left out first. */
  readonly historyTokensMax?: number;
  /** The API cuts a reply at this many tokens; 8192 by default. */
  readonly replyTokensMax?: number;
};

const defaultHistoryTokens = 100_000;
const defaultReplyTokens = 8_192;
/** How often a paused turn is continued before we take what there is. */
const pausesMax = 8;

type Turn = {
  readonly deps: MessagesDeps;
  readonly session: SessionView;
  readonly messages: Anthropic.MessageParam[];
  readonly promptId: string;
  readonly takenIds: ReadonlySet<string>;
  /** The id of the first part is that of the whole reply; null until it is known. */
  replyId: string | null;
};

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
    // Aborting the turn is all there is to it.
    interrupt: () => Promise.resolve(),
    async check(signal) {
      await deps.api.call({ what: "list the models" }, (client) => client.models.list({ limit: 1 }, { signal }));
    },
    models: (signal) => listModels(deps.api, signal),
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
  const turn: Turn = {
    deps,
    session,
    messages: toMessages(log, prompt, deps.historyTokensMax ?? defaultHistoryTokens),
    promptId: `local:${deps.newId()}`,
    takenIds: new Set(log.map((event) => event.id)),
    replyId: null,
  };
  // Later than all that was said before, even if the clock was set back meanwhile: the log is read in this order.
  const startedAt = Math.max(deps.clock.now(), (log.findLast((event) => event.at !== null)?.at ?? 0) + 1);
  const parts: Reply[] = [];
  do {
    const part = yield* request(turn, signal);
    if (signal.aborted) return;
    parts.push(part);
    turn.messages.push({ role: "assistant", content: part.blocks as unknown as Anthropic.ContentBlockParam[] });
  } while (parts.at(-1)?.stopReason === "pause_turn" && parts.length <= pausesMax);
  yield { kind: "asked", eventId: turn.promptId };
  yield { kind: "events", events: toEvents(turn, prompt, parts, startedAt) };
}

/** The turn as the log has it already, for a prompt that was answered and then asked again by a restart. */
function knownTurn(log: readonly SessionEvent[], prompt: Prompt): readonly SessionEvent[] {
  const { state } = prompt;
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

/** One request, its text as deltas; returns the whole reply. */
async function* request(turn: Turn, signal: AbortSignal): AsyncGenerator<TurnStep, Reply> {
  const { deps, session, messages } = turn;
  const site = { what: "ask Claude", notFound: "claude_model" } as const;
  const frames = await deps.api.stream(
    site,
    (client, options) =>
      client.messages.create(
        {
          model: session.model,
          max_tokens: deps.replyTokensMax ?? defaultReplyTokens,
          ...(session.system === "" ? {} : { system: session.system }),
          messages: [...messages],
          cache_control: { type: "ephemeral" },
          stream: true,
        },
        options,
      ),
    signal,
  );
  const reply = emptyReply();
  for await (const frame of frames) {
    if (frame === "silent") throw streamLost("nothing came for too long");
    const text = read(reply, frame);
    turn.replyId ??= reply.id === "" ? null : replyIdOf(turn, reply.id);
    if (text !== "") yield { kind: "delta", eventId: (turn.replyId ??= replyIdOf(turn, "")), text };
    if (reply.isComplete) break;
  }
  if (!reply.isComplete && !signal.aborted) throw streamLost("the stream ended before the reply did");
  return reply;
}

function read(reply: Reply, frame: unknown): string {
  try {
    return addFrame(reply, frame);
  } catch (cause) {
    throw new BridgeError("claude_protocol", "Cannot read Claude's reply as its tool input is no JSON", { cause });
  }
}

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot read Claude's reply as ${why}`);

/** Some endpoints give every message the same id, or none: the log would take the second reply for the first. */
const replyIdOf = (turn: Turn, id: string): string =>
  id === "" || turn.takenIds.has(id) ? `${turn.promptId}:reply` : id;

function toEvents(turn: Turn, prompt: Prompt, parts: readonly Reply[], startedAt: number): SessionEvent[] {
  const { promptId } = turn;
  const at = Math.max(turn.deps.clock.now(), startedAt);
  const text = parts.map(replyText).join("");
  const reply: SessionEvent = { id: turn.replyId ?? replyIdOf(turn, ""), at, type: "reply", text };
  const sum = (count: (part: Reply) => number): number => parts.reduce((total, part) => total + count(part), 0);
  return [
    { id: promptId, at: startedAt, type: "prompt", text: prompt.text },
    ...(text.trim() === "" ? [] : [reply]),
    {
      id: `${promptId}:usage`,
      at,
      type: "usage",
      inputTokens: sum((part) => part.inputTokens),
      outputTokens: sum((part) => part.outputTokens),
      costCents: null,
    },
    { id: `${promptId}:idle`, at, type: "idle", stop: toStop(parts.at(-1)) },
  ];
}

/** **Source:** claude/CLAUDE-API.md section 4.2. */
function toStop(last: Reply | undefined): StopReason {
  switch (last?.stopReason) {
    case "end_turn":
    case "stop_sequence":
      return { kind: "end_turn" };
    case "max_tokens":
      return { kind: "max_tokens" };
    case "model_context_window_exceeded":
      return { kind: "context_exceeded" };
    case "refusal":
      return { kind: "refusal", category: last.category };
    default:
      return { kind: "other", name: last?.stopReason ?? "unknown" };
  }
}
