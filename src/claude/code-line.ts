/**
 * The line `claude-code`: the owner's own installed `claude` is the agent. It keeps the conversation by itself, under an id that we
 * choose; what it says is in our log too.
 *
 *   code-program.ts   one process per conversation       code-frames.ts   what it prints, as entries
 *   here              a turn: the prompt goes in, its questions come out as calls, their answers go in, until it is over
 *
 * A prompt has an id that does not change, by which the program knows it again: what it has already is not asked twice, and the
 * program is told to go on instead. So a crash of either side costs no more than what was running.
 */
import { createHash } from "node:crypto";
import { BridgeError } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import { toBlocks } from "./blocks.ts";
import { answerFrame, controlFrame, createTurnReader, userFrame, type Ask, type TurnReader } from "./code-frames.ts";
import { checkProgram, lookAtProgram, startProgram, type Program, type ProgramDeps } from "./code-program.ts";
import type { Line, OnEvents, OnText, Request, SessionView } from "./line.ts";
import { fields, toInput, type Fields } from "./wire.ts";

export type CodeDeps = ProgramDeps & { readonly newId: () => string };

/** A process without a turn is ended after this: the next prompt starts another. */
const idleMs: Millis = 10 * 60_000;
const interruptMs: Millis = 3_000;

/** One process, and how far its turn is. */
type Talk = {
  readonly program: Program;
  /** What it was started with: another model, another process. */
  readonly key: string;
  reader: TurnReader;
  isBusy: boolean;
  ask: Ask | null;
  costUsd: number;
  idle: AbortController;
};

type Turn = {
  readonly session: SessionView;
  readonly emit: (events: readonly SessionEvent[]) => void;
  readonly onText: OnText;
  readonly signal: AbortSignal;
  readonly now: () => Millis;
};

export function createCodeLine(deps: CodeDeps): Line & { close(): Promise<void> } {
  const talks = new Map<string, Talk>();
  return {
    name: "claude-code",
    remote: null,
    remembers: true,
    hasSandbox: () => false,
    post: (session, requests, onText, signal, onEvents) =>
      post(deps, talks, session, requests, onText, signal, onEvents),
    check: (signal) => checkProgram(deps, signal),
    models: async (signal) => (await lookAtProgram(deps, signal)).models,
    model: async (name, signal) => (await lookAtProgram(deps, signal)).models.find(({ id }) => id === name) ?? null,
    async close() {
      const open = [...talks.values()];
      talks.clear();
      for (const { idle } of open) idle.abort();
      await Promise.all(open.map(({ program }) => program.end()));
    },
  };
}

/** Ids of the program are UUIDs: one that follows from ours. */
function uuidOf(...words: readonly string[]): string {
  const hex = createHash("sha256").update(JSON.stringify(words)).digest("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-",
  );
}

async function post(
  deps: CodeDeps,
  talks: Map<string, Talk>,
  session: SessionView,
  requests: readonly Request[],
  onText: OnText,
  signal: AbortSignal,
  onEvents: OnEvents = () => undefined,
): Promise<readonly SessionEvent[]> {
  const all: SessionEvent[] = [];
  const emit = (events: readonly SessionEvent[]): void => {
    if (events.length === 0) return;
    all.push(...events);
    onEvents(events);
  };
  const [newest] = session.history();
  // Later than all that was said before, even if the clock was set back meanwhile: the log is read in this order.
  const floor = (newest?.at ?? 0) + 1;
  const turn: Turn = { session, emit, onText, signal, now: () => Math.max(deps.clock.now(), floor) };
  const known = talks.get(session.id);
  const talk = known?.program.isAlive() ? known : undefined;
  const prompts = requests.filter((request) => request.kind === "prompt");
  const results = requests.filter((request) => request.kind === "result");
  const isStopped = requests.some(({ kind }) => kind === "interrupt");
  if (prompts.length > 0 && talk?.ask && results.length === 0 && !isStopped)
    throw new BridgeError("claude_busy", "Cannot ask Claude as it waits for the answer to its question");
  const lost = results.filter((result) => !answer(talk, result));
  if (isStopped) {
    if (talk?.isBusy) await interrupt(deps, talks, session.id, talk);
    emit(results.map(({ toolUseId }) => unanswered(toolUseId, turn.now())));
    emit([{ id: deps.newId(), at: turn.now(), type: "idle", stop: { kind: "end_turn" } }]);
  } else if (lost.length > 0 && !talk?.isBusy) {
    await ask(deps, talks, turn, null, lost);
  } else if (talk?.isBusy && results.length > 0) {
    await attend(deps, talks, turn, talk);
  }
  for (const prompt of prompts) await ask(deps, talks, turn, prompt, []);
  return all;
}

type Result = Request & { readonly kind: "result" };
type Prompt = Request & { readonly kind: "prompt" };

/** False where the process that asked is no more. */
function answer(talk: Talk | undefined, { toolUseId, text, isError }: Result): boolean {
  if (talk?.ask?.useId !== toolUseId) return false;
  talk.program.send(answerFrame(talk.ask, isError ? text : null));
  talk.ask = null;
  return true;
}

const unanswered = (toolUseId: string, at: Millis): SessionEvent => ({
  id: `${toolUseId}:result`,
  at,
  type: "tool_result",
  toolUseId,
  isError: true,
});

/** The words for a conversation that was cut off in its middle. */
function goOnText(session: SessionView, lost: readonly Result[]): string {
  const names = new Map<string, string>();
  for (const event of lost.length > 0 ? session.history() : [])
    if (event.type === "tool_use" && !names.has(event.id)) names.set(event.id, event.name);
  const answers = lost.map(
    ({ toolUseId, text }) =>
      `Your use of ${names.get(toolUseId) ?? "a tool"} was not done. The person answered meanwhile: ${text}`,
  );
  return [
    "[signalman, which carries this conversation, was interrupted while you worked on the last message. The person may have seen nothing of what you said since.",
    ...answers,
    "Look at what is done already, go on from there, and answer.]",
  ].join("\n");
}

/** Asks, in a process that is there or in a new one, and reads until the turn rests. `prompt` null: what was cut off goes on. */
async function ask(
  deps: CodeDeps,
  talks: Map<string, Talk>,
  turn: Turn,
  prompt: Prompt | null,
  lost: readonly Result[],
): Promise<void> {
  const { session } = turn;
  const text = prompt?.text ?? goOnText(session, lost);
  const uuid =
    prompt?.id === undefined ? uuidOf(deps.newId()) : uuidOf("prompt", session.id, String(prompt.id), prompt.text);
  const content = toInput(toBlocks(text, prompt?.files ?? []));
  const [newest] = session.history();
  let isResumed = newest !== undefined;
  for (let tries = 0; ; tries++) {
    const talk = await open(deps, talks, session, isResumed);
    talk.reader = createTurnReader(turn.now);
    talk.isBusy = true;
    talk.program.send(userFrame(uuid, content));
    const isAnew = !isResumed && hasSpoken(session);
    const isTaken = await attend(deps, talks, turn, talk, { uuid, prompt, lost, isAnew });
    if (isTaken) return;
    // It knows no such conversation, or has one already where none was thought to be.
    if (tries > 0)
      throw new BridgeError("claude_program", `Cannot start the claude program: ${talk.program.lastWords()}`);
    isResumed = !isResumed;
  }
}

function hasSpoken({ history }: SessionView): boolean {
  for (const { type } of history()) if (type === "reply") return true;
  return false;
}

/** The process of a conversation: the one that is there, where it was started like this. @throws BridgeError `claude_program` */
async function open(
  deps: CodeDeps,
  talks: Map<string, Talk>,
  { id, model, effort, system, folder, asksToRead = false }: SessionView,
  isResumed: boolean,
): Promise<Talk> {
  const key = JSON.stringify([model, effort, system, folder, asksToRead]);
  const known = talks.get(id);
  known?.idle.abort();
  if (known?.program.isAlive() && known.key === key) return known;
  talks.delete(id);
  await known?.program.end();
  const session = uuidOf("session", id);
  const chosen = ["--model", model, "--effort", effort, isResumed ? "--resume" : "--session-id", session];
  const program = await startProgram(deps, { args: chosen, folder, asksToRead, mark: session });
  program.send(controlFrame(deps.newId(), { subtype: "initialize", appendSystemPrompt: system }));
  const state = { isBusy: false, ask: null, costUsd: 0, idle: new AbortController() };
  const talk: Talk = { program, key, reader: createTurnReader(deps.clock.now), ...state };
  talks.set(id, talk);
  return talk;
}

/** `isAnew`: the program does not have what was said before. */
type Begun = {
  readonly uuid: string;
  readonly prompt: Prompt | null;
  readonly lost: readonly Result[];
  readonly isAnew: boolean;
};

const anewText = "(Claude Code does not have our earlier conversation any more: this one begins anew.)";

/**
 * Reads until the turn is over, or asks; false where the process ended before it took the prompt.
 * @throws BridgeError with what was said in the sentence that broke off
 */
async function attend(
  deps: CodeDeps,
  talks: Map<string, Talk>,
  turn: Turn,
  talk: Talk,
  begun: Begun | null = null,
): Promise<boolean> {
  const { session, emit, signal } = turn;
  let isTaken = begun === null;
  const take = (): void => {
    if (isTaken || begun === null) return;
    isTaken = true;
    const { uuid, prompt, lost, isAnew } = begun;
    if (prompt) emit([{ id: uuid, at: turn.now(), type: "prompt", text: prompt.text }]);
    emit(lost.map(({ toolUseId }) => unanswered(toolUseId, turn.now())));
    if (isAnew) emit([{ id: `${uuid}:anew`, at: turn.now(), type: "reply", text: anewText }]);
  };
  for (;;) {
    const heard = await talk.program.next(signal);
    if (heard === "stopped") {
      await interrupt(deps, talks, session.id, talk);
      throw new BridgeError("claude_unreachable", "Cannot finish the turn as it was stopped");
    }
    if (heard === null || heard === "silent") {
      talks.delete(session.id);
      await talk.program.end();
      if (heard === null && !isTaken) return false;
      const why =
        heard === null ? `the claude program ended: ${talk.program.lastWords()}` : "nothing came for too long";
      throw new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`, {
        partial: talk.reader.partial(),
      });
    }
    const seen = talk.reader.read(heard.frame);
    if (seen?.kind === "taken") take();
    if (seen?.kind === "echo" && !isTaken && seen.uuid === begun?.uuid) {
      // It has this prompt from before, and starts no turn for it.
      take();
      const content = [{ type: "text", text: goOnText(session, []) }];
      talk.program.send(userFrame(uuidOf(deps.newId()), content));
    }
    if (seen?.kind === "text") turn.onText(seen.eventId, seen.text);
    if (seen?.kind === "events") emit(seen.events);
    if (seen?.kind === "unserved") talk.program.send(unservedFrame(seen.requestId));
    if (seen?.kind === "asks") {
      talk.ask = seen.ask;
      emit(seen.events);
      return true;
    }
    // A result without a turn: it found no such conversation, and ends.
    if (seen?.kind === "over" && isTaken) {
      const events = await conclude(talks, session.id, talk, seen.result);
      rest(deps, talks, session.id, talk);
      emit(events);
      return true;
    }
  }
}

/** After a fault the next try has a process of its own, which reads logins and settings anew. @throws BridgeError */
async function conclude(talks: Map<string, Talk>, id: string, talk: Talk, result: Fields) {
  try {
    const costBefore = talk.costUsd;
    talk.costUsd = Number(result["total_cost_usd"] ?? costBefore);
    return talk.reader.end(result, costBefore);
  } catch (error) {
    talks.delete(id);
    await talk.program.end();
    throw error;
  }
}

const unservedFrame = (requestId: string): object => ({
  type: "control_response",
  response: { subtype: "error", request_id: requestId, error: "signalman does not do that" },
});

/** No turn is on: the process is kept for the next prompt, for a while. */
function rest({ clock }: CodeDeps, talks: Map<string, Talk>, id: string, talk: Talk): void {
  talk.isBusy = false;
  talk.ask = null;
  talk.idle.abort();
  talk.idle = new AbortController();
  const { signal } = talk.idle;
  void clock.sleep(idleMs, signal).then(async () => {
    if (signal.aborted || talks.get(id) !== talk) return;
    talks.delete(id);
    await talk.program.end();
  });
}

/** The turn ends, and what it says on its way is not heard; a process that does not come to rest is ended. */
async function interrupt(deps: CodeDeps, talks: Map<string, Talk>, id: string, talk: Talk): Promise<void> {
  talk.program.send(controlFrame(deps.newId(), { subtype: "interrupt" }));
  const over = new AbortController();
  const late = deps.clock.sleep(interruptMs, over.signal).then(() => over.abort());
  for (;;) {
    const heard = await talk.program.next(over.signal);
    if (heard === null || typeof heard === "string") {
      talks.delete(id);
      await talk.program.end();
      break;
    }
    if (fields(heard.frame)["type"] !== "result") continue;
    rest(deps, talks, id, talk);
    break;
  }
  over.abort();
  await late;
}
