/**
 * How a command finds and asks the running daemon: `control.json` in the home folder says where it listens and holds the
 * token, readable by the owner alone. It is there while the daemon runs, and is replaced by the next.
 */
import { randomBytes } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import type { Config } from "../config.ts";
import { BridgeError, errorTable, type ErrorCode } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";

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

function readPlace(home: string): Place | null {
  try {
    return v.parse(place, JSON.parse(readFileSync(fileOf(home), "utf8")));
  } catch {
    return null;
  }
}

/** The daemon's status as it says it. @throws BridgeError `not_running` */
export const fetchStatus = (config: Config, signal: AbortSignal): Promise<unknown> =>
  ask(config, "/status", { headers: { accept: "application/json" } }, signal);

/** `POST /control/<what>`. @throws BridgeError `not_running`, or what the daemon answers */
export async function command(config: Config, what: string, body: unknown, signal: AbortSignal): Promise<void> {
  const { token } = readPlace(config.home) ?? { token: "" };
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  await ask(config, `/control/${what}`, { method: "POST", headers, body: JSON.stringify(body) }, signal);
}

async function ask(config: Config, path: string, init: RequestInit, signal: AbortSignal): Promise<unknown> {
  const url = readPlace(config.home)?.url ?? urlOf(config);
  if (url === null) throw notRunning("its status server is off, or it is not running");
  let answer: Response;
  try {
    answer = await fetch(url + path, { ...init, signal: AbortSignal.any([signal, AbortSignal.timeout(answerMs)]) });
  } catch (cause) {
    throw notRunning(`nobody answers at ${url}`, cause);
  }
  const json: unknown = await answer.json().catch(() => null);
  if (answer.ok && json !== null) return json;
  throw toError(json) ?? notRunning(`something else answers at ${url}`);
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

function toError(json: unknown): BridgeError | null {
  const { success, output } = v.safeParse(refusal, json);
  return success ? new BridgeError(output.code, output.message, { hint: output.hint }) : null;
}
