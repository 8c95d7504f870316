/** Small durable values: remembered ids, and counters that must survive a restart. */
import type { Database } from "./database.ts";

export type CounterName =
  | "answered"
  | "dropped"
  | "failed"
  | "unknown"
  | "undecryptable"
  | "identityChanges"
  | "sent"
  | "uncertain"
  | "sendFailed";

export interface Settings {
  get(key: string): string | null;
  set(key: string, value: string): void;
  remove(key: string): void;
  /** Adds to a counter; part of the caller's transaction. */
  count(name: CounterName, by?: number): void;
  counter(name: CounterName): number;
}

export function createSettings(db: Database): Settings {
  const get = (key: string): string | null =>
    db.get<{ value: string }>("SELECT value FROM settings WHERE key = ?", key)?.value ?? null;
  return {
    get,
    set: (key, value) =>
      void db.run(
        "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        key,
        value,
      ),
    remove: (key) => void db.run("DELETE FROM settings WHERE key = ?", key),
    count: (name, by = 1) =>
      void db.run(
        "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + excluded.value",
        `count.${name}`,
        String(by),
      ),
    counter: (name) => Number(get(`count.${name}`) ?? 0),
  };
}
