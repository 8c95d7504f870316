import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { JsonValue } from "../../src/core/model.ts";
import { changeOf, itemOf, question, visible } from "../../src/core/question.ts";

const item = (name: string, input: JsonValue) =>
  itemOf({ id: "t", at: 1, type: "tool_use", name, input, isAsk: true, isLocal: false });
const asked = (name: string, input: JsonValue) => question([item(name, input)], { prompt: "go" });
const fileText = (base64: string | undefined) => new TextDecoder().decode(Uint8Array.fromBase64(base64 ?? ""));

describe("a question shows what is approved", () => {
  test("what, where and why, and how to answer", () => {
    expect(question([item("bash", { command: "make", cwd: "/srv/app" })], { prompt: "build it" })).toEqual({
      text: "Claude wants to run: make\nIn /srv/app, as you asked “build it”\n👍 or yes, 👎 or no.",
      file: null,
    });
  });

  test("where it would be done is shown whole", () => {
    const cwd = `/srv/${"deep/".repeat(40)}end`;
    expect(question([item("bash", { command: "make", cwd })], { prompt: "" }).text).toContain(`\nIn ${cwd}, as`);
  });

  test.each([
    ["line breaks of a command", "bash", { command: "cd /\nrm -rf x" }, "run:\ncd /\nrm -rf x\nIn Claude's"],
    ["every blank", "bash", { command: "echo  a   b" }, "run: echo  a   b\n"],
    ["its other inputs", "bash", { command: "ls", timeout: 5 }, "run:\nls\n(timeout: 5)\n"],
    ["without its main input", "bash", { restart: true }, 'use bash: {"restart":true}\n'],
    ["what is written", "write", { file_path: "/a.txt", content: "one\ntwo" }, "write /a.txt:\none\ntwo\nIn"],
    [
      "an emptied file",
      "write",
      { file_path: "/a.txt", content: "" },
      "write /a.txt: (nothing: the file is emptied)\n",
    ],
    [
      "a change",
      "edit",
      { file_path: "/a.txt", old_string: "a\nb\nc", new_string: "a\nB\nc" },
      "edit /a.txt:\n a\n-b\n+B\n c\n",
    ],
    [
      "a change everywhere",
      "edit",
      { file_path: "/a", old_string: "x", new_string: "y", replace_all: true },
      "edit every occurrence in /a:\n-x\n+y\n",
    ],
    ["every input of an unknown tool", "lab", { code: 1 }, 'use lab: {"code":1}\n'],
    [
      "many inputs",
      "mail",
      { to: "a@example.org", subject: "s".repeat(60), body: "hi\nyou" },
      `use mail:\n{\n  "to": "a@example.org",\n  "subject": "${"s".repeat(60)}",\n  "body": "hi\\nyou"\n}\nIn`,
    ],
    ["a list", "lab", [1, 2], "use lab: [1,2]\n"],
    ["nothing", "lab", null, "use lab\nIn"],
    ["a name that hides", "la\u202Eb\n", {}, "use la b: {}\n"],
    ["the direction of writing", "bash", { command: "rm \u202E/moc" }, "run: rm ⟨U+202E⟩/moc\n"],
    ["what is not seen", "bash", { command: "l\u200Bs\u00A0-a\r\0" }, "run: l⟨U+200B⟩s⟨U+00A0⟩-a⟨U+000D⟩⟨U+0000⟩\n"],
    [
      "a path with a line break",
      "write",
      { file_path: "/a\n👍 or yes", content: "x" },
      "write /a⟨U+000A⟩👍 or yes: x\n",
    ],
    ["an emoji as it is", "bash", { command: "echo 👨‍👩‍👧 ❤️ 👍🏽" }, "run: echo 👨‍👩‍👧 ❤️ 👍🏽\n"],
    ["a joiner where no emoji is", "bash", { command: "l\u200Ds\uFE0F" }, "run: l⟨U+200D⟩s⟨U+FE0F⟩\n"],
  ] as const)("%s", (_, name, input, expected) => {
    const { text, file } = asked(name, input);
    expect(text).toStartWith(`Claude wants to ${expected}`);
    expect(file).toBeNull();
  });

  test("what does not fit is counted, and all of it is a file", () => {
    const command = `echo ${"x".repeat(3_796)}; rm -rf /`;
    const { text, file } = asked("bash", { command });
    expect(text).toContain("\n… and 2,811 characters more, in the file.\n");
    expect(fileText(file?.base64)).toBe(`${command}\n`);
    expect(file?.fileName).toBe("bash.txt");
    const lines = Array.from({ length: 400 }, (_, line) => `line ${line}\u202E`).join("\n");
    const long = asked("write", { file_path: "/a", content: lines });
    expect(long.text).toMatch(/line 0⟨U\+202E⟩\nline 1⟨U\+202E⟩\n[^]*\n… and [\d,]+ characters more, in the file\./u);
    expect(fileText(long.file?.base64)).toBe(`${visible(lines)}\n`);
  });

  test("several at once are one message with numbers", () => {
    const items = [item("bash", { command: "rm -rf build" }), item("write", { file_path: "/a", content: "1\n2" })];
    expect(question(items, { prompt: "clean up" })).toEqual({
      text: [
        "Claude wants to do 2 things, as you asked “clean up”:",
        "",
        "1. run: rm -rf build",
        "",
        "2. write /a:",
        "1",
        "2",
        "",
        "In Claude's sandbox.",
        "👍 or yes for both, 👎 or no for none; by number: yes 1.",
      ].join("\n"),
      file: null,
    });
    const long = question([items[0] ?? item("", null), item("bash", { command: "y".repeat(2_000) })], { prompt: "" });
    expect(fileText(long.file?.base64)).toBe(`1. run\n\nrm -rf build\n\n2. run\n\n${"y".repeat(2_000)}\n`);
  });

  test("in a group, and where it may be for ever, it says how", () => {
    const { text } = question([item("bash", { command: "ls" })], { prompt: "go", isGroup: true, mayAlways: "bash" });
    expect(text).toEndWith(
      "👍 or 👎 on this message, or quote it with yes or no.\n♾️ or always: yes, and bash without asking.",
    );
    const items = ["ls", "pwd", "id"].map((command) => item("bash", { command }));
    expect(question(items, { prompt: "go", isGroup: true }).text).toEndWith(
      "👍 or 👎 on this message for all 3, or quote it with yes, no, or yes 1 3.",
    );
  });

  test("nothing that hides is left, nothing that is seen is lost, and the file has what is cut", () => {
    const mean = fc.constantFrom(
      "a",
      "\n",
      " ",
      "\u202E",
      "\u200B",
      "\u2066",
      "\uFEFF",
      "\u3164",
      "\uDC00",
      "🎉",
      "\u00AD",
      "\uFE0F",
      "\u200D",
      "é",
    );
    fc.assert(
      fc.property(fc.string({ unit: mean, maxLength: 3_000, minLength: 1 }), (command) => {
        const { text, file } = asked("bash", { command });
        expect(text).not.toMatch(/[\u202A-\u202E\u2066-\u2069\u200B\u200E\u200F\uFEFF\u00AD\u3164\uD800-\uDFFF]/u);
        if (file === null) expect(text).toContain(visible(command));
        else expect(fileText(file.base64)).toBe(`${visible(command)}\n`);
        expect(text.length).toBeLessThan(9_000);
      }),
    );
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(visible(text)).toBe(visible(visible(text)));
        if (/^[\w \n.-]*$/u.test(text)) expect(visible(text)).toBe(text);
      }),
    );
  });

  test("a change has every line that goes and comes, however much it is", () => {
    const lines = fc.array(fc.constantFrom("a", "b", "c", ""), { maxLength: 12 }).map((all) => all.join("\n"));
    fc.assert(
      fc.property(lines, lines, (before, after) => {
        const change = changeOf(before, after);
        if (before === after) return expect(change).toBe("(no change)");
        const signs = change.split("\n").filter((line) => !line.startsWith("…"));
        for (const line of signs) expect(line).toMatch(/^[ +-]/u);
        const added = signs.filter((line) => line.startsWith("+")).length;
        const gone = signs.filter((line) => line.startsWith("-")).length;
        expect(added + gone).toBeGreaterThan(0);
      }),
    );
    const huge = Array.from({ length: 30_000 }, (_, n) => `${n}`).join("\n");
    expect(changeOf(huge, huge.replaceAll("1", "2"))).toContain("\n+2");
  });
});
