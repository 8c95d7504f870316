/** Small durable values: one of its kind, or of a thing by the thing's id. Rows of the table `settings`. */
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";

/** Keys of values that exist once. */
type Single = "alive_at" | "device_tag";

/** Kinds of values that a thing has by its id: the thing, and the meaning of the value. */
type Kind =
  /** Number: the account that it belonged to when it was first heard. */
  | "account"
  /** Addressee (`core/guests.ts`): allowed in the chat. */
  | "allow"
  /** Chat: the settings chosen for it, as JSON, while it has no conversation. */
  | "chosen"
  /** Session: its making was asked for, and not answered yet. */
  | "creating"
  /** Chat: the last message that was announced as waiting. */
  | "digest"
  /** Session at Claude: it is to be deleted there. */
  | "forget"
  /** Session: tools that run without a question, as JSON. */
  | "granted"
  /** Account id or number: the name that the person goes by; `group:` and an id: the group's name. */
  | "name"
  /** Message: work on files that it asked for, as JSON. */
  | "owed"
  /** Chat: the project that is open in it; blank where it was left. */
  | "project"
  /** Person: the day on which the owner was told that they wrote and may not ask. */
  | "refused"
  /** Session: the entries of its next listing were dealt with before the database was set back. */
  | "said"
  /** Chat: seconds until its messages disappear. */
  | "timer"
  /** Person: when they were welcomed, in Unix ms. */
  | "welcomed";

export type Key = Single | `${Kind}:${string}`;

export type Settings = ReturnType<typeof createSettings>;

export function createSettings(db: Database) {
  const { run, value, values } = statements(db);
  return {
    get: (key: Key) => value<string>`SELECT value FROM settings WHERE key = ${key}`,
    set: (key: Key, value: string) =>
      run`INSERT INTO settings (key, value) VALUES (${key}, ${value}) ON CONFLICT (key) DO UPDATE SET value = excluded.value`,
    remove: (key: Key) => run`DELETE FROM settings WHERE key = ${key}`,
    /** The ids of the things that have a value of this kind. */
    idsOf: (kind: Kind): string[] =>
      values<string>`SELECT key FROM settings WHERE key >= ${`${kind}:`} AND key < ${`${kind};`}`.map((key) =>
        key.slice(kind.length + 1),
      ),
  };
}
