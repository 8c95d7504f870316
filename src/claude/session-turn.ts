/**
 * One turn of a session that lives elsewhere: the algorithm, over a small line to its server. `sessions` speaks it to the
 * API, `scripted` to a world in memory.
 *
 *   (create) ─▶ open the stream ─▶ list the log ─▶ reconcile ─▶ send ─▶ listen until our prompt's turn has ended
 *
 * The stream has no replay, so it is opened first; posting has no idempotency key, so an uncertain prompt is looked for
 * before anything is sent; and a stream that ends says nothing about the turn.
 * **Source:** claude/CLAUDE-API.md sections 0.2, 1.5, 1.6, 1.8, 2.6.
 */
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import { findUncertain, progressOf, trackAll, type Progress } from "../core/turn.ts";
import type { Prompt, RemoteSession, RemoteSessions, SessionView, TurnStep } from "./backend.ts";
import type { Frame } from "./wire.ts";

/** What the algorithm needs of the side where sessions live. Every failure is a BridgeError. */
export interface SessionLine extends RemoteSessions {
  /** Resolves to the id of a new session with the view's title and metadata. */
  create(session: SessionView, signal: AbortSignal): Promise<string>;
  /** Resolves when the server sends everything that happens from here on. Ends when it does, or silently by `signal`. */
  open(remoteId: string, signal: AbortSignal): Promise<AsyncIterable<Frame>>;
  /** Every prompt of the log, queued ones included: no time filter sees those. */
  prompts(remoteId: string, signal: AbortSignal): Promise<readonly SessionEvent[]>;
  /** Posts a prompt once and resolves to its entry in the log. */
  send(remoteId: string, prompt: Prompt, signal: AbortSignal): Promise<SessionEvent>;
  /** Says no to these tool uses and ends the turn that asked, in one request. */
  putAside(remoteId: string, toolUseIds: readonly string[], signal: AbortSignal): Promise<void>;
}

/** The time filter is on `processed_at`, where ties and late entries exist: always look back this far. */
export const overlapMs = 60_000;

/** How far a prompt may seem older than its sending: the clocks are known to a second, and a wrong guess asks twice. */
const askedSlackMs = 60_000;

type Turn = {
  readonly line: SessionLine;
  readonly session: SessionView;
  readonly remoteId: string;
  readonly signal: AbortSignal;
  /** From here the log is listed. */
  readonly since: Millis | null;
  readonly frames: AsyncIterator<Frame>;
  /** Of nothing, where no prompt of ours is at work. */
  progress: Progress;
  lastError: (SessionEvent & { readonly type: "error" }) | null;
};

/** Runs, or goes on with, one turn as `Backend.turn` promises it. */
export async function* runTurn(
  line: SessionLine,
  session: SessionView,
  prompt: Prompt | null,
  outer: AbortSignal,
): AsyncGenerator<TurnStep> {
  const cut = new AbortController();
  const signal = AbortSignal.any([outer, cut.signal]);
  let { remoteId } = session;
  try {
    if (remoteId === null) {
      if (prompt === null) return;
      remoteId = await line.create(session, signal);
      yield { kind: "created", remoteId };
    }
    const frames = (await line.open(remoteId, signal))[Symbol.asyncIterator]();
    const since = sinceOf(session, prompt);
    const turn: Turn = { line, session, remoteId, signal, since, frames, progress: progressOf(null), lastError: null };
    const log = session.remoteId === null ? [] : await readLog(turn);
    yield* prompt === null ? follow(turn, log) : ask(turn, log, prompt);
  } catch (error) {
    if (outer.aborted) return;
    const there = remoteId !== null && isRefused(error) ? await line.retrieve(remoteId, signal) : undefined;
    if (there === undefined || !isOver(there)) throw error;
    yield gone(there);
  } finally {
    cut.abort();
  }
}

/** Far enough back to see our prompt again, wherever the cursor has gone since. */
function sinceOf(session: SessionView, prompt: Prompt | null): Millis | null {
  if (session.cursor === null) return null;
  const state = prompt?.state ?? { kind: "new" };
  let asked: Millis | null = null;
  if (state.kind === "uncertain") asked = state.askedAt;
  if (state.kind === "asked") asked = session.history().find((event) => event.id === state.eventId)?.at ?? null;
  return Math.min(session.cursor, asked ?? session.cursor) - overlapMs;
}

/** Follows a session nobody here asked anything, until it rests. */
async function* follow(turn: Turn, log: readonly SessionEvent[]): AsyncGenerator<TurnStep> {
  yield* record(turn, log);
  const there = await turn.line.retrieve(turn.remoteId, turn.signal);
  if (isOver(there)) yield gone(there);
  else if (there?.status !== "idle") yield* listen(turn);
}

async function* ask(turn: Turn, log: readonly SessionEvent[], prompt: Prompt): AsyncGenerator<TurnStep> {
  const eventId = prompt.state.kind === "asked" ? prompt.state.eventId : await adopt(turn, prompt, log);
  turn.progress = progressOf(eventId);
  if (eventId !== null && prompt.state.kind === "uncertain") yield { kind: "asked", eventId };
  yield* record(turn, log);
  if (log.some((event) => event.type === "terminated")) {
    if (eventId !== null && turn.lastError?.retry === "terminal") throw gaveUp(turn);
    return yield { kind: "gone", isBroken: true };
  }
  let isAsked = eventId !== null && turn.progress.kind !== "flushed";
  if (!isAsked) turn.progress = progressOf(null, turn.progress.facts.earlierStopIds);
  if (!isAsked && (await makeRoom(turn, log))) yield* listen(turn);
  while (!turn.signal.aborted && !isSettled(turn)) {
    if (!isAsked) yield* send(turn, prompt);
    if ((yield* listen(turn)) === "over") return;
    isAsked = false;
  }
}

/** The event that an uncertain prompt already is, or null: then it may be sent. One that was flushed since is no answer. */
async function adopt(turn: Turn, { state }: Prompt, log: readonly SessionEvent[]): Promise<string | null> {
  if (state.kind !== "uncertain") return null;
  const events = [...log, ...(await turn.line.prompts(turn.remoteId, turn.signal))];
  const taken = new Set(turn.session.mappedEventIds);
  for (;;) {
    const found = findUncertain(state.text, state.askedAt - askedSlackMs, events, taken);
    if (found === null || trackAll(progressOf(found), log).kind !== "flushed") return found;
    taken.add(found);
  }
}

/**
 * A session that waits for a yes or no takes no prompt up. With one of ours to be taken up nobody here waits for that question
 * any more (a `/stop` that Claude never heard of). True where there was one.
 */
async function makeRoom(turn: Turn, log: readonly SessionEvent[]): Promise<boolean> {
  const events = log.some(({ type }) => type === "idle") ? log : [...turn.session.history(), ...log];
  const last = events.findLast((event) => event.type === "idle");
  if (last?.stop.kind !== "requires_action") return false;
  const isOpen = (id: string): boolean => !events.some((event) => "toolUseId" in event && event.toolUseId === id);
  const open = last.stop.eventIds.filter(isOpen);
  if (open.length === 0) return false;
  try {
    await turn.line.putAside(turn.remoteId, open, turn.signal);
  } catch (error) {
    // Answered meanwhile, or gone: what comes next will tell.
    if (!isRefused(error)) throw error;
  }
  return true;
}

async function* send(turn: Turn, prompt: Prompt): AsyncGenerator<TurnStep> {
  yield { kind: "sending" };
  const echo = await turn.line.send(turn.remoteId, prompt, turn.signal);
  turn.progress = progressOf(echo.id, turn.progress.facts.earlierStopIds);
  turn.lastError = null;
  yield { kind: "asked", eventId: echo.id };
  yield* record(turn, [echo]);
}

/** `over`: nothing more to do, or the session is gone. `died`: the prompt was thrown away in silence and is to be sent anew. */
async function* listen(turn: Turn): AsyncGenerator<TurnStep, "over" | "died"> {
  const started = new Set<string>();
  for (;;) {
    const next = await turn.frames.next();
    if (turn.signal.aborted) return "over";
    if (next.done) throw streamLost("its end came before the turn's");
    const frame = next.value;
    switch (frame.kind) {
      case "start":
        started.add(frame.eventId);
        break;
      case "delta":
        // Without its start it is the tail of a message that began before we listened.
        if (started.has(frame.eventId)) yield frame;
        break;
      case "deleted":
        yield gone(null);
        return "over";
      case "silent":
        return yield* afterSilence(turn);
      case "event":
        yield* recordFrame(turn, frame.event);
        if (frame.event.type === "terminated") {
          // It died of our prompt: a new session would die of it too.
          if (turn.progress.facts.promptId !== null && turn.lastError?.retry === "terminal") throw gaveUp(turn);
          yield { kind: "gone", isBroken: true };
          return "over";
        }
        if (isSettled(turn) || (turn.progress.facts.promptId === null && frame.event.type === "idle")) return "over";
        if (turn.progress.kind === "flushed") throw gaveUp(turn);
    }
  }
}

/**
 * Silence proves nothing by itself. Where the session rests although our prompt is still queued, it will never be taken up,
 * unless somebody else's question holds it up; otherwise the line may be dead, and a new stream is the only way to know.
 */
async function* afterSilence(turn: Turn): AsyncGenerator<TurnStep, "over" | "died"> {
  const there = await turn.line.retrieve(turn.remoteId, turn.signal);
  if (isOver(there)) {
    yield gone(there);
    return "over";
  }
  const log = await readLog(turn);
  yield* record(turn, log);
  const { kind, facts } = turn.progress;
  if (isSettled(turn)) return "over";
  if (there?.status === "idle" && facts.promptId === null) return "over";
  if (there?.status === "idle" && kind === "flushed") return "died";
  if (there?.status === "idle" && kind === "queued") return (await makeRoom(turn, log)) ? yield* listen(turn) : "died";
  throw streamLost("nothing came over it for too long");
}

async function* recordFrame(turn: Turn, event: SessionEvent): AsyncGenerator<TurnStep> {
  const { kind, facts } = turn.progress;
  const isPuzzling = event.type === "idle" && kind === "queued" && facts.promptId !== null;
  // A stop while our prompt seems queued: the stream may have shown the prompt once only, unprocessed. The log knows.
  yield* record(turn, isPuzzling ? [event, ...(await readLog(turn))] : [event]);
}

async function* record(turn: Turn, events: readonly SessionEvent[]): AsyncGenerator<TurnStep> {
  if (events.length === 0) return;
  turn.lastError = events.findLast((event) => event.type === "error") ?? turn.lastError;
  turn.progress = trackAll(turn.progress, events);
  yield { kind: "events", events };
}

async function readLog({ line, remoteId, since, signal }: Turn): Promise<SessionEvent[]> {
  const log: SessionEvent[] = [];
  for await (const page of line.events(remoteId, since, signal)) log.push(...page);
  return log;
}

const isSettled = ({ progress }: Turn): boolean => progress.kind === "ended" || progress.kind === "waiting";

const isOver = (there: RemoteSession | null): boolean =>
  there === null || there.isArchived || there.status === "terminated";

const gone = (there: RemoteSession | null): TurnStep => ({
  kind: "gone",
  ...(there?.isArchived === false && { isBroken: true }),
});

const isRefused = (error: unknown): boolean => error instanceof BridgeError && error.code === "claude_request";

const streamLost = (why: string): BridgeError =>
  new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`);

const codeOfError: { readonly [code: string]: ErrorCode } = {
  model_overloaded_error: "claude_overloaded",
  overloaded_error: "claude_overloaded",
  model_rate_limited_error: "claude_rate_limited",
  billing_error: "claude_credit",
  compaction_limit_reached_error: "claude_context",
  // The same prompt would run, and cost, as much again.
  tool_use_limit_reached_error: "claude_request",
};

/** The turn died after the server's own retries, or with its session. **Source:** claude/CLAUDE-API.md section 5.2. */
function gaveUp({ lastError }: Turn): BridgeError {
  const name = lastError?.code ?? "";
  // Without a word of its own it was thrown away with another turn.
  const code = name === "" ? "claude_overloaded" : (codeOfError[name] ?? "claude_failed");
  return new BridgeError(
    code,
    `Cannot finish the turn as Claude gave it up: ${name === "" ? "no reason given" : name}`,
  );
}
