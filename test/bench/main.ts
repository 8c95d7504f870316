/**
 * `bun run bench`: everything on loopback, in one run, written to results/bench.md and results/bench.svg. `--quick` does a
 * little of each and writes nothing. Ratios mean more than the figures: the first row says what one commit costs on this disk.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { build } from "../../build.ts";
import { hostTarget } from "../../build/libsignal.ts";
import { rendered, urlOf } from "../docs/readme.ts";
import { asService } from "./engine.ts";
import { isMet, median, repeat, toChart, toTable, type Figure } from "./measure.ts";

const { values } = parseArgs({ options: { quick: { type: "boolean", default: false } } });
const isQuick = values.quick;
const root = join(import.meta.dir, "../..");
const some = (full: number, quick: number): number => (isQuick ? quick : full);

await build(hostTarget, join(root, "dist/signalman"));
// They look for the binary when they are imported.
const program = await import("./program.ts");
const health = await import("./health.ts");
const inside = await import("./inside.ts");
const native = await import("./native.ts");
const signalCli = await import("./signal-cli.ts");

const steps: readonly (() => Promise<readonly Figure[]> | readonly Figure[])[] = [
  () => inside.commitCost("at the start", some(400, 100)),
  () => program.coldStart(some(20, 3)),
  () => program.firstAsked(some(10, 2)),
  () => program.overhead("messages", some(40, 5)),
  () => program.overhead("sessions", some(40, 5)),
  () => program.overhead("messages", some(40, 5), asService),
  () => program.overhead("sessions", some(40, 5), asService),
  () => program.calls(some(40, 5)),
  () => signalCli.daemonMemory(some(3, 1)),
  () => inside.backlog(1, some(300, 50), some(3, 1)),
  () => inside.backlog(50, some(300, 50), some(3, 1)),
  () => inside.backlog(1_000, some(1_000, 100), some(3, 1)),
  () => repeat(some(3, 1), () => program.backlog(50, some(300, 50), "messages")),
  () => repeat(some(3, 1), () => program.backlog(50, some(300, 50), "sessions")),
  () => program.recovery(some(4, 1), some(5_000, 100)),
  ...[1, 10].map((minutes) => () => inside.recovery(minutes * 60_000, some(10, 2))),
  () => inside.latencyThere(some(60, 10)),
  ...[1_000, 10_000, 100_000].slice(0, some(3, 2)).map((stored) => () => inside.latency(stored, some(60, 10))),
  () => health.healthUnderLoad(some(10_000, 500), some(50, 2), some(1_000, 50)),
  ...[10, 1_000, 10_000]
    .slice(0, some(3, 2))
    .flatMap((cached) => [0, 0.01, 1].map((share) => () => inside.syncCost(cached, share, some(5, 1)))),
  ...[10, 100, 1_000].map((keys) => () => inside.synchronizer(keys, some(500, 50))),
  () => native.exchange(some(60, 5)),
  () => native.memory(some(20_000, 400)),
  () => repeat(some(3, 1), native.linkAndIdle),
  () => native.flood(some(2_000, 100), {}),
  () => native.flood(some(2_000, 100), asService),
  () => inside.commitCost("at the end", some(400, 100)),
];

const figures: Figure[] = [];
const startedAt = performance.now();
for (const step of steps) {
  const found = await step();
  figures.push(...found);
  for (const { name, unit, values } of found)
    console.error(`${median(values).toFixed(2).padStart(12)} ${unit.padEnd(10)} ${name}`);
}

const commit = execFileSync("git", ["rev-parse", "--short=12", "HEAD"], { cwd: root, encoding: "utf8" }).trim();
const report = `# Benchmark

Written by \`bun run bench\` on ${new Date().toISOString().slice(0, 10)}, commit ${commit}, Bun ${Bun.version}, ${process.platform}-${process.arch}, ${cpus().length} cores
(load ${loadavg()[0]?.toFixed(1)} when it ended). Doubles, Claude and the program share the machine; nothing leaves loopback.
A target is what the design asks for; ✗ says that this run missed it. Signal's mock server runs in a process of
its own for the native rows, and says how long its part took; two rows show it on the program's own thread.
A sync reads what is in use and twenty idle sessions at a time, two requests each: so it costs the same whatever is stored.

${toTable(figures)}

![The figures that have a target, to its scale](bench.svg)
`;
console.log(report);
console.log(
  `${figures.filter(isMet).length} of ${figures.length} fine, ${((performance.now() - startedAt) / 1000).toFixed(0)} s`,
);
if (!isQuick) {
  writeFileSync(join(import.meta.dir, "results/bench.md"), report);
  writeFileSync(join(import.meta.dir, "results/bench.svg"), toChart(figures));
  writeFileSync(urlOf("README.md"), rendered(readFileSync(urlOf("README.md"), "utf8")));
}
process.exit(0);
