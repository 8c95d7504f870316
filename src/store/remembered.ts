/** Small durable values: one of its kind, or of a thing by the thing's id. Rows of the table `settings`. */
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";

/** What is remembered once. */
type Single = "alive_at" | "device_tag";

/** What is remembered of a thing, and what its value says. */
type Kind =
  /** Of a number: the account that it belonged to when it was first heard. */
  | "account"
  /** Of an addressee (`core/guests.ts`): allowed in the chat. */
  | "allow"
  /** Of a chat: what was chosen for it, as JSON, while it has no conversation. */
  | "chosen"
  /** Of a session: its making was asked for, and not answered yet. */
  | "creating"
  /** Of a chat: the last message that was announced as waiting. */
  | "digest"
  /** Of a session at Claude: it is to be deleted there. */
  | "forget"
  /** Of a session: tools that run without a question, as JSON. */
  | "granted"
  /** Of an account id or a number: the name that the person goes by; of `group:` and an id, the group's. */
  | "name"
  /** Of a message: work on files that it asked for, as JSON. */
  | "owed"
  /** Of a chat: the project that is open in it; blank where it was left. */
  | "project"
  /** Of a person: on which day the owner was told that they wrote and may not ask. */
  | "refused"
  /** Of a session: what its log has at the next listing was said before the database was set back. */
  | "said"
  /** Of a chat: seconds until its messages disappear. */
  | "timer"
  /** Of a person: when they were told what this is. */
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
    /** Of which things this is remembered, by their ids. */
    idsOf: (kind: Kind): string[] =>
      values<string>`SELECT key FROM settings WHERE key >= ${`${kind}:`} AND key < ${`${kind};`}`.map((key) =>
        key.slice(kind.length + 1),
      ),
  };
}
