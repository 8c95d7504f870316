/** What only the owner can act on. */
import type { Chat } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { Bridge } from "./bridge.ts";

/** Where the owner talks to Claude: Note to Self, else the chat of the first person on the allow list; null where there is neither. */
export function ownerChat({ allow }: Pick<Bridge["config"], "allow">): Chat | null {
  if (allow.some(({ kind }) => kind === "self")) return { kind: "self" };
  const [first] = allow.flatMap((rule): Chat[] =>
    rule.kind === "group" || rule.kind === "self"
      ? []
      : [{ kind: "direct", peer: { aci: null, number: null, ...rule } }],
  );
  return first ?? null;
}

/** Said there once a day for each `code`. Part of the caller's transaction. */
export function tellOwner(
  { store, config, clock, chats }: Pick<Bridge, "store" | "config" | "clock" | "chats">,
  code: string,
  text: string,
): void {
  const chat = ownerChat(config);
  if (chat === null) return;
  const today = new Date(clock.now()).toISOString().slice(0, 10);
  store.outbox.add("notice", `${code} ${today}`, 0, chat, plainText(text), clock.now());
  chats.touch(chat);
}
