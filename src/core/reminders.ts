/** Reminders, and questions that Claude is asked at a set time: how they are set, shown and delivered. `schedule.ts` reads times. */
import type { Change, FactOf, View } from "./changes.ts";
import { result, say } from "./common-changes.ts";
import { wordsOnly, type Envelope, type Millis, type Reminder } from "./model.ts";
import { shorten } from "./question.ts";
import { personOf } from "./spend.ts";
import { momentText } from "./when.ts";

/** Reminders of one person, in all chats. */
export const remindersMax = 100;
/** A reminder that comes later than this says when it was due. */
const lateMs: Millis = 120_000;
const shownMax = 200;

/** Does what Claude's call asks for, and tells Claude; the chat shows what was set or taken back. */
export function fulfil(view: View, fact: FactOf<"wished">): Change[] {
  const { useId, wish } = fact;
  const asker = view.head[0]?.envelope;
  const tell = (text: string, isError = false): Change => result(fact, text, isError);
  if (!asker?.source) return [tell("Nothing was done: the message that asked for it is not open any more.", true)];
  if (wish.do === "list") return [tell(listReminders(view))];
  if (wish.do === "off") {
    const { text, changes } = cancelReminder(view, asker, wish.number);
    return [...changes, ...(changes.length > 0 ? [say("note", `off ${useId}`, text)] : []), tell(text)];
  }
  if (view.look.remindersOf(personOf(asker.source)) >= remindersMax)
    return [
      tell(`Nothing was set: this person has ${remindersMax} already. /reminders lists those of this chat.`, true),
    ];
  const number = Math.max(0, ...view.look.reminders().map((one) => one.number)) + 1;
  const times = [wish.plan.dueAt, ...wish.later].map((at) => momentText(at, view.now, view.look.timeZone));
  const when = times.join(", ") + (wish.plan.rule === null ? "" : " and so on");
  const text = `⏰ ${nameOf({ ...wish.plan, number })}, ${when}: ${shorten(wish.plan.text, shownMax)}`;
  return [
    { do: "schedule", plan: wish.plan, number, source: asker.source },
    say("note", `set ${useId}`, `${text}\n/reminders off ${number} takes it back.`),
    tell(`Set, and shown to the person: ${text}`),
  ];
}

const nameOf = ({ kind, number }: Pick<Reminder, "kind" | "number">): string =>
  `${kind === "reminder" ? "Reminder" : "Question"} ${number}`;

export function listReminders({ look, now }: View): string {
  const lines = look.reminders().map((one) => {
    const again = one.rule === null ? "" : ", and again";
    return `${one.number}. ${momentText(one.dueAt, now, look.timeZone)}${again}: ${shorten(one.text, shownMax)}${one.kind === "question" ? " (Claude answers)" : ""}`;
  });
  return lines.length === 0
    ? "Nothing is set here. Ask Claude: “remind me at six to call home”."
    : [...lines, "/reminders off N takes one back."].join("\n");
}

/** Takes a reminder back: in a group, only the person who set it and the owner may. */
export function cancelReminder(view: View, envelope: Envelope, number: number) {
  const found = view.look.reminders().find((one) => one.number === number);
  if (found === undefined) return { text: `There is no number ${number}. /reminders lists them.`, changes: [] };
  if (personOf(found.source) !== personOf(envelope.source) && !view.isOwner(envelope))
    return { text: "Another person set that one: only they, and the owner, can take it back.", changes: [] };
  const text = `Taken back: ${momentText(found.dueAt, view.now, view.look.timeZone)}, ${shorten(found.text, shownMax)}`;
  return { text, changes: [{ do: "reschedule", id: found.id, dueAt: null } as const] };
}

/** The time of a reminder has come: it is sent once, and its next time is set. A question goes to Claude like any message (`asMessage`). */
export function deliverReminder(view: View, { reminder, nextAt, isMissed }: FactOf<"due">): Change[] {
  const { id, dueAt, text } = reminder;
  const again = isMissed ? ", and again since" : "";
  const isLate = view.now - dueAt > lateMs;
  const late = isLate ? `\n(This was due ${momentText(dueAt, view.now, view.look.timeZone)}${again}.)` : "";
  return [{ do: "reschedule", id, dueAt: nextAt }, say("remind", `${id}:${dueAt}`, `⏰ ${text}${late}`)];
}

/** A question, as if its person had written it now. */
export const asMessage = (
  { chat, source, text }: Pick<Reminder, "chat" | "source" | "text">,
  sentAt: Millis,
  sourceName: string | null,
  isOwn: boolean,
): Envelope => ({
  source,
  sourceDevice: null,
  sentAt,
  serverAt: null,
  chat,
  isOwn,
  isScheduled: true,
  sourceName,
  content: wordsOnly(`[As scheduled:] ${text}`),
});
