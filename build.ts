/**
 * Makes the binary: `bun build.ts` for this machine (dist/signalman), `--all` for every target (dist/signalman-<target>, plain
 * and packed, with manual, completions and SHA256SUMS), `--target linux-arm64` for one. A foreign target needs its Bun, which Bun fetches once.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { hostTarget, libsignalPlugin } from "./build/libsignal.ts";

/** 64-bit Windows, macOS and Linux with glibc: what both Bun and libsignal have. */
const targets = ["linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64", "windows-x64"] as const;
const root = import.meta.dir;
/** 142 MB become 50; zstd unpacks them in a fifth of a second. */
const packLevel = 19;

/** Resolves to the path of the binary. @throws AggregateError with what the bundler says */
export async function build(target: string, outfile: string): Promise<string> {
  await Bun.build({
    entrypoints: [join(root, "src/main.ts")],
    target: "bun",
    compile: {
      target: `bun-${target}` as Bun.Build.CompileTarget,
      outfile,
      // `.env` and `bunfig.toml` of the folder it is started in would set keys, addresses and preloads of a stranger's choice.
      autoloadDotenv: false,
      autoloadBunfig: false,
      // The program is what is in the binary: no preload, no inspector, no `eval`, no module from disk, whatever BUN_OPTIONS says.
      execArgv: ["--disallow-code-generation-from-strings=strict"],
    },
    minify: true,
    // What is imported where it is used comes as a file of its own, so that what is never used takes no memory.
    format: "esm",
    splitting: true,
    // Parsed ahead: the start takes half the time. It is bound to the architecture, so only for our own.
    bytecode: target === hostTarget,
    define: {
      SIGNALMAN_COMMIT: JSON.stringify(commitOf()),
      SIGNALMAN_RELEASES: JSON.stringify(process.env["SIGNALMAN_RELEASES"] || null),
      SIGNALMAN_RELEASE_KEY: JSON.stringify(process.env["SIGNALMAN_RELEASE_KEY"] || null),
    },
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

/** What a release has besides its binaries: each packed, manual, completions, and the sums of all that is in the folder. */
async function describeRelease(binaries: readonly string[]): Promise<void> {
  const dist = (name: string): string => join(root, "dist", name);
  const say = (...args: string[]): string =>
    execFileSync(process.execPath, ["src/main.ts", ...args], { cwd: root, encoding: "utf8" });
  const texts = {
    "signalman.1": say("man"),
    "signalman.bash": say("completions", "bash"),
    _signalman: say("completions", "zsh"),
    "signalman.fish": say("completions", "fish"),
  };
  for (const [name, text] of Object.entries(texts)) await Bun.write(dist(name), text);
  for (const name of binaries)
    await Bun.write(dist(`${name}.zst`), await Bun.zstdCompress(readFileSync(dist(name)), { level: packLevel }));
  const names = readdirSync(dist("")).filter((name) => !name.startsWith("SHA256SUMS"));
  const sums = names.sort().map((name) => {
    const hash = createHash("sha256").update(readFileSync(dist(name)));
    return `${hash.digest("hex")}  ${name}\n`;
  });
  await Bun.write(dist("SHA256SUMS"), sums.join(""));
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
  if (values.all) await describeRelease(jobs.map(({ name }) => name));
}

if (import.meta.main) await main();
