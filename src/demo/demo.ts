/**
 * `signalman demo`: everything on this machine, with a simulated phone in this terminal and, without an API key, a simulated Claude
 * that repeats what it is told (the parrot of world.ts). A message that is typed goes phone → Signal → signalman → Claude and back;
 * `/drop` cuts the line. A scratch folder is a project, in which the parrot mends a typo.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clearLine, createInterface, cursorTo } from "node:readline";
import { renderUnicodeCompact } from "uqr";
import { loadConfig, type Config } from "../config.ts";
import type { Millis } from "../core/model.ts";
import { harmless } from "../log.ts";
import type { Daemon } from "../daemon.ts";
import type { Transport } from "../signal/transport.ts";
import { commit } from "../version.ts";
import type { startDemoPhone as StartPhone } from "../../test/doubles/demo-phone.ts";
import { buildTransport, openLink } from "../cli/adapters.ts";
import { depsOf, until, type Cli } from "../cli/io.ts";
import { openDaemon, serve } from "../cli/run.ts";
import { openWorld, type Part, type DemoReply, type World } from "./world.ts";

/** The time that the parrot thinks, and the longer one of a prompt that asks for it. */
const pauseMs: Millis = 300;
const thinkMs: Millis = 2_000;
const dropMs: Millis = 3_000;
const dropSecondsMax = 600;
/** A standard input that is open and silent for this long counts as empty. */
const silentMs: Millis = 1_000;
/** Bounds every wait of the script; no step of the demo takes as long. */
const patienceMs: Millis = 30_000;

type StartDemoPhone = typeof StartPhone;
type DemoPhone = Awaited<ReturnType<StartDemoPhone>>;

/** The phone at the other end. Signalman reaches it by the Signal of `serviceFile`, to which it links by `scan`, or else by `transport`. */
type Phone = Pick<DemoPhone, "write" | "next" | "cut" | "mend" | "close"> &
  Partial<Pick<DemoPhone, "scan" | "serviceFile">> & { readonly transport?: Transport };

/**
 * Opens the phone: from the source on Signal's own mock server with real encryption; in the binary, which does not carry that, on a
 * Signal in memory. `home` is the demo's own folder, removed afterwards.
 */
async function openPhone({ signal }: World, home: string): Promise<Phone> {
  if (commit === "source") {
    // The bundler does not follow a computed name, so that the mock server stays out of the binary.
    const module = ["..", "..", "test", "doubles", "demo-phone.ts"].join("/");
    const { startDemoPhone } = (await import(module)) as { startDemoPhone: StartDemoPhone };
    return startDemoPhone(home);
  }
  const { transport, owner, next, faults } = signal;
  return {
    transport,
    write: async (text) => void owner.write(text),
    next: async () => (await next()).text,
    cut: async () => faults.cut(),
    mend: async () => faults.mend(),
    close: () => Promise.resolve(),
  };
}

type Demo = {
  readonly cli: Cli;
  readonly daemon: Daemon;
  readonly phone: Phone;
  /** The folder of the demo's project. */
  readonly garden: string;
  /** The texts that the phone has shown. */
  readonly heard: readonly string[];
  /** Prints above the line that a person is typing. */
  readonly screen: { print: (text: string) => void };
};

/** Resolves to 0 when the person has left, or the script has been played. @throws Error when an answer did not come */
export async function demo(cli: Cli, options: { readonly script?: true }): Promise<number> {
  const home = mkdtempSync(join(tmpdir(), "signalman-demo-"));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rmSync(home, { recursive: true, force: true }));
  const garden = makeGarden();
  stack.defer(() => rmSync(garden, { recursive: true, force: true }));
  const world = await openWorld(cli.clock, async (prompt, part) => {
    await cli.clock.sleep(/\bslowly\b/iu.test(prompt) ? thinkMs : pauseMs, cli.signal);
    const act = inGarden(prompt, part);
    if (act !== null) return act;
    return `You wrote: ${prompt}\n\nI am a script. With ANTHROPIC_API_KEY set, Claude itself answers.`;
  });
  stack.defer(() => world.close());
  const phone = await openPhone(world, home);
  stack.defer(() => phone.close());
  const signal = phone.serviceFile ? { transport: "native", signalService: phone.serviceFile } : {};
  const own = { listen: "127.0.0.1:0", log: "error", welcome: "false", projects: `garden=${garden}` };
  const flags = { ...own, ...cli.flags, ...signal, home };
  const real = loadConfig({ flags, env: cli.env }).config;
  const isScripted = real.anthropicApiKey === null;
  const { backend: _, ...others } = flags as Readonly<Record<string, string>>;
  const { config } = isScripted
    ? loadConfig({ flags: others, env: { ...cli.env, ...world.claude } })
    : { config: real };
  const who = isScripted ? "a scripted Claude (no ANTHROPIC_API_KEY is set)" : "the real Claude";
  const where = phone.scan ? "Signal's own mock server, a simulated phone" : "a simulated Signal and phone";
  cli.out(`signalman demo: ${where}, ${who}.\n\n`);
  if (phone.scan) await linkPhone(cli, config, phone.scan);
  const deps = depsOf(cli, config, stack, "error");
  const daemon = await openDaemon(deps, async (store) => phone.transport ?? buildTransport(deps, store));
  const server = await serve(deps, daemon);
  const heard: string[] = [];
  const screen = { print: cli.out };
  daemon.notices.on("connection", ({ state, previous }) => {
    if (state.name !== previous.name) screen.print(`        [${previous.name} → ${state.name}]\n`);
  });
  // The end of the line is not printed, since it comes with the end of the demo.
  stack.defer(() => void (screen.print = () => undefined));
  const show = async (): Promise<never> => {
    for (;;) {
      const text = await phone.next();
      // A reaction has no text.
      if (text === "") continue;
      heard.push(text);
      screen.print(`claude> ${harmless(text).replaceAll("\n", "\n        ")}\n`);
    }
  };
  void show().catch(() => undefined);
  if (server) cli.out(`Watch it at ${server.url}/status\n`);
  cli.out("Type as on your phone. /drop [seconds] cuts the line, /quit ends.\n");
  cli.out(`A folder for Claude: /project garden, then “${gardenPrompt}”, and 👍 or yes to what it asks.\n\n`);
  const shown: Demo = { cli, daemon, phone, garden, heard, screen };
  return await (options.script || !(await hasInput(cli)) ? playScript(shown) : converse(shown));
}

async function linkPhone(cli: Cli, config: Config, scan: DemoPhone["scan"]): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const { steps } = await openLink(depsOf(cli, config, stack, "error"));
  for await (const progress of steps("demo", cli.signal)) {
    if (progress.event === "linked") cli.out("The simulated phone scans it: linked.\n\n");
    else {
      cli.out(`${renderUnicodeCompact(progress.url, { border: 1, ecc: "L" })}\n`);
      void scan(progress.url);
    }
  }
}

/** True for a person at the terminal, or lines from a pipe; false for a closed or silent standard input. */
async function hasInput({ clock }: Cli): Promise<boolean> {
  const { stdin } = process;
  if (stdin.isTTY) return true;
  const settled = new AbortController();
  const readable = new Promise<boolean>((resolve) => {
    stdin.once("readable", () => resolve(stdin.readableLength > 0));
    stdin.once("end", () => resolve(false));
  });
  const silent = clock.sleep(silentMs, settled.signal).then(() => false);
  return Promise.race([readable, silent]).finally(() => settled.abort());
}

async function converse(demo: Demo): Promise<number> {
  const { cli, screen, phone, daemon } = demo;
  const isTyped = process.stdin.isTTY && cli.isOutTty;
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: isTyped ? "you> " : "" });
  cli.signal.addEventListener("abort", () => lines.close(), { once: true });
  if (isTyped)
    screen.print = (text) => {
      cursorTo(process.stdout, 0);
      clearLine(process.stdout, 0);
      cli.out(text);
      lines.prompt(true);
    };
  lines.prompt();
  let text = "";
  for await (const line of lines) {
    text = line.trim();
    if (!isTyped) cli.out(`you>    ${text}\n`);
    if (text === "/quit") break;
    const drop = /^\/drop(?:\s+(.*))?$/u.exec(text);
    const seconds = Math.min(dropSecondsMax, Number(drop?.[1] ?? dropMs / 1000));
    if (drop && seconds > 0) void cutFor(demo, seconds * 1000);
    else if (drop) screen.print("        (/drop takes a number of seconds: /drop 5)\n");
    else if (text !== "") await phone.write(text, cli.clock.now());
    lines.prompt();
  }
  lines.close();
  screen.print = cli.out;
  // Ctrl-C and Ctrl-D leave the cursor in the typed line.
  if (isTyped && text !== "/quit") cli.out("\n");
  if (!isTyped) await until(cli, patienceMs, "the last answer", () => isQuiet(daemon));
  return 0;
}

function isQuiet(daemon: Daemon): boolean {
  const { inbox, outbox } = daemon.status();
  return inbox.pending + outbox.pending === 0;
}

async function cutFor({ cli, screen, phone }: Demo, ms: Millis): Promise<void> {
  screen.print(`        (the line is cut for ${ms / 1000} s)\n`);
  await phone.cut();
  await cli.clock.sleep(ms, cli.signal);
  await phone.mend();
  screen.print("        (the line is back)\n");
}

/** Plays a short conversation: a question, the line cut while Claude thinks, a question while it is cut; and a project. */
async function playScript({ cli, daemon, phone, heard, garden }: Demo): Promise<number> {
  const say = async (text: string): Promise<void> => {
    cli.out(`you>    ${text}\n`);
    await phone.write(text, cli.clock.now());
  };
  const comes = (what: string, isSo: () => boolean): Promise<void> => until(cli, patienceMs, what, isSo);
  const isState = (name: string) => () => daemon.status().connection.state === name;
  await comes("the line", isState("CONNECTED"));
  await say("Hello Claude, are you there?");
  await comes("the first answer", () => heard.length === 1);
  await say("Think slowly: what happens while the line is down?");
  await comes("the question at Claude", () => daemon.status().inbox.pending === 1);
  cli.out("        (the line is cut)\n");
  await phone.cut();
  await comes("the loss of the line", isState("DISCONNECTED"));
  await say("This was written while the line was down.");
  await comes("Claude's answer to wait for the line", () => daemon.status().outbox.pending > 0);
  cli.out("        (Claude has answered meanwhile: it waits)\n");
  await phone.mend();
  cli.out("        (the line is back)\n");
  await comes("what was waiting", () => heard.length >= 3);
  await say("/project garden");
  await comes("the project", () => heard.length >= 4);
  await say(gardenPrompt);
  // A yes counts only after Signal has confirmed that the question arrived.
  await comes("Claude's question", () => heard.length >= 5 && daemon.status().outbox.pending === 0);
  await say("👍");
  await comes("the end of the work", () => heard.length >= 6);
  cli.out(`        (README.md begins with: ${titleIn(garden)})\n`);
  await say("/undo");
  await comes("the undo", () => heard.length >= 7);
  cli.out(`        (README.md begins with: ${titleIn(garden)})\n`);
  await comes("an empty outbox", () => isQuiet(daemon));
  const { inbox, outbox, connection } = daemon.status();
  const pending = inbox.pending + outbox.pending;
  cli.out(`\n/status: ${connection.state}, answered ${inbox.answered}, sent ${outbox.sent}, pending ${pending}\n`);
  return 0;
}

// --- the project: a scratch folder with a typo in it

/** Makes the folder, which the caller removes. */
function makeGarden(): string {
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  writeFileSync(join(folder, "README.md"), "# Teh garden\n\nRoses, mostly.\n");
  return folder;
}

/** The first line of the file with the typo. */
const titleIn = (folder: string): string => readFileSync(join(folder, "README.md"), "utf8").split("\n")[0] ?? "";

const gardenPrompt = "Fix the typo in README";

const steps = [
  { tool: "local_read", input: { file_path: "README.md" } },
  { tool: "local_edit", input: { file_path: "README.md", old_string: "Teh garden", new_string: "The garden" } },
  "The title reads “The garden” now. /diff shows it, /undo takes it back.",
] as const;

/** The parrot's next reply or tool use for a prompt about the typo; null where the prompt is about something else. */
function inGarden(prompt: string, { results, hasTools }: Part): DemoReply | null {
  if (!/\btypo\b/iu.test(prompt)) return null;
  if (!hasTools) return "I see no folder here. /project garden opens the one of this demo.";
  if (results.at(-1)?.isError) return "Then I leave it as it is.";
  return steps[Math.min(results.length, steps.length - 1)] ?? null;
}
