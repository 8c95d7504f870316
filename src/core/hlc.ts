/**
 * Hybrid logical clock: one stamp per changed setting, so that two devices agree on the later change although their clocks
 * differ and neither asks the other.
 *
 *   stamp := ms (base 36, 8) counter (base 36, 2) device (hex, 4)      14 characters; compared as strings
 *
 * The time part is the server's clock as far as we know it, and never behind the largest stamp seen; the counter orders changes
 * within one millisecond; the device makes stamps of two devices differ. Eight digits last until 2059.
 *
 * The format is our own, inside the metadata of the session.
 */
import { assert, type Millis, type Stamps } from "./model.ts";

/** A stamp as text; only `parseStamp` tells whether it is one. */
export type Stamp = string;

const counterMax = 36 ** 2 - 1;
const msMax = 36 ** 8 - 1;
const stampPattern = /^([0-9a-z]{8})([0-9a-z]{2})([0-9a-f]{4})$/;

/** A stamp may lead the server's clock by this much; beyond it, a wrong clock would win every conflict until its date comes. */
export const stampAheadMaxMs: Millis = 5 * 60_000;

/** The parts of a stamp, null where the text is none. */
export function parseStamp(
  text: string,
): { readonly ms: Millis; readonly counter: number; readonly device: string } | null {
  const [, ms, counter, device] = stampPattern.exec(text) ?? [];
  if (ms === undefined || counter === undefined || device === undefined) return null;
  return { ms: Number.parseInt(ms, 36), counter: Number.parseInt(counter, 36), device };
}

/**
 * A stamp for a change made now. Larger than `last`, unless `last` leads the server's clock too far: each side refuses that one.
 *
 * @param last the largest stamp seen so far on any device, null before the first
 * @param serverNow the server's clock as far as we know it, Unix ms
 * @param device four hex digits, random per installation
 */
export function nextStamp(last: Stamp | null, serverNow: Millis, device: string): Stamp {
  assert(/^[0-9a-f]{4}$/.test(device), "a device is four lower-case hex digits");
  const now = Math.min(msMax, Math.max(0, Math.floor(serverNow)));
  const seen = last !== null && isBelievable(last, now) ? parseStamp(last) : null;
  if (seen === null || seen.ms < now) return format(now, 0, device);
  return seen.counter < counterMax
    ? format(seen.ms, seen.counter + 1, device)
    : format(Math.min(msMax, seen.ms + 1), 0, device);
}

/** The stamps after `key` was set or removed just now: it gets one larger than all before. */
export function stampKey(stamps: Stamps, key: string, serverNow: Millis, device: string): Stamps {
  const last = Object.values(believableStamps(stamps, serverNow)).sort().at(-1) ?? null;
  return { ...stamps, [key]: nextStamp(last, serverNow, device) };
}

/** The stamps that may be believed at this time of the server (Unix ms): well-formed and not ahead. Other keys count as unstamped. */
export const believableStamps = (stamps: Stamps, serverNow: Millis): Stamps =>
  Object.fromEntries(Object.entries(stamps).filter(([, stamp]) => isBelievable(stamp, serverNow)));

function isBelievable(stamp: Stamp, serverNow: Millis): boolean {
  const parsed = parseStamp(stamp);
  return parsed !== null && parsed.ms <= serverNow + stampAheadMaxMs;
}

const format = (ms: number, counter: number, device: string): Stamp =>
  ms.toString(36).padStart(8, "0") + counter.toString(36).padStart(2, "0") + device;
