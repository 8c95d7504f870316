/**
 * One chat, one decision: what a fact changes. Pure: it reads a view and answers with changes; `store/apply.ts` writes them in the
 * transaction that also writes the fact, and the queues take it from there.
 *
 *   from Signal   received ─┐                          ┌─▶ ask, confirm, interrupt   a durable post to Claude
 *   from Claude   logged   ─┼─▶ decide(view, fact) ────┼─▶ say, mark                 a durable message to Signal, with its reason
 *   from queues   failed,   │                          ├─▶ open, finish, tell        how one message of a person stands
 *                 gone      │                          └─▶ set, endSession …         the conversation
 *   from time     expired  ─┘
 *
 * What holds after each decision (`checkChat`, in tests, simulation and production):
 *
 *   one      at most one prompt of a chat is under way at Claude, and it is the oldest
 *   settled  a prompt ends in exactly one outcome, and its end is said or shown
 *   asked    while a prompt is open and nothing is under way, Claude waits for a person or the oldest is posted
 *   named    a message has its reason and its subject, so that it exists once
 */
import { faultClass, nextTryMs, promptBounds } from "./backoff.ts";
import { BridgeError, errorRow, toFault, type ErrorCode, type Fault } from "./errors.ts";
import { confirm, say, withdraw } from "./changes.ts";
import type { Ask, Change, Fact, Outcome, Prompt, ToolUse, View } from "./changes.ts";
import { execute } from "./execute.ts";
import { announceSpend, refuse } from "./limit.ts";
import { withFilesOf, type Verdict } from "./inbound.ts";
import { assert, isSameAddress } from "./model.ts";
import type { Envelope, Millis, OutboundBody, Session, SessionEvent, StopReason } from "./model.ts";
import { toolLine } from "./progress.ts";
import { promptWords } from "./prompt.ts";
import { itemOf, question } from "./question.ts";
import { renderReply } from "./reply.ts";
import { ageText } from "./when.ts";
import { isSpent } from "./spend.ts";
import type { Progress } from "./turn.ts";

export function decide(view: View, fact: Fact): Change[] {
  const changes = decideFact(view, fact);
  return [...changes, ...next(view, changes)];
}

function decideFact(view: View, fact: Fact): Change[] {
  switch (fact.type) {
    case "received":
      return received(view, fact);
    case "logged":
      return logged(view, fact);
    case "failed":
      return failed(view, fact);
    case "gone":
      return gone(view, fact.session, fact.isElsewhere);
    case "expired":
      return expired(view, fact);
    case "back":
      return announce(view);
    case "started":
      return [];
    case "setBack":
      return setBack(view, fact.generation);
  }
}

/** The oldest prompt is posted as soon as nothing is under way and Claude waits for no person. */
function next(view: View, changes: readonly Change[]): Change[] {
  const ended = new Set(changes.flatMap((change) => (change.do === "finish" ? change.id : [])));
  const opened = changes.flatMap((change) =>
    change.do === "open" ? [{ id: change.id, envelope: change.envelope }] : [],
  );
  const isOpen = ({ id }: { readonly id: number }): boolean => !ended.has(id);
  if (view.head.some((prompt) => prompt.post !== null && isOpen(prompt)) || openAsks(view, changes).length > 0)
    return [];
  const isMet = ({ envelope }: Pick<Prompt, "envelope">): boolean => isSpent(view.spend(envelope));
  const first = view.head.find(isOpen) ?? (ended.size > 1 ? view.prompts().find(isOpen) : undefined) ?? opened[0];
  if (first === undefined) return [];
  if (!isMet(first)) return [{ do: "ask", id: first.id }];
  const all = [...view.prompts().filter(isOpen), ...opened];
  const allowed = all.findIndex((prompt) => !isMet(prompt));
  const refused = all.slice(0, allowed === -1 ? all.length : allowed);
  const asked = all[refused.length];
  return [
    ...refused.flatMap((prompt) => refuse(view, prompt)),
    ...(asked ? [{ do: "ask", id: asked.id } as const] : []),
  ];
}

function openAsks(view: View, changes: readonly Change[]): Ask[] {
  const isOver = changes.some((change) => change.do === "endSession" || change.do === "resumeSession");
  const answered = new Set(changes.flatMap((change) => (change.do === "confirm" ? change.use.id : [])));
  return isOver ? [] : view.asks.filter(({ use }) => !answered.has(use.id));
}

// --- from Signal

type Received = Extract<Fact, { type: "received" }>;

function received(view: View, fact: Received): Change[] {
  const { id, envelope, verdict } = fact;
  switch (verdict.kind) {
    case "prompt":
      return openPrompt(view, fact, verdict.replaces);
    case "withdraw":
      return takeBack(view, envelope, verdict.targetSentAt);
    case "answer":
      return answer(view, fact, verdict);
    case "command": {
      const taken = takeBack(view, envelope, verdict.replaces);
      const { text, changes } = execute(verdict.name, verdict.argument, { view, id, envelope, look: view.look });
      return [...taken, ...changes, ...(text === null ? [] : [say("command", id, text)])];
    }
    case "hint":
      return [say("command", id, verdict.text)];
    case "drop":
    case "ignore":
      return [];
  }
}

/** An edit that is no prompt any more, or a deletion, takes the earlier message back. */
function takeBack(view: View, envelope: Envelope, sentAt: Millis | null): Change[] {
  const prompt = sentAt === null ? undefined : versionOf(view, envelope, sentAt);
  return prompt ? withdraw(view, prompt, true) : [];
}

function openPrompt(view: View, { id, envelope }: Received, replaces: Millis | null): Change[] {
  const replaced = replaces === null ? undefined : versionOf(view, envelope, replaces);
  const words = promptWords(envelope, view.account);
  const before = replaced
    ? promptWords(replaced.envelope, view.account)
    : replaces === null
      ? null
      : view.endedText(envelope, replaces);
  // A link preview that comes later, or a corrected blank: the question is the same.
  if (before !== null && before === words) return [];
  const whole = replaced ? withFilesOf(envelope, replaced.envelope) : envelope;
  const versions = [envelope.sentAt, ...(replaces === null ? [] : [replaces]), ...(replaced?.versions ?? [])];
  const withdrawn = replaced ? withdraw(view, replaced, true) : [];
  return [
    ...withdrawn,
    { do: "open", id, envelope: whole, versions },
    { do: "mark", id, envelope, stage: "taken" },
    ...(openAsks(view, withdrawn).length > 0 ? remind(view, id, words) : []),
  ];
}

/** A person who writes while Claude waits for a yes or no hears so once per message that is short enough to be meant as one. */
function remind(view: View, id: number, words: string): Change[] {
  const [ask] = view.asks.filter(({ isSaid }) => isSaid);
  if (ask === undefined || words.length > shortMax) return [];
  const text = `Claude still waits for your yes or no: ${toolLine(ask.use)}\nYour message is answered after that.`;
  return [say("note", id, text)];
}

const shortMax = 40;

/** The open prompt of this person that a time of sending names, in any of its versions. */
function versionOf({ prompts }: View, { source }: Envelope, sentAt: Millis): Prompt | undefined {
  return prompts().find(
    ({ envelope, versions }) =>
      versions.includes(sentAt) &&
      source !== null &&
      envelope.source !== null &&
      isSameAddress(envelope.source, source),
  );
}

type Answer = Extract<Verdict, { kind: "answer" }>;

/**
 * A yes or no answers the question that it points to; a plain one the one that is open and that the phones had before it was written,
 * by the sender's clock and by the server's. Anything else is no answer: words are a prompt then, a reaction says nothing.
 */
function answer(view: View, fact: Received, verdict: Answer): Change[] {
  const { id, envelope } = fact;
  const { answer: said, reason, targetSentAt, by, isEntitled, replaces } = verdict;
  const writtenAt = Math.min(envelope.sentAt, envelope.serverAt ?? envelope.sentAt);
  const [first, ...others] = view.asks.filter(({ shown }) =>
    targetSentAt === null
      ? shown.some(({ at }) => at !== null && at <= writtenAt)
      : shown.some(({ sentAt }) => sentAt === targetSentAt),
  );
  if (first === undefined && by === "text") return openPrompt(view, fact, replaces);
  if (first === undefined) return by === "reaction" ? [] : [say("command", id, "Nothing waits for an answer.")];
  if (!isEntitled) return [say("note", id, notYoursText)];
  const taken = takeBack(view, envelope, replaces);
  // The question was that prompt's own, and goes with it.
  if (taken.some((change) => change.do === "confirm")) return taken;
  if (others.length > 0) return [say("note", id, whichText(others.length + 1))];
  const { name } = first.use;
  return [
    ...taken,
    ...(said === "always"
      ? [{ do: "grant", tools: [...view.granted, name] } as const, say("note", id, alwaysText(name))]
      : []),
    ...confirm(view, [first], said !== "no", reason),
  ];
}

const whichText = (count: number): string =>
  `Claude waits for ${count} answers. Please react with 👍 or 👎 to each question, or quote it with yes or no.`;

const notYoursText = "Only the owner, and people who are allowed by name, can answer Claude's questions.";

const alwaysText = (tool: string): string => `Allowed in this conversation from now on: ${tool}. /ask takes it back.`;

// --- from Claude

function logged(view: View, { session, events }: Extract<Fact, { type: "logged" }>): Change[] {
  const [prompt] = view.head;
  const own = prompt?.post?.sessionId === session.id && view.turn !== null ? prompt : undefined;
  const draftOf = own?.id ?? null;
  return [
    ...events.flatMap((event) => sayEvent(session, event, draftOf)),
    ...(session.id === view.session?.id ? sayAsks(view, own) : []),
    ...(own ? turnChanged(view, own, view.turn) : []),
    ...(events.some(({ type }) => type === "terminated") ? gone(view, session, false) : []),
  ];
}

function sayEvent({ id, context }: Session, event: SessionEvent, draftOf: number | null): Change[] {
  if (event.type === "reply")
    return renderReply(event.text).map((body, part) => say("reply", `${id}:${event.id}`, body, { part, draftOf }));
  const isShown = event.type === "tool_use" && !event.isAsk && context["verbose"] === true;
  return isShown ? [say("tool", `${id}:${event.id}`, toolLine(event))] : [];
}

/** Questions at the same time; the rest wait for their turn. */
const asksMax = 5;

function sayAsks(view: View, prompt: Prompt | undefined): Change[] {
  const words = prompt ? promptWords(prompt.envelope, view.account) : "";
  const [first] = view.asks;
  if (first === undefined) {
    const isOver = prompt?.post?.state === "waiting";
    return isOver ? [{ do: "wait", id: prompt.id, isWaiting: false }] : [];
  }
  const asks = view.asks.slice(0, asksMax).filter(({ isSaid }) => !isSaid);
  const free = asks.filter(({ use }) => view.granted.includes(use.name));
  if (free.length > 0) return confirm(view, free, true, null);
  return [
    ...asks.map(({ use }) => say("ask", askSubject(view, use.id), askBody(view, use, words))),
    ...(prompt?.post?.state === "posted"
      ? ([
          { do: "wait", id: prompt.id, isWaiting: true },
          { do: "mark", id: prompt.id, envelope: prompt.envelope, stage: "waiting" },
        ] as const)
      : []),
  ];
}

/** The question says all of what is approved; what is too long for a message is a file beside it. */
function askBody(view: View, use: ToolUse, prompt: string): OutboundBody {
  const isGroup = view.chat.kind === "group" || view.asks.length > 1;
  const { text, file } = question([itemOf(use)], { prompt, isGroup });
  return { kind: "text", text, styles: [], quote: null, files: file ? [file] : [] };
}

export const askSubject = ({ session }: Pick<View, "session">, askId: string): string =>
  `${session?.id ?? ""}:${askId}`;

/** What the new standing of the turn means for the prompt under way. */
function turnChanged(view: View, prompt: Prompt, turn: Progress | null): Change[] {
  if (turn?.kind === "ended") return finishTurn(view, prompt, turn.stop);
  if (turn?.kind !== "flushed") return [];
  return failed(view, { type: "failed", id: prompt.id, fault: deathOf(view), hasSpoken: false, isLost: true });
}

/** **Source:** types of `session.error` in the SDK's `BetaManagedAgentsSessionErrorEvent`. */
const deaths: { readonly [name: string]: ErrorCode } = {
  model_rate_limited_error: "claude_rate_limited",
  model_overloaded_error: "claude_overloaded",
  overloaded_error: "claude_overloaded",
  billing_error: "claude_credit",
  compaction_limit_reached_error: "claude_context",
  // The same prompt would run, and cost, as much again.
  tool_use_limit_reached_error: "claude_request",
};

/** What Claude gave the turn up for. Without a word of its own it was thrown away with another turn. */
function deathOf({ lastError }: View): Fault {
  const name = lastError?.code ?? "";
  const code = name === "" ? "claude_overloaded" : (deaths[name] ?? "claude_failed");
  const message = `Cannot finish the turn as Claude gave it up: ${name === "" ? "no reason given" : name}`;
  return toFault(new BridgeError(code, message));
}

function finishTurn(view: View, { id, envelope }: Prompt, stop: StopReason): Change[] {
  const outcome = outcomeOf(stop);
  const text = lastWord(stop, view.hasReply());
  return [
    ...(text === null ? [] : [say("end", id, text, { draftOf: id })]),
    { do: "finish", id, outcome },
    { do: "mark", id, envelope, stage: outcome === "failed" ? "failed" : "done" },
    ...(view.isWelcome(envelope) ? [] : [{ do: "welcome", envelope } as const]),
    ...announceSpend(view, envelope),
  ];
}

const outcomeOf = ({ kind }: StopReason): Outcome =>
  kind === "refusal" || kind === "context_exceeded" || kind === "budget_reached" ? "failed" : "answered";

/** What the person must still be told when a turn has ended, or null. */
function lastWord(stop: StopReason, hasReply: boolean): string | null {
  switch (stop.kind) {
    case "refusal":
      return errorRow("claude_refusal").chat ?? null;
    case "context_exceeded":
      return errorRow("claude_context").chat ?? null;
    case "budget_reached":
      return errorRow("claude_budget").chat ?? null;
    case "max_tokens":
      return hasReply
        ? 'The answer was cut at the length limit. Say "go on" for the rest.'
        : "Claude used up the length limit on thinking, before a word was written. Ask for less at once, or try /effort low.";
    case "cut":
      return 'The line to Claude broke off here. Say "go on" for the rest.';
    case "end_turn":
    case "requires_action":
    case "retries_exhausted":
    case "other":
      return hasReply ? null : "Claude finished without a message.";
  }
}

// --- from the queues and from time

/** Faults that a person must mend: there is no point in waiting for them to pass before they are told. */
const lasting: ReadonlySet<ErrorCode> = new Set([
  "claude_key",
  "claude_credit",
  "claude_spend_limit",
  "claude_forbidden",
  "claude_model",
]);
/** What passes within seconds is not told. */
const quietTries = 2;
const quietWaitMs: Millis = 30_000;

/** A request for a prompt failed: its person hears of it once, and of its end. */
function failed(view: View, { id, fault, hasSpoken, isLost }: Extract<Fact, { type: "failed" }>): Change[] {
  const prompt = view.head.find((open) => open.id === id);
  if (!prompt) return [];
  const { envelope, told, post } = prompt;
  const isFatal = view.lastError?.isTerminal === true;
  const { retry, chat: sentence, title } = errorRow(fault.code);
  const kind = faultClass({ code: fault.code, retry }, { isFatal, isAskedAnew: view.isAskedAnew, hasSpoken });
  const tries = { ...post?.tries, [kind]: (post?.tries[kind] ?? 0) + 1 };
  const waitMs = nextTryMs(kind, { attempt: tries[kind] ?? 1, jitter: view.jitter, retryAfterMs: fault.retryAfterMs });
  const count = Object.values(tries).reduce((sum, one) => sum + one, 0);
  const isLasting = waitMs !== null && (lasting.has(fault.code) || count > quietTries || waitMs > quietWaitMs);
  const over = isFatal
    ? `Claude's session ended over that message: ${title}. Your next message starts a fresh one.`
    : promptBounds[kind].ending;
  const text = waitMs === null ? (over ?? sentence) : sentence;
  // Once; but a person who was promised an answer hears that none will come.
  const isTold = waitMs === null || (isLasting && kind !== "broken" && told === null);
  return [
    ...(isTold && text !== undefined
      ? [
          say(told === null ? "told" : "failed", id, text, { draftOf: waitMs === null ? id : null }),
          { do: "tell", id, code: fault.code } as const,
        ]
      : []),
    ...(isTold ? [{ do: "mark", id, envelope, stage: waitMs === null ? "failed" : "waiting" } as const] : []),
    waitMs === null ? { do: "finish", id, outcome: "failed" } : { do: "again", id, isLost, tries, waitMs },
  ];
}

/**
 * The session is gone at Claude: what was under way there is asked anew in a fresh one, and the person is told; but a prompt of
 * which it died is not asked again.
 */
function gone(view: View, session: Session, isElsewhere: boolean): Change[] {
  const [prompt] = view.head;
  const own = prompt?.post?.sessionId === session.id ? prompt : undefined;
  const end: Change[] = session.state === "active" ? [{ do: "endSession", id: session.id }] : [];
  if (own && view.lastError?.isTerminal)
    return [
      ...end,
      ...failed(view, { type: "failed", id: own.id, fault: deathOf(view), hasSpoken: false, isLost: true }),
    ];
  return [
    ...end,
    ...(own?.post ? [{ do: "again", id: own.id, isLost: true, tries: own.post.tries, waitMs: 0 } as const] : []),
    ...(end.length > 0 ? [say("gone", session.id, goneText(isElsewhere))] : []),
  ];
}

const goneText = (isElsewhere: boolean): string =>
  `Claude's session for this chat ${isElsewhere ? "was closed elsewhere" : "broke off"}. The next message starts a fresh one.`;

/** Asked again it might be asked twice: its person knows whether it was answered. */
function setBack(view: View, generation: number): Change[] {
  const open = view.prompts();
  if (open.length === 0) return [];
  const what = open.length === 1 ? "A message" : `${open.length} messages`;
  const text = `My memory was set back to an earlier state. ${what} of yours stood open in it: please send again what was not answered.`;
  return [say("note", `setback ${generation}`, text), ...open.flatMap((prompt) => withdraw(view, prompt, false))];
}

const minuteMs: Millis = 60_000;
/** After an absence, more waiting messages than these, or older ones, are announced. */
const digestCount = 3;
const digestAgeMs: Millis = 60 * minuteMs;

/** Says where much, or something old, waits that it is answered now. What was announced is not announced again where the line flaps. */
function announce({ prompts, now, announcedUpTo }: View): Change[] {
  const waiting = prompts().filter(({ post }) => post === null || post.state === "queued");
  const [first] = waiting;
  const newest = waiting.at(-1)?.id ?? 0;
  // The sender's clock may be ahead.
  const sentAt = ({ envelope, receivedAt }: Prompt): Millis =>
    Math.min(receivedAt, envelope.serverAt ?? envelope.sentAt);
  const oldMs = Math.max(0, ...waiting.map((prompt) => now - sentAt(prompt)));
  if (first === undefined || (waiting.length <= digestCount && oldMs <= digestAgeMs) || first.id <= announcedUpTo())
    return [];
  const isOne = waiting.length === 1;
  const count = isOne ? "1 message" : `${waiting.length} messages`;
  const text = `${count} waiting, the oldest ${ageText(oldMs)}: answering now; /skip to drop ${isOne ? "it" : "them"}.`;
  return [say("digest", newest, text), { do: "announced", id: newest }];
}

function expired(view: View, { askIds, isLast }: Extract<Fact, { type: "expired" }>): Change[] {
  const asks = view.asks.filter(({ use }) => askIds.includes(use.id));
  const [first] = asks;
  if (first === undefined) return [];
  const subject = askSubject(view, first.use.id);
  if (!isLast) return [say("reminder", subject, `Claude still waits for your yes or no: ${toolLine(first.use)}`)];
  return [say("expired", subject, expiredText), ...confirm(view, asks, false, "The person did not answer in time.")];
}

const expiredText = "Claude's question was not answered in time, so the answer was no.";

/** In tests and simulation, after each decision has been applied. */
export function checkChat({ prompts, asks }: Pick<View, "prompts" | "asks">): void {
  const open = prompts();
  const underWay = open.filter(({ post }) => post !== null);
  assert(underWay.length <= 1, "one: at most one prompt of a chat is under way");
  assert(underWay.length === 0 || underWay[0] === open[0], "one: the prompt under way is the oldest");
  assert(
    open.length === 0 || underWay.length === 1 || asks.length > 0,
    "asked: an open prompt is posted, or Claude waits",
  );
}
