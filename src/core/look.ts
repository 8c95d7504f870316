/** What the commands of the chat look up. */
import type { Guests } from "./guests.ts";
import type { Context, Envelope, Reminder, Session } from "./model.ts";

/** Each is read only when a command asks for it. */
export type Look = {
  /** Conversations of this chat, newest first, at most `conversationsMax`. */
  readonly conversations: () => readonly { readonly session: Session; readonly name: string }[];
  /** What this conversation and the person of this envelope have used so far, in words; null before anything was. */
  readonly usage: (envelope: Envelope) => string | null;
  /** Models that the key may use, as far as they are known: a name that is not among them is not refused. */
  readonly models: () => readonly string[];
  /** What was set in this chat: model, effort and verbosity outlive the conversation that they were set in. */
  readonly chosen: () => Context;
  readonly defaultModel: string;
  readonly defaultEffort: string;
  /** A session keeps the model that it was made with. */
  readonly isModelFixed: boolean;
  /** Projects of this machine. */
  readonly projects: () => readonly { readonly name: string; readonly folder: string; readonly run: boolean }[];
  /** Projects whose edits need no yes now. */
  readonly granted: () => readonly string[];
  /** How Signal and Claude stand, in a few lines. */
  readonly situation: () => string;
  /** The message that was answered or given up last. */
  readonly lastPrompt: () => Envelope | null;
  readonly guests: Guests;
  /** What is set in this chat, by number; and how much a person has set in all chats. */
  readonly reminders: () => readonly Reminder[];
  readonly remindersOf: (person: string) => number;
  /** This machine's. */
  readonly timeZone: string;
  /** The conversation as a Markdown document. */
  readonly transcript: () => string;
};
