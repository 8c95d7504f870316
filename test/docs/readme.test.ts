import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { readmeUrl, rendered } from "./readme.ts";

const readme = readFileSync(readmeUrl, "utf8");

test("the README's tables of settings, commands, errors and files are those of the code (bun test/docs/readme.ts writes them)", () => {
  expect(rendered(readme)).toBe(readme);
});

test("the README has one title, and every file and picture it names exists", () => {
  expect(readme.replaceAll(/```[\s\S]*?```/gu, "").match(/^# /gmu)).toHaveLength(1);
  const named = [...readme.matchAll(/\]\((docs\/[^)]+)\)|`((?:src|test|docs)\/[\w./-]+)`/gu)].map(
    (match) => match[1] ?? match[2] ?? "",
  );
  expect(named.filter((path) => !existsSync(new URL(path, readmeUrl)))).toEqual([]);
  expect(named.length).toBeGreaterThan(5);
});
