/**
 * The environment of the programs that we start: what a program needs to find its way about this machine, by name, and nothing
 * else. So no child gets a key of ours, and no variable of the runtime (`BUN_…`, `NODE_…`, `LD_…`) steers it. And how they end.
 */
import { readdir, readFile } from "node:fs/promises";

const passed =
  /^(?:PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|NO_COLOR|TMPDIR|TMP|TEMP|HTTPS?_PROXY|ALL_PROXY|NO_PROXY|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|JAVA_HOME|CUDA_VISIBLE_DEVICES|SystemRoot|SystemDrive|ComSpec|PATHEXT|USERPROFILE|APPDATA|LOCALAPPDATA|ProgramFiles)$/i;

/** The variables of `env` that a child may have, and `extra`. */
export function childEnv(
  extra: Readonly<Record<string, string | undefined>> = {},
  env: NodeJS.ProcessEnv = process.env,
): NodeJS.ProcessEnv {
  return { ...Object.fromEntries(Object.entries(env).filter(([name]) => passed.test(name))), ...extra };
}

/** A negative `pid` is a group. */
export function kill(pid: number, how: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(process.platform === "win32" ? Math.abs(pid) : pid, how);
  } catch {
    // It has ended by itself.
  }
}

/** Linux: ends what has left the group, but carries the mark in its environment. */
export async function killMarked(mark: string): Promise<void> {
  if (process.platform !== "linux") return;
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/u.test(name))) {
    const env = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
    if (env.split("\0").includes(`SIGNALMAN_COMMAND=${mark}`)) kill(Number(pid), "SIGKILL");
  }
}
