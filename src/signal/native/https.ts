/**
 * HTTPS that trusts given roots only, for Signal's storage and CDN hosts. On `node:https`, as that is the one way to name the
 * roots which Bun and Deno share. Every answer is bounded in bytes and in time; redirects are not followed.
 */
import type { Buffer } from "node:buffer";
import { Agent, request } from "node:https";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { type Bytes, concat } from "./bytes.ts";

export type PinnedRequest = {
  readonly method: "GET" | "PUT" | "POST" | "PATCH";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Largest body of the answer. */
  readonly bytesMax: number;
  /** For the whole exchange. */
  readonly timeoutMs: Millis;
  readonly signal?: AbortSignal | undefined;
};

export type PinnedResponse = {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Bytes;
};

/** A connection that lay idle for longer may be dead without knowing it, the more so after the machine slept. */
const idleMsMax: Millis = 2000;

/**
 * Resolves with whatever status the host gave, body complete.
 * @throws BridgeError `signal_unreachable` (no line, TLS refused, cancelled), `signal_timeout`, `signal_protocol` (body too large)
 */
export type PinnedFetch = (what: PinnedRequest) => Promise<PinnedResponse>;

export function pinnedFetch(rootsPem: readonly string[], clock: Clock): PinnedFetch {
  const freshAgent = () => new Agent({ ca: [...rootsPem], keepAlive: true });
  let agent = freshAgent();
  let active = 0;
  let usedAt: Millis = clock.now();
  return async (what) => {
    const fault: Fault = (code, why, cause) =>
      new BridgeError(code, `Cannot ${what.method} ${new URL(what.url).host} as ${why}`, { cause });
    if (what.signal?.aborted) throw fault("signal_unreachable", "it was cancelled");
    if (active === 0 && Math.abs(clock.now() - usedAt) > idleMsMax) {
      agent.destroy();
      agent = freshAgent();
    }
    const done = new AbortController();
    active++;
    try {
      return await exchange(agent, what, fault, (expire) => {
        void clock.sleep(what.timeoutMs, done.signal).then(() => done.signal.aborted || expire());
      });
    } finally {
      done.abort();
      active--;
      usedAt = clock.now();
    }
  };
}

type Fault = (
  code: "signal_unreachable" | "signal_timeout" | "signal_protocol",
  why: string,
  cause?: unknown,
) => BridgeError;

function exchange(agent: Agent, what: PinnedRequest, fault: Fault, onDeadline: (expire: () => void) => void) {
  return new Promise<PinnedResponse>((resolve, reject) => {
    const headers =
      what.body === undefined ? { ...what.headers } : { ...what.headers, "content-length": String(what.body.length) };
    const outgoing = request(what.url, { method: what.method, headers, agent });
    const fail = (error: BridgeError) => {
      settle();
      reject(error);
      outgoing.destroy();
    };
    const cancel = () => fail(fault("signal_unreachable", "it was cancelled"));
    const settle = () => what.signal?.removeEventListener("abort", cancel);
    what.signal?.addEventListener("abort", cancel, { once: true });
    onDeadline(() => fail(fault("signal_timeout", `there was no answer in ${what.timeoutMs} ms`)));
    outgoing.on("error", (error) => fail(fault("signal_unreachable", error.message, error)));
    outgoing.on("response", (incoming) => {
      const parts: Buffer[] = [];
      let bytes = 0;
      incoming.on("data", (part: Buffer) => {
        bytes += part.length;
        if (bytes > what.bytesMax)
          return fail(fault("signal_protocol", `the answer is larger than ${what.bytesMax} bytes`));
        parts.push(part);
      });
      incoming.on("error", (error) => fail(fault("signal_unreachable", error.message, error)));
      incoming.on("close", () => {
        if (!incoming.complete) return fail(fault("signal_unreachable", "the line broke"));
        settle();
        resolve({
          status: incoming.statusCode ?? 0,
          headers: toMap(incoming.headers),
          body: concat(...parts),
        });
      });
    });
    outgoing.end(what.body);
  });
}

/** The seconds form of Retry-After, as Signal uses it, in ms; null when there is none. */
export function retryAfterMsOf({ headers }: Pick<PinnedResponse, "headers">): Millis | null {
  const text = headers.get("retry-after") ?? "";
  return /^\d+$/.test(text) ? Number(text) * 1000 : null;
}

function toMap(headers: Readonly<Record<string, string | string[] | undefined>>): Map<string, string> {
  const map = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) map.set(name, Array.isArray(value) ? value.join(", ") : value);
  }
  return map;
}
