/**
 * The frames of one SSE response, with a watchdog. Endpoints differ from the API and from each other: frames without an `event:`
 * line take their type from the data, an answer may be plain JSON where a stream was asked for, and an error may come inside a 200.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { claudeFailure, type Site } from "./failure.ts";
import { fields, string } from "./wire.ts";

/** The longest turn, and a page of a log, are a small part of it. */
export const streamBytesMax = 64 * 2 ** 20;
/** Pings, and nothing that happens, for so long while a session runs: the log is looked at. */
export const pingsOnlyMs = 60_000;

type Watch = { readonly silenceMs: Millis; readonly pingsMs: Millis; readonly isRunning: () => boolean };

export async function* readFrames(
  site: Site,
  response: Response,
  cut: AbortController,
  clock: Clock,
  { silenceMs, pingsMs, isRunning }: Watch,
): AsyncGenerator {
  let byteAt = clock.monotonic();
  let frameAt = byteAt;
  let bytes = 0;
  const tap = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      byteAt = clock.monotonic();
      bytes += chunk.length;
      if (bytes > streamBytesMax)
        throw new BridgeError("claude_protocol", `Cannot ${site.what} as the answer does not end`);
      controller.enqueue(chunk);
    },
  });
  const dueAt = (): Millis =>
    Math.min(byteAt + silenceMs, isRunning() && byteAt > frameAt ? frameAt + pingsMs : Number.POSITIVE_INFINITY);
  const tapped = new Response(response.body?.pipeThrough(tap) ?? null, { headers: response.headers });
  const isJson = /json/u.test(response.headers.get("content-type") ?? "");
  const frames = isJson ? readJson(site, tapped) : readEvents(site, tapped, cut);
  try {
    for (let next = frames.next(); ;) {
      // Looked at below; a rejection while we are away must not count as unhandled.
      next.catch(() => {});
      const timer = new AbortController();
      const rest = clock.sleep(Math.min(pingsMs, dueAt() - clock.monotonic()), timer.signal).then(() => null);
      const result = await Promise.race([next, rest]).finally(() => timer.abort());
      if (result?.done) return;
      if (result) {
        frameAt = clock.monotonic();
        yield result.value;
        next = frames.next();
      } else if (clock.monotonic() >= dueAt()) {
        const isPinging = clock.monotonic() < byteAt + silenceMs;
        byteAt = frameAt = clock.monotonic();
        yield isPinging ? "pinging" : "silent";
      }
    }
  } catch (error) {
    if (!cut.signal.aborted || !isAbort(error)) throw claudeFailure(site, error);
  } finally {
    cut.abort();
  }
}

const isAbort = (error: unknown): boolean => error instanceof Error && error.name === "AbortError";

async function* readEvents(site: Site, response: Response, cut: AbortController): AsyncGenerator {
  const { Stream } = await import("@anthropic-ai/sdk/core/streaming");
  try {
    for await (const { event, data } of Stream.rawEvents(response, cut)) {
      if (data === "" || data === "[DONE]" || event === "ping") continue;
      const frame = fields(JSON.parse(data));
      const type = string(frame["type"]) || event;
      if (type === "error" || (type === null && frame["error"])) throw claudeFailure(site, toAnswer(frame));
      if (type !== "ping") yield { ...frame, type };
    }
  } catch (error) {
    if (!isAbort(error)) throw error;
  }
}

async function* readJson(site: Site, response: Response): AsyncGenerator {
  const body = await readBody(response, streamBytesMax);
  const frame = fields(JSON.parse(new TextDecoder().decode(body ?? new Uint8Array())));
  if (frame["error"]) throw claudeFailure(site, toAnswer(frame));
  yield frame;
}

/** An error inside a 200, as the SDK would throw an answer. */
function toAnswer(frame: unknown): object {
  const { type, message, details } = fields(fields(frame)["error"]);
  return { status: undefined, type: type ?? "error", errorCode: fields(details)["error_code"], apiMessage: message };
}

/** Null where the body is larger than `bytesMax`. */
export async function readBody({ body }: Response, bytesMax: number): Promise<Uint8Array<ArrayBuffer> | null> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    if ((size += chunk.length) > bytesMax) return null;
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}
