/** Voice notes by a command of the person's choice: it gets the file's path as its last word and prints what is said. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import parseWords from "string-argv";
import { childEnv } from "./child-env.ts";
import type { Millis } from "./core/model.ts";
import type { Log } from "./log.ts";
import type { Transcribe } from "./loops/bridge.ts";

const run = promisify(execFile);
const timeoutMs: Millis = 180_000;
/** What is printed, noise included; and how much of it Claude gets, which is more than an hour of speech. */
const outputBytesMax = 1024 * 1024;
const textLengthMax = 64 * 1024;
/** What was written down last is not asked for again, which may cost money: by a retry, or `/retry`. */
const keptMax = 20;
const endings: Readonly<Record<string, string>> = { "audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-m4a": "m4a" };

/** The file is 0600 in a folder of its own, and gone when the command has ended. The command is split as a shell would, quotes included, but no shell reads it. */
export function createTranscribe(command: string, { log }: { readonly log: Log }): Transcribe {
  const [program = "", ...words] = parseWords(command);
  const kept = new Map<string, string>();
  return async (bytes, contentType, signal) => {
    const key = createHash("sha256").update(bytes).digest("hex");
    const known = kept.get(key);
    if (known !== undefined) return known;
    const folder = mkdtempSync(join(tmpdir(), "signalman-voice-"));
    try {
      const ending = endings[contentType] ?? contentType.split("/")[1]?.replace(/\W.*/u, "") ?? "audio";
      const file = join(folder, `note.${ending}`);
      writeFileSync(file, bytes, { mode: 0o600 });
      const options = {
        signal,
        timeout: timeoutMs,
        maxBuffer: outputBytesMax,
        killSignal: "SIGKILL",
        env: childEnv(),
      } as const;
      const { stdout } = await run(program, [...words, file], options);
      const text = stdout.trim().slice(0, textLengthMax);
      if (text === "") return null;
      kept.set(key, text);
      for (const [oldest] of kept) if (kept.size > keptMax) kept.delete(oldest);
      return text;
    } catch (error) {
      // The message may hold what the command printed.
      const { code, signal: killedBy } = error as { readonly code?: unknown; readonly signal?: unknown };
      log.warn("voice note not transcribed", { code, killedBy });
      return null;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  };
}
