import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";

import { blocksOf } from "../../src/core/lexer.ts";
import { clean } from "../../src/core/marks.ts";
import { toSignalText } from "../../src/core/markdown.ts";
import type { StyledText } from "../../src/core/model.ts";

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
  "spoilers of any words": [
    "||He won $5; it was *him*|| ||true||",
    "He won $5; it was him true",
    "SPOILER:He won $5; it was him",
    "ITALIC:him",
    "SPOILER:true",
  ],
  "bold italic is both": ["***x***", "x", "BOLD:x", "ITALIC:x"],
  "styles nest": ["**a *b* c**", "a b c", "BOLD:a b c", "ITALIC:b"],
  "a style inside itself is one range": ["# Title **bold**", "Title bold", "BOLD:Title bold"],
  "offsets count UTF-16 units": ["🐳 **b**", "🐳 b", "BOLD:b"],
  "headings are bold and stand apart": ["## A\ntext\n\nB\n===", "A\n\ntext\n\nB", "BOLD:A", "BOLD:B"],
  "a line break of the writer stays one": ["one\ntwo  \nthree\\\nfour", "one\ntwo\nthree\nfour"],
  "mathematics, with the backslashes that were written": [
    "so \\\\( a_1 * b_1 \\\\) and \\( *x* \\)\n\n\\\\[\nx_1\n\\\\]\n\n\\begin{a*}\nx_1 \\\\\n_y_\n\\end{a*} **b** \\[x\\](y)",
    "so \\\\( a_1 * b_1 \\\\) and \\( *x* \\)\n\n\\\\[\nx_1\n\\\\]\n\n\\begin{a*}\nx_1 \\\\\n_y_\n\\end{a*} b [x](y)",
    "BOLD:b",
  ],
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
  "code below the words of a task, and deeper than its item": [
    "- [ ] do\n      ```sh\n      ls\n        x\n      ```\n- [x] b\n\nProse.\n\n1. Step\n\n        ~~~\n        y\n        ~~~\n\n2. z",
    "☐ do\nls\n  x\n☑ b\n\nProse.\n\n1. Step\n\ny\n\n2. z",
    "MONOSPACE:ls\n  x",
    "MONOSPACE:y",
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
    "[https://a.example](https://a.example/) [A.example](https://a.example) [me@c.example](mailto:me@c.example)",
    "https://a.example/ https://a.example me@c.example",
  ],
  "a number that one can call": ["[+41 79 123 45 67](tel:+41791234567)", "+41 79 123 45 67"],
  "links to the same page, data and badges": [
    "[Install](#install) ![cat](data:image/png;base64,AAAA) [![Build](https://a.example/b.svg)](https://c.example)",
    "Install cat Build (https://c.example)",
  ],
  "an address ends where a Chinese sentence goes on": [
    "请看https://a.example/x。**然后** **https://b.example/_y_**后",
    "请看https://a.example/x。然后 https://b.example/_y_后",
    "BOLD:然后",
    "BOLD:https://b.example/_y_",
  ],
  "links without text or without target": ["[](https://a.example) [here]()", "https://a.example here"],
  "reference links": ["[docs][1]\n\n[1]: https://a.example", "docs (https://a.example)"],
  "what only looks like a definition is not lost": ["Look:\n\n[Error]: timeout", "Look:\n\n[Error]: timeout"],
  "numbers of sources stay, and their list": [
    "As in [1] and [docs][1] and [a][2].\n\n[1]: https://a.example\n[2]: https://b.example",
    "As in [1] and docs (https://a.example) and a (https://b.example).\n\n[1]: https://a.example",
  ],
  images: ["![a *cat*](https://a.example/c.png) ![](b.png)", "a cat (https://a.example/c.png) b.png", "ITALIC:cat"],
  "a wide table becomes cards": [
    "| Name | Known for | |\n|:--|--:|--|\n| Ada L. | the **first** programs | x |\n| Bob | | |",
    "Name: Ada L.\nKnown for: the first programs\nx\n\nName: Bob",
    "BOLD:Name",
    "BOLD:Known for",
    "BOLD:first",
    "BOLD:Name",
  ],
  "a narrow one keeps its columns, as wide as they look": [
    "| 名前 | Age |\n|:--|--:|\n| 太郎 | **36** |\n| 🐳 | 7 |",
    "名前  Age\n─────────\n太郎   36\n🐳      7",
    "MONOSPACE:名前  Age\n─────────\n太郎   36\n🐳      7",
    "BOLD:名前",
    "BOLD:Age",
    "BOLD:36",
  ],
  "28 columns are narrow, 29 are not": [
    "| a | b |\n|---|---|\n| 1234567890123 | 1234567890123 |\n\n| a | b |\n|---|---|\n| 1234567890123 | 12345678901234 |",
    `a              b\n${"─".repeat(28)}\n1234567890123  1234567890123\n\na: 1234567890123\nb: 12345678901234`,
    `MONOSPACE:a              b\n${"─".repeat(28)}\n1234567890123  1234567890123`,
    "BOLD:a",
    "BOLD:b",
    "BOLD:a",
    "BOLD:b",
  ],
  "a pipe in code belongs to its cell, surplus cells are shown": [
    "| `a|b` | c |\n|---|---|\n| ``x`|y`` | 2 | more |\n| 1\\|2 |",
    "a|b   c\n─────────────\nx`|y  2  more\n1|2",
    "MONOSPACE:a|b   c\n─────────────\nx`|y  2  more\n1|2",
    "BOLD:a|b",
    "BOLD:c",
  ],
  "a first column without a header names its cards": [
    "| | Setup with systemd |\n|---|---|\n| Missed runs | are caught up |",
    "Missed runs\nSetup with systemd: are caught up",
    "BOLD:Missed runs",
    "BOLD:Setup with systemd",
  ],
  "a table of headers only": ["| a | b |\n|---|---|", "a\nb"],
  "a cell with a line break": ["| a |\n|---|\n| x<br>`y\\|z` |", "a: x\ny|z", "BOLD:a", "MONOSPACE:y|z"],
  "colours and links of a terminal": [
    "a\u001b[31mb\u001b[0m \u001b]8;;https://x\u0007c\u001b]8;;\u001b\\d\u0000",
    "ab cd",
  ],
  "html is text": ["<div>\nhi\n</div>\n\na <b>x</b> <!-- y -->", "<div>\nhi\n</div>\n\na <b>x</b> <!-- y -->"],
  "a br is a line break": ["a<br>b<BR />c", "a\nb\nc"],
  "entities are decoded, not in code": [
    "a &lt; b &amp;&amp; &#x1F433; &copy; `&lt;`",
    "a < b && 🐳 © &lt;",
    "MONOSPACE:&lt;",
  ],
  "escapes are not": ["\\*a\\* \\&lt; 1\\. x", "*a* &lt; 1. x"],
  "a rule, below a sentence too": ["a\n\n---\n\nb.\n---\nc", "a\n\n———\n\nb.\n\n———\n\nc"],
  "backslashes of patterns and paths": [
    "\\d+\\.\\d+ \\\\host\\share C:\\a\\.b 1986\\. A a\\_b 3\\.14",
    "\\d+\\.\\d+ \\\\host\\share C:\\a\\.b 1986. A a_b 3.14",
  ],
  "whole paths of Windows": [
    "C:\\a\\_b\\*.c, **D:\\_e** and \\\\host\\share\\_x\\y. \\*not\\* C:\\a b\\c\\*.dll",
    "C:\\a\\_b\\*.c, D:\\_e and \\\\host\\share\\_x\\y. *not* C:\\a b\\c\\*.dll",
    "BOLD:D:\\_e",
  ],
  "a signature, and what begins with a dash, make no heading": [
    "See you.\nA\n-- \nB\n\nx\n-\ny",
    "See you.\nA\n--\nB\n\nx\n-\ny",
  ],
  "a line right after a table": [
    "| a | b |\n|---|---|\n| 1 | 2 |\nSo **much**.\n\n| a |\n|---|\n1",
    "a  b\n────\n1  2\n\nSo much.\n\na\n─\n1",
    "MONOSPACE:a  b\n────\n1  2",
    "BOLD:a",
    "BOLD:b",
    "BOLD:much",
    "MONOSPACE:a\n─\n1",
    "BOLD:a",
  ],
  "paragraphs stand where they belong": ["1. a\n\n\tb\n\n  c", "1. a\n\n   b\n\nc"],
  "numbers as they were written": ["3. Oktober\n25. Dezember\n\n007. Bond", "3. Oktober\n\n25. Dezember\n\n007. Bond"],
  "numbers that are all equal are counted": ["1. a\n1. b\n1. c", "1. a\n2. b\n3. c"],
  "what stands too little below a number belongs to it": [
    "9. a\n   - b\n10. c\n   - d\n11. e\n\nf\n\n1. g\n  - h\n  more\n2. i",
    "9. a\n   • b\n10. c\n    • d\n11. e\n\nf\n\n1. g\n   • h\n     more\n2. i",
  ],
  "tasks keep their numbers": ["5) [x] done\n6) [ ] open", "5) ☑ done\n6) ☐ open"],
  "a line of cron is no list": [
    "At night:\n* 3 * * 1-5 /bin/job\n\n* * * * *\n\n*/5 * * * * x and */2 * * * * y",
    "At night:\n* 3 * * 1-5 /bin/job\n\n* * * * *\n\n*/5 * * * * x and */2 * * * * y",
  ],
  "a sum is no list": ["It is\n12\n+ 30\n= 42", "It is\n12\n+ 30\n= 42"],
  "mathematics stay as they were written": [
    "\\( a_1 * b_2 * c \\), $$x_1*y_1*z$$, $\\{a_1, b_1\\}$ and\n\\[\nx_1\n- y_1\n= z\n\\]\n**so**",
    "\\( a_1 * b_2 * c \\), $$x_1*y_1*z$$, $\\{a_1, b_1\\}$ and\n\n\\[\nx_1\n- y_1\n= z\n\\]\n\nso",
    "BOLD:so",
  ],
  "words in escaped brackets are words": ["\\[Optional\\] a \\(not it\\) \\(n\\)", "[Optional] a (not it) \\(n\\)"],
  "prices are none": ["$5 and *$10* and $15", "$5 and $10 and $15", "ITALIC:$10"],
  "notes as a word": [
    "> [!NOTE]\n> *Text*\n\n> [!warning]- Careful now\n> more",
    "▎ Note\n▎ Text\n\n▎ Warning: Careful now\n▎ more",
    "BOLD:Note",
    "ITALIC:Text",
    "BOLD:Warning:",
  ],
  "footnotes stay": ["word[^1]\n\n[^1]: https://a.example", "word[^1]\n\n[^1]: https://a.example"],
  "control characters are dropped": ["a\u0007b\u001b[31mc\u001b[0m\u0000 `d\u0008`\te", "abc d\te", "MONOSPACE:d"],
  nothing: ["", ""],
  "blank input": [" \n\n \t", ""],
  "what would vanish stays": ["[]()", "[]()"],
  "carriage returns": ["a\r\nb\r\n\r\n- c", "a\nb\n\n• c"],
};

describe("Markdown on a phone", () => {
  for (const [name, [markdown, ...expected]] of Object.entries(cases))
    test(name, () => expect<string[]>(shown(markdown)).toEqual(expected));
});

describe("stars, lines and tildes that are no emphasis stay", () => {
  const kept = {
    products: "a*b*c, 3*4*5, 2 * 3 * 4, x**2 + y**2, 2**3**4, (a+b)*(c+d)*2, (a)*(b)*(c)",
    "factors in Chinese": "面积=长*宽*高，单价*数量*折扣=总价",
    calls: "COUNT(*) and SUM(*), f(*args, **kwargs), (*p)->x, (*q)->y, char *a, *b",
    globs:
      "src/*.ts, lib/*.ts, src/**/*.js and test/**/*.js, **/node_modules/**, rm *.o *.a, /api/*, /web/*, /a/**, /b/**",
    "stars far apart":
      "x = *p; f(*args, **kw); 5*x + 3*y, **/*.ts and src/**/test_*.py, __dirname/__file, self.__dict__",
    cron: "0 */6 * * * x and 0 0 * * * y",
    footnotes: "5 €* and 6 €*, *plus tax, *per month",
    names: "snake_case_name, _private, _other, __init__, __init__.py, __FILE__, __tests__/a, /x/_next/_static_/y",
    words: "un*frigging*believable foo**bar**baz foo_bar_baz foo__bar__baz",
    tildes: "~5 and ~10, ~/x and ~/y, ~one~, a ~ b ~ c",
    addresses: "https://a.example/a*b*c/_d_/__e__ https://a.example/~x/~y",
    "shell's or": "a || b || c, a||b||c, [ -f x ]||exit 1||true, x ||",
    "shell's or, closely": "make ||exit 1; test|| true, x ||y && z|| w, a ||$B|| c",
    dollars: "$HOME_A and $HOME_B, $5 to $10",
  };
  for (const [name, text] of Object.entries(kept)) test(name, () => expect(shown(text)).toEqual([text]));
});

describe("emphasis", () => {
  /** The emphasised words of a text, in order. */
  const words = (markdown: string): string[] =>
    shown(markdown)
      .slice(1)
      .map((style) => style.slice(style.indexOf(":") + 1));
  test("beside Chinese, Japanese and Korean, which set no spaces", () => {
    expect(words("**「重要」**です。**标题：**正文 **주의:**내용 中文**“引用”**中文 A**重要**B、**2024年**に")).toEqual(
      ["「重要」", "标题：", "주의:", "“引用”", "重要", "2024年"],
    );
    expect(words("使用`x`**加粗**后 （注）**版本**2.0 价格100**元**吗 这是*强调*的 **!important** **?**")).toEqual([
      "x",
      "加粗",
      "版本",
      "元",
      "强调",
      "!important",
      "?",
    ]);
    expect(words('**注意:**これ **Python(파이썬)**은 重点**（注）**后 *强调。*后 ~~删除。~~后 中**"引"**文')).toEqual([
      "注意:",
      "Python(파이썬)",
      "（注）",
      "强调。",
      "删除。",
      '"引"',
    ]);
  });
  test("before an ending, and without a space behind it", () => {
    expect(words('**«Имя»**ом и **"Q"**s, **Warning.**That **(p)**z **Why?**Because')).toEqual([
      "«Имя»",
      '"Q"',
      "Warning.",
      "(p)",
      "Why?",
    ]);
  });
  test("at the beginning of a word, around names of files and in all its nestings", () => {
    expect(
      words("**T**otal **.env** **/etc/hosts** **GET**/**POST** (**a**), “**b**”, **c**: **d:** *e*, __f g__ __Note__"),
    ).toEqual(["T", ".env", "/etc/hosts", "GET", "POST", "a", "b", "c", "d:", "e", "f g", "Note"]);
    expect(words("*foo**bar**baz* **foo*bar*baz** *foo*bar **foo** bar*")).toEqual([
      "foo**bar**baz",
      "foo*bar*baz",
      "foo",
      "foo",
    ]);
    expect(words("***a*** **b *c* d** *e **f** g* **h**i")).toEqual(["a", "a", "b c d", "c", "e f g", "f", "h"]);
  });
});

describe("a fence takes nothing with it", () => {
  const fences: { readonly [name: string]: readonly [markdown: string, text: string, ...code: string[]] } = {
    "behind the marker of a list": ["- ```sh\n  a\n  ```\n**b**", "•\na\n\nb", "a"],
    "with its lines at the margin": ["1. ```sh\na\n\n  b\n```\n2. c", "1.\na\n\n  b\n2. c", "a\n\n  b"],
    "with its lines at the margin, in any item": [
      "- a\n- ```sh\n  b\n  ```\n- ```py\ndef c():\n    d\n```\n**e**",
      "• a\n•\nb\n•\ndef c():\n    d\n\ne",
      "b",
      "def c():\n    d",
    ],
    "with its lines at the margin, below the words of an item": [
      "1. a\n   ```sh\nb\n  c\n```\n   - d\n     ```\n  e\n     ```\n2. **f**",
      "1. a\nb\n  c\n   • d\ne\n2. f",
      "b\n  c",
      "e",
    ],
    "with some lines at the margin": [
      "- ```sh\n  cat <<E\na\nE\n  ```\n- **b**",
      "•\ncat <<E\na\nE\n• b",
      "cat <<E\na\nE",
    ],
    "without an end in its item, before another": [
      "- ```sh\na\n\n**b**\n\n```js\nc\n```\n**d**",
      "•\n\na\n\nb\n\nc\n\nd",
      "c",
    ],
    "without an end in its item": ["- ```\n  a\n\nb\n\n```\nc\n```\nd", "•\na\n\nb\n\nc\n\nd", "a", "c"],
    "with its end at the margin": ["- x\n  ```sh\n  a\n```\n**b**", "• x\na\n\nb", "a"],
    "in a quote": ["> ```\n> a\n> ```\n**b**", "a\n\nb", "a"],
    "in a quote that goes on without marks": ["> ```\na\n```\n**b**", "a\n\nb", "a"],
    "that ends one space deeper": ["1. x\n   ```\n   a\n    ```\n2. b", "1. x\na\n2. b", "a"],
    "that ends far too deep": ["```\na\n     ```\n**b**\n\n```js\nc\n```\nd", "a\n\nb\n\nc\n\nd", "a", "c"],
    "with fences in its Markdown": ["```md\n```sh\na\n```\nb\n```\n**c**", "```sh\na\n```\nb\n\nc", "```sh\na\n```\nb"],
    "with fences in its text": [
      '```py\n"""\n    ```\n    a\n    ```\n"""\n```\nb',
      '"""\n    ```\n    a\n    ```\n"""\n\nb',
      '"""\n    ```\n    a\n    ```\n"""',
    ],
    "with tabs, in a list": [
      "1. x\n   ```make\n   all:\n   \tgo\n   ```\n- y\n\n\t```\n\ta\n\t\tb\n\t```",
      "1. x\nall:\n\tgo\n\n• y\n\na\n\tb",
      "all:\n\tgo",
      "a\n\tb",
    ],
    "without an end": ["a\n```sh\nb", "a\n\nb", "b"],
    "behind words": ["Use: ```bash\nls\n```\n**b** and ```c```", "Use:\n\nls\n\nb and c", "ls", "c"],
    "behind words of an item": ["- do ```sh\n  a\n    b\n  ```\n- **c**", "• do\na\n  b\n• c", "a\n  b"],
    "behind words of a quote": ["> do ```sh\n> a\n> ```\n> **c**", "▎ do\n▎\na\n▎\n▎ c", "a"],
    "with its end behind the code": [
      "```sh\nls```\n**b**\n\n```py\nc\n```\nSo ```\nd``` **e**",
      "ls\n\nb\n\nc\n\nSo\n\nd\n\ne",
      "ls",
      "c",
      "d",
    ],
    "with words behind its end": ["```\na\n``` and **b**\n```\nc\n```", "a\n\nand b\n\nc", "a", "c"],
    "that its code writes, too": [
      "```sh\necho ```\n```x y z\n```\n**b**",
      "echo ```\n```x y z\n\nb",
      "echo ```\n```x y z",
    ],
    "that is none, but words": [
      "End with ```\n\n```sh\na\n```\n**b** ```npm\nrun``` c",
      "End with ```\n\na\n\nb npm run c",
      "a",
      "npm run",
    ],
  };
  for (const [name, [markdown, text, ...code]] of Object.entries(fences))
    test(name, () => {
      const [seen, ...styles] = shown(markdown);
      expect(seen).toBe(text);
      expect(styles.filter((style) => style.startsWith("MONOSPACE"))).toEqual(
        code.map((block) => `MONOSPACE:${block}`),
      );
    });
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
      fc.property(anyMarkdown, (markdown) =>
        expect(toSignalText(markdown).text === "").toBe(clean(markdown).trim() === ""),
      ),
      { numRuns: 500 },
    );
  });

  test("keeps every word, whatever stands between the words", () => {
    // The info of a fence is no text; without line breaks it would be.
    const between = piece.filter((text) => !/^`{3}$|js/.test(text));
    fc.assert(
      fc.property(fc.array(between, { maxLength: 40 }), (pieces) => {
        const text = toSignalText(pieces.map((mark, index) => `${mark}word${index}x`).join("")).text;
        expect(pieces.map((_, index) => `word${index}x`).filter((word) => !text.includes(word))).toEqual([]);
      }),
      { numRuns: 1_000 },
    );
  });

  test("is read whole, block by block", () => {
    const line = fc.constantFrom(
      ..."10. a|1. b|  - c|   d||```|  ```|> e|> 10. f|>   - g|# h|* * * * * i|$$".split("|"),
    );
    fc.assert(
      fc.property(fc.array(line, { maxLength: 40 }), fc.integer({ min: 1, max: 200 }), (lines, times) => {
        const markdown = `${lines.join("\n")}\n`.repeat(times);
        const blocks = [...blocksOf(markdown)];
        const ends = blocks.map(({ token, from }) => from + token.raw.length);
        expect(blocks.every(({ from }, index) => from === (ends[index - 1] ?? 0))).toBe(true);
        expect(ends.at(-1) ?? 0).toBe(markdown.length);
      }),
      { numRuns: 200 },
    );
  }, 30_000);

  test("keeps every word of plain prose", () => {
    const prose = fc
      .array(fc.stringMatching(/^[a-z]{2,8}$/), { minLength: 1, maxLength: 30 })
      .map((words) => words.join(" "));
    fc.assert(fc.property(prose, (text) => expect(toSignalText(text)).toMatchObject({ text, styles: [] })));
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
  const size = 32_000;
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
    "fences of a list": "- ~~~\n",
    signatures: "a\n--\n",
    "fences behind words": "a ```sh\nb```\n",
    "words behind fences": "``` x y\na\n",
  };
  for (const [name, unit] of Object.entries(hostile))
    test(`${name}: comes through in bounded time`, () => {
      const styled = toSignalText(unit.repeat(size / unit.length));
      expect(styled.text.length).toBeGreaterThan(0);
      checkRanges(styled);
    }, 10_000);

  test.each([" ", "> ", "- ", "a "])(
    "%p before a fence: comes through in bounded time",
    (mark) => {
      expect(toSignalText(`${mark.repeat(2 * size)}\`\`\`x\`y`).text).toContain("y");
    },
    10_000,
  );

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
});

test("character references: names, decimals and hex; what is none stays", () => {
  const text = (markdown: string): string => toSignalText(markdown).text;
  expect(text("&amp;&quot;&nbsp;&euro;&rarr;&#65;&#x42;&#X43;")).toBe('&"\u00a0€→ABC');
  expect(text("& &; &nosuch; &amp &#; &#x; AT&T")).toBe("& &; &nosuch; &amp &#; &#x; AT&T");
  expect(text("&#0;&#xD800;&#x110000;")).toBe("\ufffd\ufffd\ufffd");
  expect(text("&constructor;&toString;")).toBe("&constructor;&toString;");
  expect(text("[a](http://x.example/?a=1&amp;b=2)")).toBe("a (http://x.example/?a=1&b=2)");
});
