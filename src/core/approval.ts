/**
 * Claude's questions for a yes or no: when one is asked, and what an answer to it means. One question is open at a time in a conversation;
 * it shows up to five tool uses by number, and further ones wait, so that a yes never means more than the question shows.
 *
 *   tool uses that ask ─▶ ask ─▶ answer: yes, no, always ─▶ confirm       expired: reminded of, then a no
 *                           ▲                  └─▶ some of the numbers: the rest is shown again
 */
import { confirm, goOn, say, waits } from "./common-changes.ts";
import type { Ask, Change, FactOf, Looked, Prompt, QuestionSubject, Shown, View } from "./changes.ts";
import type { Verdict } from "./inbound.ts";
import type { Envelope, Millis, SessionEvent, ToolUse } from "./model.ts";
import { promptWords } from "./prompt.ts";
import { itemOf, question, toolLine, type QuestionItem } from "./question.ts";

/** Whether Claude rests until its tool uses are answered: no more of them come beside those that are there. */
export const isRest = (event: SessionEvent): boolean => event.type === "idle" && event.stop.kind === "requires_action";

/** Asks for the calls that are still open. While a question is open it asks nothing: the calls are looked at again after the answer. */
export function askCalls(view: View, { session, looked }: FactOf<"looked">): Change[] {
  const isWanted = ({ use }: Looked): boolean => view.calls.some(({ id }) => id === use.id);
  const asked = isAsking(view) ? [] : looked.filter(isWanted).slice(0, asksMax);
  if (asked.length === 0) return [];
  const items = asked.map(({ item }) => item);
  const edit = asked.find(({ mayAlways }) => mayAlways);
  const mayAlways = edit === undefined ? null : `edits in ${edit.project} for an hour`;
  const uses = asked.map(({ use }) => use);
  return [
    ...asked.map(({ use, basis }): Change => ({ do: "askCall", useId: use.id, basis })),
    ...ask({ ...view, session }, uses, items, mayAlways),
    ...view.head.slice(0, 1).flatMap(waits),
  ];
}

/** A message that asks for all `uses`. */
function ask(view: View, uses: readonly ToolUse[], items: readonly QuestionItem[], mayAlways: string | null): Change[] {
  const [prompt] = view.head;
  const words = prompt ? promptWords(prompt.envelope, view.account) : "";
  const { text, file } = question(items, { prompt: words, isGroup: view.chat.kind === "group", mayAlways });
  return [say("ask", about(view, uses), { kind: "text", text, styles: [], quote: null, files: file ? [file] : [] })];
}

/** Whether a question is open: other tool uses wait for its answer, so that a yes never means more than one question. */
const isAsking = ({ asks }: View): boolean => asks.some(({ question }) => question !== null);

/** Tool uses in one question; the rest wait for their turn. */
const asksMax = 5;

/** Asks for tool uses that run at Claude, and says yes to tools that were allowed for the conversation. */
export function sayAsks(view: View, prompt: Prompt | undefined): Change[] {
  if (view.asks.length === 0) return goOn(prompt);
  const unsaid = view.asks.filter(({ question }) => question === null);
  const free = unsaid.filter(({ use }) => view.granted.includes(use.name));
  if (free.length > 0) return confirm(view, free, true, null, null);
  const uses = isAsking(view) ? [] : unsaid.slice(0, asksMax).map(({ use }) => use);
  const names = [...new Set(uses.map(({ name }) => name))].join(", ");
  const asked = uses.length === 0 ? [] : ask(view, uses, uses.map(itemOf), `${names} in this conversation`);
  return [...asked, ...(prompt ? waits(prompt) : [])];
}

/** The subject of a question about `uses` in the current conversation. */
const about = ({ session }: View, uses: readonly ToolUse[]): QuestionSubject => ({
  sessionId: session?.id ?? "",
  uses: uses.map(({ id }) => id),
});

/** The subject of the question that shows `use`; before one does, of the question that would. */
const subjectOf = (view: View, { use, question }: Ask): QuestionSubject => question?.subject ?? about(view, [use]);

/** The first tool use of the question that shows `ask`: its id names the question. */
const nameOf = (view: View, ask: Ask): string | undefined => subjectOf(view, ask).uses[0];

// --- answers

type Answer = Extract<Verdict, { kind: "answer" }>;

/**
 * Whether `target` is an earlier copy of a question, from a send whose outcome was unknown: while a message is tried again, nothing else
 * of ours goes into its chat. A message of ours that is known by its time is no copy, whatever our clock was set to; nor is one that the
 * person wrote meanwhile in Note to Self, whose author is our account.
 */
function isCopy(view: View, envelope: Envelope, { sentAt, copiesFrom = null }: Shown, target: Millis): boolean {
  if (copiesFrom === null || target < copiesFrom || target > (sentAt ?? envelope.sentAt)) return false;
  return !view.isSaid(target) && view.named(target).length === 0 && view.endedText(envelope, target) === null;
}

/**
 * A quote or reaction answers the question that it points to; a plain yes or no answers the open question, if the phones had it before the
 * answer was written, by the sender's clock and by the server's; an edit is as old as the message that it corrects. Other words are a
 * prompt (null), another reaction says nothing. Numbers leave the rest open. `takeBack`: takes back the message that the answer edits.
 */
export function answer(
  view: View,
  { id, envelope }: FactOf<"received">,
  verdict: Answer,
  takeBack: () => Change[],
): Change[] | null {
  const { answer: said, reason, numbers, targetSentAt, by, isEntitled, replaces } = verdict;
  const { sentAt, serverAt } = envelope;
  const writtenAt = Math.min(sentAt, serverAt ?? sentAt, replaces ?? sentAt);
  const asks = view.asks.filter(({ shown }) =>
    targetSentAt === null
      ? shown.some(({ at }) => at !== null && at <= writtenAt)
      : shown.some((one) => one.sentAt === targetSentAt || isCopy(view, envelope, one, targetSentAt)),
  );
  const [first] = asks;
  if (first === undefined && by === "text") return null;
  const taken = takeBack();
  if (first === undefined)
    return by === "reaction" ? [] : [...taken, say("command", id, "Nothing waits for an answer.")];
  // The question belonged to the prompt that was just taken back, and ends with it.
  if (taken.some((change) => change.do === "answer")) return taken;
  const note = (text: string): Change[] => [...taken, say("note", id, text)];
  if (!isEntitled) return note(notYoursText);
  if (asks.some((ask) => nameOf(view, ask) !== nameOf(view, first))) return note(whichText);
  const open = new Map(asks.map((ask) => [ask.question?.number, ask]));
  const missing = numbers.filter((number) => !open.has(number));
  if (missing.length > 0) return note(`Not open, so nothing was done: ${missing.join(", ")}. ${stillText(asks)}`);
  const isChosen = ({ question }: Ask): boolean => numbers.length === 0 || numbers.includes(question?.number ?? 0);
  const chosen = asks.filter(isChosen);
  const rest = asks.filter((ask) => !isChosen(ask));
  if (chosen.some(({ call }) => call !== null) && !view.isOwner(envelope)) return note(ownerApprovesText);
  return [
    ...taken,
    ...(said === "always" ? always(view, id, chosen) : []),
    ...confirm(view, chosen, said !== "no", reason, envelope.source?.aci ?? envelope.source?.number ?? "unknown"),
    ...(rest.length > 0
      ? [sayRest(view, first, id, `${said === "no" ? "No" : "Yes"} to ${numbers.join(", ")}.`, rest)]
      : []),
  ];
}

/** A reminder that shows the rest of the question once more, and takes an answer as the question does. */
const sayRest = (view: View, first: Ask, id: number, done: string, rest: readonly Ask[]): Change =>
  say("reminder", subjectOf(view, first), `${done} ${stillText(rest)}`, { part: id });

const whichText =
  "Claude waits for several answers. Please react with 👍 or 👎 to each question, or quote it with yes or no.";

const ownerApprovesText = "Only the owner of this machine may let Claude work on it.";

/** Frees from questions what `always` can free: Claude's tools in this conversation, edits of a project for an hour, nothing else. */
function always(view: View, id: number, asks: readonly Ask[]): Change[] {
  const tools = [...new Set(asks.flatMap(({ use, call }) => (call === null ? use.name : [])))];
  const projects = [...new Set(asks.flatMap(({ call }) => (call?.mayAlways ? call.project : [])))];
  const texts = [
    ...(tools.length > 0 ? [`Allowed in this conversation from now on: ${tools.join(", ")}. /ask takes it back.`] : []),
    ...projects.map((project) => `Edits in ${project} need no yes for an hour. /ask takes it back.`),
    ...(asks.some(({ call }) => call?.mayAlways === false) ? ["What else it was is asked for each time."] : []),
  ];
  return [
    ...(tools.length > 0 ? [{ do: "grant", tools: [...view.granted, ...tools] } as const] : []),
    ...projects.map((project) => ({ do: "grantEdits", project }) as const),
    say("note", id, texts.join("\n")),
  ];
}

const notYoursText = "Only the owner, and people who are allowed by name, can answer Claude's questions.";

/** A person who writes while Claude waits for a yes or no is reminded by each message that is short enough to be meant as an answer. */
export function remind(view: View, id: number, words: string): Change[] {
  const asks = view.asks.filter(({ question }) => question !== null);
  if (asks.length === 0 || words.length > shortMax) return [];
  const unsent = sayUnsent(asks, id);
  return unsent.length > 0 ? unsent : [say("note", id, `${stillText(asks)}\nYour message is answered after that.`)];
}

/** A question of which Signal took no copy is sent again whole, since a reminder shows too little for a yes. */
function sayUnsent(asks: readonly Ask[], part: number): Change[] {
  const again = asks.flatMap(({ question }) =>
    question?.unsent
      ? [[question.subject.uses[0], say("ask", question.subject, question.unsent, { part })] as const]
      : [],
  );
  return [...new Map(again).values()];
}

/** The tool uses of a question that are still open, by number where it has several. */
function stillText(asks: readonly Ask[]): string {
  const lines = asks.map(({ use, question }) => {
    const number = question && question.subject.uses.length > 1 ? `\n${question.number}. ` : " ";
    return number + toolLine(use);
  });
  return `Claude still waits for your yes or no:${lines.join("")}`;
}

const shortMax = 40;

/** A question gets one reminder, at half its time; at the end of its time the answer counts as a no. */
export function expired(view: View, { askIds, isLast }: FactOf<"expired">): Change[] {
  const asks = view.asks.filter(({ use }) => askIds.includes(use.id));
  const questions = [...Map.groupBy(asks, (ask) => nameOf(view, ask)).values()];
  if (!isLast)
    return questions.flatMap((rest) => {
      const unsent = sayUnsent(rest, halfTime);
      return unsent.length > 0
        ? unsent
        : rest.slice(0, 1).map((ask) => say("reminder", subjectOf(view, ask), stillText(rest)));
    });
  const told = questions.flatMap(([ask]) => (ask ? say("expired", subjectOf(view, ask), expiredText) : []));
  return asks.length === 0 ? [] : [...told, ...confirm(view, asks, false, "There was no answer in time.", null)];
}

/** The `part` of a question that is sent again at half its time; one that is sent again otherwise has the id of a message as its part. */
const halfTime = -1;

const expiredText = "Claude's question was not answered in time, so the answer was no.";
