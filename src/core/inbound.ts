/**
 * Decides what to do with an envelope, and why. Default deny: every envelope of a sender who is not on the allow list is dropped, and
 * nothing of it is kept. Normal traffic without anything to answer is ignored. Any other envelope is a prompt, a command, an answer to a
 * question of Claude's, or takes an earlier prompt back.
 */
import { parseCommand } from "./commands.ts";
import { consentOf, consentOfReaction, numbersOf, type Consent } from "./consent.ts";
import type { Account, Address, Envelope, Millis, TextContent } from "./model.ts";
import { chatKey, isSameAddress, textOf } from "./model.ts";
import { spokenText } from "./text.ts";

export type AllowRule =
  | { readonly kind: "self" }
  | { readonly kind: "number"; readonly number: string }
  | { readonly kind: "aci"; readonly aci: string }
  | { readonly kind: "group"; readonly id: string };

export type Verdict =
  /** An envelope that is not addressed to us, or not allowed: acknowledged, counted and forgotten. */
  | { readonly kind: "drop"; readonly reason: DropReason }
  /** Allowed, but nothing to do. */
  | { readonly kind: "ignore"; readonly reason: string }
  /** `replaces`, here and below: the message that this one is an edit of, and that is no prompt any more. */
  | { readonly kind: "prompt"; readonly replaces: Millis | null }
  /** `name` as in `core/commands.ts`, or a word that is no command's name. */
  | { readonly kind: "command"; readonly name: string; readonly argument: string; readonly replaces: Millis | null }
  /** A yes or no, if a question is open that it answers; else words are a prompt, and a reaction says nothing. */
  | {
      readonly kind: "answer";
      readonly answer: Consent["answer"];
      /** The words after a no, which Claude is told. */
      readonly reason: string | null;
      /** Numbers of the question's tool uses that are meant; empty for all. */
      readonly numbers: readonly number[];
      /** The message that it points to, by reaction or quote. */
      readonly targetSentAt: Millis | null;
      readonly by: "text" | "reaction" | "command";
      /** False for a member of a group who may ask Claude, but not answer its questions. */
      readonly isEntitled: boolean;
      readonly replaces: Millis | null;
    }
  /** A message in which nothing can be read here: the answer is the sentence `text`. */
  | { readonly kind: "hint"; readonly text: string }
  | { readonly kind: "withdraw"; readonly targetSentAt: Millis };

export type DropReason =
  | "unknown sender"
  | "not on the allow list"
  | "number of another account"
  | "group not on the allow list"
  | "group talk without a mention"
  | "own message to others"
  | "unknown content"
  /** Content that is not known here, from a sender whom we answer and who waits for a word. */
  | "newer than this program"
  | "undecryptable";

export type InboundOptions = {
  readonly account: Account;
  readonly allow: readonly AllowRule[];
  /** Claude answers in groups only where it is mentioned or quoted, unless this is set. */
  readonly isGroupAlways: boolean;
  /** The account (ACI) that an allowed number had when it first wrote; null before it did. */
  readonly accountOf?: (number: string) => string | null;
  /** Whether the envelope comes from the owner, who decides which people may ask. */
  readonly isByOwner?: (envelope: Envelope) => boolean;
  /** Whether a message of ours went out under this timestamp: in a group the owner's own words have the same author as Claude's. */
  readonly isSaid?: (sentAt: Millis) => boolean;
};

/** Total: every envelope gets a verdict. */
export function classify(envelope: Envelope, options: InboundOptions): Verdict {
  const { content } = envelope;
  if (content.kind === "undecryptable") return drop("undecryptable");
  if (content.kind === "empty") return { kind: "ignore", reason: content.what };
  const asked = ofGroup(envelope, options);
  if (asked !== null) return { kind: "command", name: asked, argument: "", replaces: null };
  const denied = access(envelope, options);
  if (content.kind === "unknown")
    return drop(denied || !isForUs(envelope, content.body, options) ? "unknown content" : "newer than this program");
  if (denied) return drop(denied);
  switch (content.kind) {
    case "delete":
      return { kind: "withdraw", targetSentAt: content.targetSentAt };
    case "reaction": {
      const answer = consentOfReaction(content.emoji);
      const { targetAuthor, targetSentAt } = content;
      if (content.isRemove || answer === null || !isOurs(targetAuthor, options) || !mayApprove(envelope, options))
        return { kind: "ignore", reason: "reaction" };
      const consent = { answer, reason: null, numbers: [] };
      return { kind: "answer", ...consent, targetSentAt, by: "reaction", isEntitled: true, replaces: null };
    }
    case "text":
    case "edit": {
      const body = content.kind === "edit" ? content.body : content;
      const replaces = content.kind === "edit" ? content.targetSentAt : null;
      if (!isForUs(envelope, body, options))
        return withdrawn(replaces) ?? drop(envelope.isOwn ? "own message to others" : "group talk without a mention");
      return decideText(envelope, body, replaces, options);
    }
  }
}

/** The owner's `/allow` or `/disallow` in a group: it counts before the group is on the list, and without a mention. Null for any other. */
function ofGroup(envelope: Envelope, { isByOwner }: InboundOptions): string | null {
  const { chat, content } = envelope;
  if (chat?.kind !== "group" || content.kind !== "text" || isByOwner?.(envelope) !== true) return null;
  const command = parseCommand(content.text);
  return command?.argument === "" && /^(?:dis)?allow$/u.test(command.name) ? command.name : null;
}

/** An edit that leaves nothing to answer takes the earlier message back. */
const withdrawn = (replaces: Millis | null): Verdict | null =>
  replaces === null ? null : { kind: "withdraw", targetSentAt: replaces };

const plainYes = "A yes with conditions is none: /approve alone, or with numbers, as in /approve 1 3.";

const nothingToRead = "There was nothing in that message that I can read.";
const onlyCalled = "Yes? Write your question behind the mention, or mention me where you quote a message.";

function decideText(envelope: Envelope, body: TextContent, replaces: Millis | null, options: InboundOptions): Verdict {
  const text = spokenText(body, options.account);
  const hasMore = body.attachments.length > 0 || body.isViewOnce;
  if (text === "" && !hasMore && !isTold(body.quote?.text) && !isTold(body.quote?.described))
    return withdrawn(replaces) ?? { kind: "hint", text: body.mentions.length > 0 ? onlyCalled : nothingToRead };
  const command = parseCommand(text);
  const isAnswer = command?.name === "approve" || command?.name === "deny";
  if (command && !isAnswer) return { kind: "command", ...command, replaces };
  const isEntitled = mayApprove(envelope, options);
  const targetSentAt = body.quote?.sentAt ?? null;
  if (command) {
    const { numbers, rest } = numbersOf(command.argument);
    const said = { numbers, targetSentAt, by: "command", isEntitled, replaces } as const;
    if (command.name === "deny") return { kind: "answer", answer: "no", reason: rest === "" ? null : rest, ...said };
    const answer = consentOf(`yes ${rest}`)?.answer ?? "no";
    return answer === "no" ? { kind: "hint", text: plainYes } : { kind: "answer", answer, reason: null, ...said };
  }
  const isOther = hasMore || (body.quote !== null && !isOurs(body.quote.author, options));
  const consent = isOther ? null : consentOf(text);
  return consent === null
    ? { kind: "prompt", replaces }
    : { kind: "answer", ...consent, targetSentAt, by: "text", isEntitled, replaces };
}

const isTold = (words: string | null | undefined): boolean =>
  words !== null && words !== undefined && words.trim() !== "";

/** False where it is surely another account's message: timestamps of different authors may be equal, or made so. */
function isOurs(author: Address, { account }: InboundOptions): boolean {
  const isComparable =
    (author.aci !== null && account.aci !== null) || (author.number !== null && account.number !== null);
  return !isComparable || isSameAddress(author, account);
}

/** Why this envelope is not let in, or null. */
export function access(envelope: Envelope, options: InboundOptions): DropReason | null {
  const { chat, source } = envelope;
  if (source === null || chat === null) return "unknown sender";
  switch (chat.kind) {
    case "self":
      return options.allow.some((rule) => rule.kind === "self") ? null : "not on the allow list";
    case "direct":
      if (envelope.isOwn) return "own message to others";
      if (!isPerson(source, options.allow)) return "not on the allow list";
      return hasChangedHands(source, options) ? "number of another account" : null;
    case "group":
      if (!options.allow.some((rule) => rule.kind === "group" && rule.id === chat.id))
        return "group not on the allow list";
      return null;
  }
}

const drop = (reason: DropReason): Verdict => ({ kind: "drop", reason });

/** Whether a person is on the list, by number or ACI. Numbers are compared as they are written, in E.164. */
export function isPerson(who: Address, allow: readonly AllowRule[]): boolean {
  return allow.some(
    (rule) => (rule.kind === "aci" && who.aci === rule.aci) || (rule.kind === "number" && who.number === rule.number),
  );
}

type WhoIsWho = Pick<InboundOptions, "allow" | "accountOf">;

/**
 * Whether the owner of this machine wrote the envelope: the account itself; where Note to Self is not on the list, as the account is the
 * program's own, the first person of the list.
 */
export function isOwner({ chat, source, isOwn }: Envelope, options: WhoIsWho): boolean {
  const { allow } = options;
  if (allow.some(({ kind }) => kind === "self")) return isOwn || chat?.kind === "self";
  const first = allow.find(({ kind }) => kind === "aci" || kind === "number");
  return first !== undefined && source !== null && isPerson(source, [first]) && !hasChangedHands(source, options);
}

/** Whether the sender may say yes to a tool: in a group every member may ask, but only the owner and a person on the list may say yes. */
function mayApprove(envelope: Envelope, options: InboundOptions): boolean {
  if (envelope.chat?.kind !== "group" || envelope.isOwn) return true;
  const { source } = envelope;
  return source !== null && isPerson(source, options.allow) && !hasChangedHands(source, options);
}

/** Whether a listed number belongs to another account than that which was let in, as numbers are reassigned; false for a listed account. */
function hasChangedHands({ aci, number }: Address, { allow, accountOf }: WhoIsWho): boolean {
  if (aci === null || number === null || allow.some((rule) => rule.kind === "aci" && rule.aci === aci)) return false;
  const known = accountOf?.(number) ?? null;
  return known !== null && known !== aci;
}

/**
 * Whether a message is meant for Claude. A message in a group has to mention the account or quote it, unless `isGroupAlways`; the owner's
 * own message there has to mention the account, or quote Claude's words.
 */
function isForUs({ chat, isOwn }: Envelope, body: TextContent | undefined, options: InboundOptions): boolean {
  if (chat?.kind !== "group" || (options.isGroupAlways && !isOwn)) return true;
  if (body?.mentions.some((mention) => isSameAddress(mention.who, options.account))) return true;
  if (!body?.quote || !isSameAddress(body.quote.author, options.account)) return false;
  return !isOwn || options.isSaid?.(body.quote.sentAt) === true;
}

/** An edited message keeps its files: the edit of a caption does not bring them again. */
export function withFilesOf(edit: Envelope, before: Envelope): Envelope {
  const { content } = edit;
  const old = textOf(before);
  if (content.kind !== "edit" || old === null || content.body.attachments.length > 0) return edit;
  const attachments = old.attachments.filter(({ isLongText }) => !isLongText);
  return {
    ...edit,
    content: { ...content, body: { ...content.body, attachments, quote: content.body.quote ?? old.quote } },
  };
}

/** The identity of a message, never its text: account | sender | device | sent timestamp | kind | chat. */
export function inboxKey(envelope: Envelope, account: Account): string {
  const self = account.number ?? account.aci ?? "?";
  const sender = envelope.source?.aci ?? envelope.source?.number ?? "?";
  const chat = envelope.chat ? chatKey(envelope.chat) : "none";
  return [self, sender, envelope.sourceDevice ?? 0, envelope.sentAt, envelope.content.kind, chat].join("|");
}
