/** The tools of a project: the SDK's own bodies, which it confines to the folder, and the plan of a call: what it would do now. */
import { stat } from "node:fs/promises";
import { sep } from "node:path";
import * as v from "valibot";
import type { Clock } from "../clock.ts";
import type { JsonValue } from "../core/model.ts";
import { hashInput, type CallResult } from "../store/calls.ts";
import * as content from "./file-content.ts";
import type { Project } from "./folders.ts";
import { acts, isToolName, judge, pathKind, type Act, type Rules, type ToolName } from "./policy.ts";
import { runCommand, type ShellCommand } from "./runner.ts";
import { patchOf, type Scope, type Undo } from "./undo.ts";

/** The place of a call. `home` is signalman's, `self` the command that starts signalman; `isGranted`: see `Rules`. */
export type CallSite = Pick<ShellCommand, "home" | "env" | "sandbox"> &
  Pick<Rules, "isGranted"> & {
    readonly self: readonly string[];
    readonly project: Project;
    readonly scope: Scope;
    readonly undo: Pick<Undo, "isLeft" | "keep">;
    readonly clock: Clock;
  };

/** `title`: one line, for question and progress. `detail`: all of it, as unified diff or command; "" for reading. */
type Deed = {
  readonly [text in "title" | "detail" | "basis"]: string;
} & {
  /** Whether a yes to `basis`, a hash of what the question showed and what it rests on, is a yes to this call as it is now. */
  readonly holds: (basis: string) => boolean;
  /** Does the call; never rejects. */
  readonly work: (signal: AbortSignal) => Promise<CallResult>;
  /** Keeps the file for `/undo` before another program changes it. */
  readonly keep?: () => Promise<void>;
};

/** The verdict on a call, its reason, and the deed. */
export type Plan =
  | { readonly verdict: "never"; readonly reason: string }
  | (Deed & { readonly verdict: "free" | "asks"; readonly reason: string });

const resultBytesMax = 49_000;
const searchMs = 60_000;
const globLengthMax = 200;

const file = v.pipe(v.string(), v.nonEmpty(), v.maxLength(4_096));
const line = v.pipe(v.number(), v.integer());
const look = v.object({ pattern: file, path: v.optional(file, ".") });
const inputs = {
  local_read: v.object({ file_path: file, view_range: v.optional(v.tuple([v.pipe(line, v.minValue(1)), line])) }),
  local_glob: look,
  local_grep: look,
  local_write: v.object({ file_path: file, content: v.string() }),
  local_edit: v.object({
    file_path: file,
    old_string: v.pipe(v.string(), v.nonEmpty()),
    new_string: v.string(),
    replace_all: v.optional(v.boolean(), false),
  }),
  local_run: v.object({
    command: v.pipe(v.string(), v.trim(), v.nonEmpty(), v.maxLength(10_000), v.excludes("\0")),
    timeout_ms: v.optional(v.pipe(line, v.minValue(1)), 3_600_000),
  }),
} satisfies Record<ToolName, v.GenericSchema>;
type Input<T extends ToolName> = v.InferOutput<(typeof inputs)[T]>;
type Look = Input<"local_read" | "local_grep">;
type Change = Input<"local_write" | "local_edit">;

/** A tool as both backends announce it. */
type Definition = { readonly name: ToolName; readonly description: string; readonly inputSchema: Schema };
type Schema = { readonly [key: string]: JsonValue };

/** The tools of a project, with the SDK's schemas; `local_run` only where the project allows it. */
export async function definitionsOf(project: Pick<Project, "run" | "runMinutes">): Promise<Definition[]> {
  const sdk = await content.loadSdk();
  const asked = "The owner is shown the difference and may say no.";
  const files = [
    ["local_read", sdk.betaReadTool, "Read a text file, at most 50 KB at a time; view_range reads on."],
    ["local_glob", sdk.betaGlobTool, `List files by a glob pattern, newest first, at most ${globLengthMax}.`],
    ["local_grep", sdk.betaGrepTool, "Search the files for a regular expression."],
    ["local_write", sdk.betaWriteTool, `Write a whole text file. ${asked}`],
    ["local_edit", sdk.betaEditTool, `Replace one text in a file. ${asked}`],
  ] as const;
  const tools = files.map(([name, body, does]): Definition => {
    const { input_schema: inputSchema } = body({ workdir: sep }) as unknown as { readonly input_schema: Schema };
    return { name, description: `${does} Paths are relative to the folder, on the owner's machine.`, inputSchema };
  });
  if (!canRun(project)) return tools;
  const timeout_ms = { type: "integer", description: `at most, and without it, ${project.runMinutes * 60_000}` };
  const properties = { command: { type: "string" }, timeout_ms };
  const description = "Run one line of /bin/sh in the folder, without input. The owner is shown it and may say no.";
  const inputSchema = { type: "object", properties, required: ["command"] };
  return [...tools, { name: "local_run", description, inputSchema }];
}

/** False on Windows, which has no /bin/sh. */
const canRun = ({ run }: Pick<Project, "run">): boolean => run && process.platform !== "win32";

const failed = (words: string): CallResult => ({ content: words, isError: true });
const done = (words: string): CallResult => ({ content: words, isError: false });

/** Resolves to what a call would do now. Never rejects: a call that cannot be done is `never`, with the reason for Claude. */
export async function planCall(name: string, given: unknown, site: CallSite): Promise<Plan> {
  const never = (reason: string): Plan => ({ verdict: "never", reason });
  const rules = { run: canRun(site.project), ask: site.project.ask, isGranted: site.isGranted };
  if (!isToolName(name)) return never(judge(name, [], rules).reason);
  const read = v.safeParse(inputs[name], given);
  if (!read.success) return never(`${name}: ${v.getDotPath(read.issues[0]) ?? "input"}: ${read.issues[0].message}`);
  const input = read.output;
  const path = "file_path" in input ? input.file_path : "path" in input ? input.path : "";
  try {
    const place = await content.locate(site.scope.root, path);
    const { verdict, reason } = judge(name, [path, place.path], rules);
    if (verdict === "never") return never(reason);
    const deed = await deedOf(name, input, place, site);
    return typeof deed === "string" ? never(deed) : { verdict, reason, ...deed };
  } catch (error) {
    return never(content.inWords(error, path));
  }
}

function deedOf(name: ToolName, input: Input<ToolName>, place: content.Place, site: CallSite) {
  if ("command" in input) return running(input, site);
  if ("content" in input || "old_string" in input) return changing(input, place, site);
  const what = "pattern" in input ? `${input.pattern} in ${place.path || site.project.name}` : place.path;
  const basis = hashInput(name, [input, place.absolute]);
  const isSearch = acts[name] === "search" && "pattern" in input;
  return {
    title: `${isSearch ? "search for" : "pattern" in input ? "list" : "read"} ${what}`,
    detail: "",
    basis,
    holds: (asked: string) => asked === basis,
    work: (signal: AbortSignal) =>
      isSearch
        ? searching([site.scope.root, input.pattern, place.path], site, signal)
        : reading("pattern" in input ? "list" : "read", input, place, site.scope.root, signal),
  };
}

// A search is a process of its own: the SDK matches on a thread made from text, which our binary refuses, and an endless pattern would hold
// up the daemon. The process starts in signalman's home, since a runtime may take orders from the folder where it starts.
async function searching(what: readonly string[], site: CallSite, signal: AbortSignal): Promise<CallResult> {
  const { home, env, clock, self } = site;
  const command = [...self, "projects", "search", JSON.stringify(what)];
  const place = { root: home, home, env, network: true, sandbox: { kind: "none", why: "" } } as const;
  const { code, ended, output } = await runCommand({ ...place, command, timeoutMs: searchMs }, clock, signal);
  if (ended !== null) return failed("the search was stopped, or took longer than a minute: narrow it");
  return { content: output, isError: code !== 0 };
}

/** Does the search, in the process that `searching` starts. */
export async function search([root = "", pattern = "", path = ""]: readonly string[]): Promise<CallResult> {
  const place = await content.locate(root, path || ".").catch((error: unknown) => content.inWords(error, path));
  if (typeof place === "string" || place.path !== path) return failed(`${path}: it is not what it was`);
  return reading("search", { pattern, path: place.absolute }, place, root, new AbortController().signal);
}

async function reading(act: Act, input: Look, place: content.Place, root: string, signal: AbortSignal) {
  try {
    const sdk = await content.loadSdk();
    const isFile = (await stat(place.absolute)).isFile();
    const body = act === "read" ? sdk.betaReadTool : sdk.betaGrepTool;
    const limit = AbortSignal.any([signal, AbortSignal.timeout(searchMs)]);
    const work =
      act === "list" && "pattern" in input
        ? content.list(place.absolute, input.pattern, globLengthMax, limit)
        : body({ workdir: root, maxFileBytes: content.fileBytesMax }).run(input, { signal } as never);
    const stopped = new Promise<never>((_, reject) =>
      limit.addEventListener("abort", () => reject(new Error("it was stopped, or took longer than a minute"))),
    );
    const text = (await Promise.race([work, stopped])) as string;
    if (act === "read" && content.hasNul(text)) return failed(`${place.path} is not text: it cannot be read here`);
    if (!("pattern" in input)) return done(page(text, place.path, input.view_range?.[0] ?? 1));
    return done(hits(text, root, act === "list", isFile || pathKind(place.path) === "secret"));
  } catch (error) {
    return failed(content.inWords(error, place.path));
  }
}

/** The part of a text that fits a result, in whole lines where it has some. */
function cut(text: string): string {
  const bytes = Buffer.from(text);
  const end = bytes.lastIndexOf("\n", resultBytesMax);
  if (bytes.length <= resultBytesMax) return text;
  return bytes.toString("utf8", 0, end > 0 ? end : resultBytesMax).replace(/\uFFFD$/u, "");
}

/** A page of what was read, from line `first` on, with the words how to read on. */
function page(text: string, path: string, first: number): string {
  const shown = cut(text);
  if (shown === text) return text === "" ? `[${path} has nothing there]` : text;
  const last = first + shown.split("\n").length - 1;
  const isPart = text[shown.length] !== "\n" ? " Of the last one only the beginning is shown." : "";
  return `${shown}\n[Lines ${first} to ${last} of ${path}.${isPart} Read on with view_range [${last + 1}, ${last + 500}].]`;
}

/** Hits with paths relative to the folder. Lines of files that may hold a secret are left out, unless the owner was asked for that file. */
function hits(text: string, root: string, isList: boolean, isAsked: boolean): string {
  const from = root.endsWith(sep) ? root : root + sep;
  const all = text.split("\n").map((hit) => (hit.startsWith(from) ? hit.slice(from.length) : hit));
  const isShown = (hit: string): boolean => pathKind(/^(.*?):\d+:/u.exec(hit)?.[1] ?? "") !== "secret";
  const lines = isList || isAsked ? all : all.filter(isShown);
  const whole = lines.join("\n");
  const shown = cut(whole);
  const more = shown === whole ? "" : "\n[There is more: narrow the pattern or the path.]";
  const newest = isList && all.length >= globLengthMax ? `\n[Only the newest ${globLengthMax} are listed.]` : "";
  const hidden = `\n[${all.length - lines.length} lines of files that may hold a secret are left out; local_read asks for one.]`;
  return `${shown}${more}${newest}${lines.length < all.length ? hidden : ""}`.trim();
}

async function changing(input: Change, place: content.Place, { scope, undo }: CallSite): Promise<Deed | string> {
  const present = await content.readFileText(place);
  if (typeof present === "string") return present;
  const after = "content" in input ? { text: input.content } : edited(input, present?.text ?? null, place.path);
  if (typeof after === "string") return after;
  if (Buffer.byteLength(after.text) > content.fileBytesMax)
    return `${place.path} would have more than ${content.fileBytesMax} bytes`;
  if (after.text === present?.text) return `${place.path} is like that already`;
  const detail = patchOf(place.path, present?.text ?? null, after.text).replace(/\n$/u, "");
  const lines = detail.split("\n").slice(2);
  const count = (mark: string): number => lines.filter((line) => line.startsWith(mark)).length;
  const verb = "old_string" in input ? "edit" : present === null ? "make" : "write";
  const was = content.hashOf(present?.bytes ?? null);
  const whole = hashInput(verb, [place.absolute, was, after.text]);
  // `part` hashes the lines without their place: another edit of this turn elsewhere in the file leaves the yes to this one valid.
  const part = hashInput(verb, [place.absolute, lines.filter((line) => !line.startsWith("@@"))]);
  const isOurs = undo.isLeft(scope, place.path, was);
  const keep = () => undo.keep(scope, place.path, present, after.text);
  return {
    keep,
    title: `${verb} ${place.path} (+${count("+")} −${count("-")})`,
    detail,
    basis: `${whole}:${part}`,
    holds: (asked) => asked.startsWith(`${whole}:`) || (isOurs && asked.endsWith(`:${part}`)),
    async work() {
      try {
        await keep();
        await content.replace(scope.root, place, after.text);
        return done(`${verb === "edit" ? "edited" : "wrote"} ${place.path}`);
      } catch (error) {
        return failed(`nothing was written: ${content.inWords(error, place.path)}`);
      }
    },
  };
}

function edited(input: Input<"local_edit">, text: string | null, path: string): { readonly text: string } | string {
  const parts = text?.split(input.old_string) ?? [];
  if (text === null) return `${path}: there is no such file`;
  if (parts.length === 1) return `old_string is not in ${path}`;
  if (parts.length === 2 || input.replace_all) return { text: parts.join(input.new_string) };
  return `old_string is in ${path} ${parts.length - 1} times: make it longer, or set replace_all`;
}

function running(input: Input<"local_run">, { project, sandbox, scope, home, env, clock }: CallSite): Deed {
  const timeoutMs = Math.min(input.timeout_ms, project.runMinutes * 60_000);
  const command = { command: input.command, root: scope.root, home, network: project.network, sandbox, timeoutMs, env };
  const where = sandbox.kind === "none" ? "without a sandbox" : `sandboxed, ${project.network ? "with" : "no"} network`;
  const basis = hashInput("run", [input.command, scope.root, where]);
  return {
    title: `run in ${project.name || "a folder for chats"} (${where})`,
    detail: input.command,
    basis,
    holds: (asked) => asked === basis,
    async work(signal) {
      const startedAt = clock.monotonic();
      const { code, ended, output } = await runCommand(command, clock, signal);
      const how = ended ?? (code === null ? "ended by a signal" : `exit code ${code}`);
      const seconds = ((clock.monotonic() - startedAt) / 1_000).toFixed(1);
      return { content: `[${how}, ${seconds} s]\n${output}`.trimEnd(), isError: ended !== null || code !== 0 };
    },
  };
}
