/** Writes voice notes down by a command of the owner's choice: it gets the file's path as its last word and prints what is said. */
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "./clock.ts";
import type { Millis } from "./core/model.ts";
import type { Log } from "./log.ts";
import type { Transcribe } from "./loops/bridge.ts";
import { runHelper } from "./projects/runner.ts";

const timeoutMs: Millis = 180_000;
/** Texts that are kept, so that a retry or `/retry` does not run the command again, which may cost money. */
const keptMax = 20;
const endings: Readonly<Record<string, string>> = { "audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-m4a": "m4a" };

/**
 * The file is 0600 in a folder of its own, and is removed when the command has ended with all that it started. Resolves to null where
 * the note could not be heard, also where the disk is full or every descriptor is taken; never rejects.
 */
export function createTranscribe(
  command: string,
  { log, clock }: { readonly log: Log; readonly clock: Clock },
): Transcribe {
  const kept = new Map<string, string>();
  const hear = async (bytes: Uint8Array, contentType: string, signal: AbortSignal): Promise<string | null> => {
    const folder = mkdtempSync(join(tmpdir(), "signalman-voice-"));
    try {
      const ending = endings[contentType] ?? contentType.split("/")[1]?.replace(/\W.*/u, "") ?? "audio";
      const file = join(folder, `note.${ending}`);
      writeFileSync(file, bytes, { mode: 0o600 });
      const { code, ended, output } = await runHelper(command, [file], timeoutMs, clock, signal);
      if (code === 0 && ended === null) return output.trim() || null;
      log.warn("voice note not transcribed", { code, ended });
      return null;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  };
  return async (bytes, contentType, signal) => {
    const key = createHash("sha256").update(bytes).digest("hex");
    const known = kept.get(key);
    if (known !== undefined) return known;
    const text = await hear(bytes, contentType, signal).catch((error: unknown) => {
      log.warn("voice note not transcribed", { error: error instanceof Error ? error.message : String(error) });
      return null;
    });
    if (text !== null) kept.set(key, text);
    for (const [oldest] of kept) if (kept.size > keptMax) kept.delete(oldest);
    return text;
  };
}
