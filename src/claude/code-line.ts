/**
 * The line `claude-code`: the owner's own installed `claude` is the agent. It keeps the conversation by itself, under an id that we
 * choose; our log has its entries too.
 *
 *   code-program.ts   one process per conversation       code-frames.ts   its output, as entries
 *   here              a turn: the prompt goes in, its questions come out as calls, their answers go in, until it is over
 *
 * A prompt has an id that does not change, by which the program knows it again: it does not ask Claude twice, and is told to go on
 * instead. So a crash of either side costs no more than what was running.
 */
import { createHash } from "node:crypto";
import { BridgeError } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import {
  answerFrame,
  controlFrame,
  createTurnReader,
  toResultEvent,
  unservedFrame,
  userFrame,
  type PermissionAsk,
  type TurnReader,
} from "./code-frames.ts";
import { checkProgram, lookAtProgram, startProgram, type ClaudeProgram, type ProgramDeps } from "./code-program.ts";
import type { Hear, Line, Request, SessionView } from "./line.ts";
import { fields, toBlocks, toInput } from "./wire.ts";

export type CodeDeps = ProgramDeps & {
  readonly newId: () => string;
  /** Starts a program in place of `startProgram`: the simulation plays one. */
  readonly start?: typeof startProgram;
};

/** A process without a turn is ended after this: the next prompt starts another. */
const idleMs: Millis = 10 * 60_000;
const interruptMs: Millis = 3_000;

/** One process, and the state of its turn. */
type Talk = {
  readonly program: ClaudeProgram;
  /** The settings that the process was started with: other settings, such as another model, need another process. */
  readonly key: string;
  reader: TurnReader;
  isBusy: boolean;
  ask: PermissionAsk | null;
  costUsd: number;
  idle: AbortController;
};

type Turn = {
  readonly session: SessionView;
  readonly emit: (events: readonly SessionEvent[]) => void;
  readonly hear: Hear;
  readonly signal: AbortSignal;
  readonly now: () => Millis;
};

/** The processes, by conversation. */
type Code = CodeDeps & { readonly talks: Map<string, Talk> };

export function createCodeLine(deps: CodeDeps): Line & { close(): Promise<void> } {
  const talks = new Map<string, Talk>();
  const code: Code = { ...deps, talks };
  return {
    name: "claude-code",
    remote: null,
    remembers: true,
    hasSandbox: () => false,
    post: (session, requests, hear, signal) => post(code, session, requests, hear, signal),
    check: (signal) => checkProgram(deps, signal),
    models: async (signal) => (await lookAtProgram(deps, signal)).models,
    model: async (name, signal) => (await lookAtProgram(deps, signal)).models.find(({ id }) => id === name) ?? null,
    async close() {
      await Promise.all([...talks].map(([id, talk]) => drop(code, id, talk)));
    },
  };
}

/** A UUID, as the program wants its ids, that follows from our own ids. */
function uuidOf(...words: readonly string[]): string {
  const hex = createHash("sha256").update(JSON.stringify(words)).digest("hex");
  return [hex.slice(0, 8), hex.slice(8, 12), `4${hex.slice(13, 16)}`, `8${hex.slice(17, 20)}`, hex.slice(20, 32)].join(
    "-",
  );
}

async function post(
  code: Code,
  session: SessionView,
  requests: readonly Request[],
  hear: Hear,
  signal: AbortSignal,
): Promise<void> {
  const emit = (events: readonly SessionEvent[]): void => events.forEach((event) => hear({ kind: "event", event }));
  const [newest] = session.history();
  // Entries are later than all before, even if the clock was set back meanwhile, since the log is read in the order of time.
  const floor = (newest?.at ?? 0) + 1;
  const turn: Turn = { session, emit, hear, signal, now: () => Math.max(code.clock.now(), floor) };
  const known = code.talks.get(session.id);
  const talk = known?.program.isAlive() ? known : undefined;
  if (talk?.ask && requests.every(({ kind }) => kind === "prompt"))
    throw new BridgeError("claude_busy", "Cannot ask Claude as it waits for the answer to its question");
  try {
    await work(code, turn, talk, requests);
  } catch (error) {
    // The next try has a process of its own, which reads logins and settings anew.
    const broken = code.talks.get(session.id);
    if (broken?.isBusy) await drop(code, session.id, broken);
    throw error;
  }
}

async function work(code: Code, turn: Turn, talk: Talk | undefined, requests: readonly Request[]): Promise<void> {
  const { emit, now } = turn;
  const results = requests.filter((request) => request.kind === "result");
  const lost = results.filter((result) => !answer(talk, result));
  if (requests.some(({ kind }) => kind === "interrupt")) {
    if (talk?.isBusy) await interrupt(code, turn.session.id, talk);
    emit(results.map(({ toolUseId }) => toResultEvent(toolUseId, now(), true)));
    emit([{ id: code.newId(), at: now(), type: "idle", stop: { kind: "end_turn" } }]);
  } else if (talk?.isBusy && results.length > 0) await attend(code, turn, talk);
  else if (lost.length > 0) await ask(code, turn, null, lost);
  for (const request of requests) if (request.kind === "prompt") await ask(code, turn, request, []);
}

type Result = Request & { readonly kind: "result" };
type Prompt = Request & { readonly kind: "prompt" };

/** Returns false where the process that asked has ended. */
function answer(talk: Talk | undefined, { toolUseId, text, isError }: Result): boolean {
  if (talk?.ask?.useId !== toolUseId) return false;
  talk.program.send(answerFrame(talk.ask, isError ? text : null));
  talk.ask = null;
  return true;
}

/** The prompt that continues a conversation after it was cut off in its middle. */
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

/** Asks, in the process that is there or in a new one, and reads until the turn rests. `prompt` null: the turn that was cut off goes on. */
async function ask(code: Code, turn: Turn, prompt: Prompt | null, lost: readonly Result[]): Promise<void> {
  const { session } = turn;
  const text = prompt?.text ?? goOnText(session, lost);
  const uuid =
    prompt?.id === undefined ? uuidOf(code.newId()) : uuidOf("prompt", session.id, String(prompt.id), prompt.text);
  const content = toBlocks(text, prompt?.files ?? []).map(toInput);
  const [newest] = session.history();
  let isResumed = newest !== undefined;
  for (let tries = 0; ; tries++) {
    const talk = await open(code, session, isResumed);
    talk.reader = createTurnReader(turn.now);
    talk.isBusy = true;
    talk.program.send(userFrame(uuid, content));
    const isAnew = !isResumed && Iterator.from(session.history()).some(({ type }) => type === "reply");
    const isTaken = await attend(code, turn, talk, { uuid, prompt, lost, isAnew });
    if (isTaken) return;
    // The program knows no such conversation, or has one already where we thought of none.
    if (tries > 0)
      throw new BridgeError("claude_program", `Cannot start the claude program: ${talk.program.lastWords()}`);
    isResumed = !isResumed;
  }
}

/** Resolves to the conversation's process: the one that runs, with the same settings, or a new one. @throws BridgeError `claude_program` */
async function open(
  code: Code,
  { id, model, effort, system, folder, mayRun = false }: SessionView,
  isResumed: boolean,
): Promise<Talk> {
  const key = JSON.stringify([model, effort, system, folder, mayRun]);
  const known = code.talks.get(id);
  known?.idle.abort();
  if (known?.program.isAlive() && known.key === key) return known;
  if (known) await drop(code, id, known);
  const session = uuidOf("session", id);
  const chosen = ["--model", model, "--effort", effort, isResumed ? "--resume" : "--session-id", session];
  const { start = startProgram } = code;
  const program = await start(code, { args: chosen, folder, mayRun, mark: session });
  program.send(controlFrame(code.newId(), { subtype: "initialize", appendSystemPrompt: system }));
  const state = { isBusy: false, ask: null, costUsd: 0, idle: new AbortController() };
  const talk: Talk = { program, key, reader: createTurnReader(code.clock.now), ...state };
  code.talks.set(id, talk);
  return talk;
}

/** The start of a turn. `isAnew`: the program does not have the earlier conversation. */
type Begun = {
  readonly uuid: string;
  readonly prompt: Prompt | null;
  readonly lost: readonly Result[];
  readonly isAnew: boolean;
};

const anewText = "(Claude Code does not have our earlier conversation any more: this one begins anew.)";

/**
 * Reads until the turn is over, or asks; false where the process ended before it took the prompt.
 * @throws BridgeError with the text of the reply that broke off
 */
async function attend(code: Code, turn: Turn, talk: Talk, begun: Begun | null = null): Promise<boolean> {
  const { session, emit, signal } = turn;
  let isTaken = begun === null;
  const take = (): void => {
    if (isTaken || begun === null) return;
    isTaken = true;
    const { uuid, prompt, lost, isAnew } = begun;
    if (prompt) emit([{ id: uuid, at: turn.now(), type: "prompt", text: prompt.text }]);
    emit(lost.map(({ toolUseId }) => toResultEvent(toolUseId, turn.now(), true)));
    if (isAnew) emit([{ id: `${uuid}:anew`, at: turn.now(), type: "reply", text: anewText }]);
  };
  for (;;) {
    const heard = await talk.program.next(signal);
    if (heard === "stopped") {
      await interrupt(code, session.id, talk);
      throw new BridgeError("claude_unreachable", "Cannot finish the turn as it was stopped");
    }
    if (heard === null && !isTaken) {
      await drop(code, session.id, talk);
      return false;
    }
    if (heard === null || heard === "silent") {
      const why =
        heard === null ? `the claude program ended: ${talk.program.lastWords()}` : "nothing came for too long";
      const partial = talk.reader.partial();
      throw new BridgeError("claude_stream_lost", `Cannot follow the turn as ${why}`, { partial });
    }
    const seen = talk.reader.read(heard.frame);
    if (seen?.kind === "taken") take();
    if (seen?.kind === "echo" && !isTaken && seen.uuid === begun?.uuid) {
      // The program has this prompt from before, and starts no turn for it.
      take();
      const content = [{ type: "text", text: goOnText(session, []) }];
      talk.program.send(userFrame(uuidOf(code.newId()), content));
    }
    if (seen?.kind === "text") turn.hear({ kind: "delta", eventId: seen.eventId, text: seen.text });
    if (seen?.kind === "events") emit(seen.events);
    if (seen?.kind === "unserved") talk.program.send(unservedFrame(seen.requestId));
    if (seen?.kind === "asks") {
      talk.ask = seen.ask;
      emit(seen.events);
      return true;
    }
    // A result without a turn means that the program found no such conversation, and ends.
    if (seen?.kind === "over" && isTaken) {
      const events = talk.reader.end(seen.result, talk.costUsd);
      talk.costUsd = Number(seen.result["total_cost_usd"] ?? talk.costUsd);
      rest(code, session.id, talk);
      emit(events);
      return true;
    }
  }
}

/** Ends a process, with all that it started. */
async function drop({ talks }: Code, id: string, talk: Talk): Promise<void> {
  if (talks.get(id) === talk) talks.delete(id);
  talk.idle.abort();
  await talk.program.end();
}

/** Keeps the process without a turn for the next prompt, for `idleMs`. */
function rest(code: Code, id: string, talk: Talk): void {
  talk.isBusy = false;
  talk.ask = null;
  talk.idle.abort();
  talk.idle = new AbortController();
  const { signal } = talk.idle;
  void code.clock.sleep(idleMs, signal).then(() => (signal.aborted ? undefined : drop(code, id, talk)));
}

/** Interrupts the turn and drops its last frames; a process that does not come to rest is ended. */
async function interrupt(code: Code, id: string, talk: Talk): Promise<void> {
  talk.program.send(controlFrame(code.newId(), { subtype: "interrupt" }));
  const over = new AbortController();
  const late = code.clock.sleep(interruptMs, over.signal).then(() => over.abort());
  for (let isOver = false; !isOver;) {
    const heard = await talk.program.next(over.signal);
    const isLost = heard === null || typeof heard === "string";
    isOver = isLost || fields(heard.frame)["type"] === "result";
    if (isLost) await drop(code, id, talk);
    else if (isOver) rest(code, id, talk);
  }
  over.abort();
  await late;
}
