/**
 * A prompt as content blocks, the same for every line: files first, then the text. What a file is, and that Claude takes it, was
 * decided when it was fetched (`core/filetype.ts`).
 */
import type { PromptFile } from "../core/model.ts";

export type PromptBlock = ReturnType<typeof toBlock> | { readonly type: "text"; readonly text: string };
type ImageType = "image/jpeg" | "image/png" | "image/gif" | "image/webp";

/**
 * Never empty, nor with an empty block: both are refused.
 * @param mounted where the files are that Claude reads by its tools
 */
export function toBlocks(
  text: string,
  files: readonly PromptFile[],
  mounted: ReadonlyMap<PromptFile, string> = new Map(),
): PromptBlock[] {
  const blocks = files.map((file): PromptBlock => toBlock(file, mounted.get(file)));
  if (text.trim() !== "") blocks.push({ type: "text", text });
  return blocks.length > 0 ? blocks : [{ type: "text", text: "(an empty message)" }];
}

/** In base64: longer text is easier read in a sandbox, where there is one. */
const inlineTextMax = 64 * 1024;

const isImage = ({ contentType }: PromptFile): boolean => /^image\/(jpeg|png|gif|webp)$/u.test(contentType);
const isPdf = ({ contentType }: PromptFile): boolean => contentType === "application/pdf";
const isText = ({ contentType }: PromptFile): boolean => contentType.startsWith("text/plain");

/** True of what goes along as a block of its own; what remains, a sandbox may be able to read. */
export const isReadable = (file: PromptFile): boolean =>
  isImage(file) || isPdf(file) || (isText(file) && file.base64.length < inlineTextMax);

function toBlock(file: PromptFile, place: string | undefined) {
  const { contentType, base64: data } = file;
  if (place !== undefined) return toNote(file, place);
  if (isImage(file))
    return { type: "image", source: { type: "base64", media_type: contentType as ImageType, data } } as const;
  if (isPdf(file))
    return {
      type: "document",
      source: { type: "base64", media_type: "application/pdf", data },
      ...titleOf(file),
    } as const;
  if (isText(file)) return toDocument(file, new TextDecoder().decode(Uint8Array.fromBase64(data)));
  return toNote(file, "is of a kind that cannot be read here");
}

const titleOf = ({ fileName }: PromptFile): { title?: string } => (fileName === null ? {} : { title: fileName });

const toDocument = (file: PromptFile, data: string) =>
  ({ type: "document", source: { type: "text", media_type: "text/plain", data }, ...titleOf(file) }) as const;

/** Words in place of a file. Never a text block: a prompt of unknown fate is known again by its text alone. */
const toNote = (file: PromptFile, what: string) =>
  toDocument(file, `[The file ${file.fileName ?? "without a name"} (${file.contentType}) ${what}.]`);
