/** The projects of the settings: shown, added to config.toml and taken out of it, and what Claude could do in one. */
import { isDeepStrictEqual } from "node:util";
import { constants, existsSync, readFileSync } from "node:fs";
import { access, chmod, mkdir, rename, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { parse as parseToml } from "smol-toml";
import { BridgeError } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { openFolder, readProjects, type Project } from "../projects/folders.ts";
import { load, ownCommand, printJson, toTable, type Cli } from "./io.ts";

/** What `list` and `doctor` say of a project: why it cannot be used, or what Claude may do there. */
export async function stateOf(
  project: Project,
  home: string,
): Promise<{ readonly refusal: string } | { readonly words: string }> {
  const folder = await openFolder(project.folder, home);
  if ("refusal" in folder) return folder;
  const isWritable = await access(folder.root, constants.W_OK).then(
    () => true,
    () => false,
  );
  const may = [
    project.ask === "all" ? "everything asks" : "reads; edits ask",
    project.run ? "may ask to run commands" : "runs nothing",
    isWritable ? "" : "this user may not write there",
    existsSync(join(folder.root, ".git")) ? "git" : "no git",
  ];
  return { words: `${project.name}: ${may.filter((word) => word !== "").join(", ")}` };
}

export async function listProjects(cli: Cli, { json }: { readonly json?: true }): Promise<number> {
  const { projects, home } = load(cli).config;
  const rows = await Promise.all(projects.map(async (project) => ({ ...project, ...(await stateOf(project, home)) })));
  if (json) printJson(cli, rows);
  else if (rows.length === 0) cli.out("No projects yet. `signalman projects add NAME FOLDER` makes one.\n");
  else
    cli.out(
      toTable([
        ["NAME", "FOLDER", "CLAUDE"],
        ...rows.map((row) => [
          row.name,
          row.folder,
          "refusal" in row ? `cannot be used: ${row.refusal}` : row.words.slice(row.name.length + 2),
        ]),
      ]),
    );
  return 0;
}

const fail = (message: string, hint = ""): BridgeError => new BridgeError("config", message, { hint });

/** Both commands write the file, over which a variable would win. */
function fileOf(cli: Cli): {
  readonly path: string;
  readonly text: string;
  readonly home: string;
  readonly projects: readonly Project[];
} {
  const { config, origins } = load(cli);
  if (origins.projects === "environment")
    throw fail("Cannot change the projects as SIGNALMAN_PROJECTS names them", "Change the variable.");
  const path = join(config.home, "config.toml");
  return {
    path,
    text: existsSync(path) ? readFileSync(path, "utf8") : "",
    home: config.home,
    projects: config.projects,
  };
}

/** Puts the new text in the file's place, where it reads as `wanted` and as nothing else. */
async function write(path: string, text: string, wanted: unknown): Promise<void> {
  let read: unknown;
  try {
    read = parseToml(text);
  } catch {
    read = undefined;
  }
  if (!isDeepStrictEqual(plain(read), plain(wanted)))
    throw fail(
      `Cannot change ${path} as its [projects] are written in an unusual way`,
      "Change it with an editor: docs/projects.md shows the form.",
    );
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const mode = await stat(path).then(
    (found) => found.mode & 0o777,
    () => 0o600,
  );
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await chmod(`${path}.new`, mode);
  await rename(`${path}.new`, path);
}

const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value ?? null));
const bareKey = /^[\w-]+$/u;
const tablesOf = (text: string) => parseToml(text) as { readonly projects?: Readonly<Record<string, unknown>> };
const again = "A running signalman takes it up when it is started again.\n";

export async function addProject(cli: Cli, { run }: { readonly run?: true }, name = "", given = ""): Promise<number> {
  const { path, text, home, projects } = fileOf(cli);
  const folder = resolve(given);
  if (projects.some((project) => project.name.toLowerCase() === name.toLowerCase()))
    throw fail(
      `Cannot add ${name} as there is a project of that name`,
      "Take another name, or `signalman projects remove` it first.",
    );
  const table = { folder, ...(run ? { run } : {}) };
  const read = readProjects({ [name]: table });
  if (typeof read === "string") throw fail(read);
  const opened = await openFolder(folder, home);
  if ("refusal" in opened)
    throw fail(`Cannot add ${name} as ${opened.refusal}`, "Name a folder of this machine that holds one project.");
  const before = tablesOf(text);
  const key = bareKey.test(name) ? name : JSON.stringify(name);
  const lines = Object.entries(table).map(([field, value]) => `${field} = ${JSON.stringify(value)}\n`);
  const gap = text === "" ? "" : text.endsWith("\n") ? "\n" : "\n\n";
  await write(path, `${text}${gap}[projects.${key}]\n${lines.join("")}`, {
    ...before,
    projects: { ...before.projects, [name]: table },
  });
  cli.out(`Claude may work on ${folder} as ${name}: /project ${name} in the chat. ${again}`);
  return 0;
}

export async function removeProject(cli: Cli, _: unknown, name = ""): Promise<number> {
  const { path, text, projects } = fileOf(cli);
  const project = find(projects, name);
  const lines = text.split(/(?<=\n)/u);
  const header = /^\s*\[\s*projects\s*\.\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([\w-]+))\s*\]/u;
  const isIts = ([, quoted, literal, bare]: RegExpExecArray): boolean =>
    (quoted === undefined ? (literal ?? bare) : (JSON.parse(`"${quoted}"`) as string)) === project.name;
  const start = lines.findIndex((line) => {
    const match = header.exec(line);
    return match !== null && isIts(match);
  });
  const next = lines.findIndex((line, index) => index > start && /^\s*\[/u.test(line));
  // Comments before the next table are its own.
  let end = next < 0 ? lines.length : next;
  while (end > start + 1 && /^\s*(#.*)?$/u.test(lines[end - 1]?.trimEnd() ?? "")) end--;
  const [head, tail] = [lines.slice(0, Math.max(0, start)), lines.slice(start < 0 ? 0 : end)].map((part) =>
    part.join("").trim(),
  );
  const rest = [head, tail].filter(Boolean).join("\n\n");
  const { projects: { [project.name]: _gone, ...others } = {}, ...before } = tablesOf(text);
  await write(path, rest === "" ? "" : `${rest}\n`, {
    ...before,
    ...(Object.keys(others).length > 0 ? { projects: others } : {}),
  });
  cli.out(`${project.name} is no project any more; ${project.folder} is as it was. ${again}`);
  return 0;
}

function find(projects: readonly Project[], name: string): Project {
  const names = projects.map((project) => project.name);
  const project = projects.find((other) => other.name.toLowerCase() === name.toLowerCase());
  const near = nearest(name, names);
  if (project === undefined)
    throw fail(
      `There is no project ${name}`,
      near === null ? "`signalman projects` lists them." : `Did you mean ${near}?`,
    );
  return project;
}

/** What the policy says to a call, with the question that the owner would be asked. */
export async function explainCall(cli: Cli, _: unknown, name = "", tool = "", what = ""): Promise<number> {
  const { home, projects } = load(cli).config;
  const project = find(projects, name);
  const [{ lookAt }, { createUndo }, { createKept }, { findSandbox }, { openDatabase }, { migrate }] =
    await Promise.all([
      import("../projects/executor.ts"),
      import("../projects/undo.ts"),
      import("../store/kept.ts"),
      import("../projects/runner.ts"),
      import("../store/database.ts"),
      import("../store/migrations.ts"),
    ]);
  using stack = new DisposableStack();
  const db = stack.adopt(await openDatabase(":memory:"), (opened) => opened.close());
  migrate(db);
  const sandbox = await findSandbox(cli.clock, cli.env["PATH"] ?? "");
  const undo = createUndo(home, createKept(db), cli.clock);
  const input = { file_path: what, content: "…\n", old_string: "", new_string: "", pattern: what, command: what };
  const call = { sessionId: "", turn: "", tool: `local_${tool}`, input };
  const plan = await lookAt(project, call, {
    home,
    env: cli.env,
    clock: cli.clock,
    sandbox,
    undo,
    self: ownCommand,
    isGranted: () => false,
  });
  const title = plan.verdict === "never" ? "" : `${plan.title}\n`;
  cli.out(
    `${title}${{ free: "done without a question", asks: "asks you first", never: "never done" }[plan.verdict]}: ${plan.reason}\n`,
  );
  return 0;
}

/** A search in this process: the daemon starts one for each. */
export async function searchHere({ out }: Cli, _: unknown, what = ""): Promise<number> {
  const { search } = await import("../projects/tools.ts");
  const { content, isError } = await search(JSON.parse(what) as string[]);
  out(content);
  return isError ? 1 : 0;
}
