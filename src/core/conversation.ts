/** A conversation in words: what it is called, and all of it as a document. */
import type { Session, SessionEvent } from "./model.ts";
import { shorten } from "./question.ts";
import { withoutTimeLine } from "./when.ts";

/** The title of a session until a person gives it one. */
export const untitled = (id: string): string => `Signal chat ${id.slice(0, 4)}`;

/** The title, or where none was given the beginning of the last prompt. */
export function nameOf({ id, context }: Session, lastPrompt: SessionEvent | null): string {
  const title = context["title"];
  if (typeof title === "string" && !title.endsWith(untitled(id))) return title;
  return lastPrompt?.type === "prompt" && lastPrompt.text !== ""
    ? `“${shorten(withoutTimeLine(lastPrompt.text), 40)}”`
    : "untitled";
}

/** The prompts and replies of a conversation, in Markdown. */
export function transcriptOf(session: Session, events: readonly SessionEvent[]): string {
  const said = events.flatMap((event) => {
    if (event.type === "prompt") return [`**You:** ${withoutTimeLine(event.text)}`];
    return event.type === "reply" ? [`**Claude:** ${event.text}`] : [];
  });
  return [`# ${nameOf(session, null)}`, ...said].join("\n\n") + "\n";
}
