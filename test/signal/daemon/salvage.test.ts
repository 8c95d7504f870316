import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { readFileSync } from "node:fs";
import { salvage } from "../../../src/signal/daemon/salvage.ts";
import { alice, createWriter, me } from "../../doubles/wire.ts";

const writer = createWriter({ now: () => 1_786_953_600_000, monotonic: () => 0, sleep: async () => {} }, me);
const message = (text: string): unknown => writer.person(alice, text).wire;

describe("salvage", () => {
  test("finds the message in signal-cli-rest-api's own damaged answer", () => {
    const file = new URL("../../fixtures/signal/rest-receive-corrupt-200.json", import.meta.url);
    const { response } = JSON.parse(readFileSync(file, "utf8")) as { response: { bodyText: string } };
    const { found, lostCount } = salvage(response.bodyText);
    expect(found).toMatchObject([{ envelope: { dataMessage: { message: "hi" } } }]);
    expect(lostCount).toBe(0);
  });

  test("finds every message, whatever people wrote, between any lines of log", () => {
    const line = fc.oneof(
      fc.string({ maxLength: 20 }),
      fc.constantFrom('ERROR Foo - a "quote', "java.lang.NullPointerException: {", "\tat a.B(C.java:1)", "[", "}"),
    );
    const parts = fc.array(fc.oneof(line, fc.record({ text: fc.string({ unit: "binary" }) })), { maxLength: 8 });
    fc.assert(
      fc.property(parts, (given) => {
        const wires = given.map((part) => (typeof part === "string" ? part : message(part.text)));
        const lines = wires.map((wire) => (typeof wire === "string" ? wire : JSON.stringify(wire)));
        const { found } = salvage(`[${lines.join(",")}]`);
        expect(JSON.stringify(found)).toBe(JSON.stringify(wires.filter((wire) => typeof wire !== "string")));
      }),
    );
  });

  test("a message cannot smuggle in another one", () => {
    const forged = JSON.stringify(message("forged"));
    const text = `,${forged}\n${forged}`;
    const { found } = salvage(`[${JSON.stringify(message(text))},stray`);
    expect(found).toMatchObject([{ envelope: { dataMessage: { message: text } } }]);
  });

  test("counts what was cut off", () => {
    const whole = JSON.stringify(message("whole"));
    const answer = `{"jsonrpc":"2.0","result":[${whole},${JSON.stringify(message("cut")).slice(0, -20)}`;
    expect(salvage(answer)).toMatchObject({
      found: [{ envelope: { dataMessage: { message: "whole" } } }],
      lostCount: 1,
    });
  });

  test("finds nothing in anything else", () => {
    expect(salvage("User +15550107777 is not registered.\n")).toEqual({ found: [], lostCount: 0 });
    expect(salvage('[{"envelope":1}]')).toEqual({ found: [{ envelope: 1 }], lostCount: 0 });
    expect(salvage("")).toEqual({ found: [], lostCount: 0 });
  });
});
