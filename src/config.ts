/**
 * The settings of this run.
 *
 *   defaults < config.toml < environment < flags ─▶ one valibot schema ─▶ one frozen Config
 */
import envPaths from "env-paths";
import { readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { parse as parseToml, TomlError } from "smol-toml";
import * as v from "valibot";
import { BridgeError } from "./core/errors.ts";
import { ownProgram } from "./core/model.ts";
import { didYouMean, nearest } from "./core/nearest.ts";
import { redactText } from "./log.ts";
import { isLoopback } from "./loopback.ts";
import { fileKey, flagOf, settingKeys, settingRow as row, variableOf } from "./settings.ts";
import type { SettingKey, settings } from "./settings.ts";

type Values = { readonly [K in SettingKey]: v.InferOutput<(typeof settings)[K]["schema"]> };

/** Limits that are no settings, since no other value would serve a person better. */
const constants = { staleAfterMs: 90_000, stableAfterMs: 30_000, drainMs: 10_000 } as const;

type Limits = { readonly [key in keyof typeof constants | "retentionDays"]: number };

/** The settings as the program uses them: frozen, checked, complete. */
export type Config = Omit<Values, "retentionDays"> & { readonly limits: Limits };

export type Origin = "default" | "file" | "environment" | "flag";

export type Loaded = {
  readonly config: Config;
  readonly origins: { readonly [K in SettingKey]: Origin };
  /** Each setting as it was given, secrets included: for `config show`, which masks them. */
  readonly given: { readonly [K in SettingKey]: unknown };
  /** One sentence each. */
  readonly warnings: readonly string[];
};

export type Sources = {
  /** The flags by setting key, as written on the command line. */
  readonly flags: Readonly<Partial<Record<string, string>>>;
  readonly env: Readonly<Partial<Record<string, string>>>;
};

const defaultHome = (): string => envPaths("signalman", { suffix: "" }).data;

/** The home folder. The file cannot name it, since it tells where the file is. */
export const resolveHome = ({ flags, env }: Sources): string =>
  resolve(flags["home"] ?? (env[variableOf("home")] || defaultHome()));

/**
 * Reads the file and puts the four sources together. Creates no file.
 * @throws BridgeError `config` naming the setting, where it was given, and the nearest key or the accepted form
 */
export function loadConfig({ flags, env }: Sources): Loaded {
  const fallbacks = Object.fromEntries(settingKeys.map((key) => [key, row(key).fallback]));
  const defaults = { ...fallbacks, home: defaultHome() };
  const fromEnv = Object.fromEntries(settingKeys.map((key) => [key, env[variableOf(key)] || undefined]));
  const home = resolveHome({ flags, env });
  const layers = { default: defaults, file: readFile(home), environment: fromEnv, flag: flags };
  const given: Record<string, unknown> = {};
  const origins = {} as Record<SettingKey, Origin>;
  for (const [origin, values] of Object.entries<Readonly<Record<string, unknown>>>(layers))
    for (const key of settingKeys)
      if (values[key] !== undefined) [given[key], origins[key]] = [values[key], origin as Origin];
  if (typeof given["system"] === "string") given["system"] = readPrompt(given["system"], origins.system, home);
  const values = check(given, origins);
  refuseOpenListen(values);
  const { retentionDays, ...rest } = values;
  const isOwn = rest.backend === ownProgram;
  const projects = isOwn ? rest.projects.map((project) => ({ ...project, backend: ownProgram })) : rest.projects;
  const config = Object.freeze({ ...rest, projects, limits: Object.freeze({ ...constants, retentionDays }) });
  return { config, origins, given: given as Loaded["given"], warnings: unknownVariables(env) };
}

function check(given: Readonly<Record<string, unknown>>, origins: Record<SettingKey, Origin>): Values {
  const schema = v.strictObject(Object.fromEntries(settingKeys.map((key) => [key, row(key).schema])));
  const result = v.safeParse(schema, given);
  if (result.success) return result.output as Values;
  const key = settingKeys.find((candidate) => candidate === result.issues[0].path?.[0]?.key) ?? "home";
  if (key === "projects") throw new BridgeError("config", result.issues[0].message);
  const { isSecret, accepts } = row(key);
  const shown = isSecret ? "" : ` ${redactText(JSON.stringify(given[key]))}`;
  const place = {
    default: "default",
    file: fileKey(key),
    environment: variableOf(key),
    flag: flagOf(key)?.split(" ")[0],
  };
  throw new BridgeError("config", `Cannot use${shown} as ${place[origins[key]]}: it takes ${accepts}`);
}

/** The file's values by setting key. A missing file is an empty one. */
function readFile(home: string): Readonly<Record<string, unknown>> {
  const path = join(home, "config.toml");
  let values: Record<string, unknown>;
  try {
    values = parseToml(readFileSync(path, "utf8"));
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && (cause.code === "ENOENT" || cause.code === "ENOTDIR")) return {};
    const reason = cause instanceof Error ? (cause.message.split("\n")[0] ?? "") : String(cause);
    const place = cause instanceof TomlError ? ` (line ${cause.line})` : "";
    throw new BridgeError("config", `Cannot read ${path}: ${redactText(reason)}${place}`);
  }
  const known = new Map(settingKeys.filter((key) => !row(key).isOutsideFile).map((key) => [fileKey(key), key]));
  const entries = Object.entries(values).map(([name, value]) => {
    const key = known.get(name);
    if (key === undefined) throw unknownKey(path, name, [...known.keys()]);
    if (row(key).isSecret) refuseLooseFile(path);
    return [key, value] as const;
  });
  return Object.fromEntries(entries);
}

function unknownKey(path: string, name: string, known: readonly string[]): BridgeError {
  const hint = didYouMean(name, known) || `Known settings: ${known.join(", ")}.`;
  return new BridgeError("config", `Cannot use ${path}: there is no setting ${JSON.stringify(name)}`, { hint });
}

function refuseLooseFile(path: string): void {
  if (process.platform === "win32" || (statSync(path).mode & 0o077) === 0) return;
  throw new BridgeError("config", `Cannot use ${path}: it holds a key and others may read it`, {
    hint: `Run: chmod 600 ${path}`,
  });
}

/** Reads the text of `@file`: relative to the home for the setting of config.toml, else to the working folder. */
function readPrompt(value: string, origin: Origin, home: string): string {
  if (!value.startsWith("@")) return value;
  const path = origin === "file" ? resolve(home, value.slice(1)) : resolve(value.slice(1));
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new BridgeError("config", `Cannot read the system prompt ${path}`, { cause });
  }
}

function refuseOpenListen({ listen, trustListen }: Values): void {
  if (listen === null || trustListen || isLoopback(listen.host)) return;
  throw new BridgeError("config", `Cannot listen on ${listen.host}: others than this machine could read the status`, {
    hint: "Listen on 127.0.0.1, or set SIGNALMAN_TRUST_LISTEN=true where you trust the network.",
  });
}

function unknownVariables(env: Sources["env"]): string[] {
  const prefix = "SIGNALMAN_";
  const known = settingKeys.map(variableOf);
  // The common prefix does not count as likeness.
  const bare = (name: string): string => name.slice(prefix.length);
  return Object.keys(env)
    .filter((name) => name.startsWith(prefix) && !known.includes(name))
    .map((name) => {
      const near = nearest(bare(name), known.filter((other) => other.startsWith(prefix)).map(bare));
      return `The variable ${name} is not known${near === null ? "" : `; did you mean ${prefix}${near}?`}`;
    });
}
