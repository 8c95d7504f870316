/** The parts of the documents that the code knows better. `bun test/docs/readme.ts` writes them; a test compares. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { commands } from "../../src/core/commands.ts";
import { errorTable } from "../../src/core/errors.ts";
import { settingKeys, settingRow, variableOf } from "../../src/settings.ts";

const root = new URL("../../", import.meta.url);
const cell = (text: string): string => text.replaceAll("|", "\\|");
const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`).join("\n");

/** The first sentence of a file's opening comment. */
function purpose(path: string): string {
  const comment = /^(?:#!.*\n)?\/\*\*([\s\S]*?)\*\//u.exec(readFileSync(new URL(path, root), "utf8"))?.[1] ?? "";
  const words =
    comment
      .replaceAll(/^\s*\* ?/gmu, "")
      .trim()
      .split("\n\n", 1)[0] ?? "";
  return (/^[\s\S]*?[.:;](?=\s|$)/u.exec(words.replaceAll("\n", " "))?.[0] ?? words).replace(/[.:;]$/u, "");
}

/** One line a file, in the order of the folders: what an `ls` would say if it could. */
function sourceMap(): string {
  const list = (folder: string): string[] => {
    const entries = readdirSync(new URL(`${folder}/`, root), { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    );
    const files = entries.filter(({ name }) => name.endsWith(".ts") && !name.endsWith("_pb.ts"));
    const lines = files.map(({ name }) => `  ${name.padEnd(20)} ${purpose(`${folder}/${name}`)}`);
    const folders = entries.filter((entry) => entry.isDirectory()).flatMap(({ name }) => list(`${folder}/${name}`));
    return [...(lines.length > 0 ? [`${folder}/`, ...lines] : []), ...folders];
  };
  return ["```text", ...list("src"), "```"].join("\n");
}

/** The benchmark's rows that have a target, without their spread. */
const benchTable = (): string =>
  table(
    ["what", "median", "target"],
    readFileSync(new URL("test/bench/results/bench.md", root), "utf8")
      .split("\n")
      .map((line) => line.split("|").map((text) => text.trim()))
      .filter((cells) => /[✓✗]$/u.test(cells[6] ?? ""))
      .map(([, , what = "", median = "", , , target = ""]) => [what, median, target]),
  );

/** The generated parts by name. */
export const parts: Record<string, () => string> = {
  settings: () =>
    table(
      ["variable", "meaning", "accepts", "default"],
      settingKeys.map((key) => {
        const { doc, accepts, fallback } = settingRow(key);
        const shown = fallback === null || key === "system" ? "" : `\`${fallback}\``;
        return [`\`${variableOf(key)}\``, doc, accepts, shown];
      }),
    ),
  commands: () =>
    table(
      ["command", "what it does"],
      commands.map(({ use, what }) => [`\`${use}\``, what]),
    ),
  errors: () =>
    table(
      ["code", "what it means", "what to do"],
      Object.entries(errorTable).map(([code, { title, hint }]) => [`\`${code}\``, title, hint]),
    ),
  bench: benchTable,
  map: sourceMap,
};

/** A document with its generated parts as the code has them now. */
export function rendered(document: string): string {
  return Object.entries(parts).reduce(
    (text, [name, make]) =>
      text.replace(
        new RegExp(`(<!-- ${name} -->\n)[\\s\\S]*?(<!-- /${name} -->)`, "u"),
        (_, open: string, close: string) => `${open}${make()}\n${close}`,
      ),
    document,
  );
}

/** The documents that have such parts. */
export const documents = ["README.md", "docs/settings.md", "docs/chat.md", "docs/troubleshooting.md"];
export const urlOf = (path: string): URL => new URL(path, root);

if (import.meta.main) for (const url of documents.map(urlOf)) writeFileSync(url, rendered(readFileSync(url, "utf8")));
