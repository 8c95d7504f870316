import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { StyleRange } from "../../../src/core/model.ts";
import { toStyledText } from "../../../src/signal/daemon/styled.ts";
import { parseStyledText } from "../../doubles/styled-text.ts";

const style = fc.constantFrom("BOLD", "ITALIC", "STRIKETHROUGH", "MONOSPACE", "SPOILER");
const text = fc.string({ unit: fc.constantFrom(..."ab *~|`\\_é👍".split(/(?!$)/u)), maxLength: 20 });
const range = fc.record({ start: fc.nat(20), length: fc.nat(12), style });

/** Which styles each code unit carries: two sets of ranges that paint the same are the same. */
function paint(length: number, ranges: readonly StyleRange[]): string[] {
  return Array.from({ length }, (_, at) =>
    ranges
      .filter(({ start, length: size }) => at >= start && at < start + size)
      .map(({ style: name }) => name)
      .sort()
      .filter((name, index, all) => name !== all[index - 1])
      .join(" "),
  );
}

describe("styled text", () => {
  test("says the same text to every release of the parser, and no style that was not asked for", () => {
    fc.assert(
      fc.property(text, fc.array(range, { maxLength: 4 }), fc.boolean(), (plain, styles, knowsTriple) => {
        const parsed = parseStyledText(toStyledText(plain, styles), knowsTriple);
        expect(parsed.text).toBe(plain);
        const asked = paint(plain.length, styles);
        for (const [at, painted] of paint(plain.length, parsed.styles).entries())
          for (const name of painted.split(" ").filter(Boolean)) expect(asked[at]).toContain(name);
      }),
      { numRuns: 3000 },
    );
  });

  test("expresses text without styles, whatever is in it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (plain) => {
        expect(parseStyledText(toStyledText(plain, [])).text).toBe(plain);
      }),
    );
  });

  test("expresses a single range in plain words", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z ]{5,20}$/u), fc.nat(4), style, (plain, start, name) => {
        const ranges = [{ start, length: 1, style: name }];
        expect(parseStyledText(toStyledText(plain, ranges)).styles).toEqual(ranges);
      }),
    );
  });

  const italic = (start: number, length: number): StyleRange => ({ start, length, style: "ITALIC" });
  test.each<[string, StyleRange[], string]>([
    ["nested ranges", [bold(0, 9), { start: 2, length: 3, style: "MONOSPACE" }], "**ab`cde`fghi**"],
    ["ranges that touch as one", [bold(0, 2), bold(2, 2)], "**abcd**efghi"],
    ["a range beyond the end as far as there is text", [bold(7, 99)], "abcdefg**hi**"],
    ["one of two that overlap", [bold(0, 4), { start: 2, length: 4, style: "SPOILER" }], "ab||cdef||ghi"],
    ["one of bold and italic, which only one release knows together", [italic(0, 4), bold(0, 4)], "**abcd**efghi"],
    ["one of bold and italic that touch", [bold(0, 2), italic(2, 2)], "**ab**cdefghi"],
    ["bold inside italic", [italic(0, 6), bold(2, 2)], "*ab**cd**ef*ghi"],
    ["the rest where one cannot be said", [italic(0, 4), bold(0, 4), italic(6, 2)], "**abcd**ef*gh*i"],
  ])("expresses %s", (_, styles, expected) => {
    expect(toStyledText("abcdefghi", styles)).toBe(expected);
  });

  test("does not put a marker behind a plain backslash", () => {
    expect(toStyledText(String.raw`a\b c`, [bold(2, 1), bold(4, 1)])).toBe(String.raw`a\b **c**`);
  });
});

function bold(start: number, length: number): StyleRange {
  return { start, length, style: "BOLD" };
}
