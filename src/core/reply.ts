/** How Claude's words become messages on a phone: long code to files, Markdown to styles, then parts that Signal takes. */
import { chunk } from "./chunk.ts";
import { toSignalText } from "./markdown.ts";
import type { OutboundBody, OutboundFile } from "./model.ts";

/** Largest body of one message in UTF-8 bytes. **Source:** signal/SIGNAL-CLI.md section 6.1. */
const partBytesMax = 2000;

/** Two parts follow each other plainly; more are counted. */
const countedFrom = 3;
const counterBytes = 12;

/** One body per message, in order; an empty reply has none. Long code comes as files with the last. */
export function renderReply(markdown: string): OutboundBody[] {
  const { markdown: prose, files } = takeListings(markdown);
  const parts = chunk(toSignalText(prose), partBytesMax - counterBytes).filter(({ text }) => text !== "");
  return parts.map(({ text, styles }, index) => {
    const counter = parts.length < countedFrom ? "" : `\n(${index + 1}/${parts.length})`;
    const isLast = index === parts.length - 1;
    return { kind: "text", text: text + counter, styles, quote: null, files: isLast ? files : [] };
  });
}

/** A sentence of signalman's own. */
export const plainText = (text: string): OutboundBody => ({ kind: "text", text, styles: [], quote: null, files: [] });

/** What fits on a phone's screen. */
const screenLines = 40;
const screenChars = 1_500;

type Listing = { readonly fence: string; readonly language: string; readonly from: number };

/**
 * The text with one line in the place of each long block of code, and the blocks as files. Only blocks at the margin, or nearly
 * so, are taken: what stands in a list is part of it. Linear in the length of the text.
 */
export function takeListings(markdown: string): { readonly markdown: string; readonly files: readonly OutboundFile[] } {
  const kept: string[] = [];
  const files: OutboundFile[] = [];
  let block: Listing | null = null;
  const close = ({ language, from }: Listing, end?: number): void => {
    const code = kept.slice(from + 1, end);
    const text = code.join("\n");
    if (code.length <= screenLines && text.length <= screenChars) return;
    const fileName = nameOf(language, kept.slice(0, from), files);
    files.push({ fileName, contentType: "text/plain", base64: new TextEncoder().encode(`${text}\n`).toBase64() });
    kept.splice(from, Infinity, `📎 **${fileName}**, ${code.length} ${code.length === 1 ? "line" : "lines"}`);
  };
  for (const line of markdown.split("\n")) {
    const [, mark = "", info = ""] = /^ {0,3}(`{3,}|~{3,})(.*)$/u.exec(line) ?? [];
    kept.push(line);
    if (block === null) {
      if (mark !== "" && !(mark.startsWith("`") && info.includes("`")))
        block = { fence: mark, language: info.trim().split(/[\s{:]/u)[0] ?? "", from: kept.length - 1 };
    } else if (mark.startsWith(block.fence) && info.trim() === "") {
      close(block, -1);
      block = null;
    }
  }
  if (block !== null) close(block);
  return { markdown: kept.join("\n"), files };
}

/** Languages whose files do not end as the language is called. */
const languages = `python py typescript ts javascript js bash sh shell sh zsh sh console txt text txt yaml yml rust rs ruby rb
  kotlin kt markdown md c++ cpp csharp cs c# cs haskell hs perl pl powershell ps1`;
const endings = new Map(
  Array.from(languages.matchAll(/(\S+) (\w+)/gu), ([, name = "", ending = ""]) => [name, ending]),
);

/** The name that the line before the block gives ("`src/app.py`:" or "**app.py**"), else one by its language. */
function nameOf(language: string, before: readonly string[], files: readonly OutboundFile[]): string {
  const line =
    before
      .findLast((candidate) => candidate.trim() !== "")
      ?.slice(-120)
      .trimEnd() ?? "";
  const [, given] = /(?:^|[\s`*/("“])([\w][\w.-]{0,60}\.[A-Za-z]\w{0,7})[`*"”):]*$/u.exec(line) ?? [];
  const known = language.toLowerCase();
  const ending = endings.get(known) ?? (/^[a-z][a-z0-9]{0,5}$/u.test(known) ? known : "txt");
  const number = files.length + 1;
  const made = known === "dockerfile" ? "Dockerfile" : `code${number === 1 ? "" : `-${number}`}.${ending}`;
  const name = given ?? made;
  return files.some(({ fileName }) => fileName === name) ? `${number}-${name}` : name;
}
