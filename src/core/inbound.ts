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

export type Decision =
  /** Not addressed to us, or not allowed: acknowledged, counted and forgotten. */
  | { readonly kind: "drop"; readonly reason: DropReason }
  /** Allowed, but nothing to do. */
  | { readonly kind: "ignore"; readonly reason: string }
  | { readonly kind: "prompt"; readonly replaces: Millis | null }
  | { readonly kind: "command"; readonly name: string; readonly argument: string }
  /** A yes or no to the question with this identity on Signal; null where it points to none of several, or nothing is asked. */
  | { readonly kind: "approval"; readonly isAllowed: boolean; readonly targetSentAt: Millis | null }
  | { readonly kind: "withdraw"; readonly targetSentAt: Millis };

export type DropReason =
  | "unknown sender"
  | "not on the allow list"
  | "group not on the allow list"
  | "group talk without a mention"
  | "own message to others"
  | "unknown content"
  | "undecryptable";

/** A question of Claude's that waits for a yes or no. */
export type OpenQuestion = {
  /** Its identity on Signal, which reactions and quotes name; null where it is not known yet. */
  readonly sentAt: Millis | null;
  /** When the phones were first sent it; null where they do not have it for sure. */
  readonly shownAt: Millis | null;
};

export type InboundOptions = {
  readonly account: Account;
  readonly allow: readonly AllowRule[];
  /** Claude's questions that are open in this chat. */
  readonly questions: readonly OpenQuestion[];
  /** Groups answer only when mentioned or quoted, unless this is set. */
  readonly isGroupAlways: boolean;
};

const yes = new Set(["yes", "y", "ok", "allow", "approve", "👍", "✅"]);
const no = new Set(["no", "n", "deny", "stop", "👎", "❌"]);

/** Decides on one envelope. Total: every envelope gets a decision. */
export function decide(envelope: Envelope, options: InboundOptions): Decision {
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
      const isAllowed = toAnswer(content.emoji);
      const isQuestion = isOurs(content.targetAuthor, options) && pointsToQuestion(content.targetSentAt, options);
      if (content.isRemove || isAllowed === null || !isQuestion || !mayApprove(envelope, options))
        return { kind: "ignore", reason: "reaction" };
      return { kind: "approval", isAllowed, targetSentAt: content.targetSentAt };
    }
    case "text":
    case "edit": {
      const body = content.kind === "edit" ? content.body : content;
      if (envelope.chat?.kind === "group" && !isAddressed(body, options)) return drop("group talk without a mention");
      return decideText(envelope, body, content.kind === "edit" ? content.targetSentAt : null, options);
    }
  }
}

function decideText(envelope: Envelope, body: TextContent, replaces: Millis | null, options: InboundOptions): Decision {
  const text = spokenText(body, options.account);
  if (text === "" && body.attachments.length === 0 && !body.isViewOnce) return { kind: "ignore", reason: "no text" };
  const command = /^\/([a-z]+)(?:\s+([\s\S]*))?$/iu.exec(text);
  if (command) {
    const name = (command[1] ?? "").toLowerCase();
    if (name !== "approve" && name !== "deny") return { kind: "command", name, argument: (command[2] ?? "").trim() };
    if (!mayApprove(envelope, options))
      return { kind: "ignore", reason: "approval by somebody who is not on the list by name" };
    const [target = null, ...others] = answerable(envelope, body, options);
    return { kind: "approval", isAllowed: name === "approve", targetSentAt: others.length > 0 ? null : target };
  }
  const isAllowed = body.attachments.length === 0 && mayApprove(envelope, options) ? toAnswer(text) : null;
  const [target, ...others] = isAllowed === null ? [] : answerable(envelope, body, options);
  if (isAllowed === null || target === undefined) return { kind: "prompt", replaces };
  return { kind: "approval", isAllowed, targetSentAt: others.length > 0 ? null : target };
}

/**
 * The open questions that a yes or no can mean: the one it quotes; else those that the phones had before it was written. Both
 * the sender's clock and the server's have to say so.
 */
function answerable({ sentAt, serverAt }: Envelope, { quote }: TextContent, options: InboundOptions): Millis[] {
  if (quote !== null)
    return isOurs(quote.author, options) && pointsToQuestion(quote.sentAt, options) ? [quote.sentAt] : [];
  const writtenAt = Math.min(sentAt, serverAt ?? sentAt);
  return options.questions.flatMap((question) =>
    question.sentAt !== null && question.shownAt !== null && question.shownAt <= writtenAt ? [question.sentAt] : [],
  );
}

const pointsToQuestion = (targetSentAt: Millis, { questions }: InboundOptions): boolean =>
  questions.some(({ sentAt }) => sentAt === targetSentAt);

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

const drop = (reason: DropReason): Decision => ({ kind: "drop", reason });

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
