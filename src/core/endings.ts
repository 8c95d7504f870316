/** How a message of a person ends: answered, refused, cut or failed; and what its person is told of that. */
import { callsMax, faultClass, nextTryMs, promptBounds } from "./backoff.ts";
import { askSubject, waits } from "./approval.ts";
import { say, stop } from "./changes.ts";
import type { Change, Fact, Outcome, Post, Prompt, View } from "./changes.ts";
import { BridgeError, errorRow, toFault, type ErrorCode, type Fault } from "./errors.ts";
import type { Envelope, Millis, Session, SessionEvent, StopReason } from "./model.ts";
import { toolLine } from "./progress.ts";
import { isAnnounced, refusalText, spendText } from "./spend.ts";

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
export function deathOf({ lastError }: View): Fault {
  const name = lastError?.code ?? "";
  const code = name === "" ? "claude_overloaded" : (deaths[name] ?? "claude_failed");
  const message = `Cannot finish the turn as Claude gave it up: ${name === "" ? "no reason given" : name}`;
  return toFault(new BridgeError(code, message));
}

export function finishTurn(view: View, { id, envelope }: Prompt, stop: StopReason): Change[] {
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

/** Faults that a person must mend: there is no point in waiting for them to pass before they are told. */
const lasting: ReadonlySet<ErrorCode> = new Set([
  "claude_no_key",
  "claude_key",
  "claude_credit",
  "claude_spend_limit",
  "claude_forbidden",
  "claude_model",
  "claude_program",
  "claude_login",
]);
/** What passes within seconds is not told. */
const quietTries = 2;
const quietWaitMs: Millis = 30_000;

/** A request for a prompt failed: its person hears of it once, and of its end. */
export function failed(view: View, { id, fault, hasSpoken, isLost }: Extract<Fact, { type: "failed" }>): Change[] {
  const prompt = view.head.find((open) => open.id === id);
  if (!prompt) return [];
  const { envelope, told, post } = prompt;
  const isFatal = view.lastError?.isTerminal === true;
  const { retry, chat: sentence, title } = errorRow(fault.code);
  const kind = faultClass({ code: fault.code, retry }, { isFatal, isAskedAnew: view.isAskedAnew, hasSpoken });
  const tries = { ...post?.tries, [kind]: (post?.tries[kind] ?? 0) + 1 };
  const waitMs = nextTryMs(kind, { attempt: tries[kind] ?? 1, jitter: view.jitter, retryAfterMs: fault.retryAfterMs });
  // What is looked up goes on at Claude, and is no failure of the prompt.
  const count = Object.values({ ...tries, lookup: 0 }).reduce((sum, one) => sum + one, 0);
  const isLasting = waitMs !== null && (lasting.has(fault.code) || count > quietTries || waitMs > quietWaitMs);
  const over = isFatal
    ? `Claude's session ended over that message: ${title}. Your next message starts a fresh one.`
    : promptBounds[kind].ending;
  const text = waitMs === null ? (over ?? sentence) : sentence;
  // Once; but a person who was promised an answer hears that none will come.
  const isTold =
    waitMs === null ||
    (text !== undefined && told === null && (fault.code === "claude_silent" || (isLasting && kind !== "broken")));
  return [
    ...(isTold && text !== undefined
      ? [
          say(told === null ? "told" : "failed", id, text, { draftOf: waitMs === null ? id : null }),
          { do: "tell", id, code: fault.code } as const,
        ]
      : []),
    ...(isTold ? [{ do: "mark", id, envelope, stage: waitMs === null ? "failed" : "waiting" } as const] : []),
    ...(kind === "busy" && tries.busy === stopAtTry && post && view.asks.length + view.calls.length === 0
      ? stop(view, `busy:${id}`, post.sessionId)
      : []),
    // What is given up goes on nowhere.
    ...(waitMs === null && !isLost && !isFatal && isUnderWay(post) ? stop(view, String(id), post.sessionId) : []),
    waitMs === null ? { do: "finish", id, outcome: "failed" } : { do: "again", id, isLost, tries, waitMs },
  ];
}

/** What the session waits for, and does not show, is stopped before the last try. */
const stopAtTry = promptBounds.busy.triesMax - 1;

const isUnderWay = (post: Post | null): post is Post => post?.state === "posted" || post?.state === "waiting";

/** Stops a turn that would go on, or wait, without an end, in words. */
const giveUp = (view: View, { id, envelope }: Prompt, sessionId: string, text: string): Change[] => [
  ...stop(view, String(id), sessionId),
  say("end", id, text, { draftOf: id }),
  { do: "finish", id, outcome: "failed" },
  { do: "mark", id, envelope, stage: "failed" },
];

/** A turn that calls our tools over and over, or rests for what no person can answer. */
export function endStuck(view: View, session: Session, own: Prompt, events: readonly SessionEvent[]): Change[] {
  const last = events.flatMap((event) => (event.type === "idle" ? event.stop : [])).at(-1);
  const isOwn = view.turn?.kind === "waiting" || view.turn?.kind === "running";
  if (!isOwn || last?.kind !== "requires_action") return [];
  const { eventIds } = last;
  const isStuck = eventIds.length === 0 || !view.canAnswer(session.id, eventIds);
  if (!isStuck && view.callCount(session.id, own) < callsMax) return [];
  const isCall = (event: SessionEvent): boolean => event.type === "tool_use" && event.isLocal;
  const calls = events
    .filter(isCall)
    .map(({ id }): Change => ({ do: "dropCall", useId: id, reason: "It was stopped.", approver: null }));
  return [...calls, ...giveUp(view, own, session.id, isStuck ? stuckText : loopText)];
}

const stuckText = "Claude waits for something that cannot be answered from here, so I have stopped it.";
const loopText = `Claude used its tools ${callsMax} times for that message and found no end, so I have stopped it. Say "go on" if it should continue.`;

/** Claude does not take an answer to its own question: another may do, a few times; then the turn is stopped. */
export function refusedAnswer(view: View, fact: Extract<Fact, { type: "refused" }>): Change[] {
  const { session, use, isResult, count, fault } = fact;
  const [prompt] = view.head;
  const own = prompt?.post?.sessionId === session.id ? prompt : undefined;
  const subject = askSubject({ session }, use.id);
  const isOver = nextTryMs("answer", { attempt: count, jitter: view.jitter, retryAfterMs: null }) === null;
  if (!isOver && isResult) {
    const text = "The result of this call could not be handed over.";
    return [{ do: "result", sessionId: session.id, useId: use.id, text, isError: true }];
  }
  if (!isOver) {
    const text = `Claude did not take that answer. Please answer once more: ${toolLine(use)}`;
    // It shows the question again, and takes an answer like it; its part is its own.
    const question = view.asks.find((ask) => ask.use.id === use.id)?.question;
    const part = -(10 * (question?.number ?? 1) + count);
    return [say("reminder", question?.subject ?? subject, text, { part }), ...(own ? waits(own) : [])];
  }
  const told = fault.code === "claude_request" ? null : errorRow(fault.code).chat;
  return [
    ...stop(view, own ? String(own.id) : subject, session.id).filter(
      (change) => change.do !== "confirm" || change.use.id !== use.id,
    ),
    say("refused", subject, told ?? promptBounds.answer.ending ?? "", { draftOf: own?.id ?? null }),
    ...(own
      ? ([
          { do: "finish", id: own.id, outcome: "failed" },
          { do: "mark", id: own.id, envelope: own.envelope, stage: "failed" },
        ] as const)
      : []),
  ];
}

/**
 * The session is gone at Claude: what was under way there is asked anew in a fresh one, once, and the person is told; but a prompt of
 * which it died is not asked again.
 */
export function gone(view: View, session: Session, isElsewhere: boolean): Change[] {
  const [prompt] = view.head;
  const own = prompt?.post?.sessionId === session.id ? prompt : undefined;
  const end: Change[] = session.state === "active" ? [{ do: "endSession", id: session.id }] : [];
  // A prompt whose sessions go with it, one after the other, is not asked for ever; where it is the first, it is asked anew at once.
  const tries = { ...own?.post?.tries, died: (own?.post?.tries.died ?? 0) + 1 };
  const isTerminal = view.lastError?.isTerminal === true;
  if (own && (isTerminal || tries.died >= promptBounds.died.triesMax)) {
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

/** Its person has spent what a day allows: what was not asked yet is not asked. */
export function refuse(view: Pick<View, "spend">, { id, envelope }: Pick<Prompt, "id" | "envelope">): Change[] {
  const spend = view.spend(envelope);
  return [
    ...(spend === null ? [] : [say("failed", id, refusalText(spend))]),
    { do: "finish", id, outcome: "failed" },
    { do: "mark", id, envelope, stage: "failed" },
  ];
}

export function announceSpend(view: Pick<View, "spend">, envelope: Envelope): Change[] {
  const spend = view.spend(envelope);
  return spend !== null && isAnnounced(spend) ? [say("spend", spend.subject, spendText(spend))] : [];
}
