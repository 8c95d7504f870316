import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import {
  backoffMs,
  countTry,
  defaultBackoff,
  faultClass,
  isLastTry,
  nextTryMs,
  promptBounds,
  serverMinimumMs,
  type FaultClass,
  type Tries,
} from "../../src/core/backoff.ts";
import type { ErrorCode } from "../../src/core/errors.ts";

const attempt = fc.integer({ min: 1, max: 5_000 });
const jitter = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const retryAfterMs = fc.option(fc.integer({ min: 0, max: 86_400_000 }), { nil: null });
const limits = fc
  .record({ floorMs: fc.nat(5_000), over: fc.nat(100_000), baseMs: fc.integer({ min: 1, max: 10_000 }) })
  .map(({ floorMs, over, baseMs }) => ({ floorMs, baseMs, capMs: floorMs + over }));

describe("backoff", () => {
  test("doubles the range of the jitter with each attempt up to the cap", () => {
    const almost = 1 - 2 ** -53;
    const waits = [1, 2, 3, 4, 5, 6, 7, 8].map((attempt) => backoffMs({ attempt, jitter: almost, retryAfterMs: null }));
    expect(waits).toEqual([999, 1_999, 3_999, 7_999, 15_999, 31_999, 59_999, 59_999]);
  });

  test("spreads over the whole range, but not below the floor", () => {
    const waits = [0, 0.1, 0.5, 0.75].map((jitter) => backoffMs({ attempt: 3, jitter, retryAfterMs: null }));
    expect(waits).toEqual([defaultBackoff.floorMs, 400, 2_000, 3_000]);
  });

  test("takes the server's Retry-After as a lower bound, also beyond the cap", () => {
    expect(backoffMs({ attempt: 1, jitter: 0.5, retryAfterMs: 300_000 })).toBe(300_000);
    expect(backoffMs({ attempt: 7, jitter: 0.5, retryAfterMs: 10 })).toBe(30_000);
  });

  test("takes a Retry-After that is no wait for none", () => {
    expect([Number.NaN, Number.POSITIVE_INFINITY, -5, null].map(serverMinimumMs)).toEqual([0, 0, 0, 0]);
    expect(serverMinimumMs(0.2)).toBe(1);
  });

  test("is monotone in the attempt", () => {
    fc.assert(
      fc.property(attempt, jitter, retryAfterMs, limits, (attempt, jitter, retryAfterMs, limits) => {
        const now = backoffMs({ attempt, jitter, retryAfterMs }, limits);
        expect(backoffMs({ attempt: attempt + 1, jitter, retryAfterMs }, limits)).toBeGreaterThanOrEqual(now);
      }),
    );
  });

  test("stays between floor and cap unless the server asks for more, and is a whole number", () => {
    fc.assert(
      fc.property(attempt, jitter, retryAfterMs, limits, (attempt, jitter, retryAfterMs, limits) => {
        const ms = backoffMs({ attempt, jitter, retryAfterMs }, limits);
        expect(Number.isSafeInteger(ms)).toBe(true);
        expect(ms).toBeGreaterThanOrEqual(Math.max(limits.floorMs, retryAfterMs ?? 0));
        expect(ms).toBeLessThanOrEqual(Math.max(limits.capMs, retryAfterMs ?? 0));
      }),
    );
  });
});

describe("bounds of a prompt", () => {
  const classes = Object.keys(promptBounds) as FaultClass[];
  const kindOf = (code: ErrorCode, isAskedAnew: boolean, isFatal = false, hasSpoken = false) =>
    faultClass(code, { isAskedAnew, isFatal, hasSpoken });

  test.each([
    ["claude_request", "refused", "refused"],
    ["claude_unreachable", "outage", "outage"],
    ["claude_key", "outage", "outage"],
    ["claude_overloaded", "outage", "outage"],
    ["claude_failed", "died", "died"],
    ["claude_stream_lost", "broken", "lookup"],
    ["claude_timeout", "broken", "outage"],
  ] as const)("%s is %s where the conversation is kept here, else %s", (code, here, there) => {
    expect([kindOf(code, true), kindOf(code, false)]).toEqual([here, there]);
    expect(kindOf(code, false, true)).toBe("fatal");
    expect(kindOf(code, true, false, true)).toBe(here === "outage" ? "broken" : here);
  });

  test("every class ends, and what is paid for ends after three tries", () => {
    for (const kind of classes) {
      const { triesMax } = promptBounds[kind];
      expect(nextTryMs(kind, { attempt: triesMax, jitter: 0, retryAfterMs: 5 })).toBeNull();
      if (triesMax > 1)
        expect(nextTryMs(kind, { attempt: triesMax - 1, jitter: 0, retryAfterMs: null })).not.toBeNull();
    }
    for (const kind of ["broken", "died", "refused", "fatal"] as const)
      expect(promptBounds[kind].triesMax).toBeLessThanOrEqual(3);
  });

  test("a class lasts as long as its person is told", () => {
    const retryAfterMs = null;
    const hoursOf = (kind: FaultClass): number => {
      let ms = 0;
      for (let count = 1; count < promptBounds[kind].triesMax; count++) {
        // The mean of the jitter, as so many are drawn.
        ms += nextTryMs(kind, { attempt: count, jitter: 0.5, retryAfterMs }) ?? Number.NaN;
      }
      return ms / 3_600_000;
    };
    expect(promptBounds.outage.ending).toContain("for a week");
    expect(Math.abs(hoursOf("outage") - 7 * 24)).toBeLessThan(1);
    expect(promptBounds.lookup.ending).toContain("for hours");
    expect(hoursOf("lookup")).toBeGreaterThan(2);
    expect(hoursOf("lookup")).toBeLessThan(24);
  });

  test("a try counts for its class alone, and the last is the last", () => {
    for (const kind of classes) {
      let tries: Tries | undefined = { [kind === "busy" ? "died" : "busy"]: 1 };
      for (let count = 1; count <= promptBounds[kind].triesMax; count += 1) {
        const counted = countTry(kind, tries, { jitter: 0.5, retryAfterMs: null });
        if ((counted.waitMs === null) !== isLastTry(kind, count)) throw new Error(`${kind}: ${count}`);
        ({ tries } = counted);
      }
      expect(tries).toEqual({ [kind === "busy" ? "died" : "busy"]: 1, [kind]: promptBounds[kind].triesMax });
    }
  });

  test("the wait is a whole number of ms, and never shorter than the server wants", () => {
    fc.assert(
      fc.property(fc.constantFrom(...classes), attempt, jitter, retryAfterMs, (kind, tries, chance, after) => {
        const waitMs = nextTryMs(kind, { attempt: tries, jitter: chance, retryAfterMs: after });
        if (waitMs === null) return;
        expect(Number.isInteger(waitMs)).toBe(true);
        expect(waitMs).toBeGreaterThanOrEqual(Math.max(after ?? 0, defaultBackoff.floorMs));
      }),
    );
  });
});

test("rule 8: every site of the table is a file, or a folder, of src", () => {
  const src = join(import.meta.dir, "../../src");
  const table = readFileSync(join(src, "core/backoff.ts"), "utf8").split("*/")[0] ?? "";
  const sites = [...table.matchAll(/^ \* \| [^|`]*\(`([\w/-]+)`\)/gmu)].map((site) => site[1] ?? "");
  expect(sites.length).toBeGreaterThan(15);
  expect(sites.filter((site) => !existsSync(join(src, `${site}.ts`)) && !existsSync(join(src, site)))).toEqual([]);
  // What waits before it tries again has its row.
  const waiting = readdirSync(src, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && name !== "core/backoff.ts")
    .filter((name) => /\b(backoffMs|nextTryMs|countTry)\(/u.test(readFileSync(join(src, name), "utf8")))
    .map((name) => name.slice(0, -3));
  expect(waiting.filter((name) => !sites.includes(name))).toEqual([]);
});
