/** Changes that several decisions make: a message is said, a prompt ends or is taken back, a question is answered, a turn is stopped. */
import type { Ask, Change, Outcome, Prompt, Subject, View, Why } from "./changes.ts";
import type { Envelope, OutboundBody, Session, ToolUse } from "./model.ts";
import { plainText } from "./reply.ts";

export const say = (
  why: Why,
  subject: Subject | number,
  body: OutboundBody | string,
  more: { readonly part?: number; readonly draftOf?: number | null } = {},
): Change => ({
  do: "say",
  why,
  subject: typeof subject === "number" ? String(subject) : subject,
  part: more.part ?? 0,
  body: typeof body === "string" ? plainText(body) : body,
  draftOf: more.draftOf ?? null,
});

/** The prompt that is under way in this session. */
export function underWayIn({ head: [prompt] }: View, { id }: Session): Prompt | undefined {
  return prompt?.post?.sessionId === id ? prompt : undefined;
}

/** The result of Claude's call of a tool of ours. */
export const result = (
  { session, useId }: { readonly session: Session; readonly useId: string },
  text: string,
  isError = false,
): Change => ({ do: "result", sessionId: session.id, useId, text, isError });

export const finish = (
  { id, envelope }: { readonly id: number; readonly envelope: Envelope | null },
  outcome: Outcome,
): Change => ({
  do: "finish",
  id,
  envelope,
  outcome,
  left: outcome === "cancelled" ? "(stopped)" : "(no answer)",
});

/** Ends a prompt that failed, and tells the person `text`. */
export const fail = (prompt: Pick<Prompt, "id" | "envelope">, why: Why, text: string): Change[] => [
  say(why, prompt.id, text, { draftOf: prompt.id }),
  finish(prompt, "failed"),
];

/** Ends a prompt that is not going to be answered. `isGone`: the message itself was deleted or replaced, and cannot be marked. */
export function withdraw(view: View, { id, envelope, post }: Prompt, isGone: boolean): Change[] {
  const isOut = post !== null && post.state !== "queued";
  return [
    ...(isOut ? stop(view, String(id), post.sessionId) : []),
    finish({ id, envelope: isGone ? null : envelope }, "cancelled"),
  ];
}

/** Ends what Claude is at work on in a session. */
export const stop = (view: View, subject: string, sessionId: string): Change[] => [
  ...(sessionId === view.session?.id ? refuseAll(view) : []),
  { do: "interrupt", subject, sessionId },
];

export const refuse = (use: ToolUse, reason: string): Change => ({
  do: "answer",
  use,
  isAllowed: false,
  reason,
  approver: null,
});

/** A no to everything that Claude waits for in the current conversation, or that runs here for it. */
export const refuseAll = ({ asks, calls }: View): Change[] =>
  [...asks.flatMap(({ use, call }) => (call === null ? use : [])), ...calls].map((use) => refuse(use, goneOnText));

const goneOnText = "The person went on to something else.";

/** Answers questions; the turn goes on once none is left. `approver`: the person's id; null where no person answered. */
export function confirm(
  view: View,
  asks: readonly Ask[],
  isAllowed: boolean,
  reason: string | null,
  approver: string | null,
): Change[] {
  const why = reason === null ? noText : `${noText} ${reason}`;
  const isLast = view.asks.every((ask) => asks.includes(ask));
  return [
    ...asks.map(({ use }): Change => ({ do: "answer", use, isAllowed, reason: why, approver })),
    ...(isLast ? goOn(view.head[0]) : []),
  ];
}

const noText = "The person said no.";

/** The prompt under way waits for a person. */
export const waits = ({ id, envelope, post }: Prompt): Change[] =>
  post?.state === "posted" ? [{ do: "wait", id, envelope, isWaiting: true }] : [];

/** The prompt under way waits for no person any more. */
export const goOn = (prompt: Prompt | undefined): Change[] =>
  prompt?.post?.state === "waiting" ? [{ do: "wait", id: prompt.id, envelope: prompt.envelope, isWaiting: false }] : [];
