/** What the owner's own `claude` program asks for, by the policy of our own tools. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startRig, type Rig } from "./rig.ts";

let rig: Rig;
beforeEach(async () => {
  rig = await startRig({ backend: "claude-code" });
  mkdirSync(join(rig.root, "src"));
  writeFileSync(join(rig.root, "src", "main.ts"), "const token = 1;\n");
  writeFileSync(join(rig.root, ".env"), "TOKEN=secret\n");
  symlinkSync(join(rig.root, ".env"), join(rig.root, "plain.txt"));
  symlinkSync(rig.home, join(rig.root, "out"));
});
afterEach(() => rig.stop());

test.each([
  ["names of files", { pattern: "token" }, "free"],
  ["names, as it says itself", { pattern: "token", output_mode: "files_with_matches" }, "free"],
  ["counts", { pattern: "token", output_mode: "count" }, "free"],
  ["lines of one file", { pattern: "token", output_mode: "content", path: "src/main.ts" }, "free"],
  ["lines of the folder", { pattern: "token", output_mode: "content" }, "asks"],
  ["lines of a part of it", { pattern: "token", output_mode: "content", path: "src", glob: "*.ts" }, "asks"],
  ["lines of a secret", { pattern: "TOKEN", output_mode: "content", path: ".env" }, "asks"],
  ["lines of a link to a secret", { pattern: "TOKEN", output_mode: "content", path: "plain.txt" }, "asks"],
  ["names outside", { pattern: "token", path: "out" }, "never"],
  ["lines of what is not there", { pattern: "token", output_mode: "content", path: "gone" }, "asks"],
])("its own search for %s", async (_, input, verdict) => {
  expect((await rig.question(rig.see("Grep", input))).verdict).toBe(verdict as "free");
});

test.each([
  ["Glob", { pattern: "**/*.ts" }, "free"],
  ["Glob", { pattern: "/etc/**" }, "never"],
  ["Glob", { pattern: "src/../../**" }, "never"],
  ["Glob", { pattern: "~/**" }, "never"],
  ["Glob", { pattern: "*", path: "~" }, "never"],
  ["Grep", { pattern: "~/x|/etc" }, "free"],
  ["Read", { file_path: "~/diary.txt" }, "never"],
  ["Write", { file_path: "~/.bashrc", content: "x" }, "never"],
  ["Edit", { file_path: "~root/x", old_string: "a", new_string: "b" }, "never"],
])("names that the program takes elsewhere, %s of %p", async (tool, input, verdict) => {
  rig.isGranted.now = true;
  expect((await rig.question(rig.see(tool, input))).verdict).toBe(verdict as "free");
});

test.each([
  ["Agent", { description: "look around", prompt: "look" }, "free"],
  ["Task", { description: "look around", prompt: "look" }, "free"],
  ["Agent", { description: "look around", prompt: "look", isolation: "worktree" }, "asks"],
  ["Agents", { description: "look around", prompt: "look" }, "asks"],
  ["Skill", { skill: "mine" }, "asks"],
])("a helper, %s with %p", async (tool, input, verdict) => {
  expect((await rig.question(rig.see(tool, input))).verdict).toBe(verdict as "free");
});

test("what a search that asks would show is said, and its yes holds for just that", async () => {
  const id = rig.see("Grep", { pattern: "token", output_mode: "content", path: "src", "-A": 3 });
  expect(await rig.question(id)).toMatchObject({
    title: "search for token in src",
    detail: expect.stringContaining('(output_mode: "content")\n(-A: 3)'),
  });
  rig.yes(id);
  expect(await rig.run(id)).toEqual({ content: "yes", isError: false });
});
