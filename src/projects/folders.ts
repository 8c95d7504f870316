/**
 * Projects: the folders of this machine on which Claude may work, as the settings name them, and the folders that cannot be one.
 *
 * Only the settings and `signalman projects add` make a project, never the chat.
 */
import { realpath, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from "node:path";
import * as v from "valibot";
import { nearest } from "../core/nearest.ts";
import { inWords, readContent } from "./content.ts";
import { pathKind } from "./policy.ts";

/**
 * One `[projects.NAME]` of the settings: `folder` is absolute and not yet looked at, `run` lets Claude ask for commands, with
 * `ask = "all"` reading asks too, the group `group` (standard base64) is its thread, and a command in the sandbox reaches the
 * network where `network` says so, and takes at most `runMinutes`.
 */
export type Project = {
  readonly name: string;
  readonly folder: string;
  readonly run: boolean;
  readonly ask: "writes" | "all";
  readonly network: boolean;
  readonly runMinutes: number;
} & { readonly [text in "group" | "model" | "instructions"]: string | null };

const toFolder = (given: string): string => given.trim().replace(/^~(?=$|[/\\])/u, homedir());
const toggle = v.optional(v.message(v.boolean(), "it takes true or false"), false);
const words = v.pipe(v.string(), v.trim(), v.nonEmpty());
const orNull = (schema: v.GenericSchema<string>, takes: string) =>
  v.nullish(v.message(schema, `it takes ${takes}`), null);
const minutes = v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(60));

const fields = {
  folder: v.message(
    v.pipe(v.string(), v.transform(toFolder), v.check(isAbsolute)),
    "it takes a folder, from / or ~ on",
  ),
  run: toggle,
  ask: v.optional(v.message(v.picklist(["writes", "all"]), "it takes writes or all"), "writes"),
  group: orNull(v.pipe(words, v.regex(/^(group:)?[A-Za-z\d+/]+={0,2}$/u)), "a group's id in standard base64"),
  model: orNull(v.pipe(words, v.regex(/^\w[\w.:@/-]*$/u)), "a model id such as claude-sonnet-5-5"),
  instructions: orNull(words, "a text"),
  network: toggle,
  run_minutes: v.optional(v.message(minutes, "it takes 1 to 60"), 2),
};
const name = v.message(
  v.pipe(v.string(), v.regex(/^(?!off$)[\p{L}\p{N}][\p{L}\p{N}_-]{0,31}$/iu)),
  "a name has up to 32 letters, digits, - and _, and is not off",
);
const tables = v.record(
  name,
  v.strictObject(fields, ({ expected, input }) => {
    if (expected !== "never") return "it takes a table with a folder";
    const near = nearest(String(input), Object.keys(fields));
    return near === null ? `known are ${Object.keys(fields).join(", ")}` : `did you mean ${near}?`;
  }),
  "it takes tables [projects.NAME], or name=folder pairs with commas between",
);

/** The projects that a setting names: tables by name, or `name=folder` pairs; else one sentence that says what is wrong. */
export function readProjects(given: unknown): readonly Project[] | string {
  const pairs =
    typeof given === "string"
      ? given.split(",").flatMap((pair) => (pair.trim() === "" ? [] : [pair.split(/=(.*)/su, 2)]))
      : null;
  const { success, output, issues } = v.safeParse(
    tables,
    pairs === null ? (given ?? {}) : Object.fromEntries(pairs.map(([name = "", folder]) => [name.trim(), { folder }])),
  );
  if (!success)
    return `Cannot use ${["projects", v.getDotPath(issues[0])].filter(Boolean).join(".")}: ${issues[0].message}`;
  const projects = Object.entries(output).map(([name, { run_minutes: runMinutes, group, ...rest }]): Project => {
    return { name, ...rest, group: group?.replace(/^group:/u, "") ?? null, runMinutes };
  });
  const isTwin = (one: Project, other: Project): boolean =>
    one.name.toLowerCase() === other.name.toLowerCase() || (one.group !== null && one.group === other.group);
  const twin = projects.find((project, index) => projects.slice(0, index).some((other) => isTwin(project, other)));
  const isPairTwice = pairs !== null && projects.length < pairs.length;
  if (twin || isPairTwice) return `Cannot use projects.${twin?.name ?? ""}: two have one name, or one group`;
  return projects;
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
  const root = await realpath(folder).catch((error: unknown) => ({ refusal: inWords(error, folder) }));
  if (typeof root !== "string") return root;
  if (!(await stat(root)).isDirectory()) return refuse("is not a folder");
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
  const paths = await Promise.all(guides.map((name) => realpath(join(root, name)).catch(() => "")));
  for (const path of new Set(paths.filter((path) => path.startsWith(root + sep)))) {
    const name = relative(root, path);
    const found = await readContent({ absolute: path, path: name });
    if (pathKind(name) === "secret" || typeof found === "string" || !found?.text.trim()) continue;
    const words = found.text.trim();
    const more = words.length > guideCharsMax ? `\n[the rest is in ${name}]` : "";
    parts.push(`From the project's ${name}:\n\n${words.slice(0, guideCharsMax)}${more}`);
  }
  return parts.filter((part) => part !== "").join("\n\n");
}
