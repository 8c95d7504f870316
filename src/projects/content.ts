/** A file of a project as it is now: where it really lies, its bytes, their hash; and how it is replaced. */
import { createHash } from "node:crypto";
import { open, readFile, rm, stat } from "node:fs/promises";
import { relative, sep } from "node:path";

/** A larger file is neither edited nor shown as a diff, and read in ranges of lines only. */
export const fileBytesMax = 2 ** 20;
const sniffBytes = 8_192;

export const loadSdk = () => import("@anthropic-ai/sdk/tools/agent-toolset/node");

/** The place that a path means once every link is followed, absolute and from the folder on. */
export type Place = { readonly absolute: string; readonly path: string };

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";

/** @throws ToolError in words where it leads out of the folder, or cannot be followed */
export async function locate(root: string, path: string): Promise<Place> {
  const absolute = await (await loadSdk()).resolvePath({ workdir: root }, path);
  return { absolute, path: relative(root, absolute).split(sep).join("/") };
}

export type Content = { readonly bytes: Buffer; readonly text: string };

/** The text of a file, null where there is none, or one sentence that says why it cannot be taken as text. */
export async function readContent({ absolute, path }: Place): Promise<Content | null | string> {
  try {
    const found = await stat(absolute);
    // A pipe would be waited for as it is opened, so this comes first.
    if (!found.isFile()) return `${path} is not a regular file`;
    if (found.size > fileBytesMax)
      return `${path} has ${found.size} bytes: more than the ${fileBytesMax} that can be shown and changed`;
    const bytes = await readFile(absolute);
    // A byte that is not UTF-8 would be lost when the text is written back.
    const text = toText(bytes);
    return text === null ? `${path} is not text in UTF-8: only text can be shown and changed` : { bytes, text };
  } catch (error) {
    return codeOf(error) === "ENOENT" ? null : inWords(error, path);
  }
}

function toText(bytes: Buffer): string | null {
  if (bytes.subarray(0, sniffBytes).includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** Whether the beginning of a file has a NUL in it, as no text has. */
export async function looksBinary(absolute: string): Promise<boolean> {
  await using file = await open(absolute);
  const { bytesRead, buffer } = await file.read(Buffer.alloc(sniffBytes), 0, sniffBytes, 0);
  return buffer.subarray(0, bytesRead).includes(0);
}

export const hashOf = (bytes: Uint8Array | string | null): string =>
  bytes === null ? "none" : createHash("sha256").update(bytes).digest("hex");

const reasons: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  EACCES: "this user may not do that",
  EPERM: "this user may not do that",
  ENOTDIR: "a part of the path is not a folder",
  EISDIR: "it is a folder",
  ENOSPC: "the disk is full",
  EDQUOT: "the disk quota is used up",
  EROFS: "the disk is read-only",
};

/** The SDK's own words, or ours for a code of the system, whose words would name folders of this machine. */
export function inWords(error: unknown, path: string): string {
  const [code, message] = [
    codeOf(error),
    messageOf(error).replace("the session's working directory", "the project's folder"),
  ];
  return code === "" ? message : `${path}: ${reasons[code] ?? code}`;
}

/** Replaces a file as a whole, atomically, with the SDK's own body; null removes it. */
export async function replace(root: string, { absolute, path }: Place, text: string | null): Promise<void> {
  if (text === null) return rm(absolute);
  await (await loadSdk()).betaWriteTool({ workdir: root }).run({ file_path: path, content: text });
}

/** Runs what it is given one after the other. */
export function createQueue(): <T>(work: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (work) => {
    const next = last.then(work);
    last = next.catch(() => undefined);
    return next;
  };
}
