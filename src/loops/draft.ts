/**
 * A long answer while it is being written: one message, edited now and then, that ends as the answer.
 *
 *   draft:<row> ─▶ draft:<row>:1 … (edits) ─▶ the reply's first part, as an edit (store/sessions.ts)
 *
 * Rows name the draft by the timestamp that was chosen for it; the send loop puts the newest version's in its place. What is still
 * waiting to be sent when something newer is known is taken back.
 */
import type { Chat, SessionEvent } from "../core/model.ts";
import { isDraftDue, toolLine, type DraftState } from "../core/progress.ts";
import { plainText, renderPreview } from "../core/reply.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Bridge } from "./bridge.ts";

export interface Draft {
  delta(eventId: string, text: string): void;
  events(events: readonly SessionEvent[]): void;
}

const cursorMark = " …";
/** Kept of a preview: more than one message is never shown of it. */
const previewLengthMax = 4_000;

export function createDraft(bridge: Bridge, row: InboxRow, sessionId: string, chat: Chat): Draft {
  const { store, clock, config, transport } = bridge;
  let state: DraftState = { startedAt: clock.monotonic(), changedAt: null, changes: 0 };
  let preview = { eventId: "", text: "" };
  const key = `draft:${row.id}`;

  const show = (text: string): void => {
    if (!config.progress || !transport.capabilities.edits || !bridge.isConnected()) return;
    const now = clock.monotonic();
    if (text === "" || !isDraftDue(state, now)) return;
    state = { ...state, changedAt: now, changes: state.changes + 1 };
    store.db.transaction(() => put(text));
    bridge.wake("send", row.chatKey);
  };
  const put = (markdown: string): void => {
    const at = clock.now();
    const { text, styles } = renderPreview(markdown);
    const body = { ...plainText(text + cursorMark), styles };
    if (store.outbox.add(key, chat, body, at)) return;
    const draft = store.outbox.openDraft(sessionId);
    // Shown in an earlier life, and answered or given up since.
    if (draft === null) return;
    let count = 1;
    for (; ; count++) {
      const edit = store.outbox.byKey(`${key}:${count}`);
      if (edit === null) break;
      store.outbox.supersede(edit.id, at);
    }
    state = { ...state, changes: Math.max(state.changes, count + 1) };
    const edit = { kind: "edit", targetSentAt: draft.timestamp, text: text + cursorMark, styles } as const;
    store.outbox.add(`${key}:${count}`, chat, edit, at);
  };
  return {
    delta(eventId, text) {
      const before = preview.eventId === eventId ? preview.text : "";
      preview = { eventId, text: before.length > previewLengthMax ? before : before + text };
      show(preview.text.trim());
    },
    events(events) {
      const use = events.findLast((event) => event.type === "tool_use");
      if (use?.type === "tool_use") show(toolLine(use));
    },
  };
}
