/**
 * `signalman selftest`: keeps the promise before the user's eyes. The program starts itself as a child in a temporary home, lets
 * people talk to it over loopback, breaks one thing after the other, kills it, and then compares both ends.
 *
 *   people ─▶ world (selftest-world.ts, this process) ◀─▶ the child: `run` as shipped, but for its wire to Signal
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { loadConfig, type Config } from "../config.ts";
import type { Millis } from "../core/model.ts";
import type { Status } from "../status/status.ts";
import { toTable, type Flags, type Io } from "./io.ts";
import { command, fetchStatus } from "./remote.ts";
import { run } from "./run.ts";
import { answerTo, openSelftestWorld, selftestTransport, type SelftestWorld } from "./selftest-world.ts";

type Bench = {
  readonly io: Io;
  readonly world: SelftestWorld;
  readonly config: Config;
  readonly written: string[];
  child: ChildProcess;
};

/** Longest wait for one thing: a stall is noticed after 15 s, then the line comes back. */
const patienceMs: Millis = 25_000;
const lookMs: Millis = 25;
const kills = 10;

/** The child: `run` on the parent's world. */
export const selftestLife = (io: Io, flags: Flags, url: string): Promise<number> =>
  run(io, flags, () => Promise.resolve(selftestTransport(url)));

/** Resolves to 0 when nothing was lost and nothing came twice, else to 1. */
export async function selftest(io: Io): Promise<number> {
  const home = mkdtempSync(join(tmpdir(), "signalman-selftest-"));
  const world = await openSelftestWorld(io.clock);
  const { config } = loadConfig({ flags: flagsOf(home), env: {} });
  const bench: Bench = { io, world, config, written: [], child: live(config, world) };
  const startedAt = io.clock.monotonic();
  let failed = 0;
  try {
    for (const [name, play] of Object.entries(steps)) {
      io.out(`${name.padEnd(58)} `);
      const wrong = await play(bench).then(
        () => null,
        (error: unknown) => (error instanceof Error ? error.message : String(error)),
      );
      io.out(wrong === null ? "ok\n" : `FAILED: ${wrong}\n`);
      if (wrong !== null) failed++;
      if (io.signal.aborted) return 1;
    }
    const { lost, doubled } = compare(bench);
    const { outbox } = await statusOf(bench);
    const seconds = ((io.clock.monotonic() - startedAt) / 1_000).toFixed(0);
    const row = [bench.written.length, kills, lost.length, doubled.length, outbox.uncertain, seconds].map(String);
    io.out(`\n${toTable([["messages", "kills", "lost", "doubled", "uncertain", "seconds"], row])}`);
    for (const text of [...lost, ...doubled]) io.out(`not answered exactly once: ${text}\n`);
    return failed + lost.length + doubled.length === 0 ? 0 : 1;
  } finally {
    await kill(bench);
    await world.close();
    rmSync(home, { recursive: true, force: true });
  }
}

const flagsOf = (home: string): Flags => ({
  home,
  backend: "messages",
  listen: "127.0.0.1:0",
  log: "error",
  staleAfterMs: "15000",
  welcome: "false",
});

/** Runs this program again, whether it is the binary or the source under a runtime. */
function live(config: Config, { url }: SelftestWorld): ChildProcess {
  const [, runtime] = /(?:^|[\\/])(bun|deno|node)(?:\.exe)?$/u.exec(process.execPath) ?? [];
  const script = runtime === undefined ? [] : [process.argv[1] ?? ""];
  const before = runtime === "deno" ? ["run", "-A", ...script] : script;
  const own = Object.entries(process.env).filter(([name]) => !/^(?:SIGNALMAN|ANTHROPIC)_/u.test(name));
  const { home: _home, ...flags } = flagsOf(config.home);
  const settings = Object.entries(flags).map(([key, value]) => [
    `SIGNALMAN_${key.replace(/[A-Z]/gu, (letter) => `_${letter}`).toUpperCase()}`,
    value,
  ]);
  const claude = { ANTHROPIC_API_KEY: "selftest", ANTHROPIC_BASE_URL: url };
  const env = { ...Object.fromEntries([...own, ...settings]), ...claude, SIGNALMAN_HOME: config.home };
  return spawn(process.execPath, [...before, "selftest", "--life", url], {
    env,
    stdio: ["ignore", "ignore", "inherit"],
  });
}

async function kill(bench: Bench): Promise<void> {
  const { child } = bench;
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
  child.kill("SIGKILL");
  await ended;
}

const statusOf = async ({ config, io }: Bench): Promise<Status> => (await fetchStatus(config, io.signal)) as Status;

async function until(bench: Bench, what: string, isDone: () => boolean | Promise<boolean>): Promise<void> {
  const { clock, signal } = bench.io;
  const deadline = clock.monotonic() + patienceMs;
  // A child that has just been started does not answer yet.
  while (!(await Promise.resolve(isDone()).catch(() => false))) {
    if (signal.aborted || clock.monotonic() > deadline) throw new Error(`waited in vain for ${what}`);
    await clock.sleep(lookMs, signal);
  }
}

const untilState = (bench: Bench, name: string, code: string | null = null): Promise<void> =>
  until(bench, `${name} ${code ?? ""}`, async () => {
    const { state, fault } = (await statusOf(bench)).connection;
    return state === name && (code === null || fault?.code === code);
  });

function write(bench: Bench): string {
  const text = `message ${bench.written.length + 1}`;
  bench.written.push(text);
  bench.world.signal.owner.write(text);
  return text;
}

const timesSeen = ({ world }: Bench, prompt: string): number =>
  world.signal.screen().filter(({ text }) => text === answerTo(prompt)).length;

const untilAnswered = (bench: Bench): Promise<void> =>
  until(bench, "the answers", () => bench.written.every((text) => timesSeen(bench, text) > 0));

const compare = (bench: Bench) => ({
  lost: bench.written.filter((text) => timesSeen(bench, text) === 0),
  doubled: bench.written.filter((text) => timesSeen(bench, text) > 1),
});

const reconnect = ({ config, io }: Bench): Promise<void> => command(config, "reconnect", {}, io.signal);

async function ask(bench: Bench): Promise<void> {
  write(bench);
  await untilAnswered(bench);
}

/** What is broken, in this order, and how it must end. */
const steps: Readonly<Record<string, (bench: Bench) => Promise<void>>> = {
  "a conversation; Claude's stream split inside characters": async (bench) => {
    await untilState(bench, "CONNECTED");
    await ask(bench);
  },
  "the line to Signal is cut, a message is written meanwhile": async (bench) => {
    const { faults } = bench.world.signal;
    faults.cut();
    await untilState(bench, "DISCONNECTED", "signal_unreachable");
    write(bench);
    faults.mend();
    await untilAnswered(bench);
  },
  "Signal answers, and delivers nothing (noticed after 15 s)": async (bench) => {
    const { faults } = bench.world.signal;
    faults.hang();
    write(bench);
    await untilState(bench, "DISCONNECTED", "stalled");
    faults.release();
    await untilAnswered(bench);
  },
  "acknowledgements and answers of Signal get lost": async (bench) => {
    const { faults } = bench.world.signal;
    faults.loseAcks(2);
    faults.loseAnswers(2);
    await ask(bench);
    await ask(bench);
  },
  "Claude limits the rate (429), then fails (500, 529)": async (bench) => {
    bench.world.failClaude({ status: 429, retryAfterSeconds: 1 }, { status: 500 });
    await ask(bench);
    bench.world.failClaude({ status: 529 });
    await ask(bench);
  },
  "Claude's stream breaks off in the middle": async (bench) => {
    bench.world.failClaude("cut");
    await ask(bench);
  },
  "Signal asks for a captcha; it is solved": async (bench) => {
    bench.world.signal.faults.refuseSends("captcha");
    write(bench);
    await until(bench, "the captcha", async () => (await statusOf(bench)).outbox.fault?.code === "captcha");
    await reconnect(bench);
    await untilAnswered(bench);
  },
  "the device is unlinked, and linked again": async (bench) => {
    const { faults } = bench.world.signal;
    faults.unlink();
    await untilState(bench, "DISCONNECTED", "unlinked");
    write(bench);
    faults.relink();
    await reconnect(bench);
    await untilAnswered(bench);
  },
  [`signalman is killed ${kills} times (SIGKILL) while people write`]: async (bench) => {
    const { clock, random, signal } = bench.io;
    for (let times = 0; times < kills; times++) {
      write(bench);
      write(bench);
      await clock.sleep(30 + random() * 600, signal);
      await kill(bench);
      bench.child = live(bench.config, bench.world);
    }
    await untilAnswered(bench);
  },
  "in the end everything is done, and nothing waits": (bench) =>
    until(bench, "the end", async () => {
      const { connection, inbox, outbox } = await statusOf(bench);
      return connection.state === "CONNECTED" && inbox.pending + outbox.pending === 0;
    }),
};
