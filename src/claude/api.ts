/**
 * The only door to the Claude API: the SDK, loaded when first needed, without its retries, its environment and its log.
 *
 * - `call` is one request; `stream` is one SSE response with a watchdog. All fail only with `BridgeError`.
 * - `watchedFetch` looks at every answer (the server's clock, and whether a 200 is what the API sends at all), and goes through the
 *   proxy, but never to this machine.
 */
import type { Anthropic, ClientOptions } from "@anthropic-ai/sdk";
import { startDeadline, type Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis, PromptFile } from "../core/model.ts";
import { isLoopback } from "../loopback.ts";
import { claudeFailure, nullFor, type Site } from "./failure.ts";
import type { ModelInfo } from "./line.ts";
import { fields, string } from "./wire.ts";

export type ApiOptions = {
  /** Without a key and a token every call fails with `claude_no_key`. */
  readonly apiKey: string | null;
  /** A bearer token, in place of a key. */
  readonly authToken?: string | null;
  /** Null for the API of Anthropic. */
  readonly baseUrl: string | null;
  /** Null for the proxy that the environment names. */
  readonly proxy?: string | null | Promise<string | null>;
  readonly clock: Clock;
  /** Silence that an endpoint other than Anthropic's may keep, before an answer and in it: a local model needs minutes. */
  readonly timeoutMs?: Millis;
};

/** A call hands these to the SDK with every request. */
export type RequestOptions = { readonly signal: AbortSignal; readonly timeout?: Millis };

/** The longest silence of Claude: until the headers of an answer, and within it. */
type Bounds = { readonly headersMs: Millis; readonly silenceMs: Millis };

const defaultBaseUrl = "https://api.anthropic.com";

/** Time to the headers of an answer: the SDK bounds nothing after that. */
export const headersTimeoutMs = 60_000;
/** A stream counts as silent after this long without a byte, since the API sends heartbeats about every 30 s. */
export const silenceMs = 75_000;
const slowEndpointMs = 600_000;
const downloadMs = 120_000;
/** A command or a prompt waits no longer for a look-up of models. */
const lookUpMs = 10_000;
/** The rate of a poor mobile line. */
const uploadBytesPerMs = 50;
/** Bounds an endpoint that pages for ever; far more models than there are. */
const modelsMax = 500;
/** `Date` has whole seconds: on average the true time is half a second later. */
const dateHalfStepMs = 500;

/** Time to the headers of the answer to a request with files, that of their upload included. */
export const uploadTimeoutMs = (files: readonly PromptFile[], headersMs: Millis): Millis =>
  headersMs + files.reduce((ms, { base64 }) => ms + Math.ceil(base64.length / uploadBytesPerMs), 0);

const hostOf = (url: string): string => URL.parse(url)?.hostname ?? "";
const isAnthropic = (url: string): boolean => /(^|\.)anthropic\.com$/u.test(hostOf(url));

/** Bounds a body that does not end: the longest turn, and a page of a log, are a small part of this. */
const answerBytesMax = 64 * 2 ** 20;

function bounded(response: Response): Response {
  let bytes = 0;
  const count = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      if ((bytes += chunk.length) > answerBytesMax) throw new RangeError("the answer does not end");
      controller.enqueue(chunk);
    },
  });
  return response.body === null ? response : new Response(response.body.pipeThrough(count), response);
}

export type ClaudeApi = ReturnType<typeof createClaudeApi>;

type Call = <T>(site: Site, work: (client: Anthropic) => PromiseLike<T>) => Promise<T>;

/** Every method fails only with a BridgeError `claude_*`. */
export function createClaudeApi(given: ApiOptions) {
  const { clock, proxy, timeoutMs = slowEndpointMs } = given;
  const baseUrl = given.baseUrl ?? defaultBaseUrl;
  const bounds: Bounds = isAnthropic(baseUrl)
    ? { headersMs: headersTimeoutMs, silenceMs }
    : { headersMs: timeoutMs, silenceMs: timeoutMs };
  let skewMs = 0;
  let client: Promise<Anthropic> | null = null;
  const watchedFetch = async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    // Bun reads HTTP_PROXY by itself, also for loopback: only `false` goes past it.
    const isHere = isLoopback(hostOf(baseUrl));
    const through = isHere ? null : await proxy;
    const way = isHere ? { proxy: false } : through ? { proxy: through } : {};
    const response = await fetch(url, { ...init, ...way } as RequestInit);
    const date = Date.parse(response.headers.get("date") ?? "");
    if (!Number.isNaN(date)) skewMs = date + dateHalfStepMs - clock.now();
    if (new Headers(init?.headers).get("accept") === "application/binary") return response;
    const isStream = (init as { readonly timeout?: unknown } | undefined)?.timeout === false;
    if (response.ok && !isStream && !/json/u.test(response.headers.get("content-type") ?? ""))
      throw new BridgeError("claude_protocol", "the answer is not JSON");
    return bounded(response);
  };
  /** Runs one request, or the first of a walk over pages. */
  const call: Call = async (site, work) => {
    try {
      return await work(await (client ??= load({ ...given, baseUrl }, watchedFetch)));
    } catch (error) {
      throw claudeFailure(site, error);
    }
  };
  return {
    call,
    bounds,
    /** The server's clock minus ours, from the last answer's `Date`; 0 before the first. Right to about a second. */
    skewMs: (): Millis => skewMs,
    /**
     * Opens an SSE response. Resolves when the server has answered with headers: no event after that is missed. `readFrames` tells its
     * frames. An abort of `outer` ends them silently, as does the server's end of the response; a fault before that is thrown.
     */
    async stream(
      site: Site,
      work: (client: Anthropic, options: Required<RequestOptions>) => { asResponse(): Promise<Response> },
      outer: AbortSignal,
      watch: Watch = { pingsMs: bounds.silenceMs, movedAt: null },
    ): Promise<AsyncIterable<unknown>> {
      const cut = new AbortController();
      const options = {
        signal: AbortSignal.any([outer, cut.signal]),
        timeout: bounds.headersMs,
        // `false` keeps Bun from ending a request after 5 silent minutes, since our own bounds do, and marks a stream for `watchedFetch`.
        fetchOptions: { timeout: false } as RequestInit,
      };
      return call(site, async (client) => {
        const response = await work(client, options).asResponse();
        return readFrames({ ...site, isStream: true }, response, cut, clock, bounds.silenceMs, watch);
      });
    },
    /** The body of a download; null where it is larger than `bytesMax`. */
    async bytes(
      site: Site,
      work: (client: Anthropic, options: RequestOptions) => PromiseLike<Response>,
      bytesMax: number,
      outer: AbortSignal,
    ): Promise<Uint8Array | null> {
      using bound = startDeadline(clock, downloadMs, outer);
      const { signal } = bound;
      return await call(site, async (client) => readBody(await work(client, { signal }), bytesMax));
    },
    ...createModels(call, !isAnthropic(baseUrl)),
  };
}

/** Resolves to null where the API answers that there is no such thing. */
export const ifThere = <T>(
  { call }: Pick<ClaudeApi, "call">,
  what: string,
  work: (client: Anthropic) => PromiseLike<T>,
): Promise<T | null> => nullFor("unsupported", call({ what, notFound: "unsupported" }, work));

type Page<T> = { readonly data: readonly T[]; iterPages(): AsyncIterable<Page<T>> };

/** Yields pages one by one; those before one that fails stay valid. */
export async function* walk<T>(
  api: ClaudeApi,
  site: Site,
  list: (client: Anthropic) => PromiseLike<Page<T>>,
): AsyncGenerator<readonly T[]> {
  const first = await api.call(site, list);
  try {
    for await (const { data } of first.iterPages()) yield Array.isArray(data) ? data : [];
  } catch (error) {
    throw claudeFailure(site, error);
  }
}

/** Asks an endpoint for its models, where it lists them. */
function createModels(call: Call, isForeign: boolean) {
  const known = new Map<string, ModelInfo | null>();
  const site = { unserved: "claude_models_unlisted", isForeign } as const;
  return {
    /** The models that the key may use. @throws BridgeError `claude_models_unlisted` */
    models: (signal: AbortSignal): Promise<readonly ModelInfo[]> =>
      call({ ...site, what: "list the models" }, async (client) => {
        const found: ModelInfo[] = [];
        for await (const model of client.models.list({ limit: 100 }, { signal, timeout: lookUpMs })) {
          found.push(toModel(model));
          if (found.length >= modelsMax) break;
        }
        return found;
      }),
    /** The model of a name or an alias; null where it is unknown, or the endpoint cannot tell. Asked once. */
    async model(name: string, signal: AbortSignal): Promise<ModelInfo | null> {
      const before = known.get(name);
      if (before !== undefined) return before;
      const lookUp = { ...site, what: "look up the model", refused: "claude_models_unlisted" } as const;
      const found = await nullFor(
        "claude_models_unlisted",
        call(lookUp, (client) => client.models.retrieve(name, {}, { signal, timeout: lookUpMs })),
      );
      const model = found && toModel(found);
      known.set(name, model);
      return model;
    },
  };
}

const toModel = ({ id, max_tokens }: Anthropic.ModelInfo): ModelInfo => ({ id, outputTokensMax: max_tokens || null });

async function load(
  { apiKey, authToken = null, baseUrl }: ApiOptions,
  fetch: ClientOptions["fetch"],
): Promise<Anthropic> {
  if (!apiKey && !authToken) throw new BridgeError("claude_no_key", "Cannot ask Claude as no API key is set");
  const { Anthropic } = await import("@anthropic-ai/sdk");
  // The SDK's own log would show bodies.
  const quiet = { logLevel: "off", openTelemetry: false } as const;
  const credential = authToken ? { apiKey: null, authToken } : { apiKey, authToken: null };
  return new Anthropic({ ...credential, baseURL: baseUrl, fetch, maxRetries: 0, timeout: headersTimeoutMs, ...quiet });
}

// --- the frames of one SSE response, with a watchdog. Endpoints differ from the API and from each other: frames without an `event:` line
// take their type from the data, an answer may be plain JSON where a stream was asked for, whatever it is called, and an error may come
// inside a 200.

export type Watch = {
  /** After this long with nothing but pings the reader gets `"pinging"`. */
  readonly pingsMs: Millis;
  /** The reader sets when a frame last brought something, in monotonic time; null while none need come. */
  movedAt: Millis | null;
};

/** Yields parsed frames, `"silent"` after `silenceMs` without a byte, `"pinging"` by `watch`; both come again after as long again. */
async function* readFrames(
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
      // The race below sees a rejection; one while the consumer works must not count as unhandled.
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
  /** The whole body where it begins like JSON, since the SDK's reader finds no frames in it. */
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

/** @throws BridgeError where the frame is an error, as for an answer with that status */
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
