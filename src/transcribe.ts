/** Voice notes by a command of the person's choice: it gets the file's path as its last word and prints what is said. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "./clock.ts";
import type { Millis } from "./core/model.ts";
import type { Log } from "./log.ts";
import type { Transcribe } from "./loops/prompt.ts";

const timeoutMs: Millis = 180_000;
const outputBytesMax = 64 * 1024;
const endings: Readonly<Record<string, string>> = { "audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/x-m4a": "m4a" };

/** The file is 0600 in a folder of its own, and gone when the command has ended. The command is split at spaces; no shell reads it. */
export function createTranscribe(command: string, { clock, log }: { clock: Clock; log: Log }): Transcribe {
  const [program = "", ...words] = command.split(/\s+/u);
  return async (bytes, contentType, outer) => {
    const folder = mkdtempSync(join(tmpdir(), "signalman-voice-"));
    const done = new AbortController();
    const late = clock.sleep(timeoutMs, done.signal);
    const stop = new AbortController();
    void late.then(() => done.signal.aborted || stop.abort());
    try {
      const ending = endings[contentType] ?? contentType.split("/")[1]?.replace(/\W.*/u, "") ?? "audio";
      const file = join(folder, `note.${ending}`);
      writeFileSync(file, bytes, { mode: 0o600 });
      const text = await output(program, [...words, file], AbortSignal.any([outer, stop.signal]));
      return text.trim() === "" ? null : text.trim();
    } catch (error) {
      log.warn("voice note not transcribed", { error: error instanceof Error ? error.message : String(error) });
      return null;
    } finally {
      done.abort();
      rmSync(folder, { recursive: true, force: true });
    }
  };
}

function output(program: string, words: readonly string[], signal: AbortSignal): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, words, { stdio: ["ignore", "pipe", "ignore"], signal, killSignal: "SIGKILL" });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (piece: string) => {
      if (text.length < outputBytesMax) text += piece.slice(0, outputBytesMax - text.length);
    });
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve(text) : reject(new Error(`it ended with ${code ?? "a signal"}`)),
    );
  });
}
