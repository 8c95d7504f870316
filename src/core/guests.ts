/**
 * People and groups that the owner lets ask, beside those of the settings: the owner says so in the chat (`/allow`, `/disallow`,
 * `/people`, `/groups`), and the settings stay as they are.
 */
import type { AllowRule } from "./inbound.ts";
import type { Chat } from "./model.ts";

export type Guest = { readonly rule: AllowRule; readonly name: string | null; readonly isAdded: boolean };

export type Guests = {
  /** Claude answers with the owner's own account. */
  readonly isOwnAccount: boolean;
  /** The rule that a number, an account id or a name means; null where it is not known, or means several. */
  readonly find: (words: string) => AllowRule | null;
  readonly list: () => readonly Guest[];
};

type Allow = { readonly do: "allow"; readonly rule: AllowRule; readonly isAllowed: boolean };
/** `isRefused`: the command could not be carried out. */
type Done = { readonly text: string; readonly changes: readonly Allow[]; readonly isRefused?: true };

const done = (text: string, ...changes: readonly Allow[]): Done => ({ text, changes });
const refused = (text: string): Done => ({ ...done(text), isRefused: true });
const isSame = (a: AllowRule, b: AllowRule): boolean => JSON.stringify(a) === JSON.stringify(b);

/** @param argument the person or group; in a group, an empty one means that group */
export function changeGuests(guests: Guests, chat: Chat, argument: string, isAllowed: boolean): Done {
  const isHere = argument === "" && chat.kind === "group";
  // A person is listed by a number or an account id, and called by a name.
  const isCalled = (name: string | null): boolean => name !== null && name.toLowerCase() === argument.toLowerCase();
  const called = guests.list().filter(({ name }) => isCalled(name));
  const rule = isHere
    ? ({ kind: "group", id: chat.id } as const)
    : called.length === 1 && called[0] !== undefined
      ? called[0].rule
      : guests.find(argument);
  const verb = isAllowed ? "allow" : "disallow";
  if (rule === null || rule.kind === "self")
    return refused(
      `${argument === "" ? "Who?" : `No one is known here as ${argument.slice(0, 60)}.`} /${verb} takes a number with its country code, or a name from /people or /groups; in a group, /${verb} alone means the group.`,
    );
  const known = guests.list().find((guest) => isSame(guest.rule, rule));
  const who = isHere ? "This group" : (known?.name ?? argument);
  if (isAllowed && known) return done(`${who} may already ask.`);
  if (!isAllowed && !known) return refused(`${who} is not on the list.`);
  if (!isAllowed && known?.isAdded === false)
    return refused(`${who} is in the settings (SIGNALMAN_ALLOW), which the chat does not change.`);
  if (!isAllowed) return done(`${who} may no longer ask.`, { do: "allow", rule, isAllowed });
  const how = rule.kind === "group" ? "'s members may ask here, by mentioning this account." : " may ask from now on.";
  const asYou = guests.isOwnAccount && rule.kind !== "group" ? " Claude answers them in your name." : "";
  return done(`${who}${how}${asYou} /disallow takes it back.`, { do: "allow", rule, isAllowed });
}

export function listGuests(guests: Guests, isGroups: boolean): string {
  const lines = guests.list().flatMap(({ rule, name, isAdded }) => {
    if ((rule.kind === "group") !== isGroups) return [];
    const id =
      rule.kind === "number" ? rule.number : rule.kind === "aci" ? rule.aci : rule.kind === "group" ? rule.id : "";
    const who = rule.kind === "self" ? "You, in Note to Self" : [name, id].filter((word) => word !== null).join(" · ");
    return [`${who}${isAdded ? "" : " (settings)"}`];
  });
  const how = isGroups ? "/allow in a group lets its members ask there." : "/allow NUMBER lets a person ask.";
  return [...(lines.length > 0 ? lines : ["None."]), how].join("\n");
}
