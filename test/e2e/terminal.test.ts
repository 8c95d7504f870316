/** What a person at a real terminal meets: the program on a pseudo-terminal, keys pressed when the screen asks for them. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, readFileSync, statSync } from "node:fs";
import { stripVTControlCharacters } from "node:util";
import { join } from "node:path";
import { command, newHome, type Home } from "./harness.ts";

const enter = "\r";
const down = "\u001b[B";
const ctrlC = "\u0003";

let home: Home;
beforeEach(() => void (home = newHome()));
afterEach(() => home.remove());

/** Starts the program; `shows` resolves when the screen, after what was waited for already, has this text. */
function openTerminal(args: readonly string[]) {
  let screen = "";
  let seen = 0;
  let changed = Promise.withResolvers<void>();
  const child = Bun.spawn([...command, ...args], {
    env: {
      PATH: process.env["PATH"],
      HOME: home.path,
      TERM: "xterm-256color",
      SIGNALMAN_HOME: join(home.path, "home"),
    },
    terminal: {
      cols: 100,
      rows: 40,
      data(_, piece) {
        screen += stripVTControlCharacters(new TextDecoder().decode(piece));
        changed.resolve();
        changed = Promise.withResolvers();
      },
    },
  });
  return {
    exited: child.exited,
    screen: () => screen,
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

test("the first start asks, explains what cannot be, writes a private config.toml, and is not asked again", async () => {
  const first = openTerminal([]);
  await first.shows("How to reach Signal?");
  first.press(down, down, enter);
  await first.shows("Its URL?");
  first.press(enter);
  await first.shows("The number of its account");
  first.press("5550100", enter);
  await first.shows("international form");
  first.press("\u007f".repeat(7), "+15550100001", enter);
  await first.shows("Who may write to Claude?");
  first.press(enter);
  await first.shows("Your key for the Claude API?");
  first.press("sk-ant-invented", enter);
  await first.shows("It is not asked again.");
  await first.shows("signalman starts");
  first.press(ctrlC);
  expect(await first.exited).toBe(0);
  expect(first.screen()).not.toContain("sk-ant-invented");
  const file = join(home.path, "home/config.toml");
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(Bun.TOML.parse(readFileSync(file, "utf8"))).toEqual({
    transport: "rest",
    signal_url: "http://127.0.0.1:8080",
    account: "+15550100001",
    allow: "self",
    anthropic_api_key: "sk-ant-invented",
  });
  const second = openTerminal([]);
  await second.shows("signalman starts");
  second.press(ctrlC);
  expect(await second.exited).toBe(0);
  expect(second.screen()).not.toContain("Welcome");
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

test("demo: what arrives goes above the line that is being typed, and the line is sent whole", async () => {
  const terminal = openTerminal(["demo", "--log", "error"]);
  await terminal.shows("→ CONNECTED]");
  terminal.press("/drop 1\r");
  await terminal.shows("→ DISCONNECTED]");
  terminal.press("half a ");
  await terminal.shows("→ CONNECTED]");
  await terminal.shows("you> half a ");
  terminal.press("line\r");
  await terminal.shows("claude> You wrote: half a line");
  terminal.press("/quit\r");
  expect(await terminal.exited).toBe(0);
});
