/** A file of a project as it is now: its real place, its bytes, their hash; and its replacement. */
import { isUtf8 } from "node:buffer";
import { createHash } from "node:crypto";
import type { Dirent } from "node:fs";
import { glob, readFile, realpath, rm, stat } from "node:fs/promises";
import { isAbsolute, join, relative, sep } from "node:path";
import { getSystemErrorMessage } from "node:util";
import pLimit from "p-limit";

/** A larger file is neither edited nor shown as a diff, and read in ranges of lines only. */
export const fileBytesMax = 2 ** 20;

export const loadSdk = () => import("@anthropic-ai/sdk/tools/agent-toolset/node");

/** The place that a path means once every link is followed, absolute and from the folder on. */
export type Place = { readonly absolute: string; readonly path: string };

/** @throws ToolError, with words for Claude, where `path` leads out of the folder, or cannot be followed */
export async function locate(root: string, path: string): Promise<Place> {
  const absolute = await (await loadSdk()).resolvePath({ workdir: root }, path);
  return { absolute, path: relative(root, absolute).split(sep).join("/") };
}

export type FileContent = { readonly bytes: Buffer; readonly text: string };

/** The text of a file, null where there is none, or one sentence that says why it cannot be taken as text. */
export async function readFileText({ absolute, path }: Place): Promise<FileContent | null | string> {
  try {
    const found = await stat(absolute);
    // A pipe would block as it is opened, so this comes first.
    if (!found.isFile()) return `${path} is not a regular file`;
    if (found.size > fileBytesMax)
      return `${path} has ${found.size} bytes: more than the ${fileBytesMax} that can be shown and changed`;
    const bytes = await readFile(absolute);
    // A byte that is not UTF-8 would be lost when the text is written back.
    if (hasNul(bytes) || !isUtf8(bytes)) return `${path} is not text in UTF-8, which alone is shown and changed`;
    return { bytes, text: bytes.toString("utf8") };
  } catch (error) {
    return error instanceof Error && "code" in error && error.code === "ENOENT" ? null : inWords(error, path);
  }
}

/** True for content that is no text: text has no NUL near its beginning. */
export const hasNul = (content: Buffer | string): boolean => content.slice(0, 8_192).includes("\0");

export const hashOf = (bytes: Uint8Array | string | null): string =>
  bytes === null ? "none" : createHash("sha256").update(bytes).digest("hex");

/** Words of the SDK's error, or the system's words for its code, since a system message names folders of this machine. */
export function inWords(error: unknown, path: string): string {
  if (!(error instanceof Error)) return String(error);
  if ("errno" in error && typeof error.errno === "number") return `${path}: ${getSystemErrorMessage(error.errno)}`;
  return error.message.replace("the session's working directory", "the project's folder");
}

/** True for a pattern of names that is no path within a folder. */
export const leavesFolder = (pattern: string): boolean =>
  isAbsolute(pattern) || pattern.split(/[\\/{},]/u).includes("..");

/** Names that `list` looks at together, and in all. */
const [listedAtOnce, listedMax] = [100, 50_000];

/**
 * Resolves to the files under a folder whose names fit a pattern, newest first, at most `max`, a line each: as the SDK's own body does,
 * but not one file after the other. A link to a file is left out, and so is a file that a link leads to outside of the folder. Only the
 * folder is walked through, until `signal` aborts.
 */
export async function list(folder: string, pattern: string, max: number, signal: AbortSignal): Promise<string> {
  if (leavesFolder(pattern)) throw new Error("a pattern is relative to the folder, and has no ..");
  const isNoise = ({ name, parentPath }: Dirent): boolean => {
    signal.throwIfAborted();
    const isWithin = parentPath === folder || parentPath.startsWith(folder + sep);
    return !isWithin || name === ".git" || name === "node_modules";
  };
  const paths: string[] = [];
  for await (const entry of glob(pattern, { cwd: folder, withFileTypes: true, exclude: isNoise })) {
    if (entry.isFile()) paths.push(join(entry.parentPath, entry.name));
    if (paths.length >= listedMax) break;
  }
  const look = async (path: string) => {
    const [real, { mtimeMs: at }] = await Promise.all([realpath(path), stat(path)]);
    return real.startsWith(folder + sep) ? [{ path, at }] : [];
  };
  // A file that has gone meanwhile is left out.
  const found = await pLimit(listedAtOnce).map(paths, (path) => look(path).catch(() => []));
  const newest = found
    .flat()
    .sort((one, other) => other.at - one.at)
    .slice(0, max);
  return newest.length === 0 ? "no matches" : newest.map(({ path }) => path).join("\n");
}

/** Replaces a file as a whole, atomically, with the SDK's own body; null removes it. */
export async function replace(root: string, { absolute, path }: Place, text: string | null): Promise<void> {
  if (text === null) return rm(absolute);
  await (await loadSdk()).betaWriteTool({ workdir: root }).run({ file_path: path, content: text });
}
