/**
 * The first start on a terminal, without any settings: three questions, one `config.toml` (0600), and never again.
 *
 *   how to reach Signal (and the account) ─▶ who may write ─▶ the API key ─▶ config.toml ─▶ link, where this is the device
 */
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { stringify } from "smol-toml";
import * as v from "valibot";
import { loadConfig } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import { fileKey, settingKeys, settingRow, variableOf, type SettingKey } from "../settings.ts";
import type { Flags, Io } from "./io.ts";

/** Puts a question to the person and resolves to one line. A secret is not shown while it is typed. */
export type Ask = (question: string, isSecret?: boolean) => Promise<string>;

/** Where nothing at all is set, and a person is there to be asked. */
export function isFirstStart({ env, isErrTty }: Io, flags: Flags, isInTty = process.stdin.isTTY): boolean {
  const given = settingKeys.filter((key) => (key !== "home" && env[variableOf(key)]) || flags[key]);
  return isErrTty && isInTty && given.length === 0 && !existsSync(fileOf(env, flags));
}

const fileOf = (env: Io["env"], flags: Flags): string => join(loadConfig({ flags, env }).config.home, "config.toml");

/**
 * Asks and writes the file; nothing is written before the last answer. Resolves to true where this program must still be linked.
 * @throws BridgeError `config` when the person leaves
 */
export async function onboard(io: Io, flags: Flags, ask: Ask = askOn(io)): Promise<boolean> {
  const path = fileOf(io.env, flags);
  const answers: Partial<Record<SettingKey, unknown>> = {};
  const put = async (key: SettingKey, question: string, fallback: string): Promise<void> => {
    const { schema, accepts, isSecret } = settingRow(key);
    for (;;) {
      const text = (await ask(question, isSecret === true)).trim() || fallback;
      if (text === "" || v.is(schema, text)) return void (answers[key] = text === "" ? undefined : text);
      io.err(`That cannot be: it takes ${accepts}.\n`);
    }
  };
  io.err("Welcome to signalman. Three questions, then you can write to Claude on Signal.\n\n");
  await put("transport", "1. How to reach Signal: native, signal-cli or rest? [native] ", "native");
  const isNative = answers.transport === "native";
  if (!isNative) {
    await put("signalUrl", "   Its URL? [http://127.0.0.1:8080] ", "http://127.0.0.1:8080");
    await put("account", "   The number of its account, such as +15550100001? ", "");
  }
  await put("allow", "2. Who may write to Claude? self (Note to Self), or numbers with commas between [self] ", "self");
  await put("anthropicApiKey", "3. Your key for the Claude API (not shown; empty: ANTHROPIC_API_KEY) ", "");
  const given = Object.entries(answers).filter(([, value]) => value !== undefined);
  mkdirSync(join(path, ".."), { recursive: true, mode: 0o700 });
  const file = Object.fromEntries(given.map(([key, value]) => [fileKey(key as SettingKey), value]));
  writeFileSync(path, `${stringify(file)}\n`, { mode: 0o600, flag: "wx" });
  io.err(`\nWritten to ${path}; change it there. It is not asked again.\n\n`);
  return isNative && !existsSync(join(path, "..", "signalman.db"));
}

function askOn({ err, signal }: Io): Ask {
  return async (question, isSecret = false) => {
    let isMuted = false;
    const output = new Writable({
      write(piece: Buffer, _encoding, done) {
        if (!isMuted) err(piece.toString());
        done();
      },
    });
    const lines = createInterface({ input: process.stdin, output, terminal: true });
    const left = new Promise<never>((_, reject) => {
      const leave = (): void => reject(new BridgeError("config", "Cannot go on without the answers"));
      lines.once("close", leave).once("SIGINT", leave);
      signal.addEventListener("abort", leave, { once: true });
    });
    try {
      const answer = lines.question(question);
      isMuted = isSecret;
      return await Promise.race([answer, left]);
    } finally {
      if (isSecret) err("\n");
      left.catch(() => undefined);
      lines.close();
    }
  };
}
