/**
 * Previews of answers: one message for a prompt (`draft`, subject the inbox id, part 0), edited while Claude writes (parts 1, 2 …). It
 * ends as the answer, or, where that took long, with a word that the answer stands below: an edit rings no phone.
 */
import type { Subject } from "../core/changes.ts";
import type { Chat, Millis, OutboundBody, StyledText } from "../core/model.ts";
import { silentWithinMs } from "../core/reply.ts";
import type { Database } from "./database.ts";
import { createAdding, outboxTable, type OutboxRow, type OutboxWhy } from "./outbox.ts";

export type Drafts = ReturnType<typeof createDrafts>;

export function createDrafts(db: Database) {
  const { one, many, has } = outboxTable(db);
  const { add, supersede } = createAdding(db);
  /** Prompts that surely have no preview. */
  const without = new Set<number>();
  db.onRollback(() => without.clear());
  /** The preview that the answer to this prompt takes the place of; null where there is none, or none any more. */
  const openDraft = (inboxId: number): OutboxRow | null => {
    if (without.has(inboxId)) return null;
    const draft = one`WHERE why = 'draft' AND session_id = '' AND subject = ${String(inboxId)} AND part = 0 AND state <> 'failed'`;
    if (draft === null) return null;
    const isOver = has`SELECT 1 FROM outbox WHERE chat_key = ${draft.chatKey} AND id > ${draft.id} AND why <> 'draft'
      AND body ->> '$.targetSentAt' = ${draft.timestamp} AND body ->> '$.kind' <> 'reaction' LIMIT 1`;
    return isOver ? null : draft;
  };
  /** The preview that is on the phones and is to be changed; messages of it that have not gone out are taken back. */
  const takeDraft = (inboxId: number, now: Millis): OutboxRow | null => {
    const draft = openDraft(inboxId);
    if (draft === null) return null;
    for (const edit of many`WHERE why = 'draft' AND session_id = '' AND subject = ${draft.subject} AND part > 0`)
      supersede(edit.id, now);
    return supersede(draft.id, now) ? null : draft;
  };
  return {
    /** Notes a prompt that is asked for the first time. */
    expect: (inboxId: number): void => void without.add(inboxId),
    /** Adds, or changes, the preview of a prompt's answer; returns the number of changes so far. */
    addDraft(inboxId: number, chat: Chat, shown: StyledText, now: Millis): number {
      const subject = String(inboxId);
      without.delete(inboxId);
      if (add("draft", subject, 0, chat, { kind: "text", ...shown, quote: null, files: [] }, now)) return 1;
      const draft = openDraft(inboxId);
      // The preview was shown before a restart, and its prompt answered or given up since.
      if (draft === null) return Infinity;
      const edits = many`WHERE why = 'draft' AND session_id = '' AND subject = ${subject} AND part > 0 ORDER BY part`;
      for (const edit of edits) supersede(edit.id, now);
      const part = (edits.at(-1)?.part ?? 0) + 1;
      add("draft", subject, part, chat, { kind: "edit", targetSentAt: draft.timestamp, ...shown }, now);
      return part + 1;
    },
    /**
     * Adds a message that takes the place of a prompt's preview where there is one: as an edit of it, files in a message of their own. A
     * preview that has stood for long is not replaced: the answer is a message of its own, since that rings, and the preview points to it.
     */
    addAnswer(
      why: OutboxWhy,
      subject: Subject,
      part: number,
      inboxId: number,
      chat: Chat,
      body: OutboundBody,
      now: Millis,
      isHurried = false,
    ): void {
      const draft = body.kind === "text" ? takeDraft(inboxId, now) : null;
      if (body.kind !== "text" || draft === null) return void add(why, subject, part, chat, body, now, isHurried);
      const edit = { kind: "edit", targetSentAt: draft.timestamp } as const;
      if (now - draft.createdAt > silentWithinMs) {
        add(why, subject, part, chat, body, now, isHurried);
        return void add("below", draft.subject, 0, chat, { ...edit, text: "(see below)", styles: [] }, now);
      }
      const { text, styles, files } = body;
      const isNew = add(why, subject, part, chat, { ...edit, text, styles }, now, isHurried);
      if (isNew && files.length > 0) add(why, subject, part + filesPart, chat, { ...body, text: "", styles: [] }, now);
    },
    /** Says in place of the preview that nothing more comes. */
    endDraft(inboxId: number, chat: Chat, text: string, now: Millis): void {
      const draft = takeDraft(inboxId, now);
      without.delete(inboxId);
      if (draft !== null)
        add("stopped", draft.subject, 0, chat, { kind: "edit", targetSentAt: draft.timestamp, text, styles: [] }, now);
    },
  };
}

/** Added to the part of an answer that took the place of a preview: the part of its files, behind all others. */
const filesPart = 1_000;
