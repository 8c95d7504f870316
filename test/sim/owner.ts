/** The owner of the simulated machine, who opens the project, looks at what Claude wants to do there, and says yes or no to it. */
import type { Chat } from "../../src/core/model.ts";
import { chatKey } from "../../src/core/model.ts";
import type { Person, WriteOptions } from "../doubles/memory.ts";
import type { MemorySignal } from "../doubles/memory.ts";
import { listedGroup, people } from "./config.ts";
import type { Dice } from "./dice.ts";

export type Owner = {
  readonly aci: string | null;
  /** One thing that the owner does; returns what, for the trace. */
  act(): string;
  /** Says yes to the last question of each chat in which the project may be open. */
  answerAll(): void;
  /** A person allows what the chat asks, or the things of these numbers; what the owner has on the screen is allowed then. */
  readonly onYes: (who: Person, chat: Chat, numbers?: readonly number[]) => void;
  /** The owner saw this bed in a question, and then said yes. */
  isAllowed(bed: string): boolean;
  /** The owner has said "always". */
  hasFreed(): boolean;
};

type Place = { readonly chat: Chat; readonly options: WriteOptions };

export function createOwner(signal: MemorySignal, dice: Dice): Owner {
  const { owner, account } = signal;
  const group: Place = {
    chat: { kind: "group", id: listedGroup },
    options: { group: listedGroup, isMention: true },
  };
  const places: readonly Place[] = [{ chat: { kind: "self" }, options: {} }, group];
  const allowed = new Set<string>();
  let isFreed = false;
  const questions = (chat: Chat) =>
    signal.screen().filter((seen) => chatKey(seen.chat) === chatKey(chat) && seen.text.startsWith("Claude wants to"));
  const onYes: Owner["onYes"] = (who, chat, numbers = []) => {
    if (who !== owner) return;
    for (const { text } of questions(chat))
      for (const line of text.split("\n")) {
        const [, number, bed] = /^(?:(\d)\. |Claude wants to )local_\w+ (bed-\d+)/u.exec(line) ?? [];
        if (bed !== undefined && (numbers.length === 0 || numbers.includes(Number(number ?? 1)))) allowed.add(bed);
      }
  };
  const react = ({ chat, options }: Place, emoji: string): string => {
    const question = questions(chat).at(-1);
    if (emoji !== "👎") onYes(owner, chat);
    if (emoji === "♾️") isFreed = true;
    if (question) owner.react({ author: account, sentAt: question.timestamp }, emoji, options);
    return `${emoji} in ${chatKey(chat)}`;
  };
  const write = ({ chat, options }: Place, text: string): string => {
    owner.write(text, options);
    return `${text} in ${chatKey(chat)}`;
  };
  /** Who is on the list by name may say yes to a tool at Claude, and not to one that runs here. */
  const ann = signal.person(people.ann, "Ann");
  const guestAllows = (): string => {
    const question = questions(group.chat).at(-1);
    if (question) ann.react({ author: account, sentAt: question.timestamp }, "👍", group.options);
    return "looks on as Ann says yes";
  };
  let opened = 0;
  return {
    aci: account.aci,
    onYes,
    isAllowed: (bed) => allowed.has(bed),
    hasFreed: () => isFreed,
    act() {
      const place = places[opened] ?? dice.pick(places);
      const roll = dice.random();
      if (opened++ < places.length || roll < 0.04) return write(place, "/project garden");
      if (roll < 0.05) return write(place, "/project off");
      if (roll < 0.07) return write(place, "/ask");
      if (roll < 0.24) {
        const numbers = [1 + dice.below(3), 1 + dice.below(3)];
        if (roll < 0.12) return write(place, `/deny ${numbers[0]}`);
        onYes(owner, place.chat, numbers);
        return write(place, `/approve ${numbers.join(" ")}`);
      }
      if (roll < 0.32) return guestAllows();
      return react(place, roll < 0.4 ? "👎" : roll < 0.43 ? "♾️" : "👍");
    },
    answerAll: () => places.forEach((place) => void react(place, "👍")),
  };
}
