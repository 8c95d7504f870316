/**
 * libsignal: 25 MB of machine code that only the native transport needs.
 *
 *   await loadLibsignal(folder)  ─▶  await import("./transport.ts")
 *
 * A file that uses values of libsignal is imported after that call alone. Run from source, the package finds its own addon. Into
 * the compiled program `build/libsignal.ts` embeds it as a file, opened by `openAddon`: Bun's own way would put it into a
 * world-writable temporary folder, and fails where that is missing or mounted noexec.
 */
import { createHash, randomUUID } from "node:crypto";
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BridgeError } from "../../core/errors.ts";
import { reasonOf } from "./bytes.ts";

let addonFolder: string | null = null;

/**
 * Resolves when libsignal can be imported. `folder` (created, 0700) receives the addon of the compiled program, and must lie
 * where programs may be executed. After a failure only a new process can try again.
 * @throws BridgeError `config` when the folder cannot hold or execute it, `unsupported` when this machine cannot run it
 */
export async function loadLibsignal(folder: string): Promise<void> {
  addonFolder = folder;
  try {
    await import("@signalapp/libsignal-client");
  } catch (error) {
    throw error instanceof BridgeError ? error : addonError("this machine", error);
  }
}

/**
 * Called by the embedded build alone: the exports of the addon whose bytes are at `source` with the SHA-256 `sha256` (hex).
 * @throws BridgeError as `loadLibsignal`
 */
export function openAddon(source: string, sha256: string): unknown {
  if (addonFolder === null)
    throw new BridgeError("internal", "Cannot load libsignal as loadLibsignal was not called before");
  const addon: { exports: unknown } = { exports: {} };
  const path = extractAddon(source, sha256, addonFolder);
  try {
    process.dlopen(addon, path);
  } catch (error) {
    throw addonError(addonFolder, error);
  }
  return addon.exports;
}

/**
 * Path of the addon in `folder`, whole and verified: a file that is there already is hashed anew each time, a missing or
 * damaged one is replaced by temporary file and rename. Versions that other builds left behind are removed.
 * @throws BridgeError `config` when the folder cannot be written
 */
export function extractAddon(source: string, sha256: string, folder: string): string {
  const name = `libsignal-${sha256.slice(0, 16)}.node`;
  const path = join(folder, name);
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    // Between the check of a file and its use, no other user may replace it.
    if (process.platform !== "win32" && (statSync(folder).mode & 0o022) !== 0) chmodSync(folder, 0o700);
    if (sha256Of(path) !== sha256) {
      const fresh = join(folder, `${name}.${randomUUID()}.tmp`);
      try {
        writeFileSync(fresh, readFileSync(source), { mode: 0o600, flag: "wx" });
        chmodSync(fresh, 0o700);
        if (sha256Of(fresh) !== sha256) throw new Error("the file does not have the expected SHA-256");
        renameSync(fresh, path);
      } finally {
        rmSync(fresh, { force: true });
      }
    }
    removeOthers(folder, name);
    return path;
  } catch (error) {
    throw new BridgeError("config", `Cannot put libsignal into ${folder}: ${reasonOf(error)}`, {
      hint: "Give signalman a home folder of its own with 30 MB of free space (SIGNALMAN_HOME).",
      cause: error,
    });
  }
}

function sha256Of(path: string): string | null {
  try {
    return createHash("sha256").update(readFileSync(path)).digest("hex");
  } catch {
    return null;
  }
}

/** Temporary files of this same version stay, as another process may be writing one. */
function removeOthers(folder: string, keep: string): void {
  for (const name of readdirSync(folder)) {
    if (name.startsWith(keep) || !/^libsignal-[0-9a-f]{16}\.node(\.[0-9a-f-]{36}\.tmp)?$/.test(name)) continue;
    try {
      rmSync(join(folder, name));
    } catch {
      // Windows keeps a file that another process has loaded: the next start tries again.
    }
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
