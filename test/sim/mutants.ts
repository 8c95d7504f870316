/**
 * `bun test/sim/mutants.ts [--only WORD] [--after BUG] [--seeds N] [--jobs N] [--no-suite]`: is the simulation any good? Plants the
 * bugs of `mutants.txt` one at a time in a copy of the source, and looks whether the seed that is named for the bug notices; where
 * none is, whether one of N seeds, or else a test of the suite does (with `--seeds 0`, the suite alone). Prints a table; exit code 1
 * where a bug was not noticed. Not part of the test run: it takes minutes.
 */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const root = join(import.meta.dirname, "../..");

type Hunk = { readonly find: string; readonly put: string };
type Named = { readonly seed: number; readonly minutes: number };
export type Mutant = {
  readonly bug: string;
  /** Below src/. */
  readonly file: string;
  readonly hunks: readonly Hunk[];
  /** A seed that fails with the bug. */
  readonly named: Named | null;
};

export const mutants: readonly Mutant[] = parse(readFileSync(join(import.meta.dirname, "mutants.txt"), "utf8"));

function parse(list: string): Mutant[] {
  const found: Mutant[] = [];
  let file = "";
  for (const [title = "", ...lines] of list.split(/\n{2,}/u).map((block) => block.trimEnd().split("\n"))) {
    if (title.endsWith(".ts")) file = title;
    if (lines.length === 0 || title.startsWith("#")) continue;
    const [, bug = title, seed, minutes] = /^(.*) \[seed (\d+), (\d+) minutes\]$/u.exec(title) ?? [];
    const changes = lines.join("\n").matchAll(/^((?:- .*\n?)+)((?:\+ .*\n?)*)/gmu);
    const text = (marked = ""): string => marked.replaceAll(/^[-+] /gmu, "").trimEnd();
    const hunks = [...changes].map(([, find, put]) => ({ find: text(find), put: text(put) }));
    found.push({ bug, file, hunks, named: seed ? { seed: Number(seed), minutes: Number(minutes) } : null });
  }
  return found;
}

/** The source with the bug in it. @throws Error where the bug does not fit the source */
export function plant({ hunks }: Mutant, source: string): string {
  return hunks.reduce((text, { find, put }) => {
    const count = text.split(find).length - 1;
    if (count !== 1) throw new Error(`This stands in the source ${count} times, not once: ${find}`);
    return text.replace(find, () => put);
  }, source);
}

/** Runs a command of the copy; null where it went well, else what it said. */
function complaint(cwd: string, args: readonly string[]): string | null {
  const env = { ...process.env, FORCE_COLOR: "0", NO_COLOR: "1" };
  const options = { cwd, env, encoding: "utf8", timeout: 300_000, killSignal: "SIGKILL" } as const;
  const { status, stdout, stderr, error } = spawnSync(process.execPath, args, options);
  if (status === 0) return null;
  const said = /SEED=\d+ .*|\(fail\) .*/u.exec(`${stdout}\n${stderr}`)?.[0];
  return (said ?? (error ? "it hangs" : `exit ${status}`)).slice(0, 150);
}

/** The tests that are quick and know nothing of the outside. */
const suite = "test --timeout 60000 --bail test/core test/loops test/store test/claude test/status";

function main(): void {
  const { values } = parseArgs({
    options: {
      only: { type: "string", default: "" },
      after: { type: "string", default: "" },
      seeds: { type: "string", default: "200" },
      jobs: { type: "string", default: String(availableParallelism()) },
      "no-suite": { type: "boolean", default: false },
    },
  });
  const copy = mkdtempSync(join(tmpdir(), "signalman-mutants-"));
  /** Who notices, or null. */
  const judge = ({ named }: Mutant): string | null => {
    const { seed, minutes } = named ?? { seed: 1, minutes: 4 };
    const count = named ? 1 : Number(values.seeds);
    const sim = `test/sim/main.ts --from ${seed} --seeds ${count} --minutes ${minutes} --jobs ${values.jobs} --failures 1`;
    const seen = values.seeds === "0" ? null : complaint(copy, sim.split(" "));
    if (seen !== null) return `${named ? "its seed" : "simulation"}: ${seen}`;
    if (values["no-suite"] || (named && values.seeds !== "0")) return null;
    const tested = complaint(copy, suite.split(" "));
    return tested && `test: ${tested}`;
  };
  let missed = 0;
  try {
    for (const folder of ["src", "test", "docs"]) cpSync(join(root, folder), join(copy, folder), { recursive: true });
    for (const file of ["package.json", "tsconfig.json", "bunfig.toml"]) cpSync(join(root, file), join(copy, file));
    symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
    // A copy that does not run would notice everything.
    const broken = complaint(copy, "test/sim/main.ts --seeds 1 --minutes 1 --jobs 1".split(" "));
    if (broken !== null) throw new Error(`The copy fails without a bug in it: ${broken}`);
    console.log("| planted bug | where | noticed by |\n|---|---|---|");
    const first = mutants.findIndex(({ bug }) => bug === values.after) + 1;
    for (const mutant of mutants.slice(first).filter(({ bug }) => bug.includes(values.only))) {
      const path = join(copy, "src", mutant.file);
      const source = readFileSync(path, "utf8");
      writeFileSync(path, plant(mutant, source));
      const verdict = judge(mutant);
      writeFileSync(path, source);
      if (verdict === null) missed++;
      console.log(`| ${mutant.bug} | ${mutant.file} | ${verdict?.replaceAll("|", "/") ?? "**nothing**"} |`);
    }
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
  process.exitCode = missed === 0 ? 0 : 1;
}

if (import.meta.main) main();
