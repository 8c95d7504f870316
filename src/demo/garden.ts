/** The project of the demo: a scratch folder with a typo in it, and what the scripted Claude does there. */
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Part, Reply } from "./world.ts";

/** Makes the folder; who calls it removes it. */
export function makeGarden(): string {
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  writeFileSync(join(folder, "README.md"), "# Teh garden\n\nRoses, mostly.\n");
  return folder;
}

/** The first line of the file with the typo. */
export const titleIn = (folder: string): string => readFileSync(join(folder, "README.md"), "utf8").split("\n")[0] ?? "";

export const gardenPrompt = "Fix the typo in README";

const steps = [
  { tool: "local_read", input: { file_path: "README.md" } },
  { tool: "local_edit", input: { file_path: "README.md", old_string: "Teh garden", new_string: "The garden" } },
  "The title reads “The garden” now. /diff shows it, /undo takes it back.",
] as const;

/** What Claude says or does next for a prompt about the typo; null where the prompt is about something else. */
export function inGarden(prompt: string, { results, hasTools }: Part): Reply | null {
  if (!/\btypo\b/iu.test(prompt)) return null;
  if (!hasTools) return "I see no folder here. /project garden opens the one of this demo.";
  if (results.at(-1)?.isError) return "Then I leave it as it is.";
  return steps[Math.min(results.length, steps.length - 1)] ?? null;
}
