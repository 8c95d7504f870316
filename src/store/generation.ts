/**
 * Notices a database that is older than what was written last: a copy that was restored, or a write-ahead log that was deleted. A
 * number grows in the database with each start, each minute and each question that goes to Claude or is answered, and is written to a
 * small file beside it once it is committed: the file is ahead only of a database that lost what it had.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Database } from "./database.ts";
import type { Counters } from "./counters.ts";

export type Generation = ReturnType<typeof createGeneration>;

export function createGeneration(db: Database, counters: Counters, home: string) {
  const file = join(home, "signalman.generation");
  const beside = readNumber(file);
  const here = counters.get("generation");
  let number = Math.max(beside, here);
  /** The number as the transaction at work has it, and as it was committed last. */
  let [written, committed] = [here, here];
  db.onRollback(() => (written = committed));
  let isSetBack = beside > here;
  const grow = (): number => {
    const grown = ++number;
    counters.add({ generation: grown - written });
    written = grown;
    db.afterCommit(() => {
      isSetBack = false;
      committed = grown;
      keep(file, grown);
    });
    return grown;
  };
  return {
    /** True where the database lacks rows that it had when the file was written, until `acknowledge`. */
    isSetBack: (): boolean => isSetBack,
    /** Makes the number grow, as part of the caller's transaction; does nothing before a loss is acknowledged. */
    advance(): void {
      if (!isSetBack) grow();
    },
    /** The chats were told of the loss, in the caller's transaction. Returns the number that stands for the loss. */
    acknowledge: grow,
  };
}

/** Writes the file as best it can: a file that is behind the database only shows no loss. */
function keep(file: string, number: number): void {
  try {
    writeFileSync(file, `${number}\n`, { mode: 0o600 });
  } catch {
    // The disk is full, or the folder is not writable: the database says so itself.
  }
}

/** The number in the file; 0 where there is no file, or none that can be read. */
function readNumber(file: string): number {
  try {
    const number = Number(readFileSync(file, "utf8"));
    return Number.isSafeInteger(number) ? number : 0;
  } catch {
    return 0;
  }
}
