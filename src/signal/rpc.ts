/**
 * JSON-RPC over HTTP as signal-cli's daemon speaks it. Errors come with status 200, unknown parameters vanish silently, and
 * nothing says whether a request whose answer is lost was carried out.
 *
 * **Source:** signal-cli, HttpServerHandler.java, JsonRpcReader.java, SignalJsonRpcCommandHandler.java (0.14.6).
 */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Http } from "./http.ts";
import { lineFault, statusFault, toJson, toText } from "./http.ts";
import { maskPeople } from "./mask.ts";

export type RpcError = {
  readonly kind: "error";
  readonly code: number;
  readonly message: string;
  readonly data: unknown;
};

export type RpcOutcome =
  | { readonly kind: "result"; readonly result: unknown }
  | RpcError
  /** No answer to this request. `isUnsent`: it was surely not carried out. `partial`: what came of an answer. */
  | { readonly kind: "fault"; readonly fault: BridgeError; readonly isUnsent: boolean; readonly partial: string };

export type RpcCall = {
  readonly method: string;
  /** Never left out: typed methods fall over a missing object. */
  readonly params: Readonly<Record<string, unknown>>;
  /** Completes "Cannot …" in messages. */
  readonly what: string;
  readonly deadlineMs: Millis;
  /** Bound of the answer's body; 1 MiB unless told. */
  readonly bytesMax?: number | undefined;
  readonly signal?: AbortSignal | undefined;
};

/** One call; never rejects. */
export type Rpc = (call: RpcCall) => Promise<RpcOutcome>;

const responseSchema = v.looseObject({
  jsonrpc: v.literal("2.0"),
  id: v.nullable(v.string()),
  error: v.optional(v.object({ code: v.number(), message: v.string(), data: v.optional(v.unknown()) })),
});

export function createRpc(http: Http): Rpc {
  let serial = 0;
  return async ({ method, params, what, deadlineMs, bytesMax = 2 ** 20, signal }) => {
    const id = `signalman-${++serial}`;
    const exchange = await http.exchange({
      method: "POST",
      path: "/api/v1/rpc",
      json: { jsonrpc: "2.0", method, params, id },
      deadlineMs,
      bytesMax,
      signal,
    });
    if (exchange.kind !== "answer") {
      const partial = exchange.kind === "lost" ? toText(exchange.partial) : "";
      return {
        kind: "fault",
        fault: lineFault(what, http.host, exchange),
        isUnsent: exchange.kind === "unsent",
        partial,
      };
    }
    const text = toText(exchange.body);
    if (exchange.status !== 200) {
      // 4xx is decided from the head of the request: wrong path, content type, Host header, or a proxy's refusal.
      const isUnsent = exchange.status >= 400 && exchange.status < 500;
      return { kind: "fault", fault: statusFault(what, http.host, exchange), isUnsent, partial: text };
    }
    const response = v.safeParse(responseSchema, toJson(text));
    // An error without an id is ours too: signal-cli could not read the request far enough to know it.
    if (!response.success || (response.output.id !== id && response.output.id !== null)) {
      const message = `Cannot ${what} as the answer of ${http.host} is no JSON-RPC answer to it`;
      return { kind: "fault", fault: new BridgeError("signal_protocol", message), isUnsent: false, partial: text };
    }
    const { error } = response.output;
    if (error) return { kind: "error", code: error.code, message: error.message, data: error.data };
    return { kind: "result", result: response.output["result"] };
  };
}

/** The fault behind an error that is not about one message. `what` completes "Cannot …". */
export function rpcFault(what: string, error: RpcError): BridgeError {
  const detail = `Cannot ${what} as signal-cli answered ${error.code}: ${maskPeople(error.message)}`;
  if (error.code === -32602)
    return new BridgeError(/failed to load/iu.test(error.message) ? "signal_unreachable" : "rejected", detail);
  if (error.code === -1 && /already being received/iu.test(error.message))
    return new BridgeError("already_receiving", `Cannot ${what} as another receiver is active for this account`);
  if (error.code === -3) return new BridgeError("signal_unreachable", detail);
  if (error.code === -5) return new BridgeError("signal_rate_limited", detail);
  return new BridgeError("signal_protocol", detail);
}

/** The result of a call that has no side effect worth a doubt. @throws BridgeError */
export function resultOf(outcome: RpcOutcome, what: string): unknown {
  if (outcome.kind === "fault") throw outcome.fault;
  if (outcome.kind === "error") throw rpcFault(what, outcome);
  return outcome.result;
}
