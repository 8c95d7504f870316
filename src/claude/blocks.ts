/**
 * A prompt as content blocks, the same for Managed Agents and Messages: files first, then the text. What Claude would refuse is
 * said to it in words instead: in a session a refused picture would end the session.
 * **Source:** Claude API guide, "Vision" (8,000 pixels a side, 10 MB in base64) and "Request size limits" (32 MB).
 */
import { imageSize } from "image-size";
import type { PromptFile } from "../core/model.ts";

export type PromptBlock = ReturnType<typeof toBlock> | { readonly type: "text"; readonly text: string };
type ImageType = "image/jpeg" | "image/png" | "image/gif" | "image/webp";

const sideMax = 8_000;
const imageBase64Max = 10 * 2 ** 20;
/** Of all files of a prompt together, in base64: the rest of the 32 MB is for the text around them. */
export const filesBase64Max = 30 * 2 ** 20;

/**
 * Never empty, nor with an empty block: both are refused.
 * @param mounted where the files are that Claude reads by its tools
 */
export function toBlocks(
  text: string,
  files: readonly PromptFile[],
  mounted: ReadonlyMap<PromptFile, string> = new Map(),
): PromptBlock[] {
  let left = filesBase64Max;
  const blocks = files.map((file): PromptBlock => {
    const place = mounted.get(file);
    if (place !== undefined) return toNote(file, place);
    left -= file.base64.length;
    return left < 0 ? toNote(file, "was left out: the files are too large together") : toBlock(file);
  });
  if (text.trim() !== "") blocks.push({ type: "text", text });
  return blocks.length > 0 ? blocks : [{ type: "text", text: "(an empty message)" }];
}

/** Longer text would leave no room for the conversation. In bytes. */
const textMax = 256 * 1024;
/** In base64: longer text is easier read in a sandbox, where there is one. */
const inlineTextMax = 64 * 1024;

const typeOf = ({ contentType }: PromptFile): string => contentType.toLowerCase().split(";")[0]?.trim() ?? "";

/** True of what goes along as a block of its own; what remains, a sandbox may be able to read. */
export function isReadable(file: PromptFile): boolean {
  const isKnown = /^(image\/(jpe?g|png|gif|webp)|application\/pdf)$/u.test(typeOf(file));
  return isKnown || (file.base64.length < inlineTextMax && toText(file) !== null);
}

function toBlock(file: PromptFile) {
  const type = typeOf(file);
  const data = file.base64;
  if (type.startsWith("image/")) return toImage(file);
  if (type === "application/pdf")
    return { type: "document", source: { type: "base64", media_type: type, data }, ...titleOf(file) } as const;
  const text = toText(file);
  if (text === null) return toNote(file, "is of a kind that cannot be read here");
  if (text.length > textMax) return toNote(file, "is too long to be read here");
  return text.trim() === "" ? toNote(file, "is empty") : toDocument(file, text);
}

const titleOf = ({ fileName }: PromptFile): { title?: string } => (fileName === null ? {} : { title: fileName });

const toDocument = (file: PromptFile, data: string) =>
  ({ type: "document", source: { type: "text", media_type: "text/plain", data }, ...titleOf(file) }) as const;

/** Words in place of a file. Never a text block: a prompt of unknown fate is known again by its text alone. */
const toNote = (file: PromptFile, what: string) =>
  toDocument(file, `[The file ${file.fileName ?? "without a name"} (${typeOf(file)}) ${what}.]`);

/** The bytes say what a picture is, and how large. */
function toImage(file: PromptFile) {
  const { base64: data } = file;
  if (data.length > imageBase64Max) return toNote(file, "is a picture of more than 10 MB, too large to be seen");
  try {
    const { width, height, type } = imageSize(Uint8Array.fromBase64(data));
    const media_type = imageTypes.get(type ?? "");
    if (media_type === undefined) return toNote(file, "is a picture of a kind that cannot be seen here");
    if (Math.max(width, height) > sideMax)
      return toNote(file, `is a picture of ${width} × ${height} pixels, too large to be seen`);
    return { type: "image", source: { type: "base64", media_type, data } } as const;
  } catch {
    return toNote(file, "is a picture that cannot be read");
  }
}

const imageTypes: ReadonlyMap<string, ImageType> = new Map([
  ["jpg", "image/jpeg"],
  ["png", "image/png"],
  ["gif", "image/gif"],
  ["webp", "image/webp"],
]);

/** Null where the bytes are no text, whatever the type says. */
function toText({ base64 }: PromptFile): string | null {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.fromBase64(base64));
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}
