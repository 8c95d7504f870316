/**
 * `signalman update`: the newest binary in the place of this one. Nothing is replaced that was not checked.
 *
 *   SHA256SUMS ─▶ ours already? ─▶ download beside the binary, hashed on its way ─▶ the sum is right ─▶ it starts ─▶ rename
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { promisify } from "node:util";
import { childEnv } from "../child-env.ts";
import { isLoopback } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { commit } from "../version.ts";
import { configOf, type Cli } from "./io.ts";

export type Program = { readonly file: string; readonly target: string };

/** This binary, and what its releases are called. */
const thisProgram: Program = {
  file: process.execPath,
  target: `${process.platform === "win32" ? "windows" : process.platform}-${process.arch}`,
};

const sumsBytesMax = 65_536;
const binaryBytesMax = 2 ** 29;
const downloadMs: Millis = 15 * 60_000;

const failed = (why: string, hint?: string): BridgeError =>
  new BridgeError("update", `Cannot update as ${why}`, { hint });

/** Resolves when the new binary stands in the old one's place. @throws BridgeError `config` `update`, with the old one untouched */
export async function update(cli: Cli, options: { readonly check?: true }, program?: Program): Promise<number> {
  const { updateUrl } = configOf(cli);
  const refuse = (why: string, hint: string) => new BridgeError("config", `Cannot update as ${why}`, { hint });
  if (updateUrl === null) throw refuse("no place for releases is set", "Set SIGNALMAN_UPDATE_URL.");
  // The sums come from the same place as the binary: only TLS says whose they are.
  if (!updateUrl.startsWith("https:") && !isLoopback(new URL(updateUrl).hostname))
    throw refuse("its place is not https", "Set SIGNALMAN_UPDATE_URL to an address with https.");
  if (program === undefined && commit === "source") throw refuse("this runs from its source", "Use git pull.");
  const { file, target } = program ?? thisProgram;
  const name = `signalman-${target}${target.startsWith("windows") ? ".exe" : ""}`;
  const signal = AbortSignal.any([cli.signal, AbortSignal.timeout(downloadMs)]);
  const sums = Buffer.concat(await Array.fromAsync(fetchBytes(`${updateUrl}/SHA256SUMS`, sumsBytesMax, signal)));
  const wanted = sumOf(sums.toString(), name);
  if (wanted === (await sumOfFile(file))) return (cli.out("This is the newest.\n"), 0);
  if (options.check) return (cli.out("There is a newer one. `signalman update` puts it in place.\n"), 0);
  const fresh = join(dirname(file), `.${basename(file)}.new`);
  try {
    if ((await save(fetchBytes(`${updateUrl}/${name}`, binaryBytesMax, signal), fresh)) !== wanted)
      throw failed(
        "the binary is not the one of the list of sums",
        "Nothing was changed. Try again later; if it stays so, do not trust that place.",
      );
    const { stdout } = await promisify(execFile)(fresh, ["--version"], { env: childEnv() }).catch(() => {
      throw failed("the new binary does not start here", "Nothing was changed.");
    });
    // Whoever could run the old one can run the new one, whatever our umask.
    await chmod(fresh, (await stat(file)).mode);
    // Windows lets nobody write over a program that runs, but lets it be renamed.
    if (process.platform === "win32") await rename(file, `${file}.old`);
    await rename(fresh, file);
    cli.out(`Updated to ${stdout.trim()}. Restart the daemon to use it.\n`);
    return 0;
  } finally {
    await rm(fresh, { force: true });
  }
}

function sumOf(sums: string, name: string): string {
  const line = sums.split("\n").find((line) => /^[0-9a-f]{64} [ *]/u.test(line) && line.slice(66).trim() === name);
  if (line === undefined) throw failed(`the release has no ${name}`);
  return line.slice(0, 64);
}

async function* fetchBytes(url: string, bytesMax: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  try {
    const response = await fetch(url, { signal });
    if (!response.ok || !response.body) throw new Error(`it answered ${response.status}`);
    for await (const chunk of response.body) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new Error("it is too large");
      yield chunk;
    }
  } catch (cause) {
    throw failed(`${url} cannot be had: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
}

async function sumOfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

/** Resolves to the sum of what was written, when it is on the disk. @throws BridgeError `update` where it cannot be written */
async function save(chunks: AsyncIterable<Uint8Array>, path: string): Promise<string> {
  const file = await open(path, "w", 0o755).catch((cause: unknown) => {
    const hint = "Run it as a user who may write there, or update as you installed.";
    throw failed(`${dirname(path)} cannot be written: ${cause instanceof Error ? cause.message : ""}`, hint);
  });
  const hash = createHash("sha256");
  try {
    for await (const chunk of chunks) {
      hash.update(chunk);
      await file.writeFile(chunk);
    }
    await file.sync();
    return hash.digest("hex");
  } finally {
    await file.close();
  }
}
