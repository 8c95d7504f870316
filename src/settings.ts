/**
 * ONE table of settings, from which come the file's keys, the variables, the flags, `config show`, the README and the type.
 *
 * A setting `signalUrl` is `signal_url` in the file, `SIGNALMAN_SIGNAL_URL` in the environment and `--signal-url` as a flag.
 */
import { resolve } from "node:path";
import * as v from "valibot";
import type { AllowRule } from "./core/inbound.ts";
import { logLevels } from "./log.ts";
import { releasesUrl } from "./version.ts";

const text = v.pipe(v.string(), v.trim(), v.nonEmpty());
const isTrue = (word: string): boolean => ["true", "1", "yes", "on"].includes(word);
const choice = v.pipe(
  v.picklist(["true", "1", "yes", "on", "false", "0", "no", "off"]),
  v.transform((word) => isTrue(word)),
);
const toggle = v.union([v.boolean(), choice]);
const whole = (least: number, most: number) =>
  v.pipe(
    v.union([v.number(), v.pipe(v.string(), v.regex(/^\d{1,9}$/), v.transform(Number))]),
    v.integer(),
    v.minValue(least),
    v.maxValue(most),
  );
const e164 = v.pipe(v.string(), v.regex(/^\+[1-9]\d{6,14}$/));
const httpUrl = v.pipe(
  text,
  v.check((url) => /^https?:$/.test(URL.parse(url)?.protocol ?? "")),
  v.transform((url) => url.replace(/\/+$/, "")),
);

/** Somebody to talk with: `self`, a number, an account id, a group. */
export const addressee = v.union([
  v.pipe(
    v.literal("self"),
    v.transform((): AllowRule => ({ kind: "self" })),
  ),
  v.pipe(
    e164,
    v.transform((number): AllowRule => ({ kind: "number", number })),
  ),
  v.pipe(
    v.string(),
    v.uuid(),
    v.transform((aci): AllowRule => ({ kind: "aci", aci: aci.toLowerCase() })),
  ),
  v.pipe(
    v.string(),
    v.startsWith("group:"),
    v.transform((word) => word.slice("group:".length)),
    v.nonEmpty(),
    v.base64(),
    v.transform((id): AllowRule => ({ kind: "group", id })),
  ),
]);
const words = v.pipe(
  v.string(),
  v.transform((list) => list.split(",").map((word) => word.trim())),
  v.transform((list) => list.filter((word) => word !== "")),
);
const rules = v.pipe(v.union([v.array(v.string()), words]), v.array(addressee), v.readonly());

/** Where the status server listens; `host` without the brackets of IPv6. Port 0 takes a free one. */
export type ListenAddress = { readonly host: string; readonly port: number };

const address = v.union([
  v.pipe(
    v.literal("off"),
    v.transform(() => null),
  ),
  v.pipe(
    v.string(),
    v.regex(/^(\[[\da-fA-F:.]+\]|[\w.-]+):\d{1,5}$/),
    v.transform((word): ListenAddress => {
      const colon = word.lastIndexOf(":");
      return { host: word.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(word.slice(colon + 1)) };
    }),
    v.check(({ port }) => port <= 65_535),
  ),
]);

/** The four emojis for taken, waiting, done and failed; null shows nothing for that stage. */
const reactions = v.union([
  v.pipe(
    v.literal("off"),
    v.transform((): readonly (string | null)[] => []),
  ),
  v.pipe(
    v.string(),
    v.trim(),
    v.transform((list) => list.split(/\s+/u)),
    v.array(v.pipe(v.string(), v.regex(/^(-|\p{Extended_Pictographic}\S{0,15})$/u))),
    v.length(4),
    v.transform((list): readonly (string | null)[] => list.map((emoji) => (emoji === "-" ? null : emoji))),
  ),
]);

const shortSystem =
  "You are Claude, chatting on Signal with a person who reads on a phone. Answer in the person's language, briefly and plainly; go into detail when asked. Simple Markdown (bold, italics, lists, code) is shown; tables and headings are not.";

/** One row of the table of settings. */
export type Setting = {
  readonly schema: v.GenericSchema;
  /** The default as a person would write it; null where there is none. */
  readonly fallback: string | null;
  /** One phrase: what it is for, with its unit. */
  readonly doc: string;
  /** The accepted form, for the error and the README. */
  readonly accepts: string;
  /** The placeholder of the flag's value; absent where there is no flag. */
  readonly flag?: string;
  /** The variable where it is not SIGNALMAN_ and the key. */
  readonly variable?: string;
  readonly isSecret?: true;
  /** It says where the file is, so it cannot stand in the file. */
  readonly isOutsideFile?: true;
};

/** Every setting, in the order in which people meet them. */
export const settings = {
  home: {
    schema: v.pipe(
      text,
      v.transform((path) => resolve(path)),
    ),
    fallback: null,
    doc: "folder of config.toml and signalman.db (default: the platform's data folder)",
    accepts: "a folder",
    flag: "folder",
    isOutsideFile: true,
  },
  transport: {
    schema: v.picklist(["native", "signal-cli", "rest"]),
    fallback: "native",
    doc: "how to reach Signal",
    accepts: "native, signal-cli or rest",
    flag: "name",
  },
  signalUrl: {
    schema: httpUrl,
    fallback: "http://127.0.0.1:8080",
    doc: "base URL of the signal-cli daemon or the REST API",
    accepts: "a URL such as http://127.0.0.1:8080",
    flag: "url",
  },
  signalCli: {
    schema: v.nullable(text),
    fallback: null,
    doc: "a signal-cli program to start and supervise",
    accepts: "a path",
    flag: "path",
  },
  signalService: {
    schema: text,
    fallback: "production",
    doc: "native: the Signal service to use",
    accepts: "production, or the path of a service file (JSON)",
  },
  account: {
    schema: v.nullable(e164),
    fallback: null,
    doc: "own number, for signal-cli and rest",
    accepts: "a number in international form (plus, country code, number)",
    flag: "number",
  },
  allow: {
    schema: rules,
    fallback: "self",
    doc: "who may write to Claude",
    accepts: "a list of international numbers, account ids (UUID), self, and group:<id in standard base64>",
    flag: "list",
  },
  groupAlways: {
    schema: toggle,
    fallback: "false",
    doc: "answer in listed groups without being mentioned",
    accepts: "true or false",
  },
  backend: {
    schema: v.picklist(["sessions", "messages"]),
    fallback: "sessions",
    doc: "which side keeps the conversation: Claude's sessions, or this machine",
    accepts: "sessions or messages",
    flag: "name",
  },
  model: {
    schema: v.pipe(text, v.regex(/^[\w][\w.:@/-]*$/)),
    fallback: "claude-sonnet-5-5",
    doc: "Claude model id",
    accepts: "a model id such as claude-sonnet-5-5",
    flag: "id",
  },
  system: {
    schema: text,
    fallback: shortSystem,
    doc: "system prompt (default: a short one for chat on a phone)",
    accepts: "a text, or @file",
    flag: "text",
  },
  tools: {
    schema: v.picklist(["off", "ask", "allow"]),
    fallback: "ask",
    doc: "sessions: tools of the session; with ask a person confirms what writes or runs",
    accepts: "off, ask or allow",
    flag: "policy",
  },
  approvalMinutes: {
    schema: whole(1, 10_080),
    fallback: "60",
    doc: "how long Claude's question for a tool waits for a yes before it counts as a no, in minutes",
    accepts: "1 to 10080",
  },
  busy: {
    schema: v.picklist(["queue", "interrupt"]),
    fallback: "queue",
    doc: "a new message while Claude works waits its turn, or takes the place of the one at work",
    accepts: "queue or interrupt",
  },
  reactions: {
    schema: reactions,
    fallback: "👀 ⏳ ✅ ⚠️",
    doc: "what a message of yours is marked with when it is taken, waits, is done, has failed",
    accepts: "four emojis with spaces between (- for none), or off",
  },
  readReceipts: {
    schema: toggle,
    fallback: "true",
    doc: "mark accepted messages as read",
    accepts: "true or false",
  },
  progress: {
    schema: toggle,
    fallback: "true",
    doc: "show a long answer while it is written, as one message that is edited",
    accepts: "true or false",
  },
  welcome: {
    schema: toggle,
    fallback: "true",
    doc: "greet a person once, after their first answer",
    accepts: "true or false",
  },
  transcribe: {
    schema: v.nullable(text),
    fallback: null,
    doc: "a command that prints what is said in the voice note whose path is added to it",
    accepts: "a command such as whisper-cli -nt -f",
  },
  digestAfterMessages: {
    schema: whole(1, 1_000),
    fallback: "3",
    doc: "after an absence, more waiting messages than these are announced at once",
    accepts: "1 to 1000",
  },
  digestAfterMinutes: {
    schema: whole(1, 10_080),
    fallback: "60",
    doc: "after an absence, messages older than this are announced, in minutes",
    accepts: "1 to 10080",
  },
  listen: {
    schema: address,
    fallback: "127.0.0.1:8787",
    doc: "address of the status server",
    accepts: "host:port such as 127.0.0.1:8787, or off",
    flag: "address",
  },
  trustListen: {
    schema: toggle,
    fallback: "false",
    doc: "let the status server listen beyond this machine, for a network you trust",
    accepts: "true or false",
  },
  log: {
    schema: v.picklist(logLevels),
    fallback: "info",
    doc: "least level that is logged",
    accepts: logLevels.join(", "),
    flag: "level",
  },
  anthropicApiKey: {
    schema: v.nullable(text),
    fallback: null,
    doc: "key for the Claude API",
    accepts: "a key",
    variable: "ANTHROPIC_API_KEY",
    isSecret: true,
  },
  anthropicBaseUrl: {
    schema: v.nullable(httpUrl),
    fallback: null,
    doc: "base URL of the Claude API, or of an endpoint compatible with it",
    accepts: "a URL such as https://api.anthropic.com",
    variable: "ANTHROPIC_BASE_URL",
  },
  staleAfterMs: {
    schema: whole(15_000, 3_600_000),
    fallback: "90000",
    doc: "without proof of life for so long the line counts as lost, in ms",
    accepts: "15000 to 3600000",
  },
  stableAfterMs: {
    schema: whole(0, 3_600_000),
    fallback: "30000",
    doc: "a line that held for so long starts its backoff anew, in ms",
    accepts: "0 to 3600000",
  },
  updateUrl: {
    schema: v.nullable(httpUrl),
    fallback: releasesUrl,
    doc: "where `signalman update` finds releases: a folder with the binaries and SHA256SUMS",
    accepts: "a URL such as https://example.org/releases/latest/download",
  },
  drainMs: {
    schema: whole(0, 600_000),
    fallback: "10000",
    doc: "how long turns at work may go on when stopping, in ms",
    accepts: "0 to 600000",
  },
  retentionDays: {
    schema: whole(1, 3_650),
    fallback: "30",
    doc: "how long done rows of inbox and outbox are kept, in days",
    accepts: "1 to 3650",
  },
  lanesMax: {
    schema: whole(1, 64),
    fallback: "8",
    doc: "chats that are answered at the same time",
    accepts: "1 to 64",
  },
} as const satisfies Record<string, Setting>;

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
