import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";

import { toSignalText } from "../../src/core/markdown.ts";
import type { StyledText } from "../../src/core/model.ts";
import { sections } from "../../src/core/sections.ts";

/** Text with its styles as `STYLE:covered text`. */
function shown(markdown: string): [text: string, ...styles: string[]] {
  const { text, styles } = toSignalText(markdown);
  return [text, ...styles.map(({ style, start, length }) => `${style}:${text.slice(start, start + length)}`)];
}

const cases: { readonly [name: string]: readonly [markdown: string, text: string, ...styles: string[]] } = {
  "plain text stays as it is": ["Hello, 3 * 4 = 12 and snake_case_name.", "Hello, 3 * 4 = 12 and snake_case_name."],
  "bold, italic, strike, code": [
    "**b** *i* ~~s~~ `c`",
    "b i s c",
    "BOLD:b",
    "ITALIC:i",
    "STRIKETHROUGH:s",
    "MONOSPACE:c",
  ],
  "a spoiler, with styles inside, and what is none": [
    "it was ||the **butler**||! a||b or c||d, || e ||, `||f||` |||",
    "it was the butler! a||b or c||d, || e ||, ||f|| |||",
    "SPOILER:the butler",
    "BOLD:butler",
    "MONOSPACE:||f||",
  ],
  "bold italic is both": ["***x***", "x", "BOLD:x", "ITALIC:x"],
  "styles nest": ["**a *b* c**", "a b c", "BOLD:a b c", "ITALIC:b"],
  "a style inside itself is one range": ["# Title **bold**", "Title bold", "BOLD:Title bold"],
  "offsets count UTF-16 units": ["🐳 **b**", "🐳 b", "BOLD:b"],
  "headings are bold and stand apart": ["## A\ntext\n\nB\n===", "A\n\ntext\n\nB", "BOLD:A", "BOLD:B"],
  "a line break of the writer stays one": ["one\ntwo  \nthree\\\nfour", "one\ntwo\nthree\nfour"],
  bullets: ["- a\n- b\n\n* c", "• a\n• b\n\n• c"],
  "numbers go on from where they start": ["3. a\n4. b", "3. a\n4. b"],
  "from zero, too": ["0. a\n1. b", "0. a\n1. b"],
  "what shows nothing leaves no gap": ["a\n\n[](<>)\n\n# \n\nb", "a\n\nb"],
  "deep nesting ends where a phone has no room for more": [`${"> ".repeat(40)}a`, `${"▎ ".repeat(16)}a`],
  "marks of our own in the text are no styles": ["\ufdd0a\ufdd1 &#64976;b&#64977;", "\ufffda\ufffd \ufffdb\ufffd"],
  "nested lists are indented": ["1. a\n   - b\n     - c\n2. d", "1. a\n   • b\n     • c\n2. d"],
  "loose lists keep their paragraphs": ["- a\n\n  more\n- b", "• a\n\n  more\n\n• b"],
  "a list in a list item": ["- - a\n  - b", "• • a\n  • b"],
  "an empty item": ["- a\n-\n- b", "• a\n•\n• b"],
  tasks: ["- [ ] open\n- [x] **done**", "☐ open\n☑ done", "BOLD:done"],
  "loose tasks": ["- [ ] open\n\n- [x] done", "☐ open\n\n☑ done"],
  "block quotes, nested too": ["> a\n> b\n>\n> > c\n\nd", "▎ a\n▎ b\n▎\n▎ ▎ c\n\nd"],
  "a list in a quote": ["> - a\n>   b", "▎ • a\n▎   b"],
  "a code block is monospace and verbatim": [
    "```js\nif (a) {\n  **b** &amp;\n\n}\n```",
    "if (a) {\n  **b** &amp;\n\n}",
    "MONOSPACE:if (a) {\n  **b** &amp;\n\n}",
  ],
  "code in a list stands at the margin, to be copied": [
    "- do\n\n  ```\n  a\n    b\n  ```\n\n  then",
    "• do\n\na\n  b\n\n  then",
    "MONOSPACE:a\n  b",
  ],
  "an item that begins with code": ["1. ```\n   a\n   ```", "1.\na", "MONOSPACE:a"],
  "indented code": ["    let a;\n\nb", "let a;\n\nb", "MONOSPACE:let a;"],
  "links show their target": [
    "see [the **docs**](https://a.example/x 'T').",
    "see the docs (https://a.example/x).",
    "BOLD:docs",
  ],
  "autolinks stay as they are": [
    "<https://a.example> https://b.example/?q=1&r=2 me@c.example",
    "https://a.example https://b.example/?q=1&r=2 me@c.example",
  ],
  "a link that shows its own target": [
    "[https://a.example](https://a.example) [me@c.example](mailto:me@c.example)",
    "https://a.example me@c.example",
  ],
  "links without text or without target": ["[](https://a.example) [here]()", "https://a.example here"],
  "reference links": ["[docs][1]\n\n[1]: https://a.example", "docs (https://a.example)"],
  "what only looks like a definition is not lost": ["Look:\n\n[Error]: timeout", "Look:\n\n[Error]: timeout"],
  images: ["![a *cat*](https://a.example/c.png) ![](b.png)", "a cat (https://a.example/c.png) b.png", "ITALIC:cat"],
  "a table becomes lines": [
    "| Name | Age | |\n|:--|--:|--|\n| Ada | **36** | x |\n| Bob | | |",
    "Name: Ada\nAge: 36\nx\n\nName: Bob",
    "BOLD:Name",
    "BOLD:Age",
    "BOLD:36",
    "BOLD:Name",
  ],
  "a table of headers only": ["| a | b |\n|---|---|", "a\nb"],
  "a cell with a line break and code": ["| a |\n|---|\n| x<br>`y\\|z` |", "a: x\ny|z", "BOLD:a", "MONOSPACE:y|z"],
  "html is text": ["<div>\nhi\n</div>\n\na <b>x</b> <!-- y -->", "<div>\nhi\n</div>\n\na <b>x</b> <!-- y -->"],
  "a br is a line break": ["a<br>b<BR />c", "a\nb\nc"],
  "entities are decoded, not in code": [
    "a &lt; b &amp;&amp; &#x1F433; &copy; `&lt;`",
    "a < b && 🐳 © &lt;",
    "MONOSPACE:&lt;",
  ],
  "escapes are not": ["\\*a\\* \\&lt; 1\\. x", "*a* &lt; 1. x"],
  "a rule": ["a\n\n---\n\nb", "a\n\n———\n\nb"],
  nothing: ["", ""],
  "blank input": [" \n\n \t", ""],
  "what would vanish stays": ["[]()", "[]()"],
  "carriage returns": ["a\r\nb\r\n\r\n- c", "a\nb\n\n• c"],
};

describe("Markdown on a phone", () => {
  for (const [name, [markdown, ...expected]] of Object.entries(cases))
    test(name, () => expect<string[]>(shown(markdown)).toEqual(expected));
});

function checkRanges({ text, styles }: StyledText): void {
  let last = 0;
  for (const { start, length } of styles) {
    expect(start).toBeGreaterThanOrEqual(last);
    expect(length).toBeGreaterThan(0);
    expect(start + length).toBeLessThanOrEqual(text.length);
    last = start;
  }
}

// Pieces from which most of Markdown can be made, well-formed or not.
const piece = fc.oneof(
  fc.constantFrom(
    "**",
    "*",
    "_",
    "~~",
    "`",
    "```",
    "```js\n",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "> ",
    "# ",
    "| a | b |\n|---|---|\n",
    "|",
    "[",
    "](",
    ")",
    "![",
    "<",
    ">",
    "<b>",
    "<br>",
    "<!--",
    "&amp;",
    "&#0;",
    "\\",
    "    ",
    "\t",
    "---\n",
    "[x]: y\n",
    "- [x] ",
    "\ud83d",
    "\udc33",
    "🐳",
    "é",
    "漢",
    "\u0000",
    "\r\n",
    "http://a.b/",
    "__proto__",
  ),
  fc.string({ unit: "binary", maxLength: 6 }),
);
const anyMarkdown = fc.array(piece, { maxLength: 40 }).map((pieces) => pieces.join(""));

describe("any text", () => {
  test("gives ranges that are sorted, inside the text and not empty; and never throws", () => {
    fc.assert(
      fc.property(anyMarkdown, (markdown) => checkRanges(toSignalText(markdown))),
      { numRuns: 1_000 },
    );
  });

  test("is empty only for blank input", () => {
    fc.assert(
      fc.property(anyMarkdown, (markdown) => expect(toSignalText(markdown).text === "").toBe(markdown.trim() === "")),
      { numRuns: 500 },
    );
  });

  test("keeps every word of plain prose", () => {
    const prose = fc
      .array(fc.stringMatching(/^[a-z]{2,8}$/), { minLength: 1, maxLength: 30 })
      .map((words) => words.join(" "));
    fc.assert(fc.property(prose, (text) => expect(toSignalText(text)).toEqual({ text, styles: [] })));
  });

  test("shows code exactly as it was written", () => {
    const line = fc.string({ maxLength: 20 }).filter((text) => !text.includes("`"));
    fc.assert(
      fc.property(fc.array(line, { minLength: 1, maxLength: 6 }), (lines) => {
        const code = lines.join("\n");
        fc.pre(code.trim() !== "" && code === code.trimEnd());
        const { text, styles } = toSignalText(`\`\`\`\n${code}\n\`\`\``);
        expect(text).toBe(code);
        expect(styles).toEqual([{ start: 0, length: code.length, style: "MONOSPACE" }]);
      }),
    );
  });
});

describe("very long and hostile text", () => {
  const size = 200_000;
  const hostile = {
    quotes: ">",
    emphasis: "_a_",
    brackets: "[",
    backticks: "`a",
    stars: "**a ",
    lists: "- a\n",
    nested: "- ",
    fences: "```\n",
    tags: "<a ",
    "half pairs": "\ud83d",
    "indented fences": "    ```\n_a_",
    links: "[a](",
    "lines of one paragraph": "a\n",
    tables: "|a\n|-\n|b\n",
  };
  for (const [name, unit] of Object.entries(hostile))
    test(`${name}: comes through in bounded time`, () => {
      const styled = toSignalText(unit.repeat(size / unit.length));
      expect(styled.text.length).toBeGreaterThan(0);
      checkRanges(styled);
    }, 10_000);

  test("a long reply looks like its parts", () => {
    const block = "## Title\n\nSome **bold** words and `code`.\n\n- one\n- two\n\n```\na\n\n  b\n```";
    const one = toSignalText(block);
    const many = toSignalText(Array.from({ length: 300 }, () => block).join("\n\n"));
    expect(many.text).toBe(Array.from({ length: 300 }, () => one.text).join("\n\n"));
    expect(many.styles).toHaveLength(300 * one.styles.length);
    checkRanges(many);
  });

  test("code longer than a piece stays code, line by line", () => {
    const code = Array.from({ length: 3_000 }, (_, line) => `  line ${line} **not bold**`).join("\n");
    const { text, styles } = toSignalText(`before\n\n\`\`\`\n${code}\n\`\`\`\n\n**after**`);
    expect(text).toBe(`before\n\n${code}\n\nafter`);
    expect(new Set(styles.slice(0, -1).map(({ style }) => style))).toEqual(new Set(["MONOSPACE"]));
    expect(styles.at(-1)?.style).toBe("BOLD");
  });

  test("the pieces hold every character in order, and none is large", () => {
    const line = fc.oneof(anyMarkdown, fc.constantFrom("", "```", "a".repeat(9_000), "text ".repeat(200)));
    fc.assert(
      fc.property(fc.array(line, { minLength: 10, maxLength: 80 }), (lines) => {
        const markdown = lines.join("\n").repeat(3);
        const pieces = sections(markdown);
        let at = 0;
        for (const { text } of pieces) {
          // A piece that goes on with code begins with a fence of its own.
          const own = markdown.startsWith(text, at) ? text : text.slice(text.indexOf("\n") + 1);
          expect(markdown.startsWith(own, at)).toBe(true);
          at += own.length;
          if (pieces.length > 1) expect(own.length).toBeLessThanOrEqual(4_096);
        }
        expect(at).toBe(markdown.length);
      }),
      { numRuns: 50 },
    );
  });
});

test("character references: names, decimals and hex; what is none stays", () => {
  const text = (markdown: string): string => toSignalText(markdown).text;
  expect(text("&amp;&quot;&nbsp;&euro;&rarr;&#65;&#x42;&#X43;")).toBe('&"\u00a0€→ABC');
  expect(text("& &; &nosuch; &amp &#; &#x; AT&T")).toBe("& &; &nosuch; &amp &#; &#x; AT&T");
  expect(text("&#0;&#xD800;&#x110000;")).toBe("\ufffd\ufffd\ufffd");
  expect(text("&constructor;&toString;")).toBe("&constructor;&toString;");
  expect(text("[a](http://x.example/?a=1&amp;b=2)")).toBe("a (http://x.example/?a=1&b=2)");
});
