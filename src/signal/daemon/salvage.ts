/**
 * Saves the messages in an answer that is not JSON. Signal has forgotten them by the time we read the answer, so a line of log
 * in the middle, or a missing end, must not cost the rest.
 *
 * A message object begins with one of three keys and stands at the beginning, after `[`, `,` or a line break. A sender's text
 * cannot look like one: inside a JSON string its quotation marks carry a backslash.
 */
import type { Log } from "../../log.ts";
import { toJson } from "./http.ts";

/** `found` holds the whole message objects in their order; `lostCount` counts those that began but could not be read. */
type Salvage = { readonly found: readonly unknown[]; readonly lostCount: number };

export function salvage(text: string): Salvage {
  const found: unknown[] = [];
  let lostCount = 0;
  const begin = /(?<=^|[[,\n])\{"(?:envelope|account|exception)":/gu;
  for (let match = begin.exec(text); match !== null; match = begin.exec(text)) {
    const end = findEnd(text, match.index);
    const object = end === null ? null : toJson(text.slice(match.index, end));
    if (end !== null && typeof object === "object" && object !== null && "envelope" in object) {
      found.push(object);
      begin.lastIndex = end;
    } else lostCount++;
  }
  return { found, lostCount };
}

/** The message objects in an answer that came damaged; the log tells how many there were. */
export function saveMessages(text: string, daemon: string, log: Log): readonly unknown[] {
  const { found, lostCount } = salvage(text);
  if (found.length + lostCount > 0)
    log.warn(`an answer of ${daemon} came damaged`, { salvaged: found.length, lost: lostCount });
  return found;
}

function findEnd(text: string, start: number): number | null {
  let depth = 0;
  let isInString = false;
  for (let index = start; index < text.length; index++) {
    const char = text[index];
    if (isInString) {
      if (char === "\\") index++;
      else if (char === '"') isInString = false;
    } else if (char === '"') isInString = true;
    else if (char === "{" || char === "[") depth++;
    else if ((char === "}" || char === "]") && --depth === 0) return index + 1;
  }
  return null;
}
