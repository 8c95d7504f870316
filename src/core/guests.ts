/** Who may write to Claude besides those of the settings: the owner says so in the chat, and the settings stay as they are. */
import { isPerson, type AllowRule } from "./inbound.ts";
import type { Envelope } from "./model.ts";

export type Guest = { readonly rule: AllowRule; readonly name: string | null; readonly isAdded: boolean };

export type Guests = {
  readonly isOwner: (envelope: Envelope) => boolean;
  /** Claude answers with the owner's own account. */
  readonly isOwnAccount: boolean;
  /** Whom a number, an account id or a name means; null where that is not known, or several are. */
  readonly find: (words: string) => AllowRule | null;
  readonly list: () => readonly Guest[];
};

/** Whose account it is; else the first person of the settings. */
export function isOwner(envelope: Envelope, allow: readonly AllowRule[]): boolean {
  if (allow.some(({ kind }) => kind === "self")) return envelope.isOwn;
  const first = allow.find(({ kind }) => kind === "number" || kind === "aci");
  return first !== undefined && envelope.source !== null && isPerson(envelope.source, [first]);
}
