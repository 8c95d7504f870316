/**
 * How a command finds and asks the running daemon, and the commands that do no more: status, send, reconnect, sessions sync and archive.
 *
 * `control.json` in the home folder says where the daemon listens and holds the token, readable by the owner alone. It is
 * there while the daemon runs, and is replaced by the next.
 */
import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { Config } from "../config.ts";
import { BridgeError, errorTable, type ErrorCode } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { addressee } from "../settings.ts";
import type { Status } from "../status/status.ts";
import { configOf, printJson, toTable, type Cli } from "./io.ts";

const place = v.object({ url: v.string(), token: v.string() });
type Place = v.InferOutput<typeof place>;

/** A sync of many sessions takes its time; all else answers at once. */
const answerMs: Millis = 120_000;

const fileOf = (home: string): string => join(home, "control.json");

export const newToken = (): string => randomBytes(24).toString("base64url");

/** Called once the daemon listens. */
export function writePlace(home: string, where: Place): void {
  const fresh = `${fileOf(home)}.tmp`;
  rmSync(fresh, { force: true });
  writeFileSync(fresh, `${JSON.stringify(where)}\n`, { mode: 0o600, flag: "wx" });
  renameSync(fresh, fileOf(home));
}

export const removePlace = (home: string): void => rmSync(fileOf(home), { force: true });

function readPlace(home: string): Partial<Place> {
  try {
    return v.parse(place, JSON.parse(readFileSync(fileOf(home), "utf8")));
  } catch {
    return {};
  }
}

/** Enough to know that it is ours: the daemon is of the same version, or has the same stable names. */
const shape = v.looseObject({ version: v.string(), connection: v.looseObject({ state: v.string() }) });

/** The daemon's status as it says it. @throws BridgeError `not_running` */
export async function fetchStatus(config: Config, signal: AbortSignal): Promise<Status> {
  const answer = await ask(config, signal, "/status");
  if (v.is(shape, answer)) return answer as unknown as Status;
  throw notRunning("something else answers there");
}

/** `POST /control/<what>`. @throws BridgeError `not_running`, or what the daemon answers */
export async function command(config: Config, what: string, body: unknown, signal: AbortSignal): Promise<void> {
  await ask(config, signal, `/control/${what}`, { method: "POST", body: JSON.stringify(body) });
}

async function ask(config: Config, signal: AbortSignal, path: string, init: RequestInit = {}): Promise<unknown> {
  const { url = urlOf(config), token = "" } = readPlace(config.home);
  if (url === null) throw notRunning("its status server is off, or it is not running");
  let answer: Response;
  try {
    answer = await fetch(url + path, {
      ...init,
      headers: { authorization: `Bearer ${token}`, accept: "application/json", "content-type": "application/json" },
      signal: AbortSignal.any([signal, AbortSignal.timeout(answerMs)]),
    });
  } catch (cause) {
    throw notRunning(`nobody answers at ${url}`, cause);
  }
  const json: unknown = await answer.json().catch(() => null);
  if (answer.ok && json !== null) return json;
  const { success, output } = v.safeParse(refusal, json);
  throw success
    ? new BridgeError(output.code, output.message, { hint: output.hint })
    : notRunning(`something else answers at ${url}`);
}

/** 0.0.0.0 and :: are no addresses to go to. */
function urlOf({ listen }: Config): string | null {
  if (listen === null) return null;
  const host = listen.host === "0.0.0.0" || listen.host === "::" ? "127.0.0.1" : listen.host;
  return `http://${host.includes(":") ? `[${host}]` : host}:${listen.port}`;
}

const notRunning = (why: string, cause?: unknown): BridgeError =>
  new BridgeError("not_running", `Cannot ask signalman as ${why}`, { cause });

const refusal = v.object({
  code: v.picklist(Object.keys(errorTable) as ErrorCode[]),
  message: v.string(),
  hint: v.string(),
});

/** Has the daemon do it, and says so. */
async function have(cli: Cli, what: string, body: unknown, done: string): Promise<number> {
  await command(configOf(cli), what, body, cli.signal);
  cli.out(`${done}\n`);
  return 0;
}

/** A message through the daemon, which sends it in order and repeats it where need be. */
export async function send(cli: Cli, _: unknown, to = "", text = ""): Promise<number> {
  if (!v.is(addressee, to))
    throw new BridgeError("config", "Cannot send to this recipient as it is none", {
      hint: "Accepted: a number such as +15550100001, an account id (UUID), self, or group:<id in standard base64>.",
    });
  if (text.trim() === "") throw new BridgeError("config", "Cannot send nothing", { hint: "Give a text." });
  return have(cli, "send", { to, text }, "In the outbox.");
}

/** Skips the wait, and tries a halted line once; a captcha is handed in first. */
export const reconnect = (cli: Cli, { captcha }: { readonly captcha?: string }): Promise<number> =>
  have(cli, "reconnect", captcha === undefined ? {} : { captcha }, "Reconnecting.");

export const syncSessions = (cli: Cli): Promise<number> => have(cli, "sync", {}, "In step with Claude.");

export const archiveSession = (cli: Cli, _: unknown, id = ""): Promise<number> =>
  have(cli, "archive", { id }, "Archived.");

export async function status(cli: Cli, options: { readonly json?: true }): Promise<number> {
  const status = await fetchStatus(configOf(cli), cli.signal);
  if (options.json) printJson(cli, status);
  else cli.out(describe(status));
  return 0;
}

function describe({ version, connection, signal, claude, sessions, inbox, outbox }: Status): string {
  const retry = connection.retryAt === null ? "" : `, next attempt at ${connection.retryAt}`;
  const reachable = claude.reachable === null ? "not asked yet" : claude.reachable ? "reachable" : "not reachable";
  const rows = [
    ["connection", `${connection.state} since ${connection.since}${retry}`],
    ["signal", [signal.transport, signal.account].filter((part) => part !== null).join(" ")],
    ["claude", `${claude.backend} ${claude.model}, ${reachable}`],
    ["sessions", `${sessions.total}, ${sessions.stale} waiting for sync`],
    ["inbox", `${inbox.pending} waiting, ${inbox.answered} answered, ${inbox.failed} failed`],
    ["outbox", `${outbox.pending} waiting, ${outbox.sent} sent, ${outbox.uncertain} repeated, ${outbox.failed} failed`],
    ["version", version],
  ];
  const faults = [connection.fault, claude.lastError, outbox.fault].filter((fault) => fault !== null);
  return toTable(rows) + faults.map(({ message, hint }) => `\n${message}\n${hint}\n`).join("");
}
