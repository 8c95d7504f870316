/**
 * The words of the program as types. Pure data: everything here survives `JSON.stringify` and back.
 *
 *   Envelope ── what Signal delivered          Outbound ── what we hand to a transport
 *   SessionEvent ── one entry of a session's event log at Claude (its text is the conversation itself)
 */

/** Unix time or a duration, in milliseconds. */
export type Millis = number;

/** A person on Signal. The ACI (lower-case UUID) is the stable key; the number (E.164) is an alias and may be unknown. */
export type Address = { readonly aci: string | null; readonly number: string | null };

/**
 * The chat that a conversation happens in. `self` is Note to Self of our own account. Group ids are opaque, case-exact, standard base64.
 */
export type Chat =
  | { readonly kind: "self" }
  | { readonly kind: "direct"; readonly peer: Address }
  | { readonly kind: "group"; readonly id: string };

/** Our own account as the transport knows it after `connect`. */
export type Account = Address & { readonly deviceId: number | null };

/** A file as the sender announced it; `ref` is opaque and only its own transport can fetch by it. */
export type Attachment = {
  readonly ref: string;
  readonly contentType: string;
  readonly fileName: string | null;
  /** Plaintext bytes as announced, null when unknown. */
  readonly sizeBytes: number | null;
  readonly isVoiceNote: boolean;
  /** The full text of a long message travels as a file (`text/x-signal-plain`); the body holds only its beginning. */
  readonly isLongText: boolean;
};

/** Offsets and lengths count UTF-16 code units, as JavaScript's string indices do. */
export type StyleRange = {
  readonly start: number;
  readonly length: number;
  readonly style: "BOLD" | "ITALIC" | "STRIKETHROUGH" | "MONOSPACE" | "SPOILER";
};

export type StyledText = {
  readonly text: string;
  /** Sorted by `start`, inside the text, never empty. Ranges of different styles may overlap. */
  readonly styles: readonly StyleRange[];
};

export type Mention = { readonly start: number; readonly length: number; readonly who: Address };

/** The message that a reply quotes: its identity is (author, sentAt). */
export type Quote = {
  readonly sentAt: Millis;
  readonly author: Address;
  readonly text: string | null;
  /** Mentions in `text`; absent where the transport does not tell them. */
  readonly mentions?: readonly Mention[] | null;
  /** The file or the like that is quoted besides text, in words: "a photo". */
  readonly described?: string | null;
};

export type TextContent = {
  readonly kind: "text";
  readonly text: string;
  readonly quote: Quote | null;
  readonly mentions: readonly Mention[];
  readonly attachments: readonly Attachment[];
  /** Disappearing-messages timer of the chat in seconds, 0 = off. */
  readonly expiresInSeconds: number;
  readonly isViewOnce: boolean;
};

export type Reaction = {
  readonly kind: "reaction";
  readonly emoji: string;
  readonly targetAuthor: Address;
  readonly targetSentAt: Millis;
  readonly isRemove: boolean;
};

export type Content =
  | TextContent
  /** `targetSentAt` names the version being replaced; the new version's identity is the envelope's `sentAt`. */
  | { readonly kind: "edit"; readonly targetSentAt: Millis; readonly body: TextContent }
  | Reaction
  | { readonly kind: "delete"; readonly targetSentAt: Millis }
  /** Could not be decrypted; `code` is the transport's word for it. The message may come again, or be lost. */
  | { readonly kind: "undecryptable"; readonly code: string; readonly isIdentityChange: boolean }
  /** Normal traffic without anything to answer (receipts, typing, timers, group updates, profile keys, calls, stories, …). */
  | { readonly kind: "empty"; readonly what: string }
  /** Content of a kind that is not known here: counted, never thrown. `body`: its readable part, which shows for whom it is. */
  | { readonly kind: "unknown"; readonly what: string; readonly body?: TextContent };

/** An item as Signal delivered it. */
export type Envelope = {
  /** Null when the sender could not be determined. */
  readonly source: Address | null;
  /** 1 is the primary (the phone); null when unknown. */
  readonly sourceDevice: number | null;
  /** Sender's clock; with the source and its device the identity of the message. */
  readonly sentAt: Millis;
  readonly serverAt: Millis | null;
  /** Null when the content belongs to no chat. */
  readonly chat: Chat | null;
  /** Our own account wrote it on another of its devices (a sync transcript). */
  readonly isOwn: boolean;
  /** The envelope is a question whose time has come (`core/reminders.ts`): no phone has a message for it that could be marked. */
  readonly isScheduled?: boolean;
  /** Display name as the sender chose it: shown, never trusted. */
  readonly sourceName: string | null;
  /** Title of the group, as far as the transport knows it: shown, never trusted. */
  readonly groupName?: string | null;
  readonly content: Content;
};

export type OutboundFile = { readonly fileName: string; readonly contentType: string; readonly base64: string };

export type OutboundBody =
  | (StyledText & { readonly kind: "text"; readonly quote: Quote | null; readonly files: readonly OutboundFile[] })
  | (StyledText & { readonly kind: "edit"; readonly targetSentAt: Millis })
  | Reaction;

/** A message on its way out. `timestamp` is its identity on Signal where the transport lets us choose it. */
export type Outbound = { readonly chat: Chat; readonly timestamp: Millis; readonly body: OutboundBody };

/** Small synchronised settings of a chat: JSON values under string keys, optionally `updated_at` (RFC 3339). */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };
export type Context = { readonly [key: string]: JsonValue };

/** Why a turn stopped, as the event log says it. */
export type StopReason =
  | { readonly kind: "end_turn" }
  | { readonly kind: "requires_action"; readonly eventIds: readonly string[] }
  | { readonly kind: "retries_exhausted" }
  | { readonly kind: "budget_reached" }
  | { readonly kind: "refusal" }
  | { readonly kind: "max_tokens" }
  | { readonly kind: "context_exceeded" }
  /** The line broke in the middle of the answer, which is not asked for again. */
  | { readonly kind: "cut" }
  | { readonly kind: "other"; readonly name: string };

/**
 * An entry of a session's event log, decoded. `id` is unique in its session. `at` is `processed_at` in Unix ms; null means queued: Claude
 * has not seen the entry yet. An entry changes only once: when `at` goes from null to a time.
 */
export type SessionEvent = { readonly id: string; readonly at: Millis | null } & (
  | { readonly type: "prompt"; readonly text: string }
  | { readonly type: "reply"; readonly text: string }
  | {
      readonly type: "tool_use";
      readonly name: string;
      readonly input: JsonValue;
      /** The session waits for a person's yes or no. */
      readonly isAsk: boolean;
      /** The tool is ours: the session waits for the result of a call that runs here. */
      readonly isLocal: boolean;
    }
  | { readonly type: "tool_result"; readonly toolUseId: string; readonly isError: boolean }
  | { readonly type: "confirmation"; readonly toolUseId: string; readonly isAllowed: boolean }
  | { readonly type: "running" }
  | { readonly type: "idle"; readonly stop: StopReason }
  | { readonly type: "terminated" }
  | { readonly type: "error"; readonly code: string; readonly retry: "retrying" | "exhausted" | "terminal" }
  /** Title or metadata changed; null where this event does not carry them. */
  | {
      readonly type: "updated";
      readonly title: string | null;
      readonly metadata: { readonly [key: string]: string } | null;
    }
  | {
      readonly type: "usage";
      /** All input tokens, those read from the cache and written into it included. */
      readonly inputTokens: number;
      readonly outputTokens: number;
      /** List cost in US cents, with fractions; null where it is not known. */
      readonly costCents: number | null;
      /** True for the sums of the session so far (a session elsewhere), false for those of one turn (a log that is kept here). */
      readonly isTotal: boolean;
    }
  /**
   * Everything else (thinking, spans, interrupts, and kinds that do not exist yet). `raw` holds the words of the entries beside it in the
   * form that the Messages API wants back (`claude/history.ts`): it is deleted wherever their text is.
   */
  | { readonly type: "other"; readonly name: string; readonly raw?: JsonValue }
);

export type ToolUse = SessionEvent & { readonly type: "tool_use" };

/** How hard Claude thinks. **Source:** SDK type `OutputConfig.effort`. */
export const efforts = ["low", "medium", "high", "xhigh", "max"] as const;

/** A file that goes to Claude beside the text. `base64` is standard base64. */
export type PromptFile = { readonly contentType: string; readonly fileName: string | null; readonly base64: string };

/** The stamp of the last change of each key of a context: hybrid logical clock strings (`core/hlc.ts`). */
export type Stamps = { readonly [key: string]: string };

/** The backend that is the owner's own `claude` program. */
export const ownProgram = "claude-code" as const;

/** A conversation with Claude, bound to one chat. */
export type Session = {
  /** Ours: random, says nothing about a person. */
  readonly id: string;
  readonly chatKey: string;
  readonly chat: Chat;
  /** The name of the line that keeps it. */
  readonly backend: string;
  readonly remoteId: string | null;
  readonly state: "active" | "ended";
  /** The project of this machine that it works on. Not part of `context`, since a synchronized value could be changed elsewhere. */
  readonly project: string | null;
  readonly context: Context;
  readonly stamps: Stamps;
  /** `processed_at` up to which the log is stored, Unix ms. */
  readonly cursor: Millis | null;
  readonly remoteUpdatedAt: string | null;
  readonly isStale: boolean;
  readonly createdAt: Millis;
  readonly usedAt: Millis;
  readonly syncedAt: Millis;
};

/** `reminder`: the text is sent to the chat at the time. `question`: Claude is asked the text, and its answer is sent. */
export type ReminderKind = "reminder" | "question";

/** A reminder or question that Claude sets for a person. */
export type ReminderPlan = {
  readonly kind: ReminderKind;
  readonly text: string;
  /** A cron expression of five fields; null for once. */
  readonly rule: string | null;
  /** The zone in which the rule is meant, as an IANA name. */
  readonly timeZone: string;
  /** When it comes next, Unix ms. */
  readonly dueAt: Millis;
};

export type Reminder = ReminderPlan & {
  readonly id: number;
  /** The number by which the people of the chat name it; it never changes. */
  readonly number: number;
  readonly chat: Chat;
  /** The person who asked for it. */
  readonly source: Address;
};

/** A call of our tools for reminders, once it is understood. */
export type Wish =
  | { readonly do: "set"; readonly plan: ReminderPlan; readonly later: readonly Millis[] }
  | { readonly do: "list" }
  | { readonly do: "off"; readonly number: number };

/** A message of words alone. */
export const wordsOnly = (text: string): TextContent => ({
  kind: "text",
  text,
  quote: null,
  mentions: [],
  attachments: [],
  expiresInSeconds: 0,
  isViewOnce: false,
});

/** The text message in an envelope, an edit's new version included; null where there is none. */
export function textOf({ content }: Envelope): TextContent | null {
  return content.kind === "text" ? content : content.kind === "edit" ? content.body : null;
}

/** The stable key of a chat: `self`, `direct:<aci or number>`, `group:<id>`. */
export function chatKey(chat: Chat): string {
  if (chat.kind === "self") return "self";
  return chat.kind === "group" ? `group:${chat.id}` : `direct:${chat.peer.aci ?? chat.peer.number ?? "unknown"}`;
}

/** Same person: by ACI where both have one, else by number. */
export function isSameAddress(a: Address, b: Address): boolean {
  if (a.aci !== null && b.aci !== null) return a.aci === b.aci;
  return a.number !== null && a.number === b.number;
}

/** Asserts in production, too: at trust boundaries, and after each reducer step in tests and simulation. */
export function assert(condition: unknown, what: string): asserts condition {
  if (!condition) throw new Error(`Invariant broken: ${what}`);
}
