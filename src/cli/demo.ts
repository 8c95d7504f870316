/**
 * `signalman demo`: everything on this machine, with a simulated phone in this terminal and, without an API key, a scripted
 * Claude. You type; the message goes phone → Signal → signalman → Claude and back; `/drop` cuts the line.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clearLine, createInterface, cursorTo } from "node:readline";
import { randomUUID } from "node:crypto";
import { createScriptedClaude, type ScriptedClaude } from "../claude/scripted.ts";
import { loadConfig, type Config } from "../config.ts";
import type { Millis } from "../core/model.ts";
import { startDaemon, type Daemon } from "../daemon.ts";
import { startLog } from "../log.ts";
import { buildBackend } from "./adapters.ts";
import { openStage, type Stage } from "./demo-stage.ts";
import type { Flags, Io } from "./io.ts";
import { serve } from "./run.ts";

/** What is printed while a person types goes above the line that is being typed. */
type Screen = { print: (text: string) => void };
type Demo = {
  readonly io: Io;
  readonly screen: Screen;
  readonly daemon: Daemon;
  readonly stage: Stage;
  readonly claude: ScriptedClaude | null;
};

const dropMs: Millis = 3_000;
const dropMsMax: Millis = 600_000;
/** A standard input that is open and says nothing for so long has nothing to say. */
const silentMs: Millis = 1_000;
/** Nothing in the demo takes longer than this; it is the bound of every wait of the script. */
const patienceMs: Millis = 30_000;

/** Resolves to 0 when the person has left, or the script has been played; to 1 when an answer did not come. */
export async function demo(io: Io, flags: Flags, options: { script?: true }): Promise<number> {
  const home = mkdtempSync(join(tmpdir(), "signalman-demo-"));
  const stage = await openStage(io, home);
  const all = { listen: "127.0.0.1:0", log: "error", welcome: "false", ...flags, ...stage.flags, home };
  const { config } = loadConfig({ flags: all, env: io.env });
  const screen: Screen = { print: io.out };
  const claude = config.anthropicApiKey === null ? createScriptedClaude({ clock: io.clock }) : null;
  try {
    introduce(io, stage, claude);
    await stage.link(config, { log: quietLog(io), clock: io.clock, random: io.random });
    const daemon = await start(io, screen, config, stage, claude);
    const server = await serve(config, daemon, io, quietLog(io));
    try {
      if (server) io.out(`Watch it at ${server.url}/status\n`);
      io.out("Type as on your phone. /drop [seconds] cuts the line, /quit ends.\n\n");
      const shown: Demo = { io, screen, daemon, stage, claude };
      return await (options.script || !(await hasInput(io)) ? playScript(shown) : converse(shown));
    } finally {
      await daemon.stop();
      await server?.stop();
    }
  } finally {
    await stage.close();
    rmSync(home, { recursive: true, force: true });
  }
}

const quietLog = (io: Io) => startLog({ level: "error", isPretty: io.isErrTty, write: io.err });

async function start(
  io: Io,
  screen: Screen,
  config: Config,
  stage: Stage,
  claude: ScriptedClaude | null,
): Promise<Daemon> {
  const deps = { log: quietLog(io), clock: io.clock, random: io.random };
  const daemon = await startDaemon(config, {
    ...deps,
    networkKey: () => "",
    newId: randomUUID,
    buildTransport: (store) => stage.buildTransport(config, store, deps),
    buildBackend: (store) => (claude ? Promise.resolve(claude.backend) : buildBackend(config, store, deps)),
  });
  daemon.notices.on("connection", ({ state, previous }) => {
    if (state.name !== previous.name) screen.print(`        [${previous.name} → ${state.name}]\n`);
  });
  stage.onMessage((text) => screen.print(`claude> ${text.replaceAll("\n", "\n        ")}\n`));
  return daemon;
}

function introduce(io: Io, stage: Stage, claude: ScriptedClaude | null): void {
  const who = claude ? "a scripted Claude (no ANTHROPIC_API_KEY is set)" : "the real Claude";
  io.out(`signalman demo: ${stage.title}, ${who}.\n\n`);
}

/** A person at the terminal, or lines from a pipe; not a closed or silent standard input. */
async function hasInput(io: Io): Promise<boolean> {
  const { stdin } = process;
  if (stdin.isTTY) return true;
  const settled = new AbortController();
  const readable = new Promise<boolean>((resolve) => {
    stdin.once("readable", () => resolve(stdin.readableLength > 0));
    stdin.once("end", () => resolve(false));
  });
  const silent = io.clock.sleep(silentMs, settled.signal).then(() => false);
  return Promise.race([readable, silent]).finally(() => settled.abort());
}

async function converse({ io, screen, stage, daemon }: Demo): Promise<number> {
  const isTyped = process.stdin.isTTY && io.isOutTty;
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: isTyped ? "you> " : "" });
  io.signal.addEventListener("abort", () => lines.close(), { once: true });
  const above = (text: string): void => {
    cursorTo(process.stdout, 0);
    clearLine(process.stdout, 0);
    io.out(text);
    lines.prompt(true);
  };
  if (isTyped) screen.print = above;
  lines.prompt();
  for await (const line of lines) {
    const text = line.trim();
    if (!isTyped) io.out(`you>    ${text}\n`);
    if (text === "/quit") break;
    const drop = /^\/drop(?:\s+(\d+))?$/u.exec(text);
    if (drop) void cutFor(io, screen, stage, Math.min(dropMsMax, drop[1] ? Number(drop[1]) * 1000 : dropMs));
    else if (text !== "") await stage.write(text);
    lines.prompt();
  }
  lines.close();
  screen.print = io.out;
  const isQuiet = (): boolean => daemon.status().inbox.pending + daemon.status().outbox.pending === 0;
  if (!isTyped) await until(io, "the last answer", isQuiet);
  return 0;
}

async function cutFor(io: Io, screen: Screen, stage: Stage, ms: Millis): Promise<void> {
  screen.print(`        (the line is cut for ${ms / 1000} s)\n`);
  await stage.cut();
  await io.clock.sleep(ms, io.signal);
  await stage.mend();
  screen.print("        (the line is back)\n");
}

async function until(io: Io, what: string, isDone: () => boolean): Promise<void> {
  const deadline = io.clock.monotonic() + patienceMs;
  while (!isDone()) {
    if (io.clock.monotonic() > deadline || io.signal.aborted) throw new Error(`The demo waited in vain for ${what}`);
    await io.clock.sleep(20);
  }
}

/** A short conversation by itself: a question, the line cut, Claude speaking meanwhile, a question while it is cut. */
async function playScript(demo: Demo): Promise<number> {
  const { io, daemon, stage, claude } = demo;
  const heard: string[] = [];
  stage.onMessage((text) => heard.push(text));
  const say = async (text: string): Promise<void> => {
    io.out(`you>    ${text}\n`);
    await stage.write(text);
  };
  const isState = (name: string) => () => daemon.status().connection.state === name;
  await until(io, "the line", isState("CONNECTED"));
  await say("Hello Claude, are you there?");
  await until(io, "the first answer", () => heard.length === 1);
  io.out("        (the line is cut)\n");
  await stage.cut();
  await until(io, "the loss of the line", isState("DISCONNECTED"));
  const session = claude?.world.sessions()[0];
  if (session) claude.world.say(session.id, "I kept thinking while your line was down.");
  await say("This was written while the line was down.");
  await io.clock.sleep(500);
  await stage.mend();
  io.out("        (the line is back)\n");
  await until(io, "what was waiting", () => heard.length === (claude ? 3 : 2));
  await until(io, "an empty outbox", () => daemon.status().outbox.pending === 0);
  const { inbox, outbox, connection } = daemon.status();
  io.out(
    `\n/status: ${connection.state}, answered ${inbox.answered}, sent ${outbox.sent}, pending ${inbox.pending + outbox.pending}\n`,
  );
  return 0;
}
