/** Which releases of the daemons signalman relies on, and what today's Signal breaks in the others: for `doctor`. */
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import { createHttp, parseAnswer, toJson, type Place } from "./http.ts";
import { createRpc, resultOf } from "./rpc.ts";

/** Oldest signal-cli that is tested against; before 0.13.16 two messages may share a timestamp. **Source:** signal-cli#1783. */
export const signalCliVersionMin = "0.13.19";

type Release = { readonly name: "signal-cli" | "signal-cli-rest-api"; readonly version: string };
type Flaw = { readonly text: string; readonly mended: Readonly<Record<Release["name"], string>> };

const flaws: readonly Flaw[] = [
  {
    // Phones name people in bytes since February 2026. **Source:** signal-cli#1931, signal-cli#1940, signal-cli-rest-api#812.
    text: "leaves out the mentions, reactions and quotes that phones send today",
    mended: { "signal-cli": "0.14.0", "signal-cli-rest-api": "0.98" },
  },
  {
    // Signal's server leaves out a field since June 2026. **Source:** signal-cli#2059, signal-cli-rest-api#860.
    text: "drops most of what Signal delivers today",
    mended: { "signal-cli": "0.14.5", "signal-cli-rest-api": "0.100" },
  },
];

/** The daemon's release in words; `warning` is null where nothing is known to be wrong with it. */
export type VersionReport = { readonly text: string; readonly warning: string | null; readonly hint: string };

/** Asks the daemon for its release. @throws BridgeError `outdated` where it cannot be relied on, and those of the line */
export async function examineVersion(
  transport: "signal-cli" | "rest",
  place: Place,
  signal: AbortSignal,
): Promise<VersionReport> {
  const release = await (transport === "rest" ? fetchRestRelease : fetchSignalCliRelease)(place, signal);
  const { name, version } = release;
  const found = flaws.filter(({ mended }) => isOlder(version, mended[name]));
  const hint = `Update ${name} to ${found.at(-1)?.mended[name] ?? signalCliVersionMin} or newer.`;
  const text = `${name} ${version}`;
  if (name === "signal-cli" && (!isVersion(version) || isOlder(version, signalCliVersionMin)))
    throw new BridgeError("outdated", `Cannot rely on ${text}: it is too old`, { hint });
  return { text, hint, warning: found.length === 0 ? null : `${text} ${found.map((flaw) => flaw.text).join(" and ")}` };
}

async function fetchSignalCliRelease(place: Place, signal: AbortSignal): Promise<Release> {
  const what = "ask signal-cli for its version";
  const outcome = await createRpc(place).ask({ method: "version", params: {}, what, deadlineMs: 10_000, signal });
  return { name: "signal-cli", ...resultOf(v.object({ version: v.string() }), outcome, what) };
}

/** A development build has "unset" for a version. */
async function fetchRestRelease(place: Place, signal: AbortSignal): Promise<Release> {
  const what = "ask the REST API for its version";
  const request = { method: "GET", path: "/v1/about", what, deadlineMs: 30_000, signal } as const;
  const { body, fault } = await createHttp(place).exchange(request);
  if (fault) throw fault;
  const { version } = parseAnswer(v.object({ version: v.string() }), toJson(body.toString()), what);
  return { name: "signal-cli-rest-api", version };
}

const isVersion = (text: string): boolean => /^\d/u.test(text);

/** Compares dotted numbers, part by part. */
const isOlder = (version: string, than: string): boolean =>
  isVersion(version) && version.localeCompare(than, "en", { numeric: true }) < 0;
