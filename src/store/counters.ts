/** Sums that are kept for good: each is a row of the table `counters`. */
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";

export type CounterName =
  | "answered"
  | "dropped"
  | "failed"
  | "unknown"
  | "undecryptable"
  | "identityChanges"
  | "sent"
  | "uncertain"
  | "sendFailed"
  | "inputTokens"
  | "outputTokens"
  /** Ten thousand of them are a cent. */
  | "costMicros"
  /** A number by which a database that was set back is noticed (`generation.ts`). */
  | "generation";

export type Counters = ReturnType<typeof createCounters>;

export function createCounters(db: Database) {
  const { run, value } = statements(db);
  /** Sums of the transaction at work, which ends with one statement for all of them. */
  const added = new Map<string, number>();
  const write = (): void => {
    const sums = JSON.stringify(Object.fromEntries(added));
    added.clear();
    run`INSERT INTO counters (name, value) SELECT key, value FROM json_each(${sums}) WHERE true
      ON CONFLICT (name) DO UPDATE SET value = value + excluded.value`;
  };
  db.onRollback(() => added.clear());
  return {
    /** Adds to the sums, as part of the caller's transaction. */
    add(counted: { readonly [name in CounterName]?: number }): void {
      for (const [name, by] of Object.entries(counted)) added.set(name, (added.get(name) ?? 0) + by);
      db.beforeCommit(write);
    },
    /** The sum as it was committed. */
    get: (name: CounterName): number => value<number>`SELECT value FROM counters WHERE name = ${name}` ?? 0,
  };
}
