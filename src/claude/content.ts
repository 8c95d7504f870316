/** A prompt as content blocks, the same for Managed Agents and Messages. **Source:** claude/CLAUDE-API.md section 1.4. */
import type { PromptFile } from "../core/model.ts";

type ImageType = "image/jpeg" | "image/png" | "image/gif" | "image/webp";

export type PromptBlock =
  | { type: "text"; text: string }
  | { type: "image"; source: { type: "base64"; media_type: ImageType; data: string } }
  | {
      type: "document";
      source:
        | { type: "base64"; media_type: "application/pdf"; data: string }
        | { type: "text"; media_type: "text/plain"; data: string };
      title?: string;
    };

const imageTypes: readonly string[] = ["image/jpeg", "image/png", "image/gif", "image/webp"] satisfies ImageType[];
const textLike = /^text\/|^application\/(json|xml|yaml|toml|x-sh)$/u;

/** Files first, then the text; never empty, and never an empty text block (the API refuses both). */
export function toBlocks(text: string, files: readonly PromptFile[]): PromptBlock[] {
  const blocks = files.map(toBlock);
  if (text.trim() !== "") blocks.push({ type: "text", text });
  return blocks.length > 0 ? blocks : [{ type: "text", text: "(an empty message)" }];
}

function toBlock(file: PromptFile): PromptBlock {
  const contentType = file.contentType.toLowerCase().split(";")[0]?.trim() ?? "";
  const title = file.fileName === null ? {} : { title: file.fileName };
  if (imageTypes.includes(contentType))
    return { type: "image", source: { type: "base64", media_type: contentType as ImageType, data: file.base64 } };
  if (contentType === "application/pdf")
    return { type: "document", source: { type: "base64", media_type: contentType, data: file.base64 }, ...title };
  const data = textLike.test(contentType) ? decodeText(file.base64) : "";
  if (data.trim() !== "")
    return { type: "document", source: { type: "text", media_type: "text/plain", data }, ...title };
  return { type: "text", text: `[An attached file (${contentType}) could not be read here.]` };
}

const decodeText = (base64: string): string =>
  new TextDecoder().decode(Uint8Array.from(atob(base64), (char) => char.charCodeAt(0)));
