/**
 * Finds and asks the running daemon for every command; with the commands that do no more: status, health, reconnect and sessions sync.
 *
 * `control.json` in the home folder names the daemon's process and where it listens, and holds the token, readable by the owner alone.
 * Before a command sends anything, its token included, the program that listens there must prove that it holds the token, too.
 */
import { randomBytes } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { readBody } from "../claude/api.ts";
import type { Config } from "../config.ts";
import { BridgeError, errorTable, type ErrorCode } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { harmless } from "../log.ts";
import { isSame, proofOf } from "../status/control.ts";
import type { Status } from "../status/status.ts";
import { cardsOf, judgeStatus } from "../status/verdict.ts";
import { configOf, print, toTable, writePrivate, type Cli } from "./io.ts";

const place = v.object({ url: v.string(), token: v.string(), pid: v.number() });
type Place = v.InferOutput<typeof place>;

/** The longest wait for an answer: a sync of many sessions takes its time, all else answers at once. */
const answerMs: Millis = 120_000;
const proofMs: Millis = 5_000;
/** Bounds an answer, so that a stranger on the port cannot fill our memory. */
const answerBytesMax = 1024 * 1024;

const fileOf = (home: string): string => join(home, "control.json");

export const newToken = (): string => randomBytes(24).toString("base64url");

/** Writes `control.json`, once the daemon listens. */
export const writePlace = (home: string, where: Omit<Place, "pid">): void =>
  writePrivate(fileOf(home), `${JSON.stringify({ ...where, pid: process.pid })}\n`);

export const removePlace = (home: string): void => rmSync(fileOf(home), { force: true });

/** Reads `control.json`; null where there is none, and where its process is gone, since the port may be a stranger's by now. */
function readPlace(home: string): Place | null {
  try {
    const found = v.parse(place, JSON.parse(readFileSync(fileOf(home), "utf8")));
    return isAlive(found.pid) ? found : null;
  } catch {
    return null;
  }
}

/** True while the process runs, also as another user's. */
export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** The process of this home's daemon, by `control.json`; null where none runs. */
export const pidOf = (home: string): number | null => readPlace(home)?.pid ?? null;

/** Resolves to the place of this home's daemon, after it has proved itself. @throws BridgeError `not_running` */
async function findDaemon({ home, listen }: Config, signal: AbortSignal): Promise<Place> {
  const found = readPlace(home);
  if (found === null) throw notRunning(listen === null ? "its status server is off" : `none runs on ${home}`);
  const nonce = newToken();
  const answer = await exchange(`${found.url}/control/proof?nonce=${nonce}`, signal, proofMs);
  if (isSame(answer.text, proofOf(found.token, nonce, found.url))) return found;
  throw notRunning(`something else answers at ${found.url}`);
}

/** Resolves to the daemon's own status. @throws BridgeError `not_running` */
export const fetchStatus = async (config: Config, signal: AbortSignal): Promise<Status> =>
  (await ask(config, signal, "/status")) as Status;

/** `POST /control/<what>`; resolves to its result. @throws BridgeError `not_running`, or what the daemon answers */
export async function command(config: Config, what: string, body: unknown, signal: AbortSignal): Promise<unknown> {
  const answer = await ask(config, signal, `/control/${what}`, { method: "POST", body: JSON.stringify(body) });
  return (answer as { readonly result?: unknown }).result;
}

async function ask(config: Config, signal: AbortSignal, path: string, init: RequestInit = {}): Promise<unknown> {
  const { url, token } = await findDaemon(config, signal);
  const headers = { authorization: `Bearer ${token}`, accept: "application/json", "content-type": "application/json" };
  const { isOk, text } = await exchange(url + path, signal, answerMs, { ...init, headers });
  const json = toJson(text);
  if (isOk && json !== null) return json;
  const { success, output } = v.safeParse(refusal, json);
  throw success
    ? new BridgeError(output.code, output.message, { hint: output.hint })
    : notRunning(`something else answers at ${url}`);
}

async function exchange(url: string, signal: AbortSignal, ms: Millis, init: RequestInit = {}) {
  try {
    const bounds = { redirect: "error", signal: AbortSignal.any([signal, AbortSignal.timeout(ms)]) } as const;
    const response = await fetch(url, { ...init, ...bounds });
    const body = await readBody(response, answerBytesMax);
    if (body === null) throw new Error("it says too much");
    return { isOk: response.ok, text: Buffer.from(body).toString() };
  } catch (cause) {
    throw notRunning(`no daemon answers at ${new URL(url).origin}`, cause);
  }
}

function toJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const notRunning = (why: string, cause?: unknown): BridgeError =>
  new BridgeError("not_running", `Cannot ask signalman as ${why}`, { cause });

const refusal = v.object({
  code: v.picklist(Object.keys(errorTable) as ErrorCode[]),
  message: v.string(),
  hint: v.string(),
});

/** Has the daemon do an act, and prints `done`. */
export async function have(cli: Cli, what: string, body: unknown, done: string): Promise<number> {
  await command(configOf(cli), what, body, cli.signal);
  cli.out(`${done}\n`);
  return 0;
}

/** Skips the wait, and tries a halted line once, after handing in a captcha that is given. */
export const reconnect = (cli: Cli, { captcha }: { readonly captcha?: string }): Promise<number> =>
  have(cli, "reconnect", captcha === undefined ? {} : { captcha }, "Reconnecting.");

export const syncSessions = (cli: Cli): Promise<number> => have(cli, "sync", {}, "In step with Claude.");

/** Resolves to 0 while the daemon works and Signal delivers, else to 1 after printing the reason: for a container's health check. */
export async function health(cli: Cli): Promise<number> {
  const { url } = await findDaemon(configOf(cli), cli.signal);
  const { isOk, text } = await exchange(`${url}/health`, cli.signal, proofMs);
  cli.out(harmless(text));
  return isOk ? 0 : 1;
}

export async function status(cli: Cli, options: { readonly json?: true }): Promise<number> {
  const status = await fetchStatus(configOf(cli), cli.signal);
  return print(cli, options, status, () => describe(status, cli.clock.now()));
}

function describe(status: Status, now: Millis): string {
  const { words, times, faults } = judgeStatus(status, now);
  const said = faults.map(({ message, hint }) => `${message}\n${hint}\n\n`).join("");
  const rows = cardsOf(status, now).flatMap(({ title, facts }) =>
    facts.map(([name, value], index) => [index === 0 ? title : "", name, String(value)]),
  );
  const head = [
    ["signalman", "Version", status.version],
    ["", "Connection", status.connection.state],
  ];
  return `${harmless(`${words}, ${times}.\n\n${said}`)}${toTable([...head, ...rows])}`;
}
