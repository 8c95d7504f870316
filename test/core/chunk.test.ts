import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { chunk } from "../../src/core/chunk.ts";
import type { Border } from "../../src/core/marks.ts";
import type { StyleRange } from "../../src/core/model.ts";
import type { StyledText } from "../../src/core/model.ts";

const bytes = (text: string): number => new TextEncoder().encode(text).length;
const plain = (text: string): StyledText => ({ text, styles: [] });
const texts = (input: StyledText, bytesMax: number): string[] => chunk(input, bytesMax).map(({ text }) => text);

/**
 * Walks through the input: where each part stands in it. Throws unless the parts are the input, in order, but for line breaks
 * before and behind a cut.
 */
function places(input: string, parts: readonly StyledText[]): number[] {
  const starts: number[] = [];
  let at = 0;
  const skip = (): void => {
    while (/[\r\n]/.test(input.charAt(at))) at++;
  };
  for (const { text } of parts) {
    // Only the first part may begin with line breaks: those of the input's own beginning.
    if (!input.startsWith(text, at)) skip();
    expect(input.slice(at, at + text.length)).toBe(text);
    starts.push(at);
    at += text.length;
  }
  skip();
  expect(at).toBe(input.length);
  return starts;
}

describe("where a text is cut", () => {
  test("what fits is one part, as it is", () => {
    const input: StyledText = { text: "\nHello\n", styles: [{ start: 1, length: 5, style: "BOLD" }] };
    expect(chunk(input, 7)).toEqual([input]);
    expect(chunk(plain(""), 10)).toEqual([]);
  });

  test("at a paragraph rather than a line, a line rather than a sentence, a sentence rather than a word", () => {
    expect(texts(plain("one two\n\nthree\nfour. five"), 20)).toEqual(["one two\n\nthree", "four. five"]);
    expect(texts(plain("one, two, six\n\nthree\nfour"), 20)).toEqual(["one, two, six", "three\nfour"]);
    expect(texts(plain("one, two, six\nthree. four"), 21)).toEqual(["one, two, six", "three. four"]);
    expect(texts(plain("one, two, six. three four"), 21)).toEqual(["one, two, six. ", "three four"]);
    expect(texts(plain("one two three four"), 12)).toEqual(["one two ", "three four"]);
  });

  test("not at a border so early that the part would be a stub, unless there is no other", () => {
    expect(texts(plain(`a\n\n${"b".repeat(6)} ${"c".repeat(8)}`), 12)).toEqual([
      `a\n\n${"b".repeat(6)} `,
      "c".repeat(8),
    ]);
    expect(texts(plain(`see ${"u".repeat(14)}`), 15)).toEqual(["see ", "u".repeat(14)]);
  });

  test("a line break just behind the limit still counts: it is dropped anyway", () => {
    expect(texts(plain("aaaa bbbbb\ncccc"), 10)).toEqual(["aaaa bbbbb", "cccc"]);
    expect(texts(plain("aaaaa\n\n\n\n\nbbbbb"), 5)).toEqual(["aaaaa", "bbbbb"]);
  });

  test("Chinese sentences end without a space", () => {
    expect(texts(plain("今天天气很好。我们出去走走"), 27)).toEqual(["今天天气很好。", "我们出去走走"]);
  });

  test("never inside a surrogate pair or a grapheme", () => {
    expect(texts(plain("🐳🐳🐳"), 5)).toEqual(["🐳", "🐳", "🐳"]);
    const family = "👨‍👩‍👧";
    expect(texts(plain(`ab${family}${family}`), 30)).toEqual([`ab${family}`, family]);
    expect(texts(plain("e\u0301e\u0301e\u0301"), 4)).toEqual(["e\u0301", "e\u0301", "e\u0301"]);
    expect(texts(plain("🇩🇪🇫🇷🇮🇹"), 12)).toEqual(["🇩🇪", "🇫🇷", "🇮🇹"]);
    // A space that carries an accent is no border between words.
    expect(texts(plain("aaa \u0301bbbbb"), 6)).toEqual(["aaa \u0301", "bbbbb"]);
  });

  test("a grapheme larger than a part is cut between code points", () => {
    const zalgo = `a${"\u0301".repeat(10)}`;
    const parts = texts(plain(zalgo), 5);
    expect(parts.join("")).toBe(zalgo);
    expect(parts.map(bytes)).toEqual([5, 4, 4, 4, 4]);
  });

  test("a lone surrogate counts as the three bytes that it is sent as", () => {
    expect(texts(plain("\ud83d\ud83d\udc33\udc33"), 4)).toEqual(["\ud83d", "🐳", "\udc33"]);
  });

  test("a part must have room for any character", () => {
    expect(() => chunk(plain("abc"), 3)).toThrow("room");
  });
});

describe("code blocks", () => {
  const code = "if (a. b) {\n    go(x);\n}\n\nelse { }";
  const block = (before: string): StyledText => ({
    text: before + code,
    styles: [{ start: before.length, length: code.length, style: "MONOSPACE" }],
  });

  test("are cut between lines, and keep their indentation", () => {
    expect(texts(block(""), 20)).toEqual(["if (a. b) {", "    go(x);\n}", "else { }"]);
    for (const part of chunk(block(""), 20))
      expect(part.styles).toEqual([{ start: 0, length: part.text.length, style: "MONOSPACE" }]);
  });

  test("begin a new part where little is lost by it", () => {
    expect(texts(block("A long enough text before.\n\n"), 50)).toEqual(["A long enough text before.", code]);
  });

  test("code within a line is prose", () => {
    const text = "Here one. Then call the very long name";
    const styles: StyleRange[] = [{ start: 20, length: 18, style: "MONOSPACE" }];
    expect(texts({ text, styles }, 18)).toEqual(["Here one. ", "Then call the ", "very long name"]);
  });
});

describe("blocks", () => {
  /** Blocks as `kind text`, a `>` behind the kind for one that is led in to. */
  function blocks(...parts: readonly string[]): Parameters<typeof chunk> {
    let text = "";
    const borders: Border[] = [];
    for (const part of parts) {
      const [, kind = "", led = "", content = ""] = /^(\w+)(>?) ([^]*)$/.exec(part) ?? [];
      text += text && "\n\n";
      borders.push({ at: text.length, kind: kind as Border["kind"], isLed: led !== "" });
      text += content;
    }
    return [plain(text), 30, borders];
  }
  const cut = (...parts: readonly string[]): string[] => chunk(...blocks(...parts)).map(({ text }) => text);

  test("that fit into a part are not cut: not a list, whatever is left; not a paragraph, unless little would be", () => {
    expect(cut("prose a b", "solid - one two\n- three four\n- six")).toEqual(["a b", "- one two\n- three four\n- six"]);
    expect(cut("prose aaa bbb ccc ddd", "prose one two three. four five.")).toEqual([
      "aaa bbb ccc ddd",
      "one two three. four five.",
    ]);
    expect(cut("prose a b", "prose one two three. four five six.")).toEqual([
      "a b\n\none two three. ",
      "four five six.",
    ]);
  });
  test("stay with what leads in to them", () => {
    expect(cut("prose aaa bbb ccc", "prose Title", "solid> - one two three")).toEqual([
      "aaa bbb ccc",
      "Title\n\n- one two three",
    ]);
    expect(cut("prose Title", "solid> - one two three four\n- five")).toEqual([
      "Title",
      "- one two three four\n- five",
    ]);
  });
  test("that are longer than a part are cut before an item", () => {
    expect(cut("solid one two\nthree", "item four five\nsix", "item seven eight\nnine")).toEqual([
      "one two\nthree\n\nfour five\nsix",
      "seven eight\nnine",
    ]);
  });
  test("and no address is cut, unless it is longer than a part", () => {
    const url = `https://a.example/${"b".repeat(10)}`;
    expect(texts(plain(`看看这个网址${url}。好的`), 45)).toEqual(["看看这个网址", `${url}。好的`]);
    expect(texts(plain(`see ${url}${"c".repeat(40)}`), 30).join("")).toBe(`see ${url}${"c".repeat(40)}`);
  });
});

describe("styles", () => {
  test("go on in the next part, counted from its beginning", () => {
    const text = "plain bold bold plain";
    const styles: StyleRange[] = [
      { start: 6, length: 9, style: "BOLD" },
      { start: 11, length: 4, style: "ITALIC" },
    ];
    expect(chunk({ text, styles }, 11)).toEqual([
      { text: "plain bold ", styles: [{ start: 6, length: 5, style: "BOLD" }] },
      {
        text: "bold plain",
        styles: [
          { start: 0, length: 4, style: "BOLD" },
          { start: 0, length: 4, style: "ITALIC" },
        ],
      },
    ]);
  });

  test("outside the text or empty are dropped", () => {
    const styles: StyleRange[] = [
      { start: -2, length: 3, style: "BOLD" },
      { start: 2, length: 0, style: "BOLD" },
      { start: 2, length: 99, style: "ITALIC" },
      { start: 9, length: 1, style: "BOLD" },
      { start: Number.NaN, length: 1, style: "BOLD" },
    ];
    expect(chunk({ text: "abcd", styles }, 100)[0]?.styles).toEqual([
      { start: 0, length: 1, style: "BOLD" },
      { start: 2, length: 2, style: "ITALIC" },
    ]);
  });
});

const unit = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom("word ", "Sentence. ", "\n", "\n\n", "\r\n", "a", "    ", "long-without-space", "。"),
  },
  {
    weight: 2,
    arbitrary: fc.constantFrom("🐳", "👨‍👩‍👧", "🇩🇪", "e\u0301", " \u0301", "漢字", "\ud83d", "\udc33", "한", "क्षि"),
  },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 5 }) },
);
const anyText = fc.array(unit, { maxLength: 120 }).map((units) => units.join(""));
const anyInput: fc.Arbitrary<StyledText> = anyText.chain((text) => {
  const range = fc
    .record({
      start: fc.nat(Math.max(0, text.length - 1)),
      length: fc.nat(text.length),
      style: fc.constantFrom<StyleRange["style"][]>("BOLD", "ITALIC", "MONOSPACE"),
    })
    .map(({ start, length, style }) => ({ start, length: Math.min(length, text.length - start), style }));
  return fc.record({ text: fc.constant(text), styles: fc.array(range, { maxLength: 6 }) });
});
/** Borders of all kinds at the beginnings of some words. */
const bordersOf = (text: string, seed: number): Border[] =>
  Array.from(text.matchAll(/(?<![^\s])\S/g), ({ index: at }) => ({
    at,
    kind: (["prose", "solid", "item"] as const)[(at * seed) % 3] ?? "prose",
    isLed: (at * seed) % 5 === 0,
  })).filter(({ at }) => (at * seed) % 7 < 4);
const bytesMax = fc.oneof(fc.integer({ min: 4, max: 40 }), fc.integer({ min: 40, max: 400 }));

describe("any text", () => {
  test("no part is empty or larger than the limit", () => {
    fc.assert(
      fc.property(anyInput, bytesMax, (input, bytesMax) => {
        for (const { text } of chunk(input, bytesMax)) {
          expect(text).not.toBe("");
          expect(bytes(text)).toBeLessThanOrEqual(bytesMax);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("the parts, joined by the line breaks around the cuts, are the input", () => {
    fc.assert(
      fc.property(anyInput, bytesMax, (input, bytesMax) => {
        const parts = chunk(input, bytesMax, bordersOf(input.text, bytesMax));
        places(input.text, parts);
        for (const { text } of parts) expect(bytes(text)).toBeLessThanOrEqual(bytesMax);
        for (const [index, { text }] of parts.entries()) {
          if (index > 0) expect(text).not.toMatch(/^[\r\n]/);
          if (index < parts.length - 1) expect(text).not.toMatch(/[\r\n]$/);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("no cut parts a surrogate pair; nor a grapheme that fits into a part", () => {
    const graphemes = new Intl.Segmenter(undefined, { granularity: "grapheme" });
    fc.assert(
      fc.property(anyInput, fc.integer({ min: 60, max: 200 }), ({ text, styles }, bytesMax) => {
        const borders = new Set([...graphemes.segment(text)].map(({ index }) => index));
        const isSmall = [...graphemes.segment(text)].every(({ segment }) => bytes(segment) <= bytesMax);
        for (const at of places(text, chunk({ text, styles }, bytesMax))) {
          expect(/[\ud800-\udbff]/.test(text.charAt(at - 1)) && /[\udc00-\udfff]/.test(text.charAt(at))).toBe(false);
          if (isSmall) expect(borders.has(at)).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("every character keeps exactly its styles", () => {
    const stylesAt = (styles: readonly StyleRange[], at: number): string[] =>
      [
        ...new Set(styles.filter(({ start, length }) => start <= at && at < start + length).map(({ style }) => style)),
      ].sort();
    fc.assert(
      fc.property(anyInput, bytesMax, (input, bytesMax) => {
        const parts = chunk(input, bytesMax);
        const starts = places(input.text, parts);
        for (const [index, part] of parts.entries()) {
          for (const { start, length } of part.styles) {
            expect(length).toBeGreaterThan(0);
            expect(start).toBeGreaterThanOrEqual(0);
            expect(start + length).toBeLessThanOrEqual(part.text.length);
          }
          for (let at = 0; at < part.text.length; at++)
            expect(stylesAt(part.styles, at)).toEqual(stylesAt(input.styles, (starts[index] ?? 0) + at));
        }
      }),
      { numRuns: 200 },
    );
  });
});

describe("a very long text", () => {
  test("of any kind takes linear time", () => {
    const units = ["word and word. ", "🐳", "\u0301", "\n", " ", "漢", "x", "\ud83d", "🇩🇪", "a\n\nb"];
    for (const unit of units) {
      const text = unit.repeat(1_000_000 / unit.length);
      const styles: StyleRange[] = Array.from({ length: 10_000 }, (_, index) => ({
        start: index * 100,
        length: 40,
        style: "BOLD",
      }));
      const parts = chunk({ text, styles }, 2_000);
      expect(parts.reduce((sum, part) => sum + part.text.replaceAll("\n", "").length, 0)).toBe(
        text.replaceAll("\n", "").length,
      );
    }
  }, 10_000);
});
