/**
 * Code that is longer than a phone's screen becomes a file: its place in the text says what it is. Only blocks at the margin,
 * or nearly so, are taken: what stands in a list is part of it. Linear in the length of the text.
 */
import type { OutboundFile } from "./model.ts";

const screenLines = 40;
const screenChars = 1_500;

/** File endings of the languages as models name them; the name itself where it is short. */
const endings: Readonly<Record<string, string>> = {
  python: "py",
  typescript: "ts",
  javascript: "js",
  bash: "sh",
  shell: "sh",
  zsh: "sh",
  console: "txt",
  text: "txt",
  yaml: "yml",
  rust: "rs",
  ruby: "rb",
  kotlin: "kt",
  markdown: "md",
  "c++": "cpp",
  csharp: "cs",
  "c#": "cs",
  haskell: "hs",
  perl: "pl",
  powershell: "ps1",
  dockerfile: "Dockerfile",
};

export type Listed = { readonly markdown: string; readonly files: readonly OutboundFile[] };

/** The text with one line in the place of each long block, and the blocks as files. */
export function takeListings(markdown: string): Listed {
  if (markdown.length < screenLines) return { markdown, files: [] };
  const kept: string[] = [];
  const files: OutboundFile[] = [];
  let block: { readonly fence: string; readonly language: string; readonly from: number } | null = null;
  const close = (isOver: boolean): void => {
    if (block === null) return;
    const code = kept.slice(block.from + 1, isOver ? -1 : undefined);
    if (code.length > screenLines || code.join("\n").length > screenChars) {
      const file = toFile(code, block.language, kept.slice(0, block.from), files);
      files.push(file);
      kept.splice(
        block.from,
        Infinity,
        `📎 **${file.fileName}**, ${code.length} ${code.length === 1 ? "line" : "lines"}`,
      );
    }
    block = null;
  };
  for (const line of markdown.split("\n")) {
    const [, mark = "", info = ""] = /^ {0,3}(`{3,}|~{3,})(.*)$/u.exec(line) ?? [];
    kept.push(line);
    if (block === null) {
      if (mark !== "" && !(mark.startsWith("`") && info.includes("`")))
        block = { fence: mark, language: info.trim().split(/[\s{:]/u)[0] ?? "", from: kept.length - 1 };
    } else if (mark.startsWith(block.fence) && info.trim() === "") close(true);
  }
  close(false);
  return { markdown: kept.join("\n"), files };
}

function toFile(code: string[], language: string, before: string[], files: readonly OutboundFile[]): OutboundFile {
  const known = language.toLowerCase();
  const ending = endings[known] ?? (/^[a-z][a-z0-9]{0,5}$/u.test(known) ? known : "txt");
  const number = files.length === 0 ? "" : `-${files.length + 1}`;
  const fileName = namedBefore(before) ?? (ending === "Dockerfile" ? ending : `code${number}.${ending}`);
  const isTaken = files.some((file) => file.fileName === fileName);
  const text = `${code.join("\n")}\n`;
  return {
    fileName: isTaken ? `${files.length + 1}-${fileName}` : fileName,
    contentType: "text/plain",
    base64: toBase64(new TextEncoder().encode(text)),
  };
}

/** The file that the line before the block names: "`src/app.py`:" or "**app.py**". */
function namedBefore(lines: readonly string[]): string | null {
  const line = lines.findLast((candidate) => candidate.trim() !== "")?.slice(-120) ?? "";
  return /(?:^|[\s`*/("“])([\w][\w.-]{0,60}\.[A-Za-z]\w{0,7})[`*"”):]*$/u.exec(line.trimEnd())?.[1] ?? null;
}

/** Standard base64. */
export function toBase64(bytes: Uint8Array): string {
  let binary = "";
  // In slices: a call has a bounded number of arguments.
  for (let start = 0; start < bytes.length; start += 0x8000)
    binary += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  return btoa(binary);
}
