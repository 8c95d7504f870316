/** Shows the projects of the settings, adds them to config.toml and removes them from it. */
import { constants, existsSync, readFileSync, statSync } from "node:fs";
import { access } from "node:fs/promises";
import { join, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { parse as parseToml } from "smol-toml";
import type { Config } from "../config.ts";
import { didYouMean } from "../core/nearest.ts";
import { openFolder, readProjects, type Folder, type Project } from "../projects/folders.ts";
import { load, print, toTable, writePrivate, wrong, type Cli } from "./io.ts";
import { command } from "./remote.ts";

/** Resolves to the words of `list` and `doctor` for a project: why it cannot be used, or what Claude may do there. */
export async function stateOf(project: Project, home: string): Promise<Folder & { readonly words: string }> {
  const folder = await openFolder(project.folder, home);
  if ("refusal" in folder) return { ...folder, words: `cannot be used: ${folder.refusal}` };
  const isWritable = await access(folder.root, constants.W_OK).then(
    () => true,
    () => false,
  );
  const writing = isWritable ? [] : ["this user may not write there"];
  const asking = project.ask === "all" ? "everything asks" : "reads; edits ask";
  const running = project.run ? "may ask to run commands" : "runs nothing";
  const git = existsSync(join(folder.root, ".git")) ? "git" : "no git";
  return { ...folder, words: [asking, running, ...writing, git].join(", ") };
}

export async function listProjects(cli: Cli, options: { readonly json?: true }): Promise<number> {
  const { projects, home } = load(cli).config;
  const rows = await Promise.all(projects.map(async (project) => ({ ...project, ...(await stateOf(project, home)) })));
  const table = [["NAME", "FOLDER", "CLAUDE"], ...rows.map(({ name, folder, words }) => [name, folder, words])];
  const none = "No projects yet. `signalman projects add NAME FOLDER` makes one.\n";
  return print(cli, options, rows, () => (rows.length > 0 ? toTable(table) : none));
}

/** Tells a running daemon, which takes the change up at once. */
async function tellDaemon({ err, signal }: Cli, config: Config): Promise<void> {
  await command(config, "projects", {}, signal).catch(() =>
    err("A signalman that runs takes it up when it is started again.\n"),
  );
}

type Tables = { readonly projects?: Readonly<Record<string, unknown>> };

/** Reads the file as it is. @throws BridgeError `config` where a variable would win over it */
function fileOf(cli: Cli) {
  const { config, origins } = load(cli);
  if (origins.projects === "environment")
    throw wrong("Cannot change the projects as SIGNALMAN_PROJECTS names them", "Change the variable.");
  const path = join(config.home, "config.toml");
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  return { config, path, text, tables: parseToml(text) as Tables };
}

/** Replaces the file by `text`, only where that parses as exactly `wanted`. */
async function write(path: string, text: string, wanted: Tables): Promise<void> {
  const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
  const isSo = await Promise.try(() => isDeepStrictEqual(plain(parseToml(text)), plain(wanted))).catch(() => false);
  const hint = "Change it with an editor: docs/projects.md shows the form.";
  if (!isSo) throw wrong(`Cannot change ${path} as its [projects] are written in an unusual way`, hint);
  writePrivate(path, text, existsSync(path) ? statSync(path).mode & 0o777 : undefined);
}

export async function addProject(cli: Cli, { run }: { readonly run?: true }, name = "", given = ""): Promise<number> {
  const { config, path, text, tables } = fileOf(cli);
  const folder = resolve(given);
  const table = { folder, ...(run ? { run } : {}) };
  const wanted = { ...tables, projects: { ...tables.projects, [name]: table } };
  const read = tables.projects?.[name]
    ? `Cannot add ${name}: there is one of that name`
    : readProjects(wanted.projects);
  if (typeof read === "string") throw wrong(read, "`signalman projects` lists those that there are.");
  const opened = await openFolder(folder, config.home);
  if ("refusal" in opened)
    throw wrong(`Cannot add ${name} as ${opened.refusal}`, "Name a folder that holds one project.");
  const key = /^[\w-]+$/u.test(name) ? name : JSON.stringify(name);
  const lines = Object.entries(table).map(([field, value]) => `${field} = ${JSON.stringify(value)}\n`);
  const before = text.trim() === "" ? "" : `${text.trimEnd()}\n\n`;
  await write(path, `${before}[projects.${key}]\n${lines.join("")}`, wanted);
  cli.out(`Claude may work on ${folder} as ${name}: /project ${name} in the chat.\n`);
  await tellDaemon(cli, config);
  return 0;
}

export async function removeProject(cli: Cli, _: unknown, name = ""): Promise<number> {
  const { config, path, text, tables } = fileOf(cli);
  const project = find(config.projects, name);
  const lines = text.split(/(?<=\n)/u);
  const header = /^\s*\[\s*projects\s*\.\s*(?:("(?:[^"\\]|\\.)*")|'([^']*)'|([\w-]+))\s*\]/u;
  const isIts = (line: string): boolean => {
    const [, quoted, literal, bare] = header.exec(line) ?? [];
    return (quoted === undefined ? (literal ?? bare) : (JSON.parse(quoted) as string)) === project.name;
  };
  const start = lines.findIndex(isIts);
  const next = lines.findIndex((line, index) => index > start && /^\s*\[/u.test(line));
  let end = next < 0 ? lines.length : next;
  // Comments before the next table belong to that table.
  while (end > start + 1 && /^\s*(#.*)?$/u.test(lines[end - 1]?.trimEnd() ?? "")) end--;
  const parts = start < 0 ? [lines] : [lines.slice(0, start), lines.slice(end)];
  const rest = parts.map((part) => part.join("").trim()).filter((part) => part !== "");
  const { projects: { [project.name]: _gone, ...others } = {}, ...before } = tables;
  const wanted = Object.keys(others).length > 0 ? { ...before, projects: others } : before;
  await write(path, rest.length === 0 ? "" : `${rest.join("\n\n")}\n`, wanted);
  cli.out(`${project.name} is no project any more; ${project.folder} is as it was.\n`);
  await tellDaemon(cli, config);
  return 0;
}

function find(projects: readonly Project[], name: string): Project {
  const project = projects.find((other) => other.name.toLowerCase() === name.toLowerCase());
  if (project !== undefined) return project;
  const names = projects.map((other) => other.name);
  throw wrong(`There is no project ${name}`, didYouMean(name, names) || "`signalman projects` lists them.");
}

/** Searches in this process, which the daemon starts for each search. */
export async function searchHere({ out }: Cli, _: unknown, what = ""): Promise<number> {
  const { search } = await import("../projects/tools.ts");
  const { content, isError } = await search(JSON.parse(what) as string[]);
  out(content);
  return isError ? 1 : 0;
}
