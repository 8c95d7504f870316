/**
 * The questions of the first start on a terminal, which are asked only once.
 *
 *   how to reach Signal (and the account) ─▶ who may write ─▶ the API key, checked ─▶ config.toml (0600)
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "smol-toml";
import type * as clack from "@clack/prompts";
import * as v from "valibot";
import { loadConfig, type Config } from "../config.ts";
import { toFault, type Fault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { harmless, redactText } from "../log.ts";
import { fileKey, settingRow, toNumber, variableOf, type SettingKey } from "../settings.ts";
import { buildLine } from "./adapters.ts";
import { configOf, depsOf, hasPerson, writePrivate, wrong, type Cli } from "./io.ts";

/** The questions as @clack/prompts puts them. */
export type Prompts = Pick<typeof clack, "select" | "text" | "password">;
/** Resolves to the fault of a key for a backend; null where it may be used. */
export type CheckKey = (backend: Config["backend"], key: string) => Promise<Fault | null>;

/** The settings that the questions ask for: where one of them is set, no question is asked. */
const asked = ["transport", "account", "allow"] as const satisfies readonly SettingKey[];
const keyMs: Millis = 20_000;
const keyTriesMax = 5;

const fileOf = (cli: Cli): string => join(loadConfig(cli).config.home, "config.toml");

/** True where no setting tells yet how to reach Signal and who may write; a key in the environment does not. */
export const isFirstStart = (cli: Cli, isPerson = hasPerson(cli)): boolean =>
  isPerson && !asked.some((key) => cli.env[variableOf(key)] || cli.flags[key]) && !existsSync(fileOf(cli));

/** The terminal and the prompts of the questions, and the record of their answers. */
type Form = { readonly cli: Cli; readonly prompts: Prompts; readonly answers: Record<string, string> };

/** The options of every prompt: on stderr, until the person leaves. */
const placed = ({ signal }: Cli) => ({ signal, output: process.stderr });

/** Asks for a setting, in words of the person's own. */
async function put({ cli, prompts, answers }: Form, key: SettingKey, message: string): Promise<string> {
  const { schema, accepts, fallback, isSecret } = settingRow(key);
  const validate = (answer = ""): string | undefined =>
    answer === "" || v.is(schema, answer.trim()) ? undefined : `It takes ${accepts}.`;
  const question = { ...placed(cli), message, validate };
  const hints = { placeholder: fallback ?? "", defaultValue: fallback ?? "" };
  const given = await (isSecret ? prompts.password(question) : prompts.text({ ...question, ...hints }));
  const answer = answerOf(given).trim() || hints.defaultValue;
  if (answer !== "") answers[fileKey(key)] = answer;
  return answer;
}

/** Asks and writes the file; nothing is written before the last answer. @throws BridgeError `config` when the person leaves */
export async function onboard(cli: Cli, given?: Prompts, checkKey: CheckKey = checkOn(cli)): Promise<void> {
  const path = fileOf(cli);
  const prompts = given ?? (await import("@clack/prompts"));
  cli.err("Welcome to signalman. Three questions, then you can write to Claude on Signal.\n\n");
  const transport = answerOf(
    await prompts.select({
      ...placed(cli),
      message: "How to reach Signal?",
      options: [
        { value: "native", label: "link", hint: "this program becomes a linked device of your account" },
        { value: "signal-cli", label: "signal-cli", hint: "a signal-cli daemon that runs already" },
        { value: "rest", label: "rest", hint: "a signal-cli-rest-api that runs already" },
      ],
    }),
  );
  const form: Form = { cli, prompts, answers: { transport } };
  if (transport !== "native") {
    await put(form, "signalUrl", "Its URL?");
    await put(form, "account", "The number of its account, such as +1 555 010 0001? Empty: the only one it has");
  }
  await askWho(form);
  await askKey(form, checkKey);
  writePrivate(path, stringify(form.answers));
  cli.err(`\nWritten to ${path}; change it there, or with \`signalman config edit\`.\n\n`);
}

async function askWho(form: Form): Promise<void> {
  const { cli, prompts, answers } = form;
  const who = answerOf(
    await prompts.select({
      ...placed(cli),
      message: "Who may write to Claude?",
      options: [
        { value: "self", label: "only you", hint: "in Note to Self" },
        { value: "others", label: "other people, too", hint: "you say which" },
      ],
    }),
  );
  Object.assign(answers, { allow: "self", mark: "🤖" });
  if (who !== "others")
    return cli.err("Claude's messages stand among your own there: each begins with 🤖, and Signal rings for none.\n");
  const numbers = "Their numbers with the country code, with commas between, such as +1 555 010 0002";
  const given = await put(form, "allow", numbers);
  const own = toNumber(answers["account"] ?? "");
  const others = given.split(",").filter((word) => word.trim() !== "self" && (own === null || toNumber(word) !== own));
  answers["allow"] = ["self", ...others.map((word) => toNumber(word) ?? word.trim())].join(",");
  if (answers["transport"] === "native")
    cli.err("On your own account Claude would answer them in your name: an account of its own is better for that.\n");
}

/** Asks for a key and checks it before it is written. Where only Managed Agents are refused, this machine keeps the conversation. */
async function askKey(form: Form, check: CheckKey): Promise<void> {
  const { cli, answers } = form;
  const message = "Your key for the Claude API (platform.claude.com, Settings, API keys)? Empty: later";
  const known = cli.env[variableOf("anthropicApiKey")];
  for (let tries = 0; tries < keyTriesMax; tries++) {
    const key = known || (await put(form, "anthropicApiKey", message));
    if (key === "") return cli.err("Without a key your messages wait. `signalman config edit` is the place for it.\n");
    const fault = await check("sessions", key);
    if (fault === null) return cli.err("The key is good.\n");
    if (fault.code === "claude_forbidden" && (await check("messages", key)) === null) {
      answers["backend"] = "messages";
      return cli.err("The key is good, but not for Managed Agents: this machine keeps the conversation (messages).\n");
    }
    const isTyped = fault.code === "claude_key" && !known;
    const advice = isTyped ? "Copy the whole key: it begins with sk-ant-" : fault.hint;
    cli.err(harmless(redactText(`${fault.message}. ${advice}\n`)));
    // Another question helps only where a wrong key was typed.
    if (!isTyped) return;
    delete answers[fileKey("anthropicApiKey")];
  }
}

const checkOn =
  (cli: Cli): CheckKey =>
  async (backend, anthropicApiKey) => {
    await using stack = new AsyncDisposableStack();
    const config = { ...configOf(cli), backend, anthropicApiKey };
    const deps = depsOf({ ...cli, err: () => undefined }, config, stack, "error");
    const claude = await buildLine(deps, { get: () => null, set: () => undefined });
    const patience = AbortSignal.any([cli.signal, AbortSignal.timeout(keyMs)]);
    return claude.check(patience).then(() => null, toFault);
  };

/** Asks the person at the terminal for a yes; false where there is no person. */
export async function confirmAtTerminal(cli: Cli, message: string): Promise<boolean> {
  if (!hasPerson(cli)) return false;
  const { confirm } = await import("@clack/prompts");
  return answerOf(await confirm({ ...placed(cli), message, initialValue: false }));
}

/** The answer of a prompt. Ctrl-C, which the terminal hands over as a key during a prompt, becomes the signal again. */
function answerOf<T>(answer: T | symbol): Exclude<T, symbol> {
  if (typeof answer !== "symbol") return answer as Exclude<T, symbol>;
  process.emit("SIGINT");
  throw wrong("Cannot go on without an answer");
}
