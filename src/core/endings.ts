/** How a message of a person ends: answered, refused, cut or failed; and what its person is told of that. */
import { faultClass, nextTryMs, promptBounds } from "./backoff.ts";
import { say } from "./changes.ts";
import type { Change, Fact, Outcome, Prompt, View } from "./changes.ts";
import { BridgeError, errorRow, toFault, type ErrorCode, type Fault } from "./errors.ts";
import type { Envelope, Millis, Session, StopReason } from "./model.ts";
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
  const count = Object.values(tries).reduce((sum, one) => sum + one, 0);
  const isLasting = waitMs !== null && (lasting.has(fault.code) || count > quietTries || waitMs > quietWaitMs);
  const over = isFatal
    ? `Claude's session ended over that message: ${title}. Your next message starts a fresh one.`
    : promptBounds[kind].ending;
  const text = waitMs === null ? (over ?? sentence) : sentence;
  // Once; but a person who was promised an answer hears that none will come.
  const isTold =
    waitMs === null || (told === null && (fault.code === "claude_silent" || (isLasting && kind !== "broken")));
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
export function gone(view: View, session: Session, isElsewhere: boolean): Change[] {
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
