/** Linking through a running signal-cli daemon, and its version. */
import * as v from "valibot";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Fetch } from "./http.ts";
import { createHttp } from "./http.ts";
import type { RpcOutcome } from "./rpc.ts";
import { createRpc, resultOf } from "./rpc.ts";
import type { Link } from "./transport.ts";

/** Oldest signal-cli that can be trusted: earlier ones may give two messages one timestamp. **Source:** signal-cli#1783. */
export const signalCliVersionMin = "0.13.16";

/** signal-cli waits up to 100 s in either half of linking. **Source:** ProvisioningManagerImpl.java. */
const linkCallMs = 150_000;
/** A code lives for about 90 s: as many are shown before giving up. */
const codesMax = 10;

export type SignalCliPlace = { readonly baseUrl: string; readonly clock: Clock; readonly fetch?: Fetch | undefined };

/** The version of the daemon at `baseUrl`, as in "0.14.6". @throws BridgeError of the line */
export async function fetchSignalCliVersion(place: SignalCliPlace, signal: AbortSignal): Promise<string> {
  const what = "ask signal-cli for its version";
  const rpc = createRpc(createHttp(place));
  const result = resultOf(await rpc({ method: "version", params: {}, what, deadlineMs: 10_000, signal }), what);
  const parsed = v.safeParse(v.object({ version: v.string() }), result);
  if (parsed.success) return parsed.output.version;
  throw new BridgeError("signal_protocol", `Cannot ${what} as it tells none`);
}

/** Compares dotted numbers, part by part; a part that is no number counts as 0. */
export function isVersionAtLeast(version: string, minimum: string): boolean {
  const [have, want] = [toParts(version), toParts(minimum)];
  const index = want.findIndex((part, at) => part !== (have[at] ?? 0));
  return index < 0 || (have[index] ?? 0) > (want[index] ?? 0);
}

const toParts = (version: string): number[] => version.split(".").map((part) => Number.parseInt(part, 10) || 0);

/**
 * Links through `startLink` and `finishLink`. The code is renewed when it has expired; a code serves one `finishLink` only.
 * Ends without an account when the signal aborts.
 * @returns a `Link` that throws BridgeError `unsupported` when the daemon serves a single account, else those of the line
 */
export function linkSignalCli(place: SignalCliPlace): Link {
  return async function* link(deviceName, signal) {
    const rpc = createRpc(createHttp(place));
    for (let codes = 0; codes < codesMax && !signal.aborted; codes++) {
      const started = await rpc({ method: "startLink", params: {}, what: "link", deadlineMs: linkCallMs, signal });
      if (signal.aborted) return;
      const url = toUrl(started);
      yield { event: "url", url };
      const params = { deviceLinkUri: url, deviceName };
      const finished = await rpc({ method: "finishLink", params, what: "link", deadlineMs: linkCallMs, signal });
      if (signal.aborted) return;
      if (isExpired(finished)) continue;
      const parsed = v.safeParse(v.object({ number: v.string() }), resultOf(finished, "link"));
      if (!parsed.success)
        throw new BridgeError("signal_protocol", "Cannot link as signal-cli does not name the account");
      yield { event: "linked", account: { aci: null, number: parsed.output.number, deviceId: null } };
      return;
    }
    if (!signal.aborted) throw new BridgeError("signal_timeout", "Cannot link as nobody scanned the code");
  };
}

function toUrl(outcome: RpcOutcome): string {
  if (outcome.kind === "error" && outcome.code === -32601)
    throw new BridgeError("unsupported", "Cannot link as the daemon serves a single account", {
      hint: "Start the daemon without --account.",
    });
  const parsed = v.safeParse(v.object({ deviceLinkUri: v.string() }), resultOf(outcome, "link"));
  if (parsed.success) return parsed.output.deviceLinkUri;
  throw new BridgeError("signal_protocol", "Cannot link as signal-cli gives no code");
}

/** Nobody scanned it in time: signal-cli gave up waiting, or Signal closed the connection, which it does after 90 s. */
function isExpired(outcome: RpcOutcome): boolean {
  return (
    outcome.kind === "error" &&
    ((outcome.code === -1 && /timed out/iu.test(outcome.message)) ||
      (outcome.code === -3 && /connection closed/iu.test(outcome.message)))
  );
}
