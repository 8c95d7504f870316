import { describe, expect, test } from "bun:test";
import { isReadable, toBlocks } from "../../src/claude/wire.ts";
import type { PromptFile } from "../../src/core/model.ts";
import { pixel } from "../contract/line.ts";

const file = (contentType: string, base64: string, fileName: string | null = null): PromptFile => ({
  contentType,
  fileName,
  base64,
});
const noteOf = (of: PromptFile): string => {
  const [block] = toBlocks("look", [of]);
  return block?.type === "document" && block.source.type === "text" ? block.source.data : (block?.type ?? "");
};

describe("the blocks of a prompt", () => {
  test("files come first, then the text; never nothing, and no empty block", () => {
    expect(toBlocks("look", [file("image/png", pixel)]).map(({ type }) => type)).toEqual(["image", "text"]);
    expect(toBlocks(" ", [])).toEqual([{ type: "text", text: "(an empty message)" }]);
    expect(noteOf(file("text/plain", btoa("a,b")))).toBe("a,b");
  });

  test("what cannot be read is said in words, and so is where it was put", () => {
    const zip = file("application/zip", btoa("PK"), "a.zip");
    expect(noteOf(zip)).toBe("[The file a.zip (application/zip) is of a kind that cannot be read here.]");
    const [block] = toBlocks("look", [zip], new Map([[zip, "is in your sandbox at /a.zip"]]));
    expect(block).toMatchObject({
      source: { data: "[The file a.zip (application/zip) is in your sandbox at /a.zip.]" },
    });
  });

  test("a sandbox is for what does not go along by itself", () => {
    expect(isReadable(file("image/png", pixel))).toBe(true);
    expect(isReadable(file("text/plain", btoa("a,b")))).toBe(true);
    expect(isReadable(file("text/plain", btoa("a,b\n".repeat(20_000))))).toBe(false);
    expect(isReadable(file("application/zip", btoa("PK\u0003\u0004\u00ff")))).toBe(false);
    expect(isReadable(file("image/tiff", btoa("II*\0")))).toBe(false);
    expect(isReadable(file("audio/mpeg", btoa("\u00ff\u00fb")))).toBe(false);
  });
});
