/**
 * The frames of one SSE response, with a watchdog. Endpoints differ from the API and from each other: frames without an `event:`
 * line take their type from the data, an answer may be plain JSON where a stream was asked for, whatever it is called, and an error
 * may come inside a 200.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { claudeFailure, type Site } from "./failure.ts";
import { fields, string } from "./wire.ts";

export type Watch = {
  /** Nothing but pings for so long, and the reader is told. */
  readonly pingsMs: Millis;
  /** The reader says when something last happened, in monotonic time; null while nothing need happen. */
  movedAt: Millis | null;
};

/** Parsed frames, `"silent"` after `silenceMs` without one byte, `"pinging"` as `watch` says; both come again after as long again. */
export async function* readFrames(
  site: Site,
  { body }: Response,
  cut: AbortController,
  clock: Clock,
  silenceMs: Millis,
  watch: Watch,
): AsyncGenerator {
  let byteAt = clock.monotonic();
  const moved = (): void => void (watch.movedAt = watch.movedAt === null ? null : clock.monotonic());
  // Total silence has its own bound, which may be the longer one.
  const pingedAt = (): Millis =>
    watch.movedAt !== null && byteAt > watch.movedAt ? watch.movedAt + watch.pingsMs : Number.POSITIVE_INFINITY;
  const dueAt = (): Millis => Math.min(byteAt + silenceMs, pingedAt());
  moved();
  const frames = parse(site, body, cut, () => (byteAt = clock.monotonic()));
  try {
    for (let next = frames.next(); ;) {
      // Looked at below; a rejection while we are away must not count as unhandled.
      next.catch(() => {});
      const timer = new AbortController();
      const rest = clock.sleep(Math.min(watch.pingsMs, dueAt() - clock.monotonic()), timer.signal).then(() => null);
      const result = await Promise.race([next, rest]).finally(() => timer.abort());
      if (result?.done) return;
      if (result) {
        yield result.value;
        next = frames.next();
      } else if (clock.monotonic() >= dueAt()) {
        const isPinging = clock.monotonic() < byteAt + silenceMs;
        byteAt = clock.monotonic();
        moved();
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

async function* parse(
  site: Site,
  body: ReadableStream<Uint8Array<ArrayBuffer>> | null,
  cut: AbortController,
  onBytes: () => void,
): AsyncGenerator {
  const { Stream } = await import("@anthropic-ai/sdk/core/streaming");
  /** All of a body that begins like JSON: a reader of frames finds none in it. */
  const whole: Uint8Array<ArrayBuffer>[] = [];
  let beginning = "";
  const keep = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller) {
      onBytes();
      if (beginning === "") beginning = new TextDecoder().decode(chunk).trimStart().slice(0, 1);
      if (beginning === "<") throw new BridgeError("claude_protocol", `Cannot ${site.what} as a web page came`);
      if (beginning === "{") whole.push(chunk);
      controller.enqueue(chunk);
    },
  });
  try {
    for await (const { event, data } of Stream.rawEvents(new Response(body?.pipeThrough(keep) ?? null), cut)) {
      if (data === "" || data === "[DONE]" || event === "ping") continue;
      const frame = toFrame(site, JSON.parse(data), event);
      if (frame.type !== "ping") yield frame;
    }
    if (whole.length > 0) yield toFrame(site, JSON.parse(await new Blob(whole).text()), null);
  } catch (error) {
    if (!isAbort(error)) throw error;
  }
}

/** @throws BridgeError where it is an error, as if it had been the answer's status */
function toFrame(site: Site, wire: unknown, event: string | null): { readonly type: string } {
  const frame = fields(wire);
  const type = string(frame["type"]) || (event ?? "");
  if (type !== "error" && (type !== "" || !frame["error"])) return { ...frame, type };
  const { type: kind, message, details } = fields(frame["error"]);
  const errorCode = fields(details)["error_code"];
  throw claudeFailure(site, { type: kind ?? "error", errorCode, apiMessage: message ?? frame["error"] });
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
