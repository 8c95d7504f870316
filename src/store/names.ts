/** Who is who, as people's own messages say it: the account that an allowed number has, and what members of groups call themselves, as their last message said it: for the words of those who mention them. */
import { oneLine, type NameOf } from "../core/inbound.ts";
import type { Address, Envelope } from "../core/model.ts";
import type { Settings } from "./remembered.ts";

const keysOf = ({ aci, number }: Address) =>
  [aci, number].flatMap((id) => (id === null ? [] : [`name:${id}` as const]));

/** Only where a person can be mentioned. Part of the caller's transaction. */
export function noteName(settings: Settings, { chat, source, sourceName }: Envelope): void {
  const name = oneLine(sourceName);
  if (chat?.kind !== "group" || source === null || name === null) return;
  for (const key of keysOf(source)) if (settings.get(key) !== name) settings.set(key, name);
}

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
