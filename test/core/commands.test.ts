import { expect, test } from "bun:test";
import stringWidth from "string-width";
import { commandHelp, commands } from "../../src/core/commands.ts";

test("/help: each command once, on a line that a phone does not break; what a person needs first on top", () => {
  const lines = commandHelp().split("\n");
  for (const line of lines) expect(stringWidth(line)).toBeLessThanOrEqual(40);
  expect(lines[0]).toStartWith("/new ");
  const shown = lines.filter((line) => line !== "").map((line) => line.split(" – ")[0] ?? "");
  expect(shown.toSorted()).toEqual(commands.map(({ use }) => use).toSorted());
});
