/**
 * libsignal: 25 MB of machine code that only the native transport needs.
 *
 * Files that use its values are imported only after `loadLibsignal`. Run from source, the package finds its own addon.
 * `build/libsignal.ts` embeds the addon into the compiled program as a file, which `openAddon` opens: Bun's own way would put
 * it into a world-writable temporary folder, and fails where that is missing or mounted noexec.
 */
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { BridgeError } from "../../core/errors.ts";
import { reasonOf } from "./bytes.ts";

let addonFolder: string | null = null;

/** @throws BridgeError `config` when the folder cannot hold or execute the addon, `unsupported` when this machine cannot run it */
export async function loadLibsignal(folder: string): Promise<void> {
  addonFolder = folder;
  try {
    await import("@signalapp/libsignal-client");
  } catch (error) {
    throw error instanceof BridgeError ? error : addonError("this machine", error);
  }
}

/** The exports of the addon at `source`, for the compiled program alone; the unpacked file is removed once it is loaded. */
export function openAddon(source: string, sha256: string): unknown {
  if (addonFolder === null)
    throw new BridgeError("internal", "Cannot load libsignal as loadLibsignal was not called before");
  const addon: { exports: unknown } = { exports: {} };
  const path = unpackAddon(source, sha256, addonFolder);
  try {
    process.dlopen(addon, path);
  } catch (error) {
    throw addonError(addonFolder, error);
  } finally {
    remove(dirname(path));
  }
  return addon.exports;
}

/** Path of the addon, verified, in a fresh folder where no other user can put or swap a file. @throws BridgeError `config` */
export function unpackAddon(source: string, sha256: string, folder: string): string {
  let fresh: string | null = null;
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    // Others must not write to this folder, since they could swap the fresh one in it.
    if (process.platform !== "win32" && (statSync(folder).mode & 0o077) !== 0) chmodSync(folder, 0o700);
    for (const name of readdirSync(folder)) if (isLeftBehind(name)) remove(join(folder, name));
    fresh = mkdtempSync(join(folder, `libsignal-${process.pid}-`));
    const path = join(fresh, "libsignal.node");
    const content = readFileSync(source);
    // The written file is not read back: no other user can write there, and a second copy would be the peak of the program's memory.
    if (createHash("sha256").update(content).digest("hex") !== sha256)
      throw new Error("the file does not have the expected SHA-256");
    writeFileSync(path, content, { mode: 0o700, flag: "wx" });
    return path;
  } catch (error) {
    if (fresh !== null) remove(fresh);
    throw new BridgeError("config", `Cannot put libsignal into ${folder}: ${reasonOf(error)}`, {
      hint: "Give signalman a home folder of its own with 30 MB of free space (SIGNALMAN_HOME).",
      cause: error,
    });
  }
}

/** True for the folder of a process that is gone, or a file of earlier versions, which kept the addon for the next start. */
function isLeftBehind(name: string): boolean {
  const pid = /^libsignal-(\d+)-\w{6}$/.exec(name)?.[1];
  if (pid === undefined) return /^libsignal-[0-9a-f]{16}\.node(\.[0-9a-f-]{36}\.tmp)?$/.test(name);
  try {
    process.kill(Number(pid), 0);
    return Number(pid) === process.pid;
  } catch (error) {
    return (error as { code?: string }).code === "ESRCH";
  }
}

function remove(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // Windows keeps a file that a process has loaded: the next start tries again.
  }
}

/** The loader's messages are those of glibc's dlopen, and of node-gyp-build where no prebuilt addon fits. */
function addonError(where: string, cause: unknown): BridgeError {
  const reason = reasonOf(cause);
  if (/failed to map segment|operation not permitted|permission denied/i.test(reason))
    return new BridgeError("config", `Cannot load libsignal as ${where} does not allow programs to run: ${reason}`, {
      hint: "Set SIGNALMAN_HOME to a folder on a file system that is not mounted noexec.",
      cause,
    });
  return new BridgeError("unsupported", `Cannot load libsignal on this machine: ${reason}`, {
    hint: "The native transport needs 64-bit Windows, macOS, or Linux with glibc 2.34 or newer (Debian 12, Ubuntu 22.04); use the signal-cli or rest transport elsewhere.",
    cause,
  });
}
