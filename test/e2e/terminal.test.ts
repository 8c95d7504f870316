/** What a person at a real terminal meets: the program on a pseudo-terminal, keys pressed when the screen asks for them. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { join } from "node:path";
import type { Status } from "../../src/status/status.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { openNotes } from "../doubles/phone.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { command, newHome, runOnce, type Home } from "./harness.ts";

const enter = "\r";
const down = "\u001b[B";
const ctrlC = "\u0003";

/** Select Graphic Rendition: what makes text coloured. */
const colour = /\[(?:\d+;)*3\dm/u;

let home: Home;
let claude: ClaudeDouble;
beforeEach(async () => {
  home = newHome();
  claude = await startClaudeDouble();
});
afterEach(async () => {
  await claude.close();
  home.remove();
});

/** Starts the program; `shows` resolves when the screen, after what was waited for already, has this text. */
function openTerminal(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  let raw = "";
  let screen = "";
  let seen = 0;
  let changed = Promise.withResolvers<void>();
  const child = Bun.spawn([...command, ...args], {
    env: {
      PATH: process.env["PATH"],
      HOME: home.path,
      TERM: "xterm-256color",
      SIGNALMAN_HOME: join(home.path, "home"),
      ...env,
    },
    terminal: {
      cols: 100,
      rows: 40,
      data(_, piece) {
        const text = new TextDecoder().decode(piece);
        raw += text;
        screen += stripVTControlCharacters(text);
        changed.resolve();
        changed = Promise.withResolvers();
      },
    },
  });
  return {
    exited: child.exited,
    screen: () => screen,
    raw: () => raw,
    /** The first text like this on the whole screen. */
    async find(pattern: RegExp): Promise<string> {
      for (;;) {
        const [found] = pattern.exec(screen) ?? [];
        if (found !== undefined) return found;
        await changed.promise;
      }
    },
    press: (...keys: string[]) => child.terminal?.write(keys.join("")),
    async shows(text: string): Promise<void> {
      while (!screen.includes(text, seen)) {
        const isOver = await Promise.race([changed.promise, child.exited.then(() => true)]);
        if (isOver && !screen.includes(text, seen)) throw new Error(`It ended without "${text}":\n${screen}`);
      }
      seen = screen.indexOf(text, seen) + text.length;
    },
  };
}

test("from nothing to the first answer: questions, a refused key, the code, a word in Note to Self, an answer; and nothing twice", async () => {
  const signal = await startSignalMock();
  try {
    const service = await signal.writeService(join(home.path, "service.json"));
    const env = { ANTHROPIC_BASE_URL: claude.url, SIGNALMAN_SIGNAL_SERVICE: service, SIGNALMAN_TOOLS: "off" };
    const first = openTerminal([], { ...env, SIGNALMAN_LISTEN: "127.0.0.1:0" });
    await first.shows("How to reach Signal?");
    first.press(enter);
    await first.shows("Who may write to Claude?");
    first.press(enter);
    await first.shows("Your key for the Claude API");
    first.press("sk-ant-wrong", enter);
    await first.shows("Copy the whole key");
    await first.shows("Your key for the Claude API");
    first.press(claude.apiKey, enter);
    await first.shows("The key is good.");
    await first.shows("Scan it with the phone");
    const url = await first.find(/sgnl:\S+(?=\r)/u);
    const phone = openNotes(signal, await signal.scan(url));
    await first.shows("Linked to +1");
    await first.shows("Signal rings for nothing there");
    expect(await phone.next()).toStartWith("🤖 Hello from signalman");
    await phone.write("what is the capital of Peru?");
    expect(await phone.next()).toContain("what is the capital of Peru?");
    first.press(ctrlC);
    expect(await first.exited).toBe(0);
    expect(first.screen()).not.toContain(claude.apiKey);
    const file = join(home.path, "home/config.toml");
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(Bun.TOML.parse(readFileSync(file, "utf8"))).toEqual({
      transport: "native",
      allow: "self",
      mark: "🤖",
      anthropic_api_key: claude.apiKey,
    });
    const second = openTerminal([], { ...env, SIGNALMAN_LISTEN: "127.0.0.1:0" });
    await second.shows("CONNECTED");
    second.press(ctrlC);
    expect(await second.exited).toBe(0);
    expect(second.screen()).not.toMatch(/Welcome|Scan it/u);
  } finally {
    await signal.stop();
  }
});

test("a daemon of signal-cli: what cannot be is explained; NO_COLOR is heard", async () => {
  const terminal = openTerminal([], {
    NO_COLOR: "1",
    ANTHROPIC_API_KEY: claude.apiKey,
    ANTHROPIC_BASE_URL: claude.url,
  });
  await terminal.shows("How to reach Signal?");
  terminal.press(down, down, enter);
  await terminal.shows("Its URL?");
  terminal.press(enter);
  await terminal.shows("The number of its account");
  terminal.press("5550100", enter);
  await terminal.shows("country code");
  terminal.press("\u007f".repeat(7), "+1 555 010-0001", enter);
  await terminal.shows("Who may write to Claude?");
  terminal.press(down, enter);
  await terminal.shows("Their numbers");
  terminal.press("+1 (555) 010-0002", enter);
  await terminal.shows("The key is good.");
  const shownAt = terminal.raw().length;
  await terminal.shows("signalman starts");
  terminal.press(ctrlC);
  expect(await terminal.exited).toBe(0);
  expect(terminal.raw().slice(shownAt)).not.toMatch(colour);
  expect(Bun.TOML.parse(readFileSync(join(home.path, "home/config.toml"), "utf8"))).toEqual({
    transport: "rest",
    signal_url: "http://127.0.0.1:8080",
    account: "+1 555 010-0001",
    allow: "self,+15550100002",
    mark: "🤖",
  });
});

test("Ctrl-C at a question leaves with 130, and nothing is written", async () => {
  const terminal = openTerminal([]);
  await terminal.shows("How to reach Signal?");
  terminal.press(enter);
  await terminal.shows("Who may write to Claude?");
  terminal.press(ctrlC);
  expect(await terminal.exited).toBe(130);
  expect(existsSync(join(home.path, "home"))).toBe(false);
});

test("demo: what arrives goes above the line that is being typed, and the line is sent whole; a folder is worked on", async () => {
  const terminal = openTerminal(["demo", "--log", "error"]);
  await terminal.shows("→ CONNECTED]");
  terminal.press("/drop 1\r");
  await terminal.shows("→ DISCONNECTED]");
  terminal.press("half a ");
  await terminal.shows("→ CONNECTED]");
  await terminal.shows("you> half a ");
  terminal.press("line\r");
  await terminal.shows("claude> You wrote: half a line");
  terminal.press("fix the typo\r");
  await terminal.shows("/project garden opens");
  terminal.press("/project garden\r");
  await terminal.shows("claude> Project garden");
  terminal.press("fix the typo\r");
  await terminal.shows("+# The garden");
  await terminal.shows("for an hour without asking.");
  // A yes counts once it is known that the question arrived.
  const url = await terminal.find(/http:\S+\/status/u);
  const pending = async (): Promise<number> => ((await (await fetch(url)).json()) as Status).outbox.pending;
  while ((await pending()) > 0);
  terminal.press("yes\r");
  await terminal.shows("claude> The title reads");
  terminal.press("/undo\r");
  await terminal.shows("claude> Taken back: README.md.");
  terminal.press("/quit\r");
  expect(await terminal.exited).toBe(0);
});

test("demo --script: the line is cut and mended, and a typo in a folder is mended and brought back", async () => {
  const { code, out } = await runOnce(["demo", "--script"]);
  expect(code).toBe(0);
  const inOrder = [
    "→ CONNECTED]",
    "(the line is cut)",
    "(the line is back)",
    "claude> You wrote: This was written while the line was down.",
    "claude> Project garden",
    "+# The garden",
    "you>    👍",
    "(README.md begins with: # The garden)",
    "claude> Taken back: README.md.",
    "(README.md begins with: # Teh garden)",
    "/status: CONNECTED, answered 4, sent 7, pending 0",
  ];
  const places = inOrder.map((text) => out.indexOf(text));
  expect(places).toEqual(places.toSorted((a, b) => a - b));
  expect(places).not.toContain(-1);
});
