/** Runs the calls of a project, each at most once, and only while the folder is as the question showed it. A crash repeats free reads. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { unknownOutcome, type Call, type CallResult, type Calls } from "../store/calls.ts";
import pLimit, { type LimitFunction } from "p-limit";
import { inWords } from "./file-content.ts";
import { ownProgram } from "../core/model.ts";
import { instructionsOf, openFolder, openPlace, type Project } from "./folders.ts";
import { planPermission } from "./permission.ts";
import { acts, isToolName } from "./policy.ts";
import { runCommand } from "./runner.ts";
import { definitionsOf, planCall, type Plan, type CallSite } from "./tools.ts";
import type { Undo } from "./undo.ts";

type Deps = Omit<CallSite, "project" | "scope" | "isGranted"> & {
  /** Whether `always` was said for edits of the project of that name, and its hour is not over. */
  readonly isGranted: (project: string) => boolean;
};
export type ExecutorDeps = Deps & { readonly calls: Calls; readonly undo: Undo; readonly workplace: Workplace } & {
  /** One for the whole process: edits of one folder wait for each other. */
  readonly inOrder: ReturnType<typeof createOrder>;
};

/** Does calls: `folders` on this machine; the simulation plays one. */
export type Workplace = {
  /** Resolves to what a call would do now. */
  readonly look: (project: Project, call: Asked, deps: Deps) => Promise<Plan>;
  /** Resolves to what Claude is told of a project: its tools, and its instructions; or to why it cannot be opened. */
  readonly describe: (
    project: Project,
    deps: Pick<Deps, "home">,
  ) => Promise<Description | { readonly refusal: string }>;
};
type Description = { readonly root: string; readonly tools: Awaited<ReturnType<typeof definitionsOf>> } & {
  readonly instructions: string;
};

type Asked = Pick<Call, "sessionId" | "turn" | "tool" | "input">;

export const folders: Workplace = {
  async look(project, { tool, input, sessionId, turn }, deps) {
    const folder = await openPlace(project, deps.home);
    if ("refusal" in folder) return { verdict: "never", reason: folder.refusal.replace(project.folder, project.name) };
    const scope = { sessionId, turn, root: folder.root };
    const plan = project.backend === ownProgram ? planPermission : planCall;
    return plan(tool, input, { ...deps, project, scope, isGranted: deps.isGranted(project.name) });
  },
  async describe(project, { home }) {
    const folder = await openPlace(project, home);
    if ("refusal" in folder) return folder;
    const { root } = folder;
    return { root, tools: await definitionsOf(project), instructions: await instructionsOf(project, root) };
  },
};

/** Runs the edits of one folder one after the other, so that each of two chats sees what the other has left. */
export function createOrder() {
  const queues = new Map<string, LimitFunction>();
  return <T>({ folder }: Project, work: () => Promise<T>): Promise<T> => {
    const queue = queues.get(folder) ?? pLimit(1);
    queues.set(folder, queue);
    return queue(work);
  };
}

/** Takes the last turn of a session back, after the edits at work. */
export async function takeBack(
  project: Project,
  sessionId: string,
  deps: Pick<ExecutorDeps, "home" | "undo" | "inOrder">,
) {
  const folder = await openFolder(project.folder, deps.home);
  if ("refusal" in folder) return { restored: [], left: [folder.refusal] };
  return deps.inOrder(project, () => deps.undo.undo(sessionId, folder.root));
}

const hasFilters = 3;
/**
 * Runs no program that the folder's own configuration or hooks name to git, fetches nothing, and looks at no other folder: where there are
 * filters, which git cannot leave out, git is not asked.
 */
const gitDiff = `export GIT_OPTIONAL_LOCKS=0 GIT_NO_LAZY_FETCH=1 GIT_ALLOW_PROTOCOL= GIT_DIR=.git GIT_WORK_TREE=.
safe() { git --no-pager -c core.fsmonitor=false -c core.hooksPath=/dev/null "$@"; }
for scope in local worktree; do safe config --$scope --includes --name-only --get-regexp '^(filter|lfs)[.]' && exit ${hasFilters}; done
safe diff --no-ext-diff --no-textconv --ignore-submodules=all --no-color HEAD -- . && safe ls-files --others --exclude-standard | sed "s/^/new: /"`;

/** Resolves to the changes: git's own diff where the folder has git, else the changes of the session. */
export async function changesIn(project: Project, sessionId: string, deps: ExecutorDeps, signal: AbortSignal) {
  const folder = await openFolder(project.folder, deps.home);
  if ("refusal" in folder) return folder.refusal;
  const { root } = folder;
  const command = { ...deps, command: gitDiff, root, network: false, timeoutMs: 20_000 };
  const git = existsSync(join(root, ".git")) ? await runCommand(command, deps.clock, signal) : null;
  if (git?.code === 0) return git.output;
  const note =
    git?.code === hasFilters ? "(git has filters here, which may be any program: this is what Claude changed.)\n" : "";
  return note + (await deps.undo.diff(sessionId, root));
}

/**
 * Runs a call that is seen and free, or allowed, and settles it in the journal; one that is settled is answered from there. For one that
 * is seen and asks it only resolves to what the call would do, for the question. Never rejects for a fault of Claude or the folder.
 * `signal` ends a command: its output so far is its result.
 */
export function runCall(project: Project, call: Id, deps: ExecutorDeps, signal: AbortSignal) {
  const work = () => runNow(project, call, deps, signal);
  return actOf(deps.calls.get(call.id)?.tool) === "change" ? deps.inOrder(project, work) : work();
}

type Id = Pick<Call, "id">;
const actOf = (tool = "") => (isToolName(tool) ? acts[tool] : null);

type Asks = Extract<Plan, { verdict: "free" | "asks" }>;

async function runNow(
  project: Project,
  { id }: Id,
  deps: ExecutorDeps,
  signal: AbortSignal,
): Promise<CallResult | Asks> {
  const { calls, clock } = deps;
  const row = calls.get(id);
  if (row === null || row.state === "started") return { content: unknownOutcome, isError: true };
  if (row.content !== null) return { content: row.content, isError: row.isError };
  const settle = (result: CallResult): CallResult => {
    calls.finish(id, result, clock.now());
    return result;
  };
  const refuse = (content: string): CallResult => settle({ content, isError: true });
  if (signal.aborted) return refuse("The owner stopped this before it began.");
  const plan = await deps.workplace.look(project, row, deps);
  if (plan.verdict === "never") return refuse(plan.reason);
  if (plan.verdict === "asks" && row.state === "seen") return plan;
  const isAllowed = row.state === "allowed";
  if (isAllowed && !plan.holds(row.basis ?? ""))
    return refuse("What the owner was shown has changed since, so nothing was done. Look again, then ask again.");
  if (!isAllowed && plan.verdict === "asks")
    return refuse(`Nothing was done: the owner must be asked for this now, as ${plan.reason}. Ask again.`);
  const leavesNothing = !["change", "run"].includes(actOf(row.tool) ?? "");
  if (!leavesNothing && !calls.start(id, isAllowed ? "allowed" : "seen", clock.now()))
    return { content: unknownOutcome, isError: true };
  return plan.work(signal).then(settle, (error: unknown) => refuse(inWords(error, row.tool)));
}
