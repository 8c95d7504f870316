/**
 * Deletes a conversation: its rows here now, the session at Claude with its files by the next sync, which finds it in `settings`. The texts
 * of its messages are blanked; the rows of the inbox and the outbox stay, as they still know what was done.
 */
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";
import { createSettings } from "./remembered.ts";

/** Settings that were chosen for the chat, and outlive its conversations. */
export const lastingKeys = ["model", "effort", "verbose"] as const;

export const emptyContent = `{"kind":"empty","what":"disappeared"}`;
const emptyBody = `{"kind":"text","text":"","styles":[],"quote":null,"files":[]}`;

type Row = { readonly chatKey: string; readonly remoteId: string | null; readonly context: string };

/** Deletes one conversation, as part of the caller's transaction. */
export function forgetSession(db: Database, id: string): void {
  const { get, run } = statements(db);
  const session = get<Row>`SELECT chat_key AS chatKey, remote_id AS remoteId, context FROM sessions WHERE id = ${id}`;
  if (session === undefined) return;
  const { set, remove } = createSettings(db);
  if (session.remoteId !== null) set(`forget:${session.remoteId}`, "1");
  const context = db.read(() => JSON.parse(session.context) as Readonly<Record<string, unknown>>);
  const chosen = lastingKeys.filter((key) => context[key] !== undefined).map((key) => [key, context[key]]);
  if (chosen.length > 0) set(`chosen:${session.chatKey}`, JSON.stringify(Object.fromEntries(chosen)));
  run`UPDATE inbox SET envelope = json_set(envelope, '$.content', json(${emptyContent})) WHERE state = 'done'
    AND id IN (SELECT CAST(subject AS INTEGER) FROM posts WHERE session_id = ${id} AND kind = 'prompt')`;
  run`UPDATE outbox SET body = ${emptyBody} WHERE done_at IS NOT NULL AND why IN ('reply', 'tool', 'ask', 'reminder', 'file')
    AND session_id = ${id}`;
  run`UPDATE outbox SET body = ${emptyBody} WHERE done_at IS NOT NULL AND why IN ('draft', 'below', 'told', 'end', 'failed')
    AND session_id = '' AND subject IN (SELECT subject FROM posts WHERE session_id = ${id} AND kind = 'prompt')`;
  run`DELETE FROM posts WHERE session_id = ${id}`;
  run`DELETE FROM calls WHERE session_id = ${id}`;
  run`DELETE FROM kept WHERE session_id = ${id}`;
  run`DELETE FROM events WHERE session_id = ${id}`;
  run`DELETE FROM files WHERE session_id = ${id}`;
  run`DELETE FROM file_looks WHERE session_id = ${id}`;
  remove(`granted:${id}`);
  run`DELETE FROM sessions WHERE id = ${id}`;
}

/** Deletes everything that was ever said in a chat, as far as it is over, and its reminders. */
export function forgetChat(db: Database, chatKey: string): void {
  const { values, run } = statements(db);
  for (const id of values<string>`SELECT id FROM sessions WHERE chat_key = ${chatKey}`) forgetSession(db, id);
  run`DELETE FROM reminders WHERE chat_key = ${chatKey}`;
  run`UPDATE inbox SET envelope = json_set(envelope, '$.content', json(${emptyContent})) WHERE chat_key = ${chatKey} AND state = 'done'`;
  run`UPDATE outbox SET body = ${emptyBody} WHERE chat_key = ${chatKey} AND done_at IS NOT NULL AND why <> 'mark'`;
}

/** Deletes conversations that were not used since `before`, and in which nothing is open; returns their number. */
export function forgetUnused(db: Database, before: number, chatKey: string | null = null): number {
  const { values } = statements(db);
  const ids = values<string>`SELECT id FROM sessions WHERE used_at < ${before} AND chat_key = coalesce(${chatKey}, chat_key)
    AND id NOT IN (SELECT session_id FROM posts WHERE state <> 'done')`;
  for (const id of ids) forgetSession(db, id);
  return ids.length;
}
