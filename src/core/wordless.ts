/**
 * What a message without text says, as words for Claude: alike on every transport. What others chose (names, questions,
 * titles) stands in quotation marks on one line: data, never speech.
 */

const partChars = 300;
const partsMax = 12;

function quote(text: string): string {
  const line = text
    .replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\s]+/gu, " ")
    .replaceAll(/["“”„«»]/gu, "'")
    .trim();
  return `"${line.length > partChars ? `${line.slice(0, partChars).toWellFormed()}…` : line}"`;
}

/** `[what: "one", "two"]`; empty parts are left out. */
function say(what: string, parts: readonly (string | null | undefined)[]): string {
  const said = parts.flatMap((part) => (part?.trim() ? quote(part) : []));
  const shown = [...said.slice(0, partsMax), ...(said.length > partsMax ? ["…"] : [])].join(", ");
  return shown === "" ? `[${what}]` : `[${what}: ${shown}]`;
}

type Maybe = string | null | undefined;

/** A shared contact: name, organization, then numbers and addresses. */
export const cardWords = (parts: readonly Maybe[]): string => say("Contact card", parts);

/** The emoji that the sticker stands for, where it is known. */
export const stickerWords = (emoji: Maybe): string => say("Sticker", [emoji]);

export const pollWords = (question: Maybe, options: readonly Maybe[]): string => say("Poll", [question, ...options]);

/** A place is shared as a link to a map. */
export function linkWords(url: Maybe, title: Maybe, description: Maybe): string {
  const isPlace =
    /^https?:\/\/(?:maps\.google\.[a-z.]+|(?:www\.)?google\.[a-z.]+\/maps|maps\.apple\.com|(?:www\.)?openstreetmap\.org)\b/iu;
  return say(isPlace.test(url ?? "") ? "Location" : "Link", [title, description, url]);
}
