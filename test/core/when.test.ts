import { expect, test } from "bun:test";
import fc from "fast-check";
import { dayOf, timeLine, withoutTimeLine } from "../../src/core/when.ts";

const at = Date.UTC(2026, 10, 30, 23, 41);

test.each([
  ["Europe/Berlin", "[Tuesday, 1 December 2026, 00:41, Europe/Berlin]", "2026-12-01"],
  ["UTC", "[Monday, 30 November 2026, 23:41, UTC]", "2026-11-30"],
  ["America/Argentina/Buenos_Aires", "[Monday, 30 November 2026, 20:41, America/Argentina/Buenos_Aires]", "2026-11-30"],
  ["Asia/Kathmandu", "[Tuesday, 1 December 2026, 05:26, Asia/Kathmandu]", "2026-12-01"],
])("a time in %s: its line and its day", (zone, line, day) => {
  expect([timeLine(at, zone), dayOf(at, zone)]).toEqual([line, day]);
});

test("any time that a phone may claim has a line, and what its person wrote comes back without it", () => {
  fc.assert(
    fc.property(fc.double(), fc.string(), fc.constantFrom("UTC", "Europe/Berlin", "Etc/GMT+5"), (time, words, zone) => {
      const line = timeLine(Number.isNaN(time) ? 0 : time, zone);
      expect(withoutTimeLine(`${line}\n${words}`)).toBe(words);
      expect(withoutTimeLine(line)).toBe("");
    }),
  );
});

test("words in brackets that a person wrote stay", () => {
  expect(withoutTimeLine("[Monday, at noon]\nlunch?")).toBe("[Monday, at noon]\nlunch?");
});
