import { describe, expect, test } from "bun:test";
import { shorten, toolLine } from "../../src/core/question.ts";
import { isDraftDue, renderPreview, renderReply } from "../../src/core/reply.ts";

const lines = (count: number): string => Array.from({ length: count }, (_, n) => `line ${n}`).join("\n");
const fenced = (info: string, code: string, fence = "```"): string => `${fence}${info}\n${code}\n${fence}`;
/** The text of all messages, and the files by their names. */
function seen(markdown: string): { text: string; files: { [name: string]: string } } {
  const bodies = renderReply(markdown).flatMap((body) => (body.kind === "text" ? [body] : []));
  return {
    text: bodies.map(({ text }) => text).join("\n"),
    files: Object.fromEntries(
      bodies.flatMap(({ files }) => files.map((file) => [file.fileName, contentOf(file.base64)])),
    ),
  };
}
const contentOf = (base64: string): string =>
  new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));

describe("long code becomes a file", () => {
  test("what fits on a screen stays where it is", () => {
    expect(seen(`Look:\n\n${fenced("ts", lines(40))}`)).toEqual({ text: `Look:\n\n${lines(40)}`, files: {} });
  });
  test("what does not is a file with the code and nothing else, and a line in its place", () => {
    const code = `${lines(60)}\n// grüße 🎉`;
    expect(seen(`Look:\n\n${fenced("typescript", code)}\n\nBye`)).toEqual({
      text: "Look:\n\n📎 code.ts, 61 lines\n\nBye",
      files: { "code.ts": `${code}\n` },
    });
  });
  test("few but endless lines count too, and few characters of many bytes; a fence without an end goes to the end", () => {
    expect(seen(fenced("json", `"${"x".repeat(1_600)}"`)).text).toBe("📎 code.json, 1 line");
    expect(seen(fenced("", "漢".repeat(600))).text).toBe("📎 code.txt, 1 line");
    expect(seen(`\`\`\`sh\n${lines(50)}`).text).toBe("📎 code.sh, 50 lines");
  });
  test("in a list or a quote without its edge, tabs kept, and nothing else with it", () => {
    const code = `all:\n\tgo build\n\n${lines(50)}`;
    const inside = (edge: string): string => code.replaceAll(/^(?=.)/gm, edge);
    const list = seen(`1. Save \`Makefile\`:\n   \`\`\`make\n${inside("   ")}\n   \`\`\`\n2. Then **run** it`);
    expect(list).toEqual({
      text: "1. Save Makefile:\n   📎 Makefile, 53 lines\n2. Then run it",
      files: { Makefile: `${code}\n` },
    });
    const quote = seen(`> \`\`\`make\n${inside("> ").replaceAll("\n\n", "\n>\n")}\n> \`\`\`\n\nBye`);
    expect(quote).toEqual({ text: "▎ 📎 Makefile, 53 lines\n\nBye", files: { Makefile: `${code}\n` } });
  });
  const names: { readonly [before: string]: string } = {
    "`src/app.py`:": "app.py",
    "**app.py**:": "app.py",
    "Save this as `fetch.py` in your home folder, then run it with `python3`:": "fetch.py",
    "Here is `main.py`. It needs `utils.py` beside it:": "utils.py",
    "Create “tools/get data.txt” or fetch.py now:": "fetch.py",
    "`config.json` is read by `fetch.py`, which reads `more.yml`:": "fetch.py",
    "`config.json` is what it reads:": "code.py",
    "### `fetch.py`\n\nIt reads `more.json` and all pages.": "fetch.py",
    "Save it as `fetch.py`. Then run it:": "fetch.py",
    "- Save it as `fetch.py`:": "fetch.py",
    "保存为 `src/抓取.py`：": "抓取.py",
    "With Python 3.12, e.g. on Node.js:": "code.py",
    Nothing: "code.py",
  };
  for (const [before, name] of Object.entries(names))
    test(`named ${name} by: ${before}`, () =>
      expect(Object.keys(seen(`${before}\n\n${fenced("python", lines(50))}`).files)).toEqual([name]));
  test("named by a comment on its first line", () => {
    const code = `# src/fetch.py\n${lines(50)}`;
    expect(Object.keys(seen(`Here is it.\n${fenced("python", code)}`).files)).toEqual(["fetch.py"]);
  });
  test("named by its info; two of a name are told apart; a language can be no path", () => {
    const all = ['ts title="src/a.ts"', "js", "dockerfile", "../../etc/passwd", "ts:a.ts", "yaml"];
    expect(Object.keys(seen(all.map((info) => fenced(info, lines(50))).join("\n\n")).files)).toEqual([
      "a.ts",
      "code.js",
      "Dockerfile",
      "code.txt",
      "5-a.ts",
      "code.yml",
    ]);
  });
});

describe("a very long answer", () => {
  const words = (text: string): string[] => text.match(/\w+/g) ?? [];
  const bytes = (text: string): number => new TextEncoder().encode(text).length;
  test("is ten messages at most, and the rest one file that begins with a block", () => {
    const blocks = Array.from(
      { length: 900 },
      (_, n) => `## Part ${n}\n\nSome *words* about ${n}.\n\n- one ${n}\n- two ${n}`,
    );
    const bodies = renderReply(blocks.join("\n\n")).flatMap((body) => (body.kind === "text" ? [body] : []));
    expect(bodies).toHaveLength(10);
    const [file] = bodies[9]?.files ?? [];
    expect(file?.fileName).toBe("answer.md");
    const rest = contentOf(file?.base64 ?? "");
    expect(rest).toMatch(/^## Part \d+\n/);
    expect(bodies[9]?.text).toMatch(
      /^📎 The rest of this answer is in answer\.md \([\d,]+ characters\)\.\n\(10\/10\)$/,
    );
    const shown = bodies.slice(0, 9).map(({ text }) => text.replace(/\n\(\d+\/10\)$/, ""));
    expect(words([...shown, rest].join("\n\n"))).toEqual(words(blocks.join("\n\n")));
  });
  test("of one block loses nothing either", () => {
    for (const unit of ["word and word. ", "- item\n", "| a | b |\n", "漢字。", "x"]) {
      const bodies = renderReply(unit.repeat(60_000 / unit.length));
      expect(bodies).toHaveLength(10);
      expect(bodies.at(-1)).toMatchObject({ files: [{ fileName: "answer.md" }] });
    }
  });
  test("of megabytes is bounded in time and size, and ends with a sentence", () => {
    for (const unit of ["word and word.\n\n", ">", "_a_", "- ", "\n"]) {
      const bodies = renderReply(unit.repeat(8_000_000 / unit.length));
      expect(bodies.length).toBeLessThanOrEqual(10);
      const last = bodies.at(-1);
      const text = last?.kind === "text" ? last.text + last.files.map(({ base64 }) => contentOf(base64)).join("") : "";
      expect(text).toContain("longer than 4 million characters");
      expect(text.length).toBeLessThan(4_400_000);
    }
  }, 60_000);
  test("a code block of megabytes is one file, and the words behind it are there", () => {
    const { text, files } = seen(`Look:\n${fenced("csv", "1,2,3\n".repeat(300_000))}\n**Bye**`);
    expect(text).toBe("Look:\n\n📎 code.csv, 300,000 lines\n\nBye");
    expect(files["code.csv"]).toHaveLength(1_800_000);
  });
  test("is cut between blocks: no list, table or code that fits into a message is parted", () => {
    const list = Array.from({ length: 12 }, (_, n) => `- item ${n} of a list that has several words`).join("\n");
    const code = fenced("js", lines(30));
    const table = `| a | b |\n|---|---|\n${"| 123 | 456 |\n".repeat(30)}`;
    const text = [list, code, table].flatMap((block, n) => [
      `## Title ${n}`,
      "word ".repeat(150 + n * 40),
      "For example:",
      block,
    ]);
    for (const start of [1, 3, 6, 9]) {
      const parts = renderReply(`${"x ".repeat(start * 100)}\n\n${text.join("\n\n")}`).map((body) =>
        body.kind === "text" ? body.text : "",
      );
      const whole = [list.replaceAll("- ", "• "), lines(30), `a    b\n────────\n${"123  456\n".repeat(30)}`.trim()];
      for (const block of whole)
        expect(parts.filter((part) => part.includes(`For example:\n\n${block}`))).toHaveLength(1);
      for (const part of parts) expect(part).not.toMatch(/Title \d+(?:\n\(\d+\/\d+\))?$/);
    }
  });
  test("a line in bold stays with what it is the heading of, and what leads in to a long list with its first item", () => {
    const parts = (markdown: string): string[] =>
      renderReply(markdown).map((body) => (body.kind === "text" ? body.text.replace(/\n\(\d+\/\d+\)$/, "") : ""));
    for (const heading of ["**Step 1**", "*Arguments:*", "**Arguments:**"]) {
      const [first, second] = parts(`${"word ".repeat(380)}\n\n${heading}\n\n${"more ".repeat(60)}`);
      expect(first).toEndWith("word");
      expect(second).toStartWith(heading.replaceAll("*", ""));
    }
    const list = "- an item of several words\n".repeat(90);
    expect(parts(`## Title\n\n${"word ".repeat(250)}:\n\n${list}`)[0]).toEndWith("several words");
  });
  test("a table longer than a message has its head in each; a list ends with an item", () => {
    const table = `| Nr | Name |\n|--:|---|\n${Array.from({ length: 400 }, (_, n) => `| ${n} | name ${n} |\n`).join("")}`;
    const tables = renderReply(table).map((body) => (body.kind === "text" ? body.text : ""));
    expect(tables.length).toBeGreaterThan(2);
    for (const part of tables) expect(part).toStartWith(" Nr  Name\n─────────────\n");
    const list = Array.from({ length: 90 }, (_, n) => `${n + 1}. This is the item ${n}, which has\n   two lines.`).join(
      "\n",
    );
    const lists = renderReply(list).map((body) => (body.kind === "text" ? body.text : ""));
    for (const part of lists) expect(part.replace(/\n\(\d+\/\d+\)$/, "")).toMatch(/^\d+\. This[^]*two lines\.$/);
  });
  test("an address is never parted, wherever it stands", () => {
    for (let before = 1_850; before < 2_000; before += 7) {
      const url = `https://example.com/${"path/".repeat(30)}`;
      for (const filler of ["word ", "漢字", "a,"]) {
        const text = filler.repeat(before / bytes(filler)) + url + " end. ".repeat(50);
        const parts = renderReply(text).map((body) => (body.kind === "text" ? body.text : ""));
        expect(parts.filter((part) => part.includes(url))).toHaveLength(1);
      }
    }
  });
});

test("a preview is what the first message of the answer will be, without its number", () => {
  const answer = Array.from(
    { length: 60 },
    (_, n) => `Paragraph ${n} of an answer with **some** words.\n\n- and a list\n- of two`,
  ).join("\n\n");
  const [first] = renderReply(answer);
  expect(first).toMatchObject({ text: `${renderPreview(answer).text}\n(1/3)`, styles: renderPreview(answer).styles });
  expect(renderPreview("**Hel").text).toBe("**Hel");
  expect(renderPreview("")).toEqual({ text: "", styles: [] });
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
    ({ id: "t", at: 1, type: "tool_use", name: "bash", input: input as never, isAsk: true, isLocal: false }) as const;
  test("one line, however long or odd the input is", () => {
    expect(toolLine(use({ command: "git  status\n-s" }))).toBe("🔧 run: git status -s");
    expect(toolLine(use({ command: "x".repeat(500) }))).toHaveLength(80);
    expect(toolLine({ ...use({}), input: null })).toBe("🔧 run:");
    expect(shorten("🎉".repeat(50), 10).isWellFormed()).toBe(true);
  });
});
