/**
 * `bun run test`: format, lint, types and build side by side, then every test in one run; it stops before the tests where a step fails.
 * `--quick` (`bun run check`): no build, the tests that start no real program and damage no database, and 40 seeds of the simulation, all of
 * it side by side. The last line is always `N passed, N failed, N skipped`; each step that failed counts as one failure, with its output.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "..");
const bun = process.execPath;
/** Longest time of one test in ms; those that start real programs need more than Bun's 5 s. */
const testTimeoutMs = 120_000;
/** Processes that run test files. Three keep two cores at work: the tests of real programs wait more than they compute. */
const workers = 3;

const isQuick = process.argv.includes("--quick");
const quick = [
  ...["core", "contract", "loops", "store", "claude", "status", "cli"].map((room) => `test/${room}`),
  // They start a program for each conversation, and a browser; they kill at every write, damage the database, and turn the clock for days.
  ...["claude/code*", "status/page*", "loops/crash*", "loops/bad-database*", "loops/clock*"].map(
    (name) => `--path-ignore-patterns=test/${name}`,
  ),
];
const seeds = [bun, "test/sim/main.ts", "--seeds", "40", "--minutes", "3", "--jobs", "1"];

const steps: readonly (readonly [name: string, command: readonly string[]])[] = [
  ["format", [bun, "x", "oxfmt", "--check"]],
  // The linter reads all types: it tells their faults as well, and the compiler is asked in the whole run only.
  ["lint", [bun, "x", "oxlint", "--type-aware", "--deny-warnings", ...(isQuick ? ["--type-check"] : [])]],
  ...(isQuick
    ? [["40 seeds", seeds] as const]
    : [["types", [bun, "x", "tsc", "--noEmit"]] as const, ["build", [bun, "build.ts"]] as const]),
];

/** Linux keeps it in memory: the quick tests wait for no disk. */
const memoryFolder = "/dev/shm";

/** Bun shortens its output where it believes to run under a coding agent; the skipped tests must be named everywhere. */
const env = {
  ...process.env,
  AGENT: undefined,
  CLAUDECODE: undefined,
  REPL_ID: undefined,
  FORCE_COLOR: undefined,
  NO_COLOR: "1",
  ...(isQuick && existsSync(memoryFolder) ? { TMPDIR: memoryFolder } : {}),
};

const stepped = Promise.all(steps.map(([name, command]) => isFine(name, command)));
const brokenSteps = async (): Promise<number> => (await stepped).filter((fine) => !fine).length;
if (!isQuick && (await brokenSteps()) > 0) {
  console.log(`\n0 passed, ${await brokenSteps()} failed, 0 skipped`);
  process.exit(1);
}

const child = Bun.spawn(
  [bun, "test", `--parallel=${workers}`, "--no-isolate", `--timeout=${testTimeoutMs}`, ...(isQuick ? quick : [])],
  {
    cwd: root,
    env,
    stdout: "inherit",
    stderr: "pipe",
  },
);
let report = "";
const decoder = new TextDecoder();
for await (const chunk of child.stderr) {
  const text = decoder.decode(chunk, { stream: true });
  report += text;
  process.stdout.write(text);
}
const code = await child.exited;
// What a test runs may print a report of its own: the last one counts.
const count = (word: string): number =>
  Number([...report.matchAll(new RegExp(`^ *(\\d+) ${word}$`, "gm"))].at(-1)?.[1] ?? 0);
// A long report repeats them at its end.
const skipped = new Set([...report.matchAll(/^\((?:skip|todo)\) (.*)$/gm)].map(([, name]) => name));
console.log("");
for (const name of skipped) console.log(`SKIPPED: ${name}`);
// Bun counts an error outside any test as a failure; a crash of the runner has no count at all.
const failed = Math.max(count("fail"), code === 0 ? 0 : 1) + (await brokenSteps());
console.log(`${count("pass")} passed, ${failed} failed, ${count("skip") + count("todo")} skipped`);
process.exit(failed === 0 ? 0 : 1);

/** Says how a step went, with its output where it failed. */
async function isFine(name: string, command: readonly string[]): Promise<boolean> {
  const started = performance.now();
  const step = Bun.spawn([...command], { cwd: root, env, stdout: "pipe", stderr: "pipe" });
  const [out, err, exitCode] = await Promise.all([
    new Response(step.stdout).text(),
    new Response(step.stderr).text(),
    step.exited,
  ]);
  console.log(`${exitCode === 0 ? "ok    " : "FAILED"} ${name} (${seconds(started)})`);
  if (exitCode !== 0) console.log(`${out}${err}`);
  return exitCode === 0;
}

function seconds(since: number): string {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}
