/**
 * Calls of our own tools, which run on this machine: a call is a fact of the log, its result a post.
 *
 *   seen ─▶ looked at ─▶ asked (a person says yes or no: `core/chat.ts`) ─▶ allowed ─▶ runs ─▶ settled ─▶ posted
 *               └─▶ free ───────────────────────────────────────────────────────▲
 *
 * The journal (`store/calls.ts`) moves each call once: no call runs twice, and Claude is told of one that a crash interrupted.
 */
import type { Looked } from "../core/changes.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import { ownProgram, type Chat, type Millis, type Session } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import { textFile } from "../core/text.ts";
import { changesIn, runCall, takeBack, type ExecutorDeps } from "../projects/executor.ts";
import { chatFolder, type Project } from "../projects/folders.ts";
import { searchRule } from "../projects/permission.ts";
import { isFreed } from "../projects/policy.ts";
import { toUse, type Call } from "../store/calls.ts";
import type { Bridge } from "./bridge.ts";
import { createQueue } from "./queue.ts";
import { isReminderTool, reminderTools, workOnReminders } from "./due.ts";

export type CallDeps = {
  /** The home folder of signalman. */
  readonly home: string;
  readonly projects: readonly Project[];
  /** Built when a call first needs it. */
  readonly executor: () => Promise<ExecutorDeps>;
  /** Removes the files that are kept for `/undo` and of no use any more, as after `/forget`. Never rejects for a fault of the folder. */
  readonly tidy: () => Promise<void>;
};

/** Conversations whose calls run at the same time. */
const sessionsMax = 4;
const owedPrefix = "owed:";

export function createCallLoop(bridge: Bridge, deps: CallDeps) {
  const { store, clock } = bridge;
  const running = new Map<string, AbortController>();
  // A call that a crash interrupted is settled in the journal, and its result told like any other.
  store.calls.settleInterrupted(clock.now());
  const queue = createQueue(bridge, {
    name: "calls",
    keys: () => [...store.calls.openSessions(), ...store.settings.idsOf("owed").map((id) => owedPrefix + id)],
    async work(key, kill) {
      if (key.startsWith(owedPrefix)) await workOnFiles(bridge, deps, key.slice(owedPrefix.length), kill);
      else await workOnCalls({ bridge, deps, running }, key, kill);
      return null;
    },
    isOpen: () => bridge.account() !== null,
    max: sessionsMax,
  });
  return {
    ...queue,
    /** Ends a call that is not wanted any more: the output so far is its result. */
    drop: (useId: string): void => running.get(useId)?.abort(),
    /** Wakes the work on files that a message asks for. */
    owe: (inboxId: number): void => queue.wake(`${owedPrefix}${inboxId}`),
  };
}

type Calling = {
  readonly bridge: Bridge;
  readonly deps: CallDeps;
  /** Aborts a call that runs, by the id of its use. */
  readonly running: Map<string, AbortController>;
};

/** Does the calls that need no yes or have one; asks for the others together, once Claude rests and makes no more calls beside them. */
async function workOnCalls(calling: Calling, sessionId: string, kill: AbortSignal): Promise<void> {
  const { store, chats } = calling.bridge;
  const session = store.sessions.get(sessionId);
  if (session === null) return;
  const looked: Looked[] = [];
  const asking: string[] = [];
  for (const call of store.calls.open(sessionId)) {
    if (kill.aborted) return;
    const asks = call.state === "asked" ? null : await workOn(calling, session, call, kill);
    if (asks !== null) looked.push(asks);
    if (asks !== null || call.state === "asked") asking.push(call.id);
  }
  const { uses, isWaiting } = store.log.open(sessionId);
  const isAwaited = (useId: string): boolean => uses.some(({ id }) => id === useId);
  for (const useId of asking.filter((id) => !isAwaited(id)))
    chats.settle(session.chat, { type: "settled", session, useId, text: overtakenText, isError: true });
  // An allowed call is done first: the question is to show what it leaves.
  const isAllowed = store.calls.open(sessionId).some(({ state }) => state === "allowed");
  const awaited = looked.filter(({ use }) => isAwaited(use.id));
  if (awaited.length > 0 && !isAllowed && isWaiting)
    chats.settle(session.chat, { type: "looked", session, looked: awaited });
}

/** The result of a call whose turn was stopped before a person answered: a yes would come too late. */
const overtakenText = "It was not done: the turn had ended before a yes came.";

/** Resolves to what the call would do where that needs a yes; else to null, after the call is settled. */
async function workOn(
  { bridge, deps, running }: Calling,
  session: Session,
  call: Call,
  kill: AbortSignal,
): Promise<Looked | null> {
  const { store, chats } = bridge;
  const settle = (text: string, isError: boolean): null => {
    chats.settle(session.chat, { type: "settled", session, useId: call.id, text, isError });
    return null;
  };
  if (call.content !== null) {
    // A decision settled the call, and its post is there; or the start settled it after a crash.
    return store.posts.isConfirmed(call.id) ? null : settle(call.content, call.isError);
  }
  if (isReminderTool(call.tool)) {
    await workOnReminders(bridge, session, call);
    return null;
  }
  const project = projectOf(deps, session);
  if (project === undefined) return settle("There is no such project on this machine any more.", true);
  const stop = new AbortController();
  running.set(call.id, stop);
  try {
    const executor = await deps.executor();
    const done = await runCall(project, call, executor, AbortSignal.any([kill, stop.signal]));
    if (!("verdict" in done)) return settle(done.content, done.isError);
    const where = project.name === "" ? "a folder of signalman's" : `project ${project.name}`;
    const item = { what: done.title, detail: done.detail, where, fileName: fileOf(call) };
    const mayAlways = project.name !== "" && isFreed(call);
    return { use: toUse(call), item, basis: done.basis, mayAlways, project: project.name };
  } finally {
    running.delete(call.id);
  }
}

const fileOf = ({ tool }: Call): string => {
  if (/^(local_)?(edit|write)$/iu.test(tool)) return "change.diff";
  return tool === "local_run" || tool === "Bash" ? "command.sh" : "question.txt";
};

/** The project of a session; the owner's own program has the folder of chats where a session has none. */
const projectOf = ({ projects, home }: CallDeps, { project, backend }: Session): Project | undefined =>
  project === null && backend === ownProgram ? chatFolder(home) : projects.find(({ name }) => name === project);

type Owed = { readonly chat: Chat; readonly sessionId: string; readonly work: "undo" | "diff" };

/** Does the work of an `/undo` or a `/diff`, which is forgotten only in the commit of its answer. */
async function workOnFiles(bridge: Bridge, deps: CallDeps, id: string, kill: AbortSignal): Promise<void> {
  const { store, chats } = bridge;
  const given = store.settings.get(`owed:${id}`);
  if (given === null) return;
  const { chat, sessionId, work } = store.db.read(() => JSON.parse(given) as Owed);
  const name = store.sessions.get(sessionId)?.project ?? "";
  const project = deps.projects.find((one) => one.name === name);
  const body = project
    ? await answerOf(deps, project, sessionId, work, kill)
    : plainText("This project is not there any more.");
  if (kill.aborted) return;
  chats.settle(chat, { type: "worked", id: Number(id), body });
}

const diffLinesMax = 24;

async function answerOf(deps: CallDeps, project: Project, sessionId: string, work: Owed["work"], kill: AbortSignal) {
  const executor = await deps.executor();
  if (work === "undo") {
    const { restored, left } = await takeBack(project, sessionId, executor);
    const said = restored.length === 0 ? "Nothing was taken back." : `Taken back: ${restored.join(", ")}.`;
    return plainText(
      left.length === 0 ? said : `${said}\nLeft as they are, for they were changed since: ${left.join(", ")}.`,
    );
  }
  const diff = (await changesIn(project, sessionId, executor, kill)).trim();
  if (diff === "") return plainText("Nothing is changed.");
  const lines = diff.split("\n");
  const shown = lines.slice(0, diffLinesMax).join("\n");
  const isWhole = lines.length <= diffLinesMax;
  const text = isWhole ? shown : `${shown}\n… and ${lines.length - diffLinesMax} lines more, in the file.`;
  const files = isWhole ? [] : [textFile(`${project.name}.diff`, `${diff}\n`, "text/x-diff")];
  const styles = [{ start: 0, length: shown.length, style: "MONOSPACE" as const }];
  return { kind: "text" as const, text, styles, quote: null, files };
}

/** Resolves to our tools of a session, and its system prompt with the instructions of its project. */
export async function toolsOf(
  { config, log }: Pick<Bridge, "config" | "log">,
  deps: CallDeps,
  session: Session,
): ReturnType<Bridge["toolsOf"]> {
  const { executor } = deps;
  const project = projectOf(deps, session);
  if (session.backend === ownProgram && project !== undefined)
    return ownPlace(config.system, project, await executor());
  if (project === undefined) return { tools: reminderTools, system: config.system };
  try {
    const deps = await executor();
    const told = await deps.workplace.describe(project, deps);
    const { tools, words } =
      "refusal" in told
        ? { tools: [], words: `The project ${project.name} cannot be opened: ${told.refusal}` }
        : { tools: told.tools.map((tool) => ({ ...tool, isOfMachine: true })), words: told.instructions };
    return { tools: [...tools, ...reminderTools], system: `${config.system}\n\n${words}` };
  } catch (error) {
    log.warn("a project cannot be opened", { project: project.name, ...toFault(error) });
    throw error instanceof BridgeError
      ? error
      : new BridgeError("config", `Cannot open the project ${project.name}`, { cause: error });
  }
}

/** Resolves to the same for the owner's own program, which brings its own tools. @throws BridgeError `claude_program` */
async function ownPlace(system: string, project: Project, deps: ExecutorDeps): ReturnType<Bridge["toolsOf"]> {
  const told = await deps.workplace.describe(project, deps);
  if ("refusal" in told)
    throw new BridgeError("claude_program", `Cannot start the claude program: ${told.refusal}`, {
      hint: project.name === "" ? errorRow("database").hint : "Correct [projects] in config.toml.",
    });
  const words = [system, searchRule, told.instructions].filter((part) => part !== "");
  return { tools: [], system: words.join("\n\n"), folder: told.root, mayRun: project.run };
}

/** The projects whose edits need no yes: in this process only, for an hour of its monotonic time. */
export function createGrants(clock: Bridge["clock"]) {
  const until = new Map<string, Millis>();
  const isGranted = (project: string): boolean => (until.get(project) ?? 0) > clock.monotonic();
  return {
    isGranted,
    grant(project: string | null): void {
      if (project === null) until.clear();
      else until.set(project, clock.monotonic() + grantMs);
    },
    names: (): string[] => [...until.keys()].filter(isGranted),
  };
}

const grantMs: Millis = 3_600_000;
