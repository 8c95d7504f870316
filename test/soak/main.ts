/**
 * `bun test/soak/main.ts --minutes 20 --rate 20 [--transport native|signal-cli|rest]`: the compiled binary under a steady load
 * over loopback, measured from outside. Prints a line per sample, a table, and last one line that sums it up; exit code 1 where
 * something grows that must not, an answer is missing, or it does not end in time. Linux only: it reads /proc.
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
const load = `${transport}, ${minutes} min at ${rate}/s`;
const sampleMs = 5_000;
/** The start, and the last answers. */
const spareMs = 120_000;
/** A person starts over now and then; no person has a conversation of thousands of turns. */
const newEvery = 100;
/** What stays of a message and its answer, for 30 days, and of the conversation, for good. */
const bytesPerMessageMax = 10_000;

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const home = newHome();
let running: Running | null = null;
const giveUp = (why: string): never => {
  console.log(`SOAK FAILED (${load}): ${why}`);
  if (running) process.kill(running.pid, "SIGKILL");
  home.remove();
  process.exit(1);
};
setTimeout(() => giveUp("it did not end in time"), minutes * 60_000 + spareMs);

const claude = await startClaudeDouble({ script: (prompt) => [{ say: `re: ${prompt}` }] });
const ends = await openEnds(transport, home.path);
running = await start({
  ...ends.env,
  SIGNALMAN_HOME: home.path,
  SIGNALMAN_TOOLS: "off",
  SIGNALMAN_LOG: "info",
  SIGNALMAN_WELCOME: "false",
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
});
const { pid } = running;
let isStopping = false;
void running.exited.then((code) => isStopping || giveUp(`the binary ended by itself with ${code}`));
await running.state("CONNECTED");

const written = new Map<string, number>();
const seen = { answered: 0, doubled: 0, latencies: [] as number[] };
ends.onSeen(({ text }) => {
  if (!text.startsWith("re: ")) return;
  const at = written.get(text.slice(4));
  if (at === undefined) return void seen.doubled++;
  written.delete(text.slice(4));
  seen.answered++;
  seen.latencies.push(performance.now() - at);
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

const columns = ["RSS MB", "file descriptors", "database MB", "p50 ms", "p95 ms"] as const;
type Sample = { readonly atMs: number } & { readonly [K in (typeof columns)[number]]: number };
const sizeOf = (file: string): number => statSync(join(home.path, file), { throwIfNoEntry: false })?.size ?? 0;
function sample(): Sample {
  const sorted = seen.latencies.splice(0).sort((a, b) => a - b);
  const quantile = (part: number): number => sorted[Math.floor((sorted.length - 1) * part)] ?? 0;
  return {
    atMs: performance.now() - startedAt,
    "RSS MB": Number(/^VmRSS:\s+(\d+)/mu.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0) / 1_024,
    "file descriptors": readdirSync(`/proc/${pid}/fd`).length,
    "database MB": (sizeOf("signalman.db") + sizeOf("signalman.db-wal")) / 2 ** 20,
    "p50 ms": quantile(0.5),
    "p95 ms": quantile(0.95),
  };
}

const writing = people();
const samples: Sample[] = [];
while (performance.now() < until) {
  await sleep(Math.min(sampleMs, until - performance.now() + 1));
  const now = sample();
  samples.push(now);
  const numbers = columns.map((column) => `${column} ${now[column].toFixed(1)}`);
  console.log(`${(now.atMs / 1_000).toFixed(0)} s: ${seen.answered}/${count} answered, ${numbers.join(", ")}`);
}
await writing;
for (let waits = 0; written.size > 0 && waits < 600; waits++) await sleep(50);
const { outbox } = await running.status();
isStopping = true;
const code = await running.stop();
await ends.stop();
await claude.close();

/** The first half warms up: caches fill, the heap finds its size. */
const late = samples.slice(Math.floor(samples.length / 2));
const mean = (numbers: readonly number[]): number => numbers.reduce((sum, number) => sum + number, 0) / numbers.length;
const lateHours = ((late.at(-1)?.atMs ?? 0) - (late[0]?.atMs ?? 0)) / 3_600_000;
/** Least squares, per hour. */
function slope(column: (typeof columns)[number]): number {
  const [x, y] = [mean(late.map(({ atMs }) => atMs)), mean(late.map((one) => one[column]))];
  const over = late.reduce((sum, one) => sum + (one.atMs - x) * (one[column] - y), 0);
  const under = late.reduce((sum, one) => sum + (one.atMs - x) ** 2, 0);
  return under === 0 ? 0 : (over / under) * 3_600_000;
}

console.log(`\n| ${load} | first | last | mean of 2nd half | slope per hour | flat |\n|---|---|---|---|---|---|`);
const growing = columns.filter((column) => {
  const [perHour, average] = [slope(column), mean(late.map((one) => one[column]))];
  // What the slope adds over the time that was measured. The database grows by messages, never by time.
  const bound = column.endsWith("ms") ? Math.max(average * 0.3, 2) : Math.max(average * 0.1, 2);
  const isFlat =
    perHour * lateHours <=
    (column === "database MB" ? (lateHours * 3_600 * rate * bytesPerMessageMax) / 2 ** 20 : bound);
  const [first, last] = [samples[0], samples.at(-1)].map((one) => one?.[column].toFixed(1) ?? "-");
  console.log(
    `| ${column} | ${first} | ${last} | ${average.toFixed(1)} | ${perHour.toFixed(1)} | ${isFlat ? "yes" : "NO"} |`,
  );
  return !isFlat;
});
const bytes = (slope("database MB") * 2 ** 20) / (3_600 * rate);
const isGood = growing.length === 0 && written.size === 0 && seen.doubled === 0 && code === 0;
console.log(
  `SOAK ${isGood ? "passed" : "FAILED"} (${load}): ${count} written, ${seen.answered} answered, ${written.size} lost, ` +
    `${seen.doubled} doubled, ${outbox.uncertain} uncertain, ${growing.length === 0 ? "nothing grows" : `growing: ${growing.join(", ")}`}, ` +
    `database ${bytes.toFixed(0)} bytes per message and answer, exit ${code}`,
);
home.remove();
process.exit(isGood ? 0 : 1);
