/** Accounts and names, as people's own messages say them: the account of an allowed number, and names for those whom a message mentions. */
import { oneLine, type NameOf } from "../core/text.ts";
import type { Address, Envelope } from "../core/model.ts";
import type { Settings } from "./remembered.ts";

const keysOf = ({ aci, number }: Address) =>
  [aci, number].flatMap((id) => (id === null ? [] : [`name:${id}` as const]));

/** Notes the name of a group and of its member who wrote: elsewhere a person cannot be mentioned. Part of the caller's transaction. */
export function noteName(settings: Settings, { chat, source, sourceName, groupName = null }: Envelope): void {
  if (chat?.kind !== "group") return;
  const [name, title] = [oneLine(sourceName), oneLine(groupName)];
  const note = (key: `name:${string}`, said: string): unknown => settings.get(key) !== said && settings.set(key, said);
  if (title !== null) note(`name:group:${chat.id}`, title);
  if (name !== null && source !== null) for (const key of keysOf(source)) note(key, name);
}

/** The last known name of a group; null where none is known. */
export const groupNameIn = (settings: Settings, id: string): string | null => settings.get(`name:group:${id}`);

export const namesIn =
  (settings: Settings): NameOf =>
  (who) =>
    keysOf(who)
      .map((key) => settings.get(key))
      .find((name) => name !== null) ?? null;

/** The account that a number of the allow list had first, which is the one that was let in: numbers are reassigned. */
export const accountsIn =
  (settings: Settings) =>
  (number: string): string | null =>
    settings.get(`account:${number}`);

/** Notes the account of a number that wrote. Part of the caller's transaction. */
export function noteAccount(settings: Settings, { chat, source }: Envelope): void {
  if (chat?.kind !== "direct" || !source?.aci || !source.number) return;
  if (accountsIn(settings)(source.number) !== source.aci) settings.set(`account:${source.number}`, source.aci);
}
