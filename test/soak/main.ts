/**
 * `bun test/soak/main.ts --minutes 20 --rate 20 [--transport native|signal-cli|rest]`: the compiled binary under a steady load
 * over loopback, measured from outside. Prints a line per sample and a table; exit code 1 where something grows that must not,
 * or an answer is missing. Linux only: it reads /proc.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startClaudeDouble } from "../doubles/claude.ts";
import { newHome, start, type Running } from "../e2e/harness.ts";
import { openEnds, transports, type Who } from "../kill/ends.ts";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "20" },
    rate: { type: "string", default: "20" },
    transport: { type: "string", default: "native" },
  },
});
const transport = transports.find((name) => name === values.transport);
if (transport === undefined) throw new Error(`Cannot use --transport: it takes ${transports.join(", ")}`);
const [minutes, rate] = [Number(values.minutes), Number(values.rate)];
const sampleMs = 5_000;
/** A person starts over now and then; a conversation of thousands of turns is nobody's. */
const newEvery = 100;

type Sample = {
  readonly atMs: number;
  readonly rssMb: number;
  readonly fds: number;
  readonly dbMb: number;
  readonly p50Ms: number;
  readonly p95Ms: number;
};
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const quantile = (sorted: readonly number[], part: number): number =>
  sorted[Math.floor((sorted.length - 1) * part)] ?? 0;

const home = newHome();
const claude = await startClaudeDouble({ script: (prompt) => [{ say: `re: ${prompt}` }] });
const ends = await openEnds(transport, home.path);
const running: Running = await start({
  ...ends.env,
  SIGNALMAN_HOME: home.path,
  SIGNALMAN_TOOLS: "off",
  SIGNALMAN_LOG: "info",
  SIGNALMAN_WELCOME: "false",
  SIGNALMAN_DIGEST_AFTER_MESSAGES: "1000",
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
});
await running.state("CONNECTED");

const written = new Map<string, number>();
let answered = 0;
let doubled = 0;
let window: number[] = [];
ends.onSeen(({ text }) => {
  if (!text.startsWith("re: ")) return;
  const at = written.get(text.slice(4));
  if (at === undefined) return void doubled++;
  written.delete(text.slice(4));
  answered++;
  window.push(performance.now() - at);
});

const startedAt = performance.now();
const until = startedAt + minutes * 60_000;
let count = 0;
const since: Record<Who, number> = { self: 0, ann: 0 };
async function people(): Promise<void> {
  for (; performance.now() < until; count++) {
    const who: Who = count % 2 === 0 ? "self" : "ann";
    const text = `${who} ${count}`;
    since[who]++;
    // Not over an open question: /new drops what waits before it.
    if (since[who] >= newEvery && ![...written.keys()].some((open) => open.startsWith(who))) {
      since[who] = 0;
      await ends.write(who, "/new");
    }
    written.set(text, performance.now());
    await ends.write(who, text);
    await sleep(Math.max(0, startedAt + ((count + 1) * 1_000) / rate - performance.now()));
  }
}

const sizeOf = (file: string): number => statSync(join(home.path, file), { throwIfNoEntry: false })?.size ?? 0;
function sample(): Sample {
  const sorted = window.sort((a, b) => a - b);
  window = [];
  const status = readFileSync(`/proc/${running.pid}/status`, "utf8");
  return {
    atMs: performance.now() - startedAt,
    rssMb: Number(/^VmRSS:\s+(\d+)/mu.exec(status)?.[1] ?? 0) / 1_024,
    fds: readdirSync(`/proc/${running.pid}/fd`).length,
    dbMb: (sizeOf("signalman.db") + sizeOf("signalman.db-wal")) / 2 ** 20,
    p50Ms: quantile(sorted, 0.5),
    p95Ms: quantile(sorted, 0.95),
  };
}

const writing = people();
const samples: Sample[] = [];
while (performance.now() < until) {
  await sleep(sampleMs);
  const now = sample();
  samples.push(now);
  console.log(
    `${(now.atMs / 1_000).toFixed(0)} s: ${answered}/${count} answered, ${now.rssMb.toFixed(1)} MB, ${now.fds} fds, db ${now.dbMb.toFixed(1)} MB, p50 ${now.p50Ms.toFixed(0)} ms, p95 ${now.p95Ms.toFixed(0)} ms`,
  );
}
await writing;
for (let waits = 0; written.size > 0 && waits < 600; waits++) await sleep(50);
const { outbox } = await running.status();
const code = await running.stop();
await ends.stop();
await claude.close();

/** The first half warms up: caches fill, the heap finds its size. */
const late = samples.slice(Math.floor(samples.length / 2));
const mean = (numbers: readonly number[]): number => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
/** Least squares, per hour. */
function slope(of: (sample: Sample) => number): number {
  const [x, y] = [mean(late.map(({ atMs }) => atMs)), mean(late.map(of))];
  const over = late.reduce((sum, one) => sum + (one.atMs - x) * (of(one) - y), 0);
  const under = late.reduce((sum, one) => sum + (one.atMs - x) ** 2, 0);
  return under === 0 ? 0 : (over / under) * 3_600_000;
}

const lateHours = ((late.at(-1)?.atMs ?? 0) - (late[0]?.atMs ?? 0)) / 3_600_000;
const rows = [
  ["RSS MB", (one: Sample) => one.rssMb, 0.1],
  ["file descriptors", (one: Sample) => one.fds, 0.1],
  ["p50 ms", (one: Sample) => one.p50Ms, 0.3],
  ["p95 ms", (one: Sample) => one.p95Ms, 0.3],
] as const;
console.log(
  `\n| ${transport}, ${minutes} min at ${rate}/s | first sample | last sample | mean of 2nd half | slope per hour | flat |\n|---|---|---|---|---|---|`,
);
let isFlat = true;
for (const [name, of, allowed] of rows) {
  const perHour = slope(of);
  const average = mean(late.map(of));
  // What the slope adds over the time that was measured, against the mean.
  const isRowFlat = perHour * lateHours <= Math.max(average * allowed, 2);
  isFlat &&= isRowFlat;
  const [first, last] = [samples[0], samples.at(-1)].map((one) => (one ? of(one).toFixed(1) : "-"));
  console.log(
    `| ${name} | ${first} | ${last} | ${average.toFixed(1)} | ${perHour.toFixed(1)} | ${isRowFlat ? "yes" : "NO"} |`,
  );
}
// Done rows are kept for 30 days and the conversation for good: the file grows by messages, never by time.
const grown = (late.at(-1)?.dbMb ?? 0) - (late[0]?.dbMb ?? 0);
console.log(`database: ${((grown * 2 ** 20) / (lateHours * 3_600 * rate)).toFixed(0)} bytes per message and answer`);
console.log(
  `${count} written, ${answered} answered, ${written.size} lost, ${doubled} doubled, ${outbox.uncertain} uncertain, exit ${code}`,
);
home.remove();
process.exit(isFlat && written.size === 0 && doubled === 0 && code === 0 ? 0 : 1);
