/**
 * What can be saved of an answer that is not JSON. By the time we read it Signal has forgotten the messages in it, so a line
 * of log in the middle, or a missing end, must not cost the rest.
 *
 * A message object begins with one of three keys and stands at the beginning, after `[`, `,` or a line break. Text that a
 * sender wrote cannot look like that: inside a JSON string its quotation marks carry a backslash.
 */
export type Salvage = {
  /** The message objects, in their order. */
  readonly found: readonly unknown[];
  /** Message objects that began and could not be read. */
  readonly lostCount: number;
};

/** Finds every whole message object in `text`. */
export function salvage(text: string): Salvage {
  const found: unknown[] = [];
  let lostCount = 0;
  const begin = /(?<=^|[[,\n])\{"(?:envelope|account|exception)":/gu;
  for (let match = begin.exec(text); match !== null; match = begin.exec(text)) {
    const value = parseAt(text, match.index);
    if (value === null) lostCount++;
    else {
      found.push(value.object);
      begin.lastIndex = value.end;
    }
  }
  return { found, lostCount };
}

/** The object that begins at `start`, and where it ends; null when it does not end or is no JSON. */
function parseAt(text: string, start: number): { readonly object: unknown; readonly end: number } | null {
  const end = findEnd(text, start);
  if (end === null) return null;
  try {
    const object: unknown = JSON.parse(text.slice(start, end));
    return isMessage(object) ? { object, end } : null;
  } catch {
    return null;
  }
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

const isMessage = (value: unknown): boolean => typeof value === "object" && value !== null && "envelope" in value;
