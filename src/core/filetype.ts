/**
 * The kind of a file: its bytes decide, since phones often announce a wrong one (a PNG as JPEG, TypeScript as a film, a PDF as bytes).
 *
 *   announced ─▶ expectFile: worth fetching, and how many bytes      fetched ─▶ readBytes: what Claude is given, or why not, in words
 */
import type { Attachment, PromptFile } from "./model.ts";
import { oneLine } from "./text.ts";

type Readable = "image" | "pdf" | "text";

const mebi = 2 ** 20;
/** The most bytes whose base64 is at most `base64Max` characters long. */
const bytesIn = (base64Max: number): number => Math.floor(base64Max / 4) * 3;

/** **Source:** Anthropic's documentation of vision (10 MB of base64) and of PDF support (32 MB a request); the rest is our own. */
const limits: { readonly [K in Readable]: { readonly bytesMax: number; readonly words: string } } = {
  image: { bytesMax: bytesIn(10 * mebi), words: "7.5 MB" },
  pdf: { bytesMax: 20 * mebi, words: "20 MB" },
  text: { bytesMax: 256 * 1024, words: "256 KB" },
};
/** A larger picture is refused, and ends a session. **Source:** Anthropic's documentation of vision, "image size limits". */
const sideMax = 8_000;

/** Base64 of all files of one prompt together: a request takes 32 MB. */
export const promptBase64Max = 30 * mebi;
const sandboxLimit = { bytesMax: bytesIn(promptBase64Max), words: "22 MB" };
/** The type of files that Claude reads only with the tools of its sandbox. */
const otherType = "application/octet-stream";

type Announced = Pick<Attachment, "contentType" | "fileName" | "sizeBytes">;

const images = new Set(["image/jpeg", "image/png", "image/gif", "image/webp"]);
const textTypes =
  /^text\/|[+/](?:json|xml|yaml|x-yaml|toml|javascript|typescript|sql|graphql|x-sh|x-shellscript|x-tex|x-python|x-httpd-php|x-ndjson|csv)$/u;
const textEndings =
  /\.(?:txt|md|markdown|rst|adoc|csv|tsv|json|jsonl|ndjson|geojson|xml|svg|html?|css|scss|less|ya?ml|toml|ini|cfg|conf|env|properties|log|diff|patch|tex|bib|srt|vtt|ics|vcf|eml|sql|graphql|proto|[cm]?[jt]sx?|vue|svelte|py|ipynb|rb|rs|go|java|kts?|scala|swift|m|mm|c|cc|cpp|cxx|h|hh|hpp|cs|fs|php|pl|lua|r|jl|dart|ex|exs|erl|hs|clj|lisp|el|sh|bash|zsh|fish|ps1|bat|cmd|dockerfile|makefile|gradle|tf|nix)$/iu;
const imageEndings = /\.(?:jpe?g|png|gif|webp)$/iu;
const never = /^(?:audio|video|font)\/|zip|compressed|\btar\b|msdownload/u;
const opaque = /^(?:application\/octet-stream|binary\/octet-stream|application\/x-binary|application\/unknown|)$/u;

const typeOf = ({ contentType }: Announced): string => contentType.toLowerCase().split(";")[0]?.trim() ?? "";

/** The kind that the type or the ending of the name promises; null for a file that cannot be read here. */
function promised(file: Announced): Readable | null {
  const type = typeOf(file);
  const name = file.fileName ?? "";
  if (textEndings.test(name)) return "text";
  if (type === "application/pdf" || /\.pdf$/iu.test(name)) return "pdf";
  if (images.has(type) || /^image\/(?:jpg|pjpeg|x-png)$/u.test(type) || imageEndings.test(name)) return "image";
  if (textTypes.test(type)) return "text";
  // An opaque type may be anything: the largest limit holds for it.
  return opaque.test(type) || type.startsWith("image/") ? "pdf" : null;
}

export type Expected = { readonly bytesMax: number } | { readonly refused: string };

/** Whether a file is worth fetching, by what its sender announced: the most bytes to take, or why not, as the end of a sentence. */
export function expectFile(file: Announced, hasSandbox = false): Expected {
  const kind = promised(file);
  // A small file whose name and type are not known may be text.
  const isPossible = (file.sizeBytes ?? Infinity) <= limits.text.bytesMax && !never.test(typeOf(file));
  if (kind === null && !hasSandbox && !isPossible) return { refused: "is of a kind that cannot be read here" };
  const { bytesMax, words } = hasSandbox ? sandboxLimit : limits[kind ?? "text"];
  return (file.sizeBytes ?? 0) > bytesMax ? { refused: `is larger than the ${words} allowed here` } : { bytesMax };
}

export type Read = { readonly file: PromptFile } | { readonly refused: string };

/** The file for Claude, or why there is none, as the end of a sentence. Total. */
export async function readBytes(bytes: Uint8Array, announced: Announced, hasSandbox = false): Promise<Read> {
  const fileName = oneLine(announced.fileName, 200);
  if (bytes.length === 0) return { refused: "is empty" };
  const isPdf = startsWith(bytes, "%PDF-");
  const text = isPdf ? null : decode(bytes, announced);
  const asIs = (contentType: string): Read => ({ file: { contentType, fileName, base64: bytes.toBase64() } });
  if (text !== null) {
    const read = readText(text, announced, fileName);
    return hasSandbox && bytes.length > limits.text.bytesMax && "refused" in read ? asIs(otherType) : read;
  }
  const type = isPdf ? "application/pdf" : await magicOf(bytes);
  const kind = type === "application/pdf" ? "pdf" : images.has(type) ? "image" : null;
  if (kind === null && hasSandbox) return asIs(type || typeOf(announced) || otherType);
  if (kind === null) return { refused: `is of a kind that cannot be read here${type === "" ? "" : `: ${type}`}` };
  if (hasSandbox && kind === "pdf" && bytes.length > limits.pdf.bytesMax) return asIs(otherType);
  if (bytes.length > limits[kind].bytesMax) return { refused: `is larger than the ${limits[kind].words} allowed here` };
  const refused = kind === "image" ? await badPicture(bytes) : null;
  return refused === null ? asIs(type) : { refused };
}

const startsWith = (bytes: Uint8Array, word: string): boolean =>
  new TextDecoder("latin1").decode(bytes.subarray(0, 1_024)).trimStart().startsWith(word);

async function magicOf(bytes: Uint8Array): Promise<string> {
  const { fileTypeFromBuffer } = await import("file-type");
  return (await fileTypeFromBuffer(bytes).catch(() => undefined))?.mime ?? "";
}

async function badPicture(bytes: Uint8Array): Promise<string | null> {
  const { imageSize } = await import("image-size");
  try {
    const { width, height } = imageSize(bytes);
    return Math.max(width, height) <= sideMax
      ? null
      : `measures ${width} × ${height} pixels, more than the ${sideMax.toLocaleString("en")} a side that Claude takes`;
  } catch {
    return "is damaged, or no picture";
  }
}

const webPage = /^\s*(?:<\?xml[^>]*>\s*|<!--(?:(?!-->)[^])*-->\s*)*<(?:!doctype html|html|head|body)\b/iu;

function readText(text: string, announced: Announced, fileName: string | null): Read {
  const kind = promised(announced);
  if (kind !== "text" && webPage.test(text.slice(0, 4_096)) && !opaque.test(typeOf(announced)))
    return { refused: `is a web page (HTML), not a ${kind === "pdf" ? "PDF" : "picture"}` };
  if (text.trim() === "") return { refused: "is empty" };
  const utf8 = new TextEncoder().encode(text);
  if (utf8.length > limits.text.bytesMax) return { refused: `is larger than the ${limits.text.words} allowed here` };
  return { file: { contentType: "text/plain", fileName, base64: utf8.toBase64() } };
}

/** The text that these bytes are: by BOM, as UTF-8, by the zeros of UTF-16, as announced, as Windows-1252 where it is said to be text; else null. */
function decode(bytes: Uint8Array, announced: Announced): string | null {
  const [a, b] = bytes;
  const isWide = (a === 0xff && b === 0xfe) || (a === 0xfe && b === 0xff);
  const charset = /;\s*charset="?([\w-]+)/iu.exec(announced.contentType)?.[1];
  const latin = promised(announced) === "text" ? "windows-1252" : null;
  const encodings = isWide ? [a === 0xff ? "utf-16le" : "utf-16be"] : ["utf-8", wideOf(bytes), charset, latin];
  for (const encoding of encodings) {
    const text = encoding ? decodeAs(encoding, bytes) : null;
    if (text !== null) return text;
  }
  return null;
}

/** Half of the bytes of a Latin text in UTF-16 are zero, all on one side. */
function wideOf(bytes: Uint8Array): "utf-16le" | "utf-16be" | null {
  const sample = bytes.subarray(0, 4_096);
  const zeros = [0, 0];
  for (const [index, byte] of sample.entries()) if (byte === 0) zeros[index % 2] = (zeros[index % 2] ?? 0) + 1;
  const [even = 0, odd = 0] = zeros;
  const many = sample.length / 4;
  if (odd > many && even === 0) return "utf-16le";
  return even > many && odd === 0 ? "utf-16be" : null;
}

/** Control characters that no text has: all but tabs, line and page breaks, and what terminals write. */
const control = /(?![\t\n\v\f\r\u0080-\u009F])\p{Cc}/u;

function decodeAs(encoding: string, bytes: Uint8Array): string | null {
  try {
    const text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
    return control.test(text.replaceAll("\u001B", "")) ? null : text;
  } catch {
    return null;
  }
}

/** Names that phones and other messengers give to what was spoken: a word for it and a number, a date or a time. */
const spokenName = /^(?:voice|ptt|audio|sprach\w*)(?:[ _-]?(?:message|note|memo|recording))?[\d _.()-]*(?:WA\d+)?$/iu;
/** Names of recordings that films may have, too: they count only beside the ending of a sound. */
const recordedName =
  /^(?:(?:new |neue )?(?:recording|aufnahme)|memo vocal|message vocal|nota de voz|grabación|gravação|messaggio vocale|registrazione|запись|录音|語音|signal-[\d-]*(?:voice)?)[\d _.()-]*$/iu;
const isSound = (ending: string): boolean => /^(?:aac|m4a|mp3|ogg|oga|opus|amr|caf|wav)$/iu.test(ending);

/** Whether a file is a voice note, which is written down for Claude; any other sound is a file. */
export function isVoice({ isVoiceNote, fileName }: Attachment): boolean {
  const [, name = "", ending = ""] = /^(.*)\.(\w+)$/u.exec(oneLine(fileName) ?? "") ?? [];
  if (isSound(ending)) return isVoiceNote || spokenName.test(name) || recordedName.test(name);
  return isVoiceNote || (/^(?:mp4|webm|3gpp?)$/iu.test(ending) && spokenName.test(name));
}
