/** What phones know of our messages: each with its versions, of which an edit must name the newest. */
import { chatKey, type Chat, type Millis } from "../../src/core/model.ts";

export type Versions = ReturnType<typeof createVersions>;

/** Signal-Android takes no edit of an older message. */
const acceptEditWithinMs: Millis = 24 * 3_600_000;

export function createVersions() {
  const newest = new Map<string, Millis>();
  const keyOf = (chat: Chat | null, sentAt: Millis): string => `${chat ? chatKey(chat) : ""}|${sentAt}`;
  return {
    /** Notes a message, or a version of one (`editOf`). False where phones would show the edit as a message of its own. */
    note(chat: Chat | null, sentAt: Millis, editOf: Millis | null): boolean {
      const first = editOf === null ? sentAt : newest.get(keyOf(chat, editOf));
      if (editOf !== null) newest.delete(keyOf(chat, editOf));
      newest.set(keyOf(chat, sentAt), first ?? sentAt);
      return first !== undefined && sentAt - first <= acceptEditWithinMs;
    },
  };
}
