/**
 * `bun test/fuzz/main.ts --runs 1000000 [--seed N] [--run I] [--only NAME]`: feeds damaged input to every parser. Prints SEED=
 * first; `--run I` repeats one input. A watchdog thread ends a run that hangs, and names the input. Exit code 1 on a finding.
 */
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { fuzz } from "./run.ts";
import { nativeTargets } from "./native.ts";
import { targets } from "./targets.ts";

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: "1000000" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    run: { type: "string" },
    only: { type: "string" },
  },
});
const seed = Number(values.seed);
console.log(`SEED=${seed}`);
const all = [...targets, ...(await nativeTargets())];
const chosen = all.filter(({ name }) => values.only === undefined || name.includes(values.only));

/** An input that never ends cannot be stopped from its own thread. */
const hangMs = 30_000;
const heartbeat = new Int32Array(new SharedArrayBuffer(4));
const watchdog = new Worker(
  `const { workerData } = require("node:worker_threads");
   let last = -1;
   setInterval(() => {
     const now = Atomics.load(workerData.heartbeat, 0);
     if (now === last) { console.error("HANG at --seed ${seed} --run " + now); process.kill(process.pid, "SIGKILL"); }
     last = now;
   }, ${hangMs});`,
  { eval: true, workerData: { heartbeat } },
);
watchdog.unref();

const rssMb = (): string => (process.memoryUsage.rss() / 2 ** 20).toFixed(0);
const startedAt = performance.now();
const runs = values.run === undefined ? Number(values.runs) : 1;
const report = await fuzz(chosen, {
  seed,
  from: Number(values.run ?? 0),
  runs,
  onRun(index, findings) {
    Atomics.store(heartbeat, 0, index);
    if (index > 0 && index % 50_000 === 0)
      console.log(
        `${index}/${runs} inputs, ${findings} findings, ${rssMb()} MB, ${((performance.now() - startedAt) / 1000).toFixed(0)} s`,
      );
  },
});
console.log("| parser | inputs | slowest ms |\n|---|---|---|");
for (const [name, tally] of report.targets) console.log(`| ${name} | ${tally.runs} | ${tally.slowestMs.toFixed(0)} |`);
console.log(
  `${report.runs} inputs, ${report.findings.length} findings, ${rssMb()} MB, ${((performance.now() - startedAt) / 1000).toFixed(0)} s`,
);
for (const { target, index, what } of report.findings)
  console.log(`\n${target}: --seed ${seed} --run ${index}\n${what}`);
process.exit(report.findings.length === 0 ? 0 : 1);
