/** Builds the request that a prompt becomes: once, for a file is fetched and a voice note written down once. */
import type { Request } from "../claude/line.ts";
import { BridgeError } from "../core/errors.ts";
import { filesBase64Max, readBytes } from "../core/filetype.ts";
import { textOf, type Account, type Envelope, type PromptFile } from "../core/model.ts";
import { describe, longTextBytesMax, planFiles, promptText } from "../core/prompt.ts";
import { timeLine } from "../core/when.ts";
import { namesIn } from "../store/names.ts";
import type { Bridge } from "./bridge.ts";

/**
 * A file that cannot be had is said in words: the question is answered all the same.
 * @throws BridgeError when the line is down, so that the prompt is tried again; `voice_unheard` where there is nothing but
 *   voice notes without a program that writes them down
 */
export async function buildRequest(
  { transport, transcribe, timeZone, store }: Pick<Bridge, "transport" | "transcribe" | "timeZone" | "store">,
  envelope: Envelope,
  account: Account,
  hasSandbox: boolean,
  signal: AbortSignal,
): Promise<Request & { readonly kind: "prompt" }> {
  const body = textOf(envelope);
  if (!body) return { kind: "prompt", text: "", files: [] };
  const plan = planFiles(body, hasSandbox);
  const files: PromptFile[] = [];
  const said = [...plan.refused];
  let room = filesBase64Max;
  const long = body.attachments.find((file) => file.isLongText);
  let longText: string | null = null;
  const bytesOf = async (ref: string, bytesMax: number): Promise<Uint8Array | null> => {
    try {
      return await transport.attachment(ref, bytesMax, signal);
    } catch (error) {
      if (error instanceof BridgeError && error.retry === "never") return null;
      throw error;
    }
  };
  if (long) {
    const bytes = await bytesOf(long.ref, longTextBytesMax);
    if (bytes) longText = new TextDecoder().decode(bytes);
    else said.push("[Only the beginning of this long message could be fetched.]");
  }
  for (const { file, bytesMax } of plan.voice) {
    const bytes = transcribe && (await bytesOf(file.ref, bytesMax));
    const spoken = bytes && (await transcribe(bytes, file.contentType, signal));
    said.push(spoken ? `[Voice note:] ${spoken}` : "[A voice note came with this; it could not be written down.]");
    if (!spoken && body.text.trim() === "" && body.attachments.length === plan.voice.length)
      throw new BridgeError("voice_unheard", "Cannot ask as a voice note could not be written down");
  }
  for (const { file, bytesMax } of plan.fetch) {
    const bytes = await bytesOf(file.ref, bytesMax);
    const read = bytes ? await readBytes(bytes, file, hasSandbox) : { refused: "could not be fetched" };
    if ("refused" in read) said.push(`[The attached ${describe(file)} ${read.refused}.]`);
    else if (read.file.base64.length > room)
      said.push(`[The attached ${describe(file)} was too much at once, and left out.]`);
    else {
      files.push(read.file);
      room -= read.file.base64.length;
    }
  }
  const written = timeZone === undefined ? "" : timeLine(envelope.sentAt, timeZone);
  const prompt = promptText(envelope, account, longText, namesIn(store.settings));
  const text = [written, prompt, ...said].filter((line) => line !== "").join("\n");
  return { kind: "prompt", text, files };
}
