import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { documents, parts, rendered, urlOf } from "./readme.ts";

const texts = documents.map((path) => [path, readFileSync(urlOf(path), "utf8")] as const);
const readme = readFileSync(urlOf("README.md"), "utf8");

test.each(texts)("the generated parts of %s are those of the code (bun test/docs/readme.ts writes them)", (_, text) => {
  expect(rendered(text)).toBe(text);
});

test("every generated part stands in one document", () => {
  for (const name of Object.keys(parts))
    expect([name, texts.filter(([, text]) => text.includes(`<!-- ${name} -->`)).length]).toEqual([name, 1]);
});

test("the README has one title, is two screens before its map, and every file and picture it names exists", () => {
  const beforeMap = readme.slice(0, readme.indexOf("<!-- map -->"));
  expect(beforeMap.split("\n").length).toBeLessThanOrEqual(80);
  expect(readme.replaceAll(/```[\s\S]*?```/gu, "").match(/^# /gmu)).toHaveLength(1);
  const named = [...readme.matchAll(/\]\((docs\/[^)#]+)(?:#[^)]*)?\)|`((?:src|test|docs)\/[\w./-]+)`/gu)].map(
    (match) => match[1] ?? match[2] ?? "",
  );
  expect(named.filter((path) => !existsSync(urlOf(path)))).toEqual([]);
  expect(named.length).toBeGreaterThan(5);
});
