/** The table of docs/projects.md, as the policy makes it. `bun test/docs/policy.ts` writes it; a test compares. */
import { readFileSync, writeFileSync } from "node:fs";
import { judge, type Rules, type ToolName } from "../../src/projects/policy.ts";

const examples: Readonly<Record<string, readonly string[] | null>> = {
  "a file": ["src/main.ts"],
  "`.git`, `CLAUDE.md`, `.github` …": [".git/hooks/pre-commit"],
  "what may hold a secret": [".env"],
  "outside the folder": null,
};

function rows(): readonly (readonly string[])[] {
  const usual: Rules = { run: false, ask: "writes", isGranted: false };
  const row = (what: string, tool: ToolName, over: Partial<Rules> = {}): readonly string[] => [
    what,
    ...Object.values(examples).map((paths) => judge(tool, paths, { ...usual, ...over }).verdict),
  ];
  return [
    ["Claude wants to", ...Object.keys(examples)],
    row("read a file", "local_read"),
    row("list names", "local_glob"),
    row("search in files", "local_grep"),
    row('any of these, with `ask = "all"`', "local_read", { ask: "all" }),
    row("write or edit a file", "local_edit"),
    row("the same, within the hour after `always`", "local_edit", { isGranted: true }),
    row("run a command", "local_run"),
    row("the same, with `run = true`", "local_run", { run: true, isGranted: true }),
  ];
}

/** The page with its table as the policy has it now. */
export function withPolicy(page: string): string {
  const [head = [], ...body] = rows();
  const table = [head, head.map(() => "---"), ...body].map((row) => `| ${row.join(" | ")} |`).join("\n");
  return page.replace(
    /(<!-- policy -->\n)[\s\S]*?(<!-- \/policy -->)/u,
    (_, open: string, close: string) => `${open}\n${table}\n\n${close}`,
  );
}

export const pageUrl = new URL("../../docs/projects.md", import.meta.url);

if (import.meta.main) writeFileSync(pageUrl, withPolicy(readFileSync(pageUrl, "utf8")));
