/** Small durable values: remembered ids, and counters that must survive a restart. */
import { statements, type Database } from "./database.ts";

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
  /** A cent has ten thousand. */
  | "costMicros";

export type Settings = ReturnType<typeof createSettings>;

export function createSettings(db: Database) {
  const { run, get, all } = statements(db);
  const read = (key: string): string | null =>
    get<{ value: string }>`SELECT value FROM settings WHERE key = ${key}`?.value ?? null;
  return {
    get: read,
    set: (key: string, value: string) =>
      run`INSERT INTO settings (key, value) VALUES (${key}, ${value}) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
    remove: (key: string) => run`DELETE FROM settings WHERE key = ${key}`,
    /** What follows this prefix in the keys that begin with it. */
    namesOf: (prefix: string): string[] =>
      all<{ key: string }>`SELECT key FROM settings WHERE key >= ${prefix} AND key < ${`${prefix}\uffff`}`.map(
        ({ key }) => key.slice(prefix.length),
      ),
    /** Adds to a counter; part of the caller's transaction. */
    count: (name: CounterName, by = 1) =>
      run`INSERT INTO settings (key, value) VALUES (${`count.${name}`}, ${String(by)})
        ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value`,
    counter: (name: CounterName): number => Number(read(`count.${name}`) ?? 0),
  };
}
