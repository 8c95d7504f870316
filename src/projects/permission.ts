/**
 * Plans the calls for which the owner's own `claude` program asks permission: policy, question and journal are those of our own tools, so
 * that a project is the same whichever agent works on it. The program then does the call itself; files are kept for `/undo` before an edit.
 */
import { stat } from "node:fs/promises";
import { itemOf } from "../core/question.ts";
import type { JsonValue } from "../core/model.ts";
import { hashInput, type CallResult } from "../store/calls.ts";
import { leavesFolder, locate } from "./file-content.ts";
import { twins } from "./policy.ts";
import { planCall, type Plan, type CallSite } from "./tools.ts";

/** Inputs that the question shows anyway, or that change nothing of it. */
const shown = new Set(
  "file_path offset limit pages pattern path old_string new_string replace_all content command description".split(" "),
);

/** The program runs in no sandbox of ours. */
const noSandbox = { kind: "none", why: "" } as const;
const yes: CallResult = { content: "yes", isError: false };

/**
 * True for a helper of Claude's that is free, since its tools ask for what they do. A helper with a copy of the folder is not: git makes
 * that copy and starts programs that the folder's own configuration names.
 */
const isPlainHelper = (tool: string, input: unknown): boolean =>
  /^(?:Agent|Task)$/u.test(tool) && !("isolation" in Object(input));

/** Resolves to the plan for a call of the program. An unknown tool asks, and its question shows all inputs. */
export async function planPermission(tool: string, input: unknown, site: CallSite): Promise<Plan> {
  const twin = Object.hasOwn(twins, tool) ? twins[tool] : undefined;
  if (twin === undefined) {
    const use = { id: "", at: null, type: "tool_use", isAsk: true, isLocal: true, name: tool } as const;
    const { what, detail } = itemOf({ ...use, input: input as JsonValue });
    const basis = hashInput(tool, input);
    const holds = (asked: string): boolean => asked === basis;
    const deed = { title: what, detail, basis, holds, work: async () => yes };
    if (isPlainHelper(tool, input)) return { verdict: "free", reason: "it asks for what it does", ...deed };
    return { verdict: "asks", reason: "it may do anything", ...deed };
  }
  if (leadsOut(tool, input)) return { verdict: "never", reason: "It leads out of the project's folder." };
  const plan = await planCall(twin, input, { ...site, sandbox: noSandbox });
  if (plan.verdict === "never") return plan;
  const isOpen = twin === "local_grep" && (await showsLines(input as Search, site));
  const more = Object.entries(input as object).filter(([key]) => !shown.has(key));
  const lines = more.map(([key, value]) => `(${key}: ${JSON.stringify(value)})`);
  const basis = more.length === 0 ? plan.basis : hashInput(tool, [input, plan.basis]);
  return {
    ...plan,
    ...(isOpen ? { verdict: "asks", reason: searchRule } : {}),
    detail: [plan.detail, ...lines].join("\n"),
    basis,
    holds: (asked) => (more.length === 0 ? plan.holds(asked) : asked === basis),
    async work() {
      await plan.keep?.();
      return yes;
    },
  };
}

/** True for names that lead the program out of the folder: it takes `~` for the home folder, and a pattern of `Glob` may be a path. */
function leadsOut(tool: string, input: unknown): boolean {
  const { file_path: file, notebook_path: book, path, pattern } = Object(input) as Readonly<Record<string, unknown>>;
  const walked = tool === "Glob" && typeof pattern === "string" ? pattern : "";
  return [file, book, path, walked].some((name) => String(name).startsWith("~")) || leavesFolder(walked);
}

type Search = { readonly output_mode?: string; readonly path?: string };

/** The rule for the program's own search, told to Claude, since we cannot leave out lines of its result. */
export const searchRule =
  "Grep with output_mode content over a folder asks the owner, as it shows what may be secret; names of files, counts, and lines of one file do not.";

async function showsLines({ output_mode: mode, path = "." }: Search, { scope }: CallSite): Promise<boolean> {
  if (mode !== "content") return false;
  const { absolute } = await locate(scope.root, path);
  const found = await stat(absolute).catch(() => null);
  return found?.isFile() !== true;
}
