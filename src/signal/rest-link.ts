/** Linking through signal-cli-rest-api, which never reports the outcome: a new account in its list is the sign. */
import * as v from "valibot";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Fetch, Http } from "./http.ts";
import { createHttp, lineFault, statusFault, toJson, toText } from "./http.ts";
import type { Link } from "./transport.ts";

/** Signal's server closes the connection behind a code after 90 s. **Source:** Signal-Server, provisioning. */
const codeMs = 90_000;
const pauseMs = 2000;
const codesMax = 10;

export type RestPlace = { readonly baseUrl: string; readonly clock: Clock; readonly fetch?: Fetch | undefined };

/**
 * Shows a code and watches the list of accounts; the code is renewed when it has expired. An account that was in the list
 * before cannot be seen to be linked again. Ends without an account when the signal aborts.
 * @returns a `Link` that throws BridgeError `unsupported` before release 0.97, else those of the line
 */
export function linkRest(place: RestPlace): Link {
  const { clock } = place;
  return async function* link(deviceName, signal) {
    const http = createHttp(place);
    const known = new Set(await listAccounts(http, signal));
    for (let codes = 0; codes < codesMax && !signal.aborted; codes++) {
      const path = `/v1/qrcodelink/raw?device_name=${encodeURIComponent(deviceName)}`;
      const code = v.safeParse(v.object({ device_link_uri: v.string() }), await get(http, path, signal));
      if (!code.success) throw new BridgeError("signal_protocol", "Cannot link as the REST API gives no code");
      yield { event: "url", url: code.output.device_link_uri };
      const expiresAt = clock.monotonic() + codeMs;
      while (clock.monotonic() < expiresAt && !signal.aborted) {
        await clock.sleep(pauseMs, signal);
        if (signal.aborted) return;
        const number = (await listAccounts(http, signal)).find((listed) => !known.has(listed));
        if (number === undefined) continue;
        yield { event: "linked", account: { aci: null, number, deviceId: null } };
        return;
      }
    }
    if (!signal.aborted) throw new BridgeError("signal_timeout", "Cannot link as nobody scanned the code");
  };
}

async function listAccounts(http: Http, signal: AbortSignal): Promise<readonly string[]> {
  const parsed = v.safeParse(v.array(v.string()), await get(http, "/v1/accounts", signal));
  if (parsed.success) return parsed.output;
  throw new BridgeError("signal_protocol", "Cannot link as the REST API lists its accounts strangely");
}

async function get(http: Http, path: string, signal: AbortSignal): Promise<unknown> {
  const exchange = await http.exchange({ method: "GET", path, deadlineMs: 120_000, bytesMax: 2 ** 20, signal });
  if (exchange.kind !== "answer") throw lineFault("link", http.host, exchange);
  if (exchange.status === 404)
    throw new BridgeError("unsupported", "Cannot link as the REST API does not give the code as text", {
      hint: "Update signal-cli-rest-api to release 0.97 or later.",
    });
  if (exchange.status !== 200) throw statusFault("link", http.host, exchange);
  return toJson(toText(exchange.body));
}
