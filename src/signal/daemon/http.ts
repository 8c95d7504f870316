/**
 * One HTTP exchange with a daemon: bounded in time and bytes, never repeated.
 *
 * What became of a request decides whether a message may be sent again, so an exchange never rejects: it says what came back,
 * and whether the request surely never left.
 */
import { Buffer } from "node:buffer";
import { unescape } from "node:querystring";
import * as v from "valibot";
import { type Clock, startDeadline } from "../../clock.ts";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";

export type HttpRequest = {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  /** Appended to the base URL. */
  readonly path: string;
  readonly json?: unknown;
  /** Completes "Cannot …" in the fault's message. */
  readonly what: string;
  /** From the call to the last byte of the answer. */
  readonly deadlineMs: Millis;
  /** Largest body that is read; 1 MiB unless told. */
  readonly bytesMax?: number | undefined;
  /** On a connection of its own: one that was used before may be dying, and a request written into it has no known outcome. */
  readonly isFresh?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
};

export type Exchange = {
  /** Null where no whole answer came. */
  readonly status: number | null;
  /** As far as it came. */
  readonly body: Buffer;
  /** Null where the status is one of success. */
  readonly fault: BridgeError | null;
  /** The connection was never made; any other failure may come after the daemon acted. */
  readonly isUnsent: boolean;
};

type Fetch = (url: string, init: RequestInit) => Promise<Response>;
/** Where a daemon is: `baseUrl` may carry a path prefix, and user and password for a proxy in front of it. */
export type Place = { readonly baseUrl: string; readonly clock: Clock; readonly fetch?: Fetch | undefined };

/** @throws BridgeError `config` when `baseUrl` is not an http(s) URL */
export function createHttp({ baseUrl, clock, fetch: send = fetch }: Place) {
  const base = URL.parse(baseUrl);
  if (base === null || !/^https?:$/u.test(base.protocol))
    throw new BridgeError("config", "Cannot use signal_url as it is not a URL with http:// or https://");
  const { host, hostname, origin, pathname, username, password } = base;
  const login = Buffer.from(unescape(`${username}:${password}`)).toString("base64");
  const headers = username === "" ? {} : { Authorization: `Basic ${login}` };
  const prefix = origin + pathname.replace(/\/+$/u, "");

  return {
    /** With the port, for messages. */
    host,
    isLocal: /^(?:(?:[\w-]+\.)*localhost|127(?:\.\d+){3}|\[::1\])$/u.test(hostname),
    /** Never rejects. */
    async exchange(request: HttpRequest): Promise<Exchange> {
      const { path, what, deadlineMs, bytesMax = 2 ** 20, signal } = request;
      const fault = (code: ErrorCode, why: string, retryAfterMs?: Millis) =>
        new BridgeError(code, `Cannot ${what} as ${why}`, { retryAfterMs });
      const chunks: Uint8Array[] = [];
      const outcome = (status: number | null, found: BridgeError | null, isUnsent = false): Exchange => ({
        status,
        body: Buffer.concat(chunks),
        fault: found,
        isUnsent,
      });
      using deadline = startDeadline(clock, deadlineMs, ...(signal ? [signal] : []));
      try {
        const init = toInit(request, headers, deadline.signal);
        const { status, headers: answered, body } = await send(prefix + path, init);
        let bytes = 0;
        for await (const chunk of body ?? []) {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > bytesMax) return outcome(null, fault("signal_protocol", `the answer of ${host} is too large`));
        }
        if (status >= 200 && status < 300) return outcome(status, null);
        const retryAfterMs = toRetryAfter(answered.get("retry-after"), clock);
        return outcome(status, fault(toCode(status), `${host} answered with status ${status}`, retryAfterMs));
      } catch (error) {
        if (deadline.isLate()) return outcome(null, fault("signal_timeout", `${host} did not answer in time`));
        if (signal?.aborted) return outcome(null, fault("signal_unreachable", "it was stopped"));
        const detail = whyUnsent(error);
        const why = detail === null ? `${host} closed the connection` : `${host} cannot be reached: ${detail}`;
        return outcome(null, fault("signal_unreachable", why), detail !== null);
      }
    },
  };
}

/** `timeout` is Bun's: its own five minutes would cut a poll that waits for the network. A redirect would send twice. */
function toInit({ method, json, isFresh }: HttpRequest, headers: Record<string, string>, signal: AbortSignal) {
  const type = json !== undefined && { "Content-Type": "application/json" };
  return {
    method,
    signal,
    redirect: "manual" as const,
    timeout: false,
    headers: { ...headers, ...type, ...(isFresh && { Connection: "close" }) },
    ...(isFresh && { keepalive: false }),
    ...(json !== undefined && { body: JSON.stringify(json) }),
  };
}

/** JSON as a value; undefined where it is none. */
export function toJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** A daemon's answer as what it has to be. @throws BridgeError `signal_protocol` */
export function parseAnswer<T>(schema: v.GenericSchema<unknown, T>, answer: unknown, what: string): T {
  const parsed = v.safeParse(schema, answer);
  if (parsed.success) return parsed.output;
  throw new BridgeError("signal_protocol", `Cannot ${what} as the daemon answers strangely`);
}

/** Numbers and ACIs made unrecognisable, and only the first line, at most 160 characters: for messages and logs. */
export function maskPeople(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line
    .replaceAll(/\+?\d{7,15}/gu, (number) => `…${number.slice(-2)}`)
    .replaceAll(/\b([0-9a-f]{4})[0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/giu, "$1…")
    .slice(0, 160);
}

function toCode(status: number): ErrorCode {
  if (status === 429) return "signal_rate_limited";
  // A proxy's words for a daemon that is away.
  return status >= 502 && status <= 504 ? "signal_unreachable" : "signal_protocol";
}

/** **Source:** RFC 9110, 10.2.3: seconds, or a date. */
function toRetryAfter(header: string | null, clock: Clock): Millis | undefined {
  if (header === null) return undefined;
  if (/^\d+$/u.test(header.trim())) return Number(header) * 1000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - clock.now());
}

/** Why the connection was never made; null where it may have been. Bun says it by `code`, Deno in the text of the cause. */
function whyUnsent(error: unknown): string | null {
  const { code, message, cause } = error as Partial<NodeJS.ErrnoException>;
  const whole = `${code} ${message} ${cause instanceof Error ? cause.message : ""}`;
  const isNever =
    /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|EADDRNOTAVAIL|client error \(Connect\)|are blocked/u;
  if (!isNever.test(whole)) return null;
  if (/refused/iu.test(whole)) return "the connection was refused";
  return /ENOTFOUND|EAI_AGAIN|dns/iu.test(whole) ? "the name is not known" : "no connection";
}
