/**
 * One HTTP exchange with a Signal daemon: bounded in time and bytes, on a connection of its own, never repeated.
 *
 * What became of a request decides whether a message may be sent again, so the outcome is a value with three cases:
 * answered, surely not sent, and lost: written, at least in part, without a whole answer.
 */
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";

export type Answer = {
  readonly kind: "answer";
  readonly status: number;
  readonly body: Uint8Array;
  /** The server's Retry-After in ms, null when it named none. */
  readonly retryAfterMs: Millis | null;
};

export type Unanswered =
  /** No byte of the request left this machine. */
  | { readonly kind: "unsent"; readonly detail: string }
  /** The server may have acted on it; `partial` is what came of the answer. */
  | {
      readonly kind: "lost";
      readonly reason: "closed" | "deadline" | "too large" | "aborted";
      readonly partial: Uint8Array;
    };

export type Exchange = Answer | Unanswered;

export type HttpRequest = {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Appended to the base URL. */
  readonly path: string;
  /** Sent as JSON. */
  readonly json?: unknown;
  /** From the call to the last byte of the answer. */
  readonly deadlineMs: Millis;
  /** Largest body that is read. */
  readonly bytesMax: number;
  readonly signal?: AbortSignal | undefined;
};

export type Http = {
  /** Host and port, for messages. */
  readonly host: string;
  readonly isLocal: boolean;
  /** Never rejects. */
  exchange(request: HttpRequest): Promise<Exchange>;
};

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export type HttpOptions = { readonly baseUrl: string; readonly clock: Clock; readonly fetch?: Fetch | undefined };

/**
 * @param options `baseUrl` may carry a path prefix, and user and password for a proxy in front of the daemon.
 * @throws BridgeError `config` when it is not an http(s) URL
 */
export function createHttp(options: HttpOptions): Http {
  const base = parseBase(options.baseUrl);
  const prefix = `${base.origin}${base.pathname.replace(/\/+$/u, "")}`;
  const login: Record<string, string> = base.username === "" ? {} : { Authorization: `Basic ${toBasic(base)}` };
  const send: Fetch = options.fetch ?? ((url, init) => fetch(url, init));
  return {
    host: base.host,
    isLocal: isLoopback(base.hostname),
    async exchange(request) {
      const watch = watchdog(options.clock, request);
      const received: Uint8Array[] = [];
      try {
        const response = await send(prefix + request.path, toInit(request, login, watch.signal));
        if (!(await readBody(response, request.bytesMax, received)))
          return { kind: "lost", reason: "too large", partial: concat(received) };
        const retryAfterMs = toRetryAfter(response.headers.get("retry-after"), options.clock);
        return { kind: "answer", status: response.status, body: concat(received), retryAfterMs };
      } catch (error) {
        const reason = watch.reason();
        if (reason === null && isUnsent(error)) return { kind: "unsent", detail: describe(error) };
        return { kind: "lost", reason: reason ?? "closed", partial: concat(received) };
      } finally {
        watch.end();
      }
    },
  };
}

/**
 * A pooled connection may be dying (signal-cli closes idle ones after 30 s), and a request written into it has no known
 * outcome: so every exchange has its own. `timeout` is Bun's: its own limit of five minutes would cut a poll that waits for
 * the network. A redirect is not followed: it would send twice.
 */
function toInit(request: HttpRequest, login: Record<string, string>, signal: AbortSignal): RequestInit {
  const isJson = request.json !== undefined;
  const init: RequestInit & { readonly timeout: false } = {
    method: request.method,
    headers: { Connection: "close", ...login, ...(isJson ? { "Content-Type": "application/json" } : {}) },
    keepalive: false,
    redirect: "manual",
    signal,
    timeout: false,
    ...(isJson ? { body: JSON.stringify(request.json) } : {}),
  };
  return init;
}

/** Aborts the exchange at its deadline or with the caller's signal, and remembers which. */
function watchdog(clock: Clock, request: HttpRequest) {
  const abort = new AbortController();
  const ended = new AbortController();
  let reason: "deadline" | "aborted" | null = null;
  const stop = (why: "deadline" | "aborted") => {
    reason ??= why;
    abort.abort();
  };
  const onAbort = () => stop("aborted");
  if (request.signal?.aborted) stop("aborted");
  request.signal?.addEventListener("abort", onAbort, { once: true });
  void clock.sleep(request.deadlineMs, ended.signal).then(() => {
    if (!ended.signal.aborted) stop("deadline");
  });
  return {
    signal: abort.signal,
    reason: () => reason,
    end() {
      ended.abort();
      request.signal?.removeEventListener("abort", onAbort);
    },
  };
}

/** False when the body is larger than allowed; what was read stays in `received`. */
async function readBody(response: Response, bytesMax: number, received: Uint8Array[]): Promise<boolean> {
  if (!response.body) return true;
  const reader = response.body.getReader();
  for (let bytes = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return true;
    received.push(value);
    bytes += value.length;
    if (bytes > bytesMax) {
      await reader.cancel();
      return false;
    }
  }
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.length;
  }
  return whole;
}

/** UTF-8 as text; what is not UTF-8 becomes U+FFFD. */
export const toText = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/** JSON as a value; undefined where it is none. */
export function toJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** The fault of a call that has no side effect worth a doubt. `what` completes "Cannot …". */
export function lineFault(what: string, host: string, exchange: Unanswered): BridgeError {
  if (exchange.kind === "unsent")
    return new BridgeError("signal_unreachable", `Cannot ${what} as ${host} cannot be reached: ${exchange.detail}`);
  switch (exchange.reason) {
    case "deadline":
      return new BridgeError("signal_timeout", `Cannot ${what} as ${host} did not answer in time`);
    case "too large":
      return new BridgeError("signal_protocol", `Cannot ${what} as the answer of ${host} is too large`);
    case "closed":
      return new BridgeError("signal_unreachable", `Cannot ${what} as ${host} closed the connection`);
    case "aborted":
      return new BridgeError("signal_unreachable", `Cannot ${what} as it was stopped`);
  }
}

/** The fault of an answer whose status is no success. */
export function statusFault(what: string, host: string, answer: Answer): BridgeError {
  const message = `Cannot ${what} as ${host} answered with status ${answer.status}`;
  if (answer.status === 429)
    return new BridgeError("signal_rate_limited", message, { retryAfterMs: answer.retryAfterMs ?? undefined });
  // 502 to 504 are a proxy's words for a daemon that is away.
  if (answer.status >= 502 && answer.status <= 504)
    return new BridgeError("signal_unreachable", message, { retryAfterMs: answer.retryAfterMs ?? undefined });
  return new BridgeError("signal_protocol", message);
}

function parseBase(baseUrl: string): URL {
  const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null;
  if (url === null || !/^https?:$/u.test(url.protocol))
    throw new BridgeError("config", "Cannot use signal_url as it is not a URL with http:// or https://");
  return url;
}

/** **Source:** RFC 7617. The URL holds both parts percent-encoded. */
function toBasic(url: URL): string {
  const bytes = `${url.username}:${url.password}`.replaceAll(/%([0-9a-f]{2})/giu, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  );
  return btoa(bytes);
}

const isLoopback = (hostname: string): boolean => /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/u.test(hostname);

/** **Source:** RFC 9110, 10.2.3: seconds, or a date. */
function toRetryAfter(header: string | null, clock: Clock): Millis | null {
  if (header === null) return null;
  if (/^\d+$/u.test(header.trim())) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - clock.now());
}

/**
 * The connection was never made. Bun says it by `code`; Deno in the text of the cause ("client error (Connect)"), since its
 * fetch has no codes. Anything else may have happened after the request was written.
 */
function isUnsent(error: unknown): boolean {
  return /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL|client error \(Connect\)|are blocked/u.test(
    describeWhole(error),
  );
}

function describeWhole(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = "code" in error ? String(error.code) : "";
  return `${code} ${error.message} ${error.cause === undefined ? "" : describeWhole(error.cause)}`;
}

function describe(error: unknown): string {
  const whole = describeWhole(error);
  if (/ECONNREFUSED|refused/iu.test(whole)) return "the connection was refused";
  if (/ENOTFOUND|EAI_AGAIN|dns/iu.test(whole)) return "the name is not known";
  return "no connection";
}
