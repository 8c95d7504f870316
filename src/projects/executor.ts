/**
 * Runs the calls of a project, each at most once: what was shown is looked at again at the moment of running, and the journal
 * has `started` before the first effect. What is free and only reads leaves nothing, and is read again after a crash.
 */
import { unknownOutcome, type Call, type CallResult, type Calls } from "../store/calls.ts";
import { createQueue } from "./content.ts";
import { openFolder, type Project } from "./folders.ts";
import { acts, isToolName } from "./policy.ts";
import { planCall, type Plan, type Site } from "./tools.ts";

export type ExecutorDeps = Omit<Site, "project" | "scope" | "isGranted"> & {
  readonly calls: Calls;
  /** Whether `always` was said for edits of the project of that name, and its hour is not over. */
  readonly isGranted: (project: string) => boolean;
};

type Asked = Pick<Call, "sessionId" | "turn" | "tool" | "input">;

/** What a call would do now, for the question. What is `never` or `free` goes to {@link runCall} without one. */
export async function lookAt(project: Project, call: Asked, deps: Omit<ExecutorDeps, "calls">): Promise<Plan> {
  const folder = await openFolder(project.folder, deps.home);
  if ("refusal" in folder) return { verdict: "never", reason: `The project cannot be used now: ${folder.refusal}` };
  const scope = { sessionId: call.sessionId, turn: call.turn, root: folder.root };
  return planCall(call.tool, call.input, { ...deps, project, scope, isGranted: deps.isGranted(project.name) });
}

const queues = new Map<string, ReturnType<typeof createQueue>>();

/**
 * Runs a call that is seen and free, or allowed, and settles it in the journal, from where its result is posted. A call that is
 * settled already is answered from there. Never rejects for what Claude or the folder did.
 * @param signal ends a command at work: what it printed until then is its result
 */
export async function runCall(
  project: Project,
  call: Pick<Call, "id">,
  deps: ExecutorDeps,
  signal: AbortSignal,
): Promise<CallResult> {
  const row = deps.calls.get(call.id);
  if (row === null || !isToolName(row.tool) || acts[row.tool] !== "change")
    return runNow(project, call.id, deps, signal);
  // Two chats of one project: the second sees what the first has left.
  const queue = queues.get(project.folder) ?? createQueue();
  queues.set(project.folder, queue);
  return queue(() => runNow(project, call.id, deps, signal));
}

async function runNow(
  project: Project,
  id: string,
  { ...deps }: ExecutorDeps,
  signal: AbortSignal,
): Promise<CallResult> {
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
  const plan = await lookAt(project, row, deps);
  if (plan.verdict === "never") return refuse(plan.reason);
  const isAllowed = row.state === "allowed";
  if (isAllowed && !plan.holds(row.basis ?? ""))
    return refuse("What the owner was shown has changed since, so nothing was done. Look again, then ask again.");
  if (!isAllowed && plan.verdict === "asks")
    return refuse(`Nothing was done: the owner must be asked for this now, as ${plan.reason}. Ask again.`);
  const leavesNothing = isToolName(row.tool) && !["change", "run"].includes(acts[row.tool]);
  if (!leavesNothing && !calls.start(id, isAllowed ? "allowed" : "seen", clock.now()))
    return { content: unknownOutcome, isError: true };
  return settle(await plan.work(signal));
}
