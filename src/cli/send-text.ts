/**
 * `signalman send TO TEXT… | -` and `signalman token`: messages of people and of scripts through the running daemon, which sends them in
 * order and repeats them where need be. A file is copied into the home's folder `outgoing`, since a service may not see our folders.
 */
import { randomUUID } from "node:crypto";
import { readFileSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { buffer } from "node:stream/consumers";
import * as v from "valibot";
import type { Config } from "../config.ts";
import { BridgeError, errorTable, toFault, type ErrorCode } from "../core/errors.ts";
import type { Millis, OutboundFile } from "../core/model.ts";
import { redactText } from "../log.ts";
import { didYouMean } from "../core/nearest.ts";
import { addressee, readAddressee } from "../settings.ts";
import type { SendState, StagedFile } from "../status/control.ts";
import { createGuests, wordOf } from "../store/allowed.ts";
import { configOf, until, withStore, writePrivate, wrong, type Cli } from "./io.ts";
import { command, newToken } from "./remote.ts";

type Options = { readonly file?: readonly string[]; readonly wait?: true };

const fileBytesMax = 10_000_000;
/** The longest wait of --wait: a line is rarely down for as long. */
const waitMs: Millis = 24 * 3_600_000;

/** Resolves to 0 when the message is in the outbox; with --wait to 0 when it was sent. @throws BridgeError where it was given up */
export async function send(cli: Cli, { file = [], wait }: Options, given = "", ...words: string[]): Promise<number> {
  const config = configOf(cli);
  const to = v.is(addressee, given) ? given : await findByName(config, given);
  const isTyped = words.length > 0 && words.join() !== "-";
  const text = isTyped || (file.length > 0 && words.length === 0) ? words.join(" ") : await readInput();
  if (text.trim() === "" && file.length === 0)
    throw wrong("Cannot send nothing", "Give a text, - for standard input, or --file.");
  const files = await Promise.all(file.map((path) => stage(config, path)));
  const ask = (what: string, body: unknown) => command(config, what, body, cli.signal);
  const id = await ask("send", { to, text, files }).catch((error: unknown) => {
    for (const { staged } of files) rmSync(join(outgoing(config), staged), { force: true });
    throw error;
  });
  if (!wait) return (cli.out("In the outbox.\n"), 0);
  let { state, fault }: SendState = { state: "waiting", fault: null };
  await until(cli, waitMs, "the message to be sent", async () => {
    ({ state, fault } = (await ask("sent", { id })) as SendState);
    return state !== "waiting";
  });
  if ((state as SendState["state"]) === "sent") return (cli.out("Sent.\n"), 0);
  const code = Object.keys(errorTable).find((one): one is ErrorCode => one === fault) ?? "send_rejected";
  throw new BridgeError(code, `Cannot send the message: ${errorTable[code].title}`);
}

/** Finds a person or group by a name that is known here. @throws BridgeError `config` */
async function findByName(config: Config, name: string): Promise<string> {
  const known = await withStore(config, ({ settings }) => {
    const guests = createGuests(settings, config.allow, readAddressee);
    return { found: name === "" ? null : guests.find(name), names: guests.list().flatMap((guest) => guest.name ?? []) };
  });
  if (known?.found) return wordOf(known.found);
  const why = `Cannot send to ${redactText(JSON.stringify(name))} as no person or group is called so`;
  throw wrong(
    [why, didYouMean(name, ["self", ...(known?.names ?? [])])].filter(Boolean).join(". "),
    "Accepted: self, a number with its country code such as +15550100001, an account id (UUID), group:<id>, or a name of `signalman people` or `signalman groups`.",
  );
}

async function readInput(): Promise<string> {
  if (process.stdin.isTTY) throw wrong("Cannot send nothing", "Give a text, or pipe one in.");
  return (await buffer(process.stdin)).toString().trimEnd();
}

const outgoing = ({ home }: Pick<Config, "home">): string => join(home, "outgoing");

async function stage(config: Config, path: string): Promise<StagedFile> {
  let bytes: Buffer;
  try {
    if (statSync(path).size > fileBytesMax) throw new Error(`it has more than ${fileBytesMax / 1e6} MB`);
    bytes = readFileSync(path);
    if (bytes.length === 0) throw new Error("it is empty");
  } catch (cause) {
    throw wrong(`Cannot send ${path}: ${toFault(cause).message}`, "Name another file.", cause);
  }
  const { fileTypeFromBuffer } = await import("file-type");
  const isText = !bytes.subarray(0, 4096).includes(0);
  const contentType = (await fileTypeFromBuffer(bytes))?.mime ?? (isText ? "text/plain" : "application/octet-stream");
  const staged = randomUUID();
  writePrivate(join(outgoing(config), staged), bytes);
  return { staged, fileName: basename(path), contentType };
}

/** Takes a file out of the folder `outgoing`, for the daemon to put into the outbox. @throws BridgeError `config` */
export function takeStaged(home: string, { staged, fileName, contentType }: StagedFile): OutboundFile {
  const path = join(outgoing({ home }), staged);
  try {
    return { fileName, contentType, base64: readFileSync(path).toBase64() };
  } catch (cause) {
    throw wrong(`Cannot send ${fileName} as it is not in ${outgoing({ home })}`, "", cause);
  } finally {
    rmSync(path, { force: true });
  }
}

const tokenFile = (home: string): string => join(home, "token");

/** The token of `POST /send`; null where none was made. */
export function readToken(home: string): string | null {
  try {
    return readFileSync(tokenFile(home), "utf8").trim() || null;
  } catch {
    return null;
  }
}

/** Prints the token of `POST /send`, made the first time and kept; with --new another takes its place. */
export function token(cli: Cli, options: { readonly new?: true }): number {
  const { home } = configOf(cli);
  const known = options.new ? null : readToken(home);
  if (known === null) writePrivate(tokenFile(home), `${newToken()}\n`);
  cli.out(`${readToken(home) ?? ""}\n`);
  return 0;
}
