/**
 * The words of a decision: what it reads (view), what it is told (fact), and what it answers with (changes). `chat.ts` decides.
 */
import type { Tries } from "./backoff.ts";
import type { ErrorCode, Fault } from "./errors.ts";
import type { Guests } from "./guests.ts";
import type { AllowRule, Verdict } from "./inbound.ts";
import type {
  Account,
  Address,
  Chat,
  Context,
  Envelope,
  JsonValue,
  Millis,
  OutboundBody,
  Reminder,
  ReminderPlan,
  Session,
  SessionEvent,
  ToolUse,
  Wish,
} from "./model.ts";
import type { QuestionItem } from "./question.ts";
import type { Spend } from "./spend.ts";
import type { Progress } from "./turn.ts";

/** A durable request to Claude, as far as a decision needs to know it. */
export type Post = {
  readonly sessionId: string;
  /**
   * `queued`: the post never went out, or surely did not arrive. `posting`: it went out, and its fate is not known. `posted`: it is in
   * the log. `waiting`: it is in the log, and Claude waits for a person.
   */
  readonly state: "queued" | "posting" | "posted" | "waiting";
  /** Failures so far, by the class of the fault. */
  readonly tries: Tries;
};

/** A message of a person that is owed an outcome. */
export type Prompt = {
  readonly id: number;
  readonly envelope: Envelope;
  /** Times of sending that name this message: its own, and those of the versions it replaced. */
  readonly versions: readonly Millis[];
  /** Code of the fault that the person was told of; null for none. */
  readonly told: string | null;
  readonly receivedAt: Millis;
  /** Null until it is the prompt's turn. */
  readonly post: Post | null;
};

/** A message that shows a question; a field is null where it is not known. */
export type Shown = {
  /** The message's identity on Signal. */
  readonly sentAt: Millis | null;
  /** Since when the phones surely have it: its send was over. Null before that. */
  readonly at: Millis | null;
  /** Since when sends of unknown outcome may have left copies under times of their own. */
  readonly copiesFrom?: Millis | null;
};

/** A use of a tool that Claude asks a yes or no for. */
export type Ask = {
  readonly use: ToolUse;
  /** The messages that show the question. */
  readonly shown: readonly Shown[];
  /**
   * The question that shows `use`, sent or not, and the number of `use` in it, from 1 on; null before one does.
   * `unsent`: the whole question, of which Signal took no copy: a reminder, or the rest after an answer, shows too little for a yes.
   */
  readonly question: {
    readonly subject: QuestionSubject;
    readonly number: number;
    readonly unsent: OutboundBody | null;
  } | null;
  /** Null for a tool that runs at Claude. */
  readonly call: LocalCall | null;
};

/** A tool of ours that Claude calls, as the journal has it. `mayAlways`: an edit that `always` would free. */
export type LocalCall = { readonly project: string; readonly mayAlways: boolean };

/** Commands of the chat look these up. Each is read only when a command asks for it. */
export type Look = {
  /** Conversations of this chat, newest first, at most `conversationsMax`. */
  readonly conversations: () => readonly { readonly session: Session; readonly name: string }[];
  /** The usage of this conversation and of the envelope's person so far, in words; null before there is any. */
  readonly usage: (envelope: Envelope) => string | null;
  /** Models that the key may use, as far as they are known: a name that is not among them is not refused. */
  readonly models: () => readonly string[];
  /** Settings of this chat: model, effort and verbosity outlive the conversation that they were set in. */
  readonly chosen: () => Context;
  readonly defaultModel: string;
  readonly defaultEffort: string;
  /** Whether a session keeps the model that it was made with. */
  readonly isModelFixed: boolean;
  /** Projects of this machine. */
  readonly projects: () => readonly { readonly name: string; readonly folder: string; readonly run: boolean }[];
  /** The project of this conversation, or of the next where there is none. */
  readonly openProject: () => string | null;
  /** The newest conversation that works on this project, or on none. */
  readonly lastOfProject: (project: string | null) => Session | null;
  /** Projects whose edits need no yes now. */
  readonly granted: () => readonly string[];
  /** The page for people, as Markdown: what leaves this machine, what it costs. */
  readonly privacy: string;
  /** How Signal and Claude stand, in a few lines. */
  readonly situation: () => string;
  /** The message that was answered or given up last. */
  readonly lastPrompt: () => Envelope | null;
  readonly guests: Guests;
  /** The reminders of this chat, by number; and how many a person has set in all chats. */
  readonly reminders: () => readonly Reminder[];
  readonly remindersOf: (person: string) => number;
  /** The zone of this machine. */
  readonly timeZone: string;
  /** The conversation as a Markdown document. */
  readonly transcript: () => string;
};

/** All that a decision may know; read inside its transaction. Functions read only when they are called. */
export type View = {
  readonly chat: Chat;
  readonly account: Account;
  readonly now: Millis;
  /** Chance in [0, 1) for the next wait. */
  readonly jitter: number;
  /** The conversation is kept here: an answer that breaks off can only be asked for again, and is paid for again. */
  readonly isAskedAnew: boolean;
  /** The current conversation. */
  readonly session: Session | null;
  /** The active conversation, where the current settings would have another line keep it. */
  readonly left: Session | null;
  /** The two oldest open prompts, oldest first: only the first may be under way. */
  readonly head: readonly Prompt[];
  /** All open prompts, oldest first: there may be thousands, which take time to be read. */
  readonly prompts: () => readonly Prompt[];
  /** How many open prompts there are, and the id of the newest. */
  readonly waiting: () => { readonly count: number; readonly newest: number };
  /** Open prompts of which any version was sent at this time. */
  readonly named: (sentAt: Millis) => readonly Prompt[];
  /** Whether a message of ours has this time on Signal. */
  readonly isSaid: (sentAt: Millis) => boolean;
  /** The standing of the turn of the prompt under way, by the log; null while the prompt is not in the log. */
  readonly turn: Progress | null;
  /** Claude's open questions in the current conversation, oldest first. */
  readonly asks: readonly Ask[];
  /** Calls of our own tools in the current conversation that are not settled, those that ask included. */
  readonly calls: readonly ToolUse[];
  /** How often our own tools were called for this prompt. */
  readonly callCount: (sessionId: string, prompt: Prompt) => number;
  /** Whether all of these entries are tool uses that a person or this machine can answer. */
  readonly canAnswer: (sessionId: string, eventIds: readonly string[]) => boolean;
  /** Whether the person of this envelope may let Claude work on this machine. */
  readonly isOwner: (envelope: Envelope) => boolean;
  /** Tools that Claude may use without asking in the current conversation. */
  readonly granted: readonly string[];
  /** The code of the last error of the log that was not overcome; null without one. */
  readonly lastError: { readonly code: string; readonly isTerminal: boolean } | null;
  /** Whether Claude has said something since the prompt under way was taken up. */
  readonly hasReply: () => boolean;
  /** Whether the person of the prompt under way has seen something of it: a fault, a preview, a reply, or that Claude is at work. */
  readonly isSeen: (prompt: Prompt) => boolean;
  /** Whether the person of this envelope was greeted before. */
  readonly isWelcome: (envelope: Envelope) => boolean;
  /** The newest prompt that was announced. */
  readonly announcedUpTo: () => number;
  /** The text of this person's message of that time, once it has ended; null where it is not known. */
  readonly endedText: (envelope: Envelope, sentAt: Millis) => string | null;
  /** The spending of the envelope's person today, beside the limit; null without a limit. */
  readonly spend: (envelope: Envelope) => Spend | null;
  readonly look: Look;
};

/** A call of our own tool, and what it would do; `basis` hashes what the question shows. */
export type Looked = Readonly<LocalCall & { use: ToolUse; item: QuestionItem; basis: string }>;

type Facts = {
  /** An allowed message was written to the inbox as row `id`. */
  received: { id: number; envelope: Envelope; verdict: Verdict };
  /** Entries of a session's log that are new, or were processed just now. */
  logged: { session: Session; events: readonly SessionEvent[] };
  /** A request for this prompt failed. `hasSpoken`: its answer had begun. `isLost`: it is not in the log any more. */
  failed: { id: number; fault: Fault; hasSpoken: boolean; isLost: boolean };
  /**
   * Claude does not take this answer of ours (a result, or a yes or no), and never will; its post counts as unanswered. `use`: the tool use
   * that it answered, null where that is not open any more. `isStopped`: the turn is being stopped. `tries`: those before this one.
   */
  refused: {
    postId: number;
    session: Session;
    use: ToolUse | null;
    isStopped: boolean;
    isResult: boolean;
    tries: Tries;
    fault: Fault;
  };
  /** The session does not exist any more at Claude. */
  gone: { session: Session; isElsewhere: boolean };
  /** The line to Signal has come back: messages that are many, or have waited long, are announced. */
  back: {};
  /** The program begins: work that an older version or a lost wake left lying goes on. */
  started: {};
  /** Calls of our own tools that need a yes, with what they would do. */
  looked: { session: Session; looked: readonly Looked[] };
  /** A call of our own tool is over, or cannot be run at all: Claude is told. */
  settled: { session: Session; useId: string; text: string; isError: boolean };
  /** A call of `remind` or `reminders`, understood. */
  wished: { session: Session; useId: string; wish: Wish };
  /** The time of a reminder has come; `isMissed`: more than once. `nextAt`: when it comes again, null for never. */
  due: { reminder: Reminder; nextAt: Millis | null; isMissed: boolean };
  /** The work that a command owed is done. */
  worked: { id: number; body: OutboundBody };
  /** The database was set back to an earlier state: prompts that are open in it may have been asked since. */
  setBack: { generation: number };
  /** The person has seen nothing of this prompt for minutes, while Claude is at work on it. */
  slow: { id: number };
  /** These questions were not answered within half of their time (`isLast` false), or within all of it. */
  expired: { askIds: readonly string[]; isLast: boolean };
};

export type FactOf<Type extends keyof Facts> = { [T in Type]: Readonly<{ type: T } & Facts[T]> }[Type];
export type Fact = FactOf<keyof Facts>;

export type Outcome = "answered" | "failed" | "cancelled";
export type Stage = "taken" | "waiting" | "done" | "failed" | "cleared";

/** The tool uses that a question shows, in the order of its numbers. The first of them names the question. */
export type QuestionSubject = { readonly sessionId: string; readonly uses: readonly string[] };

/** The subject of a message: the id of a row, a person or a day; an entry of a session's log, or its file; or a question's tool uses. */
export type Subject = string | { readonly sessionId: string; readonly id: string } | QuestionSubject;

/** Why a message exists: with its subject (and part) it is the message's identity. */
export type Why =
  | "reply"
  | "tool"
  | "ask"
  | "reminder"
  | "refused"
  | "end"
  | "told"
  | "slow"
  | "failed"
  | "gone"
  | "digest"
  | "expired"
  | "stopped"
  | "welcome"
  | "command"
  | "note"
  | "remind"
  | "spend";

type Changes = {
  /** `draftOf`: the prompt whose preview the message takes the place of, where there is one. */
  say: { why: Why; subject: Subject; part: number; body: OutboundBody; draftOf: number | null };
  /** The message is a prompt: it waits for its turn. */
  open: { id: number; envelope: Envelope; versions: readonly Millis[] };
  /** The prompt has its outcome; without an envelope the message itself is gone, and cannot be marked. `left`: its preview's last words. */
  finish: { id: number; envelope: Envelope | null; outcome: Outcome; left: string };
  /** The person was told of the fault, and that the prompt is tried further. */
  tell: { id: number; envelope: Envelope; code: ErrorCode };
  /** Posts the prompt in the current conversation, which is made where there is none. */
  ask: { id: number };
  /** The post goes on in the current conversation, after a wait; where it is lost, it is queued anew. */
  again: { id: number; isLost: boolean; tries: Tries; waitMs: Millis };
  /** Claude did not take an answer. `tries`: its failures so far; null where no other answer is wanted. */
  unanswered: { postId: number; tries: Tries | null };
  /** Whether Claude waits for a person before this prompt's turn goes on. */
  wait: { id: number; envelope: Envelope; isWaiting: boolean };
  /** Claude hears yes or no, and why not; a call of ours runs, or is dropped. `approver`: the person's id; null for no person. */
  answer: { use: ToolUse; isAllowed: boolean; reason: string; approver: string | null };
  /** Claude calls a tool of ours: the journal records the call. */
  call: { sessionId: string; turn: string; use: ToolUse };
  /** Claude rests: its calls that need a yes are asked for together. */
  look: { sessionId: string };
  askCall: { useId: string; basis: string };
  result: { sessionId: string; useId: string; text: string; isError: boolean };
  /** Edits of this project need no yes for an hour; null: of none any more. */
  grantEdits: { project: string | null };
  /** The next conversation of this chat is about this project; null: about none. */
  openProject: { project: string | null };
  /** Work on files for a command, whose answer is the outcome of that work. */
  owe: { id: number; sessionId: string; work: "undo" | "diff" };
  paid: { id: number };
  schedule: { plan: ReminderPlan; number: number; source: Address };
  /** When it comes next; null for never. */
  reschedule: { id: number; dueAt: Millis | null };
  grant: { tools: readonly string[] };
  /** `subject`: the prompt, or the tool use, that it stops. */
  interrupt: { subject: string; sessionId: string };
  endSession: { id: string };
  resumeSession: { id: string };
  set: { key: string; value: JsonValue };
  /** Null: all conversations of the chat. */
  forget: { id: string | null };
  allow: { rule: AllowRule; isAllowed: boolean };
  /** Prompts up to this one were announced. */
  announced: { id: number };
  welcome: { person: string };
};

export type ChangeOf<Do extends keyof Changes> = { [D in Do]: Readonly<{ do: D } & Changes[D]> }[Do];
export type Change = ChangeOf<keyof Changes>;
