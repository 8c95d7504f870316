/** What waits long, or is much, when the line to Signal comes back. */
import { say, type Change, type Prompt, type View } from "./changes.ts";
import type { Millis } from "./model.ts";
import { ageText } from "./when.ts";

const minuteMs: Millis = 60_000;
/** After an absence, more waiting messages than these, or older ones, are announced. */
const digestCount = 3;
const digestAgeMs: Millis = 60 * minuteMs;

/** Says where much, or something old, waits that it is answered now. What was announced is not announced again where the line flaps. */
export function announce({ prompts, now, announcedUpTo }: View): Change[] {
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
