/** Which settings make a project, which folders can be one, and what the session is told of it. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import fc from "fast-check";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { chatFolder, instructionsOf, openFolder, openPlace, readProjects } from "../../src/projects/folders.ts";
import { startRig, type Rig } from "./rig.ts";

let rig: Rig;
beforeEach(async () => void (rig = await startRig()));
afterEach(() => rig.stop());

const usual = {
  run: false,
  ask: "writes",
  network: false,
  runMinutes: 2,
  backend: null,
  group: null,
  model: null,
  instructions: null,
};

test("tables and pairs are projects, with their defaults", () => {
  expect(readProjects(null)).toEqual([]);
  expect(readProjects("garden=/srv/garden, notes = ~/notes,")).toEqual([
    { ...usual, name: "garden", folder: "/srv/garden" },
    { ...usual, name: "notes", folder: join(homedir(), "notes") },
  ] as never);
  const table = {
    folder: "/g",
    run: true,
    ask: "all",
    group: "group:AAA=",
    model: "m",
    instructions: "i",
    network: true,
    run_minutes: 60,
    backend: "claude-code",
  };
  expect(readProjects({ Gärten: table })).toEqual([
    {
      name: "Gärten",
      folder: "/g",
      run: true,
      ask: "all",
      group: "AAA=",
      model: "m",
      instructions: "i",
      network: true,
      runMinutes: 60,
      backend: "claude-code",
    },
  ]);
});

test.each([
  [{ garden: { folder: "/x", flder: 1 } }, "Cannot use projects.garden.flder: Did you mean folder?"],
  [{ garden: { folder: "/x", colour: 1 } }, "Known are folder, run"],
  [{ garden: {} }, "projects.garden.folder: it takes a table with a folder"],
  [{ garden: "x" }, "projects.garden: it takes a table"],
  [{ garden: { folder: "src" } }, "projects.garden.folder: it takes a folder, from / or ~ on"],
  [{ garden: { folder: "~other/src" } }, "from / or ~ on"],
  [{ garden: { folder: "/x", run: "yes" } }, "projects.garden.run: it takes true or false"],
  [{ garden: { folder: "/x", ask: "never" } }, "writes or all"],
  [{ garden: { folder: "/x", run_minutes: 61 } }, "1 to 60"],
  [{ garden: { folder: "/x", group: "a b" } }, "base64"],
  [{ off: { folder: "/x" } }, "is not off"],
  [{ "a b": { folder: "/x" } }, "a name has up to 32"],
  [{ a: { folder: "/x" }, A: { folder: "/y" } }, "two have one name"],
  [{ a: { folder: "/x", group: "AAAA" }, b: { folder: "/y", group: "group:AAAA" } }, "one name or group"],
  ["a=/x,a=/y", "two have one name"],
  ["garden", "projects.garden.folder"],
  [["/x"], "it takes"],
  [7, "it takes tables [projects.NAME]"],
])("%j is refused in words", (given, words) => expect(readProjects(given)).toContain(words));

test("whatever is given, there are projects or a sentence", () => {
  const value = fc.anything({ maxDepth: 3 });
  fc.assert(
    fc.property(
      fc.oneof(value, fc.dictionary(fc.string(), fc.record({ folder: value, run: value }, { requiredKeys: [] }))),
      (given) => {
        const read = readProjects(given);
        if (typeof read === "string") expect(read).toStartWith("Cannot use projects");
      },
    ),
  );
});

test("a folder is opened by its canonical name", async () => {
  symlinkSync(rig.root, join(rig.base, "link"));
  expect(await openFolder(join(rig.base, "link"), rig.home)).toEqual({ root: rig.root });
  expect(await openFolder(rig.root, join(rig.base, "not", "made", "yet"))).toEqual({ root: rig.root });
});

test("folders that cannot be a project say why", async () => {
  const inside = join(rig.home, "work");
  mkdirSync(inside);
  mkdirSync(join(rig.base, ".ssh"));
  mkdirSync(join(rig.base, "repo/.git/hooks"), { recursive: true });
  writeFileSync(join(rig.base, "file"), "");
  symlinkSync("/", join(rig.base, "disk"));
  symlinkSync(rig.home, join(rig.base, "disguise"));
  for (const [folder, words] of [
    ["/", "is the whole disk"],
    [join(rig.base, "disk"), "is the whole disk"],
    [homedir(), "holds your whole home folder"],
    [`${homedir()}/.`, "holds your whole home folder"],
    [rig.home, "signalman's own home"],
    [join(rig.base, "disguise"), "signalman's own home"],
    [inside, "lies in signalman's own home"],
    [rig.base, "holds signalman's own home"],
    [join(rig.base, ".ssh"), "lies among keys"],
    [join(rig.base, "repo/.git/hooks"), "in .git"],
    [join(rig.base, "file"), "is not a folder"],
    [join(rig.base, "none"), "no such file or directory"],
    [join(rig.base, "file/sub"), "not a directory"],
  ] as const)
    expect([folder, await openFolder(folder, rig.home)]).toEqual([folder, { refusal: expect.stringContaining(words) }]);
  // The home of the person lies in /home or /Users, which is no project either.
  if (dirname(homedir()) !== "/") expect(await openFolder(dirname(homedir()), rig.home)).toHaveProperty("refusal");
});

test("the session is told the owner's words and the guides of the folder, each once and bounded", async () => {
  writeFileSync(join(rig.root, "CLAUDE.md"), `Use tabs.\n${"x".repeat(40_000)}`);
  symlinkSync("CLAUDE.md", join(rig.root, "AGENTS.md"));
  const words = await instructionsOf({ ...rig.project, instructions: "Answer in German." }, rig.root);
  expect(words).toStartWith("Answer in German.\n\nFrom the project's CLAUDE.md:\n\nUse tabs.");
  expect(words).toEndWith("[the rest is in CLAUDE.md]");
  expect(words.match(/Use tabs/gu)).toHaveLength(1);
  expect(words.length).toBeLessThan(17_000);
});

test("a guide that leads out of the folder, to a secret, or is no text, is none", async () => {
  writeFileSync(join(rig.base, "outside.md"), "obey me");
  symlinkSync(relative(rig.root, join(rig.base, "outside.md")), join(rig.root, "CLAUDE.md"));
  writeFileSync(join(rig.root, ".env"), "KEY=1");
  symlinkSync(".env", join(rig.root, "AGENTS.md"));
  expect(await instructionsOf(rig.project, rig.root)).toBe("");
});

test("the folder of chats is made; one that cannot be made is refused in words", async () => {
  const chats = chatFolder(rig.home);
  expect(await openPlace(chats, rig.home)).toEqual({ root: join(rig.home, "chats") });
  rmSync(join(rig.home, "chats"), { recursive: true });
  writeFileSync(join(rig.home, "chats"), "");
  expect(await openPlace(chats, rig.home)).toEqual({ refusal: expect.stringContaining("file already exists") });
});
