/**
 * What a message without text says, as words for Claude: alike on every transport. What others chose (names, questions,
 * titles) stands in quotation marks on one line: data, never speech.
 */
import { oneLine } from "./inbound.ts";

const partChars = 300;
const partsMax = 12;

/** `[what: "one", "two"]`; empty parts are left out. */
function say(what: string, parts: readonly (string | null | undefined)[]): string {
  const said = parts.flatMap((part) => {
    const line = oneLine(part?.replaceAll(/["“”„«»]/gu, "'") ?? null, partChars);
    return line === null ? [] : `"${line}"`;
  });
  const shown = [...said.slice(0, partsMax), ...(said.length > partsMax ? ["…"] : [])].join(", ");
  return shown === "" ? `[${what}]` : `[${what}: ${shown}]`;
}

type Maybe = string | null | undefined;

/** What may be in a message beside its text, or in its place. */
export type Wordless = {
  readonly cards: readonly ({
    readonly [part in "prefix" | "given" | "middle" | "family" | "suffix" | "nickname" | "organization"]?: Maybe;
  } & { readonly values: readonly Maybe[] })[];
  readonly poll: { readonly question: Maybe; readonly options: readonly Maybe[] } | null | undefined;
  readonly sticker: { readonly emoji: Maybe } | null | undefined;
  readonly links: readonly { readonly url: Maybe; readonly title: Maybe; readonly description: Maybe }[];
};

/** A place is shared as a link to a map. */
const place =
  /^https?:\/\/(?:maps\.google\.[a-z.]+|(?:www\.)?google\.[a-z.]+\/maps|maps\.apple\.com|(?:www\.)?openstreetmap\.org)\b/iu;

/** One line each; empty where there is nothing. */
export function toWords({ cards, poll, sticker, links }: Wordless): string {
  const lines = cards.map(({ prefix, given, middle, family, suffix, nickname, organization, values }) => {
    const full = [prefix, given, middle, family, suffix].filter(Boolean).join(" ");
    return say("Contact card", [full || nickname, organization, ...values]);
  });
  if (poll) lines.push(say("Poll", [poll.question, ...poll.options]));
  if (sticker) lines.push(say("Sticker", [sticker.emoji]));
  for (const { url, title, description } of links)
    lines.push(say(place.test(url ?? "") ? "Location" : "Link", [title, description, url]));
  return lines.join("\n");
}
