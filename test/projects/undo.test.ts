/** Taking back: what Claude left is restored, what others changed since is named and left, and what is kept stays bounded. */
import { spawnSync } from "node:child_process";
import { applyPatch } from "diff";
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { changesIn, takeBack } from "../../src/projects/executor.ts";
import { createUndo, patchOf } from "../../src/projects/undo.ts";
import { startRig, type Rig } from "./rig.ts";

let rig: Rig;
beforeEach(async () => void (rig = await startRig()));
afterEach(() => rig.stop());

const put = (name: string, text: string): void => writeFileSync(join(rig.root, name), text);
const get = (name: string): string => readFileSync(join(rig.root, name), "utf8");
const write = (name: string, content: string, turn = "t1") =>
  rig.ask("local_write", { file_path: name, content }, turn);
const back = () => rig.undo.undo("s", rig.root);

test("the last turn is taken back, then the one before, then there is nothing", async () => {
  put("a.txt", "0\n");
  await write("a.txt", "1\n", "t1");
  await write("a.txt", "2\n", "t2");
  await write("a.txt", "3\n", "t2");
  await write("new.txt", "new\n", "t2");
  expect(await rig.undo.diff("s", rig.root)).toContain("-0\n+3\n");
  expect(await back()).toEqual({ restored: ["a.txt", "new.txt"], left: [] });
  expect([get("a.txt"), existsSync(join(rig.root, "new.txt"))]).toEqual(["1\n", false]);
  expect(await rig.undo.diff("s", rig.root)).toBe("--- a/a.txt\n+++ b/a.txt\n@@ -1,1 +1,1 @@\n-0\n+1\n");
  expect(await back()).toEqual({ restored: ["a.txt"], left: [] });
  expect(get("a.txt")).toBe("0\n");
  expect(await back()).toEqual({ restored: [], left: [] });
  expect(await rig.undo.diff("s", rig.root)).toBe("");
});

test("a file that was changed since is named and not touched; the others are restored", async () => {
  for (const name of ["a.txt", "b.txt", "c.txt"]) put(name, "old\n");
  for (const name of ["a.txt", "b.txt", "c.txt"]) await write(name, "new\n");
  put("b.txt", "the owner's\n");
  rmSync(join(rig.root, "c.txt"));
  expect(await back()).toEqual({ restored: ["a.txt"], left: ["b.txt was changed since", "c.txt was changed since"] });
  expect([get("a.txt"), get("b.txt"), existsSync(join(rig.root, "c.txt"))]).toEqual(["old\n", "the owner's\n", false]);
});

test("a folder that became a link meanwhile is not followed", async () => {
  mkdirSync(join(rig.root, "sub"));
  put("sub/a.txt", "old\n");
  await write("sub/a.txt", "new\n");
  rmSync(join(rig.root, "sub"), { recursive: true });
  mkdirSync(join(rig.base, "elsewhere"));
  writeFileSync(join(rig.base, "elsewhere/a.txt"), "new\n");
  symlinkSync(join(rig.base, "elsewhere"), join(rig.root, "sub"));
  expect((await back()).left).toEqual([expect.stringContaining("outside the project's folder")]);
  expect(readFileSync(join(rig.base, "elsewhere/a.txt"), "utf8")).toBe("new\n");
});

test("another chat's turns are its own", async () => {
  put("a.txt", "old\n");
  await rig.ask("local_write", { file_path: "a.txt", content: "theirs\n" }, "t9", "other");
  expect(await back()).toEqual({ restored: [], left: [] });
  expect(get("a.txt")).toBe("theirs\n");
});

test("bytes and line ends come back as they were", async () => {
  const text = "\uFEFFümläut\r\nzwei\r\n\r\nno end";
  put("a.txt", text);
  await write("a.txt", "x");
  await back();
  expect(readFileSync(join(rig.root, "a.txt"))).toEqual(Buffer.from(text));
});

test("what is kept is private, kept once however often it is the same, and goes with its age", async () => {
  let now = 1_000;
  const undo = createUndo(rig.home, rig.kept, { now: () => now });
  const keep = (path: string, turn: string, text: string) =>
    undo.keep({ sessionId: "s", root: rig.root, turn }, path, { bytes: Buffer.from(text), text }, "after");
  await keep("a.txt", "t1", "same");
  await keep("b.txt", "t1", "same");
  const objects = () => readdirSync(join(rig.home, "undo"));
  expect(objects()).toHaveLength(1);
  expect(statSync(join(rig.home, "undo")).mode & 0o777).toBe(0o700);
  expect(statSync(join(rig.home, "undo", objects()[0] ?? "")).mode & 0o777).toBe(0o600);
  now += 31 * 86_400_000;
  await keep("c.txt", "t2", "other");
  expect(objects()).toHaveLength(1);
  expect(rig.kept.firsts("s", rig.root).map(({ path }) => path)).toEqual(["c.txt"]);
});

test("what a forgotten session changed is forgotten, too", async () => {
  put("a.txt", "old\n");
  await write("a.txt", "new\n");
  rig.db.exec("DELETE FROM sessions WHERE id = 's'");
  await rig.undo.prune();
  expect(readdirSync(join(rig.home, "undo"))).toEqual([]);
});

test("what is kept has at most its bytes, the oldest turns go first", () => {
  const row = { sessionId: "s", root: "/r", before: "h", after: "x", at: 5 };
  for (let n = 0; n < 10; n++) rig.kept.put({ ...row, path: `f${n}`, turn: `t${n}`, bytes: 100 });
  rig.kept.prune(0, 350);
  expect(rig.kept.firsts("s", "/r").map(({ path }) => path)).toEqual(["f7", "f8", "f9"]);
});

test("keeping in two projects at once loses nothing", async () => {
  const scopes = ["r1", "r2", "r3"].map((root) => ({ sessionId: "s", root, turn: "t" }));
  await Promise.all(
    scopes.flatMap((scope) =>
      Array.from({ length: 10 }, (_, n) =>
        rig.undo.keep(scope, `f${n}`, { bytes: Buffer.from(`${scope.root}${n}`), text: "" }, "x"),
      ),
    ),
  );
  expect(readdirSync(join(rig.home, "undo"))).toHaveLength(30);
});

test("a diff of texts that have nothing in common is whole, and is not searched for what they share", () => {
  const before = Array.from({ length: 5_000 }, (_, index) => `old ${index}`).join("\n");
  const after = Array.from({ length: 5_000 }, (_, index) => `new ${index}`).join("\n");
  const patch = patchOf("a.txt", before, after);
  expect(patch.match(/^-old/gmu)).toHaveLength(5_000);
  expect(patch.match(/^\+new/gmu)).toHaveLength(5_000);
  for (const [old, now] of [
    ["", after],
    [before, ""],
    [before, before.replace("old 7\n", "")],
  ] as const)
    expect(applyPatch(old, patchOf("a.txt", old, now))).toBe(now);
  expect(patch.split("\n").slice(0, 4)).toEqual(["--- a/a.txt", "+++ b/a.txt", "@@ -1,5000 +0,0 @@", "-old 0"]);
});

test("/undo waits for the edits at work, and names a folder that cannot be used", async () => {
  put("a.txt", "old\n");
  rig.isGranted.now = true;
  const writing = rig.run(rig.see("local_write", { file_path: "a.txt", content: "new\n" }));
  expect(await takeBack(rig.project, "s", rig.deps)).toEqual({ restored: ["a.txt"], left: [] });
  expect([(await writing).isError, get("a.txt")]).toEqual([false, "old\n"]);
  rmSync(rig.root, { recursive: true });
  expect((await takeBack(rig.project, "s", rig.deps)).left[0]).toContain("no such file or directory");
});

test("a write that failed is nothing to take back, and the file is not called changed", async () => {
  put("a.txt", "old\n");
  await rig.undo.keep(
    { sessionId: "s", root: rig.root, turn: "t" },
    "a.txt",
    { bytes: Buffer.from("old\n"), text: "old\n" },
    "new",
  );
  expect(await back()).toEqual({ restored: ["a.txt"], left: [] });
  expect(get("a.txt")).toBe("old\n");
});

test("where there is git, the diff is git's, also with what a hostile configuration would run", async () => {
  const diff = () => changesIn(rig.project, "s", rig.deps, new AbortController().signal);
  const git = (...args: string[]) =>
    spawnSync("git", ["-c", "user.name=t", "-c", "user.email=t@localhost", ...args], { cwd: rig.root });
  put("a.txt", "old\n");
  await write("a.txt", "Claude's\n");
  expect(await diff()).toContain("-old\n+Claude's\n");
  git("init", "-q");
  expect(await diff()).toContain("-old\n+Claude's\n");
  git("add", ".");
  git("commit", "-qm", "first");
  git("config", "core.fsmonitor", "touch fsmonitor-ran; false");
  git("config", "diff.external", "touch external-ran; false");
  const hook = join(rig.root, ".git/hooks/post-index-change");
  writeFileSync(hook, `#!/bin/sh\ntouch ${rig.root}/hook-ran\n`, { mode: 0o755 });
  put("a.txt", "the owner's\n");
  put("new.txt", "n");
  const patch = await diff();
  expect(patch).toStartWith("diff --git a/a.txt b/a.txt\n");
  expect(patch).toContain("-Claude's\n+the owner's\n");
  expect(patch).toEndWith("new: new.txt\n");
  expect(readdirSync(rig.root).sort()).toEqual([".git", "a.txt", "new.txt"]);
  rmSync(hook);

  // Of a repository in this one, too, and filters, which git runs for every file that it compares.
  git("init", "-q", "inner");
  const inner = (...args: string[]) => git("-C", "inner", ...args);
  inner("commit", "-qm", "first", "--allow-empty");
  git("-c", "core.fsmonitor=", "add", "inner");
  inner("config", "core.fsmonitor", `touch ${rig.root}/inner-ran; false`);
  await diff();
  writeFileSync(join(rig.root, ".gitattributes"), "*.txt filter=evil\n");
  git("config", "filter.evil.clean", `touch ${rig.root}/filter-ran; cat`);
  writeFileSync(join(rig.root, "a.txt"), "changed again\n");
  expect(await diff()).toStartWith("(git has filters here");
  expect(readdirSync(rig.root).sort()).toEqual([".git", ".gitattributes", "a.txt", "inner", "new.txt"]);
});

test("what could not be written back is kept, and taken back by the next /undo", async () => {
  put("a.txt", "old\n");
  await write("a.txt", "new\n");
  if (process.getuid?.() !== 0) chmodSync(rig.root, 0o500);
  else if (spawnSync("chattr", ["+i", rig.root]).status !== 0)
    return console.warn("skipped: no folder can be made read-only for root here");
  try {
    expect(await back()).toEqual({ restored: [], left: [expect.stringContaining("a.txt")] });
  } finally {
    if (process.getuid?.() !== 0) chmodSync(rig.root, 0o700);
    else spawnSync("chattr", ["-i", rig.root]);
  }
  expect(await back()).toEqual({ restored: ["a.txt"], left: [] });
  expect(get("a.txt")).toBe("old\n");
});

test("git's diff fetches nothing, by no program that the folder names, and shows no other folder", async () => {
  const diff = () => changesIn(rig.project, "s", rig.deps, new AbortController().signal);
  const git = (...args: string[]) =>
    spawnSync("git", ["-c", "user.name=t", "-c", "user.email=t@localhost", ...args], {
      cwd: rig.root,
      encoding: "utf8",
    }).stdout.trim();
  put("a.txt", "old\n");
  git("init", "-q");
  git("add", ".");
  git("commit", "-qm", "first");
  const blob = git("rev-parse", "HEAD:a.txt");
  put("a.txt", "new\n");
  const elsewhere = join(rig.base, "elsewhere");
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, "a.txt"), "SECRET\n");
  git("config", "core.worktree", elsewhere);
  expect(await diff()).toContain("+new");
  expect(await diff()).not.toContain("SECRET");
  for (const [name, value] of [
    ["core.repositoryformatversion", "1"],
    ["extensions.partialClone", "origin"],
    ["remote.origin.promisor", "true"],
    ["remote.origin.url", rig.base],
    ["remote.origin.uploadpack", `touch ${rig.root}/fetch-ran; false`],
  ] as const)
    git("config", name, value);
  rmSync(join(rig.root, ".git/objects", blob.slice(0, 2)), { recursive: true });
  await diff();
  expect(existsSync(join(rig.root, "fetch-ran"))).toBe(false);
});
