/**
 * The line `messages`: one request per turn, the conversation kept here. Works with every endpoint that speaks the Messages API.
 *
 *   history.ts    the log as messages            response.ts    an answer, gathered from its stream
 *   here          a turn: the request, repeated where Claude pauses, and the entries that it becomes in the log
 *
 * No entry is made before an answer is complete: a turn that broke off rejects, with the part that had come.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { JsonValue, Millis, SessionEvent } from "../core/model.ts";
import { uploadTimeoutMs, type ClaudeApi } from "./api.ts";
import { nullFor } from "./failure.ts";
import * as history from "./history.ts";
import type { Hear, Line, Request, SessionView } from "./line.ts";
import { createRequester, type Requester } from "./requester.ts";
import {
  addFrame,
  centsOf,
  createPreview,
  emptyReply,
  isComplete,
  isReplyOver,
  shownText,
  toStop,
  usedOf,
  type ApiReply,
} from "./response.ts";
import { fields, string, toBlocks, toInput } from "./wire.ts";

export type MessagesDeps = {
  readonly api: ClaudeApi;
  readonly clock: Clock;
  /** A fresh random id, for the prompt's entry in the log. */
  readonly newId: () => string;
  /** Claude may search the web. */
  readonly hasWebSearch: boolean;
  /** About how many tokens of history go along (estimated); the oldest is left out first. */
  readonly historyTokensMax?: number;
};

const defaultHistoryTokens = 100_000;
/** The longest time with only pings, as in thinking that is not shown: a person is told something within two minutes. */
const pingsOnlyMs: Millis = 90_000;
/** The same for the try after that, since it may have been long thinking. */
const patientMs: Millis = 10 * 60_000;
/** A paused turn is continued this often; then the answer so far is taken. */
const pausesMax = 2;

export function createMessagesLine(deps: MessagesDeps): Line {
  const { api } = deps;
  const making: Making = { ...deps, request: createRequester(api, deps.hasWebSearch), silent: new Set() };
  return {
    name: "messages",
    remote: null,
    hasSandbox: () => false,
    post: (session, requests, hear, signal) => post(making, session, requests, hear, signal),
    check: async (signal) => void (await nullFor("claude_models_unlisted", api.models(signal))),
    probe: (model, signal) => probe(api, model, signal),
    models: api.models,
    model: api.model,
  };
}

async function probe({ call }: ClaudeApi, model: string, signal: AbortSignal): Promise<void> {
  const params = { model, max_tokens: 1, messages: [{ role: "user" as const, content: "Hello" }] };
  await call({ what: "ask Claude for a word" }, (client) =>
    client.messages.create(params, { signal, timeout: wordMs }),
  );
}
const wordMs: Millis = 60_000;

type Making = MessagesDeps & {
  readonly request: Requester;
  /** Ids of sessions whose last answer was nothing but pings. */
  readonly silent: Set<string>;
};

/** A turn that is being made: its entries in the log, and their content for Claude. */
type Turn = {
  readonly id: string;
  readonly at: Millis;
  readonly entries: SessionEvent[];
  readonly content: history.ContentBlock[];
  open: readonly history.OpenUse[];
};

async function post(
  making: Making,
  session: SessionView,
  requests: readonly Request[],
  hear: Hear,
  signal: AbortSignal,
): Promise<void> {
  const { clock, silent } = making;
  const tell = (entries: readonly SessionEvent[]): void => entries.forEach((event) => hear({ kind: "event", event }));
  const past = history.toHistory(session.history(), session.model, making.historyTokensMax ?? defaultHistoryTokens);
  // Entries are later than all before, even if the clock was set back meanwhile, since the log is read in the order of time.
  const at = Math.max(clock.now(), past.lastAt + 1);
  const turn: Turn = { id: `local:${making.newId()}`, at, entries: [], content: [], open: past.open };
  answer(turn, requests);
  const prompts = requests.filter((request) => request.kind === "prompt");
  if (prompts.length > 0 && turn.open.length > 0)
    throw new BridgeError("claude_busy", "Cannot ask Claude as tool uses wait for their results");
  if (turn.entries.length === 0 && prompts.length === 0) return;
  const isStopped = prompts.length === 0 && requests.some(({ kind }) => kind === "interrupt");
  if (turn.open.length > 0 || isStopped) {
    const eventIds = turn.open.map(({ entryId }) => entryId);
    return tell([
      ...turn.entries,
      rest(turn, isStopped ? { kind: "end_turn" } : { kind: "requires_action", eventIds }),
    ]);
  }
  prompts.forEach((prompt, index) => ask(turn, prompt, index));
  const messages = history.settle(history.mergeNeighbours([...past.messages, { role: "user", content: turn.content }]));
  const files = prompts.flatMap((prompt) => prompt.files);
  const timeout = uploadTimeoutMs(files, making.api.bounds.headersMs);
  const pingsMs = silent.delete(session.id) ? patientMs : pingsOnlyMs;
  const replies: ApiReply[] = [];
  const now = (): Millis => Math.max(clock.now(), at);
  try {
    await run(making, session, messages, turn.id, replies, hear, { signal, timeout, pingsMs });
  } catch (error) {
    if (error instanceof BridgeError && error.code === "claude_silent") silent.add(session.id);
    const used = usageOf(turn.id, now(), session.model, replies);
    if (used.inputTokens + used.outputTokens > 0) tell([used]);
    throw error;
  }
  conclude(turn, session, replies, now());
  tell(turn.entries);
}

const raw = (id: string, at: Millis, name: string, value: JsonValue): SessionEvent => ({
  id,
  at,
  type: "other",
  name,
  raw: value,
});
const rest = ({ id, at }: Turn, stop: (SessionEvent & { type: "idle" })["stop"]): SessionEvent => ({
  id: `${id}:idle`,
  at,
  type: "idle",
  stop,
});

/** Adds the results, and errors for tool uses that an interrupt leaves unanswered; a result that the log has already is passed over. */
function answer(turn: Turn, requests: readonly Request[]): void {
  const results: history.ContentBlock[] = [];
  const settle = (use: history.OpenUse, text: string, isError: boolean): void => {
    turn.open = turn.open.filter((other) => other !== use);
    results.push(history.toResultBlock(use.blockId, text, isError));
    const id = `${turn.id}:result${results.length}`;
    turn.entries.push({ id, at: turn.at, type: "tool_result", toolUseId: use.entryId, isError });
  };
  for (const request of requests) {
    if (request.kind === "interrupt") for (const use of turn.open) settle(use, "The person interrupted it.", true);
    const use = request.kind === "result" && turn.open.find(({ entryId }) => entryId === request.toolUseId);
    if (use) settle(use, request.text, request.isError);
  }
  if (results.length === 0) return;
  turn.entries.unshift(raw(`${turn.id}:results`, turn.at, history.userRaw, { content: results }));
  turn.content.push(...results);
}

function ask(turn: Turn, { text, files }: Request & { kind: "prompt" }, index: number): void {
  const { id: turnId, at } = turn;
  const id = index === 0 ? turnId : `${turnId}:${index}`;
  const content = toInput(toBlocks(text, files)) as history.ContentBlock[];
  turn.entries.push({ id, at, type: "prompt", text });
  if (files.length > 0) turn.entries.push(raw(`${id}:files`, at, history.userRaw, { content }));
  turn.content.push(...content);
}

/** Asks, again where Claude paused, and gathers `replies`. @throws BridgeError with the text that came before a break */
async function run(
  { clock, request }: Making,
  session: SessionView,
  messages: history.Message[],
  turnId: string,
  replies: ApiReply[],
  hear: Hear,
  options: { readonly signal: AbortSignal; readonly timeout: Millis; readonly pingsMs: Millis },
): Promise<void> {
  const preview = createPreview(hear);
  try {
    for (;;) {
      const reply = emptyReply();
      replies.push(reply);
      const watch = { pingsMs: options.pingsMs, movedAt: clock.monotonic() };
      let beganAt: Millis | null = null;
      let idleAt: Millis | null = null;
      for await (const frame of request(session, messages, { ...options, watch })) {
        if (frame === "silent") throw streamLost("nothing came for too long");
        const now = clock.monotonic();
        beganAt ??= now;
        const isMore = addFrame(reply, frame);
        if (isMore) watch.movedAt = now;
        // Frames that bring nothing count as pings.
        idleAt = isMore ? null : (idleAt ?? now);
        if (frame === "pinging" || (idleAt !== null && now >= idleAt + options.pingsMs))
          throw new BridgeError("claude_silent", "Cannot read Claude's answer as nothing but pings came for too long");
        preview(replyId(turnId, replies), replies);
        // An answer that is over does not wait for the end of its stream.
        if (isReplyOver(reply, now - beganAt)) break;
      }
      if (options.signal.aborted || !isComplete(reply)) throw streamLost("it ended before the answer did");
      if (reply.stopReason !== "pause_turn" || reply.blocks.length === 0 || replies.length > pausesMax) return;
      messages = history.mergeNeighbours([...messages, { role: "assistant", content: reply.blocks }]);
    }
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    const { code, message, hint, retryAfterMs, cause } = error;
    const mayBePaid = code === "claude_unreachable" && resets.has(string(fields(cause)["code"]));
    if (blocksOf(replies).length === 0 && !mayBePaid) throw error;
    const partial = shownText(blocksOf(replies));
    throw new BridgeError(code, message, { hint, retryAfterMs: retryAfterMs ?? undefined, cause, partial });
  }
}

/** Codes of a line that broke after the request had gone out: the answer may have been made, and paid for. */
const resets: ReadonlySet<string> = new Set(["ECONNRESET", "EPIPE", "UND_ERR_SOCKET"]);

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot read Claude's answer as ${why}`);

const blocksOf = (replies: readonly ApiReply[]): history.ContentBlock[] => replies.flatMap(({ blocks }) => blocks);
/** Our own id of a reply, as some endpoints give every message the same id, or none. An answer that begins anew is another reply. */
const replyId = (turnId: string, replies: readonly ApiReply[]): string => {
  const restarts = replies.reduce((sum, reply) => sum + reply.restarts, 0);
  return `${turnId}:reply${restarts === 0 ? "" : restarts}`;
};

/** Adds the entries of an answer to the turn. */
function conclude(turn: Turn, { model, tools }: SessionView, replies: readonly ApiReply[], at: Millis): void {
  const last = replies.at(-1) ?? emptyReply();
  const isToolStop = last.stopReason === "tool_use" && tools.length > 0;
  // A tool use that was cut off is left out, since it must not wait for a result.
  const blocks = blocksOf(replies).filter(({ type }) => type !== "tool_use" || isToolStop);
  const { id: turnId, entries } = turn;
  if (blocks.some(({ type }) => type !== "text"))
    entries.push(raw(`${turnId}:blocks`, at, history.assistantRaw, { model, content: blocks }));
  const uses = blocks.flatMap((block, index): (SessionEvent & { type: "tool_use" })[] => {
    const isLocal = block["type"] === "tool_use";
    if (!isLocal && block["type"] !== "server_tool_use") return [];
    const id = history.toUseId(turnId, index, string(block["id"]));
    return [
      { id, at, type: "tool_use", name: string(block["name"]), input: block["input"] ?? null, isAsk: false, isLocal },
    ];
  });
  const text = shownText(blocks);
  entries.push(...uses.filter(({ isLocal }) => !isLocal));
  if (text.trim() !== "") entries.push({ id: replyId(turnId, replies), at, type: "reply", text });
  const open = uses.filter(({ isLocal }) => isLocal);
  entries.push(...open, usageOf(turnId, at, model, replies));
  const eventIds = open.map(({ id }) => id);
  const stop = open.length > 0 ? ({ kind: "requires_action", eventIds } as const) : toStop(last);
  entries.push({ id: `${turnId}:idle`, at, type: "idle", stop });
}

function usageOf(
  turnId: string,
  at: Millis,
  model: string,
  replies: readonly ApiReply[],
): SessionEvent & { type: "usage" } {
  const used = replies.map(usedOf);
  const costs = used.map((one) => centsOf(model, one));
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  return {
    id: `${turnId}:usage`,
    at,
    type: "usage",
    inputTokens: sum(used.map(({ input, cacheRead, cacheWrite }) => input + cacheRead + cacheWrite)),
    outputTokens: sum(used.map(({ output }) => output)),
    costCents: costs.includes(null) ? null : sum(costs.map((cost) => cost ?? 0)),
    isTotal: false,
  };
}
