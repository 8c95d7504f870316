/** Claude's questions for a yes or no, as the log has them open and the phones know them. */
import type { OpenQuestion } from "../core/inbound.ts";
import { pendingAsks } from "../core/turn.ts";
import type { Bridge } from "./bridge.ts";

export type Question = OpenQuestion & { readonly toolUseId: string };

export const questionKey = (sessionId: string, toolUseId: string): string => `ask:${sessionId}:${toolUseId}`;

/** Those of the chat's active session, oldest first. */
export function openQuestions({ store, transport }: Pick<Bridge, "store" | "transport">, chatKey: string): Question[] {
  const session = store.sessions.active(chatKey);
  if (!session) return [];
  return pendingAsks(store.sessions.events(session.id)).map((toolUseId) => {
    const row = store.outbox.byKey(questionKey(session.id, toolUseId));
    const ours = row && transport.capabilities.ownTimestamps ? row.timestamp : null;
    const shownAt = row?.state === "sent" ? row.sendingAt : null;
    return { toolUseId, sentAt: row?.signalTimestamp ?? ours, shownAt };
  });
}
