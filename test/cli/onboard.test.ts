import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Io } from "../../src/cli/io.ts";
import { isFirstStart, onboard } from "../../src/cli/onboard.ts";
import { systemClock } from "../../src/clock.ts";
import { loadConfig } from "../../src/config.ts";

let home: string;
let said: string;
beforeEach(() => {
  home = join(mkdtempSync(join(tmpdir(), "signalman-first-")), "home");
  said = "";
});
afterEach(() => rmSync(join(home, ".."), { recursive: true, force: true }));

const ioWith = (env: Record<string, string> = {}): Io => ({
  out: (text) => void (said += text),
  err: (text) => void (said += text),
  isOutTty: true,
  isErrTty: true,
  env: { SIGNALMAN_HOME: home, ...env },
  signal: new AbortController().signal,
  clock: systemClock,
  random: () => 0.5,
});

/** Gives the answers one after the other, and keeps what was asked as a secret. */
function person(...answers: string[]) {
  const secrets: string[] = [];
  const ask = (question: string, isSecret?: boolean): Promise<string> => {
    const answer = answers.shift();
    if (answer === undefined) throw new Error(`one question too many: ${question}`);
    if (isSecret === true) secrets.push(answer);
    return Promise.resolve(answer);
  };
  return { ask, secrets, left: answers };
}

test("three questions make a private config.toml that is used, and are never asked again", async () => {
  expect(isFirstStart(ioWith(), {}, true)).toBe(true);
  const owner = person("", "", "sk-ant-invented");
  expect(await onboard(ioWith(), {}, owner.ask)).toBe(true);
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
  expect(isFirstStart(ioWith(), {}, true)).toBe(false);
});

test("with a daemon of signal-cli its URL and account are asked for; what cannot be is asked again", async () => {
  const owner = person("pigeon", "signal-cli", "", "5550100", "+15550100001", "self, +15550100002", "");
  expect(await onboard(ioWith(), {}, owner.ask)).toBe(false);
  expect(said).toContain("native, signal-cli or rest");
  expect(owner.left).toEqual([]);
  expect(readFileSync(join(home, "config.toml"), "utf8")).not.toContain("anthropic");
  expect(loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config).toMatchObject({
    account: "+15550100001",
    allow: [{ kind: "self" }, { kind: "number", number: "+15550100002" }],
  });
});

test("nobody is asked without a terminal, or where anything is set", () => {
  expect(isFirstStart(ioWith(), {}, false)).toBe(false);
  expect(isFirstStart({ ...ioWith(), isErrTty: false }, {}, true)).toBe(false);
  expect(isFirstStart(ioWith({ ANTHROPIC_API_KEY: "sk-ant-invented" }), {}, true)).toBe(false);
  expect(isFirstStart(ioWith({ SIGNALMAN_TRANSPORT: "rest" }), {}, true)).toBe(false);
  expect(isFirstStart(ioWith(), { allow: "self" }, true)).toBe(false);
});
