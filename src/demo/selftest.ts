/**
 * `signalman selftest`: shows the user that no message is lost or comes twice. The program starts itself as a child in a temporary home,
 * lets people talk to it over loopback, breaks one thing after the other, kills the child, and then compares both ends.
 *
 *   people ─▶ world (world.ts, this process) ◀─▶ the child: `run` as shipped, but for its wire to Signal
 */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { childEnv } from "../child-env.ts";
import { loadConfig } from "../config.ts";
import { toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Status } from "../status/status.ts";
import { ownCommand, toTable, until, type Cli } from "../cli/io.ts";
import { command, fetchStatus } from "../cli/remote.ts";
import { run } from "../cli/run.ts";
import { openWorld, worldTransport, type World } from "./world.ts";

/** The child notices a line that answers and delivers nothing after this long, less than by default, as a person watches. */
const staleAfterMs: Millis = 15_000;
/** The longest wait of a step: a stall is noticed, then the line comes back. */
const patienceMs: Millis = 25_000;
const kills = 10;

/** Runs the child: `run` on the parent's world. */
export const selftestLife = (cli: Cli, _: unknown, url = ""): Promise<number> =>
  run(cli, { openTransport: async () => worldTransport(url, cli.clock), staleAfterMs });

/** The answer has characters of one to four bytes. */
const answerTo = (prompt: string): string => `re: ${prompt} – ż 語 👩‍🚀`;

/** Resolves to 0 when nothing was lost and nothing came twice, else to 1. */
export async function selftest(cli: Cli): Promise<number> {
  await using stack = new AsyncDisposableStack();
  const home = mkdtempSync(join(tmpdir(), "signalman-selftest-"));
  stack.defer(() => rmSync(home, { recursive: true, force: true }));
  const world = await openWorld(cli.clock, answerTo);
  stack.defer(() => world.close());
  const bench = openBench(cli, world, home);
  stack.defer(() => bench.kill());
  const startedAt = cli.clock.monotonic();
  const isBroken = await play(cli, breakEverything(bench));
  if (cli.signal.aborted) return 1;
  const { written, timesSeen } = bench;
  const lost = written.filter((text) => timesSeen(text) === 0);
  const doubled = written.filter((text) => timesSeen(text) > 1);
  const status = await bench.status().catch(() => null);
  const seconds = Math.round((cli.clock.monotonic() - startedAt) / 1_000);
  const row = [written.length, kills, lost.length, doubled.length, status?.outbox.uncertain ?? "?", seconds].map(
    String,
  );
  cli.out(`\n${toTable([["messages", "kills", "lost", "doubled", "uncertain", "seconds"], row])}`);
  for (const text of [...lost, ...doubled]) cli.out(`not answered exactly once: ${text}\n`);
  return isBroken || lost.length + doubled.length > 0 ? 1 : 0;
}

/** Plays the steps, each after its name is printed. Resolves to true where one failed: the rest would tell nothing. */
async function play({ out }: Cli, steps: AsyncIterable<string>): Promise<boolean> {
  let end = "";
  try {
    for await (const name of steps) {
      out(`${end}${name.padEnd(58)} `);
      end = "ok\n";
    }
    out(end);
    return false;
  } catch (error) {
    out(`FAILED: ${toFault(error).message}\n`);
    return true;
  }
}

type Bench = ReturnType<typeof openBench>;

/** Starts the child in its world, with the acts upon it. */
function openBench(cli: Cli, world: World, home: string) {
  const env = childEnv({
    SIGNALMAN_HOME: home,
    SIGNALMAN_LISTEN: "127.0.0.1:0",
    SIGNALMAN_LOG: "error",
    SIGNALMAN_WELCOME: "false",
    ...world.claude,
  });
  const { config } = loadConfig({ flags: {}, env });
  const { faults, owner, screen } = world.signal;
  const written: string[] = [];
  let child: ChildProcess;
  const live = (): void => {
    const [program, ...args] = [...ownCommand, "selftest-life", world.url];
    child = spawn(program, args, { env, stdio: ["ignore", "ignore", "inherit"] });
  };
  live();

  const status = (): Promise<Status> => fetchStatus(config, cli.signal);
  const comes = (what: string, isSo: () => boolean | Promise<boolean>): Promise<void> =>
    until(cli, patienceMs, what, isSo);
  const timesSeen = (prompt: string): number => screen().filter(({ text }) => text === answerTo(prompt)).length;
  const write = (): void => {
    written.push(`message ${written.length + 1}`);
    owner.write(written.at(-1) ?? "");
  };
  const answered = (): Promise<void> => comes("the answers", () => written.every((text) => timesSeen(text) > 0));
  return {
    cli,
    faults,
    failClaude: world.failClaude,
    written,
    live,
    status,
    comes,
    timesSeen,
    write,
    answered,
    reconnect: () => command(config, "reconnect", {}, cli.signal),
    async ask(): Promise<void> {
      write();
      await answered();
    },
    reaches: (name: string, code: string | null = null): Promise<void> =>
      comes(`${name} ${code ?? ""}`, async () => {
        const { state, fault } = (await status()).connection;
        return state === name && (code === null || fault?.code === code);
      }),
    async kill(): Promise<void> {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "close");
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** Breaks one thing after the other, each step with the end that it must have. */
async function* breakEverything(bench: Bench): AsyncGenerator<string> {
  const { cli, faults, failClaude, reaches, comes, status, write, answered, ask, reconnect, kill, live } = bench;

  yield "a conversation; Claude's stream split inside characters";
  await reaches("CONNECTED");
  await ask();

  yield "the line to Signal is cut, a message is written meanwhile";
  faults.cut();
  await reaches("DISCONNECTED", "signal_unreachable");
  write();
  faults.mend();
  await answered();

  yield "Signal answers, and delivers nothing (noticed after 15 s)";
  faults.hang();
  write();
  await reaches("DISCONNECTED", "stalled");
  faults.release();
  await answered();

  yield "acknowledgements and answers of Signal get lost";
  faults.loseAcks(2);
  faults.loseAnswers(2);
  await ask();
  await ask();

  yield "Claude limits the rate (429), then fails (500, 529)";
  failClaude({ status: 429, retryAfterSeconds: 1 }, { status: 500 });
  await ask();
  failClaude({ status: 529 });
  await ask();

  yield "Claude's stream breaks off in the middle";
  failClaude("cut");
  await ask();

  yield "Signal asks for a captcha; it is solved";
  faults.refuseSends("captcha");
  write();
  await comes("the captcha", async () => (await status()).outbox.fault?.code === "captcha");
  await reconnect();
  await answered();

  yield "the device is unlinked, and linked again";
  faults.unlink();
  await reaches("DISCONNECTED", "unlinked");
  write();
  faults.relink();
  await reconnect();
  await answered();

  yield `signalman is killed ${kills} times (SIGKILL) while people write`;
  for (let times = 0; times < kills; times++) {
    write();
    write();
    await cli.clock.sleep(30 + cli.random() * 600, cli.signal);
    await kill();
    live();
  }
  await answered();

  yield "in the end everything is done, and nothing waits";
  await comes("the end", async () => {
    const { connection, inbox, outbox } = await status();
    return connection.state === "CONNECTED" && inbox.pending + outbox.pending === 0;
  });
}
