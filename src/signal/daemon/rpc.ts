/**
 * JSON-RPC over HTTP as signal-cli's daemon speaks it. Errors come with status 200, unknown parameters vanish silently, and
 * nothing says whether a request whose answer is lost was carried out.
 *
 * **Source:** signal-cli, HttpServerHandler.java, JsonRpcReader.java, SignalJsonRpcCommandHandler.java (0.14.6).
 */
import * as v from "valibot";
import { createHttp, Refusal, toJson, type HttpRequest, type Place } from "./http.ts";
import { refused, type Words } from "./sending.ts";

export type RpcCall = Omit<HttpRequest, "method" | "path" | "json"> & {
  readonly method: string;
  /** Never left out: typed methods fall over a missing object. */
  readonly params: Readonly<Record<string, unknown>>;
};

const responseSchema = v.looseObject({
  jsonrpc: v.literal("2.0"),
  id: v.nullable(v.string()),
  error: v.nullish(v.object({ code: v.number(), message: v.string(), data: v.optional(v.unknown()) })),
});

/** @throws BridgeError `config` when the place is no http(s) URL */
export function createRpc(place: Place) {
  const http = createHttp(place);
  let serial = 0;

  /** The result. @throws Refusal */
  async function ask({ method, params, ...request }: RpcCall): Promise<unknown> {
    const { what } = request;
    const id = `signalman-${++serial}`;
    const json = { jsonrpc: "2.0", method, params, id };
    const text = (await http.ask({ ...request, method: "POST", path: "/api/v1/rpc", json })).toString();
    const answer = { status: 200, text, isUnsent: false };
    const response = v.safeParse(responseSchema, toJson(text));
    // An error without an id is ours too: signal-cli could not read the request far enough to know it.
    if (!response.success || (response.output.id !== id && response.output.id !== null)) {
      const message = `Cannot ${what} as the answer of ${http.host} is no JSON-RPC answer to it`;
      throw new Refusal("signal_protocol", message, answer);
    }
    const { error, result } = response.output;
    if (!error) return result;
    const fault = refused(what, "signal-cli", `${error.code}: ${error.message}`, words, "signal_protocol");
    throw new Refusal(fault.code, fault.message, { ...answer, error }, { scope: fault.scope });
  }

  return { isLocal: http.isLocal, ask };
}

/** The fault behind an error that is not about one message. */
const words: Words = [
  [/^-32602: [^]*failed to load/iu, "signal_unreachable"],
  [/^-32602:/u, "rejected"],
  [/^-1: [^]*already being received/iu, "already_receiving"],
  [/^-3:/u, "signal_unreachable"],
  [/^-4:/u, "untrusted_identity"],
  [/^-5:/u, "signal_rate_limited"],
  // A captcha that Signal does not take.
  [/^-6:/u, "send_rejected"],
];
