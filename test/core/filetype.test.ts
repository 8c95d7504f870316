import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { expectFile, isVoice, readBytes } from "../../src/core/filetype.ts";
import type { Attachment } from "../../src/core/model.ts";

const png = (width = 1, height = 1): Uint8Array => {
  const bytes = Uint8Array.fromBase64(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  );
  new DataView(bytes.buffer).setUint32(16, width);
  new DataView(bytes.buffer).setUint32(20, height);
  return bytes;
};
const gif = Uint8Array.fromBase64("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7");
const jpeg = Uint8Array.fromBase64(
  "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AN//Z",
);
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const utf16 = (text: string, isBig: boolean, isMarked: boolean): Uint8Array => {
  const all = (isMarked ? "\uFEFF" : "") + text;
  const bytes = new Uint8Array(all.length * 2);
  for (let at = 0; at < all.length; at++) new DataView(bytes.buffer).setUint16(at * 2, all.charCodeAt(at), !isBig);
  return bytes;
};
const announced = (contentType: string, fileName: string | null = null, sizeBytes: number | null = null) => ({
  contentType,
  fileName,
  sizeBytes,
});
/** Type and text, or why not. */
const given = async (bytes: Uint8Array, contentType: string, fileName: string | null = null) => {
  const read = await readBytes(bytes, announced(contentType, fileName));
  if ("refused" in read) return read.refused;
  const { contentType: type, base64 } = read.file;
  return type === "text/plain" ? `text: ${new TextDecoder().decode(Uint8Array.fromBase64(base64))}` : type;
};

describe("bytes decide what a file is", () => {
  test.each([
    ["a PNG announced as JPEG", png(), "image/jpeg", "a.jpg", "image/png"],
    ["a JPEG as image/jpg", jpeg, "image/jpg", null, "image/jpeg"],
    ["a GIF as octets", gif, "application/octet-stream", "a", "image/gif"],
    ["a PDF as octets", utf8("%PDF-1.4\n"), "application/octet-stream", null, "application/pdf"],
    ["a PDF as text", utf8("%PDF-1.7\n%âãÏÓ"), "text/plain", "a.txt", "application/pdf"],
    ["JSON with a charset", utf8('{"a":1}'), "application/json; charset=utf-8", null, 'text: {"a":1}'],
    ["TypeScript as a film", utf8("let a = 1;"), "video/mp2t", "a.ts", "text: let a = 1;"],
    ["an SVG", utf8("<svg/>"), "image/svg+xml", "a.svg", "text: <svg/>"],
    ["text that begins like a bitmap", utf8("BM is no bitmap"), "text/plain", null, "text: BM is no bitmap"],
    ["text under a picture's name", utf8("some bytes"), "image/png", "cat.png", "text: some bytes"],
    ["UTF-8 with its mark", utf8("\uFEFFgrün"), "text/csv", null, "text: grün"],
    ["UTF-16 with its mark", utf16("grün", false, true), "text/plain", null, "text: grün"],
    ["UTF-16, big", utf16("grün", true, true), "application/octet-stream", null, "text: grün"],
    ["UTF-16 without a mark", utf16("plain words", false, false), "text/plain", null, "text: plain words"],
    ["UTF-16, big, without", utf16("plain words", true, false), "text/plain", null, "text: plain words"],
    ["Windows-1252", new Uint8Array([0x67, 0x72, 0xfc, 0x6e, 0x80]), "text/plain", null, "text: grün€"],
    ["the charset that is announced", new Uint8Array([0xf0, 0xd2]), "text/plain; charset=koi8-r", null, "text: Пр"],
    ["one that does not exist", new Uint8Array([0xfc]), "text/plain; charset=klingon", null, "text: ü"],
    ["Windows-1252 by its ending", new Uint8Array([0xfc]), "application/octet-stream", "a.csv", "text: ü"],
    ["a web page", utf8("<!DOCTYPE html><p>"), "text/html", "a.html", "text: <!DOCTYPE html><p>"],
    [
      "a web page under a picture's name",
      utf8("\n<html>"),
      "image/png",
      "a.png",
      "is a web page (HTML), not a picture",
    ],
    [
      "one behind a comment",
      utf8("<!-- saved --><?xml?> <html>"),
      "image/jpeg",
      null,
      "is a web page (HTML), not a picture",
    ],
    ["a web page for a PDF", utf8("<!doctype html>"), "application/pdf", null, "is a web page (HTML), not a PDF"],
    ["text of a kind that is not known", utf8("a=1"), "application/x-unheard", "a.conf2", "text: a=1"],
    ["nothing", new Uint8Array(), "image/png", null, "is empty"],
    ["blanks", utf8(" \n"), "text/plain", null, "is empty"],
    [
      "a picture too wide",
      png(8_001, 1),
      "image/png",
      null,
      "measures 8001 × 1 pixels, more than the 8,000 a side that Claude takes",
    ],
    ["the widest picture", png(8_000, 8_000), "image/png", null, "image/png"],
    ["half a picture", jpeg.subarray(0, 20), "image/png", null, "is damaged, or no picture"],
    [
      "an archive",
      utf8("PK\x03\x04\x14\0\0\0\x08\0"),
      "text/plain",
      "a.txt",
      "is of a kind that cannot be read here: application/zip",
    ],
    [
      "noise",
      new Uint8Array([0, 1, 2, 255]),
      "application/octet-stream",
      null,
      "is of a kind that cannot be read here",
    ],
    ["long text", utf8("a".repeat(256 * 1024 + 1)), "text/plain", null, "is larger than the 256 KB allowed here"],
  ])("%s", async (_, bytes, type, name, expected) => expect(await given(bytes, type, name)).toBe(expected));

  test("limits count base64: 7.5 MB of a picture are 10 MB", async () => {
    const bytes = new Uint8Array(7.5 * 2 ** 20 + 3);
    bytes.set(png());
    expect(await given(bytes, "image/png")).toBe("is larger than the 7.5 MB allowed here");
    const read = await readBytes(bytes.subarray(0, 7.5 * 2 ** 20), announced("image/png"));
    expect("file" in read && read.file.base64.length).toBeLessThanOrEqual(10 * 2 ** 20);
  });

  test("what is worth fetching goes by type or ending, and what cannot be read is not", () => {
    const take = (type: string, name: string | null = null, size: number | null = null) =>
      "bytesMax" in expectFile(announced(type, name, size));
    for (const [type, name] of [
      ["image/png", null],
      ["image/jpg", null],
      ["image/heic", "IMG_1.HEIC"],
      ["video/mp2t", "index.ts"],
      ["application/octet-stream", null],
      ["application/octet-stream", "a.pdf"],
      ["", null],
      ["application/vnd.api+json", null],
      ["TEXT/PLAIN; charset=utf-16", null],
    ] as const)
      expect([type, name, take(type, name)]).toEqual([type, name, true]);
    for (const type of ["video/mp4", "audio/mpeg", "application/zip", "font/woff2"])
      expect([type, take(type, null, 9)]).toEqual([type, false]);
    expect(take("application/x-unheard", "zone.db", 9)).toBe(true);
    expect(take("application/x-unheard", "zone.db", 2 ** 20)).toBe(false);
    expect(take("application/x-unheard", "zone.db")).toBe(false);
    expect(take("image/png", null, 9 * 2 ** 20)).toBe(false);
    expect(take("application/pdf", null, 9 * 2 ** 20)).toBe(true);
  });

  test("whatever the bytes, an answer; and what goes to Claude says what it is", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 64 }),
        fc.constantFrom("image/png", "text/plain", "", "x/y"),
        async (bytes, type) => {
          const read = await readBytes(bytes, announced(type));
          if ("file" in read)
            expect(read.file.contentType).toMatch(/^(image\/(png|jpeg|gif|webp)|application\/pdf|text\/plain)$/u);
        },
      ),
    );
  });

  test("any well-formed text comes through UTF-16 and UTF-8 as it is", async () => {
    const text = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 60 })
      .filter(
        (said) =>
          said.trim() !== "" &&
          !/^\s*(%PDF-|<!doctype html|<html)/iu.test(said) &&
          !/\p{Cc}/u.test(said) &&
          !said.startsWith("\uFEFF"),
      );
    await fc.assert(
      fc.asyncProperty(text, fc.boolean(), async (said, isBig) => {
        expect(await given(utf16(said, isBig, true), "text/plain")).toBe(`text: ${said}`);
        expect(await given(utf8(said), "text/plain")).toBe(`text: ${said}`);
      }),
    );
  });
});

test("a voice note is what is marked or named as one, whatever its type; other sound is a file", () => {
  const file = (fileName: string | null, contentType = "audio/mp4", isVoiceNote = false): Attachment => ({
    ref: "1",
    contentType,
    fileName,
    sizeBytes: 1,
    isVoiceNote,
    isLongText: false,
  });
  for (const name of [
    "PTT-20260101-WA0001.opus",
    "Voice Message.m4a",
    "voice_note 3.ogg",
    "Audio Message.caf",
    "Sprachnachricht 1.aac",
    "New Recording 7.m4a",
    "录音 2.m4a",
    "signal-2026-11-30-10-00-00-000.ogg",
    "AUDIO-2026-11-30-10-00-00.mp4",
  ])
    expect([name, isVoice(file(name, "video/mp4"))]).toEqual([name, true]);
  expect(isVoice(file(null, "application/octet-stream", true))).toBe(true);
  for (const name of [
    "Bach.mp3",
    "podcast.m4a",
    "voice.pdf",
    "Voices of Spring.mp3",
    "audiobook 1.mp3",
    "recording.mp4",
    null,
  ])
    expect([name, isVoice(file(name))]).toEqual([name, false]);
});

describe("where Claude has a sandbox, what it does not read itself goes there", () => {
  const read = async (bytes: Uint8Array, type: string, name: string | null = null): Promise<string> => {
    const expected = expectFile(announced(type, name, bytes.length), true);
    if ("refused" in expected) return expected.refused;
    const result = await readBytes(bytes, announced(type, name), true);
    return "refused" in result ? result.refused : result.file.contentType;
  };
  const zip = Uint8Array.from([0x50, 0x4b, 0x05, 0x06, ...new Uint8Array(18)]);
  const word = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
  test.each([
    ["an archive", zip, "application/zip", "plans.zip", "application/zip"],
    [
      "music",
      Uint8Array.from([0x49, 0x44, 0x33, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xfb]),
      "audio/mpeg",
      "song.mp3",
      "audio/mpeg",
    ],
    ["what no magic names", Uint8Array.from([0, 1, 2, 0xff, 0xfe, 0xfd]), word, "letter.docx", word],
    ["what has no type at all", Uint8Array.from([0, 1, 2, 0xff, 0xfe, 0xfd]), "", null, "application/octet-stream"],
    [
      "a table that is too long to be read at once",
      utf8("a;b\n".repeat(100_000)),
      "text/csv",
      "t.csv",
      "application/octet-stream",
    ],
    ["a short table, as text", utf8("a;b\n"), "text/csv", "t.csv", "text/plain"],
    ["a picture", png(), "image/png", "p.png", "image/png"],
    ["a picture that is too large", png(9_000, 9_000), "image/png", "p.png", expect.stringContaining("9000 × 9000")],
    ["nothing", new Uint8Array(0), "application/zip", "e.zip", "is empty"],
  ])("%s", async (_, bytes, type, name, is) => {
    expect(await read(bytes, type, name)).toEqual(is as string);
  });
  test("not more than a request can hold", () => {
    expect(expectFile(announced("application/zip", "a.zip", 30 * 2 ** 20), true)).toEqual({
      refused: "is larger than the 22 MB allowed here",
    });
  });
});
