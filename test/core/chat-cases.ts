/** The words of the specification of the chat: how it stands, what comes, and what changes as one line each. */
import { plainText } from "../../src/core/reply.ts";
import { decide } from "../../src/core/chat.ts";
import type { Ask, Change, Fact, Post, Prompt, Subject, View } from "../../src/core/changes.ts";
import { BridgeError, toFault, type ErrorCode } from "../../src/core/errors.ts";
import { classify } from "../../src/core/inbound.ts";
import type { Content, Envelope, ReminderPlan, Session, SessionEvent, StopReason } from "../../src/core/model.ts";
import { progressOf, trackAll, type Progress } from "../../src/core/turn.ts";
import { noteOf, owner, self, textContent } from "../doubles/chats.ts";

export const at = 1_786_953_600_000;
export const session: Session = {
  id: "s",
  chatKey: "self",
  chat: self,
  backend: "scripted",
  remoteId: "remote",
  state: "active",
  project: null,
  context: {},
  stamps: {},
  cursor: at,
  remoteUpdatedAt: null,
  isStale: false,
  createdAt: at,
  usedAt: at,
  syncedAt: at,
};

// --- given

export type Standing = "nothing" | "queued" | "posting" | "posted" | "waiting";

export const prompt = (id: number, post: Post["state"] | null, more: Partial<Prompt> = {}): Prompt => ({
  id,
  envelope: noteOf(`question ${id}`, at + id),
  versions: [at + id],
  told: null,
  receivedAt: at + id,
  post: post === null ? null : { sessionId: "s", state: post, tries: {} },
  ...more,
});

export const use = (id: string): Ask["use"] => ({
  id,
  at,
  type: "tool_use",
  name: "bash",
  input: { command: `make ${id}` },
  isAsk: true,
  isLocal: false,
});
export const subjectText = (subject: Subject): string =>
  typeof subject === "string"
    ? subject
    : `${subject.sessionId}:${"id" in subject ? subject.id : subject.uses.join(",")}`;
/** On the phones for a minute. */
export const ask = (id: string, sentAt: number, more: Partial<Ask> = {}): Ask => ({
  use: { ...use(id), isLocal: (more.call ?? null) !== null },
  shown: [{ sentAt, at: at - 60_000 }],
  question: { subject: { sessionId: "s", uses: [id] }, number: 1, unsent: null },
  call: null,
  ...more,
});

export const viewOf = (prompts: readonly Prompt[], more: Partial<View> = {}): View => ({
  isSeen: ({ told }) => told !== null || (more.hasReply?.() ?? true),
  chat: self,
  account: owner,
  now: at + 1_000,
  jitter: 0.5,
  isAskedAnew: false,
  session,
  left: null,
  head: prompts.slice(0, 2),
  prompts: () => prompts,
  waiting: () => ({ count: prompts.length, newest: prompts.at(-1)?.id ?? 0 }),
  isSaid: () => false,
  named: (sentAt) => prompts.filter(({ versions }) => versions.includes(sentAt)),
  turn: null,
  asks: [],
  granted: [],
  calls: [],
  callCount: () => 0,
  canAnswer: () => true,
  isOwner: () => true,
  lastError: null,
  hasReply: () => true,
  isWelcome: () => true,
  announcedUpTo: () => 0,
  endedText: () => null,
  spend: () => null,
  look: {
    guests: { isOwnAccount: true, find: () => null, list: () => [] },
    conversations: () => [{ session, name: "this" }],
    usage: () => null,
    models: () => [],
    chosen: () => ({}),
    defaultModel: "claude-test",
    defaultEffort: "medium",
    isModelFixed: true,
    privacy: "",
    projects: () => [{ name: "garden", folder: "/garden", run: true }],
    openProject: () => session.project,
    lastOfProject: () => null,
    granted: () => [],
    situation: () => "fine",
    reminders: () => [],
    remindersOf: () => 0,
    timeZone: "UTC",
    lastPrompt: () => null,
    transcript: () => "",
  },
  ...more,
});

export const log = (...events: SessionEvent[]): Progress => trackAll(progressOf("p"), events);
export const processed: SessionEvent = { id: "p", at, type: "prompt", text: "question" };
export const idle = (stop: StopReason): SessionEvent => ({ id: "i", at: at + 2, type: "idle", stop });
export const running = log(processed);

export const standings: { readonly [S in Standing]: View } = {
  nothing: viewOf([]),
  queued: viewOf([prompt(1, "queued"), prompt(2, null)]),
  posting: viewOf([prompt(1, "posting"), prompt(2, null)]),
  posted: viewOf([prompt(1, "posted"), prompt(2, null)], { turn: running }),
  waiting: viewOf([prompt(1, "waiting"), prompt(2, null)], {
    turn: log(processed, idle({ kind: "requires_action", eventIds: ["a"] })),
    asks: [ask("a", 50)],
  }),
};
export const withTwoAsks: View = { ...standings.waiting, asks: [ask("a", 50), ask("b", 51)] };
/** One question for all of them. */
export const together = (ids: readonly string[], more: Partial<Ask> = {}): Ask[] =>
  ids.map((id, index) =>
    ask(id, 50, {
      question: { subject: { sessionId: "s", uses: ids }, number: index + 1, unsent: null },
      ...more,
    }),
  );
export const unsaid = ask("a", 50, { question: null, shown: [] });

// --- when

export const received = (content: Content | string, id = 9, more: Partial<Envelope> = {}): Fact => {
  const envelope = noteOf(content, at + id, more);
  const verdict = classify(envelope, { account: owner, allow: [{ kind: "self" }], isGroupAlways: true });
  return { type: "received", id, envelope, verdict };
};
export const edited = (targetSentAt: number, text: string): Fact =>
  received({ kind: "edit", targetSentAt, body: textContent(text) });
export const deleted = (targetSentAt: number): Fact => received({ kind: "delete", targetSentAt }, 0);
export const thumb = (targetSentAt: number, emoji = "👍"): Fact =>
  received({ kind: "reaction", emoji, targetAuthor: owner, targetSentAt, isRemove: false });
export const quoting = (sentAt: number, text = "yes"): Fact =>
  received(textContent(text, { quote: { sentAt, author: owner, text: "?" } }));
export const logged = (...events: SessionEvent[]): Fact => ({ type: "logged", session, events });
export const failed = (code: ErrorCode, more: Partial<Extract<Fact, { type: "failed" }>> = {}): Fact => ({
  type: "failed",
  id: 1,
  fault: toFault(new BridgeError(code, "it failed")),
  hasSpoken: false,
  isLost: false,
  ...more,
});
export const refused = (count: number, more: Partial<Extract<Fact, { type: "refused" }>> = {}): Fact => ({
  type: "refused",
  postId: 9,
  session,
  use: use("a"),
  isStopped: false,
  isResult: false,
  tries: { answer: count - 1 },
  fault: toFault(new BridgeError("claude_request", "it is not taken")),
  ...more,
});
export const gone: Extract<Fact, { type: "gone" }> = { type: "gone", session, isElsewhere: false };
export const reply: SessionEvent = { id: "r", at: at + 1, type: "reply", text: "answer" };

// --- then

const lines: { readonly [Do in Change["do"]]: (change: Extract<Change, { do: Do }>) => string } = {
  say: ({ why, subject }) => `say ${why} ${subjectText(subject)}`,
  open: ({ id }) => `open ${id}`,
  finish: ({ id, envelope, outcome }) => `finish ${id} ${outcome}${envelope === null ? " unseen" : ""}`,
  tell: ({ id, code }) => `tell ${id} ${code}`,
  ask: ({ id }) => `ask ${id}`,
  again: ({ id, isLost }) => `again ${id} ${isLost ? "anew" : "going on"}`,
  unanswered: ({ tries }) => (tries === null ? "no answer is wanted" : `unanswered ${tries.answer}`),
  wait: ({ id, isWaiting }) => `${isWaiting ? "wait" : "go on"} ${id}`,
  answer({ use: { id, isLocal }, isAllowed, approver }) {
    if (isLocal) return isAllowed ? `${id} allowed by ${approver}` : `${id} dropped`;
    return `${isAllowed ? "yes" : "no"} to ${id}`;
  },
  call: ({ use }) => `call ${use.id}`,
  look: () => "look",
  askCall: ({ useId }) => `ask for ${useId}`,
  result: ({ useId, text }) => `result of ${useId}: ${text}`,
  grantEdits: ({ project }) => `edits in ${project} are free`,
  openProject: ({ project }) => `open project ${project}`,
  owe: ({ work }) => `owe ${work}`,
  paid: ({ id }) => `paid ${id}`,
  schedule: ({ number, plan }) => `schedule ${number} ${plan.kind}`,
  reschedule: ({ id, dueAt }) => (dueAt === null ? `unschedule ${id}` : `reschedule ${id} ${dueAt - at}`),
  grant: ({ tools }) => `grant ${tools.join(" ")}`,
  interrupt: ({ subject }) => `interrupt ${subject}`,
  endSession: ({ id }) => `end ${id}`,
  resumeSession: ({ id }) => `resume ${id}`,
  set: ({ key, value }) => `set ${key} ${JSON.stringify(value)}`,
  forget: ({ id }) => `forget ${id ?? "all"}`,
  allow: ({ isAllowed }) => (isAllowed ? "allow" : "disallow"),
  announced: ({ id }) => `announced ${id}`,
  welcome: () => "welcome",
};
export const decided = (view: View, fact: Fact): string[] =>
  decide(view, fact).map((change) => (lines[change.do] as (change: Change) => string)(change));
export const textsOf = (view: View, fact: Fact): string[] =>
  decide(view, fact).flatMap((change) =>
    change.do === "say" && change.body.kind !== "reaction" ? change.body.text : [],
  );
export const changeOf = <Do extends Change["do"]>(view: View, fact: Fact, kind: Do) =>
  decide(view, fact).find((change): change is Extract<Change, { do: Do }> => change.do === kind);

const tea: ReminderPlan = { kind: "reminder", text: "tea", rule: null, timeZone: "UTC", dueAt: at };
const set = "result of c: Set, and shown to the person: ⏰ Reminder 1, today 08:00: tea";

const bothWithdrawn = ["finish 1 cancelled", "finish 2 cancelled"];

/** Total by type: a fact, or a standing, that is added without a line here does not compile. */
export const table: {
  readonly [Type in Fact["type"]]: readonly [when: string, Fact, Record<Standing, readonly string[]>];
} = {
  received: [
    "another message comes",
    received("what else?"),
    {
      nothing: ["open 9", "ask 9"],
      queued: ["open 9"],
      posting: ["open 9"],
      posted: ["open 9"],
      waiting: ["open 9", "say note 9"],
    },
  ],
  logged: [
    "Claude says something, and goes on",
    logged(reply),
    {
      nothing: ["say reply s:r"],
      queued: ["say reply s:r"],
      posting: ["say reply s:r"],
      posted: ["say reply s:r"],
      waiting: ["say reply s:r"],
    },
  ],
  failed: [
    "a request fails for the first time, and that may pass",
    failed("claude_overloaded"),
    {
      nothing: [],
      queued: ["again 1 going on"],
      posting: ["again 1 going on"],
      posted: ["again 1 going on"],
      waiting: ["again 1 going on"],
    },
  ],
  refused: [
    "Claude does not take the answer to its question",
    refused(1),
    {
      nothing: ["unanswered 1", "say reminder s:a"],
      queued: ["unanswered 1", "say reminder s:a"],
      posting: ["unanswered 1", "say reminder s:a"],
      posted: ["unanswered 1", "say reminder s:a", "wait 1"],
      waiting: ["unanswered 1", "say reminder s:a"],
    },
  ],
  gone: [
    "the session is gone at Claude",
    gone,
    {
      nothing: ["end s", "say gone s"],
      queued: ["end s", "again 1 anew", "say gone s"],
      posting: ["end s", "again 1 anew", "say gone s"],
      posted: ["end s", "again 1 anew", "say gone s"],
      waiting: ["end s", "again 1 anew", "say gone s"],
    },
  ],
  slow: [
    "a prompt takes minutes, but Claude has spoken",
    { type: "slow", id: 1 },
    { nothing: [], queued: [], posting: [], posted: [], waiting: [] },
  ],
  back: ["the line is back soon", { type: "back" }, { nothing: [], queued: [], posting: [], posted: [], waiting: [] }],
  started: [
    "the program starts",
    { type: "started" },
    { nothing: [], queued: [], posting: [], posted: [], waiting: [] },
  ],
  looked: [
    "a call of our own tool asks for a yes",
    {
      type: "looked",
      session,
      looked: [
        {
          use: use("c"),
          item: { what: "run", detail: "make", where: null, fileName: "x" },
          basis: "b",
          mayAlways: false,
          project: "garden",
        },
      ],
    },
    // It is not wanted any more, or waits for its turn: `approval.test.ts`.
    { nothing: [], queued: [], posting: [], posted: [], waiting: [] },
  ],
  settled: [
    "a call of our own tool is settled",
    { type: "settled", session, useId: "c", text: "done", isError: false },
    {
      nothing: ["result of c: done"],
      queued: ["result of c: done"],
      posting: ["result of c: done"],
      posted: ["result of c: done"],
      waiting: ["result of c: done"],
    },
  ],
  worked: [
    "what a command owed is done",
    { type: "worked", id: 7, body: plainText("Taken back.") },
    {
      nothing: ["say command 7", "paid 7"],
      queued: ["say command 7", "paid 7"],
      posting: ["say command 7", "paid 7"],
      posted: ["say command 7", "paid 7"],
      waiting: ["say command 7", "paid 7"],
    },
  ],
  wished: [
    "Claude sets a reminder",
    { type: "wished", session, useId: "c", wish: { do: "set", plan: tea, later: [] } },
    {
      nothing: ["result of c: Nothing was done: the message that asked for it is not open any more."],
      queued: ["schedule 1 reminder", "say note set c", set],
      posting: ["schedule 1 reminder", "say note set c", set],
      posted: ["schedule 1 reminder", "say note set c", set],
      waiting: ["schedule 1 reminder", "say note set c", set],
    },
  ],
  due: [
    "the time of a reminder has come",
    { type: "due", reminder: { ...tea, id: 3, number: 1, chat: self, source: owner }, nextAt: null, isMissed: false },
    {
      nothing: ["unschedule 3", `say remind 3:${at}`],
      queued: ["unschedule 3", `say remind 3:${at}`],
      posting: ["unschedule 3", `say remind 3:${at}`],
      posted: ["unschedule 3", `say remind 3:${at}`],
      waiting: ["unschedule 3", `say remind 3:${at}`],
    },
  ],
  setBack: [
    "the database was set back",
    { type: "setBack", generation: 7 },
    {
      nothing: [],
      queued: ["say note setback 7", ...bothWithdrawn],
      posting: ["say note setback 7", "interrupt 1", ...bothWithdrawn],
      posted: ["say note setback 7", "interrupt 1", ...bothWithdrawn],
      waiting: ["say note setback 7", "no to a", "interrupt 1", ...bothWithdrawn],
    },
  ],
  expired: [
    "the question was not answered in time",
    { type: "expired", askIds: ["a"], isLast: true },
    {
      nothing: [],
      queued: [],
      posting: [],
      posted: [],
      waiting: ["say expired s:a", "no to a", "go on 1"],
    },
  ],
};
