/**
 * JSON-RPC over HTTP as signal-cli's daemon speaks it. Errors come with status 200, unknown parameters vanish silently, and
 * nothing says whether a request whose answer is lost was carried out.
 *
 * **Source:** signal-cli, HttpServerHandler.java, JsonRpcReader.java, SignalJsonRpcCommandHandler.java (0.14.6).
 */
import * as v from "valibot";
import { BridgeError, type ErrorCode } from "../../core/errors.ts";
import { createHttp, maskPeople, parseAnswer, toJson, type HttpRequest, type Place } from "./http.ts";
import { scopeOf } from "./sending.ts";

export type RpcCall = Omit<HttpRequest, "method" | "path" | "json"> & {
  readonly method: string;
  /** Never left out: typed methods fall over a missing object. */
  readonly params: Readonly<Record<string, unknown>>;
};

type RpcError = { readonly kind: "error"; readonly code: number; readonly message: string; readonly data: unknown };
export type RpcOutcome =
  | { readonly kind: "result"; readonly result: unknown }
  | RpcError
  /** No answer to this request. `isUnsent`: it was surely not carried out. `partial`: what came of an answer. */
  | { readonly kind: "fault"; readonly fault: BridgeError; readonly isUnsent: boolean; readonly partial: string };

const responseSchema = v.looseObject({
  jsonrpc: v.literal("2.0"),
  id: v.nullable(v.string()),
  error: v.nullish(v.object({ code: v.number(), message: v.string(), data: v.optional(v.unknown()) })),
});

/** @throws BridgeError `config` when the place is no http(s) URL */
export function createRpc(place: Place) {
  const http = createHttp(place);
  let serial = 0;

  /** Never rejects. */
  async function ask({ method, params, ...request }: RpcCall): Promise<RpcOutcome> {
    const id = `signalman-${++serial}`;
    const json = { jsonrpc: "2.0", method, params, id };
    const exchange = await http.exchange({ ...request, method: "POST", path: "/api/v1/rpc", json });
    const partial = exchange.body.toString();
    const { status, fault } = exchange;
    // 4xx is decided from the head of the request: wrong path, content type, Host header, or a proxy's refusal.
    const isUnsent = exchange.isUnsent || (status !== null && status >= 400 && status < 500);
    if (fault) return { kind: "fault", fault: status === 421 ? toHostFault(request.what) : fault, isUnsent, partial };
    const response = v.safeParse(responseSchema, toJson(partial));
    // An error without an id is ours too: signal-cli could not read the request far enough to know it.
    if (!response.success || (response.output.id !== id && response.output.id !== null)) {
      const message = `Cannot ${request.what} as the answer of ${http.host} is no JSON-RPC answer to it`;
      return { kind: "fault", fault: new BridgeError("signal_protocol", message), isUnsent: false, partial };
    }
    const { error, result } = response.output;
    return error ? { kind: "error", data: null, ...error } : { kind: "result", result };
  }

  const toHostFault = (what: string): BridgeError =>
    new BridgeError("signal_protocol", `Cannot ${what} as signal-cli does not answer to the name ${http.host}`, {
      // Since 0.14.4; 0.14.4 refuses names even then. **Source:** signal-cli, HttpServerHandler.java.
      hint: "Put the host and port of its --http option into SIGNALMAN_SIGNAL_URL, or let it listen on 0.0.0.0 (signal-cli 0.14.5 or newer) where only signalman reaches it.",
    });

  return { isLocal: http.isLocal, ask };
}

/** The fault behind an error that is not about one message. `what` completes "Cannot …". */
export function rpcFault(what: string, { code, message }: RpcError): BridgeError {
  const found = codes.find(([number, words]) => number === code && words.test(message))?.[2] ?? "signal_protocol";
  const details = { scope: scopeOf(found) };
  return new BridgeError(found, `Cannot ${what} as signal-cli answered ${code}: ${maskPeople(message)}`, details);
}

const codes: readonly (readonly [number, RegExp, ErrorCode])[] = [
  [-32602, /failed to load/iu, "signal_unreachable"],
  [-32602, /./u, "rejected"],
  [-1, /already being received/iu, "already_receiving"],
  [-3, /./u, "signal_unreachable"],
  [-4, /./u, "untrusted_identity"],
  [-5, /./u, "signal_rate_limited"],
  // A captcha that Signal does not take.
  [-6, /./u, "send_rejected"],
];

/** The result of a call that has no side effect worth a doubt. @throws BridgeError */
export function resultOf<T>(schema: v.GenericSchema<unknown, T>, outcome: RpcOutcome, what: string): T {
  if (outcome.kind === "fault") throw outcome.fault;
  if (outcome.kind === "error") throw rpcFault(what, outcome);
  return parseAnswer(schema, outcome.result, what);
}
