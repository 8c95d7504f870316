/**
 * One HTTP request to a daemon: bounded in time and bytes, never repeated.
 *
 *   ask ─▶ the body, where the status is one of success        else ─▶ a `DaemonRefusal`
 *
 * A `DaemonRefusal` carries what came back and whether the request was surely not carried out, since that decides whether a
 * message may be sent again.
 */
import { Buffer } from "node:buffer";
import { unescape } from "node:querystring";
import * as v from "valibot";
import { type Clock, startDeadline } from "../../clock.ts";
import { BridgeError, type BridgeErrorDetails, type ErrorCode } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { isLoopback } from "../../loopback.ts";

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
  /** Opens a new connection: a reused one may be dying, and a request written into it has no known outcome. */
  readonly isFresh?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
};

/** The known facts about a request without a good answer. */
type Answer = {
  /** Null where no whole answer came. */
  readonly status: number | null;
  /** The body, as far as it came. */
  readonly text: string;
  /** Surely not carried out: the connection was never made, or the request was refused. Any other failure may come after the daemon acted. */
  readonly isUnsent: boolean;
  /** The error object of a JSON-RPC answer. */
  readonly error?: { readonly code: number; readonly message: string; readonly data?: unknown };
};

export class DaemonRefusal extends BridgeError {
  readonly answer: Answer;

  constructor(code: ErrorCode, message: string, answer: Answer, details: BridgeErrorDetails = {}) {
    super(code, message, details);
    this.answer = answer;
  }
}

type Fetch = (url: string, init: RequestInit) => Promise<Response>;
/** The address of a daemon: `baseUrl` may carry a path prefix, and user and password for a proxy in front of it. */
export type DaemonPlace = { readonly baseUrl: string; readonly clock: Clock; readonly fetch?: Fetch | undefined };

/** @throws BridgeError `config` when `baseUrl` is not an http(s) URL */
export function createHttp({ baseUrl, clock, fetch: send = fetch }: DaemonPlace) {
  const base = URL.parse(baseUrl);
  if (base === null || !/^https?:$/u.test(base.protocol))
    throw new BridgeError("config", "Cannot use signal_url as it is not a URL with http:// or https://");
  const { host, hostname, origin, pathname, username, password } = base;
  const basic = Buffer.from(unescape(`${username}:${password}`)).toString("base64");
  const login = username === "" ? {} : { Authorization: `Basic ${basic}` };
  const prefix = origin + pathname.replace(/\/+$/u, "");

  return {
    /** With the port, for messages. */
    host,
    isLocal: isLoopback(hostname),
    /** Resolves to the body of the answer. @throws DaemonRefusal */
    async ask(request: HttpRequest): Promise<Buffer> {
      const { method, path, json, what, deadlineMs, bytesMax = 2 ** 20, isFresh = false, signal } = request;
      const chunks: Uint8Array[] = [];
      const refusal = (code: ErrorCode, why: string, known: Partial<Answer> = {}, details: BridgeErrorDetails = {}) => {
        const answer = { status: null, text: Buffer.concat(chunks).toString(), isUnsent: false, ...known };
        return new DaemonRefusal(code, `Cannot ${what} as ${why}`, answer, details);
      };
      using deadline = startDeadline(clock, deadlineMs, ...(signal ? [signal] : []));
      try {
        const response = await send(prefix + path, {
          method,
          signal: deadline.signal,
          // A redirect would send twice.
          redirect: "manual",
          // Bun's default of five minutes would cut a poll that waits for the network.
          timeout: false,
          ...(isFresh && { keepalive: false }),
          headers: { ...login, "Content-Type": "application/json", ...(isFresh && { Connection: "close" }) },
          ...(json !== undefined && { body: JSON.stringify(json) }),
        } as RequestInit);
        const { status, headers, body } = response;
        let bytes = 0;
        for await (const chunk of body ?? []) {
          chunks.push(chunk);
          bytes += chunk.length;
          if (bytes > bytesMax) throw refusal("signal_protocol", `the answer of ${host} is too large`);
        }
        if (status >= 200 && status < 300) return Buffer.concat(chunks);
        // A status below 500 is decided from the request's head (path, content type, Host) or by a proxy, so the daemon has not acted.
        const isUnsent = status < 500;
        const isMisnamed = status === 421;
        const why = isMisnamed
          ? `the daemon does not answer to the name ${host}`
          : `${host} answered with status ${status}`;
        const seconds = headers.get("retry-after") ?? "";
        const retryAfterMs = /^\d+$/u.test(seconds) ? Number(seconds) * 1000 : undefined;
        throw refusal(
          toCode(status),
          why,
          { status, isUnsent },
          { retryAfterMs, hint: isMisnamed ? hostHint : undefined },
        );
      } catch (error) {
        if (error instanceof DaemonRefusal) throw error;
        if (deadline.isLate()) throw refusal("signal_timeout", `${host} did not answer in time`);
        if (signal?.aborted) throw refusal("signal_unreachable", "it was stopped");
        const detail = whyUnsent(error);
        const why = detail === null ? `${host} closed the connection` : `${host} cannot be reached: ${detail}`;
        throw refusal("signal_unreachable", why, { isUnsent: detail !== null });
      }
    },
  };
}

/** signal-cli checks Host since 0.14.4, which refuses names even on 0.0.0.0. **Source:** signal-cli, HttpServerHandler.java. */
const hostHint =
  "Put the host and port of its --http option into SIGNALMAN_SIGNAL_URL, or let it listen on 0.0.0.0 (signal-cli 0.14.5 or newer) where only signalman reaches it.";

/** The value of a JSON text; undefined where the text is no JSON. */
export function toJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** A daemon's answer, checked against `schema`; `what` completes "Cannot …". @throws BridgeError `signal_protocol` */
export function parseAnswer<T>(schema: v.GenericSchema<unknown, T>, answer: unknown, what: string): T {
  const parsed = v.safeParse(schema, answer);
  if (parsed.success) return parsed.output;
  throw new BridgeError("signal_protocol", `Cannot ${what} as the daemon answers strangely`);
}

/** The first line of a text, at most 160 characters, with numbers and ACIs made unrecognisable: for messages and logs. */
export function maskPeople(text: string): string {
  const line = text.trim().split("\n", 1)[0] ?? "";
  return line
    .replaceAll(/\+?\d{7,15}/gu, (number) => `…${number.slice(-2)}`)
    .replaceAll(/\b([0-9a-f]{4})[0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/giu, "$1…")
    .slice(0, 160);
}

function toCode(status: number): ErrorCode {
  if (status === 429) return "signal_rate_limited";
  // A proxy answers 502 to 504 where the daemon is away.
  return status >= 502 && status <= 504 ? "signal_unreachable" : "signal_protocol";
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
