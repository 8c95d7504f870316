/**
 * What to do with an envelope, and why. Default deny: whoever is not on the allow list is dropped, whatever they sent, and
 * nothing of it is kept. What is normal traffic without anything to answer is ignored. The rest is a prompt, a command, an
 * answer to a question of Claude's, or takes an earlier prompt back.
 */
import type { Account, Address, Envelope, Millis, TextContent } from "./model.ts";
import { isSameAddress } from "./model.ts";

export type AllowRule =
  | { readonly kind: "self" }
  | { readonly kind: "number"; readonly number: string }
  | { readonly kind: "aci"; readonly aci: string }
  | { readonly kind: "group"; readonly id: string };

export type Verdict =
  /** Not addressed to us, or not allowed: acknowledged, counted and forgotten. */
  | { readonly kind: "drop"; readonly reason: DropReason }
  /** Allowed, but nothing to do. */
  | { readonly kind: "ignore"; readonly reason: string }
  | { readonly kind: "prompt"; readonly replaces: Millis | null }
  | { readonly kind: "command"; readonly name: string; readonly argument: string }
  /** A yes or no, if a question is open that it answers; else words are a prompt, and a reaction says nothing. */
  | {
      readonly kind: "answer";
      readonly isAllowed: boolean;
      /** What else was said, for Claude to hear. */
      readonly reason: string | null;
      /** The message that it points to, by reaction or quote. */
      readonly targetSentAt: Millis | null;
      readonly by: "text" | "reaction" | "command";
    }
  | { readonly kind: "withdraw"; readonly targetSentAt: Millis };

export type DropReason =
  | "unknown sender"
  | "not on the allow list"
  | "group not on the allow list"
  | "group talk without a mention"
  | "own message to others"
  | "unknown content"
  | "undecryptable";

export type InboundOptions = {
  readonly account: Account;
  readonly allow: readonly AllowRule[];
  /** Groups answer only when mentioned or quoted, unless this is set. */
  readonly isGroupAlways: boolean;
};

const yes = new Set(["yes", "y", "ok", "allow", "approve", "👍", "✅"]);
const no = new Set(["no", "n", "deny", "stop", "👎", "❌"]);

/** Total: every envelope gets a verdict. */
export function classify(envelope: Envelope, options: InboundOptions): Verdict {
  const { content } = envelope;
  if (content.kind === "unknown") return drop("unknown content");
  if (content.kind === "undecryptable") return drop("undecryptable");
  if (content.kind === "receipt" || content.kind === "typing" || content.kind === "timer" || content.kind === "empty")
    return { kind: "ignore", reason: content.kind === "empty" ? content.what : content.kind };
  const denied = access(envelope, options);
  if (denied) return drop(denied);
  switch (content.kind) {
    case "delete":
      return { kind: "withdraw", targetSentAt: content.targetSentAt };
    case "reaction": {
      const answer = toAnswer(content.emoji);
      const { targetAuthor, targetSentAt } = content;
      if (content.isRemove || answer === null || !isOurs(targetAuthor, options) || !mayApprove(envelope, options))
        return { kind: "ignore", reason: "reaction" };
      return { kind: "answer", isAllowed: answer, reason: null, targetSentAt, by: "reaction" };
    }
    case "text":
    case "edit": {
      const body = content.kind === "edit" ? content.body : content;
      if (envelope.chat?.kind === "group" && !isAddressed(body, options)) return drop("group talk without a mention");
      return decideText(envelope, body, content.kind === "edit" ? content.targetSentAt : null, options);
    }
  }
}

function decideText(envelope: Envelope, body: TextContent, replaces: Millis | null, options: InboundOptions): Verdict {
  const text = spokenText(body, options.account);
  if (text === "" && body.attachments.length === 0 && !body.isViewOnce) return { kind: "ignore", reason: "no text" };
  const command = /^\/([a-z]+)(?:\s+([\s\S]*))?$/iu.exec(text);
  if (command) {
    const name = (command[1] ?? "").toLowerCase();
    if (name !== "approve" && name !== "deny") return { kind: "command", name, argument: (command[2] ?? "").trim() };
    if (!mayApprove(envelope, options))
      return { kind: "ignore", reason: "approval by a person who is not on the list by name" };
    return { kind: "answer", isAllowed: name === "approve", reason: null, targetSentAt: quotedBy(body), by: "command" };
  }
  const isOther = body.quote !== null && !isOurs(body.quote.author, options);
  const isAllowed = body.attachments.length === 0 && !isOther && mayApprove(envelope, options) ? toAnswer(text) : null;
  if (isAllowed === null) return { kind: "prompt", replaces };
  return { kind: "answer", isAllowed, reason: null, targetSentAt: quotedBy(body), by: "text" };
}

const quotedBy = ({ quote }: TextContent): Millis | null => quote?.sentAt ?? null;

/** False where it is surely another account's message: timestamps of different authors may be equal, or made so. */
function isOurs(author: Address, { account }: InboundOptions): boolean {
  const isComparable =
    (author.aci !== null && account.aci !== null) || (author.number !== null && account.number !== null);
  return !isComparable || isSameAddress(author, account);
}

/** Why this envelope is not let in, or null. */
function access(envelope: Envelope, options: InboundOptions): DropReason | null {
  const { chat, source } = envelope;
  if (source === null || chat === null) return "unknown sender";
  switch (chat.kind) {
    case "self":
      return options.allow.some((rule) => rule.kind === "self") ? null : "not on the allow list";
    case "direct":
      if (envelope.isOwn) return "own message to others";
      return isPerson(source, options.allow) ? null : "not on the allow list";
    case "group":
      if (!options.allow.some((rule) => rule.kind === "group" && rule.id === chat.id))
        return "group not on the allow list";
      return envelope.isOwn ? "own message to others" : null;
  }
}

const drop = (reason: DropReason): Verdict => ({ kind: "drop", reason });

/** On the list by number or ACI. Numbers are compared as they are written, in E.164. */
export function isPerson(who: Address, allow: readonly AllowRule[]): boolean {
  return allow.some(
    (rule) => (rule.kind === "aci" && who.aci === rule.aci) || (rule.kind === "number" && who.number === rule.number),
  );
}

/** In a group its members may ask, but only a person who is on the list by name, or the owner, may say yes to a tool. */
function mayApprove(envelope: Envelope, options: InboundOptions): boolean {
  if (envelope.chat?.kind !== "group") return true;
  return envelope.source !== null && isPerson(envelope.source, options.allow);
}

function isAddressed(body: TextContent, options: InboundOptions): boolean {
  if (options.isGroupAlways) return true;
  if (body.mentions.some((mention) => isSameAddress(mention.who, options.account))) return true;
  return body.quote !== null && isSameAddress(body.quote.author, options.account);
}

function toAnswer(text: string): boolean | null {
  const word = text.trim().toLowerCase().replace(/[.!]$/u, "");
  if (yes.has(word)) return true;
  return no.has(word) ? false : null;
}

/** The text as it was meant for us: without the mention of our own account, and with a word where others are mentioned. */
export function spokenText(body: TextContent, account: Account): string {
  let text = body.text;
  for (const { start, length, who } of [...body.mentions].sort((a, b) => b.start - a.start))
    text = text.slice(0, start) + (isSameAddress(who, account) ? "" : "@someone") + text.slice(start + length);
  return text.trim();
}

/** The identity of a message, never its text: account | sender | device | sent timestamp | kind. */
export function inboxKey(envelope: Envelope, account: Account): string {
  const self = account.number ?? account.aci ?? "?";
  const sender = envelope.source?.aci ?? envelope.source?.number ?? "?";
  return [self, sender, envelope.sourceDevice ?? 0, envelope.sentAt, envelope.content.kind].join("|");
}
