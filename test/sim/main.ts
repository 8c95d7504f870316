/**
 * `bun run sim`: worlds from seeds.
 *
 *   --seed N [--hours H] [--verbose]     one seed, exactly as before
 *   --seeds N [--from N] [--minutes M]   a campaign; exit code 1 and the failing seeds where one fails
 *     [--jobs N] [--failures N]          processes at work (as many as cores); it ends early after so many failures
 *   --mode lite|swarm|performance        instead of the one that the seed draws
 *   --soak-days D                        one quiet home for so long: nothing may grow
 */
import { fork } from "node:child_process";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { modes, type Mode } from "./plan.ts";
import { soak } from "./soak.ts";
import { runSeed, type RunResult } from "./world.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string" },
    from: { type: "string", default: "1" },
    hours: { type: "string" },
    minutes: { type: "string" },
    mode: { type: "string" },
    jobs: { type: "string", default: String(availableParallelism()) },
    failures: { type: "string", default: "20" },
    worker: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
    "soak-days": { type: "string" },
  },
});

const mode = modes.find((name): name is Mode => name === values.mode);
const minutes = values.hours === undefined ? Number(values.minutes ?? 10) : Number(values.hours) * 60;

const failuresMax = Number(values.failures);

/** A process is renewed after so many seeds: each leaves about 0.4 MB behind, and a campaign runs tens of thousands. */
const processSeeds = 500;

const replay = ({ seed }: RunResult): string =>
  `bun run sim --seed ${seed} --minutes ${minutes}${mode === undefined ? "" : ` --mode ${mode}`} --verbose`;

async function one(seed: number): Promise<number> {
  console.log(`SEED=${seed}`);
  const write = values.verbose ? (line: string): void => console.log(line) : undefined;
  const result = await runSeed({ seed, minutes, mode, write });
  console.log(JSON.stringify(result, null, 2));
  return result.failure === null ? 0 : 1;
}

async function campaign(from: number, count: number): Promise<number> {
  const startedAt = performance.now();
  const sum = { seeds: 0, awakeMs: 0, messages: 0, faults: 0, lives: 0 };
  const failed: RunResult[] = [];
  const seconds = (): number => (performance.now() - startedAt) / 1000;
  const progress = (): string =>
    `${sum.seeds}/${count} seeds, ${(sum.seeds / seconds()).toFixed(1)}/s, ${(sum.awakeMs / 3_600_000).toFixed(1)} virtual hours, ` +
    `${sum.messages} messages, ${sum.faults} faults, ${sum.lives} processes, ${failed.length} failed`;
  const done = (result: RunResult): void => {
    sum.seeds++;
    for (const key of ["awakeMs", "messages", "faults", "lives"] as const) sum[key] += result[key];
    if (result.failure !== null) {
      failed.push(result);
      console.log(`SEED=${result.seed} (${result.mode}): ${result.failure}\n  ${replay(result)}`);
    }
    if (sum.seeds % 100 === 0) console.error(progress());
  };
  let seed = from;
  const next = (): number | null => (seed < from + count && failed.length < failuresMax ? seed++ : null);
  await Promise.all(Array.from({ length: Number(values.jobs) }, () => work(next, done)));
  console.log(`${progress()}, ${seconds().toFixed(0)} s`);
  if (failed.length > 0) console.log(`failing seeds: ${failed.map((result) => result.seed).join(" ")}`);
  return failed.length === 0 ? 0 : 1;
}

/** Processes, one after the other, until no seed is left. */
async function work(next: () => number | null, done: (result: RunResult) => void): Promise<void> {
  let seed = next();
  while (seed !== null) seed = await inProcess(seed, next, done);
}

/** One process that runs a seed at a time, up to `processSeeds` of them. Resolves with the seed that the next one begins with. */
function inProcess(
  first: number,
  next: () => number | null,
  done: (result: RunResult) => void,
): Promise<number | null> {
  const worker = fork(import.meta.filename, [...process.argv.slice(2), "--worker"]);
  let seed: number | null = first;
  let left = processSeeds;
  worker.on("message", (result) => {
    done(result as RunResult);
    seed = next();
    left--;
    if (seed === null || left === 0) worker.disconnect();
    else worker.send(seed);
  });
  worker.send(first);
  return new Promise((resolve, reject) => {
    worker.once("exit", (code) =>
      code === 0 ? resolve(seed) : reject(new Error(`The process at seed ${seed} ended with ${code}`)),
    );
  });
}

async function run(): Promise<number> {
  if (values.worker) {
    process.on(
      "message",
      (seed) => void runSeed({ seed: Number(seed), minutes, mode }).then((result) => process.send?.(result)),
    );
    return 0;
  }
  const days = values["soak-days"];
  if (days !== undefined) {
    await soak(Number(days), (day) => console.log(JSON.stringify(day)));
    return 0;
  }
  if (values.seeds !== undefined) return campaign(Number(values.from), Number(values.seeds));
  return one(Number(values.seed ?? Math.floor(Math.random() * 2 ** 31)));
}

process.exitCode = await run();
