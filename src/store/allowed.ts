/** People and groups that were allowed in the chat: rows of `settings`, beside the list of the settings' file. */
import type { Guests } from "../core/guests.ts";
import { isOwner, type AllowRule } from "../core/inbound.ts";
import type { Envelope } from "../core/model.ts";
import { accountsIn, groupNameIn, namesIn } from "./names.ts";
import type { Settings } from "./remembered.ts";

/** A rule as the settings write it. */
export const wordOf = (rule: AllowRule): string => {
  if (rule.kind === "group") return `group:${rule.id}`;
  return rule.kind === "number" ? rule.number : rule.kind === "aci" ? rule.aci : "self";
};

function ruleOf(word: string): AllowRule {
  if (word.startsWith("group:")) return { kind: "group", id: word.slice("group:".length) };
  return word.startsWith("+") ? { kind: "number", number: word } : { kind: "aci", aci: word };
}

const allowedIn = (settings: Settings): AllowRule[] => settings.idsOf("allow").map(ruleOf);

/** The rules for all who may ask: those of the settings' file, then those that were set in the chat. */
export const allAllowed = (configured: readonly AllowRule[], settings: Settings): AllowRule[] => [
  ...configured,
  ...allowedIn(settings),
];

/** Whether the owner of this machine wrote the envelope; a person who was allowed in the chat is never the owner. */
export const isFromOwner = (envelope: Envelope, configured: readonly AllowRule[], settings: Settings): boolean =>
  isOwner(envelope, { allow: configured, accountOf: accountsIn(settings) });

export function setAllowed(settings: Settings, rule: AllowRule, isAllowed: boolean): void {
  if (isAllowed) settings.set(`allow:${wordOf(rule)}`, "1");
  else settings.remove(`allow:${wordOf(rule)}`);
}

/** @param read a number or an account id, as people write it */
export function createGuests(
  settings: Settings,
  configured: readonly AllowRule[],
  read: (word: string) => AllowRule | null,
): Guests {
  const nameOf = (rule: AllowRule): string | null => {
    if (rule.kind === "group") return groupNameIn(settings, rule.id);
    return rule.kind === "self" ? null : namesIn(settings)({ aci: null, number: null, ...rule });
  };
  return {
    isOwnAccount: configured.some(({ kind }) => kind === "self"),
    find(words) {
      const plain = read(words);
      if (plain !== null || words === "") return plain;
      // A person is known by account id and by number: the account id is taken, since it stays.
      const named = settings
        .idsOf("name")
        .filter((id) => settings.get(`name:${id}`)?.toLowerCase() === words.toLowerCase());
      const ids = named.some((id) => !id.startsWith("+")) ? named.filter((id) => !id.startsWith("+")) : named;
      return ids.length === 1 && ids[0] !== undefined ? ruleOf(ids[0]) : null;
    },
    list: () =>
      [configured, allowedIn(settings)].flatMap((rules, index) =>
        rules.map((rule) => ({ rule, name: nameOf(rule), isAdded: index === 1 })),
      ),
  };
}
