/**
 * Notices a database that is older than what was written last: a copy that was restored, or a write-ahead log that was deleted. A
 * number grows in the database with each start and each minute, and is written to a small file beside it once it is committed: the
 * file is ahead only of a database that lost what it had.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Settings } from "./remembered.ts";

const key = "generation";

export type Generation = ReturnType<typeof createGeneration>;

export function createGeneration(settings: Settings, home: string) {
  const file = join(home, "signalman.generation");
  const beside = readNumber(file);
  const here = (): number => Number(settings.get(key) ?? 0);
  let isSetBack = beside > here();
  return {
    /** The database has lost what it had when this file was written. Until the first `keep`. */
    isSetBack: (): boolean => isSetBack,
    /** Part of the caller's transaction; the file follows its commit by `keep`. */
    next: (): number => {
      const number = Math.max(beside, here()) + 1;
      settings.set(key, String(number));
      return number;
    },
    /** Best effort: a file that is behind says nothing. */
    keep(number: number): void {
      isSetBack = false;
      try {
        writeFileSync(file, `${number}\n`, { mode: 0o600 });
      } catch {
        // The disk is full, or the folder is not writable: the database says so itself.
      }
    },
  };
}

/** 0 where there is none, or none that can be read. */
function readNumber(file: string): number {
  try {
    const number = Number(readFileSync(file, "utf8"));
    return Number.isSafeInteger(number) ? number : 0;
  } catch {
    return 0;
  }
}
