/**
 * Brings two copies of a session's context together: ours and the one at the Claude API.
 *
 *   key stamped on both sides    larger stamp wins, remote on a tie        ┐ the winner may be a tombstone:
 *   key stamped on one side      the stamped side wins                     ┘ a stamp without a value
 *   key stamped on neither       only one side has it: it is kept
 *                                both, local `updated_at` newer: local wins
 *                                both, otherwise (equal, missing, unreadable): remote wins
 *
 * After `diff` here and `push` there, and less the keys whose agreed stamp is a tombstone, both sides equal `merged`. Inputs are
 * never mutated; results are new at the top and share the (immutable) values. Only own keys count, so `__proto__` is a key like
 * any other.
 */
import type { Context, JsonValue, Stamps } from "./model.ts";

/** Values to write, by key. A removal is not among them: `SyncResult.stamps` has it. */
export type Diff = Context;

export type SyncResult = {
  /** The local side's values change. */
  readonly changed: boolean;
  /** To write locally. */
  readonly diff: Diff;
  /** To write at the remote side. */
  readonly push: Diff;
  /** The context that both sides hold afterwards. */
  readonly merged: Context;
  /** The agreed stamps, to be stored on both sides even where no value changed; without a value in `merged` it is a tombstone. */
  readonly stamps: Stamps;
};

/** The values to write locally by the whole-context rule. Empty where both `updated_at` are readable and local is newer. */
export function calculateDiff(local: Context, remote: Context): Diff {
  if (isLocalNewer(local, remote)) return {};
  return Object.fromEntries(Object.entries(remote).filter(([key, value]) => !isEqual(own(local, key), value)));
}

/** A new context: `local` with `diff` written over it. */
export const merge = (local: Context, diff: Diff): Context => ({ ...local, ...diff });

const unstamped: Stamps = {};

/** Compares both sides key by key; the table above says which wins. Stamps pass `believableStamps` first: here they are only compared. */
export function synchronize(
  local: Context,
  remote: Context,
  stamps: { readonly local: Stamps; readonly remote: Stamps } = { local: unstamped, remote: unstamped },
): SyncResult {
  const isNewer = isLocalNewer(local, remote);
  let changed = false;
  // Entries rather than assignment, since assignment would take a `__proto__` key for the prototype.
  const [diff, push, merged]: [Entries, Entries, Entries] = [[], [], []];
  const agreed: [string, string][] = [];
  for (const key of new Set([local, remote, stamps.local, stamps.remote].flatMap((side) => Object.keys(side)))) {
    const [here, there] = [own(local, key), own(remote, key)];
    // "" for none: it is smaller than every stamp, so a stamped side beats an unstamped one.
    const [stampHere, stampThere] = [own(stamps.local, key) ?? "", own(stamps.remote, key) ?? ""];
    const isStamped = stampHere !== "" || stampThere !== "";
    const localWins = there === undefined || (here !== undefined && isNewer);
    const [winner, stamp] = (isStamped ? stampHere > stampThere : localWins) ? [here, stampHere] : [there, stampThere];
    if (stamp !== "") agreed.push([key, stamp]);
    changed ||= !isEqual(here, winner);
    if (winner === undefined) continue;
    merged.push([key, winner]);
    if (!isEqual(here, winner)) diff.push([key, winner]);
    if (!isEqual(there, winner)) push.push([key, winner]);
  }
  return {
    changed,
    diff: Object.fromEntries(diff),
    push: Object.fromEntries(push),
    merged: Object.fromEntries(merged),
    stamps: Object.fromEntries(agreed),
  };
}

type Entries = [key: string, value: JsonValue][];

/** The record's own value under the key, nothing inherited. */
export const own = <T>(record: { readonly [key: string]: T }, key: string): T | undefined =>
  Object.hasOwn(record, key) ? record[key] : undefined;

/**
 * Equality of JSON values, undefined for none: order of keys does not matter, order of elements does. A list holds the pairs that are still
 * to compare, as a value may be nested deeper than the stack.
 */
export function isEqual(a: JsonValue | undefined, b: JsonValue | undefined): boolean {
  const pairs: (readonly [unknown, unknown])[] = [[a, b]];
  for (let pair = pairs.pop(); pair; pair = pairs.pop()) {
    const [x, y] = pair;
    if (x === y) continue;
    if (!isObject(x) || !isObject(y) || Array.isArray(x) !== Array.isArray(y)) return false;
    const keys = Object.keys(x);
    if (keys.length !== Object.keys(y).length || !keys.every((key) => Object.hasOwn(y, key))) return false;
    for (const key of keys) pairs.push([x[key], y[key]]);
  }
  return true;
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null;

function isLocalNewer(local: Context, remote: Context): boolean {
  const [here, there] = [toInstant(own(local, "updated_at")), toInstant(own(remote, "updated_at"))];
  return here !== null && there !== null && here > there;
}

const rfc3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

/** Makes the seconds of every year from 0 on positive, and 12 digits long. */
const secondsBefore = 100_000_000_000;

/**
 * An RFC 3339 time as text that sorts as time does, exact to any number of digits; null for anything else. `Date` keeps
 * milliseconds only, and takes much that is no RFC 3339.
 * **Source:** RFC 3339, sections 5.6 and 5.7 (ranges; 60 only as a leap second, at 23:59 UTC).
 */
export function toInstant(value: unknown): string | null {
  const match = typeof value === "string" ? rfc3339.exec(value) : null;
  if (!match) return null;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0, offsetHours = 0, offsetMinutes = 0] = [
    1, 2, 3, 4, 5, 6, 9, 10,
  ].map((group) => Number(match[group] ?? 0));
  if (hour > 23 || minute > 59 || second > 60 || offsetHours > 23 || offsetMinutes > 59) return null;
  const at = new Date(0);
  at.setUTCFullYear(year, month - 1, day);
  // `Date` has made another month of a day or month that does not exist.
  if (at.getUTCMonth() !== month - 1) return null;
  const offset = (match[8] === "-" ? -1 : 1) * (offsetHours * 60 + offsetMinutes);
  const isLeap = second === 60;
  at.setUTCHours(hour, minute - offset, isLeap ? 59 : second);
  if (isLeap && (at.getUTCHours() !== 23 || at.getUTCMinutes() !== 59)) return null;
  const seconds = String(at.getTime() / 1000 + secondsBefore).padStart(12, "0");
  // "~" sorts behind ".": a leap second comes after all of :59 and before the next :00.
  return `${seconds}${isLeap ? "~" : "."}${trimZeros(match[7] ?? "")}`;
}

/** Trims by a loop, since a pattern for trailing zeros takes quadratic time on a long run of zeros inside. */
function trimZeros(digits: string): string {
  let end = digits.length;
  while (end > 0 && digits[end - 1] === "0") end--;
  return digits.slice(0, end);
}
