/**
 * The words of a decision: what it reads (view), what it is told (fact), and what it answers with (changes); and the few changes that
 * several decisions are made of. `chat.ts` decides.
 */
import type { FaultClass } from "./backoff.ts";
import type { ErrorCode, Fault } from "./errors.ts";
import type { Look } from "./look.ts";
import type { AllowRule, Verdict } from "./inbound.ts";
import type {
  Account,
  Address,
  Chat,
  Envelope,
  JsonValue,
  Millis,
  OutboundBody,
  Reminder,
  ReminderPlan,
  Session,
  SessionEvent,
  Wish,
} from "./model.ts";
import type { QuestionItem } from "./question.ts";
import { plainText } from "./reply.ts";
import type { Spend } from "./spend.ts";
import type { Progress } from "./turn.ts";

export type ToolUse = SessionEvent & { readonly type: "tool_use" };

export type Tries = { readonly [K in FaultClass]?: number };

/** A durable request to Claude, as far as a decision needs to know it. */
export type Post = {
  readonly sessionId: string;
  /**
   * `queued`: it never went out, or surely did not arrive. `posting`: it went out, and nothing is known of it. `posted`: it is in
   * the log. `waiting`: likewise, and Claude waits for a person.
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
  /** The fault that the person has heard of. */
  readonly told: string | null;
  readonly receivedAt: Millis;
  /** Null while its turn has not come. */
  readonly post: Post | null;
};

/** A message that shows a question; null is what is not known. */
export type Shown = {
  /** Its identity on Signal. */
  readonly sentAt: Millis | null;
  /** Since when the phones have it. */
  readonly at: Millis | null;
  /** Since when copies under times of their own may be there: of sends whose outcome was unknown. */
  readonly copiesFrom?: Millis | null;
};

/** What Claude asks a yes or no for. */
export type Ask = {
  readonly use: ToolUse;
  /** The messages that show it. */
  readonly shown: readonly Shown[];
  /** The question that shows it, sent or not, by its subject, and which of the things in it this is, from 1 on; null before one does. */
  readonly question: { readonly subject: string; readonly number: number; readonly of: number } | null;
  /** Null for a tool that runs at Claude. */
  readonly call: LocalCall | null;
};

/** A tool of ours that Claude calls, as the journal has it. `mayAlways`: an edit that `always` would free. */
export type LocalCall = { readonly project: string; readonly mayAlways: boolean };

/** All that a decision may know; read inside its transaction. Functions read only when they are called. */
export type View = {
  readonly chat: Chat;
  readonly account: Account;
  readonly now: Millis;
  /** In [0, 1). */
  readonly jitter: number;
  /** The conversation is kept here: an answer that breaks off can only be asked for again, and is paid for again. */
  readonly isAskedAnew: boolean;
  /** The conversation of now. */
  readonly session: Session | null;
  /** The two oldest open ones, oldest first: only the first may be under way. */
  readonly head: readonly Prompt[];
  /** All open ones, oldest first: thousands may be, and take their time to be read. */
  readonly prompts: () => readonly Prompt[];
  /** How many there are, and the id of the newest. */
  readonly waiting: () => { readonly count: number; readonly newest: number };
  /** Those that a time of sending names, in any of their versions. */
  readonly named: (sentAt: Millis) => readonly Prompt[];
  /** Where the turn of the prompt under way stands, by the log; null while nothing is in the log. */
  readonly turn: Progress | null;
  /** Claude's open questions in the conversation of now, oldest first. */
  readonly asks: readonly Ask[];
  /** Calls of our own tools in the conversation of now that are not settled, those that ask included. */
  readonly calls: readonly ToolUse[];
  /** How often our own tools were called for this prompt. */
  readonly callCount: (sessionId: string, prompt: Prompt) => number;
  /** All of these entries are tool uses that a person or this machine can answer. */
  readonly canAnswer: (sessionId: string, eventIds: readonly string[]) => boolean;
  /** The person of this envelope may let Claude work on this machine. */
  readonly isOwner: (envelope: Envelope) => boolean;
  /** Tools that Claude may use without asking in the conversation of now. */
  readonly granted: readonly string[];
  /** The code of the last error of the log that was not overcome; null without one. */
  readonly lastError: { readonly code: string; readonly isTerminal: boolean } | null;
  /** Claude has said something since the prompt under way was taken up. */
  readonly hasReply: () => boolean;
  /** The person of this envelope was greeted before. */
  readonly isWelcome: (envelope: Envelope) => boolean;
  /** The newest prompt that was announced. */
  readonly announcedUpTo: () => number;
  /** The text of a message of this person that ended already; null where it is not known. */
  readonly endedText: (envelope: Envelope, sentAt: Millis) => string | null;
  /** What the person of this envelope spent today, beside what they may; null without a limit. */
  readonly spend: (envelope: Envelope) => Spend | null;
  readonly look: Look;
};

/** What a call of our own tool would do; `basis` hashes what the question shows. */
export type Looked = { readonly use: ToolUse; readonly item: QuestionItem; readonly basis: string } & Pick<
  LocalCall,
  "mayAlways" | "project"
>;

export type Fact =
  /** An allowed message was written to the inbox as row `id`. */
  | { readonly type: "received"; readonly id: number; readonly envelope: Envelope; readonly verdict: Verdict }
  /** Entries of a session's log that are new, or were processed just now. */
  | { readonly type: "logged"; readonly session: Session; readonly events: readonly SessionEvent[] }
  /**
   * A request for this prompt failed. `hasSpoken`: its answer had begun. `isLost`: it is not in the log any more.
   */
  | {
      readonly type: "failed";
      readonly id: number;
      readonly fault: Fault;
      readonly hasSpoken: boolean;
      readonly isLost: boolean;
    }
  /** Claude does not take this answer of ours (a result, or a yes or no) and goes on waiting. `count`: refusals so far. */
  | {
      readonly type: "refused";
      readonly session: Session;
      readonly use: ToolUse;
      readonly isResult: boolean;
      readonly count: number;
      readonly fault: Fault;
    }
  /** The session does not exist any more at Claude. */
  | { readonly type: "gone"; readonly session: Session; readonly isElsewhere: boolean }
  /** The line to Signal has come back: what waits long, or is much, is announced. */
  | { readonly type: "back" }
  /** The program begins: what an older version or a lost wake left lying goes on. */
  | { readonly type: "started" }
  /** Calls of our own tools would do this, which asks for a yes. */
  | { readonly type: "looked"; readonly session: Session; readonly looked: readonly Looked[] }
  /** A call of our own tool is settled, or cannot be run at all: Claude is told. */
  | {
      readonly type: "settled";
      readonly session: Session;
      readonly useId: string;
      readonly text: string;
      readonly isError: boolean;
      readonly isRun: boolean;
    }
  /** A call of `remind` or `reminders`, understood. */
  | { readonly type: "wished"; readonly session: Session; readonly useId: string; readonly wish: Wish }
  /** Its time has come; `isMissed`: more than once. `nextAt`: when it comes again, null for never. */
  | { readonly type: "due"; readonly reminder: Reminder; readonly nextAt: Millis | null; readonly isMissed: boolean }
  /** What a command owed is done. */
  | { readonly type: "worked"; readonly id: number; readonly body: OutboundBody }
  /** The database is older than what it was: what is open in it may have been asked since. */
  | { readonly type: "setBack"; readonly generation: number }
  /** These questions were not answered in half of their time (`isLast` false), or in time. */
  | { readonly type: "expired"; readonly askIds: readonly string[]; readonly isLast: boolean };

export type Outcome = "answered" | "failed" | "cancelled";
export type Stage = "taken" | "waiting" | "done" | "failed" | "cleared";

/** Why a message exists: with its subject (and part) it is the message's identity. */
export type Why =
  | "reply"
  | "tool"
  | "ask"
  | "reminder"
  | "refused"
  | "end"
  | "told"
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

export type Change =
  | {
      readonly do: "say";
      readonly why: Why;
      readonly subject: string;
      readonly part: number;
      readonly body: OutboundBody;
      /** It takes the place of the preview of this prompt, where there is one. */
      readonly draftOf: number | null;
    }
  | { readonly do: "mark"; readonly id: number; readonly envelope: Envelope; readonly stage: Stage }
  | { readonly do: "open"; readonly id: number; readonly envelope: Envelope; readonly versions: readonly Millis[] }
  | { readonly do: "finish"; readonly id: number; readonly outcome: Outcome }
  | { readonly do: "tell"; readonly id: number; readonly code: ErrorCode }
  /** Posts the prompt in the conversation of now, which is made where there is none. */
  | { readonly do: "ask"; readonly id: number }
  /** The post goes on in the conversation of now, after a wait; where it is lost, it is queued anew. */
  | {
      readonly do: "again";
      readonly id: number;
      readonly isLost: boolean;
      readonly tries: Tries;
      readonly waitMs: Millis;
    }
  /** Claude waits for a person before this prompt's turn goes on; or not any more. */
  | { readonly do: "wait"; readonly id: number; readonly isWaiting: boolean }
  | { readonly do: "confirm"; readonly use: ToolUse; readonly isAllowed: boolean; readonly reason: string | null }
  /** Claude calls a tool of ours: the journal takes it down. */
  | { readonly do: "call"; readonly sessionId: string; readonly turn: string; readonly use: ToolUse }
  /** Claude rests: what its calls ask is asked together. */
  | { readonly do: "look"; readonly sessionId: string }
  | { readonly do: "askCall"; readonly useId: string; readonly basis: string }
  | { readonly do: "allowCall"; readonly useId: string; readonly approver: string }
  /** It does not run any more: Claude hears why. */
  | { readonly do: "dropCall"; readonly useId: string; readonly reason: string; readonly approver: string | null }
  | {
      readonly do: "result";
      readonly sessionId: string;
      readonly useId: string;
      readonly text: string;
      readonly isError: boolean;
    }
  /** Edits of this project need no yes for an hour; null: of none any more. */
  | { readonly do: "grantEdits"; readonly project: string | null }
  /** This project is worked on in this chat from now on; null: none. */
  | { readonly do: "openProject"; readonly project: string | null }
  /** Work on files for a command, which answers it. */
  | { readonly do: "owe"; readonly id: number; readonly sessionId: string; readonly work: "undo" | "diff" }
  | { readonly do: "paid"; readonly id: number }
  | { readonly do: "schedule"; readonly plan: ReminderPlan; readonly number: number; readonly source: Address }
  | { readonly do: "unschedule"; readonly id: number }
  | { readonly do: "reschedule"; readonly id: number; readonly dueAt: Millis }
  | { readonly do: "grant"; readonly tools: readonly string[] }
  /** `subject`: the prompt, or the question, that it stops. */
  | { readonly do: "interrupt"; readonly subject: string; readonly sessionId: string }
  | { readonly do: "endSession"; readonly id: string }
  | { readonly do: "resumeSession"; readonly id: string }
  | { readonly do: "set"; readonly key: string; readonly value: JsonValue }
  | { readonly do: "forget"; readonly id: string }
  /** All conversations of the chat. */
  | { readonly do: "forgetChat" }
  | { readonly do: "allow"; readonly rule: AllowRule; readonly isAllowed: boolean }
  /** Prompts up to this one were announced. */
  | { readonly do: "announced"; readonly id: number }
  | { readonly do: "welcome"; readonly envelope: Envelope };

export const say = (
  why: Why,
  subject: string | number,
  body: OutboundBody | string,
  more: { readonly part?: number; readonly draftOf?: number | null } = {},
): Change => ({
  do: "say",
  why,
  subject: String(subject),
  part: more.part ?? 0,
  body: typeof body === "string" ? plainText(body) : body,
  draftOf: more.draftOf ?? null,
});

/** Ends a prompt that is not going to be answered. `isGone`: the message itself is no more, and cannot be marked. */
export function withdraw(view: View, { id, envelope, post }: Prompt, isGone: boolean): Change[] {
  const isOut = post !== null && post.state !== "queued";
  return [
    ...(isOut ? stop(view, String(id), post.sessionId) : []),
    { do: "finish", id, outcome: "cancelled" },
    ...(isGone ? [] : [{ do: "mark", id, envelope, stage: "cleared" } as const]),
  ];
}

/** Ends what Claude is at work on in a session. */
export const stop = (view: View, subject: string, sessionId: string): Change[] => [
  ...(sessionId === view.session?.id ? refuseAll(view) : []),
  { do: "interrupt", subject, sessionId },
];

const goneOnText = "The person went on to something else.";

/** Everything that Claude waits for in the conversation of now, or that runs here for it, is answered with a no. */
export const refuseAll = ({ asks, calls }: View): Change[] => [
  ...asks.flatMap(({ use, call }): Change[] =>
    call === null ? [{ do: "confirm", use, isAllowed: false, reason: goneOnText }] : [],
  ),
  ...calls.map(({ id }): Change => ({ do: "dropCall", useId: id, reason: goneOnText, approver: null })),
];

/** Answers questions; the turn goes on once none is left. `approver`: who says so; null for the time that is over. */
export function confirm(
  view: View,
  asks: readonly Ask[],
  isAllowed: boolean,
  reason: string | null,
  approver: string | null,
): Change[] {
  const [prompt] = view.head;
  const isLast = view.asks.every((ask) => asks.includes(ask));
  const why = reason === null ? noText : `${noText} ${reason}`;
  return [
    ...asks.map(({ use, call }): Change => {
      if (call === null) return { do: "confirm", use, isAllowed, reason: isAllowed ? null : why };
      return isAllowed && approver !== null
        ? { do: "allowCall", useId: use.id, approver }
        : { do: "dropCall", useId: use.id, reason: why, approver };
    }),
    ...(isLast && prompt?.post?.state === "waiting" ? [{ do: "wait", id: prompt.id, isWaiting: false } as const] : []),
  ];
}

const noText = "The person said no.";
