/** Words of others as text that can stand in ours: names in place of mentions, one line, a file. */
import {
  isSameAddress,
  type Account,
  type Address,
  type Mention,
  type OutboundFile,
  type TextContent,
} from "./model.ts";

/** The name of a person; null where it is not known. */
export type NameOf = (who: Address) => string | null;

/** The text without the mention of our own account, and with a name (else "someone") in place of every other mention. */
export const spokenText = (body: TextContent, account: Account, nameOf?: NameOf): string =>
  withNames(body.text, body.mentions, account, nameOf);

/** Replaces mentions, whose ranges count UTF-16, by names; a mention outside of the text is left out, and no placeholder stays. */
export function withNames(text: string, mentions: readonly Mention[], account: Account, nameOf?: NameOf): string {
  let named = text;
  for (const { start, length, who } of [...mentions].sort((a, b) => b.start - a.start)) {
    if (start < 0 || length < 0 || start + length > named.length) continue;
    const name = isSameAddress(who, account) ? "" : `@${oneLine(nameOf?.(who) ?? null) ?? "someone"}`;
    named = named.slice(0, start) + name + named.slice(start + length);
  }
  return named.replaceAll("\uFFFC", "").trim();
}

/** Words that others chose (a name, a title, a file's name) as data: on one line, without invisible characters; null for none. */
export function oneLine(words: string | null, lengthMax = 60): string | null {
  const line = (words ?? "").replaceAll(/[\p{C}\p{Zl}\p{Zp}\s]+/gu, " ").trim();
  const cut = line
    .slice(0, lengthMax)
    .toWellFormed()
    .replace(/\uFFFD$/u, "");
  return line === "" ? null : line.length > lengthMax ? `${cut}…` : line;
}

/** Text as a file that goes with a message. */
export const textFile = (fileName: string, text: string, contentType = "text/plain"): OutboundFile => ({
  fileName,
  contentType,
  base64: new TextEncoder().encode(text).toBase64(),
});
