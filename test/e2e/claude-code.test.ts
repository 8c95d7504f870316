/** The binary with the owner's own program for one project: asked, shown, allowed, done; ended and killed in between. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startCodeBrain, type CodeBrain } from "../doubles/code-brain.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";
import { newHome, runOnce, start, type Home, type Running } from "./harness.ts";

let brain: CodeBrain;
let claude: ClaudeDouble;
let signal: SignalCliDouble;
let home: Home;
let running: Running;
let notes = "";
let table = "";
const env = (): Record<string, string> => ({
  SIGNALMAN_HOME: home.path,
  SIGNALMAN_TRANSPORT: "signal-cli",
  SIGNALMAN_SIGNAL_URL: signal.url,
  SIGNALMAN_ACCOUNT: me.number,
  SIGNALMAN_TOOLS: "off",
  SIGNALMAN_CLAUDE_CODE: brain.program,
  CLAUDE_CONFIG_DIR: brain.config,
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
});
beforeEach(async () => {
  brain = await startCodeBrain();
  claude = await startClaudeDouble();
  signal = await startSignalCliDouble();
  home = newHome();
  const folder = join(brain.base, "garden");
  notes = join(folder, "notes.md");
  mkdirSync(folder);
  writeFileSync(notes, "teh roses\n");
  table = `[projects.garden]\nfolder = "${folder}"\nrun = true\nbackend = "claude-code"\n`;
  writeFileSync(join(home.path, "config.toml"), table, { mode: 0o600 });
  brain.setScript((text) =>
    text.endsWith("fix the typo")
      ? [{ ask: "Edit", input: { file_path: notes, old_string: "teh", new_string: "the" } }, { say: "Fixed." }]
      : [{ say: `code: ${text.split("\n").at(-1)}` }],
  );
  await begin();
});
afterEach(async () => {
  await running.stop("SIGKILL");
  await signal.stop();
  await claude.close();
  await brain.close();
  home.remove();
});

async function begin(): Promise<void> {
  running = await start(env());
  await running.state("CONNECTED");
}
/** Reads on until a message has these words. */
async function hears(words: string): Promise<string> {
  for (;;) {
    const { text } = await signal.nextSent();
    if (text.includes(words)) return text;
  }
}
/** Nothing is under way to the phone; then it dies without a word, and its daemon's poll with it. */
async function kill(): Promise<void> {
  while ((await running.status()).outbox.pending > 0);
  await running.stop("SIGKILL");
  await signal.die();
  await signal.start();
}
async function openGarden(): Promise<void> {
  signal.phoneWrites("/project garden");
  await hears("Project garden");
}

test("a first project with it is taken up while signalman runs", async () => {
  await running.stop();
  writeFileSync(join(home.path, "config.toml"), "");
  await begin();
  writeFileSync(join(home.path, "config.toml"), table);
  mkdirSync(join(brain.base, "shed"));
  const added = await runOnce(["projects", "add", "shed", join(brain.base, "shed")], env());
  expect(added).toMatchObject({ code: 0, err: "" });
  await openGarden();
  signal.phoneWrites("good morning");
  await hears("code: good morning");
});

test("doctor finds it; the project is worked on with it, other chats are not; a restart goes on", async () => {
  const { out } = await runOnce(["doctor"], env());
  expect(out).toContain("the claude program may be used, and is logged in");
  signal.phoneWrites("good morning");
  await hears("good morning");
  expect(brain.prompts).toEqual([]);
  await openGarden();
  signal.phoneWrites("fix the typo");
  expect(await hears("Claude wants to")).toContain("-teh roses\n+the roses");
  expect(readFileSync(notes, "utf8")).toBe("teh roses\n");
  signal.phoneWrites("yes");
  await hears("Fixed.");
  expect(readFileSync(notes, "utf8")).toBe("the roses\n");
  signal.phoneWrites("/usage");
  expect(await hears("$")).toContain("0.01");
  await running.stop();
  await begin();
  signal.phoneWrites("what else?");
  await hears("code: what else?");
  const [transcript = "", ...others] = [...new Bun.Glob("projects/**/*.jsonl").scanSync(brain.config)];
  expect(others).toEqual([]);
  expect(readFileSync(join(brain.config, transcript), "utf8")).toContain("fix the typo");
  signal.phoneWrites("/undo");
  await hears("Taken back: notes.md");
  expect(readFileSync(notes, "utf8")).toBe("teh roses\n");
});

test("kill -9 in the middle of a turn: the prompt is looked up and goes on, it is not asked twice", async () => {
  await openGarden();
  const hanging = brain.hang();
  signal.phoneWrites("count the roses");
  await hanging;
  await kill();
  await begin();
  expect(await hears("code: ")).toContain("Look at what is done already");
  expect(brain.prompts.map((text) => text.includes("count the roses"))).toEqual([true, false]);
  signal.phoneWrites("and now?");
  await hears("code: and now?");
});

test("kill -9 after the yes, before the end: what was done is not done again", async () => {
  const hold = Promise.withResolvers<void>();
  const append = { command: "echo done >> log.md", description: "notes" };
  brain.setScript((text) =>
    text.endsWith("note it") ? [{ ask: "Bash", input: append }, { hold: hold.promise }] : [{ say: "Noted, it seems." }],
  );
  await openGarden();
  signal.phoneWrites("note it");
  await hears("Claude wants to");
  // No yes counts before the question's send is over.
  while ((await running.status()).outbox.pending > 0);
  signal.phoneWrites("yes");
  const log = join(brain.base, "garden", "log.md");
  while (!existsSync(log) || readFileSync(log, "utf8") === "") await running.status();
  await kill();
  await begin();
  await hears("Noted, it seems.");
  expect(readFileSync(log, "utf8")).toBe("done\n");
  expect(brain.prompts.map((text) => text.includes("note it"))).toEqual([true, false]);
  hold.resolve();
});

test("kill -9 while it asks: a yes afterwards is told to Claude, which asks anew; nothing ran meanwhile", async () => {
  await openGarden();
  signal.phoneWrites("fix the typo");
  await hears("Claude wants to");
  await kill();
  await begin();
  expect(readFileSync(notes, "utf8")).toBe("teh roses\n");
  signal.phoneWrites("yes");
  await hears("code: ");
  expect(brain.prompts.at(-1)).toContain("Your use of Edit was not done. The person answered meanwhile: yes");
  expect(readFileSync(notes, "utf8")).toBe("teh roses\n");
});
