import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { nextStamp } from "../../src/core/hlc.ts";
import { decodeMetadata, encodeMetadata, metadataPatch } from "../../src/core/metadata.ts";
import type { Context } from "../../src/core/model.ts";
import { isEqual } from "../../src/core/synchronizer.ts";

const t0 = 1_750_000_000_000;
const at = (seconds: number): string => nextStamp(null, t0 + seconds * 1_000, "a1f4");

describe("encoding", () => {
  test("writes value, tombstone and unstamped value", () => {
    const context = { model: "claude-x", quiet: true };
    expect(encodeMetadata(context, { model: at(0), title: at(1) })).toEqual({
      "c.model": `${at(0)}~"claude-x"`,
      "c.quiet": "~true",
      "c.title": `${at(1)}!`,
    });
  });

  test("is ASCII, whatever the text", () => {
    const { "c.name": text = "" } = encodeMetadata({ name: "Grüße 🐳 \u007f \ud800" }, {});
    expect(text).toMatch(/^[\x20-\x7e]*$/);
    expect(decodeMetadata({ "c.name": text }).context).toEqual({ name: "Grüße 🐳 \u007f \ud800" });
  });

  test("keeps to 13 keys: values before tombstones, newer before older", () => {
    const values = Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`v${index}`, index]));
    const stamps = {
      ...Object.fromEntries(Object.keys(values).map((key, index) => [key, at(index)])),
      old: at(20),
      new: at(30),
    };
    const pairs = encodeMetadata(values, stamps);
    expect(Object.keys(pairs)).toHaveLength(13);
    expect(Object.keys(pairs).slice(0, 12).sort()).toEqual(
      Object.keys(values)
        .map((key) => `c.${key}`)
        .sort(),
    );
    expect(pairs["c.new"]).toBe(`${at(30)}!`);
    expect(pairs["c.old"]).toBeUndefined();
  });

  test("leaves out what is too large for the API, and takes what just fits", () => {
    const stamps = { fits: at(0), large: at(0) };
    const pairs = encodeMetadata(
      { fits: "x".repeat(495), large: "x".repeat(496), ["k".repeat(63)]: 1, ["k".repeat(62)]: 2 },
      stamps,
    );
    expect(Object.keys(pairs).sort()).toEqual(["c.fits", `c.${"k".repeat(62)}`]);
    expect(pairs["c.fits"]).toHaveLength(512);
  });
});

describe("decoding", () => {
  test("passes over what is not ours", () => {
    const bag = {
      "sb.schema": "1",
      note: "another program's",
      "c.mem": "@mem:mem_1",
      "c.odd": `${at(0)}~{not json`,
      "c.stampless": "!",
      "c.tail": `${at(0)}!tail`,
      "c.wrong": "xyz~1",
      "c.fine": `${at(0)}~[1]`,
    };
    expect(decodeMetadata(bag)).toEqual({ context: { fine: [1] }, stamps: { fine: at(0) } });
  });

  test("never throws, whatever is in the bag", () => {
    const text = fc.oneof(
      fc.string(),
      fc.string().map((tail) => `${at(0)}~${tail}`),
      fc.string().map((tail) => `~${tail}`),
    );
    const keys = fc.oneof(
      fc.string().map((tail) => `c.${tail}`),
      fc.string(),
      fc.constant("__proto__"),
      fc.constant("c.__proto__"),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(keys, fc.oneof(text, fc.jsonValue()))), (entries) => {
        const bag = Object.fromEntries(entries) as Record<string, string>;
        const { context } = decodeMetadata(bag);
        expect(Object.getPrototypeOf(context)).toBe(Object.prototype);
        expect(Object.values(metadataPatch(bag, bag))).toEqual([]);
      }),
    );
  });
});

describe("round trips", () => {
  const key = fc.oneof(fc.constantFrom("model", "title", "__proto__", ""), fc.string({ maxLength: 12 }));
  const value = fc
    .jsonValue({ maxDepth: 2, noUnicodeString: false })
    .filter((json) => JSON.stringify(json).length < 60);
  const stamp = fc.nat(1_000).map(at);
  const side = fc.tuple(fc.dictionary(key, value, { maxKeys: 7 }), fc.dictionary(key, stamp, { maxKeys: 6 }));

  test("decoding what was encoded gives both back", () => {
    fc.assert(
      fc.property(side, ([values, stamps]) => {
        // As everything in the program, the context is JSON: -0 is 0 there.
        const context = JSON.parse(JSON.stringify(values)) as Context;
        const back = decodeMetadata(encodeMetadata(context, stamps));
        expect(isEqual(back.context, context)).toBe(true);
        expect(isEqual(back.stamps, { ...stamps })).toBe(true);
      }),
    );
  });

  test("a patch applied as the API does turns the old bag into the new one, and keeps what is not ours", () => {
    fc.assert(
      fc.property(side, side, ([valuesA, stampsA], [valuesB, stampsB]) => {
        const foreign = { "sb.schema": "1", note: "x", "c.mem": "@mem:1" };
        const before = { ...encodeMetadata(valuesA as Context, stampsA), ...foreign };
        const wanted = encodeMetadata(valuesB as Context, stampsB);
        const bag = new Map<string, string>(Object.entries(before));
        for (const [key, text] of Object.entries(metadataPatch(before, wanted))) {
          if (text === null) bag.delete(key);
          else bag.set(key, text);
        }
        const kept = Object.hasOwn(wanted, "c.mem") ? { "sb.schema": "1", note: "x" } : foreign;
        expect(Object.fromEntries(bag)).toEqual({ ...wanted, ...kept });
      }),
    );
  });

  test("nothing to do is an empty patch", () => {
    const bag = encodeMetadata({ model: "a" }, { model: at(0), title: at(1) });
    expect(metadataPatch({ ...bag, "sb.schema": "1" }, bag)).toEqual({});
    expect(metadataPatch(bag, {})).toEqual({ "c.model": null, "c.title": null });
  });
});
