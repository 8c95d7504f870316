import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cli } from "../../src/cli/io.ts";
import { isFirstStart, onboard, type Question } from "../../src/cli/onboard.ts";
import { systemClock } from "../../src/clock.ts";
import { loadConfig } from "../../src/config.ts";

let home: string;
let said: string;
beforeEach(() => {
  home = join(mkdtempSync(join(tmpdir(), "signalman-first-")), "home");
  said = "";
});
afterEach(() => rmSync(join(home, ".."), { recursive: true, force: true }));

const cliWith = (env: Record<string, string> = {}, flags: Record<string, string> = {}): Cli => ({
  flags,
  out: (text) => void (said += text),
  err: (text) => void (said += text),
  isOutTty: true,
  isErrTty: true,
  env: { SIGNALMAN_HOME: home, ...env },
  signal: new AbortController().signal,
  clock: systemClock,
  random: () => 0.5,
});

/** Gives the answers one after the other, again where one cannot be, and keeps what was asked as a secret. */
function person(...answers: string[]) {
  const secrets: string[] = [];
  const refusals: string[] = [];
  const ask = async ({ message, isSecret, validate }: Question): Promise<string> => {
    for (;;) {
      const answer = answers.shift();
      if (answer === undefined) throw new Error(`one question too many: ${message}`);
      const refusal = validate(answer);
      if (refusal !== undefined) refusals.push(refusal);
      else if (isSecret) secrets.push(answer);
      if (refusal === undefined) return answer;
    }
  };
  return { ask, secrets, refusals, left: answers };
}

test("three questions make a private config.toml that is used, and are never asked again", async () => {
  expect(isFirstStart(cliWith(), true)).toBe(true);
  const owner = person("", "", "sk-ant-invented");
  expect(await onboard(cliWith(), owner.ask)).toBe(true);
  expect(owner.secrets).toEqual(["sk-ant-invented"]);
  const path = join(home, "config.toml");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(home).mode & 0o777).toBe(0o700);
  expect(loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config).toMatchObject({
    transport: "native",
    allow: [{ kind: "self" }],
    anthropicApiKey: "sk-ant-invented",
  });
  expect(said).not.toContain("sk-ant-invented");
  expect(isFirstStart(cliWith(), true)).toBe(false);
});

test("with a daemon of signal-cli its URL and account are asked for; what cannot be is asked again", async () => {
  const owner = person("pigeon", "signal-cli", "", "5550100", "+15550100001", "self, +15550100002", "");
  expect(await onboard(cliWith(), owner.ask)).toBe(false);
  expect(owner.refusals).toEqual([
    "It takes native, signal-cli or rest.",
    "It takes a number in international form (plus, country code, number).",
  ]);
  expect(owner.left).toEqual([]);
  expect(readFileSync(join(home, "config.toml"), "utf8")).not.toContain("anthropic");
  expect(loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config).toMatchObject({
    account: "+15550100001",
    allow: [{ kind: "self" }, { kind: "number", number: "+15550100002" }],
  });
});

test("nobody is asked without a terminal, or where anything is set", () => {
  expect(isFirstStart(cliWith(), false)).toBe(false);
  expect(isFirstStart({ ...cliWith(), isErrTty: false })).toBe(false);
  expect(isFirstStart(cliWith({ ANTHROPIC_API_KEY: "sk-ant-invented" }), true)).toBe(false);
  expect(isFirstStart(cliWith({ SIGNALMAN_TRANSPORT: "rest" }), true)).toBe(false);
  expect(isFirstStart(cliWith({}, { allow: "self" }), true)).toBe(false);
});
