/** Runs commands: in a group and, where there is one, a sandbox of their own; with limits, without input; no process of theirs is left. */
import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import parseWords from "string-argv";
import { childEnv, kill, killMarked } from "../child-env.ts";
import type { Clock } from "../clock.ts";
import type { Millis } from "../core/model.ts";

/** `why`: the reason why there is no sandbox, for `doctor`. */
export type CommandSandbox =
  | { readonly kind: "bubblewrap" | "sandbox-exec"; readonly program: string }
  | { readonly kind: "none"; readonly why: string };

/** A line for the shell, or a program of ours with its arguments. `home` is signalman's, hidden from the command. */
export type ShellCommand = {
  readonly command: string | readonly string[];
  readonly root: string;
  readonly home: string;
} & {
  readonly network: boolean;
  readonly sandbox: CommandSandbox;
  readonly timeoutMs: Millis;
  readonly env: NodeJS.ProcessEnv;
  /** A program of the owner's settings: it keeps the session's bus, and its stderr is no part of the output. */
  readonly isHelper?: boolean;
};

/** `code` is null where a signal ended the command; `ended` tells why we ended it, null where we did not. */
export type CommandOutcome = { readonly code: number | null; readonly ended: string | null; readonly output: string };

const shownBytesMax = 50_000;
// A command that prints more is ended, since reading the rest would cost this process more than it is worth.
const printedBytesMax = 32 * 2 ** 20;
const graceMs: Millis = 2_000;

/** The environment of a command, without the session's bus (DBUS_…, XDG_…), which leads out of a sandbox. */
function environmentOf({ env, isHelper = false }: ShellCommand, mark: string): NodeJS.ProcessEnv {
  if (isHelper) return childEnv({ SIGNALMAN_COMMAND: mark }, env);
  const kept = Object.entries(childEnv({}, env)).filter(([name]) => !/^(DBUS|XDG)_/iu.test(name));
  return { ...Object.fromEntries(kept), TERM: "dumb", CI: "1", SIGNALMAN_COMMAND: mark };
}

/** Folders and files of the person's home that a sandbox hides from commands. */
const privateFolders =
  ".ssh .gnupg .aws .azure .kube .docker .password-store .mozilla .thunderbird .config/gcloud .config/gh .config/google-chrome .config/chromium .config/Signal .local/share/keyrings Library/Keychains Library/Mail Library/Messages Library/Cookies";
const privateFiles = ".netrc .npmrc .pypirc .pgpass .git-credentials";

/** The real paths of the names that exist, since a sandbox hides places, not names. */
const places = (home: string, names: string): string[] =>
  names.split(" ").flatMap((name) => (existsSync(join(home, name)) ? realpathSync(join(home, name)) : []));

/** The program and its arguments that run the command, in the sandbox where there is one. `user` is the person's home. */
export function commandLine(given: Omit<ShellCommand, "env">, user = homedir()): string[] {
  const { command, root, home, network, sandbox } = given;
  if (typeof command !== "string") return [...command];
  // Where memory runs out, Linux ends the command before signalman; where signalman is killed, its pipe ends, which ends the group.
  const watch = sandbox.kind === "bubblewrap" ? "" : "( read -r _ <&3; kill -9 0 ) 2>/dev/null & exec 3<&-";
  const start = `{ echo 1000 >/proc/self/oom_score_adj; } 2>/dev/null\n${watch}\nexec /bin/sh -c "$0"`;
  const shell = ["/bin/sh", "-c", start, command];
  if (sandbox.kind === "none") return shell;
  const [folders, files] = [[...places(home, "."), ...places(user, privateFolders)], places(user, privateFiles)];
  if (sandbox.kind === "sandbox-exec") {
    const list = (paths: readonly string[]): string =>
      paths.map((path) => `(subpath "${path.replaceAll(/["\\]/gu, String.raw`\$&`)}")`).join(" ");
    const writable = list([root, "/private/tmp", "/private/var/folders", "/dev"]);
    const hidden = list([...folders, ...files]);
    const rules = `(deny file-write*)(allow file-write* ${writable})(deny file-read* file-write* ${hidden})`;
    return [sandbox.program, "-p", `(version 1)(allow default)${rules}${network ? "" : "(deny network*)"}`, ...shell];
  }
  // Root would keep what it needs to take the mounts off again.
  const own = "--die-with-parent --new-session --unshare-pid --unshare-ipc --unshare-uts --cap-drop ALL".split(" ");
  const resolver = "/run/systemd/resolve";
  // A later mount lies over an earlier one, as the project may lie under /tmp. /run is emptied, as it holds sockets that lead out.
  const system = ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run"];
  const net = !network ? ["--unshare-net"] : existsSync(resolver) ? ["--ro-bind", resolver, resolver] : [];
  const hidden = folders.flatMap((path) => ["--tmpfs", path]);
  const emptied = files.flatMap((path) => ["--ro-bind", "/dev/null", path]);
  const place = ["--bind", root, root, ...hidden, ...emptied, "--setenv", "TMPDIR", "/tmp", "--chdir", root];
  return [sandbox.program, ...own, ...system, ...net, ...place, "--", ...shell];
}

/** Finds the sandbox that works here by trying it, since a system may have the program and forbid its use. `path` is PATH. */
export async function findSandbox(
  clock: Clock,
  path: string,
  platform: string = process.platform,
): Promise<CommandSandbox> {
  const kind = { linux: "bubblewrap", darwin: "sandbox-exec" }[platform] as "bubblewrap" | "sandbox-exec" | undefined;
  if (kind === undefined) return { kind: "none", why: `there is none on ${platform}` };
  const folders = path.split(":").filter((folder) => folder.startsWith("/"));
  const program = folders.map((folder) => join(folder, kind === "bubblewrap" ? "bwrap" : kind)).find(existsSync);
  if (program === undefined) return { kind: "none", why: `${kind} is not installed` };
  const sandbox = { kind, program };
  const place = { root: tmpdir(), home: "/nowhere", network: false, env: {} };
  const trial = { command: "true", timeoutMs: 10_000, sandbox, ...place };
  const { code, output } = await runCommand(trial, clock, new AbortController().signal);
  if (code === 0) return sandbox;
  return { kind: "none", why: `${kind} is installed but does not work (${output.trim().slice(0, 100)})` };
}

/** Runs a program of the owner's settings: `line` is split into words as by a shell, quotes included, without a shell; `last` follows. */
export function runHelper(
  line: string,
  last: readonly string[],
  timeoutMs: Millis,
  clock: Clock,
  signal: AbortSignal,
): Promise<CommandOutcome> {
  const place = { root: ".", home: "", network: true, sandbox: { kind: "none", why: "" }, env: process.env } as const;
  return runCommand({ ...place, command: [...parseWords(line), ...last], timeoutMs, isHelper: true }, clock, signal);
}

/** Runs a command to its end, or until `signal` aborts; never rejects. Its group has ended when this resolves. */
export async function runCommand(command: ShellCommand, clock: Clock, signal: AbortSignal): Promise<CommandOutcome> {
  const [program = "", ...args] = commandLine(command);
  const mark = `${process.pid}-${Math.trunc(clock.monotonic() * 1_000)}`;
  const [env, cwd] = [environmentOf(command, mark), command.root];
  const complaints = command.isHelper ? "ignore" : "pipe";
  const child = spawn(program, args, { cwd, env, detached: true, stdio: ["ignore", "pipe", complaints, "pipe"] });
  const [over, closed] = [new AbortController(), new AbortController()];
  let ended: string | null = null;
  // The whole group is ended, since the shell alone would leave what it started.
  const killAll = (how: "SIGTERM" | "SIGKILL"): void => {
    if (child.pid) kill(-child.pid, how);
  };
  const end = (why: string): void => {
    if (over.signal.aborted || ended !== null) return;
    ended = why;
    killAll("SIGTERM");
    void clock.sleep(graceMs, over.signal).then(() => killAll("SIGKILL"));
  };
  let [head, tail, total] = [Buffer.alloc(0), Buffer.alloc(0), 0];
  const take = (chunk: Buffer): void => {
    const room = shownBytesMax / 2 - head.length;
    head = Buffer.concat([head, chunk.subarray(0, room)]);
    tail = Buffer.concat([tail, chunk.subarray(room)]).subarray(-shownBytesMax / 2);
    total += chunk.length;
    if (total > printedBytesMax) end("ended, as it printed too much");
  };
  const stop = (): void => end("ended, as the owner stopped it");
  child.stdout?.on("data", take);
  child.stderr?.on("data", take);
  child.on("close", () => closed.abort());
  const exited = new Promise<number | null>((resolve) => {
    child.on("exit", resolve);
    child.on("error", () => {
      ended = "could not be started";
      closed.abort();
      resolve(null);
    });
  });
  void clock.sleep(command.timeoutMs, over.signal).then(() => end("ended, as its time was over"));
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const code = await exited;
  over.abort();
  signal.removeEventListener("abort", stop);
  killAll("SIGKILL");
  await killMarked(mark);
  // A process that was not found may hold the pipe open for ever.
  await clock.sleep(graceMs, closed.signal);
  const left = total - head.length - tail.length;
  return {
    code,
    ended,
    output: `${head.toString()}${left > 0 ? `\n[… ${left} bytes left out …]\n` : ""}${tail.toString()}`,
  };
}
