/**
 * Disappearing messages: where a chat has a timer, what was said there is blanked here too when it has run. The rows stay: they
 * still know what was done. What is owed (open rows) is kept until it is settled.
 */
import type { Millis } from "../core/model.ts";
import type { Database } from "./database.ts";
import type { Store } from "./store.ts";

const prefix = "timer:";

/** The chat's timer in seconds, as its latest message carries it; 0 is off, null says nothing. */
export function noteTimer({ settings }: Store, chatKey: string, seconds: number | null): void {
  const known = settings.get(prefix + chatKey);
  if (seconds === null || String(seconds) === (known ?? "0")) return;
  if (seconds > 0) settings.set(prefix + chatKey, String(seconds));
  else settings.remove(prefix + chatKey);
}

const nothing = {
  envelope: `{"kind":"empty","what":"disappeared"}`,
  body: `{"kind":"text","text":"","styles":[],"quote":null,"files":[]}`,
} as const;

/** In each chat with a timer: envelopes, our messages and the log's texts that are older than it. */
export function forget(db: Database, now: Millis): void {
  const timers = db.all<{ key: string; value: string }>(
    "SELECT key, value FROM settings WHERE key > 'timer:' AND key < 'timer;'",
  );
  let blanked = 0;
  for (const { key, value } of timers) {
    const chatKey = key.slice(prefix.length);
    const before = now - Number(value) * 1_000;
    const run = (sql: string, ...params: (string | number)[]): void => void (blanked += db.run(sql, ...params).changes);
    db.transaction(() => {
      run(
        `UPDATE inbox SET envelope = json_set(envelope, '$.content', json(?))
         WHERE chat_key = ? AND state = 'done' AND done_at < ? AND json_extract(envelope, '$.content.kind') <> 'empty'`,
        nothing.envelope,
        chatKey,
        before,
      );
      run(
        "UPDATE outbox SET body = ? WHERE chat_key = ? AND done_at < ? AND body <> ?",
        nothing.body,
        chatKey,
        before,
        nothing.body,
      );
      const settled = `at < ? AND session_id IN (SELECT id FROM sessions WHERE chat_key = ?)
        AND session_id NOT IN (SELECT session_id FROM inbox WHERE state <> 'done' AND session_id IS NOT NULL)`;
      run(
        `UPDATE events SET body = json_set(body, '$.text', '') WHERE ${settled}
         AND type IN ('prompt', 'reply') AND json_extract(body, '$.text') <> ''`,
        before,
        chatKey,
      );
      run(
        `UPDATE events SET body = json_set(body, '$.input', NULL) WHERE ${settled}
         AND type = 'tool_use' AND json_type(body, '$.input') <> 'null'`,
        before,
        chatKey,
      );
    });
  }
  // The log of changes still holds what was blanked.
  if (blanked > 0) db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
}
