/** How a message of a person ends: answered, refused, cut or failed; and what its person is told of that. */
import { callsMax, countTry, faultClass, isLastTry, promptBounds } from "./backoff.ts";
import { fail, finish, refuse, result, say, stop, underWayIn, waits } from "./common-changes.ts";
import type { Change, FactOf, Prompt, View } from "./changes.ts";
import { BridgeError, errorRow, toFault, type ErrorCode, type Fault } from "./errors.ts";
import type { Envelope, Millis, Session, SessionEvent, StopReason } from "./model.ts";
import { toolLine } from "./question.ts";
import { isAnnounced, personOf, spendText } from "./spend.ts";

/** **Source:** types of `session.error` in the SDK's `BetaManagedAgentsSessionErrorEvent`. */
const deaths: { readonly [name: string]: ErrorCode } = {
  model_rate_limited_error: "claude_rate_limited",
  model_overloaded_error: "claude_overloaded",
  overloaded_error: "claude_overloaded",
  billing_error: "claude_credit",
  compaction_limit_reached_error: "claude_context",
  // A fault that is not tried again, since the same prompt would cost as much again.
  tool_use_limit_reached_error: "claude_tool_limit",
};

/** The fault by which Claude gave the turn up: the log's last error. A log without one means that the turn was dropped with another. */
export function deathOf({ lastError }: View): Fault {
  const name = lastError?.code ?? "";
  const code = name === "" ? "claude_overloaded" : (deaths[name] ?? "claude_failed");
  const message = `Cannot finish the turn as Claude gave it up: ${name === "" ? "no reason given" : name}`;
  return toFault(new BridgeError(code, message));
}

/** Stop reasons that count as failures, each with the error code whose sentence the person reads. */
const failures: { readonly [kind in StopReason["kind"]]?: ErrorCode } = {
  refusal: "claude_refusal",
  context_exceeded: "claude_context",
  budget_reached: "claude_budget",
};

/** The error code of a stop; an `other` stop may have the name of an error, with or without its `_error`. */
const failureOf = (stop: StopReason): ErrorCode | undefined =>
  stop.kind === "other" ? (deaths[stop.name] ?? deaths[`${stop.name}_error`]) : failures[stop.kind];

export function finishTurn(view: View, prompt: Prompt, stop: StopReason): Change[] {
  const { id, envelope } = prompt;
  const code = failureOf(stop);
  const text = code === undefined ? lastWord(stop.kind, view.hasReply()) : errorRow(code).chat;
  const spend = view.spend(envelope);
  return [
    ...(text === null ? [] : [say("end", id, text, { draftOf: id })]),
    finish(prompt, code === undefined ? "answered" : "failed"),
    ...welcome(view, envelope),
    ...(spend !== null && isAnnounced(spend) ? [say("spend", spend.subject, spendText(spend))] : []),
  ];
}

/** A person who asked for the first time is greeted behind the answer. */
function welcome(view: View, envelope: Envelope): Change[] {
  const person = personOf(envelope.source);
  if (person === "" || view.isWelcome(envelope)) return [];
  return [say("welcome", person, welcomeText), { do: "welcome", person }];
}

const welcomeText =
  "Welcome: write to Claude here as you would to a friend; pictures, PDFs and text files are fine, too.\n/help shows what else I understand.";

/** The sentence that the person still needs when a turn has ended; null where Claude's own message is enough. */
function lastWord(kind: StopReason["kind"], hasReply: boolean): string | null {
  if (kind === "cut") return 'The line to Claude broke off here. Say "go on" for the rest.';
  if (kind !== "max_tokens") return hasReply ? null : "Claude finished without a message.";
  return hasReply
    ? 'The answer was cut at the length limit. Say "go on" for the rest.'
    : "Claude used up the length limit on thinking, before a word was written. Ask for less at once, or try /effort low.";
}

/** The failures, and the wait, beyond which the person is told of an outage: a shorter one is over before the message is read. */
const quietTries = 2;
const quietWaitMs: Millis = 30_000;

/** A request for a prompt failed: the person hears of the fault once, and again if the prompt is given up. */
export function failed(view: View, { id, fault, hasSpoken, isLost }: FactOf<"failed">): Change[] {
  const prompt = view.head.find((open) => open.id === id);
  if (!prompt) return [];
  const { envelope, told, post } = prompt;
  const isFatal = view.lastError?.isTerminal === true;
  const { chat: sentence, title, isLasting: mustBeMended } = errorRow(fault.code);
  const kind = faultClass(fault.code, { isFatal, isAskedAnew: view.isAskedAnew, hasSpoken });
  const { tries, waitMs } = countTry(kind, post?.tries, { jitter: view.jitter, retryAfterMs: fault.retryAfterMs });
  if (waitMs === null) {
    const over = isFatal
      ? `Claude's session ended over that message: ${title}. Your next message starts a fresh one.`
      : promptBounds[kind].ending;
    // A prompt that is given up is stopped at Claude, too.
    const isUnderWay = post?.state === "posted" || post?.state === "waiting";
    const stops = !isLost && !isFatal && isUnderWay ? stop(view, String(id), post.sessionId) : [];
    // A person who was promised an answer hears that none will come.
    return [...stops, ...fail(prompt, told === null ? "told" : "failed", over ?? sentence ?? `${title}.`)];
  }
  // A `lookup` is no failure of the prompt, since Claude goes on with it meanwhile.
  const count = Object.values({ ...tries, lookup: 0 }).reduce((sum, one) => sum + one, 0);
  const isLasting = mustBeMended || count > quietTries || waitMs > quietWaitMs;
  const isTold = fault.code === "claude_silent" || (isLasting && kind !== "broken");
  return [
    ...(told === null && isTold && sentence !== null
      ? [say("told", id, sentence), { do: "tell", id, envelope, code: fault.code } as const]
      : []),
    ...(kind === "busy" && tries.busy === stopAtTry && post && view.asks.length + view.calls.length === 0
      ? stop(view, `busy:${id}`, post.sessionId)
      : []),
    { do: "again", id, isLost, tries, waitMs },
  ];
}

/** Claude may think, and use its tools, for long without a word: the person hears once that Claude is at work. */
export function slow(view: View, { id }: FactOf<"slow">): Change[] {
  const prompt = view.head.find((open) => open.id === id);
  return prompt && !view.isSeen(prompt) ? [say("slow", id, slowText)] : [];
}

const slowText = "Claude is still at work on that. Its answer comes as soon as there is one; /stop ends it.";

/** The failure after which a busy session is stopped, as it waits for something that its log does not show: the last try finds it idle. */
const stopAtTry = promptBounds.busy.triesMax - 1;

/** Ends a turn that calls our tools over and over, or that waits for something that no person can answer. */
export function endStuck(view: View, session: Session, own: Prompt, events: readonly SessionEvent[]): Change[] {
  const last = events.flatMap((event) => (event.type === "idle" ? event.stop : [])).at(-1);
  if (view.turn?.kind !== "running" || last?.kind !== "requires_action") return [];
  const { eventIds } = last;
  const isStuck = eventIds.length === 0 || !view.canAnswer(session.id, eventIds);
  if (!isStuck && view.callCount(session.id, own) < callsMax) return [];
  return [
    ...events.flatMap((event) => (event.type === "tool_use" && event.isLocal ? refuse(event, "It was stopped.") : [])),
    ...stop(view, String(own.id), session.id),
    ...fail(own, "end", isStuck ? stuckText : loopText),
  ];
}

const stuckText = "Claude waits for something that cannot be answered from here, so I have stopped it.";
const loopText = `Claude used its tools ${callsMax} times for that message and found no end, so I have stopped it. Say "go on" if it should continue.`;

/** Claude refused an answer to its own question: another is asked for up to `promptBounds.answer`; then the turn is stopped. */
export function refusedAnswer(view: View, fact: FactOf<"refused">): Change[] {
  const { postId, session, use, isResult, fault } = fact;
  // A tool use that was answered elsewhere, or whose turn is being stopped, needs no other answer.
  if (session.state !== "active" || use === null || fact.isStopped) return [{ do: "unanswered", postId, tries: null }];
  const count = (fact.tries.answer ?? 0) + 1;
  const counted: Change = { do: "unanswered", postId, tries: { ...fact.tries, answer: count } };
  const own = underWayIn(view, session);
  const isOver = isLastTry("answer", count);
  if (!isOver && isResult)
    return [counted, result({ session, useId: use.id }, "The result of this call could not be handed over.", true)];
  if (!isOver) {
    const text = `Claude did not take that answer. Please answer once more: ${toolLine(use)}`;
    // The reminder shows the question again and takes an answer as the question does; `part` tells it from other reminders.
    const question = view.asks.find((ask) => ask.use.id === use.id)?.question;
    const part = -(10 * (question?.number ?? 1) + count);
    const subject = question?.subject ?? { sessionId: session.id, uses: [use.id] };
    return [counted, say("reminder", subject, text, { part }), ...(own ? waits(own) : [])];
  }
  const { retry, chat } = errorRow(fault.code);
  // The sentence of a fault that passes says that the message waits, which is over now: the ending of `answer` stands in its place.
  const told = fault.code === "claude_request" || retry !== "never" ? null : chat;
  return [
    counted,
    ...stop(view, own ? String(own.id) : use.id, session.id).filter(
      (change) => change.do !== "answer" || change.use.id !== use.id,
    ),
    say("refused", { sessionId: session.id, id: use.id }, told ?? promptBounds.answer.ending ?? "", {
      draftOf: own?.id ?? null,
    }),
    ...(own ? [finish(own, "failed")] : []),
  ];
}

/**
 * The session is gone at Claude: its prompt under way is asked anew in a fresh session, once, and the person is told; a prompt that
 * ended its session is not asked again.
 */
export function gone(view: View, { session, isElsewhere }: Omit<FactOf<"gone">, "type">): Change[] {
  const own = underWayIn(view, session);
  const end: Change[] = session.state === "active" ? [{ do: "endSession", id: session.id }] : [];
  // A prompt under which session after session goes is not asked for ever: after the first it is asked anew at once, within `died`.
  const tries = { ...own?.post?.tries, died: (own?.post?.tries.died ?? 0) + 1 };
  const isTerminal = view.lastError?.isTerminal === true;
  if (own && (isTerminal || isLastTry("died", tries.died))) {
    const closed = new BridgeError("claude_failed", "Cannot finish the turn as its session is gone");
    const fault = isTerminal ? deathOf(view) : toFault(closed);
    return [...end, ...failed(view, { type: "failed", id: own.id, fault, hasSpoken: false, isLost: true })];
  }
  return [
    ...end,
    ...(own?.post ? [{ do: "again", id: own.id, isLost: true, tries, waitMs: 0 } as const] : []),
    ...(end.length > 0 ? [say("gone", session.id, goneText(isElsewhere))] : []),
  ];
}

const goneText = (isElsewhere: boolean): string =>
  `Claude's session for this chat ${isElsewhere ? "was closed elsewhere" : "broke off"}. The next message starts a fresh one.`;
