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
  test("says the same text and the same styles to every release of the parser, or nothing", () => {
    fc.assert(
      fc.property(text, fc.array(range, { maxLength: 4 }), fc.boolean(), (plain, styles, knowsTriple) => {
        const markup = toStyledText(plain, styles);
        if (markup === null) return;
        const parsed = parseStyledText(markup, knowsTriple);
        expect(parsed.text).toBe(plain);
        expect(paint(plain.length, parsed.styles)).toEqual(paint(plain.length, styles));
      }),
      { numRuns: 3000 },
    );
  });

  test("expresses text without styles, whatever is in it", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (plain) => {
        expect(parseStyledText(toStyledText(plain, []) ?? "").text).toBe(plain);
      }),
    );
  });

  test("expresses a single range in plain words", () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[a-z ]{5,20}$/u), fc.nat(4), style, (plain, start, name) => {
        expect(toStyledText(plain, [{ start, length: 1, style: name }])).not.toBeNull();
      }),
    );
  });

  test.each<[string, StyleRange[], string | null]>([
    ["nested ranges", [bold(0, 9), { start: 2, length: 3, style: "MONOSPACE" }], "**ab`cde`fghi**"],
    ["ranges that touch as one", [bold(0, 2), bold(2, 2)], "**abcd**efghi"],
    ["a range beyond the end as far as there is text", [bold(7, 99)], "abcdefg**hi**"],
    ["no overlap without nesting", [bold(0, 4), { start: 2, length: 4, style: "SPOILER" }], null],
    ["no bold italic, which only one release knows", [bold(0, 4), { start: 0, length: 4, style: "ITALIC" }], null],
  ])("expresses %s", (_, styles, expected) => {
    expect(toStyledText("abcdefghi", styles)).toBe(expected);
  });

  test("does not put a marker behind a plain backslash", () => {
    expect(toStyledText(String.raw`a\b`, [bold(2, 1)])).toBeNull();
  });
});

function bold(start: number, length: number): StyleRange {
  return { start, length, style: "BOLD" };
}
