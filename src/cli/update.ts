/**
 * `signalman update`: replaces this binary by the newest one, after checking it.
 *
 *   SHA256SUMS, signed ─▶ ours already? older? ─▶ download ─▶ the sum is right ─▶ unpacked beside the binary ─▶ the sum is right
 *   ─▶ it starts, and is not older ─▶ rename
 */
import { createHash, createPublicKey, verify } from "node:crypto";
import { chmod, open, readFile, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { zstdDecompress } from "node:zlib";
import { readBody } from "../claude/api.ts";
import type { Config } from "../config.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { isLoopback } from "../loopback.ts";
import { runCommand } from "../projects/runner.ts";
import { commit, version } from "../version.ts";
import { configOf, wrong, type Cli } from "./io.ts";

export type Program = { readonly file: string; readonly target: string; readonly version: string };
type Options = { readonly check?: true; readonly force?: true };

/** This binary, and the names of its releases. */
const thisProgram: Program = {
  file: process.execPath,
  target: `${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`,
  version,
};

const textBytesMax = 65_536;
const binaryBytesMax = 2 ** 29;
const downloadMs: Millis = 15 * 60_000;
const trialMs: Millis = 20_000;
const redirectsMax = 5;

const failed = (why: string, hint = "Nothing was changed."): BridgeError =>
  new BridgeError("update", `Cannot update as ${why}`, { hint });
const refuse = (why: string, hint: string): BridgeError => wrong(`Cannot update as ${why}`, hint);

/** Resolves when the new binary stands in the old one's place. @throws BridgeError `config` `update`, with the old one untouched */
export async function update(cli: Cli, options: Options, program?: Program): Promise<number> {
  const config = configOf(cli);
  if (program === undefined && commit === "source")
    throw refuse("this runs from its source", "Use git pull, then `bun run build`.");
  const { updateUrl } = config;
  if (updateUrl === null)
    throw refuse("this build knows no place of releases", "Set SIGNALMAN_UPDATE_URL, or use git pull and build anew.");
  const { file, target, version: own } = program ?? thisProgram;
  const name = `signalman-${target}${target.startsWith("windows") ? ".exe" : ""}`;
  const signal = AbortSignal.any([cli.signal, AbortSignal.timeout(downloadMs)]);
  const fetchText = async (path: string) =>
    Buffer.from(await fetchBytes(`${updateUrl}/${path}`, textBytesMax, signal)).toString();
  const sums = await fetchText("SHA256SUMS");
  const newest = config.updateKey === null ? null : versionOf(await checkSigned(sums, fetchText, config.updateKey));
  const wanted = sumOf(sums, name);
  if (wanted === null) throw failed(`the release has no ${name}`);
  if (wanted === sha256(await readFile(file))) return (cli.out(`This is the newest: ${own}.\n`), 0);
  if (newest !== null) refuseOlder(newest, own, options);
  if (options.check) {
    cli.out(
      `There is another one: ${newest ?? "of a version that is not told"}; this is ${own}. ${whatChanged(config)}`,
    );
    return 0;
  }
  const fresh = join(dirname(file), `.${basename(file)}.new`);
  const fetchBinary = async (path: string, sum: string) =>
    checked(await fetchBytes(`${updateUrl}/${path}`, binaryBytesMax, signal), sum);
  const packed = sumOf(sums, `${name}.zst`);
  try {
    const binary =
      packed === null
        ? await fetchBinary(name, wanted)
        : checked(await unpack(await fetchBinary(`${name}.zst`, packed)), wanted);
    await save(binary, fresh);
    const found = await tryStart(fresh, cli);
    refuseOlder(found, own, options);
    // The new binary gets the mode of the old one, so that the same users can run it under any umask.
    await chmod(fresh, (await stat(file)).mode);
    // Windows refuses to write over a program that runs, but lets it be renamed.
    if (process.platform === "win32") await rename(file, `${file}.old`);
    await rename(fresh, file);
    cli.out(`Updated from ${own} to ${found}. Restart the daemon to use it. ${whatChanged(config)}`);
    return 0;
  } finally {
    await rm(fresh, { force: true, recursive: true });
  }
}

const whatChanged = ({ updateUrl }: Config): string =>
  `What changed: ${(updateUrl ?? "").replace(/\/download$/u, "")}\n`;

/** Resolves to the signer's comment on the release. */
async function checkSigned(sums: string, fetchText: (path: string) => Promise<string>, key: string): Promise<string> {
  const comment = trustedComment(Buffer.from(sums), await fetchText("SHA256SUMS.minisig"), key);
  if (comment !== null) return comment;
  throw failed("the list of sums is not signed by the maintainer", "Nothing was changed. Do not trust that place.");
}

const versionOf = (text: string): string | null => /^signalman (\d+\.\d+\.\d+)\b/u.exec(text)?.[1] ?? null;

/** Refuses an older release without --force: one with a known weakness is signed, too. */
function refuseOlder(found: string, own: string, { force }: Options): void {
  if (force || found.localeCompare(own, "en", { numeric: true }) >= 0) return;
  throw failed(`the release is older than this: ${found}, not ${own}`, "Add --force to go back to it.");
}

const sumOf = (sums: string, name: string): string | null =>
  sums
    .split("\n")
    .find((line) => /^[0-9a-f]{64} [ *]/u.test(line) && line.slice(66).trim() === name)
    ?.slice(0, 64) ?? null;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Returns the bytes where they have that sum. @throws BridgeError `update` where they do not */
function checked(bytes: Uint8Array, sum: string): Uint8Array {
  if (sha256(bytes) === sum) return bytes;
  const hint = "Nothing was changed. Try again later; if it stays so, do not trust that place.";
  throw failed("the binary is not the one of the list of sums", hint);
}

/** Downloads a file, by https at every step. A URL on this machine may be http, and redirect to others on it. */
async function fetchBytes(url: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array> {
  let at = new URL(url);
  const isHere = at.protocol === "http:" && isLoopback(at.hostname);
  for (let hop = 0; hop < redirectsMax; hop++) {
    if (at.protocol !== "https:" && !(isHere && isLoopback(at.hostname)))
      throw refuse(`${at.origin} is not https`, "Set SIGNALMAN_UPDATE_URL to an address with https.");
    try {
      const response = await fetch(at, { signal, redirect: "manual" });
      const next = response.status >= 300 && response.status < 400 ? response.headers.get("location") : null;
      if (next !== null) {
        at = new URL(next, at);
        continue;
      }
      if (!response.ok) throw new Error(`it answered ${response.status}`);
      const bytes = await readBody(response, bytesMax);
      if (bytes === null) throw new Error("it is too large");
      return bytes;
    } catch (cause) {
      throw failed(`${at.href} cannot be had: ${toFault(cause).message}`);
    }
  }
  throw failed(`${url} leads nowhere`);
}

const unpack = (packed: Uint8Array): Promise<Uint8Array> =>
  promisify(zstdDecompress)(packed, { maxOutputLength: binaryBytesMax }).catch((cause: unknown) => {
    throw failed(`it cannot be unpacked: ${toFault(cause).message}`);
  });

/**
 * Resolves when the bytes are on the disk. A file or link that is at `path` already is removed, and a link is not followed.
 * @throws BridgeError `update` where it cannot be written
 */
async function save(bytes: Uint8Array, path: string): Promise<void> {
  try {
    await rm(path, { force: true, recursive: true });
    await using file = await open(path, "wx", 0o700);
    await file.writeFile(bytes);
    await file.sync();
  } catch (cause) {
    const hint = "Run it as a user who may write there, or update as you installed.";
    throw failed(`${path} cannot be written: ${toFault(cause).message}`, hint);
  }
}

/** Starts the new binary and resolves to its version. One that takes too long is ended with all that it started. */
async function tryStart(path: string, { clock, env, signal }: Cli): Promise<string> {
  const folder = dirname(path);
  const place = { root: folder, home: folder, network: true, sandbox: { kind: "none", why: "" } } as const;
  const trial = { ...place, command: [path, "--version"], timeoutMs: trialMs, env };
  const { code, output } = await runCommand(trial, clock, signal);
  const found = code === 0 ? versionOf(output) : null;
  if (found === null) throw failed("the new binary does not start here");
  return found;
}

// --- a signature of minisign. Its format is told at jedisct1.github.io/minisign: base64 of algorithm (2 bytes), key id (8), then key or
// signature; `ED` signs the BLAKE2b hash, `Ed` the text itself; the global signature covers signature and trusted comment.

/** The bytes before an Ed25519 key in a SubjectPublicKeyInfo. **Source:** RFC 8410 */
const spkiPrefix = Buffer.from("302a300506032b6570032100", "hex");
const keyBytes = 42;
const signatureBytes = 74;
const globalBytes = 64;

const decode = (line = ""): Buffer => Buffer.from(line, "base64");

/** The signature's trusted comment where `key` made it for this text, else null. */
export function trustedComment(text: Uint8Array, signatureFile: string, key: string): string | null {
  const [, signatureLine, commentLine = "", globalLine] = signatureFile.split(/\r?\n/u);
  const [signature, global, publicKey] = [decode(signatureLine), decode(globalLine), decode(key)];
  const [, comment] = /^trusted comment: (.*)$/u.exec(commentLine) ?? [];
  const isWhole = signature.length === signatureBytes && global.length === globalBytes && publicKey.length === keyBytes;
  if (!isWhole || comment === undefined || !signature.subarray(2, 10).equals(publicKey.subarray(2, 10))) return null;
  const spki = Buffer.concat([spkiPrefix, publicKey.subarray(10)]);
  const by = createPublicKey({ key: spki, format: "der", type: "spki" });
  const algorithm = signature.toString("latin1", 0, 2);
  const signed = algorithm === "ED" ? createHash("blake2b512").update(text).digest() : text;
  const isSigned = /^E[dD]$/u.test(algorithm) && verify(null, signed, by, signature.subarray(10));
  const covered = Buffer.concat([signature.subarray(10), Buffer.from(comment)]);
  return isSigned && verify(null, covered, by, global) ? comment : null;
}
