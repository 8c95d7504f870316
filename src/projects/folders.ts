/** Projects: the folders of this machine on which Claude may work. Only the settings make one, never the chat. */
import { mkdir, realpath, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, relative, sep } from "node:path";
import * as v from "valibot";
import { ownProgram } from "../core/model.ts";
import { didYouMean } from "../core/nearest.ts";
import { inWords, readFileText } from "./file-content.ts";
import { pathKind } from "./policy.ts";

const toFolder = (given: string): string => given.trim().replace(/^~(?=$|[/\\])/u, homedir());
const folder = v.pipe(v.string(), v.transform(toFolder), v.check(isAbsolute));
const toggle = v.optional(v.message(v.boolean(), "it takes true or false"), false);
const like = (form: RegExp, takes: string) =>
  v.nullish(v.message(v.pipe(v.string(), v.trim(), v.regex(form)), `it takes ${takes}`), null);
const minutes = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(60));
const fields = {
  folder: v.message(folder, "it takes a folder, from / or ~ on"),
  run: toggle,
  ask: v.optional(v.message(v.picklist(["writes", "all"]), "it takes writes or all"), "writes"),
  group: like(/^(group:)?[A-Za-z\d+/]+={0,2}$/u, "a group's id in standard base64"),
  model: like(/^\w[\w.:@/-]*$/u, "a model id such as claude-sonnet-5-5"),
  instructions: like(/./u, "a text"),
  backend: v.nullish(v.message(v.picklist([ownProgram]), `it takes ${ownProgram}`), null),
  network: toggle,
  run_minutes: v.optional(v.message(minutes, "it takes 1 to 60"), 2),
};
/**
 * One `[projects.NAME]`, whose keys docs/projects.md explains. `folder` is absolute; only `openFolder` looks whether it is there. With a
 * `backend` another agent than that of the settings works on the project: the owner's own program.
 */
export type Project = Readonly<{ name: string; runMinutes: number } & Omit<Table, "run_minutes">>;
type Table = v.InferOutput<v.ObjectSchema<typeof fields, undefined>>;

const toProject = (name: string, { run_minutes: runMinutes, group, ...rest }: Table): Project => {
  return { name, ...rest, runMinutes, group: group?.replace(/^group:/u, "") ?? null };
};

const nameForm = v.regex(/^(?!off$)[\p{L}\p{N}][\p{L}\p{N}_-]{0,31}$/iu);
const tables = v.record(
  v.message(v.pipe(v.string(), nameForm), "a name has up to 32 letters, digits, - and _, and is not off"),
  v.strictObject(fields, ({ expected, input }) => {
    if (expected !== "never") return "it takes a table with a folder";
    return didYouMean(String(input), Object.keys(fields)) || `Known are ${Object.keys(fields).join(", ")}`;
  }),
  "it takes tables [projects.NAME], or name=folder pairs with commas between",
);

/** The projects that a setting names: tables by name, or `name=folder` pairs; else one sentence that says what is wrong. */
export function readProjects(given: unknown): readonly Project[] | string {
  const pairs = typeof given === "string" ? given.split(",").filter((pair) => pair.trim() !== "") : null;
  const entries = pairs?.map((pair) => pair.trim().split(/\s*=(.*)/su)).map(([name, folder]) => [name, { folder }]);
  const { success, output, issues } = v.safeParse(tables, entries ? Object.fromEntries(entries) : (given ?? {}));
  if (!success)
    return `Cannot use ${["projects", v.getDotPath(issues[0]) ?? []].flat().join(".")}: ${issues[0].message}`;
  const projects = Object.entries(output).map(([name, table]) => toProject(name, table));
  const isTwin = (one: Project, other: Project): boolean =>
    one.name.toLowerCase() === other.name.toLowerCase() || (one.group !== null && one.group === other.group);
  const twin = projects.find((project, index) => projects.slice(0, index).some((other) => isTwin(project, other)));
  if (twin || projects.length < (pairs?.length ?? 0))
    return `Cannot use projects.${twin?.name ?? "…"}: two have one name or group`;
  return projects;
}

/** The canonical form of as much of `path` as exists. */
async function canonical(path: string): Promise<string> {
  const parent = dirname(path);
  return realpath(path).catch(async () => (parent === path ? path : join(await canonical(parent), basename(path))));
}

export type Folder = { readonly root: string } | { readonly refusal: string };

/** The canonical folder of a project, or why it cannot be one. `home` is signalman's. */
export async function openFolder(folder: string, home: string): Promise<Folder> {
  const refuse = (why: string): Folder => ({ refusal: `${folder} ${why}` });
  let root = folder;
  try {
    root = await realpath(folder);
    if (!(await stat(root)).isDirectory()) return refuse("is not a folder");
  } catch (error) {
    return { refusal: inWords(error, folder) };
  }
  const [user, own] = await Promise.all([canonical(homedir()), canonical(home)]);
  // Letter case is ignored, which can only refuse more.
  const isWithin = (outer: string, inner: string): boolean => {
    const way = relative(outer.toLowerCase(), inner.toLowerCase());
    // From one drive of Windows to another no way leads.
    return !/^\.\.(?=$|[/\\])/u.test(way) && !isAbsolute(way);
  };
  if (dirname(root) === root) return refuse("is the whole disk: name one folder");
  if (isWithin(root, user)) return refuse("holds your whole home folder: name one folder in it");
  if (isWithin(root, own)) return refuse("holds signalman's own home, with its keys");
  if (isWithin(own, root)) return refuse("lies in signalman's own home");
  // A folder in ~/.ssh is refused, since the policy sees paths from the root on and would take no file in it for a secret.
  if (root.split(sep).some((part) => pathKind(part) === "secret" || part === ".git"))
    return refuse("lies among keys or in .git");
  return { root };
}

/** The folder of the owner's own program for chats without a project: the only folder in signalman's home that Claude may see. */
export function chatFolder(home: string): Project {
  const free = { backend: ownProgram, run: true, network: true, run_minutes: 60 };
  return toProject("", v.parse(v.object(fields), { folder: join(home, "chats"), ...free }));
}

/** Opens the folder of a project, or that of chats without one, which is made where it is missing. */
export async function openPlace(project: Project, home: string): Promise<Folder> {
  if (project.name !== "") return openFolder(project.folder, home);
  try {
    await mkdir(project.folder, { recursive: true, mode: 0o700 });
    return { root: await realpath(project.folder) };
  } catch (error) {
    return { refusal: inWords(error, project.folder) };
  }
}

const guides = ["CLAUDE.md", "AGENTS.md"];
const guideCharsMax = 16_384;

/** Resolves to the instructions of a project: the owner's words, and the guides at the folder's root, each bounded. */
export async function instructionsOf(project: Project, root: string): Promise<string> {
  const parts = project.instructions === null ? [] : [project.instructions];
  const paths = await Promise.all(guides.map((name) => realpath(join(root, name)).catch(() => "")));
  for (const path of new Set(paths.filter((path) => path.startsWith(root + sep)))) {
    const name = relative(root, path);
    const found = await readFileText({ absolute: path, path: name });
    if (pathKind(name) === "secret" || typeof found === "string" || !found?.text.trim()) continue;
    const words = found.text.trim();
    const more = words.length > guideCharsMax ? `\n[the rest is in ${name}]` : "";
    parts.push(`From the project's ${name}:\n\n${words.slice(0, guideCharsMax)}${more}`);
  }
  return parts.join("\n\n");
}
