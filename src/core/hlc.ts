/**
 * Hybrid logical clock: one stamp per changed setting, so that two devices agree on the later change although their clocks
 * differ and neither asks the other.
 *
 *   stamp := ms (base 36, 8) counter (base 36, 2) device (hex, 4)      14 characters; compared as strings
 *
 * The time part is the server's clock as far as we know it, and never behind the largest stamp seen; the counter orders changes
 * within one millisecond; the device makes stamps of two devices differ. Eight digits last until 2059.
 *
 * **Source:** CLAUDE-API notes, section 2.5 (our own format inside the session's metadata).
 */
import { assert, type Millis } from "./model.ts";

/** A stamp as text; only `parseStamp` tells whether it is one. */
export type Stamp = string;
/** The stamp of each key that has one. */
export type Stamps = { readonly [key: string]: Stamp };

const counterMax = 36 ** 2 - 1;
const msMax = 36 ** 8 - 1;
const stampPattern = /^([0-9a-z]{8})([0-9a-z]{2})([0-9a-f]{4})$/;

/** A stamp may lead the server's clock by this much; beyond it, a wrong clock would win every conflict until its date comes. */
export const stampAheadMaxMs: Millis = 5 * 60_000;

/** The parts of a stamp, null where the text is none. */
export function parseStamp(
  text: string,
): { readonly ms: Millis; readonly counter: number; readonly device: string } | null {
  const match = stampPattern.exec(text);
  if (!match) return null;
  const [, ms = "", counter = "", device = ""] = match;
  return { ms: Number.parseInt(ms, 36), counter: Number.parseInt(counter, 36), device };
}

/** Negative, zero or positive as `a` is older than, equal to, or newer than `b`. */
export const compareStamps = (a: Stamp, b: Stamp): -1 | 0 | 1 => (a < b ? -1 : a > b ? 1 : 0);

/**
 * A stamp for a change made now. Larger than `last`, unless `last` leads the server's clock too far: that one everybody refuses.
 *
 * @param last the largest stamp seen so far on any device, null before the first
 * @param now our wall clock, Unix ms
 * @param skewMs the server's clock minus ours
 * @param device four hex digits, random per installation
 */
export function nextStamp(last: Stamp | null, now: Millis, skewMs: Millis, device: string): Stamp {
  assert(/^[0-9a-f]{4}$/.test(device), "a device is four lower-case hex digits");
  const server = Math.min(msMax, Math.max(0, Math.floor(now + skewMs)));
  const seen = last === null || isStampAhead(last, server) ? null : parseStamp(last);
  if (seen === null || seen.ms < server) return format(server, 0, device);
  return seen.counter < counterMax
    ? format(seen.ms, seen.counter + 1, device)
    : format(Math.min(msMax, seen.ms + 1), 0, device);
}

/** The stamp of a change whose server time (Unix ms) is known, such as a rename that the event log shows. */
export const stampAt = (at: Millis, device: string): Stamp => nextStamp(null, at, 0, device);

/** True where the stamp leads the server's clock (Unix ms) by more than `stampAheadMaxMs`. */
export function isStampAhead(stamp: Stamp, serverNow: Millis): boolean {
  const parsed = parseStamp(stamp);
  return parsed !== null && parsed.ms > serverNow + stampAheadMaxMs;
}

/** The stamps that may be believed at this time of the server (Unix ms): well-formed and not ahead. Their keys count as unstamped. */
export function believableStamps(stamps: Stamps, serverNow: Millis): Stamps {
  return Object.fromEntries(
    Object.entries(stamps).filter(([, stamp]) => parseStamp(stamp) !== null && !isStampAhead(stamp, serverNow)),
  );
}

/** The largest of the stamps, null where there is none: `last` for the next change. */
export function latestStamp(stamps: Stamps): Stamp | null {
  return Object.values(stamps).reduce<Stamp | null>(
    (last, stamp) => (last === null || stamp > last ? stamp : last),
    null,
  );
}

/** The stamps after `keys` were set or removed just now: each key gets a fresh one, larger than all before. Arguments as in `nextStamp`. */
export function stampKeys(
  stamps: Stamps,
  keys: readonly string[],
  now: Millis,
  skewMs: Millis,
  device: string,
): Stamps {
  let last = latestStamp(believableStamps(stamps, now + skewMs));
  const fresh = keys.map((key): [string, Stamp] => {
    last = nextStamp(last, now, skewMs, device);
    return [key, last];
  });
  return { ...stamps, ...Object.fromEntries(fresh) };
}

const format = (ms: number, counter: number, device: string): Stamp =>
  ms.toString(36).padStart(8, "0") + counter.toString(36).padStart(2, "0") + device;
