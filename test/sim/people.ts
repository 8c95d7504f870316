/** The people with phones: what they write, take back, command and answer; and strangers, whose every word is a planted secret. */
import type { Address, Chat, Envelope } from "../../src/core/model.ts";
import { chatKey } from "../../src/core/model.ts";
import type { Person, WriteOptions } from "../doubles/memory.ts";
import type { MemorySignal } from "../doubles/memory.ts";
import type { Dice } from "./dice.ts";
import { listedGroup, people, secretWord, unlistedGroup } from "./config.ts";

type Place = { readonly who: Person; readonly options: WriteOptions; readonly chat: Chat };
type Said = { readonly place: Place; readonly envelope: Envelope };

export type People = {
  /** One thing that a person does. Returns what, for the trace. */
  act(): string;
  /** A prompt and nothing else. */
  ask(): string;
  /** A person who is not let in does something. */
  intrude(): string;
  /** An envelope that was delivered comes again. */
  repeat(): void;
  /** From another device of the same person, with the timestamp of an earlier message: it was on its way for long. */
  late(): string;
  /** What cannot be read, or has nothing to answer. */
  oddity(): void;
  /** The chats in which this mark was written, once for each time. */
  chatsOf(mark: string): readonly string[];
  /** Each person who is let in is in one of these chats. */
  isPlace(chatKey: string): boolean;
  /** Every prompt that was ever put into the queue. */
  prompts(): readonly Envelope[];
  /** Messages of all people so far. */
  count(): number;
};

const commands = [
  "/stop",
  "/stop",
  "/new",
  "/skip",
  "/status",
  "/title Garden",
  "/title Garden",
  "/title",
  "/verbose",
  "/verbose",
  "/model",
  "/model claude-scripted",
  "/sessions",
  "/resume 2",
  "/resume 1",
  "/usage",
  "/help",
  "/approve",
  "/deny",
  "/nwe",
];

/** @param onYes a person allows what the chat asks @param isOwners mostly the owner writes */
export function createPeople(
  signal: MemorySignal,
  dice: Dice,
  onYes: (who: Person, chat: Chat) => void,
  isOwners = false,
): People {
  const person = (address: Address, name: string): Person => signal.person(address, name);
  const [ann, bob] = [person(people.ann, "Ann"), person(people.bob, "Bob")];
  const [carl, stranger] = [person(people.carl, "Carl"), person(people.stranger, `${secretWord}-name`)];
  const group: Chat = { kind: "group", id: listedGroup };
  const mention: WriteOptions = { group: listedGroup, isMention: true };
  const self: Place = { who: signal.owner, options: {}, chat: { kind: "self" } };
  const places: readonly Place[] = [
    ...Array.from({ length: isOwners ? 20 : 2 }, () => self),
    { who: ann, options: {}, chat: { kind: "direct", peer: people.ann } },
    { who: bob, options: {}, chat: { kind: "direct", peer: people.bob } },
    { who: carl, options: mention, chat: group },
    { who: ann, options: mention, chat: group },
  ];
  const said: Said[] = [];
  const delivered: Envelope[] = [];
  const marks = new Map<string, string[]>();
  let asks = 0;
  let secrets = 0;
  let titles = 0;
  const keep = (place: Place, envelope: Envelope): void => {
    said.push({ place, envelope });
    delivered.push(envelope);
  };
  const mark = (name: string, { chat }: Place): string => {
    marks.set(name, [...(marks.get(name) ?? []), chatKey(chat)]);
    return name;
  };
  const fresh = (place: Place): string => mark(`ask-${++asks}`, place);
  const ask = (place = dice.pick(places)): string => {
    // Now and then the very same words again: only their order tells them apart.
    const name = asks > 0 && dice.chance(0.1) ? mark(`ask-${asks}`, place) : fresh(place);
    const files = dice.chance(0.05) ? [{ fileName: "note.txt", contentType: "text/plain", base64: "aGVsbG8=" }] : [];
    keep(place, place.who.write(name, { ...place.options, files }));
    return `${name} in ${chatKey(place.chat)}`;
  };
  const edit = ({ place, envelope }: Said): string => {
    const name = fresh(place);
    keep(place, place.who.edit(envelope.sentAt, name, place.options));
    return `edit to ${name}`;
  };
  const command = (): string => {
    const [place, name] = [dice.pick(places), dice.pick(commands)];
    // Each title another one, so that a lost change shows.
    const text = name.endsWith("Garden") ? `${name} ${++titles}` : name;
    if (text === "/approve") onYes(place.who, place.chat);
    place.who.write(text, place.options);
    const what = `${text} in ${chatKey(place.chat)}`;
    // In one breath: what is written after a command is meant for what the command leaves behind.
    return dice.chance(0.3) ? `${what}, ${ask(place)}` : what;
  };
  const answerIn = (place: Place, isAllowed: boolean): void => {
    if (isAllowed) onYes(place.who, place.chat);
    const last = signal.screen().findLast((seen) => chatKey(seen.chat) === chatKey(place.chat));
    if (last && dice.chance(0.3)) {
      const target = { author: signal.account, sentAt: last.timestamp };
      place.who.react(target, isAllowed ? "👍" : "👎", { ...place.options });
    } else place.who.write(mark(isAllowed ? "yes" : "no", place), place.options);
  };
  const secret = (): string => `${secretWord}-${++secrets}`;
  return {
    ask: () => ask(),
    act() {
      const last = said.slice(-4);
      const roll = dice.random();
      if (roll < 0.08 && last.length > 0) return edit(dice.pick(last));
      if (roll < 0.13 && last.length > 0) {
        const { place, envelope } = dice.pick(last);
        place.who.delete(envelope.sentAt, place.options);
        return "delete";
      }
      if (roll < 0.28) return command();
      if (roll < 0.36) {
        answerIn(dice.pick(places), dice.chance(0.7));
        return "yes or no";
      }
      const place = dice.pick(places);
      const burst = dice.chance(0.15) ? 1 + dice.below(4) : 1;
      return Array.from({ length: burst }, () => ask(place)).join(", ");
    },
    intrude() {
      const target = said.at(-1)?.envelope.sentAt ?? 1;
      const kinds: readonly (() => unknown)[] = [
        () => stranger.write(secret()),
        () => stranger.write("/status"),
        () => stranger.write(secret(), { group: unlistedGroup, isMention: true }),
        () => ann.write(secret(), { group: unlistedGroup, isMention: true }),
        () => ann.write(secret(), { group: listedGroup }),
        () => carl.write(secret(), { group: listedGroup }),
        () => carl.write(secret()),
        () => signal.owner.write(secret(), { group: unlistedGroup }),
        () => stranger.edit(target, secret()),
        () => stranger.delete(target),
        () => stranger.react({ author: signal.account, sentAt: target }, "👍"),
        () => stranger.write("yes"),
      ];
      const index = dice.below(kinds.length);
      kinds[index]?.();
      return `kind ${index}`;
    },
    repeat() {
      const again = delivered.slice(-8);
      if (again.length > 0) signal.deliver(dice.pick(again));
    },
    oddity() {
      const chat: Chat = { kind: "direct", peer: people.ann };
      const blank = { source: people.ann, sourceDevice: 1, serverAt: null, chat, isOwn: false, sourceName: null };
      const contents: readonly Envelope["content"][] = [
        { kind: "unknown", what: "something new" },
        { kind: "undecryptable", code: "broken", isIdentityChange: dice.chance(0.3) },
        { kind: "empty", what: "receiptMessage" },
        { kind: "empty", what: "typingMessage" },
        { kind: "empty", what: "profile key" },
        { kind: "empty", what: "timer" },
        { kind: "text", text: "", quote: null, mentions: [], attachments: [], expiresInSeconds: 0, isViewOnce: false },
      ];
      const content = dice.pick(contents);
      const isNobody = content.kind === "undecryptable" && dice.chance(0.5);
      const whose = isNobody ? { ...blank, source: null, chat: null } : blank;
      signal.deliver({ ...whose, sentAt: 1_000 + delivered.length, content });
    },
    late() {
      const last = said.findLast(({ envelope }) => envelope.content.kind === "text");
      if (last?.envelope.content.kind !== "text") return "no message to repeat";
      const { place, envelope } = last;
      const name = fresh(place);
      const text = place.options.isMention ? `\u{FFFC} ${name}` : name;
      const content = { ...last.envelope.content, text, attachments: [] };
      const again = { ...envelope, sourceDevice: 2 + asks, content };
      keep(place, again);
      signal.deliver(again);
      return `${name} in ${chatKey(place.chat)}`;
    },
    chatsOf: (name) => marks.get(name) ?? [],
    isPlace: (key) => places.some(({ chat }) => chatKey(chat) === key),
    prompts: () => delivered,
    count: () => delivered.length,
  };
}
