/**
 * `signalman update`: the newest binary in the place of this one. Nothing is replaced that was not checked.
 *
 *   SHA256SUMS ─▶ ours already? ─▶ download beside the binary, hashed on its way ─▶ the sum is right ─▶ it starts ─▶ rename
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { isLoopback } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import { commit } from "../version.ts";
import { configOf, type Flags, type Io } from "./io.ts";

export type Program = { readonly file: string; readonly target: string };

const platformNames: Readonly<Record<string, string>> = { win32: "windows" };
/** This binary, and what its releases are called. */
const thisProgram = (): Program => ({
  file: process.execPath,
  target: `${platformNames[process.platform] ?? process.platform}-${process.arch}`,
});

const sumsBytesMax = 65_536;
const binaryBytesMax = 2 ** 29;
const downloadMs = 15 * 60_000;

const failed = (why: string, hint: string): BridgeError =>
  new BridgeError("config", `Cannot update as ${why}`, { hint });

/** Resolves when the new binary stands in the old one's place. @throws BridgeError `config`, with the old one untouched */
export async function update(io: Io, flags: Flags, options: { check?: true }, program?: Program): Promise<number> {
  const { updateUrl } = configOf(io, flags);
  if (updateUrl === null) throw failed("no place for releases is set", "Set SIGNALMAN_UPDATE_URL.");
  // The sums come from the same place as the binary: only TLS says whose they are.
  if (!updateUrl.startsWith("https:") && !isLoopback(new URL(updateUrl).hostname))
    throw failed("its place is not https", "Set SIGNALMAN_UPDATE_URL to an address with https.");
  if (program === undefined && commit === "source") throw failed("this runs from its source", "Use git pull.");
  const { file, target } = program ?? thisProgram();
  const name = `signalman-${target}${target.startsWith("windows") ? ".exe" : ""}`;
  const signal = AbortSignal.any([io.signal, AbortSignal.timeout(downloadMs)]);
  const wanted = sumOf(await readText(`${updateUrl}/SHA256SUMS`, signal), name);
  if (wanted === (await sha256(file))) return (io.out("This is the newest.\n"), 0);
  if (options.check) return (io.out("There is a newer one. `signalman update` puts it in place.\n"), 0);
  const fresh = join(dirname(file), `.${basename(file)}.new`);
  try {
    await download(`${updateUrl}/${name}`, fresh, wanted, signal);
    const { stdout } = await promisify(execFile)(fresh, ["--version"]).catch(() => {
      throw failed("the new binary does not start here", "Nothing was changed.");
    });
    // Windows lets nobody write over a program that runs, but lets it be renamed.
    if (process.platform === "win32") await rename(file, `${file}.old`);
    await rename(fresh, file);
    io.out(`Updated to ${stdout.trim()}. Restart the daemon to use it.\n`);
    return 0;
  } finally {
    await rm(fresh, { force: true });
  }
}

function sumOf(sums: string, name: string): string {
  const line = sums.split("\n").find((line) => /^[0-9a-f]{64} [ *]/u.test(line) && line.slice(66).trim() === name);
  if (line === undefined) throw failed(`the release has no ${name}`, "Check SIGNALMAN_UPDATE_URL.");
  return line.slice(0, 64);
}

async function request(url: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  try {
    const response = await fetch(url, { signal });
    if (response.ok && response.body) return response.body;
    throw new Error(`it answered ${response.status}`);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw failed(`${url} cannot be had: ${why}`, "Check SIGNALMAN_UPDATE_URL and the network.");
  }
}

async function readText(url: string, signal: AbortSignal): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of await request(url, signal)) {
    text += decoder.decode(chunk, { stream: true });
    if (text.length > sumsBytesMax) throw failed("the list of sums is too long", "Check SIGNALMAN_UPDATE_URL.");
  }
  return text;
}

async function sha256(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

/** Resolves when the file is whole, on the disk, and has the sum that was promised. */
async function download(url: string, path: string, wanted: string, signal: AbortSignal): Promise<void> {
  const body = await request(url, signal);
  const file = await open(path, "w", 0o755);
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    for await (const chunk of body) {
      bytes += chunk.length;
      if (bytes > binaryBytesMax) throw failed("the binary is too large", "Check SIGNALMAN_UPDATE_URL.");
      hash.update(chunk);
      await file.writeFile(chunk);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  if (hash.digest("hex") !== wanted)
    throw failed(
      "the binary is not the one of the list of sums",
      "Nothing was changed. Try again later; if it stays so, do not trust that place.",
    );
}
