import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { believableStamps, nextStamp, parseStamp, stampAheadMaxMs, stampKey } from "../../src/core/hlc.ts";

const t0 = 1_750_000_000_000;
const stampAt = (at: number, device: string): string => nextStamp(null, at, device);
const device = fc.integer({ min: 0, max: 0xffff }).map((n) => n.toString(16).padStart(4, "0"));
const time = fc.integer({ min: 0, max: 36 ** 8 - 1 });
const stamp = fc
  .tuple(time, fc.integer({ min: 0, max: 1_295 }), device)
  .map(([ms, counter, device]) => ms.toString(36).padStart(8, "0") + counter.toString(36).padStart(2, "0") + device);

describe("a stamp", () => {
  test("holds time, counter and device in 14 characters", () => {
    const made = nextStamp(null, t0, "a1f4");
    expect(made).toHaveLength(14);
    expect(parseStamp(made)).toEqual({ ms: t0, counter: 0, device: "a1f4" });
  });

  test("is the time of the server, not ours", () => {});

  test("counts up within a millisecond, and borrows the next one when the counter is full", () => {
    const first = nextStamp(null, t0, "0001");
    expect(parseStamp(nextStamp(first, t0, "0001"))).toEqual({ ms: t0, counter: 1, device: "0001" });
    const full = `${t0.toString(36)}zz0001`;
    expect(parseStamp(nextStamp(full, t0, "0001"))).toEqual({ ms: t0 + 1, counter: 0, device: "0001" });
  });

  test("is not read out of anything else", () => {
    const made = nextStamp(null, t0, "a1f4");
    for (const text of [
      "",
      made.slice(1),
      `${made}0`,
      made.toUpperCase(),
      `${made.slice(0, 13)}g`,
      ` ${made.slice(1)}`,
      `${made}\n`,
    ])
      expect(parseStamp(text)).toBeNull();
  });

  test("needs a device of four hex digits", () => {
    for (const wrong of ["", "abc", "ABCD", "12345", "wxyz"])
      expect(() => nextStamp(null, t0, wrong)).toThrow("device");
  });

  test("a device whose clock was far ahead does not drag the others along", () => {
    const ahead = stampAt(t0 + stampAheadMaxMs + 1, "ffff");
    const early = stampAt(t0 + stampAheadMaxMs, "ffff");
    expect(parseStamp(nextStamp(ahead, t0, "0001"))?.ms).toBe(t0);
    expect(believableStamps({ ahead, early, none: "none" }, t0)).toEqual({ early });
  });

  test("several keys changed at once each get their own, larger than all before", () => {
    const before = { model: stampAt(t0 + 1_000, "ffff"), title: stampAt(t0, "ffff") };
    const after = stampKey(stampKey(before, "title", t0, "0001"), "quiet", t0, "0001");
    expect(after["model"]).toBe(before.model);
    const [title, quiet] = [after["title"] ?? "", after["quiet"] ?? ""];
    expect(title > before.model).toBe(true);
    expect(quiet > title).toBe(true);
  });
});

describe("the laws of the clock", () => {
  test("the next stamp is larger than the last, whatever our clock does", () => {
    fc.assert(
      fc.property(
        time,
        fc.integer({ min: -600_000, max: stampAheadMaxMs }),
        fc.nat(1_295),
        device,
        device,
        (now, lead, counter, theirs, ours) => {
          const ms = Math.min(36 ** 8 - 2, Math.max(0, now + lead));
          const last = ms.toString(36).padStart(8, "0") + counter.toString(36).padStart(2, "0") + theirs;
          expect(nextStamp(last, now, ours) > last).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  test("stamps sort as time, then counter, then device", () => {
    fc.assert(
      fc.property(stamp, stamp, (a, b) => {
        const [x, y] = [parseStamp(a), parseStamp(b)];
        if (x === null || y === null) throw new Error("expected two stamps");
        const byParts =
          x.ms - y.ms || x.counter - y.counter || Number.parseInt(x.device, 16) - Number.parseInt(y.device, 16);
        expect(Number(a > b) - Number(a < b)).toBe(Math.sign(byParts));
      }),
    );
  });

  test("a chain of changes on several devices with different clocks stays in order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(device, fc.integer({ min: -60_000, max: 60_000 }), fc.nat(10)), { maxLength: 50 }),
        (changes) => {
          let last: string | null = null;
          let now = t0;
          for (const [device, clockError, passed] of changes) {
            now += passed;
            const next: string = nextStamp(last, now + clockError, device);
            if (last !== null) expect(next > last).toBe(true);
            last = next;
          }
        },
      ),
    );
  });
});
