/**
 * The owner's own program behind a whole daemon: its double speaks the real one's protocol from a process of its own. Whatever either
 * side does, a prompt is not asked twice, nothing runs without a yes, and it ends in words.
 */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createCodeLine } from "../../src/claude/code-line.ts";
import { loadConfig } from "../../src/config.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { codeOf, createLocal, never, pass } from "../contract/line.ts";
import { createVirtualClock } from "../doubles/clock.ts";
import { startCodeBrain, type CodeBrain } from "../doubles/code-brain.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import type { Script } from "../doubles/world.ts";

let brain: CodeBrain;
let close: (() => Promise<void>) | null = null;
beforeEach(async () => void (brain = await startCodeBrain()));
afterEach(async () => {
  await close?.();
  close = null;
  await brain.close();
});

const goOn = /was interrupted while you worked/u;
const edit: Script = () => [
  { say: "I fix it." },
  { ask: "Edit", input: { file_path: join(brain.base, "garden/notes.md"), old_string: "teh", new_string: "the" } },
  { say: "Fixed." },
];

/** A daemon on a home of its own, over Signal in memory, with a project. `more` are lines of its table. */
async function open({
  script,
  more = "",
  flags = {},
}: {
  script?: Script;
  more?: string;
  flags?: Record<string, string>;
}) {
  if (script) brain.setScript(script);
  const clock = createVirtualClock();
  const signal = createMemorySignal({ clock });
  const [home, garden] = [join(brain.base, "home"), join(brain.base, "garden")];
  mkdirSync(home, { mode: 0o700 });
  mkdirSync(garden);
  writeFileSync(join(garden, "notes.md"), "teh roses\n");
  writeFileSync(join(home, "config.toml"), `[projects.garden]\nfolder = "${garden}"\n${more}`, { mode: 0o600 });
  const given = { transport: "signal-cli", account: "+15550100001", listen: "off", welcome: "false", reactions: "off" };
  const { config } = loadConfig({ flags: { ...given, home, backend: "claude-code", ...flags }, env: {} });
  let ids = 0;
  const newId = (): string => `${String(++ids).padStart(8, "0")}-5eed-4000-8000-000000000000`;
  const lines: { close(): Promise<void> }[] = [];
  const start = (): Promise<Daemon> =>
    startDaemon(config, {
      log: quietLog,
      clock,
      random: () => 0.5,
      networkKey: () => "",
      newId,
      isChecked: true,
      env: process.env,
      buildTransport: () => Promise.resolve(signal.transport),
      buildLine: () => {
        const { program, env } = brain;
        const line = createCodeLine({ program, env, clock, newId, folder: () => Promise.resolve(home) });
        lines.push(line);
        return Promise.resolve(line);
      },
    });
  let daemon = await start();
  const texts = (): string[] => signal.screen().map(({ text }) => text);
  const until = async (what: string, isSo: () => boolean, secondsMax = 3_600): Promise<void> => {
    for (let waited = 0; !isSo(); waited++) {
      if (waited > secondsMax) throw new Error(`${what}: it never came: ${JSON.stringify(texts())}`);
      // Sockets and processes have about so long for each second of the clock.
      for (let round = 0; round < 100 && !isSo(); round++) await pass(20);
      await clock.advance(1_000);
    }
  };
  const stop = async (): Promise<void> => {
    let isOver = false;
    void daemon.stop().then(() => (isOver = true));
    await until("the end", () => isOver);
    await Promise.all(lines.splice(0).map((line) => line.close()));
  };
  close = stop;
  await until("the start", () => daemon.isReady());
  return {
    clock,
    signal,
    garden,
    texts,
    until,
    notes: () => readFileSync(join(garden, "notes.md"), "utf8"),
    write: (text: string) => void signal.owner.write(text),
    hears: (text: string) => until(text, () => texts().some((one) => one.includes(text))),
    calls: () =>
      daemon.store.db.all<{ tool: string; state: string }>("SELECT tool, state FROM calls ORDER BY seen_at, id"),
    async restart() {
      await stop();
      daemon = await start();
      await until("the start", () => daemon.isReady());
    },
  };
}

test("an edit is shown as its difference, done after the yes and not before, and taken back", async () => {
  const { write, hears, notes, calls, texts } = await open({ script: edit });
  write("/project garden");
  await hears("Project garden");
  write("fix the typo");
  await hears("Claude wants to");
  const question = texts().find((text) => text.includes("Claude wants to")) ?? "";
  expect(question).toContain("-teh roses\n+the roses");
  expect(question).toContain("In project garden");
  expect(notes()).toBe("teh roses\n");
  expect(calls()).toEqual([{ tool: "Edit", state: "asked" }]);
  write("yes");
  await hears("Fixed.");
  expect(notes()).toBe("the roses\n");
  expect(calls()).toEqual([{ tool: "Edit", state: "posted" }]);
  write("/undo");
  await hears("Taken back: notes.md");
  expect(notes()).toBe("teh roses\n");
  expect(brain.prompts.map((text) => text.split("\n").at(-1))).toEqual(["fix the typo"]);
});

test("the folder's own git configuration has the program start nothing", async () => {
  const { write, hears, garden } = await open({ script: edit });
  const git = (...args: string[]): Buffer => execFileSync("git", args, { cwd: garden });
  git("init", "-q");
  writeFileSync(join(garden, ".gitattributes"), "* filter=trap\n");
  git("add", ".");
  const trap = join(brain.base, "trap");
  for (const name of ["core.fsmonitor", "filter.trap.clean"]) git("config", name, `touch ${trap}; cat`);
  writeFileSync(join(garden, "notes.md"), "teh roses, mostly\n");
  write("/project garden");
  write("fix the typo");
  await hears("Claude wants to");
  expect(existsSync(trap)).toBe(false);
  git("status");
  expect(existsSync(trap)).toBe(true);
});

test("a file that a message names is not put into the conversation unasked, wherever it is", async () => {
  const { write, hears, garden } = await open({});
  writeFileSync(join(garden, ".env"), "KEY=of-the-folder");
  write("/project garden");
  write(`look at @.env and at @${join(garden, ".env")}`);
  await hears("re: ");
  expect(brain.prompts.at(-1)).toContain("@.env");
  expect(brain.prompts.join("")).not.toContain("of-the-folder");
});

test("a no is told to Claude with its reason, and nothing is done", async () => {
  const { write, hears, notes, calls } = await open({ script: edit });
  write("/project garden");
  write("fix the typo");
  await hears("Claude wants to");
  write("no, it is a name");
  await hears("Fixed.");
  expect(notes()).toBe("teh roses\n");
  expect(calls()).toEqual([{ tool: "Edit", state: "posted" }]);
});

test("what changed since the question is not done: Claude hears why", async () => {
  const { write, hears, notes, garden } = await open({ script: edit });
  write("/project garden");
  write("fix the typo");
  await hears("Claude wants to");
  writeFileSync(join(garden, "notes.md"), "teh lilies\n");
  write("yes");
  await hears("Fixed.");
  expect(notes()).toBe("teh lilies\n");
});

test("a command runs only where the project says so, and is shown whole", async () => {
  const command = "echo hello > made\necho 2";
  const script: Script = () => [
    { ask: "Bash", input: { command, description: "makes", dangerouslyDisableSandbox: true } },
    { say: "Done." },
  ];
  const { write, hears, texts, garden } = await open({ script, more: "run = true" });
  write("/project garden");
  write("make it");
  await hears("Claude wants to");
  const question = texts().find((text) => text.includes("Claude wants to")) ?? "";
  expect(question).toContain(`${command}\n(dangerouslyDisableSandbox: true)`);
  expect(question).toContain("without a sandbox");
  write("always");
  await hears("Done.");
  expect(texts().join("\n")).toContain("asked for each time");
  expect(readFileSync(join(garden, "made"), "utf8")).toBe("hello\n");
});

test("without `run = true` a command is refused without a question; a way out of the folder, too", async () => {
  const script: Script = () => [
    { ask: "Bash", input: { command: "touch made" } },
    { ask: "Write", input: { file_path: join(brain.base, "outside"), content: "x" } },
    { say: "Neither." },
  ];
  const { write, hears, texts, garden } = await open({ script });
  write("/project garden");
  write("make it");
  await hears("Neither.");
  expect(texts().join("\n")).not.toContain("Claude wants to");
  expect([existsSync(join(garden, "made")), existsSync(join(brain.base, "outside"))]).toEqual([false, false]);
});

test("it reads freely in the folder, a secret asks, and what lies outside is never read", async () => {
  const read = (path: string) => ({ ask: "Read", input: { file_path: path, limit: 10 } });
  const { garden, write, hears, texts, calls } = await open({});
  const paths = [join(garden, "notes.md"), join(brain.base, "home", "signalman.db"), join(garden, ".env")];
  brain.setScript(() => [...paths.map(read), { say: "I read." }]);
  write("/project garden");
  write("read");
  await hears("Claude wants to read .env");
  write("no");
  await hears("I read.");
  expect(texts().filter((text) => text.includes("Claude wants to"))).toHaveLength(1);
  expect(calls().map(({ state }) => state)).toEqual(["posted", "posted", "posted"]);
  const [transcript = ""] = [...new Bun.Glob("projects/**/*.jsonl").scanSync(brain.config)];
  const lines = readFileSync(join(brain.config, transcript), "utf8").trim().split("\n");
  const blocks = lines.flatMap(
    (line) => (JSON.parse(line) as { content: { type: string; content?: string }[] }).content,
  );
  expect(blocks.flatMap(({ type, content }) => (type === "tool_result" ? content : []))).toEqual([
    "Read is done",
    expect.stringContaining("outside the project's folder"),
    expect.stringContaining("The person said no."),
  ]);
});

test("an ordinary chat has a folder of ours, where each edit is asked for, and `always` frees none", async () => {
  const script: Script = () => {
    const ask = (name: string) => ({ ask: "Write", input: { file_path: name, content: "x" } });
    return [ask("one.md"), ask("two.md"), { say: "Written." }];
  };
  const { write, hears, texts, until } = await open({ script });
  write("write two files");
  await hears("Claude wants to make one.md");
  write("always");
  await hears("Claude wants to make two.md");
  expect(texts().join("\n")).toContain("In a folder of signalman's");
  write("yes");
  await hears("Written.");
  const chats = join(brain.base, "home", "chats");
  await until("the files", () => existsSync(join(chats, "two.md")));
  expect(existsSync(join(chats, "one.md"))).toBe(true);
});

test("a restart while it asks: the yes comes to Claude, which asks anew, and it is done once", async () => {
  const script: Script = (text) => (goOn.test(text) ? edit(text).slice(1) : edit(text));
  const { write, hears, notes, restart, until, texts } = await open({ script });
  write("/project garden");
  write("fix the typo");
  await hears("Claude wants to");
  await restart();
  write("yes");
  await until("the second question", () => texts().filter((text) => text.includes("Claude wants to")).length === 2);
  expect(notes()).toBe("teh roses\n");
  expect(brain.prompts.at(-1)).toContain("Your use of Edit was not done. The person answered meanwhile: yes");
  write("yes");
  await hears("Fixed.");
  expect(notes()).toBe("the roses\n");
  expect(brain.prompts.filter((text) => text.includes("fix the typo"))).toHaveLength(1);
});

test("a restart between two messages: the conversation goes on", async () => {
  const { write, hears, restart } = await open({});
  write("one");
  await hears("re: ");
  await restart();
  write("two");
  await hears("two");
  const [transcript = ""] = [...new Bun.Glob("projects/**/*.jsonl").scanSync(brain.config)];
  expect(readFileSync(join(brain.config, transcript), "utf8").match(/"type":"user"/gu)).toHaveLength(2);
});

test("it crashes in the middle: it goes on, and the prompt is not asked twice", async () => {
  brain.first({ write: ["I am at "], isWhole: false }, { crash: true });
  const { write, hears } = await open({ script: (text) => [{ say: goOn.test(text) ? "Done after all." : "never" }] });
  write("count the roses");
  await hears("Done after all.");
  expect(brain.prompts.map((text) => goOn.test(text))).toEqual([false, true]);
});

test("it crashes each time: that is bounded, and ends in a sentence; the next message is answered", async () => {
  for (let time = 0; time < 3; time++) brain.first({ crash: true });
  const { write, hears } = await open({});
  write("count the roses");
  await hears("broke off three times");
  expect(brain.prompts).toHaveLength(3);
  write("hello?");
  await hears("hello?");
});

test("it prints for ever, or nothing at all: lines that are none are passed over, and silence has an end", async () => {
  brain.first({ print: 'garbage\n{"type":\n[1]\n{}\n' }, { write: ["Whole."], isWhole: true });
  const { write, hears, until } = await open({ script: (text) => [{ say: goOn.test(text) ? "Back." : "never" }] });
  write("one");
  await hears("Whole.");
  const hanging = brain.hang();
  write("two");
  await hanging;
  await until("the word", () => brain.prompts.length === 3);
  await hears("Back.");
});

test("`/stop` ends a turn that runs, and one that asks; what was open is not done", async () => {
  const { write, hears, until, notes } = await open({ script: edit });
  write("/project garden");
  const hanging = brain.hang();
  write("think hard");
  await hanging;
  write("/stop");
  await hears("Stopped.");
  await until("the end of the turn", () => brain.openTurns() === 0);
  write("fix the typo");
  await hears("Claude wants to");
  write("/stop");
  await until("the end of the turn", () => brain.openTurns() === 0);
  brain.setScript((text) => [{ say: `re: ${text}` }]);
  write("and now?");
  await hears("and now?");
  expect(notes()).toBe("teh roses\n");
});

test("another person than the owner is told so, and nothing is asked", async () => {
  const { signal, hears } = await open({ flags: { allow: "self,+15550100002" } });
  signal.person({ aci: null, number: "+15550100002" }).write("hello");
  await hears("Only the owner of this machine can ask Claude here");
  expect(brain.prompts).toEqual([]);
});

test("not logged in, not installed, a version that is not known: each in words, and what to do", async () => {
  const { write, hears } = await open({});
  writeFileSync(join(brain.config, "logged-out"), "");
  write("hello");
  await hears("Claude Code is not logged in on this machine");
  rmSync(join(brain.config, "logged-out"));
  await hears("re: ");
  const { program, env, base } = brain;
  const deps = { env, clock: createVirtualClock(), newId: () => "x", folder: () => Promise.resolve(base) };
  writeFileSync(join(brain.config, "version"), "3.0.1");
  expect(await codeOf(createCodeLine({ ...deps, program }).check(never))).toBe("claude_program");
  for (const missing of ["claude-that-is-not-there", join(base, "not-there")]) {
    const line = createCodeLine({ ...deps, program: missing });
    expect(await codeOf(line.check(never))).toBe("claude_program");
    expect(await codeOf(createLocal({ line }).ask("hello"))).toBe("claude_program");
  }
});

test("the program gets listed variables and no key; it ends with what it started", async () => {
  Object.assign(brain.env, { ANTHROPIC_API_KEY: "sk-ant-not-for-children" });
  const script: Script = () => [{ ask: "Bash", input: { command: "echo $$ > pid; exec sleep 600" } }];
  const { write, hears, garden, until } = await open({ script, more: "run = true" });
  write("/project garden");
  write("sleep");
  await hears("Claude wants to");
  write("yes");
  const file = join(garden, "pid");
  await until("the command", () => existsSync(file) && readFileSync(file, "utf8") !== "");
  const names = readFileSync(join(brain.config, "environment"), "utf8").split("\n");
  // The one says that git starts no program of the folder's choice.
  expect(names.filter((name) => /KEY|TOKEN|SECRET/u.test(name))).toEqual(["GIT_CONFIG_KEY_0"]);
  await close?.();
  close = null;
  // One that has ended may wait for its parent, which is no more.
  const ended = /^(?:State:\s+Z|$)/mu;
  const status = `/proc/${readFileSync(file, "utf8").trim()}/status`;
  if (process.platform === "linux") expect(existsSync(status) ? readFileSync(status, "utf8") : "").toMatch(ended);
});
