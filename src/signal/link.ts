/** Linking through either daemon: a code is shown, and renewed when it has expired, until somebody scans it. */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import { createHttp, parseAnswer, toJson, type Place } from "./http.ts";
import { createRpc, resultOf } from "./rpc.ts";
import type { Link } from "./transport.ts";

/** Signal's server closes the connection behind a code after 90 s. **Source:** Signal-Server, provisioning. */
const codeMs = 90_000;
const codesMax = 10;
/** signal-cli waits up to 100 s in either half of linking. **Source:** ProvisioningManagerImpl.java. */
const callMs = 150_000;
/** Between two looks at the REST API's list of accounts. */
const pauseMs = 2000;

type Steps = {
  nextCode(): Promise<string>;
  /** The number of the account that scanned the code; null when the code has expired. */
  scanned(code: string): Promise<string | null>;
};

/** Ends without an account when the signal aborts. @throws BridgeError `unsupported` `signal_timeout`, and those of the line */
const linkBy = (begin: (deviceName: string, signal: AbortSignal) => Promise<Steps>): Link =>
  async function* link(deviceName, signal) {
    try {
      const steps = await begin(deviceName, signal);
      for (let codes = 0; codes < codesMax && !signal.aborted; codes++) {
        const url = await steps.nextCode();
        yield { event: "url", url };
        const number = await steps.scanned(url);
        if (number === null || signal.aborted) continue;
        yield { event: "linked", account: { aci: null, number, deviceId: null } };
        return;
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    }
    if (!signal.aborted) throw new BridgeError("signal_timeout", "Cannot link as nobody scanned the code");
  };

/** Through `startLink` and `finishLink`; a code serves one `finishLink` only. */
export const linkSignalCli = (place: Place): Link =>
  linkBy(async (deviceName, signal) => {
    const rpc = createRpc(place);
    const ask = (method: string, params: Readonly<Record<string, unknown>>) =>
      rpc.ask({ method, params, what: "link", deadlineMs: callMs, signal });
    return {
      async nextCode() {
        const outcome = await ask("startLink", {});
        if (outcome.kind === "error" && outcome.code === -32601)
          throw new BridgeError("unsupported", "Cannot link as the daemon serves a single account", {
            hint: "Start the daemon without --account.",
          });
        return resultOf(v.object({ deviceLinkUri: v.string() }), outcome, "link").deviceLinkUri;
      },
      async scanned(deviceLinkUri) {
        const outcome = await ask("finishLink", { deviceLinkUri, deviceName });
        // signal-cli gave up waiting, or Signal closed the connection.
        const isExpired =
          outcome.kind === "error" &&
          ((outcome.code === -1 && /timed out/iu.test(outcome.message)) ||
            (outcome.code === -3 && /connection closed/iu.test(outcome.message)));
        return isExpired ? null : resultOf(v.object({ number: v.string() }), outcome, "link").number;
      },
    };
  });

/**
 * Through signal-cli-rest-api, which never reports the outcome: a new account in its list is the sign. An account that was in
 * the list before cannot be seen to be linked again.
 */
export const linkRest = (place: Place): Link =>
  linkBy(async (deviceName, signal) => {
    const http = createHttp(place);
    const get = async <T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<T> => {
      const answer = await http.exchange({ method: "GET", path, what: "link", deadlineMs: callMs, signal });
      if (answer.status === 404)
        throw new BridgeError("unsupported", "Cannot link as the REST API does not give the code as text", {
          hint: "Update signal-cli-rest-api to release 0.97 or later.",
        });
      if (answer.fault) throw answer.fault;
      return parseAnswer(schema, toJson(answer.body.toString()), "link");
    };
    const listAccounts = () => get("/v1/accounts", v.array(v.string()));
    const known = new Set(await listAccounts());
    return {
      async nextCode() {
        const path = `/v1/qrcodelink/raw?device_name=${encodeURIComponent(deviceName)}`;
        return (await get(path, v.object({ device_link_uri: v.string() }))).device_link_uri;
      },
      async scanned() {
        const expiresAt = place.clock.monotonic() + codeMs;
        while (place.clock.monotonic() < expiresAt && !signal.aborted) {
          await place.clock.sleep(pauseMs, signal);
          const number = (await listAccounts()).find((listed) => !known.has(listed));
          if (number !== undefined) return number;
        }
        return null;
      },
    };
  });
