/** Whatever Claude sends: it ends in words, nothing outside the folder is read or changed, and no secret comes without a question. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import fc from "fast-check";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { acts } from "../../src/projects/policy.ts";
import { startRig, type Rig } from "./rig.ts";

let rig: Rig;
beforeEach(async () => {
  rig = await startRig({ run: false });
  mkdirSync(join(rig.root, "sub/deep"), { recursive: true });
  writeFileSync(join(rig.root, "sub/a.txt"), "plain\n");
  writeFileSync(join(rig.root, ".env"), "SECRET-INSIDE\n");
  writeFileSync(join(rig.base, "outside.txt"), "SECRET-OUTSIDE\n");
  symlinkSync("../..", join(rig.root, "sub/up"));
  symlinkSync("../.env", join(rig.root, "sub/env.txt"));
  symlinkSync(join(rig.base, "outside.txt"), join(rig.root, "out.txt"));
});
afterEach(() => rig.stop());

const part = fc.constantFrom(
  "..",
  ".",
  "sub",
  "deep",
  "up",
  "a.txt",
  "env.txt",
  "out.txt",
  ".env",
  ".ENV",
  "outside.txt",
  "home",
  "signalman.db",
  "garden",
  "",
  "~",
  "\u0000",
  "ｅnv",
  "new",
);
const path = fc
  .tuple(fc.constantFrom("", "/", "./", "//"), fc.array(part, { minLength: 1, maxLength: 6 }))
  .map(([start, parts]) => (start === "/" ? `${rig.root}/` : start) + parts.join("/"));
const files = ["local_read", "local_write", "local_edit", "local_glob"] as const;
const outside = () => [readFileSync(join(rig.base, "outside.txt"), "utf8"), ...readdirSync(rig.base).sort()].join();

test("paths of every kind: nothing leaves the folder, and what is free shows no secret", async () => {
  const before = outside();
  const call = fc.tuple(fc.constantFrom(...files), path, fc.constantFrom("*", "**/*", "**/.env", "{..,sub}/*"));
  await fc.assert(
    fc.asyncProperty(call, async ([tool, path, pattern]) => {
      const input = { file_path: path, path, pattern, content: "x", old_string: "plain", new_string: "x" };
      const { plan, content, isError } = await rig.ask(tool, input);
      expect(typeof content).toBe("string");
      expect(content).not.toContain("SECRET-OUTSIDE");
      // Its own words may come back to Claude, but no folder that it did not name.
      expect(content.replaceAll(JSON.stringify(path).slice(1, -1), "").replaceAll(path, "")).not.toContain(rig.base);
      if (plan.verdict === "free") expect(content).not.toContain("SECRET-INSIDE");
      if (plan.verdict === "never") expect(isError).toBe(true);
      expect(outside()).toBe(before);
      writeFileSync(join(rig.root, ".env"), "SECRET-INSIDE\n");
    }),
    { numRuns: 400 },
  );
});

test("any tool with any input ends in words, and in the journal", async () => {
  const before = outside();
  const tool = fc.oneof(fc.constantFrom(...Object.keys(acts)), fc.string());
  const value = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.anything({ maxDepth: 2 }),
    fc.constantFrom("sub/a.txt", ".env"),
  );
  const input = fc.oneof(
    fc.jsonValue(),
    fc.dictionary(
      fc.constantFrom(
        "file_path",
        "path",
        "pattern",
        "content",
        "old_string",
        "new_string",
        "view_range",
        "command",
        "replace_all",
        "timeout_ms",
      ),
      value,
    ),
  );
  await fc.assert(
    fc.asyncProperty(tool, input, async (tool, input) => {
      // What arrives was JSON.
      const given = JSON.parse(JSON.stringify(input ?? null)) as unknown;
      if (tool === "local_grep") return;
      const { id, content } = await rig.ask(tool, given);
      expect(content.length).toBeGreaterThan(0);
      expect(rig.rowOf(id)).toMatchObject({ state: "done", content });
      expect(outside()).toBe(before);
    }),
    { numRuns: 400 },
  );
});
