/**
 * Decides what one fact changes in one chat. Pure: it reads a view and answers with changes; `store/apply.ts` writes them in the
 * transaction that also writes the fact, and the queues take it from there.
 *
 *   from Signal   received ─┐                          ┌─▶ ask, confirm, interrupt   a durable post to Claude
 *   from Claude   logged   ─┼─▶ decide(view, fact) ────┼─▶ say, mark                 a durable message to Signal, with its reason
 *   from queues   failed, … │                          ├─▶ open, finish, tell        how one message of a person stands
 *                 gone      │                          └─▶ set, endSession …         the conversation
 *   from time     expired  ─┘
 *
 * Four invariants hold after each decision:
 *
 *   one      at most one prompt of a chat is under way at Claude, and it is the oldest             `checkChat`
 *   asked    while a prompt is open and nothing is under way, Claude waits for a person or the
 *            oldest is posted                                                                     `checkChat`
 *   settled  a prompt ends in exactly one outcome, and its end is said or shown                    `test/core/chat-rules.test.ts`
 *   named    a message has its reason and its subject, so that it exists once                      a UNIQUE of `outbox`
 *
 * `checkChat` is asserted in tests and in the simulation; the daemon does not pay for it.
 */
import { answer, askCalls, expired, isRest, remind, sayAsks } from "./approval.ts";
import { fail, result, say, underWayIn, withdraw } from "./common-changes.ts";
import type { Ask, Change, Fact, FactOf, Prompt, View } from "./changes.ts";
import { deathOf, endStuck, failed, finishTurn, gone, refusedAnswer, slow } from "./endings.ts";
import { execute } from "./execute.ts";
import { withFilesOf } from "./inbound.ts";
import { assert, isSameAddress } from "./model.ts";
import type { Envelope, Millis, Session, SessionEvent } from "./model.ts";
import { toolLine } from "./question.ts";
import { promptWords } from "./prompt.ts";
import { deliverReminder, fulfil } from "./reminders.ts";
import { renderReply } from "./reply.ts";
import { isSpent, refusalText } from "./spend.ts";
import { duration } from "./when.ts";

export function decide(view: View, fact: Fact): Change[] {
  // The type of the table pairs every fact with its decision; a computed look-up cannot say so.
  const decided = (decisions[fact.type] as (view: View, fact: Fact) => Change[])(view, fact);
  const changes = [...decided, ...next(view, decided)];
  const isMade = view.left !== null && changes.some((change) => inSession.has(change.do));
  return isMade ? [{ do: "endSession", id: view.left.id }, ...changes] : changes;
}

/** Changes that go on in the current conversation, or make one: a conversation that another line keeps ends before them. */
const inSession: ReadonlySet<Change["do"]> = new Set(["ask", "again", "set"]);

const decisions: { readonly [Type in Fact["type"]]: (view: View, fact: FactOf<Type>) => Change[] } = {
  received,
  logged,
  failed,
  refused: refusedAnswer,
  gone,
  slow,
  expired,
  back: announce,
  looked: askCalls,
  settled: (_, fact) => [result(fact, fact.text, fact.isError)],
  worked: (_, { id, body }) => [say("command", id, body), { do: "paid", id }],
  wished: fulfil,
  due: deliverReminder,
  started: leftBehind,
  setBack,
};

/** A prompt under way in a conversation of another backend, which the settings named before, is asked anew in a fresh one. */
function leftBehind(view: View): Change[] {
  const { left } = view;
  if (left === null || underWayIn(view, left) === undefined) return [];
  // `decide` ends that conversation, as before any change that makes another.
  return gone(view, { session: left, isElsewhere: false }).filter((change) => change.do !== "endSession");
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
  const first = view.head.find(isOpen) ?? (ended.size > 1 ? view.prompts().find(isOpen) : undefined) ?? opened[0];
  if (first === undefined) return [];
  if (!isSpent(view.spend(first.envelope))) return [{ do: "ask", id: first.id }];
  const refused: Change[] = [];
  for (const prompt of [...view.prompts().filter(isOpen), ...opened]) {
    const spend = view.spend(prompt.envelope);
    if (!isSpent(spend)) return [...refused, { do: "ask", id: prompt.id }];
    refused.push(...fail(prompt, "failed", refusalText(spend)));
  }
  return refused;
}

function openAsks(view: View, changes: readonly Change[]): Ask[] {
  const isOver = changes.some((change) => change.do === "endSession" || change.do === "resumeSession");
  const answered = new Set(changes.flatMap((change) => (change.do === "answer" ? change.use.id : [])));
  return isOver ? [] : view.asks.filter(({ use }) => !answered.has(use.id));
}

// --- from Signal

function received(view: View, fact: FactOf<"received">): Change[] {
  const { id, envelope, verdict } = fact;
  switch (verdict.kind) {
    case "prompt":
      return openPrompt(view, fact, verdict.replaces);
    case "withdraw":
      return takeBack(view, envelope, verdict.targetSentAt);
    case "answer":
      return (
        answer(view, fact, verdict, () => takeBack(view, fact.envelope, verdict.replaces)) ??
        openPrompt(view, fact, verdict.replaces)
      );
    case "command": {
      const taken = takeBack(view, envelope, verdict.replaces);
      const { text, changes } = execute(verdict.name, verdict.argument, { view, id, envelope });
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

function openPrompt(view: View, { id, envelope }: FactOf<"received">, replaces: Millis | null): Change[] {
  const replaced = replaces === null ? undefined : versionOf(view, envelope, replaces);
  const words = promptWords(envelope, view.account);
  const before = replaced
    ? promptWords(replaced.envelope, view.account)
    : replaces === null
      ? null
      : view.endedText(envelope, replaces);
  // The edit leaves the words as they were (a late link preview, a corrected blank), so it asks nothing new.
  if (before !== null && before === words) return [];
  const whole = replaced ? withFilesOf(envelope, replaced.envelope) : envelope;
  const versions = [envelope.sentAt, ...(replaces === null ? [] : [replaces]), ...(replaced?.versions ?? [])];
  const withdrawn = replaced ? withdraw(view, replaced, true) : [];
  return [
    ...withdrawn,
    { do: "open", id, envelope: whole, versions },
    ...(openAsks(view, withdrawn).length > 0 ? remind(view, id, words) : []),
  ];
}

/** The open prompt of this person of which any version was sent at this time. */
function versionOf({ named }: View, { source }: Envelope, sentAt: Millis): Prompt | undefined {
  return named(sentAt).find(
    ({ envelope }) => source !== null && envelope.source !== null && isSameAddress(envelope.source, source),
  );
}

// --- from Claude

function logged(view: View, { session, events }: FactOf<"logged">): Change[] {
  const own = view.turn === null ? undefined : underWayIn(view, session);
  const draftOf = own?.id ?? null;
  return [
    ...events.flatMap((event) => sayEvent(session, event, draftOf)),
    ...events.flatMap((event) => takeCall(session, event, own)),
    ...(view.calls.length > 0 && events.some(isRest) ? [{ do: "look", sessionId: session.id } as const] : []),
    ...(session.id === view.session?.id ? sayAsks(view, own) : []),
    ...(own ? turnChanged(view, own) : []),
    ...(own ? endStuck(view, session, own, events) : []),
    ...(events.some(({ type }) => type === "terminated") ? gone(view, { session, isElsewhere: false }) : []),
  ];
}

function sayEvent({ id, context }: Session, event: SessionEvent, draftOf: number | null): Change[] {
  if (event.type === "reply")
    return renderReply(event.text).map((body, part) =>
      say("reply", { sessionId: id, id: event.id }, body, { part, draftOf }),
    );
  const isShown = event.type === "tool_use" && !event.isAsk && context["verbose"] === true;
  return isShown ? [say("tool", { sessionId: id, id: event.id }, toolLine(event))] : [];
}

/** Records Claude's call of a tool of ours, with the prompt as its turn: `/undo` takes back the changes of one turn. */
function takeCall({ id: sessionId }: Session, event: SessionEvent, prompt: Prompt | undefined): Change[] {
  if (event.type !== "tool_use" || !event.isLocal) return [];
  return [{ do: "call", sessionId, turn: String(prompt?.id ?? event.id), use: event }];
}

/** Ends, or fails, the prompt under way where its turn has ended or was flushed. */
function turnChanged(view: View, prompt: Prompt): Change[] {
  if (view.turn?.kind === "ended") return finishTurn(view, prompt, view.turn.stop);
  if (view.turn?.kind !== "flushed") return [];
  return failed(view, { type: "failed", id: prompt.id, fault: deathOf(view), hasSpoken: false, isLost: true });
}

// --- from the queues and from time

/** No open prompt is asked again, since Claude may have answered it after the backup was made: the person is told to send it again. */
function setBack(view: View, { generation }: FactOf<"setBack">): Change[] {
  const open = view.prompts();
  const text = `My memory was set back to an earlier state. Messages of yours stood open in it (${open.length}): please send again what was not answered.`;
  const gone = open.flatMap((prompt) => withdraw(view, prompt, false));
  return open.length === 0 ? [] : [say("note", `setback ${generation}`, text), ...gone];
}

/** More waiting messages than these, or older ones, are announced after an absence. */
const digestCount = 3;
const digestAgeMs: Millis = 3_600_000;

/** Announces that many, or old, waiting messages are answered now. A line that flaps announces the same messages only once. */
function announce({ head, waiting, now, announcedUpTo }: View): Change[] {
  const { count: open, newest } = waiting();
  const first = head.find(({ post }) => post === null || post.state === "queued");
  if (first === undefined || first.id <= announcedUpTo()) return [];
  // The oldest prompt alone may be under way already.
  const count = first === head[0] ? open : open - 1;
  const { envelope, receivedAt } = first;
  // The sender's clock may be ahead.
  const oldMs = Math.max(0, now - Math.min(receivedAt, envelope.serverAt ?? envelope.sentAt));
  if (count <= digestCount && oldMs <= digestAgeMs) return [];
  const [messages, them] = count === 1 ? ["1 message", "it"] : [`${count} messages`, "them"];
  const text = `${messages} waiting, the oldest ${duration(oldMs)}: answering now; /skip to drop ${them}.`;
  return [say("digest", newest, text), { do: "announced", id: newest }];
}

/** Asserts the invariants `one` and `asked`; tests and the simulation call it after each decision. @throws Error naming the broken one */
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
