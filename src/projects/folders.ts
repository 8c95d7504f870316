/**
 * Projects: the folders of this machine on which Claude may work, as the settings name them, and the folders that cannot be one.
 *
 * Only the settings and `signalman projects add` make a project, never the chat.
 */
import { readFile, realpath, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, resolve, sep } from "node:path";
import * as v from "valibot";
import { nearest } from "../core/nearest.ts";
import { pathKind } from "./policy.ts";

/** One `[projects.NAME]` of the settings. */
export type Project = {
  readonly name: string;
  /** Absolute, not yet looked at: {@link openFolder} does. */
  readonly folder: string;
  /** Whether Claude may ask to run commands. */
  readonly run: boolean;
  /** `writes`: reading is free; `all`: every call asks. */
  readonly ask: "writes" | "all";
  /** The group (standard base64) that is this project's thread. */
  readonly group: string | null;
  readonly model: string | null;
  readonly instructions: string | null;
  /** Whether a command in the sandbox reaches the network. */
  readonly network: boolean;
  /** The longest that a command may take, in minutes. */
  readonly runMinutes: number;
};

const text = v.pipe(v.string(), v.trim(), v.nonEmpty());
const toFolder = (given: string): string => given.replace(/^~(?=$|[/\\])/u, homedir());

/** Each key of a project's table: what it is read by, and the words for what it takes. */
const keys = {
  folder: [v.pipe(text, v.transform(toFolder), v.check(isAbsolute)), "a folder, from / or ~ on"],
  run: [v.optional(v.boolean(), false), "true or false"],
  ask: [v.optional(v.picklist(["writes", "all"]), "writes"), "writes or all"],
  group: [
    v.optional(
      v.pipe(
        text,
        v.transform((id) => id.replace(/^group:/u, "")),
        v.base64(),
      ),
    ),
    "a group's id in standard base64",
  ],
  model: [v.optional(v.pipe(text, v.regex(/^\w[\w.:@/-]*$/u))), "a model id such as claude-sonnet-5-5"],
  instructions: [v.optional(text), "a text"],
  network: [v.optional(v.boolean(), false), "true or false"],
  run_minutes: [v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(60)), 2), "1 to 60"],
} as const;

const nameForm = /^[\p{L}\p{N}][\p{L}\p{N}_-]{0,31}$/u;

/** The projects that a setting names: tables by name, or `name=folder` pairs; else one sentence that says what is wrong. */
export function readProjects(given: unknown): readonly Project[] | string {
  const tables = typeof given === "string" ? fromPairs(given) : (given ?? {});
  if (!isTable(tables))
    return "Cannot use projects: it takes tables [projects.NAME], or name=folder pairs with commas between";
  const projects: Project[] = [];
  for (const [name, table] of Object.entries(tables)) {
    const project = readProject(name, table);
    if (typeof project === "string") return project;
    const twin = projects.find((other) => other.name.toLowerCase() === name.toLowerCase());
    if (twin) return `Cannot use projects.${name}: ${twin.name} has the same name`;
    const rival = project.group === null ? undefined : projects.find(({ group }) => group === project.group);
    if (rival) return `Cannot use projects.${name}.group: it is the group of ${rival.name}`;
    projects.push(project);
  }
  return projects;
}

const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

function fromPairs(list: string): Record<string, unknown> | null {
  const pairs = list.split(",").flatMap((pair) => (pair.trim() === "" ? [] : [/^\s*([^=]+?)\s*=(.+)$/u.exec(pair)]));
  const names = new Set(pairs.map((pair) => pair?.[1]));
  if (names.has(undefined) || names.size < pairs.length) return null;
  return Object.fromEntries(pairs.map((pair) => [pair?.[1], { folder: pair?.[2] ?? "" }]));
}

function readProject(name: string, table: unknown): Project | string {
  const path = `projects.${name}`;
  if (!nameForm.test(name) || name.toLowerCase() === "off")
    return `Cannot use ${path}: a project's name is up to 32 letters, digits, - and _, and not "off"`;
  if (!isTable(table)) return `Cannot use ${path}: it takes a table with a folder`;
  const strange = Object.keys(table).find((key) => !(key in keys));
  if (strange !== undefined) {
    const near = nearest(strange, Object.keys(keys));
    return `Cannot use ${path}.${strange}: ${near === null ? `known are ${Object.keys(keys).join(", ")}` : `did you mean ${near}?`}`;
  }
  const read: Record<string, unknown> = {};
  for (const [key, [schema, accepts]] of Object.entries(keys)) {
    const result = v.safeParse(schema as v.GenericSchema, table[key]);
    if (!result.success) return `Cannot use ${path}.${key}: it takes ${accepts}`;
    read[key] = result.output ?? null;
  }
  const { run_minutes: runMinutes, ...rest } = read;
  return { name, ...rest, runMinutes } as Project;
}

/** Whether `path` is `folder` or lies in it; both canonical. Letter case counts for nothing where the answer is a refusal. */
export function isWithin(folder: string, path: string, fold = (name: string): string => name): boolean {
  const [outer, inner] = [fold(resolve(folder)), fold(resolve(path))];
  return inner === outer || inner.startsWith(outer.endsWith(sep) ? outer : outer + sep);
}

/** Canonical as far as it exists. */
const canonical = (path: string): Promise<string> =>
  realpath(path).catch(async () =>
    dirname(path) === path ? path : join(await canonical(dirname(path)), basename(path)),
  );

/** The canonical folder of a project, or why it cannot be one. `home` is signalman's. */
export async function openFolder(
  folder: string,
  home: string,
): Promise<{ readonly root: string } | { readonly refusal: string }> {
  const refuse = (why: string) => ({ refusal: `${folder} ${why}` });
  let root: string;
  try {
    root = await realpath(folder);
    if (!(await stat(root)).isDirectory()) return refuse("is not a folder");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "";
    if (code === "ENOENT" || code === "ENOTDIR") return refuse("does not exist");
    if (code === "EACCES" || code === "EPERM") return refuse("may not be entered by this user");
    return refuse(`cannot be looked at (${code === "" ? String(error) : code})`);
  }
  const [user, own] = await Promise.all([canonical(homedir()), canonical(home)]);
  const fold = (path: string): string => path.toLowerCase().normalize("NFC");
  if (dirname(root) === root) return refuse("is the whole disk: name one folder");
  if (isWithin(root, user, fold)) return refuse("holds your whole home folder: name one folder in it");
  if (isWithin(root, own, fold)) return refuse("holds signalman's own home, with its keys");
  if (isWithin(own, root, fold)) return refuse("lies in signalman's own home");
  // A folder in ~/.ssh is all secrets: nothing in it would look like one to the policy, which sees paths from the root on.
  if (root.split(sep).some((part) => pathKind(part) === "secret" || part === ".git"))
    return refuse("lies among keys or in .git");
  return { root };
}

const guides = ["CLAUDE.md", "AGENTS.md"];
const guideCharsMax = 16_384;

/** What the session is told of the project: the owner's words, and the guides at the folder's root, each bounded. */
export async function instructionsOf(project: Project, root: string): Promise<string> {
  const parts = [project.instructions ?? ""];
  const seen = new Set<string>();
  for (const name of guides) {
    const path = await realpath(join(root, name)).catch(() => null);
    if (path === null || seen.has(path) || !isWithin(root, path) || pathKind(path.slice(root.length + 1)) === "secret")
      continue;
    seen.add(path);
    const { size, isFile } = await stat(path).then((found) => ({ size: found.size, isFile: found.isFile() }));
    if (!isFile || size > 16 * guideCharsMax) continue;
    const words = await readFile(path, "utf8").catch(() => "");
    const cut = words.length > guideCharsMax ? `${words.slice(0, guideCharsMax)}\n[the rest is in ${name}]` : words;
    parts.push(cut.trim() === "" ? "" : `From the project's ${name}:\n\n${cut.trim()}`);
  }
  return parts.filter((part) => part !== "").join("\n\n");
}
