/** Which releases of the daemons signalman relies on, and what today's Signal breaks in the others: for `doctor`. */
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import { createHttp, parseAnswer, toJson, type DaemonPlace } from "./http.ts";
import { createRpc } from "./signal-cli.ts";

/** Oldest signal-cli that is tested against; before 0.13.16 two messages may share a timestamp. **Source:** signal-cli#1783. */
export const signalCliVersionMin = "0.13.19";

/** Each row: a flaw, the first release of signal-cli that mends it, and the first of signal-cli-rest-api with that signal-cli. */
const flaws: readonly (readonly [what: string, signalCli: string, rest: string])[] = [
  // Phones name people in bytes since February 2026. **Source:** signal-cli#1931, signal-cli#1940, signal-cli-rest-api#812.
  ["leaves out the mentions, reactions and quotes that phones send today", "0.14.0", "0.98"],
  // Signal's server leaves out a field since June 2026. **Source:** signal-cli#2059, signal-cli-rest-api#860.
  ["drops most of what Signal delivers today", "0.14.5", "0.100"],
];

/** The daemon's release in words; `warning` is null where no flaw of it is known. */
type VersionReport = { readonly text: string; readonly warning: string | null; readonly hint: string };

/** Asks the daemon for its release. @throws BridgeError `outdated` where the release is too old to rely on, and those of the line */
export async function examineVersion(
  transport: "signal-cli" | "rest",
  place: DaemonPlace,
  signal: AbortSignal,
): Promise<VersionReport> {
  const isRest = transport === "rest";
  const version = await (isRest ? fetchRestVersion : fetchSignalCliVersion)(place, signal);
  const found = flaws.map(([what, signalCli, rest]) => ({ what, mended: isRest ? rest : signalCli }));
  const here = found.filter(({ mended }) => isOlder(version, mended));
  const name = isRest ? "signal-cli-rest-api" : "signal-cli";
  const [text, hint] = [`${name} ${version}`, `Update ${name} to ${found.at(-1)?.mended} or newer.`];
  if (!isRest && (!/^\d/u.test(version) || isOlder(version, signalCliVersionMin)))
    throw new BridgeError("outdated", `Cannot rely on ${text}: it is too old`, { hint });
  return { text, hint, warning: here.length === 0 ? null : `${text} ${here.map(({ what }) => what).join(" and ")}` };
}

const versionSchema = v.object({ version: v.string() });

async function fetchSignalCliVersion(place: DaemonPlace, signal: AbortSignal): Promise<string> {
  const what = "ask signal-cli for its version";
  const answer = await createRpc(place).ask({ method: "version", params: {}, what, deadlineMs: 10_000, signal });
  return parseAnswer(versionSchema, answer, what).version;
}

/** A development build has "unset" for a version. */
async function fetchRestVersion(place: DaemonPlace, signal: AbortSignal): Promise<string> {
  const what = "ask the REST API for its version";
  const request = { method: "GET", path: "/v1/about", what, deadlineMs: 30_000, signal } as const;
  const body = await createHttp(place).ask(request);
  return parseAnswer(versionSchema, toJson(body.toString()), what).version;
}

/** Compares dotted numbers, part by part; a text that is no version is not older. */
const isOlder = (version: string, than: string): boolean =>
  /^\d/u.test(version) && version.localeCompare(than, "en", { numeric: true }) < 0;
