/**
 * The one way to the Claude API: the SDK, loaded when first needed, without its retries, its environment and its log.
 *
 * - `call` is one request; `stream` is one SSE response with a watchdog on its bytes. All fail only with `BridgeError`.
 * - Our `fetch` looks at every answer: the server's clock, and whether a 200 is what the API sends at all.
 */
import type { Anthropic, ClientOptions } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis, PromptFile } from "../core/model.ts";
import type { ModelInfo } from "./backend.ts";
import { claudeFailure, type Site } from "./failure.ts";

export type ApiOptions = {
  /** Null fails every call with `claude_key`. */
  readonly apiKey: string | null;
  /** Null is the API of Anthropic. */
  readonly baseUrl: string | null;
  /** Null: what the environment names. */
  readonly proxy?: string | null;
  readonly clock: Clock;
};

/** What a call hands to the SDK with every request. */
export type RequestOptions = { readonly signal: AbortSignal; readonly timeout?: Millis };

const defaultBaseUrl = "https://api.anthropic.com";

/** Time to the headers of an answer. **Source:** claude/CLAUDE-API.md 0.3: the SDK bounds nothing after that. */
export const headersTimeoutMs = 60_000;
/** The server sends heartbeats, interval unpublished: after this long without a byte the line is looked at. */
export const silenceMs = 75_000;
const downloadMs = 120_000;
/** A poor mobile line. */
const uploadBytesPerMs = 50;

/** Time to the headers of the answer to a request with files: what is sent counts too. */
export const uploadTimeoutMs = (files: readonly PromptFile[]): Millis =>
  headersTimeoutMs + files.reduce((ms, { base64 }) => ms + Math.ceil(base64.length / uploadBytesPerMs), 0);

/** The longest turn is a small part of it. */
const streamBytesMax = 64 * 2 ** 20;
/** Far more than there are: an endpoint that pages for ever must not hold us. */
const modelsMax = 500;
/** `Date` has whole seconds: on average the time is half a second later. */
const dateHalfStepMs = 500;

export type ClaudeApi = ReturnType<typeof createClaudeApi>;

/** Every method fails only with a BridgeError `claude_*`. */
export function createClaudeApi({ apiKey, baseUrl, proxy = null, clock }: ApiOptions) {
  let skewMs = 0;
  let client: Promise<Anthropic> | null = null;
  const watchedFetch = async (url: string | URL | Request, init?: RequestInit): Promise<Response> => {
    const response = await fetch(url, proxy === null ? init : { ...init, proxy });
    const date = Date.parse(response.headers.get("date") ?? "");
    if (!Number.isNaN(date)) skewMs = date + dateHalfStepMs - clock.now();
    const isDownload = new Headers(init?.headers).get("accept") === "application/binary";
    if (response.ok && !isDownload && !/json|text\/event-stream/u.test(response.headers.get("content-type") ?? ""))
      throw new BridgeError("claude_protocol", "the answer is neither JSON nor a stream");
    return response;
  };
  /** One request, or a walk over pages. */
  const call = async <T>(site: Site, work: (client: Anthropic) => PromiseLike<T>): Promise<T> => {
    try {
      return await work(await (client ??= load(apiKey, baseUrl, watchedFetch)));
    } catch (error) {
      throw claudeFailure(site, error);
    }
  };
  return {
    call,
    /** The server's clock minus ours, from the last answer's `Date`; 0 before the first. Right to about a second. */
    skewMs: (): Millis => skewMs,
    /**
     * Opens an SSE response. Resolves when the server has answered with headers: from then on nothing is missed. The frames
     * are parsed JSON, or `"silent"` each time not one byte came for `silenceMs`. Aborting `signal` ends them silently;
     * so does the server's end of the response. What breaks it before is thrown.
     */
    async stream(
      site: Site,
      work: (client: Anthropic, options: RequestOptions) => { asResponse(): Promise<Response> },
      outer: AbortSignal,
    ): Promise<AsyncIterable<unknown>> {
      const cut = new AbortController();
      const options = {
        signal: AbortSignal.any([outer, cut.signal]),
        // Bun ends a body that is silent for about 5 minutes; the watchdog below is earlier and knows what to do.
        fetchOptions: { timeout: false } as RequestInit,
      };
      return call(site, async (client) => {
        const response = await work(client, options).asResponse();
        return readFrames({ ...site, isStream: true }, response, cut, clock, client);
      });
    },
    /** The body of a download; null where it is larger than `bytesMax`. */
    async bytes(
      site: Site,
      work: (client: Anthropic, options: RequestOptions) => PromiseLike<Response>,
      bytesMax: number,
      outer: AbortSignal,
    ): Promise<Uint8Array | null> {
      const [cut, timer] = [new AbortController(), new AbortController()];
      void clock.sleep(downloadMs, timer.signal).then(() => cut.abort());
      const signal = AbortSignal.any([outer, cut.signal]);
      try {
        return await call(site, async (client) => readBody(await work(client, { signal }), bytesMax));
      } finally {
        timer.abort();
      }
    },
    /** The models that the key may use. */
    models: (signal: AbortSignal): Promise<readonly ModelInfo[]> =>
      call({ what: "list the models" }, async (client) => {
        const models: ModelInfo[] = [];
        for await (const { id, display_name } of client.models.list({ limit: 100 }, { signal })) {
          models.push({ id, name: display_name || id });
          if (models.length >= modelsMax) break;
        }
        return models;
      }),
  };
}

async function readBody({ body }: Response, bytesMax: number): Promise<Uint8Array | null> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    if ((size += chunk.length) > bytesMax) return null;
    chunks.push(chunk);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

async function load(apiKey: string | null, baseUrl: string | null, fetch: ClientOptions["fetch"]): Promise<Anthropic> {
  if (apiKey === null || apiKey === "")
    throw new BridgeError("claude_key", "Cannot ask Claude as no API key is set", {
      hint: "Set ANTHROPIC_API_KEY and restart signalman; prompts wait and are answered then.",
    });
  const { Anthropic } = await import("@anthropic-ai/sdk");
  // The SDK's own log shows bodies.
  const quiet = { logLevel: "off", openTelemetry: false } as const;
  const baseURL = baseUrl ?? defaultBaseUrl;
  return new Anthropic({ apiKey, baseURL, fetch, maxRetries: 0, timeout: headersTimeoutMs, ...quiet });
}

async function* readFrames(
  site: Site,
  response: Response,
  cut: AbortController,
  clock: Clock,
  client: Anthropic,
): AsyncGenerator {
  const { Stream } = await import("@anthropic-ai/sdk/core/streaming");
  let heardAt = clock.monotonic();
  let bytes = 0;
  const tap = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      heardAt = clock.monotonic();
      bytes += chunk.length;
      if (bytes > streamBytesMax)
        throw new BridgeError("claude_protocol", `Cannot ${site.what} as the answer does not end`);
      controller.enqueue(chunk);
    },
  });
  const tapped = new Response(response.body?.pipeThrough(tap) ?? null, { headers: response.headers });
  // Without a client it would print what it cannot parse, bodies and all, on the console.
  const frames = Stream.fromSSEResponse<unknown>(tapped, cut, client)[Symbol.asyncIterator]();
  try {
    for (let next = frames.next(); ;) {
      // Looked at below; a rejection while we are away must not count as unhandled.
      next.catch(() => {});
      const timer = new AbortController();
      const rest = clock.sleep(heardAt + silenceMs - clock.monotonic(), timer.signal).then(() => null);
      const result = await Promise.race([next, rest]).finally(() => timer.abort());
      if (result?.done) return;
      if (result) {
        yield result.value;
        next = frames.next();
      } else if (clock.monotonic() - heardAt >= silenceMs) {
        heardAt = clock.monotonic();
        yield "silent";
      }
    }
  } catch (error) {
    throw claudeFailure(site, error);
  } finally {
    cut.abort();
  }
}
