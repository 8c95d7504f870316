import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { stripVTControlCharacters } from "node:util";
import { BridgeError } from "../../src/core/errors.ts";
import { maskNumber, redact, redactText, startLog, type LogLevel } from "../../src/log.ts";

function collect(level: LogLevel = "debug", isPretty = false, hasColour = isPretty) {
  const lines: string[] = [];
  return { lines, log: startLog({ level, isPretty, hasColour, write: (line) => lines.push(line) }) };
}

test("a record is one line of JSON with level, message and fields", () => {
  const { lines, log } = collect();
  log.warn("connection", { state: "DISCONNECTED", code: "signal_unreachable", attempt: 3, message: "two\nlines" });
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/^[^\n]+\n$/);
  expect(JSON.parse(lines[0] ?? "")).toMatchObject({
    level: "WARN",
    message: "connection",
    fields: { state: "DISCONNECTED", code: "signal_unreachable", attempt: 3, message: "two\nlines" },
  });
});

test("records below the level are not written", () => {
  const { lines, log } = collect("warn");
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
  expect(lines.map((line) => (JSON.parse(line) as { message: string }).message)).toEqual(["c", "d"]);
});

test("for a person a record is text with its fields", () => {
  const { lines, log } = collect("info", true);
  log.info("connection", { state: "CONNECTED", who: "+15550100042" });
  expect(lines[0]).toContain("connection");
  expect(lines[0]).toContain('state="CONNECTED"');
  expect(lines[0]).toContain("+1…42");
});

test("a foreign word moves no cursor and sets no title: not as text, not as JSON; without colours there is no escape at all", () => {
  const evil = "\u001b]0;owned\u0007\u009b2J\u202egnp.exe\u007f\u061c\u2028";
  for (const [isPretty, hasColour] of [
    [true, true],
    [true, false],
    [false, false],
  ] as const) {
    const { lines, log } = collect("debug", isPretty, hasColour);
    log.info(`said ${evil}`, { name: evil });
    const line = (lines[0] ?? "").trimEnd();
    const shown = hasColour ? stripVTControlCharacters(line) : line;
    expect(shown).not.toMatch(/[\p{Cc}\p{Bidi_Control}\p{Zl}]/u);
    if (!isPretty) expect(JSON.parse(line)).toMatchObject({ message: `said ${evil}`, fields: { name: evil } });
  }
});

test("no token, number, link code or body comes through, however deep", () => {
  for (const isPretty of [false, true]) {
    const { lines, log } = collect("debug", isPretty);
    const cause = new Error("401 for Authorization: Bearer sk-ant-api03-verysecret from +49 151 0000 0003");
    const error = new BridgeError("claude_key", "Cannot ask as +15550100001", {
      cause: new AggregateError([cause], "x-api-key: hunter2hunter2"),
    });
    log.error("failed", {
      error,
      nested: { list: [{ text: "dear diary" }, { prompt: ["dear diary"] }], number: "+15550100001" },
      url: "http://user:letmein@127.0.0.1:8080/v1/receive/%2B15550100001",
      link: "sgnl://linkdevice?uuid=abc&pub_key=letmein",
      apiKey: "hunter2hunter2",
      password: "letmein",
      profileKey: new Uint8Array([1, 2, 3]),
      map: new Map([["+15550100001", "dear diary"]]),
      body: { text: "dear diary" },
    });
    log.info("said to +15550100001 with Bearer abcdefgh12345678");
    const all = lines.join("");
    expect(lines).toHaveLength(2);
    for (const secret of ["verysecret", "hunter2", "letmein", "5550100", "0000 0003", "0000003", "abcdefgh"])
      expect(all).not.toContain(secret);
    // A body under a name that is not known is the caller's duty; those under known names never show.
    expect(all.match(/dear diary/g) ?? []).toHaveLength(1);
    expect(all).toContain("[hidden]");
    expect(all).toContain("claude_key");
  }
});

test("an error shows its code and its causes; only a foreign one shows its stack", () => {
  const error = new BridgeError("stalled", "Cannot wait", { cause: new TypeError("inner") });
  expect(redact(error)).toEqual({
    name: "BridgeError",
    message: "Cannot wait",
    code: "stalled",
    cause: { name: "TypeError", message: "inner" },
  });
  expect(redact(new TypeError("outer"))).toHaveProperty("stack");
});

test("what has no end is cut", () => {
  const loop: Record<string, unknown> = {};
  loop["self"] = loop;
  expect(JSON.stringify(redact(loop))).toContain("[deeper]");
  expect(redactText("x".repeat(10_000)).length).toBeLessThan(2_010);
  expect(redact(Array.from({ length: 1_000 }, () => 1))).toHaveLength(50);
  expect(redact(new Uint8Array(9))).toBe("[9 bytes]");
});

test("a number is masked wherever it stands, and plain numbers are left alone", () => {
  expect(maskNumber("+15550100042")).toBe("+1…42");
  fc.assert(
    fc.property(
      fc.string(),
      fc.stringMatching(/^[1-9]\d{7,14}$/),
      fc.string().filter((tail) => !/^[\d ().-]/.test(tail)),
      (head, digits, tail) => {
        expect(redactText(`${head}+${digits}${tail}`)).not.toContain(`+${digits}`);
      },
    ),
  );
  expect(redact({ at: 1700000000000, id: "1700000000000" })).toEqual({ at: 1700000000000, id: "1700000000000" });
});
