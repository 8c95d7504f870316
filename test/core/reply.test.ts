import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { renderReply, takeListings } from "../../src/core/reply.ts";
import { isDraftDue, question, shorten, toolLine } from "../../src/core/progress.ts";

const lines = (count: number): string => Array.from({ length: count }, (_, n) => `line ${n}`).join("\n");
const fenced = (info: string, code: string, fence = "```"): string => `${fence}${info}\n${code}\n${fence}`;
const contentOf = (base64: string): string =>
  new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));

describe("long code becomes a file", () => {
  test("what fits on a screen stays where it is", () => {
    const text = `Look:\n\n${fenced("ts", lines(40))}`;
    expect(takeListings(text)).toEqual({ markdown: text, files: [] });
  });
  test("what does not is a file with the code and nothing else, and a line in its place", () => {
    const code = `${lines(60)}\n// grüße 🎉`;
    const { markdown, files } = takeListings(`Look:\n\n${fenced("typescript", code)}\n\nBye`);
    expect(markdown).toBe("Look:\n\n📎 **code.ts**, 61 lines\n\nBye");
    expect(files.map(({ fileName }) => fileName)).toEqual(["code.ts"]);
    expect(contentOf(files[0]?.base64 ?? "")).toBe(`${code}\n`);
  });
  test("the line before the block names it; two of a name are told apart", () => {
    const block = fenced("py", lines(50));
    const { files } = takeListings(`\`src/app.py\`:\n${block}\n\n**app.py**:\n${block}\n\nAnd this\n${block}`);
    expect(files.map(({ fileName }) => fileName)).toEqual(["app.py", "2-app.py", "code-3.py"]);
  });
  test("few but endless lines count too; a fence without an end goes to the end; an inner fence is code", () => {
    expect(takeListings(fenced("json", `"${"x".repeat(1_600)}"`)).markdown).toBe("📎 **code.json**, 1 line");
    expect(takeListings(`\`\`\`sh\n${lines(50)}`).files).toHaveLength(1);
    const outer = fenced("md", `${lines(50)}\n\`\`\`js\nx\n\`\`\``, "~~~~");
    expect(takeListings(outer)).toMatchObject({
      markdown: "📎 **code.md**, 53 lines",
      files: [{ fileName: "code.md" }],
    });
  });
  test("a language can be no path", () => {
    expect(takeListings(fenced("../../etc/passwd", lines(50))).files[0]?.fileName).toBe("code.txt");
  });
  test("any text: never throws, and what has no fence stays as it is", () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom("```", "~~~", "a", "```js", "    ```", "", "x`y")), (parts) => {
        const text = parts.join("\n").repeat(9);
        const { markdown, files } = takeListings(text);
        if (!/```|~~~/u.test(text)) expect(markdown).toBe(text);
        expect(files.length).toBeLessThanOrEqual(text.split("\n").length);
      }),
    );
  });
});

test("parts are counted from three on, each within what Signal takes", () => {
  const word = "ünïcode ".repeat(180);
  expect(renderReply(word).map((body) => (body.kind === "text" ? body.text.slice(-6) : ""))).toHaveLength(1);
  const parts = renderReply(word.repeat(5)).map((body) => (body.kind === "text" ? body.text : ""));
  expect(parts.length).toBeGreaterThan(2);
  expect(parts.map((part) => part.split("\n").at(-1))).toEqual(parts.map((_, n) => `(${n + 1}/${parts.length})`));
  for (const part of parts) expect(new TextEncoder().encode(part).length).toBeLessThanOrEqual(2_000);
});

test("a placeholder comes after four seconds, then ever more seldom, six times at most", () => {
  let state = { startedAt: 0, changedAt: null as number | null, changes: 0 };
  const changes: number[] = [];
  for (let now = 0; now < 3_600_000; now += 1_000)
    if (isDraftDue(state, now)) {
      changes.push(now / 1_000);
      state = { ...state, changedAt: now, changes: state.changes + 1 };
    }
  expect(changes).toEqual([4, 8, 16, 32, 64, 128]);
});

describe("tool uses in a phone's words", () => {
  const use = (input: object) =>
    ({ id: "t", at: 1, type: "tool_use", name: "bash", input: input as never, isAsk: true }) as const;
  test("one line, however long or odd the input is", () => {
    expect(toolLine(use({ command: "git  status\n-s" }))).toBe("🔧 run: git status -s");
    expect(toolLine(use({ command: "x".repeat(500) }))).toHaveLength(80);
    expect(toolLine({ ...use({}), input: null })).toBe("🔧 run:");
    expect(shorten("🎉".repeat(50), 10).isWellFormed()).toBe(true);
  });
  test("what, where and why; of several questions how to answer all", () => {
    expect(question(use({ command: "make", cwd: "/srv/app" }), "build it", 1).split("\n")).toEqual([
      "Claude wants to run: make",
      "In /srv/app, as you asked “build it”",
      "👍 or yes, 👎 or no.",
    ]);
    expect(question(use({ file_path: "a.txt" }), "go", 3)).toContain("on this one, or quote it");
    expect(question({ ...use({ code: 1 }), name: "lab" }, "go", 1)).toStartWith(
      'Claude wants to use lab: {"code":1}\n',
    );
    expect(question(null, "go", 1)).toStartWith("Claude wants to use a tool\n");
  });
  test("what is to be allowed does not go on unseen", () => {
    const asked = question(use({ command: `echo ${"x".repeat(1_500)}; rm -rf /` }), "go", 1);
    expect(asked).toContain("(and 516 characters more)");
  });
});
