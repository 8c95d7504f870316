/** Claude works on a folder of this machine: the whole program, over the in-memory Signal and the scripted Claude. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Beat } from "../doubles/world.ts";
import { openStage, type Stage } from "../e2e/stage.ts";

let folder: string;
let seen: Stage | null = null;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  writeFileSync(join(folder, "README.md"), "# Teh garden\n");
});
afterEach(async () => {
  await seen?.close();
  seen = null;
  rmSync(folder, { recursive: true, force: true });
});

const edit: Beat = {
  call: "local_edit",
  input: { file_path: "README.md", old_string: "Teh", new_string: "The" },
};
const readme = (): string => readFileSync(join(folder, "README.md"), "utf8");
const isSaid = (text: string): boolean => seen?.texts().some((one) => one.includes(text)) ?? false;

/** Files and processes take real time: it is given to them between the steps of the virtual clock, ten seconds at most. */
async function until(what: string, isSo: () => boolean): Promise<void> {
  for (let rounds = 0; rounds < 2_000; rounds++) {
    await seen?.pass(1);
    if (isSo()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`${what} did not come: ${JSON.stringify(seen?.texts())}`);
}

async function open(beats: readonly Beat[], run = false): Promise<Stage> {
  const projects = JSON.stringify(run);
  seen = await openStage({
    script: () => beats,
    flags: { reactions: "off", progress: "false" },
    config: `[projects.garden]\nfolder = ${JSON.stringify(folder)}\nrun = ${projects}\n`,
  });
  seen.write("/project garden");
  await seen.pass(2);
  expect(isSaid("Project garden")).toBe(true);
  return seen;
}

const question = (stage: Stage) => stage.signal.screen().find(({ text }) => text.startsWith("Claude wants to"));
const react = (stage: Stage, emoji: string): void => {
  const asked = question(stage);
  if (asked) stage.signal.owner.react({ author: stage.signal.account, sentAt: asked.timestamp }, emoji);
};

test("an edit is shown as a diff, done after a yes, told to Claude, and taken back by /undo", async () => {
  const stage = await open([edit, { say: "The typo is gone." }]);
  stage.write("fix the typo");
  await until("the question", () => question(stage) !== undefined);
  const asked = question(stage);
  expect(asked?.text).toContain("-# Teh garden");
  expect(asked?.text).toContain("+# The garden");
  expect(readme()).toBe("# Teh garden\n");
  react(stage, "👍");
  await until("the answer", () => isSaid("The typo is gone."));
  expect(readme()).toBe("# The garden\n");
  stage.write("/undo");
  await until("the undo", () => isSaid("Taken back"));
  expect(readme()).toBe("# Teh garden\n");
});

test("a no is a no, with its reason for Claude, and nothing is changed", async () => {
  const stage = await open([edit, { say: "Left as it was." }]);
  stage.write("fix the typo");
  await until("the question", () => question(stage) !== undefined);
  stage.write("no, that is how we spell it");
  await until("the answer", () => isSaid("Left as it was."));
  expect(readme()).toBe("# Teh garden\n");
  const calls = stage.daemon.store.db.all<{ state: string; content: string }>("SELECT state, content FROM calls");
  expect(calls).toEqual([{ state: "posted", content: expect.stringContaining("that is how we spell it") }]);
});

test("reading needs no yes; an unknown tool is answered, too", async () => {
  const stage = await open([
    { call: "local_read", input: { file_path: "README.md" } },
    { call: "local_paint", input: {} },
    { say: "I have read it." },
  ]);
  stage.write("what is in the readme?");
  await until("the answer", () => isSaid("I have read it."));
  const results = stage.daemon.store.db.all<{ content: string; error: number }>(
    "SELECT content, is_error AS error FROM calls ORDER BY seen_at, id",
  );
  expect(results[0]?.content).toContain("Teh garden");
  expect(results[1]?.error).toBe(1);
});

test("/stop while Claude waits for a yes: nothing is done, and the next message is answered", async () => {
  const stage = await open([edit, { say: "fine" }]);
  stage.write("fix the typo");
  await until("the question", () => question(stage) !== undefined);
  stage.write("/stop");
  await until("the stop", () => isSaid("Stopped."));
  stage.write("yes");
  await stage.pass(30);
  expect(readme()).toBe("# Teh garden\n");
});

test("a call that a restart finds running is told as unknown, and never runs again", async () => {
  const stage = await open([edit, { say: "I see." }]);
  stage.write("fix the typo");
  await until("the question", () => question(stage) !== undefined);
  // As kill -9 in the middle of the work leaves it.
  stage.daemon.store.db.exec("UPDATE calls SET state = 'started'");
  await stage.restart();
  await until("the answer", () => isSaid("I see."));
  expect(readme()).toBe("# Teh garden\n");
  expect(stage.daemon.store.db.get("SELECT content FROM calls")).toEqual({
    content: expect.stringContaining("outcome is unknown"),
  });
});

test("a command is shown whole and runs once after its yes", async () => {
  const stage = await open(
    [{ call: "local_run", input: { command: "echo a >> log.txt && cat log.txt" } }, { say: "Ran." }],
    true,
  );
  stage.write("run it");
  await until("the question", () => question(stage) !== undefined);
  expect(question(stage)?.text).toContain("echo a >> log.txt && cat log.txt");
  react(stage, "👍");
  react(stage, "👍");
  await until("the answer", () => isSaid("Ran."));
  expect(readFileSync(join(folder, "log.txt"), "utf8")).toBe("a\n");
});

test("the project has its own conversation; /project off goes back to the other", async () => {
  const stage = await open([{ say: "hello" }]);
  stage.write("hi");
  await until("the answer", () => isSaid("hello"));
  const inProject = stage.daemon.store.sessions.active("self");
  expect(inProject?.project).toBe("garden");
  stage.write("/project off");
  await stage.pass(2);
  stage.write("hi again");
  await stage.pass(5);
  const outside = stage.daemon.store.sessions.active("self");
  expect(outside?.project).toBe(null);
  stage.write("/project garden");
  await stage.pass(2);
  expect(stage.daemon.store.sessions.active("self")?.id).toBe(inProject?.id ?? "");
});
