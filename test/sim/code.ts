/**
 * The owner's own `claude` program, played: the real line over a process in memory, which speaks the frames that the real one speaks,
 * keeps its conversations over all lives, and dies with the one that started it, or by itself in the middle of a word.
 */
import { silenceMs } from "../../src/claude/api.ts";
import { createCodeLine, type CodeDeps } from "../../src/claude/code-line.ts";
import type { ClaudeProgram } from "../../src/claude/code-program.ts";
import type { Fault } from "../doubles/scripted.ts";
import type { Life } from "./life.ts";
import type { LocalClaude, LocalDeps } from "./local.ts";

/** What the program keeps of one conversation, on a disk of its own. */
type Transcript = { readonly texts: string[]; readonly ids: Set<string>; asked: string };
export type Transcripts = ReturnType<typeof createTranscripts>;
export const createTranscripts = () => {
  let ids = 0;
  return { of: new Map<string, Transcript>(), newId: (kind: string): string => `${kind}${++ids}` };
};

type Json = { readonly [key: string]: unknown };
type Played = LocalDeps & { readonly transcripts: Transcripts };
/** What a life's processes have in common. */
type Fate = { isCalm: boolean; readonly faults: Fault[] };

const silentMs = 15 * 60_000;

export function createCodeClaude(life: Life, deps: Played): LocalClaude {
  const { clock } = life;
  const fate: Fate = { isCalm: false, faults: [] };
  const newId = (): string => `${deps.dice.below(2 ** 30)}`;
  const start: CodeDeps["start"] = (_, { args }) => Promise.resolve(startPlayed(life, deps, fate, args));
  const place = { program: "claude", env: {}, folder: () => Promise.resolve("/garden") };
  const models = [{ id: "claude-scripted", outputTokensMax: null }];
  const line = createCodeLine({ ...place, clock, newId, start });
  return {
    line: {
      ...line,
      check: () => Promise.resolve(),
      models: () => Promise.resolve(models),
      model: (name) => Promise.resolve(models.find(({ id }) => id === name) ?? null),
    },
    fail: (_point, fault) => void fate.faults.push(fault),
    calmDown() {
      fate.isCalm = true;
      fate.faults.length = 0;
    },
  };
}

/** What goes out of a process, and how it ends. */
function createPipe({ clock }: Life) {
  const frames: Json[] = [];
  let wake = Promise.withResolvers<void>();
  let words: string | null = null;
  const stir = (): void => {
    wake.resolve();
    wake = Promise.withResolvers();
  };
  const next: ClaudeProgram["next"] = async (signal) => {
    for (;;) {
      const frame = frames.shift();
      if (frame) return { frame };
      if (words !== null) return null;
      if (signal.aborted) return "stopped";
      const over = new AbortController();
      const waited = clock.sleep(silentMs, AbortSignal.any([signal, over.signal])).then(() => true);
      const isLate = await Promise.race([wake.promise.then(() => false), waited]).finally(() => over.abort());
      if (isLate && !signal.aborted && frames.length === 0) return "silent";
    }
  };
  return {
    next,
    print(frame: Json): void {
      if (words === null) frames.push(frame);
      stir();
    },
    end(why: string): void {
      words ??= why;
      stir();
    },
    words: (): string | null => words,
  };
}

function startPlayed(life: Life, deps: Played, fate: Fate, args: readonly string[]): ClaudeProgram {
  const { transcripts } = deps;
  const pipe = createPipe(life);
  const isResumed = args.includes("--resume");
  const id = args[args.indexOf(isResumed ? "--resume" : "--session-id") + 1] ?? "";
  const kept = transcripts.of.get(id);
  const transcript = kept ?? { texts: [], ids: new Set<string>(), asked: "" };
  const queue: Json[] = [];
  let stop: AbortController | null = null;
  let answered: ((answer: Json) => void) | null = null;
  if (isResumed !== (kept !== undefined)) {
    if (isResumed) pipe.print({ type: "result", is_error: true, subtype: "error_during_execution", uuid: "none" });
    pipe.end(isResumed ? "no conversation found" : "already in use");
  }
  const ask = (frame: Json): Promise<Json> =>
    new Promise((resolve) => {
      answered = resolve;
      pipe.print(frame);
    });
  const work = async (): Promise<void> => {
    for (let frame = queue.shift(); frame; frame = queue.shift()) {
      const uuid = String(frame["uuid"]);
      const echo = { type: "user", uuid, isReplay: true };
      if (transcript.ids.has(uuid)) {
        pipe.print(echo);
        continue;
      }
      stop = new AbortController();
      transcripts.of.set(id, transcript);
      transcript.ids.add(uuid);
      pipe.print({ type: "system", subtype: "init" });
      pipe.print(echo);
      await playTurn(life, deps, fate, { transcript, pipe, ask, signal: stop.signal }, textOf(frame));
      const aborted = { is_error: true, subtype: "error_during_execution", terminal_reason: "aborted_streaming" };
      if (stop.signal.aborted) pipe.print({ type: "result", uuid: transcripts.newId("r"), ...aborted });
      stop = null;
    }
  };
  return {
    isAlive: () => pipe.words() === null,
    lastWords: () => pipe.words() ?? "",
    next: pipe.next,
    end() {
      stop?.abort();
      return Promise.resolve(pipe.end("ended"));
    },
    send(given) {
      const frame = given as Json;
      if (pipe.words() !== null) return;
      if (frame["type"] === "user") {
        queue.push(frame);
        if (stop === null) void work();
      }
      if (frame["type"] === "control_response") {
        answered?.((frame["response"] as { response: Json }).response);
        answered = null;
      }
      if ((frame["request"] as Json | undefined)?.["subtype"] !== "interrupt") return;
      stop?.abort();
      answered?.({});
      answered = null;
    },
  };
}

const textOf = (frame: Json): string =>
  (frame["message"] as { content: readonly { text?: string }[] }).content
    // The last says where the message came from.
    .slice(0, -1)
    .map(({ text = "" }) => text)
    .join("");

type Process = {
  readonly transcript: Transcript;
  readonly pipe: ReturnType<typeof createPipe>;
  readonly ask: (frame: Json) => Promise<Json>;
  readonly signal: AbortSignal;
};

async function playTurn(life: Life, deps: Played, fate: Fate, process: Process, text: string): Promise<void> {
  const {
    dice,
    transcripts: { newId },
  } = deps;
  const { clock } = life;
  const { transcript, pipe, ask, signal } = process;
  const own = { parent_tool_use_id: null };
  const end = (more: Json): void =>
    pipe.print({ type: "result", uuid: newId("r"), is_error: false, stop_reason: "end_turn", ...more });
  // What goes on after a break is what was asked before it.
  if (!text.startsWith("[signalman,")) {
    deps.onAsked(transcript.texts, text);
    transcript.texts.push(text);
    transcript.asked = text;
    life.delivered("prompt");
  }
  const fault = fate.isCalm ? null : (fate.faults.shift() ?? null);
  if (fault?.kind === "hang") await clock.sleep(2 * silentMs, signal);
  if (fault?.kind === "refuse" || deps.isDown())
    return end({ is_error: true, api_error_status: 529, subtype: "success" });
  const message = { id: newId("msg_"), role: "assistant" };
  const stream = (event: Json): void => pipe.print({ ...own, type: "stream_event", event });
  const said = deps.answer(transcript.asked);
  let written = "";
  stream({ type: "message_start", message });
  stream({ type: "content_block_start", content_block: { type: "text" } });
  for (const piece of [said, ...(dice.chance(0.3) ? [" in", " pieces"] : [])]) {
    if (!fate.isCalm && dice.chance(0.4)) await clock.sleep(Math.round(dice.between(50, 20_000)), signal);
    while (deps.isMute() && !signal.aborted) await clock.sleep(silenceMs, signal);
    if (signal.aborted) return;
    // In the middle of a word.
    if (fault !== null) return pipe.end("it ended with SIGKILL");
    stream({ type: "content_block_delta", delta: { type: "text_delta", text: piece } });
    written += piece;
  }
  pipe.print({ ...own, type: "assistant", message: { ...message, content: [{ type: "text", text: written }] } });
  for (const { name, input } of fate.isCalm ? [] : deps.calls()) {
    const tool_use_id = newId("use_");
    const use = { type: "tool_use", id: tool_use_id, name, input };
    pipe.print({ ...own, type: "assistant", message: { ...message, content: [use] } });
    const request = { subtype: "can_use_tool", tool_name: name, input, tool_use_id };
    const answer = await ask({ type: "control_request", request_id: `q${tool_use_id}`, request });
    if (signal.aborted) return;
    if (dice.chance(0.05) && !fate.isCalm) return pipe.end("it ended with SIGKILL");
    const content = [{ type: "tool_result", tool_use_id, is_error: answer["behavior"] !== "allow" }];
    pipe.print({ ...own, type: "user", message: { content } });
  }
  end({});
}
