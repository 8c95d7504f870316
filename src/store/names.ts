/** Who is who, as people's own messages say it: the account that an allowed number has, and what members of groups call themselves, as their last message said it: for the words of those who mention them. */
import { oneLine, type NameOf } from "../core/text.ts";
import type { Address, Envelope } from "../core/model.ts";
import type { Settings } from "./remembered.ts";

const keysOf = ({ aci, number }: Address) =>
  [aci, number].flatMap((id) => (id === null ? [] : [`name:${id}` as const]));

/** Of groups, and of people only where they can be mentioned. Part of the caller's transaction. */
export function noteName(settings: Settings, { chat, source, sourceName, groupName = null }: Envelope): void {
  if (chat?.kind !== "group") return;
  const [name, title] = [oneLine(sourceName), oneLine(groupName)];
  const note = (key: `name:${string}`, said: string): unknown => settings.get(key) !== said && settings.set(key, said);
  if (title !== null) note(`name:group:${chat.id}`, title);
  if (name !== null && source !== null) for (const key of keysOf(source)) note(key, name);
}

/** What a group was last called; null where that is not known. */
export const groupNameIn = (settings: Settings, id: string): string | null => settings.get(`name:group:${id}`);

export const namesIn =
  (settings: Settings): NameOf =>
  (who) =>
    keysOf(who)
      .map((key) => settings.get(key))
      .find((name) => name !== null) ?? null;

/** Numbers are given to others: the account that a number of the allow list had first is the one that was let in. */
export const accountsIn =
  (settings: Settings) =>
  (number: string): string | null =>
    settings.get(`account:${number}`);

/** Part of the caller's transaction. */
export function noteAccount(settings: Settings, { chat, source }: Envelope): void {
  if (chat?.kind !== "direct" || !source?.aci || !source.number) return;
  if (accountsIn(settings)(source.number) !== source.aci) settings.set(`account:${source.number}`, source.aci);
}
