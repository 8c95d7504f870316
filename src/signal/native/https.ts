/**
 * HTTPS that trusts given roots only, for Signal's storage and CDN hosts. `node:https` is the one way to name the roots which Bun
 * and Deno share. Every answer is bounded in bytes and in time; redirects are not followed.
 */
import type { Buffer } from "node:buffer";
import { Agent, request } from "node:https";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { concat, reasonOf } from "./bytes.ts";
import type { PinnedFetch, PinnedRequest, PinnedResponse } from "./context.ts";

/** A connection that lay idle for longer may be dead without knowing it, the more so after the machine slept. */
const idleMsMax: Millis = 2000;

export const openedTlsHint =
  "This network opens TLS; Signal does not allow that. Sign in to the network if it asks for that, use another one, or set SIGNALMAN_PROXY to a proxy that does not.";
/** As Bun, Node and Deno name a certificate that none of our roots signed, or that is another host's. */
const openedTls = /cert|issuer|unable to verify/i;

/** `proxy` is `http://` or `https://`, null for none; the settings of the environment do not count here. */
export function pinnedFetch(rootsPem: readonly string[], clock: Clock, proxy: string | null): PinnedFetch {
  const proxyEnv = proxy === null ? {} : { HTTPS_PROXY: proxy };
  const freshAgent = () => new Agent({ ca: [...rootsPem], keepAlive: true, proxyEnv });
  let agent = freshAgent();
  let active = 0;
  let usedAt: Millis = clock.now();
  return async (what) => {
    if (active === 0 && Math.abs(clock.now() - usedAt) > idleMsMax) {
      agent.destroy();
      agent = freshAgent();
    }
    const done = new AbortController();
    const late = new AbortController();
    void clock.sleep(what.timeoutMs, done.signal).then(() => done.signal.aborted || late.abort());
    active++;
    try {
      return await exchange(agent, what, AbortSignal.any([late.signal, ...(what.signal ? [what.signal] : [])]));
    } catch (cause) {
      if (cause instanceof BridgeError) throw cause;
      const isOpened = openedTls.test(`${(cause as { code?: string }).code} ${reasonOf(cause)}`);
      const place = `Cannot ${what.method} ${new URL(what.url).host} as`;
      if (late.signal.aborted)
        throw new BridgeError("signal_timeout", `${place} there was no answer in ${what.timeoutMs} ms`, { cause });
      const why = what.signal?.aborted ? "it was cancelled" : isOpened ? "this network opens TLS" : reasonOf(cause);
      const hint = isOpened ? openedTlsHint : undefined;
      throw new BridgeError("signal_unreachable", `${place} ${why}`, { cause, hint });
    } finally {
      done.abort();
      active--;
      usedAt = clock.now();
    }
  };
}

function exchange(agent: Agent, { url, method, headers, body, bytesMax }: PinnedRequest, signal: AbortSignal) {
  return new Promise<PinnedResponse>((resolve, reject) => {
    const length = body === undefined ? {} : { "content-length": String(body.length) };
    const outgoing = request(url, { method, headers: { ...headers, ...length }, agent, signal });
    outgoing.on("error", reject);
    outgoing.on("response", (incoming) => {
      const parts: Buffer[] = [];
      let bytes = 0;
      incoming.on("data", (part: Buffer) => {
        bytes += part.length;
        parts.push(part);
        if (bytes <= bytesMax) return;
        const what = `Cannot ${method} ${new URL(url).host} as the answer is larger than ${bytesMax} bytes`;
        reject(new BridgeError("signal_protocol", what));
        outgoing.destroy();
      });
      incoming.on("error", reject);
      incoming.on("close", () => {
        if (!incoming.complete) return reject(new Error("the line broke"));
        const names = Object.entries(incoming.headers).map(([name, value]) => [name, String(value)] as const);
        resolve({ status: incoming.statusCode ?? 0, headers: new Map(names), body: concat(...parts) });
      });
    });
    outgoing.end(body);
  });
}

/** The seconds form of Retry-After, as Signal uses it, in ms; null when there is none. */
export function retryAfterMsOf({ headers }: Pick<PinnedResponse, "headers">): Millis | null {
  const text = headers.get("retry-after") ?? "";
  return /^\d+$/.test(text) ? Number(text) * 1000 : null;
}
