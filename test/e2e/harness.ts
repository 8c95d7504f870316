/**
 * Runs the compiled binary (or whatever E2E_COMMAND names) as a person would, and waits on what it says: its log lines are
 * the events of a test, so that nothing here sleeps.
 */
import { expect } from "bun:test";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Status } from "../../src/status/status.ts";
import { createTape } from "../doubles/wire.ts";

const root = new URL("../../", import.meta.url).pathname;
const binary = join(root, "dist", process.platform === "win32" ? "signalman.exe" : "signalman");
/** The program under test, as words of a command line. */
export const command: readonly string[] = process.env["E2E_COMMAND"]?.split(" ") ?? [binary];
/** Not the source, run by some runtime. */
export const isBinary: boolean = command[0] === binary;
if (isBinary && !existsSync(binary)) throw new Error("There is no dist/signalman: run `bun run build` first");

export type LogLine = {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
};

export interface Running {
  readonly url: string;
  /** The next line, after those that were waited for already, that fits. Rejects when the process ends first. */
  log(message: string, fields?: Readonly<Record<string, unknown>>): Promise<LogLine>;
  /** The next time the connection is said to be in this state. */
  state(name: string): Promise<LogLine>;
  status(): Promise<Status>;
  stop(signal?: NodeJS.Signals): Promise<number>;
  readonly exited: Promise<number>;
  /** Everything it wrote, for what must not be in it. */
  output(): string;
  readonly pid: number;
}

export type Home = { readonly path: string; remove(): void };

/** A fresh home folder. */
export function newHome(): Home {
  const path = mkdtempSync(join(tmpdir(), "signalman-e2e-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Only what a test gives: nothing of the machine's own settings leaks in. */
function environment(env: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const { PATH, HOME, TMPDIR, LANG, JAVA_HOME } = process.env;
  return {
    ...Object.fromEntries(Object.entries({ PATH, HOME, TMPDIR, LANG, JAVA_HOME }).filter(([, value]) => value)),
    ...env,
  };
}

/** Runs one command to its end. */
export async function runOnce(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  input?: string,
): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  const child = spawn(command[0] ?? "", [...command.slice(1), ...args], {
    cwd: root,
    env: environment(env),
    stdio: "pipe",
  });
  const text = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (piece: string) => (text.out += piece));
  child.stderr.setEncoding("utf8").on("data", (piece: string) => (text.err += piece));
  child.stdin.end(input ?? "");
  return { code: await exitOf(child), ...text };
}

const exitOf = (child: ChildProcess): Promise<number> =>
  new Promise((resolve) => child.once("close", (code, signal) => resolve(code ?? (signal === "SIGKILL" ? 137 : 1))));

/** `signalman link --json`, where `scan` plays the phone that scans the code; resolves to the device that was made. */
export async function link<D>(
  env: Readonly<Record<string, string>>,
  scan: (url: string) => Promise<D>,
  flags: readonly string[] = [],
): Promise<D> {
  const child = spawn(command[0] ?? "", [...command.slice(1), "link", "--json", "--name", "kitchen", ...flags], {
    cwd: root,
    env: environment(env),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = exitOf(child);
  let scanned = null as Promise<D> | null;
  const events: string[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event = JSON.parse(line) as { event: string; url?: string };
    events.push(event.event);
    if (event.url !== undefined) scanned = scan(event.url);
  });
  expect(await exited).toBe(0);
  expect(events).toEqual(["url", "linked"]);
  if (!scanned) throw new Error("no code was shown");
  return scanned;
}

/** Nothing but answers is sent, where a test does not ask for more. */
export const plain = { SIGNALMAN_WELCOME: "false", SIGNALMAN_REACTIONS: "off", SIGNALMAN_PROGRESS: "false" } as const;

/** Starts `signalman run` and resolves when its status server listens. */
export async function start(env: Readonly<Record<string, string>>): Promise<Running> {
  const child = spawn(command[0] ?? "", [...command.slice(1), "run"], {
    cwd: root,
    env: environment({ ...plain, SIGNALMAN_LISTEN: "127.0.0.1:0", SIGNALMAN_LOG: "debug", ...env }),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exited = exitOf(child);
  const lines = createTape<LogLine | null>();
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (piece: string) => (output += piece));
  createInterface({ input: child.stderr }).on("line", (line) => {
    output += `${line}\n`;
    lines.push(parse(line));
  });
  void exited.then(() => lines.push(null));
  const log = async (message: string, fields: Readonly<Record<string, unknown>> = {}): Promise<LogLine> => {
    for (;;) {
      const line = await lines.next();
      if (line === null) throw new Error(`signalman ended before it said "${message}":\n${output.slice(-3000)}`);
      if (line.message === message && Object.entries(fields).every(([key, value]) => line.fields[key] === value))
        return line;
    }
  };
  const listens = await log("status server listens");
  const url = String(listens.fields["url"]);
  return {
    url,
    log,
    state: (name) => log("connection", { state: name }),
    status: async () => (await (await fetch(`${url}/status`)).json()) as Status,
    async stop(signal = "SIGTERM") {
      child.kill(signal);
      return exited;
    },
    exited,
    output: () => output,
    pid: child.pid ?? 0,
  };
}

function parse(line: string): LogLine {
  try {
    const { level, message, fields } = JSON.parse(line) as Partial<LogLine>;
    return { level: level ?? "", message: message ?? "", fields: fields ?? {} };
  } catch {
    return { level: "raw", message: line, fields: {} };
  }
}
