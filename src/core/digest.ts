/** What waits long, or is much, when the line to Signal comes back. */
import { say, type Change, type View } from "./changes.ts";
import type { Millis } from "./model.ts";
import { ageText } from "./when.ts";

const minuteMs: Millis = 60_000;
/** After an absence, more waiting messages than these, or older ones, are announced. */
const digestCount = 3;
const digestAgeMs: Millis = 60 * minuteMs;

/** Says where much, or something old, waits that it is answered now. What was announced is not announced again where the line flaps. */
export function announce({ head, waiting, now, announcedUpTo }: View): Change[] {
  const { count: open, newest } = waiting();
  const first = head.find(({ post }) => post === null || post.state === "queued");
  if (first === undefined || first.id <= announcedUpTo()) return [];
  // Only the oldest may be under way already.
  const count = first === head[0] ? open : open - 1;
  const { envelope, receivedAt } = first;
  // The sender's clock may be ahead.
  const oldMs = Math.max(0, now - Math.min(receivedAt, envelope.serverAt ?? envelope.sentAt));
  if (count <= digestCount && oldMs <= digestAgeMs) return [];
  const isOne = count === 1;
  const messages = isOne ? "1 message" : `${count} messages`;
  const text = `${messages} waiting, the oldest ${ageText(oldMs)}: answering now; /skip to drop ${isOne ? "it" : "them"}.`;
  return [say("digest", newest, text), { do: "announced", id: newest }];
}
