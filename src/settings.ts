/**
 * The one table of settings: the file's keys, the variables, the flags, `config show`, the README and the type come from it.
 *
 * A setting `signalUrl` is `signal_url` in the file, `SIGNALMAN_SIGNAL_URL` in the environment and `--signal-url` as a flag.
 */
import { resolve } from "node:path";
import * as v from "valibot";
import type { AllowRule } from "./core/inbound.ts";
import { efforts } from "./core/model.ts";
import { logLevels } from "./log.ts";
import { readProjects, type Project } from "./projects/folders.ts";
import { releaseKey, releasesUrl } from "./version.ts";

/** The schema of a value, with the words for its accepted form in errors and in the README. */
const form = <S extends v.GenericSchema>(schema: S, accepts: string) => ({ schema, accepts });

/** The schema of a word that `read` reads; undefined from `read` refuses the word. */
const word = <T>(read: (word: string) => T | undefined) =>
  v.pipe(
    v.string(),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      const value = read(dataset.value.trim());
      if (value !== undefined) return value;
      addIssue();
      return NEVER;
    }),
  );

const nonEmpty = v.pipe(v.string(), v.trim(), v.nonEmpty());
const folder = word((path) => (path === "" ? undefined : resolve(path)));
const text = (accepts: string) => form(nonEmpty, accepts);
const optionalText = (accepts: string) => form(v.nullable(nonEmpty), accepts);
const oneOf = <const W extends readonly string[]>(...words: W) => ({
  ...form(v.picklist(words), `${words.slice(0, -1).join(", ")} or ${words.at(-1) ?? ""}`),
  words,
});
const toggle = form(
  v.union([
    v.boolean(),
    word((given) => (/^(true|1|yes|on)$/.test(given) ? true : /^(false|0|no|off)$/.test(given) ? false : undefined)),
  ]),
  "true or false",
);
const numeral = (written: RegExp) =>
  v.union([v.number(), word((digits) => (written.test(digits) ? Number(digits) : undefined))]);
const whole = (least: number, most: number) =>
  form(v.pipe(numeral(/^\d{1,9}$/), v.integer(), v.minValue(least), v.maxValue(most)), `${least} to ${most}`);
const money = form(
  v.nullable(v.pipe(numeral(/^\d{1,6}(\.\d{1,2})?$/), v.minValue(0.01), v.maxValue(999_999))),
  "an amount such as 2.50",
);
const httpUrl = word((url) => (/^https?:$/.test(URL.parse(url)?.protocol ?? "") ? url.replace(/\/+$/, "") : undefined));
/** The host of a Signal TLS proxy, by the link that people share; null for another URL. **Source:** support.signal.org, "Proxy Support". */
export const signalTlsPlace = (url: string): string | null =>
  /^(?:https|sgnl):\/\/signal\.tube\/#([\w.-]+(?::\d+)?)$/i.exec(url)?.[1] ?? null;
const proxyUrl = word((url) => {
  const { protocol = "", hostname = "" } = URL.parse(url) ?? {};
  const isGood = hostname === "signal.tube" ? signalTlsPlace(url) !== null : /^(?:https?|socks5h?):$/.test(protocol);
  return isGood ? url : undefined;
});
const e164 = /^\+[1-9]\d{6,14}$/;
/** A number as people write it, with its country code (+49 151 …, 0049 …), as E.164; null where it is none. */
export function toNumber(written: string): string | null {
  const bare = written.replace(/^\s*00(?=[1-9])/, "+").replaceAll(/\(0\)|[\s().\-/\u00a0\u2011\u2013]/gu, "");
  return e164.test(bare) ? bare : null;
}
const number = word((written) => toNumber(written) ?? undefined);
const isUuid = (text: string): boolean => v.is(v.pipe(v.string(), v.uuid()), text);
/** Signal names a group by 32 bytes. */
const isGroupId = (text: string): boolean => v.is(v.pipe(v.string(), v.base64()), text) && atob(text).length === 32;

/** The schema of an addressee: `self`, a number, an account id, a group. */
export const addressee = word((who): AllowRule | undefined => {
  if (who === "self") return { kind: "self" };
  const number = toNumber(who);
  if (number !== null) return { kind: "number", number };
  if (isUuid(who)) return { kind: "aci", aci: who.toLowerCase() };
  const id = who.startsWith("group:") ? who.slice("group:".length) : "";
  return isGroupId(id) ? { kind: "group", id } : undefined;
});
/** Reads an addressee; null for words that name none. */
export function readAddressee(words: string): AllowRule | null {
  const result = v.safeParse(addressee, words);
  return result.success ? result.output : null;
}
const commaList = word((list) => list.split(",").filter((item) => item.trim() !== ""));
const rules = form(
  v.pipe(v.union([v.array(v.string()), commaList]), v.array(addressee), v.readonly()),
  "a list of numbers with their country code, account ids (UUID), self, and group:<id in standard base64>",
);

/** The address of the status server; `host` without the brackets of IPv6. Port 0 takes a free one. */
export type ListenAddress = { readonly host: string; readonly port: number };

const address = word((given): ListenAddress | null | undefined => {
  if (given === "off") return null;
  const [, host = "", port = ""] = /^(\[[\da-fA-F:.]+\]|[\w.-]+):(\d{1,5})$/.exec(given) ?? [];
  if (host === "" || Number(port) > 65_535) return undefined;
  return { host: host.replace(/^\[|\]$/g, ""), port: Number(port) };
});

const sign = word((given) => (/^[^\s\p{C}]+$/u.test(given) && Buffer.byteLength(given) <= 12 ? given : undefined));

/** The schema of the projects, with the messages of `readProjects`, since their faults lie deep in tables. */
const projects = v.pipe(
  v.unknown(),
  v.rawTransform<unknown, readonly Project[]>(({ dataset, addIssue, NEVER }) => {
    const read = readProjects(dataset.value);
    if (typeof read !== "string") return read;
    addIssue({ message: read });
    return NEVER;
  }),
);

const shortSystem =
  "You are Claude, chatting on Signal with a person who reads on a phone. Answer in the person's language, briefly and plainly; go into detail when asked. Simple Markdown (bold, italics, lists, code) is shown; tables and headings are not.";

/** The optional columns of a row. */
type Extra = {
  /** The placeholder of the flag's value; absent where there is no flag. */
  readonly flag?: string;
  /** The variable where it is not SIGNALMAN_ and the key. */
  readonly variable?: string;
  readonly isSecret?: true;
  /** The setting tells where the file is, so it cannot stand in the file. */
  readonly isOutsideFile?: true;
};

/** One row of the table of settings. */
export type Setting = Extra & {
  readonly schema: v.GenericSchema;
  /** The accepted form, for the error and the README. */
  readonly accepts: string;
  /** All accepted values, where they are a few words. */
  readonly words?: readonly string[];
  /** The default as a person would write it; null where there is none. */
  readonly fallback: string | null;
  /** The purpose of the setting in one phrase, with its unit. */
  readonly doc: string;
};

const setting = <F extends Pick<Setting, "schema" | "accepts">>(
  form: F,
  fallback: string | null,
  doc: string,
  extra: Extra = {},
): F & Setting => ({ ...form, fallback, doc, ...extra });

/** Every setting, in the order in which people meet them. */
export const settings = {
  home: setting(
    form(folder, "a folder"),
    null,
    "folder of config.toml and signalman.db (default: the platform's data folder)",
    { flag: "folder", isOutsideFile: true },
  ),
  transport: setting(oneOf("native", "signal-cli", "rest"), "native", "how to reach Signal", { flag: "name" }),
  signalUrl: setting(
    form(httpUrl, "a URL such as http://127.0.0.1:8080"),
    "http://127.0.0.1:8080",
    "base URL of the signal-cli daemon or the REST API",
    { flag: "url" },
  ),
  signalService: setting(
    text("production, or the path of a service file (JSON)"),
    "production",
    "native: the Signal service to use",
  ),
  proxy: setting(
    form(
      v.nullable(proxyUrl),
      "a URL such as http://proxy.example:3128, socks5://127.0.0.1:9050 or https://signal.tube/#proxy.example",
    ),
    null,
    "proxy for Signal's hosts (native) and the Claude API (default: HTTPS_PROXY); a Signal TLS proxy is for Signal alone",
    { flag: "url" },
  ),
  account: setting(
    form(v.nullable(number), "a number with its country code, such as +1 555 010 0001"),
    null,
    "own number, for signal-cli and rest",
    { flag: "number" },
  ),
  allow: setting(rules, "self", "who may write to Claude", { flag: "list" }),
  groupAlways: setting(toggle, "false", "answer in listed groups without being mentioned"),
  backend: setting(
    oneOf("auto", "sessions", "messages", "claude-code"),
    "auto",
    "which side keeps the conversation: Claude's sessions, or this machine; auto: sessions where the key may use them; claude-code: the owner's own `claude` program, for the owner alone",
    { flag: "name" },
  ),
  claudeCode: setting(
    text("a program, or its path"),
    "claude",
    "claude-code: the program, looked for on the PATH and where its installer puts it",
  ),
  model: setting(
    form(v.pipe(nonEmpty, v.regex(/^[\w][\w.:@/-]*$/)), "a model id such as claude-sonnet-5-5"),
    "claude-sonnet-5-5",
    "Claude model id",
    { flag: "id" },
  ),
  effort: setting(oneOf(...efforts), "medium", "how hard Claude thinks: more costs more, and takes longer", {
    flag: "level",
  }),
  spendLimit: setting(
    money,
    null,
    "what the questions of one person may cost in a day at list prices, in US dollars; told at 80 %, refused beyond",
  ),
  system: setting(text("a text, or @file"), shortSystem, "system prompt (default: a short one for chat on a phone)", {
    flag: "text",
  }),
  tools: setting(
    oneOf("off", "ask", "allow"),
    "ask",
    "what Claude may use: nothing, everything, or everything but what writes or runs, which a person confirms (messages: web search alone)",
    { flag: "policy" },
  ),
  projects: setting(
    form(projects, "name=folder pairs with commas between; in the file a table [projects.NAME] each"),
    null,
    "folders of this machine that Claude may work on (docs/projects.md)",
  ),
  approvalMinutes: setting(
    whole(1, 10_080),
    "60",
    "how long Claude's question for a tool waits for a yes before it counts as a no, in minutes",
  ),
  reactions: setting(
    toggle,
    "true",
    "mark a message of yours with an emoji when it is taken, waits, is done, has failed",
  ),
  readReceipts: setting(toggle, "true", "mark accepted messages as read"),
  progress: setting(toggle, "true", "show a long answer while it is written, as one message that is edited"),
  welcome: setting(toggle, "true", "greet a person once, after their first answer"),
  transcribe: setting(
    optionalText("a command such as whisper-cli -nt -f"),
    null,
    "a command that prints what is said in the voice note whose path is added to it",
  ),
  mark: setting(
    form(v.nullable(sign), "an emoji or a short word, of 12 bytes at most"),
    null,
    "what stands before each of Claude's messages in Note to Self, where they look like your own; the walk-through sets 🤖",
  ),
  notify: setting(
    optionalText("a command"),
    null,
    "a command that is run, without content, when something has waited in Note to Self for a minute: Signal rings for nothing there",
  ),
  listen: setting(
    form(address, "host:port such as 127.0.0.1:8787, or off"),
    "127.0.0.1:8787",
    "address of the status server",
    { flag: "address" },
  ),
  trustListen: setting(toggle, "false", "let the status server listen beyond this machine, for a network you trust"),
  log: setting(oneOf(...logLevels), "info", "least level that is logged", { flag: "level" }),
  anthropicApiKey: setting(optionalText("a key"), null, "key for the Claude API", {
    variable: "ANTHROPIC_API_KEY",
    isSecret: true,
  }),
  anthropicBaseUrl: setting(
    form(v.nullable(httpUrl), "a URL such as https://api.anthropic.com"),
    null,
    "base URL of the Claude API, or of an endpoint compatible with it",
    { variable: "ANTHROPIC_BASE_URL" },
  ),
  anthropicAuthToken: setting(optionalText("a token"), null, "bearer token for the Claude API, in place of a key", {
    variable: "ANTHROPIC_AUTH_TOKEN",
    isSecret: true,
  }),
  claudeTimeoutMs: setting(
    whole(10_000, 3_600_000),
    "600000",
    "how long an endpoint that is not Anthropic's may be silent, before an answer and in it, in ms",
  ),
  updateUrl: setting(
    form(v.nullable(httpUrl), "a URL such as https://example.org/releases/latest/download"),
    releasesUrl,
    "where `signalman update` finds releases: a folder with the binaries and SHA256SUMS",
  ),
  updateKey: setting(
    form(v.nullable(v.pipe(nonEmpty, v.regex(/^RW[\w+/]{54}$/))), "a public key of minisign, beginning with RW"),
    releaseKey,
    "the key that signs the sums of releases (default: the maintainer's, where the build has it)",
  ),
  retentionDays: setting(
    whole(1, 3_650),
    "30",
    "how long done rows, and the local copy of what was said, are kept, in days",
  ),
} satisfies Record<string, Setting>;

export type SettingKey = keyof typeof settings;
export const settingKeys = Object.keys(settings) as SettingKey[];
/** The row of a key, widened, so that optional columns can be read. */
export const settingRow = (key: SettingKey): Setting => settings[key];
const snake = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** `signalUrl` → `signal_url`. */
export const fileKey = (key: SettingKey): string => snake(key);
/** `signalUrl` → `SIGNALMAN_SIGNAL_URL`. */
export const variableOf = (key: SettingKey): string =>
  settingRow(key).variable ?? `SIGNALMAN_${snake(key).toUpperCase()}`;
/** `signalUrl` → `--signal-url <url>`; null where there is no flag. */
export function flagOf(key: SettingKey): string | null {
  const { flag } = settingRow(key);
  return flag === undefined ? null : `--${snake(key).replaceAll("_", "-")} <${flag}>`;
}
