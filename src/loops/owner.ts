/** What only the owner can act on. */
import type { Chat } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { Bridge } from "./bridge.ts";

/**
 * Said once a day for each `code`, where the owner talks to Claude: Note to Self, else the chat of the first person on the allow
 * list. Part of the caller's transaction.
 */
export function tellOwner(
  { store, config, clock, chats }: Pick<Bridge, "store" | "config" | "clock" | "chats">,
  code: string,
  text: string,
): void {
  const candidates = config.allow.flatMap((rule): Chat[] => {
    if (rule.kind === "self") return [{ kind: "self" }];
    if (rule.kind === "group") return [];
    return [{ kind: "direct", peer: { aci: null, number: null, ...rule } }];
  });
  const chat = candidates.find(({ kind }) => kind === "self") ?? candidates[0];
  if (chat === undefined) return;
  const today = new Date(clock.now()).toISOString().slice(0, 10);
  store.outbox.add("notice", `${code} ${today}`, 0, chat, plainText(text), clock.now());
  chats.touch(chat);
}
