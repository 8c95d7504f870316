/** A project in a real folder, with a real journal, and an owner who says yes or no. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { createOrder, folders, runCall, type ExecutorDeps } from "../../src/projects/executor.ts";
import type { Project } from "../../src/projects/folders.ts";
import type { CommandSandbox } from "../../src/projects/runner.ts";
import { createUndo } from "../../src/projects/undo.ts";
import { createCalls } from "../../src/store/calls.ts";
import { openDatabase } from "../../src/store/database.ts";
import { createKept } from "../../src/store/kept.ts";
import { migrate } from "../../src/store/migrations.ts";

export const noSandbox: CommandSandbox = { kind: "none", why: "a test" };

export async function startRig(over: Partial<Project> = {}, sandbox: CommandSandbox = noSandbox) {
  const base = realpathSync(mkdtempSync(join(tmpdir(), "signalman-project-")));
  const [home, root] = [join(base, "home"), join(base, "garden")];
  mkdirSync(home, { mode: 0o700 });
  mkdirSync(root);
  const db = await openDatabase(join(home, "signalman.db"));
  db.exec("PRAGMA synchronous = OFF");
  migrate(db);
  for (const id of ["s", "other"])
    db.exec(
      `INSERT INTO sessions (id, chat_key, chat, backend, state, context, stamps, created_at, used_at) VALUES ('${id}', '${id}', '{}', 'sessions', 'active', '{}', '{}', 0, 0)`,
    );
  const calls = createCalls(db);
  const kept = createKept(db);
  const undo = createUndo(home, kept, systemClock);
  const isGranted = { now: false };
  const env = { ...process.env, ANTHROPIC_API_KEY: "sk-ant-secret" };
  const self = [process.execPath, join(import.meta.dir, "../../src/main.ts")];
  const deps: ExecutorDeps = {
    calls,
    undo,
    workplace: folders,
    inOrder: createOrder(),
    sandbox,
    home,
    env,
    clock: systemClock,
    self,
    isGranted: () => isGranted.now,
  };
  const project: Project = {
    name: "garden",
    folder: root,
    run: true,
    ask: "writes",
    backend: null,
    group: null,
    model: null,
    instructions: null,
    network: false,
    runMinutes: 2,
    ...over,
  };
  let count = 0;
  const never = new AbortController().signal;

  /** Claude asks; the id of the call. */
  function see(tool: string, input: unknown, turn = "t1", sessionId = "s"): string {
    const id = `call${++count}`;
    calls.see({ id, sessionId, turn, project: "garden", tool, input }, systemClock.now());
    return id;
  }
  const rowOf = (id: string) => {
    const row = calls.get(id);
    if (!row) throw new Error("no such call");
    return row;
  };
  /** The question, as the owner sees it. */
  async function question(id: string) {
    const plan = await folders.look(project, rowOf(id), deps);
    if (plan.verdict === "asks") calls.ask(id, plan.basis, systemClock.now());
    return plan;
  }
  const yes = (id: string): boolean => calls.allow(id, "owner", systemClock.now());
  /** What is seen and asks is left as it is. */
  const run = async (id: string, signal = never, given: ExecutorDeps = deps) => {
    const done = await runCall(project, { id }, given, signal);
    return "verdict" in done ? { content: `must be asked: ${done.reason}`, isError: true } : done;
  };
  /** All of it: the call, the question where there is one, the yes, the result. */
  async function ask(tool: string, input: unknown, turn = "t1", sessionId = "s") {
    const id = see(tool, input, turn, sessionId);
    const plan = await question(id);
    if (plan.verdict === "asks") yes(id);
    return { id, plan, ...(await run(id)) };
  }
  function stop(): void {
    db.close();
    rmSync(base, { recursive: true, force: true });
  }
  return {
    base,
    home,
    root,
    db,
    calls,
    kept,
    undo,
    deps,
    project,
    isGranted,
    see,
    question,
    yes,
    run,
    ask,
    rowOf,
    stop,
  };
}

export type Rig = Awaited<ReturnType<typeof startRig>>;
