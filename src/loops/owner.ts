/** Notices of faults to the owner's chat, or to the chat of a message, each once a day. */
import type { Chat } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import { dayOf } from "../core/when.ts";
import type { Bridge } from "./bridge.ts";

/** The chat in which the owner talks to Claude: Note to Self, else the first person of the allow list; null where there is neither. */
export function ownerChat({ allow }: Pick<Bridge["config"], "allow">): Chat | null {
  if (allow.some(({ kind }) => kind === "self")) return { kind: "self" };
  const [first] = allow.flatMap((rule): Chat[] =>
    rule.kind === "group" || rule.kind === "self"
      ? []
      : [{ kind: "direct", peer: { aci: null, number: null, ...rule } }],
  );
  return first ?? null;
}

type Base = Pick<Bridge, "store" | "config" | "clock" | "chats">;

export function tellOwner(bridge: Base, code: string, text: string): void {
  const chat = ownerChat(bridge.config);
  if (chat !== null) tellOnce(bridge, chat, code, text);
}

/** Writes a notice once a day for each `code`. Part of the caller's transaction. */
export function tellOnce({ store, clock, chats }: Base, chat: Chat, code: string, text: string): void {
  const today = dayOf(clock.now(), "UTC");
  store.outbox.add("notice", `${code} ${today}`, 0, chat, plainText(text), clock.now());
  chats.touch(chat);
}
