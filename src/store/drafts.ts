/**
 * Placeholders in the outbox: a message `draft:<inbox id>` that is edited while Claude writes, and ends as the answer.
 *
 * An edit names its message by the timestamp chosen for it; the send loop puts Signal's own in its place.
 */
import type { Chat, Millis, OutboundBody } from "../core/model.ts";
import type { Database } from "./database.ts";
import type { Outbox, OutboxRow } from "./outbox.ts";

export interface Drafts {
  /** The placeholder that the answer to the prompt at work in this session takes the place of; null where there is none (left). */
  openDraft(sessionId: string): OutboxRow | null;
  /** Adds a message that takes the place of the open draft where there is one: as an edit of it, files in a message of their own. */
  addAnswer(key: string, sessionId: string, chat: Chat, body: OutboundBody, now: Millis): void;
  /** Takes back a message that has surely not gone out; false where it has, or may have. */
  supersede(id: number, now: Millis): boolean;
}

export function createDrafts(db: Database, { add, byKey }: Pick<Outbox, "add" | "byKey">): Drafts {
  const openDraft: Drafts["openDraft"] = (sessionId) => {
    const found = db.get<{ key: string }>(
      `SELECT key FROM outbox AS draft WHERE state <> 'failed' AND key = 'draft:' || (
         SELECT id FROM inbox WHERE session_id = ? AND state <> 'done' AND kind = 'prompt' ORDER BY id LIMIT 1)
       AND NOT EXISTS (SELECT 1 FROM outbox AS answer WHERE answer.chat_key = draft.chat_key AND answer.id > draft.id
         AND answer.key NOT LIKE 'draft:%' AND json_extract(answer.body, '$.targetSentAt') = draft.timestamp)`,
      sessionId,
    );
    return found ? byKey(found.key) : null;
  };
  const supersede: Drafts["supersede"] = (id, now) =>
    db.run(
      "UPDATE outbox SET state = 'failed', fault = 'superseded', done_at = ? WHERE id = ? AND state = 'queued' AND attempts = 0",
      now,
      id,
    ).changes > 0;
  return {
    openDraft,
    supersede,
    addAnswer(key, sessionId, chat, body, now) {
      const draft = body.kind === "text" ? openDraft(sessionId) : null;
      if (body.kind !== "text" || draft === null) return void add(key, chat, body, now);
      const edits = "SELECT id FROM outbox WHERE key > ? AND key < ?";
      for (const { id } of db.all<{ id: number }>(edits, `${draft.key}:`, `${draft.key};`)) supersede(id, now);
      if (supersede(draft.id, now)) return void add(key, chat, body, now);
      const { text, styles, files } = body;
      add(key, chat, { kind: "edit", targetSentAt: draft.timestamp, text, styles }, now);
      if (files.length > 0) add(`${key}:files`, chat, { ...body, text: "", styles: [] }, now);
    },
  };
}
