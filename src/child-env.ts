/**
 * The environment of the programs that we start: what a program needs to find its way about this machine, by name, and nothing
 * else. So no child gets a key of ours, and no variable of the runtime (`BUN_…`, `NODE_…`, `LD_…`) steers it.
 */

const passed =
  /^(?:PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|NO_COLOR|TMPDIR|TMP|TEMP|HTTPS?_PROXY|ALL_PROXY|NO_PROXY|XDG_\w+|DBUS_SESSION_BUS_ADDRESS|JAVA_HOME|CUDA_VISIBLE_DEVICES|SystemRoot|SystemDrive|ComSpec|PATHEXT|USERPROFILE|APPDATA|LOCALAPPDATA|ProgramFiles)$/i;

/** The variables of `env` that a child may have, and `extra`. */
export function childEnv(
  extra: Readonly<Record<string, string | undefined>> = {},
  env: NodeJS.ProcessEnv = process.env,
): NodeJS.ProcessEnv {
  return { ...Object.fromEntries(Object.entries(env).filter(([name]) => passed.test(name))), ...extra };
}
