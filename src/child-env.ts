/**
 * The environment of the programs that we start, and their end. A child gets only listed variables, which a program needs on this
 * machine, so that no child gets a key of ours, and no variable of the runtime (`BUN_…`, `NODE_…`, `LD_…`) steers it.
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

/** Sends a signal to a process, or to a group where `pid` is negative. */
export function kill(pid: number, how: "SIGTERM" | "SIGKILL"): void {
  try {
    process.kill(process.platform === "win32" ? Math.abs(pid) : pid, how);
  } catch {
    // The process has ended by itself.
  }
}

/**
 * Ends, on Linux, processes that have left the group but carry the mark in their environment; never rejects. It finds none where
 * `/proc` cannot be read, as when every descriptor is taken.
 */
export async function killMarked(mark: string): Promise<void> {
  if (process.platform !== "linux") return;
  const names = await readdir("/proc").catch(() => []);
  for (const pid of names.filter((name) => /^\d+$/u.test(name))) {
    const env = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
    if (env.split("\0").includes(`SIGNALMAN_COMMAND=${mark}`)) kill(Number(pid), "SIGKILL");
  }
}
