/** The owner's own `claude` program: found, started, spoken to in lines of JSON, and ended with all that it started. */
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join } from "node:path";
import type { Readable } from "node:stream";
import { promisify } from "node:util";
import { childEnv, kill, killMarked } from "../child-env.ts";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { controlFrame } from "./code-frames.ts";
import type { ModelInfo } from "./line.ts";
import { fields, string } from "./wire.ts";

/** Versions whose protocol is known: from the first to before the second. */
const versionRange = ["2.1.0", "3.0.0"] as const;

/** The longest frame: a picture that Claude read is in it as text. */
const lineCharsMax = 64 * 2 ** 20;
const errorCharsMax = 2_000;
const graceMs: Millis = 2_000;
const versionMs: Millis = 20_000;

/** The folders of the program's own installer, since a service may have a short PATH. */
const usualPlaces = [".local/bin", ".claude/local"].map((place) => join(homedir(), place));

/** Returns the path of the program. @throws BridgeError `claude_program` where it is not there */
function findProgram(name: string, env: NodeJS.ProcessEnv): string {
  if (/[/\\]/u.test(name)) return name;
  const names = process.platform === "win32" ? [`${name}.exe`] : [name];
  const places = [...(env["PATH"] ?? env["Path"] ?? "").split(delimiter), ...usualPlaces];
  const found = places.flatMap((place) => names.map((one) => join(place, one))).find((path) => existsSync(path));
  if (found === undefined) throw new BridgeError("claude_program", `Cannot find the program ${name}`);
  return found;
}

/**
 * Keeps git from running programs that a folder's own configuration names (filters, a monitor of files): by the first variable `claude`
 * does not ask git for the folder's state before anything was allowed, by the others its later questions to git start no monitor.
 * **Source:** Claude Code's settings, `includeGitInstructions`; the manual of git, `GIT_CONFIG_COUNT`.
 */
const quietGit = {
  CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS: "1",
  GIT_CONFIG_COUNT: "1",
  GIT_CONFIG_KEY_0: "core.fsmonitor",
  GIT_CONFIG_VALUE_0: "false",
};

/** The program's environment: no keys, as it has the owner's own login and is told where that is kept; no background tasks. */
const environment = (env: NodeJS.ProcessEnv, mark: string): NodeJS.ProcessEnv =>
  childEnv(
    {
      CLAUDE_CONFIG_DIR: env["CLAUDE_CONFIG_DIR"],
      CLAUDE_CODE_DISABLE_BACKGROUND_TASKS: "1",
      ...quietGit,
      SIGNALMAN_COMMAND: mark,
    },
    env,
  );

export type ProgramDeps = {
  /** The program's name or path. */
  readonly program: string;
  readonly env: NodeJS.ProcessEnv;
  /** The folder in which the program is started when none is named. */
  readonly folder: () => Promise<string>;
  readonly clock: Clock;
};

export type ClaudeProgram = Awaited<ReturnType<typeof startProgram>>;

type Start = {
  readonly args: readonly string[];
  readonly folder?: string | undefined;
  /** The program has a tool for commands. */
  readonly mayRun: boolean;
  /** Marks, with the folder, the environment of the program and its children: they are found by it and ended, where the system shows it. */
  readonly mark: string;
};

/**
 * Settings: each tool that reads, changes or runs anything here, or reaches the network, asks, even where other settings allow it; no hook
 * runs, since it would run unseen. Tools that need a terminal, or go on by themselves, are left out.
 */
const settings = JSON.stringify({
  permissions: {
    allow: ["WebSearch"],
    ask: "Read Glob Grep Edit Write NotebookEdit Bash WebFetch Agent Task mcp__*".split(" "),
    disableBypassPermissionsMode: "disable",
  },
  disableAllHooks: true,
});
const tools = "Read,Glob,Grep,Edit,Write,NotebookEdit,WebFetch,WebSearch,Skill,Task";

/** The program ignores settings, hooks and MCP servers of the folder itself, since they would run before anything is asked. */
const streamArgs =
  "-p --input-format stream-json --output-format stream-json --verbose --include-partial-messages --replay-user-messages --permission-prompt-tool stdio --permission-mode default --setting-sources user".split(
    " ",
  );
/** The program may print nothing for this long in a turn, since a command of Claude's takes up to ten minutes. */
const silentMs: Millis = 15 * 60_000;

/**
 * Starts the program, in a group of its own, after processes that an earlier start with this mark left have been ended. A start that
 * fails shows as its end. @throws BridgeError `claude_program` where it is not there
 */
export async function startProgram(deps: ProgramDeps, { args, folder, mayRun, mark: name }: Start) {
  const { env, clock } = deps;
  const path = findProgram(deps.program, env);
  const cwd = folder ?? (await deps.folder());
  const mark = `claude ${name} in ${cwd}`;
  await killMarked(mark);
  const options = { env: environment(env, mark), cwd };
  const all = [...streamArgs, "--settings", settings, "--tools", mayRun ? `${tools},Bash` : tools, ...args];
  const child = spawn(path, all, { ...options, detached: true, windowsHide: true });
  const closed = new AbortController();
  let words = "";
  const end = (why: string): void => {
    if (words === "") words = why;
    closed.abort();
  };
  child.on("error", ({ message }) => end(message));
  child.on("close", (code, signal) => end(`it ended with ${code ?? signal}`));
  // A frame to a program that has just ended fails here; its end is read all the same.
  child.stdin.on("error", () => undefined);
  child.stderr.setEncoding("utf8").on("data", (text: string) => void (words = (words + text).slice(-errorCharsMax)));
  const frames = framesOf(child.stdout);
  let pending: Promise<IteratorResult<unknown>> | null = null;
  return {
    isAlive: () => !closed.signal.aborted,
    /** The last line that the program printed beside its frames, or how it ended. */
    lastWords: () => words.trim().split("\n").at(-1)?.slice(0, 200) ?? "",
    send: (frame: object): void => void child.stdin.write(`${JSON.stringify(frame)}\n`),
    /** Resolves to the next frame of any kind; null at the end, `silent` after `silentMs`, `stopped` by `signal`. */
    async next(signal: AbortSignal): Promise<{ readonly frame: unknown } | "silent" | "stopped" | null> {
      const over = new AbortController();
      const stopped = AbortSignal.any([over.signal, signal]);
      pending ??= frames.next();
      const waited = clock.sleep(silentMs, stopped);
      const silent = waited.then((): "stopped" | "silent" => (signal.aborted ? "stopped" : "silent"));
      const result = await Promise.race([pending, silent]).finally(() => over.abort());
      if (typeof result === "string") return result;
      pending = null;
      return result.done ? null : { frame: result.value };
    },
    /** Resolves when the program and all that it started have ended. */
    async end(): Promise<void> {
      const group = (how: "SIGTERM" | "SIGKILL"): void => {
        if (child.pid) kill(-child.pid, how);
      };
      group("SIGTERM");
      await clock.sleep(graceMs, closed.signal);
      group("SIGKILL");
      await killMarked(mark);
    },
  };
}

/** Yields one object a line; a line that is none is passed over, and one longer than `lineCharsMax` ends the reading. */
async function* framesOf(stream: Readable): AsyncGenerator {
  let rest = "";
  try {
    for await (const chunk of stream.setEncoding("utf8")) {
      const lines = (rest + String(chunk)).split("\n");
      rest = lines.pop() ?? "";
      if (rest.length > lineCharsMax) return;
      for (const line of lines) {
        const frame = parse(line);
        if (frame !== null) yield frame;
      }
    }
  } catch {
    // A pipe that broke means that the program has ended.
  }
}

function parse(line: string): unknown {
  try {
    return line.startsWith("{") ? (JSON.parse(line) as unknown) : null;
  } catch {
    return null;
  }
}

/** @throws BridgeError `claude_program`, `claude_login` */
export async function checkProgram(deps: ProgramDeps, signal: AbortSignal): Promise<void> {
  const path = findProgram(deps.program, deps.env);
  const options = { env: environment(deps.env, "version"), timeout: versionMs, signal, windowsHide: true };
  const said = await promisify(execFile)(path, ["--version"], options).catch(() => ({ stdout: "" }));
  const version = /\d+\.\d+\.\d+/u.exec(said.stdout)?.[0];
  if (version === undefined)
    throw new BridgeError("claude_program", `Cannot start ${path}: it does not tell its version`);
  const number = (words: string): number => words.split(".").reduce((sum, part) => sum * 10_000 + Number(part), 0);
  const [first, last] = versionRange;
  if (number(version) < number(first) || number(version) >= number(last))
    throw new BridgeError("claude_program", `Cannot rely on claude ${version}: it takes ${first} up to before ${last}`);
  if (!(await lookAtProgram(deps, signal)).isLoggedIn)
    throw new BridgeError("claude_login", "Cannot use the claude program as it is not logged in");
}

type Look = { readonly models: readonly ModelInfo[]; readonly isLoggedIn: boolean };

/** Starts the program only to ask it for its models and its login, before any turn. @throws BridgeError `claude_program` */
export async function lookAtProgram(deps: ProgramDeps, signal: AbortSignal): Promise<Look> {
  const program = await startProgram(deps, {
    args: [],
    mayRun: false,
    mark: `look ${process.pid} ${deps.clock.monotonic()}`,
  });
  try {
    program.send(controlFrame("look", { subtype: "initialize" }));
    for (;;) {
      const heard = await program.next(signal);
      if (heard === null || typeof heard === "string")
        throw new BridgeError("claude_program", `Cannot ask the claude program: ${program.lastWords()}`);
      const { type, response } = fields(heard.frame);
      if (type !== "control_response") continue;
      const { models, account } = fields(fields(response)["response"]);
      const { tokenSource, apiKeySource } = fields(account);
      const ids = (Array.isArray(models) ? models : []).map((model) => string(fields(model)["value"]));
      const isLoggedIn = [tokenSource, apiKeySource].some((source) => !["", "none"].includes(string(source)));
      const known = ids.filter((id) => id !== "" && id !== "default").map((id) => ({ id, outputTokensMax: null }));
      return { models: known, isLoggedIn };
    }
  } finally {
    await program.end();
  }
}
