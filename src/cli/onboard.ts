/**
 * The first start on a terminal, without any settings: three questions, one `config.toml` (0600), and never again.
 *
 *   how to reach Signal (and the account) ─▶ who may write ─▶ the API key ─▶ config.toml ─▶ link, where this is the device
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "smol-toml";
import * as v from "valibot";
import { loadConfig } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import { fileKey, settingKeys, settingRow, variableOf, type SettingKey } from "../settings.ts";
import type { Cli } from "./io.ts";

export type Question = {
  readonly message: string;
  /** What there is to choose from; absent where anything may be typed. */
  readonly options?: readonly { readonly value: string; readonly hint: string }[];
  /** Taken for an empty answer. */
  readonly fallback: string;
  readonly isSecret: boolean;
  /** What is wrong with an answer, or undefined. */
  readonly validate: (answer: string | undefined) => string | undefined;
};
/** Puts a question to the person; resolves to an answer that can be. */
export type Ask = (question: Question) => Promise<string>;

const hasPerson = ({ isErrTty }: Cli): boolean => isErrTty && process.stdin.isTTY;

/** Where nothing at all is set, and a person is there to be asked. */
export function isFirstStart(cli: Cli, isPerson = hasPerson(cli)): boolean {
  const given = settingKeys.filter((key) => (key !== "home" && cli.env[variableOf(key)]) || cli.flags[key]);
  return isPerson && given.length === 0 && !existsSync(fileOf(cli));
}

const fileOf = (cli: Cli): string => join(loadConfig(cli).config.home, "config.toml");

/**
 * Asks and writes the file; nothing is written before the last answer. Resolves to true where this program is to be linked.
 * @throws BridgeError `config` when the person leaves
 */
export async function onboard(cli: Cli, ask: Ask = askOn(cli)): Promise<boolean> {
  const path = fileOf(cli);
  const answers: Record<string, string> = {};
  const put = async (key: SettingKey, message: string, options?: Question["options"]): Promise<void> => {
    const { schema, accepts, fallback, isSecret = false } = settingRow(key);
    const validate = (answer = ""): string | undefined =>
      answer === "" || v.is(schema, answer.trim()) ? undefined : `It takes ${accepts}.`;
    const question = { message, fallback: fallback ?? "", isSecret, validate, ...(options && { options }) };
    const answer = (await ask(question)).trim() || question.fallback;
    if (answer !== "") answers[fileKey(key)] = answer;
  };
  cli.err("Welcome to signalman. Three questions, then you can write to Claude on Signal.\n\n");
  await put("transport", "How to reach Signal?", [
    { value: "native", hint: "this program becomes a linked device of your account" },
    { value: "signal-cli", hint: "a signal-cli daemon that runs already" },
    { value: "rest", hint: "a signal-cli-rest-api that runs already" },
  ]);
  const isNative = answers["transport"] === "native";
  if (!isNative) {
    await put("signalUrl", "Its URL?");
    await put("account", "The number of its account, such as +15550100001? Empty: the only one it has");
  }
  await put("allow", "Who may write to Claude? self (Note to Self), or numbers with commas between");
  await put("anthropicApiKey", "Your key for the Claude API? Empty: it is taken from ANTHROPIC_API_KEY");
  mkdirSync(join(path, ".."), { recursive: true, mode: 0o700 });
  writeFileSync(path, stringify(answers), { mode: 0o600, flag: "wx" });
  cli.err(`\nWritten to ${path}; change it there. It is not asked again.\n\n`);
  return isNative;
}

function askOn({ signal }: Cli): Ask {
  return async ({ message, options, fallback, isSecret, validate }) => {
    const { password, select, text } = await import("@clack/prompts");
    const base = { message, validate, signal, output: process.stderr };
    if (options) return answerOf(await select({ ...base, options: [...options], initialValue: fallback }));
    if (isSecret) return answerOf(await password(base));
    return answerOf(await text({ ...base, placeholder: fallback, defaultValue: fallback }));
  };
}

/** A yes of a person at the terminal; where there is none, a no. */
export async function confirm(cli: Cli, message: string): Promise<boolean> {
  if (!hasPerson(cli)) return false;
  const { confirm } = await import("@clack/prompts");
  return answerOf(await confirm({ message, initialValue: false, signal: cli.signal, output: process.stderr }));
}

/** While somebody is asked, the terminal hands over Ctrl-C as a key: here it becomes the signal again. */
function answerOf<T>(answer: T | symbol): Exclude<T, symbol> {
  if (typeof answer !== "symbol") return answer as Exclude<T, symbol>;
  process.emit("SIGINT");
  throw new BridgeError("config", "Cannot go on without an answer", { hint: "" });
}
