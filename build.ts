/**
 * Makes the binary: `bun build.ts` for this machine (dist/signalman), `--all` for every target (dist/signalman-<target>),
 * `--target linux-arm64` for one. A foreign target needs its Bun, which Bun fetches once.
 */
import { execFileSync } from "node:child_process";
import { statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { hostTarget, libsignalPlugin } from "./build/libsignal.ts";

/** 64-bit Windows, macOS and Linux with glibc: what both Bun and libsignal have. */
const targets = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "windows-x64"] as const;
const root = import.meta.dir;

/** Resolves to the path of the binary. @throws AggregateError with what the bundler says */
export async function build(target: string, outfile: string): Promise<string> {
  await Bun.build({
    entrypoints: [join(root, "src/main.ts")],
    target: "bun",
    compile: { target: `bun-${target}` as Bun.Build.CompileTarget, outfile },
    minify: true,
    // Parsed ahead: the start takes half the time. It is bound to the architecture, so only for our own.
    bytecode: target === hostTarget,
    define: { SIGNALMAN_COMMIT: JSON.stringify(commitOf()) },
    plugins: [libsignalPlugin(target)],
  });
  return outfile;
}

/** Short, `-dirty` where the tree differs; `unknown` outside a repository (a source archive). */
function commitOf(): string {
  try {
    const git = (...args: string[]): string =>
      execFileSync("git", args, { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    return git("rev-parse", "--short=12", "HEAD") + (git("status", "--porcelain") === "" ? "" : "-dirty");
  } catch {
    return "unknown";
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { all: { type: "boolean", default: false }, target: { type: "string", multiple: true, default: [] } },
  });
  const chosen = values.all ? [...targets] : values.target;
  const jobs = chosen.map((target) => ({
    target,
    name: `signalman-${target}${target.startsWith("windows") ? ".exe" : ""}`,
  }));
  const own = { target: hostTarget, name: `signalman${process.platform === "win32" ? ".exe" : ""}` };
  for (const { target, name } of jobs.length === 0 ? [own] : jobs) {
    const started = performance.now();
    const file = await build(target, join(root, "dist", name));
    const megabytes = (statSync(file).size / 1e6).toFixed(0);
    console.log(`dist/${name}  ${megabytes} MB  ${((performance.now() - started) / 1000).toFixed(1)} s`);
  }
}

if (import.meta.main) await main();
