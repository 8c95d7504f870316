import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import type { Stamps } from "../../src/core/model.ts";
import type { Context, JsonValue } from "../../src/core/model.ts";
import { calculateDiff, isEqual, merge, synchronize, toInstant, type SyncResult } from "../../src/core/synchronizer.ts";

const earlier = "2026-03-01T10:00:00Z";
const later = "2026-03-01T10:00:01Z";

describe("who wins by updated_at", () => {
  test("1. remote newer: the keys that differ, with the remote's values", () => {
    const local = { updated_at: earlier, model: "a", title: "same", only: 1 };
    const remote = { updated_at: later, model: "b", title: "same" };
    expect(calculateDiff(local, remote)).toEqual({ updated_at: later, model: "b" });
  });

  test("2. local newer: nothing to change locally", () => {
    expect(calculateDiff({ updated_at: later, model: "a" }, { updated_at: earlier, model: "b", extra: true })).toEqual(
      {},
    );
  });

  test("3. equal timestamps: remote wins", () => {
    expect(calculateDiff({ updated_at: later, model: "a" }, { updated_at: later, model: "b" })).toEqual({ model: "b" });
    const offset = "2026-03-01T12:00:01.000+02:00";
    expect(calculateDiff({ updated_at: later, model: "a" }, { updated_at: offset, model: "b" })).toEqual({
      updated_at: offset,
      model: "b",
    });
  });

  test("4. no timestamp, or only one: remote wins", () => {
    expect(calculateDiff({ model: "a" }, { model: "b" })).toEqual({ model: "b" });
    expect(calculateDiff({ updated_at: later, model: "a" }, { model: "b" })).toEqual({ model: "b" });
    expect(calculateDiff({ model: "a" }, { updated_at: earlier, model: "b" })).toEqual({
      updated_at: earlier,
      model: "b",
    });
  });

  test("5. an unreadable timestamp is none: remote wins", () => {
    for (const unreadable of [
      "yesterday",
      "2026-13-01T00:00:00Z",
      "2026-03-01",
      1_772_000_000,
      null,
      {},
    ] as JsonValue[]) {
      expect(calculateDiff({ updated_at: later, model: "a" }, { updated_at: unreadable, model: "b" })).toEqual({
        updated_at: unreadable,
        model: "b",
      });
      expect(calculateDiff({ updated_at: unreadable, model: "a" }, { updated_at: earlier, model: "b" })).toEqual({
        updated_at: earlier,
        model: "b",
      });
    }
  });

  test("6. a key that only one side has is kept", () => {
    const local = { updated_at: earlier, mine: 1 };
    const remote = { updated_at: later, theirs: 2 };
    expect(merge(local, calculateDiff(local, remote))).toEqual({ updated_at: later, mine: 1, theirs: 2 });
    expect(synchronize(remote, local).merged).toEqual({ updated_at: later, mine: 1, theirs: 2 });
  });
});

describe("the whole step without stamps", () => {
  test("local newer: takes what only the remote has, pushes the rest", () => {
    const local = { updated_at: later, model: "a", mine: 1 };
    const remote = { updated_at: earlier, model: "b", theirs: 2 };
    expect(synchronize(local, remote)).toEqual({
      changed: true,
      diff: { theirs: 2 },
      push: { updated_at: later, model: "a", mine: 1 },
      merged: { updated_at: later, model: "a", mine: 1, theirs: 2 },
      stamps: {},
    });
  });

  test("nothing to do is not a change", () => {
    const same = { updated_at: later, list: [1, { deep: null }] };
    expect(synchronize(same, structuredClone(same))).toMatchObject({ changed: false, diff: {}, push: {} });
    expect(synchronize({ ...same, mine: 1 }, same)).toMatchObject({ changed: false, diff: {}, push: { mine: 1 } });
  });
});

describe("stamps", () => {
  const old = "00000000010000aa";
  const young = "00000000020000bb";

  test("two devices that changed different keys both keep their change", () => {
    const result = synchronize(
      { updated_at: earlier, model: "mine", title: "old" },
      { updated_at: later, model: "old", title: "theirs" },
      { local: { model: young, title: old }, remote: { model: old, title: young } },
    );
    expect(result.merged).toEqual({ updated_at: later, model: "mine", title: "theirs" });
    expect(result.push).toEqual({ model: "mine" });
    expect(result.diff).toEqual({ updated_at: later, title: "theirs" });
    expect(result.stamps).toEqual({ model: young, title: young });
  });

  test("on a tie the remote wins", () => {
    const stamps = { local: { model: old }, remote: { model: old } };
    expect(synchronize({ model: "a" }, { model: "b" }, stamps).merged).toEqual({ model: "b" });
  });

  test("a stamped key beats an unstamped one, whatever updated_at says", () => {
    const local = { updated_at: earlier, model: "a" };
    const remote = { updated_at: later, model: "b" };
    expect(synchronize(local, remote, { local: { model: old }, remote: {} }).merged).toEqual({
      updated_at: later,
      model: "a",
    });
    expect(synchronize(remote, local, { local: {}, remote: { model: old } }).merged).toEqual({
      updated_at: later,
      model: "a",
    });
  });

  test("a tombstone removes an older value on the other side, and is remembered", () => {
    const gone = synchronize({ model: "a", mine: 1 }, { mine: 1 }, { local: { model: old }, remote: { model: young } });
    expect(gone).toEqual({
      changed: true,
      diff: {},
      push: {},
      merged: { mine: 1 },
      stamps: { model: young },
    });
    const ours = synchronize({}, { model: "a" }, { local: { model: young }, remote: { model: old } });
    expect(ours).toEqual({ changed: false, diff: {}, push: {}, merged: {}, stamps: { model: young } });
  });

  test("an empty stamp is none", () => {
    const stamps = { local: { mine: "" }, remote: { model: "" } };
    expect(synchronize({ mine: 1, model: "a" }, { model: "b" }, stamps)).toEqual({
      changed: true,
      diff: { model: "b" },
      push: { mine: 1 },
      merged: { mine: 1, model: "b" },
      stamps: {},
    });
  });

  test("a newer value revives what was removed", () => {
    const result = synchronize({}, { model: "b" }, { local: { model: old }, remote: { model: young } });
    expect(result).toMatchObject({ changed: true, diff: { model: "b" }, merged: { model: "b" } });
  });
});

describe("strange keys and values", () => {
  test("__proto__, constructor and the like are keys like any other", () => {
    const remote = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1, "toString": null}') as Context;
    const diff = calculateDiff({}, remote);
    expect(Object.keys(diff).sort()).toEqual(["__proto__", "constructor", "toString"]);
    const merged = merge({ mine: 1 }, diff);
    expect(Object.getPrototypeOf(merged)).toBe(Object.prototype);
    expect(Object.hasOwn(merged, "__proto__")).toBe(true);
    expect(Reflect.get({}, "polluted")).toBeUndefined();
    expect(calculateDiff(merged, remote)).toEqual({});
    const stamps = JSON.parse('{"__proto__": "00000000010000aa"}') as Stamps;
    const result = synchronize({}, remote, { local: {}, remote: stamps });
    expect(Object.keys(result.stamps)).toEqual(["__proto__"]);
    expect(Object.keys(result.merged).sort()).toEqual(["__proto__", "constructor", "toString"]);
    const removed = synchronize(remote, {}, { local: {}, remote: stamps });
    expect(removed.changed).toBe(true);
    expect(Object.hasOwn(removed.merged, "__proto__")).toBe(false);
  });

  test("null is a value, not an absence", () => {
    expect(calculateDiff({}, { model: null })).toEqual({ model: null });
    expect(calculateDiff({ model: null }, { model: null })).toEqual({});
    expect(calculateDiff({ model: 0 }, { model: null })).toEqual({ model: null });
  });

  test("equality is deep: order of keys does not matter, order of elements does", () => {
    expect(isEqual({ a: 1, b: [1, { c: 2 }] }, { b: [1, { c: 2 }], a: 1 })).toBe(true);
    expect(isEqual([1, 2], [2, 1])).toBe(false);
    expect(isEqual([], {})).toBe(false);
    expect(isEqual({ 0: 1 }, [1])).toBe(false);
    expect(isEqual({ a: 1 }, { b: 1 })).toBe(false);
    expect(isEqual("1", 1)).toBe(false);
    expect(isEqual(null, {})).toBe(false);
  });

  test("survives values nested as deep as JSON.parse makes them", () => {
    const deep = (): JsonValue => JSON.parse("[".repeat(100_000) + "]".repeat(100_000)) as JsonValue;
    expect(calculateDiff({ deep: deep() }, { deep: deep() })).toEqual({});
  });
});

describe("RFC 3339 as instants", () => {
  const compare = (a: string, b: string): number => {
    const [x, y] = [toInstant(a), toInstant(b)];
    if (x === null || y === null) throw new Error("expected two readable times");
    return x < y ? -1 : Number(x > y);
  };

  test("compares instants, not strings", () => {
    expect(compare("2026-03-01T10:00:00+02:00", "2026-03-01T09:00:00Z")).toBe(-1);
    expect(compare("2026-03-01T10:00:00Z", "2026-03-01T11:30:00+01:30")).toBe(0);
    expect(compare("2026-03-01t10:00:00z", "2026-03-01 10:00:00-00:00")).toBe(0);
    expect(compare("0099-12-31T23:59:59Z", "0100-01-01T00:00:00Z")).toBe(-1);
  });

  test("is exact to the last digit of any precision", () => {
    expect(compare("2026-03-01T10:00:00.1234567891Z", "2026-03-01T10:00:00.1234567892Z")).toBe(-1);
    expect(compare("2026-03-01T10:00:00.5Z", "2026-03-01T10:00:00.50000Z")).toBe(0);
    expect(compare("2026-03-01T10:00:00.000Z", "2026-03-01T10:00:00Z")).toBe(0);
    expect(compare("2026-03-01T10:00:00.09Z", "2026-03-01T10:00:00.1Z")).toBe(-1);
    expect(compare(`2026-03-01T10:00:00.${"0".repeat(100_000)}1Z`, "2026-03-01T10:00:00Z")).toBe(1);
  });

  test("knows leap days and leap seconds", () => {
    expect(toInstant("2024-02-29T00:00:00Z")).not.toBeNull();
    expect(toInstant("2025-02-29T00:00:00Z")).toBeNull();
    expect(toInstant("1900-02-29T00:00:00Z")).toBeNull();
    expect(compare("2016-12-31T23:59:59.999Z", "2016-12-31T23:59:60Z")).toBe(-1);
    expect(compare("2016-12-31T15:59:60.5-08:00", "2017-01-01T00:00:00Z")).toBe(-1);
    expect(toInstant("2016-12-31T12:00:60Z")).toBeNull();
  });

  test("takes nothing else", () => {
    const texts = [
      "",
      "2026-03-01",
      "2026-03-01T10:00:00",
      "2026-03-01T10:00Z",
      "2026-3-1T10:00:00Z",
      "2026-03-01T24:00:00Z",
      "2026-03-01T10:60:00Z",
      "2026-03-01T10:00:61Z",
      "2026-03-01T10:00:00.Z",
      "2026-03-01T10:00:00+24:00",
      "2026-03-01T10:00:00+0200",
      "2026-00-01T10:00:00Z",
      "2026-04-31T10:00:00Z",
      " 2026-03-01T10:00:00Z",
      "2026-03-01T10:00:00Z\n",
    ];
    for (const text of texts) expect([text, toInstant(text)]).toEqual([text, null]);
  });

  test("agrees with Date wherever that is exact", () => {
    const when = fc.integer({ min: -2_000_000_000_000, max: 4_000_000_000_000 });
    const offsets = fc.integer({ min: -1_439, max: 1_439 });
    const write = (ms: number, offset: number): string => {
      const two = (n: number): string => String(n).padStart(2, "0");
      const local = new Date(ms + offset * 60_000).toISOString().slice(0, -1);
      const minutes = Math.abs(offset);
      return `${local}${offset < 0 ? "-" : "+"}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
    };
    fc.assert(
      fc.property(when, offsets, when, offsets, (a, offsetA, b, offsetB) => {
        expect(compare(write(a, offsetA), write(b, offsetB))).toBe(Math.sign(a - b));
        expect(compare(write(a, offsetA), write(a, offsetB))).toBe(0);
      }),
    );
  });
});

// Few keys and values, so that the sides meet often.
const key = fc.constantFrom("model", "title", "quiet", "__proto__", "constructor");
const value: fc.Arbitrary<JsonValue> = fc.oneof(
  fc.constantFrom<JsonValue>(null, true, 0, "", "x", [], {}, [1], { a: [1] }, { a: [2] }),
  fc.jsonValue({ maxDepth: 2 }) as fc.Arbitrary<JsonValue>,
);
const updatedAt = fc.option(
  fc.constantFrom(earlier, later, "2026-03-01T12:00:01+02:00", "2026-03-01T10:00:00.5Z", "soon"),
  {
    nil: undefined,
  },
);
const record = <T>(of: fc.Arbitrary<T>) =>
  fc.array(fc.tuple(key, of), { maxLength: 5 }).map((entries) => Object.fromEntries<T>(entries));
const context = fc
  .tuple(record(value), updatedAt)
  .map(([values, at]): Context => (at === undefined ? values : { ...values, updated_at: at }));

/** A side in which each stamp belongs to one change: the same stamp means the same value, or the same removal. */
const stampedSide = record(fc.nat(12)).map((changes) => {
  const values: [string, JsonValue][] = [];
  const stamps: [string, string][] = [];
  for (const [key, n] of Object.entries(changes)) {
    stamps.push([key, `0000000${n.toString(36)}000000`]);
    if (n % 4 !== 0) values.push([key, { change: n }]);
  }
  return { context: Object.fromEntries<JsonValue>(values), stamps: Object.fromEntries<string>(stamps) };
});
const someStamps = record(fc.nat(6).map((n) => `0000000${n}000000`));

/** What a side holds after its part of the result: written over, less the keys whose stamp is a tombstone. */
const after = (side: Context, written: Context, { merged, stamps }: SyncResult): Context =>
  Object.fromEntries(
    Object.entries(merge(side, written)).filter(([key]) => !Object.hasOwn(stamps, key) || Object.hasOwn(merged, key)),
  );
const bothEqual = (local: Context, remote: Context, result: SyncResult): void => {
  const here = after(local, result.diff, result);
  const there = after(remote, result.push, result);
  expect(isEqual(here, there)).toBe(true);
  expect(isEqual(here, result.merged)).toBe(true);
};

describe("the laws", () => {
  const frozen = <T>(value: T): T => {
    if (typeof value === "object" && value !== null) {
      Object.freeze(value);
      for (const inner of Object.values(value)) frozen(inner);
    }
    return value;
  };

  test("a side does not differ from itself", () => {
    fc.assert(
      fc.property(context, (side) => expect(Object.keys(calculateDiff(side, structuredClone(side)))).toEqual([])),
    );
  });

  test("merging nothing changes nothing, and makes a new object", () => {
    fc.assert(
      fc.property(context, (side) => {
        expect(isEqual(merge(side, {}), side)).toBe(true);
        expect(merge(side, {})).not.toBe(side);
      }),
    );
  });

  test("applying a diff twice is applying it once", () => {
    fc.assert(
      fc.property(context, context, (local, remote) => {
        const diff = calculateDiff(local, remote);
        const once = merge(local, diff);
        expect(isEqual(merge(once, diff), once)).toBe(true);
        expect(Object.keys(calculateDiff(once, remote))).toEqual([]);
      }),
    );
  });

  test("no input is mutated", () => {
    fc.assert(
      fc.property(context, context, someStamps, someStamps, (local, remote, stampsHere, stampsThere) => {
        frozen([local, remote, stampsHere, stampsThere]);
        merge(local, calculateDiff(local, remote));
        synchronize(local, remote);
        synchronize(local, remote, { local: stampsHere, remote: stampsThere });
      }),
    );
  });

  test("after diff and push both sides are equal, with and without stamps", () => {
    fc.assert(
      fc.property(context, context, someStamps, someStamps, (local, remote, stampsHere, stampsThere) => {
        bothEqual(local, remote, synchronize(local, remote));
        bothEqual(local, remote, synchronize(local, remote, { local: stampsHere, remote: stampsThere }));
      }),
      { numRuns: 500 },
    );
  });

  test("a second step has nothing to do", () => {
    fc.assert(
      fc.property(context, context, someStamps, someStamps, (local, remote, stampsHere, stampsThere) => {
        const { merged, stamps } = synchronize(local, remote, { local: stampsHere, remote: stampsThere });
        const again = synchronize(merged, merged, { local: stamps, remote: stamps });
        expect(again).toMatchObject({ changed: false });
        expect(Object.keys(again.diff).concat(Object.keys(again.push))).toEqual([]);
        expect(isEqual(again.merged, merged)).toBe(true);
      }),
    );
  });

  test("diff is calculateDiff, plus what only the remote has", () => {
    fc.assert(
      fc.property(context, context, (local, remote) => {
        const { diff, changed } = synchronize(local, remote);
        for (const [key, value] of Object.entries(calculateDiff(local, remote)))
          expect(isEqual(diff[key] ?? null, value)).toBe(true);
        for (const key of Object.keys(remote))
          if (!Object.hasOwn(local, key)) expect(Object.hasOwn(diff, key)).toBe(true);
        expect(changed).toBe(Object.keys(diff).length > 0);
      }),
    );
  });

  test("no key disappears without a tombstone", () => {
    fc.assert(
      fc.property(context, context, someStamps, someStamps, (local, remote, stampsHere, stampsThere) => {
        const { merged, stamps } = synchronize(local, remote, { local: stampsHere, remote: stampsThere });
        for (const key of [...Object.keys(local), ...Object.keys(remote)])
          if (!Object.hasOwn(merged, key)) expect(Object.hasOwn(stamps, key)).toBe(true);
        expect(Object.keys(synchronize(local, remote).merged).sort()).toEqual(
          [...new Set([...Object.keys(local), ...Object.keys(remote)])].sort(),
        );
      }),
    );
  });

  test("with stamps, merging is commutative", () => {
    fc.assert(
      fc.property(stampedSide, stampedSide, (a, b) => {
        const ab = synchronize(a.context, b.context, { local: a.stamps, remote: b.stamps });
        const ba = synchronize(b.context, a.context, { local: b.stamps, remote: a.stamps });
        expect(isEqual(ab.merged, ba.merged)).toBe(true);
        expect(isEqual(ab.stamps, ba.stamps)).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("with stamps, merging is associative", () => {
    type Side = { context: Context; stamps: Stamps };
    const join = (a: Side, b: Side): Side => {
      const { merged, stamps } = synchronize(a.context, b.context, { local: a.stamps, remote: b.stamps });
      return { context: merged, stamps };
    };
    fc.assert(
      fc.property(stampedSide, stampedSide, stampedSide, (a, b, c) => {
        expect(isEqual(join(join(a, b), c), join(a, join(b, c)))).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
