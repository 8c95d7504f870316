import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cli } from "../../src/cli/io.ts";
import { isFirstStart, onboard, type CheckKey, type Prompts } from "../../src/cli/onboard.ts";
import { systemClock } from "../../src/clock.ts";
import { loadConfig } from "../../src/config.ts";
import { BridgeError, type ErrorCode } from "../../src/core/errors.ts";

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

type Asked = Parameters<Prompts["text"]>[0];

/** Gives the answers one after the other, again where one cannot be, and keeps what was asked as a secret. */
function person(...answers: string[]) {
  const secrets: string[] = [];
  const refusals: string[] = [];
  const ask = async ({ message, validate }: Pick<Asked, "message" | "validate">): Promise<string> => {
    for (;;) {
      const answer = answers.shift();
      if (answer === undefined) throw new Error(`one question too many: ${message}`);
      const refusal = validate && "call" in validate ? await validate(answer) : undefined;
      if (refusal === undefined) return answer;
      refusals.push(refusal instanceof Error ? refusal.message : refusal);
    }
  };
  const prompts = {
    text: ask,
    password: async (question: Asked) => {
      secrets.push(await ask(question));
      return secrets.at(-1) ?? "";
    },
    async select({ message, options }: { message: string; options: readonly { value: string }[] }): Promise<string> {
      const answer = (await ask({ message })) || (options[0]?.value ?? "");
      expect(options.map(({ value }) => value)).toContain(answer);
      return answer;
    },
  } as unknown as Prompts;
  return { prompts, secrets, refusals, left: answers };
}

/** A key that Claude takes for these backends, or refuses with this code. */
const keyIs =
  (...faults: (ErrorCode | null)[]): CheckKey =>
  async () => {
    const code = faults.shift() ?? null;
    return code && new BridgeError(code, `Cannot use it (${code})`);
  };
const config = () => loadConfig({ flags: {}, env: { SIGNALMAN_HOME: home } }).config;

test("three questions make a private config.toml that is used, and are never asked again", async () => {
  expect(isFirstStart(cliWith(), true)).toBe(true);
  const owner = person("", "", "sk-ant-invented");
  await onboard(cliWith(), owner.prompts, keyIs(null));
  expect(owner.secrets).toEqual(["sk-ant-invented"]);
  const path = join(home, "config.toml");
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(statSync(home).mode & 0o777).toBe(0o700);
  expect(config()).toMatchObject({
    transport: "native",
    allow: [{ kind: "self" }],
    mark: "🤖",
    anthropicApiKey: "sk-ant-invented",
    backend: "auto",
  });
  expect(said).not.toContain("sk-ant-invented");
  expect(isFirstStart(cliWith(), true)).toBe(false);
});

test("with a daemon of signal-cli its URL and account are asked for; numbers may be written as people do", async () => {
  const owner = person(
    "signal-cli",
    "",
    "5550100",
    "+1 (555) 010-0001",
    "others",
    "0049 (0)151 0000-0003, +15550100001, self",
    "",
  );
  await onboard(cliWith(), owner.prompts, keyIs());
  expect(owner.refusals).toEqual(["It takes a number with its country code, such as +1 555 010 0001."]);
  expect(owner.left).toEqual([]);
  expect(readFileSync(join(home, "config.toml"), "utf8")).not.toContain("anthropic");
  // The own number is Note to Self.
  expect(config()).toMatchObject({
    account: "+15550100001",
    allow: [{ kind: "self" }, { kind: "number", number: "+4915100000003" }],
  });
  expect(said).toContain("your messages wait");
});

test("a key that is refused is asked for again, and is not written down", async () => {
  const owner = person("", "", "sk-ant-wrong", "sk-ant-right");
  await onboard(cliWith(), owner.prompts, keyIs("claude_key", null));
  expect(said).toContain("Cannot use it (claude_key). Copy the whole key");
  expect(readFileSync(join(home, "config.toml"), "utf8")).toContain("sk-ant-right");
  expect(readFileSync(join(home, "config.toml"), "utf8")).not.toContain("wrong");
});

test("a key without Managed Agents keeps the conversation here", async () => {
  await onboard(cliWith(), person("", "", "sk-ant-plain").prompts, keyIs("claude_forbidden", null));
  expect(config().backend).toBe("messages");
  expect(said).toContain("not for Managed Agents");
});

test("where the API cannot be reached the key is kept, and that is said", async () => {
  await onboard(cliWith(), person("", "", "sk-ant-unseen").prompts, keyIs("claude_unreachable"));
  expect(config().anthropicApiKey).toBe("sk-ant-unseen");
  expect(said).toContain("claude_unreachable");
});

test("a key in the environment is checked and not asked for, and does not keep the questions away", async () => {
  const cli = cliWith({ ANTHROPIC_API_KEY: "sk-ant-invented" });
  expect(isFirstStart(cli, true)).toBe(true);
  const seen: string[] = [];
  await onboard(cli, person("", "others", "+1 555 010 0002").prompts, async (_, key) => (seen.push(key), null));
  expect(seen).toEqual(["sk-ant-invented"]);
  expect(readFileSync(join(home, "config.toml"), "utf8")).not.toContain("sk-ant");
  expect(said).toContain("in your name");
});

test("no question is asked without a terminal, or where anything of it is set", () => {
  expect(isFirstStart(cliWith(), false)).toBe(false);
  expect(isFirstStart({ ...cliWith(), isErrTty: false })).toBe(false);
  expect(isFirstStart(cliWith({ SIGNALMAN_TRANSPORT: "rest" }), true)).toBe(false);
  expect(isFirstStart(cliWith({}, { allow: "self" }), true)).toBe(false);
});
