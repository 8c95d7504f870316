import { describe, expect, test } from "bun:test";
import { isReadable, toBlocks } from "../../src/claude/blocks.ts";
import type { PromptFile } from "../../src/core/model.ts";
import { pixel } from "../contract/line.ts";

const file = (contentType: string, base64: string, fileName: string | null = null): PromptFile => ({
  contentType,
  fileName,
  base64,
});
/** The header of a PNG says how large it is. */
const png = (width: number, height: number): string => {
  const bytes = Uint8Array.fromBase64(pixel);
  const view = new DataView(bytes.buffer);
  view.setUint32(16, width);
  view.setUint32(20, height);
  return bytes.toBase64();
};
const noteOf = (of: PromptFile): string => {
  const [block] = toBlocks("look", [of]);
  return block?.type === "document" && block.source.type === "text" ? block.source.data : (block?.type ?? "");
};

describe("the blocks of a prompt", () => {
  test("files come first, then the text; never nothing, and no empty block", () => {
    expect(toBlocks("look", [file("image/png", pixel)]).map(({ type }) => type)).toEqual(["image", "text"]);
    expect(toBlocks(" ", [])).toEqual([{ type: "text", text: "(an empty message)" }]);
    expect(noteOf(file("text/plain", "", "a.txt"))).toBe("[The file a.txt (text/plain) is empty.]");
  });

  test("the bytes say what a picture is, not its sender", () => {
    expect(toBlocks("", [file("image/jpeg; q=1", pixel)])[0]).toMatchObject({ source: { media_type: "image/png" } });
  });

  test("a picture that Claude would refuse is said in words", () => {
    expect(noteOf(file("image/png", png(8_000, 8_000)))).toBe("image");
    expect(noteOf(file("image/png", png(8_001, 10)))).toContain("8001 × 10 pixels, too large");
    expect(noteOf(file("image/png", png(9_000, 9_000)))).toContain("too large");
    expect(noteOf(file("image/png", pixel + "A".repeat(10 * 2 ** 20)))).toContain("more than 10 MB");
    expect(noteOf(file("image/heic", btoa("....ftypheic")))).toMatch(/cannot be (seen here|read)/u);
    expect(noteOf(file("image/png", "not base64!"))).toContain("cannot be read");
  });

  test("text goes along whatever it is called; what is none is said, and so is what is too long", () => {
    const csv = new TextEncoder().encode("ä,b\n1,2\n").toBase64();
    expect(noteOf(file("application/vnd.ms-excel", csv))).toBe("ä,b\n1,2\n");
    expect(noteOf(file("text/plain", btoa("a\0b")))).toContain("cannot be read here");
    expect(noteOf(file("text/plain", btoa("x".repeat(300_000))))).toContain("too long");
  });

  test("a sandbox is for what does not go along by itself", () => {
    expect(isReadable(file("image/png", pixel))).toBe(true);
    expect(isReadable(file("text/csv", btoa("a,b")))).toBe(true);
    expect(isReadable(file("text/csv", btoa("a,b\n".repeat(20_000))))).toBe(false);
    expect(isReadable(file("application/zip", btoa("PK\u0003\u0004\u00ff")))).toBe(false);
    expect(isReadable(file("image/tiff", btoa("II*\0")))).toBe(false);
    expect(isReadable(file("audio/mpeg", btoa("\u00ff\u00fb")))).toBe(false);
  });
});
