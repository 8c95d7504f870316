/**
 * Commands: one line for /bin/sh, in a process group and, where the system has one, a sandbox of its own, with listed
 * variables, nothing on standard input, and limits of time and output. It leaves no process behind.
 */
import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../clock.ts";
import type { Millis } from "../core/model.ts";
import { messageOf } from "./content.ts";

/** `why`: what stands against a sandbox, for `doctor` and the question. */
export type Sandbox =
  | { readonly kind: "bubblewrap" | "sandbox-exec"; readonly program: string }
  | { readonly kind: "none"; readonly why: string };

export type Command = {
  readonly command: string;
  readonly root: string;
  /** signalman's, hidden from the command. */
  readonly home: string;
  readonly network: boolean;
  readonly sandbox: Sandbox;
  readonly timeoutMs: Millis;
};

export type Outcome = {
  /** Null where a signal ended it. */
  readonly code: number | null;
  readonly ended: "exit" | "timeout" | "stopped" | "flood" | "failed";
  readonly output: string;
  readonly durationMs: Millis;
};

const shownBytesMax = 50_000;
/** What prints more is ended: reading it away costs this process more than it tells. */
const printedBytesMax = 32 * 2 ** 20;
const graceMs: Millis = 2_000;

/** A programmer's tools are found by these. The session's bus is none of them: by it one leaves a sandbox. */
const toolchains = ["GOPATH", "CARGO_HOME", "RUSTUP_HOME", "NVM_DIR", "PNPM_HOME", "BUN_INSTALL", "DENO_DIR", "VIRTUAL_ENV"];

function environmentOf(env: Environment, mark: string): NodeJS.ProcessEnv {
  const more = Object.fromEntries(toolchains.map((name) => [name, env[name]]));
  const kept = childEnv({ ...more, TERM: "dumb", CI: "1", SIGNALMAN_COMMAND: mark }, env);
  return Object.fromEntries(Object.entries(kept).filter(([name, value]) => value !== undefined && !/^(DBUS|XDG)_/u.test(name)));
}

/** In the person's home; hidden from commands where they are. */
const privateFolders = [
  ".ssh",
  ".gnupg",
  ".aws",
  ".azure",
  ".kube",
  ".docker",
  ".password-store",
  ".mozilla",
  ".thunderbird",
].concat(
  [
    ".config/gcloud",
    ".config/gh",
    ".config/google-chrome",
    ".config/chromium",
    ".config/Signal",
    ".local/share/keyrings",
  ],
  ["Library/Keychains", "Library/Mail", "Library/Messages", "Library/Cookies", "Library/Application Support/Signal"],
);
const privateFiles = [".netrc", ".npmrc", ".pypirc", ".git-credentials", ".pgpass"];

/** Those that exist, without links: a sandbox hides places, not names. */
const real = (paths: readonly string[]): string[] =>
  paths.filter((path) => existsSync(path)).map((path) => realpathSync(path));

/** The program and its arguments that run the command, in the sandbox where there is one. */
export function commandLine(
  { command, root, home, network, sandbox }: Command,
  user = homedir(),
): readonly [string, ...string[]] {
  // Where memory runs out, the kernel ends the command, and not signalman.
  const shell = ["/bin/sh", "-c", `{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null\n${command}`];
  const folders = real([home, ...privateFolders.map((name) => join(user, name))]);
  const files = real(privateFiles.map((name) => join(user, name)));
  if (sandbox.kind === "none") return shell as [string, ...string[]];
  if (sandbox.kind === "sandbox-exec") {
    const quote = (path: string): string => `"${path.replaceAll(/["\\]/gu, String.raw`\$&`)}"`;
    const writable = [root, "/private/tmp", "/private/var/folders", "/dev"]
      .map((path) => `(subpath ${quote(path)})`)
      .join(" ");
    const hidden = [...folders, ...files].map((path) => `(subpath ${quote(path)})`).join(" ");
    const profile = `(version 1)(allow default)(deny file-write*)(allow file-write* ${writable})(deny file-read* file-write* ${hidden})${network ? "" : "(deny network*)"}`;
    return [sandbox.program, "-p", profile, ...shell];
  }
  // What comes later lies over what came before: the project may lie under /tmp. /run holds sockets that lead out.
  return [
    sandbox.program,
    "--die-with-parent",
    "--new-session",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
  ].concat(
    network ? [] : ["--unshare-net"],
    ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run"],
    network && existsSync("/run/systemd/resolve") ? ["--ro-bind", "/run/systemd/resolve", "/run/systemd/resolve"] : [],
    ["--bind", root, root],
    folders.flatMap((path) => ["--tmpfs", path]),
    files.flatMap((path) => ["--ro-bind", "/dev/null", path]),
    ["--setenv", "TMPDIR", "/tmp", "--chdir", root, "--", ...shell],
  ) as [string, ...string[]];
}

/** Which sandbox works here: it is tried, since a system may have the program and forbid its use. `path` is PATH. */
export async function findSandbox(clock: Clock, path: string, platform = process.platform): Promise<Sandbox> {
  const name = { linux: "bwrap", darwin: "sandbox-exec" }[platform as string];
  if (name === undefined) return { kind: "none", why: `signalman knows no sandbox on ${platform}` };
  const program = path
    .split(":")
    .map((folder) => join(folder || "/", name))
    .find(existsSync);
  if (program === undefined)
    return { kind: "none", why: platform === "linux" ? "bubblewrap is not installed" : `there is no ${name}` };
  const sandbox = { kind: platform === "linux" ? "bubblewrap" : "sandbox-exec", program } as const;
  const trial = {
    command: "true",
    root: tmpdir(),
    home: join(tmpdir(), "none"),
    network: false,
    sandbox,
    timeoutMs: 10_000,
  };
  const { code, output } = await runCommand(trial, { PATH: path }, clock, new AbortController().signal);
  return code === 0
    ? sandbox
    : { kind: "none", why: `${name} is installed but does not work (${output.trim().slice(0, 100)})` };
}

/** Runs one command to its end; never rejects. Its whole group has ended when this resolves. */
export async function runCommand(
  command: Command,
  env: Readonly<Partial<Record<string, string>>>,
  clock: Clock,
  signal: AbortSignal,
): Promise<Outcome> {
  const startedAt = clock.monotonic();
  const [program, ...args] = commandLine(command);
  const kept = keepEnds(shownBytesMax);
  const mark = `SIGNALMAN_COMMAND=${process.pid}-${Math.trunc(startedAt * 1000)}`;
  const [markName = "", markValue = ""] = mark.split("=");
  let ended: Outcome["ended"] = "exit";
  const code = await new Promise<number | null>((resolve) => {
    const over = new AbortController();
    const environment = { ...environmentOf(env), [markName]: markValue };
    const child = spawn(program, args, {
      cwd: command.root,
      env: environment,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const kill = (how: "SIGTERM" | "SIGKILL"): void => {
      try {
        // The group: the shell alone would leave what it started.
        if (child.pid !== undefined) process.kill(-child.pid, how);
      } catch {
        // It has ended by itself.
      }
    };
    const end = (why: Outcome["ended"]): void => {
      if (over.signal.aborted || ended !== "exit") return;
      ended = why;
      kill("SIGTERM");
      void clock.sleep(graceMs, over.signal).then(() => kill("SIGKILL"));
    };
    const take = (chunk: Buffer): void => {
      if (kept.add(chunk) > printedBytesMax) end("flood");
    };
    const stop = (): void => end("stopped");
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    child.on("error", (error) => {
      ended = "failed";
      kept.add(Buffer.from(messageOf(error)));
      over.abort();
      resolve(null);
    });
    child.on("exit", (code) => {
      over.abort();
      signal.removeEventListener("abort", stop);
      kill("SIGKILL");
      // What left the group may hold the pipe open for ever.
      const closed = new AbortController();
      child.on("close", () => closed.abort());
      void endMarked(mark)
        .then(() => clock.sleep(graceMs, closed.signal))
        .then(() => resolve(code));
    });
    void clock.sleep(command.timeoutMs, over.signal).then(() => end("timeout"));
    signal.addEventListener("abort", stop, { once: true });
    if (signal.aborted) stop();
  });
  return { code, ended, output: kept.text(), durationMs: clock.monotonic() - startedAt };
}

/** How a command ended, and what it printed. */
export function sayOutcome({ code, ended, output, durationMs }: Outcome): string {
  const ends = {
    exit: code === null ? "ended by a signal" : `exit code ${code}`,
    timeout: "ended, as its time was over",
    stopped: "ended, as the owner stopped it",
    flood: "ended, as it printed too much",
    failed: "could not be started",
  };
  return `[${ends[ended]}, ${(durationMs / 1000).toFixed(1)} s]\n${output}`.trimEnd();
}

/** Linux: ends what has left the group but carries the mark in its environment. */
async function endMarked(mark: string): Promise<void> {
  if (process.platform !== "linux") return;
  for (const pid of await readdir("/proc").catch(() => []))
    if (
      /^\d+$/u.test(pid) &&
      (await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "")).split("\0").includes(mark)
    )
      try {
        process.kill(Number(pid), "SIGKILL");
      } catch {
        // It has ended by itself.
      }
}

/** The first and the last of what is printed, in bounded memory. */
function keepEnds(most: number) {
  const half = most / 2;
  let [head, tail, total] = [Buffer.alloc(0), Buffer.alloc(0), 0];
  return {
    /** Answers how much there was so far. */
    add(chunk: Buffer): number {
      total += chunk.length;
      const room = half - head.length;
      if (room > 0) head = Buffer.concat([head, chunk.subarray(0, room)]);
      const rest = chunk.subarray(Math.max(0, room));
      if (rest.length > 0) tail = Buffer.concat([tail, rest]).subarray(-half);
      return total;
    },
    text(): string {
      const left = total - head.length - tail.length;
      if (left === 0) return Buffer.concat([head, tail]).toString("utf8");
      return `${head.toString("utf8")}\n[… ${left} bytes left out …]\n${tail.toString("utf8")}`;
    },
  };
}
