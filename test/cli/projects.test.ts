/** `signalman projects`: the file keeps everything else, and what cannot be is refused before it is written. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runArgv } from "../../src/cli/program.ts";
import { systemClock } from "../../src/clock.ts";
import { loadConfig } from "../../src/config.ts";
import { startStatusServer } from "../doubles/status-server.ts";

let base: string;
let home: string;
beforeEach(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), "signalman-projects-")));
  home = join(base, "home");
  for (const name of ["home", "garden", "notes"]) mkdirSync(join(base, name), { mode: 0o700 });
});
afterEach(() => rmSync(base, { recursive: true, force: true }));

const file = (): string => readFileSync(join(home, "config.toml"), "utf8");
const projects = () => loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config.projects;
async function run(args: string, more: Record<string, string> = {}) {
  let [out, err] = ["", ""];
  const code = await runArgv(args.split(" "), {
    out: (text) => void (out += text),
    err: (text) => void (err += text),
    isOutTty: false,
    isErrTty: false,
    env: { SIGNALMAN_HOME: home, PATH: process.env["PATH"] ?? "", ...more },
    signal: new AbortController().signal,
    clock: systemClock,
    random: () => 0.5,
  });
  return { code, out, err };
}

test("a daemon that runs takes it up at once; one that cannot be asked, when it is started again", async () => {
  const late = "takes it up when it is started again";
  expect((await run(`projects add notes ${base}/notes`)).err).toContain(late);
  const server = await startStatusServer(home);
  const { err } = await run(`projects add garden ${base}/garden`);
  expect([err, server.done]).toEqual(["", ["projects"]]);
  await server.stop();
});

test("a project is added to a new file, shown, and removed again", async () => {
  expect(await run(`projects add garden ${base}/garden --run`)).toMatchObject({
    code: 0,
    out: expect.stringContaining("/project garden"),
  });
  expect(file()).toBe(`[projects.garden]\nfolder = "${base}/garden"\nrun = true\n`);
  expect(statSync(join(home, "config.toml")).mode & 0o777).toBe(0o600);
  expect((await run("projects")).out).toMatch(/garden +\S+garden +reads; edits ask, may ask to run commands, no git/u);
  expect(JSON.parse((await run("projects list --json")).out)).toMatchObject([
    { name: "garden", run: true, ask: "writes" },
  ]);
  expect((await run("projects remove Garden")).code).toBe(0);
  expect(projects()).toEqual([]);
  expect((await run("projects")).out).toContain("No projects yet");
});

test("everything else in the file stays, comments and other projects too", async () => {
  const before = `# mine\nmodel = "m" # kept\n\n[projects.notes] # the notes\nfolder = "${base}/notes"\n# how long\nrun_minutes = 5\n`;
  writeFileSync(join(home, "config.toml"), before, { mode: 0o640 });
  await run(`projects add gärten ${base}/garden`);
  expect(file()).toBe(`${before}\n[projects."gärten"]\nfolder = "${base}/garden"\n`);
  expect(statSync(join(home, "config.toml")).mode & 0o777).toBe(0o640);
  expect(projects().map(({ name }) => name)).toEqual(["notes", "gärten"]);
  expect((await run("projects remove notes")).code).toBe(0);
  expect(projects().map(({ name }) => name)).toEqual(["gärten"]);
  expect(file()).toContain('# mine\nmodel = "m" # kept\n');
  await run("projects remove gärten");
  expect(file()).toBe('# mine\nmodel = "m" # kept\n');
});

test.each([
  ["projects add home @", "own home"],
  ["projects add disk /", "whole disk"],
  ["projects add gone @/none", "no such file"],
  ["projects add a,b @/../garden", "a name has up to 32"],
  ["projects add off @/../garden", "is not off"],
  ["projects remove gardn", "There is no project gardn"],
])("%s is refused and writes nothing", async (args, words) => {
  const { code, err } = await run(args.replace("@", home));
  expect([code, err]).toEqual([2, expect.stringContaining(words)]);
  expect(existsSync(join(home, "config.toml"))).toBe(false);
});

test("a name that is there, a file in an unusual form, and a variable over it are left alone", async () => {
  await run(`projects add garden ${base}/garden`);
  expect((await run(`projects add GARDEN ${base}/notes`)).err).toContain("two have one name");
  expect((await run("projects remove gardn")).err).toContain("Did you mean garden?");
  const inline = `projects = { garden = { folder = "${base}/garden" } }\n`;
  writeFileSync(join(home, "config.toml"), inline);
  for (const args of [`projects add notes ${base}/notes`, "projects remove garden"])
    expect((await run(args)).err).toContain("unusual way");
  const tricky = `[projects.garden]\nfolder = "${base}/garden"\ninstructions = """\n[projects.notes]\nnot a table\n"""\nrun = true\n`;
  writeFileSync(join(home, "config.toml"), tricky);
  expect((await run("projects remove garden")).err).toContain("unusual way");
  expect(file()).toBe(tricky);
  const { err } = await run("projects remove garden", { SIGNALMAN_PROJECTS: `garden=${base}/garden` });
  expect(err).toContain("SIGNALMAN_PROJECTS");
});

test("a fault in the settings names the place", async () => {
  writeFileSync(join(home, "config.toml"), '[projects.garden]\nflder = "/x"\n');
  expect(await run("projects")).toMatchObject({ code: 2, err: expect.stringContaining("projects.garden") });
  const { out } = await run("config show", { SIGNALMAN_HOME: join(base, "notes"), SIGNALMAN_PROJECTS: "a=/x,b=/y" });
  expect(out).toMatch(/projects +environment +a=\/x,b=\/y/u);
});
