/**
 * Brings two copies of a session's context together: ours and the one at the Claude API.
 *
 *   key stamped on both sides    larger stamp wins, remote on a tie        ┐ the winner may be a tombstone:
 *   key stamped on one side      the stamped side wins                     ┘ a stamp without a value
 *   key stamped on neither       only one side has it: it is kept
 *                                both, local `updated_at` newer: local wins
 *                                both, otherwise (equal, missing, unreadable): remote wins
 *
 * After `diff` and `removed.local` here, `push` and `removed.remote` there, both sides equal `merged`. Inputs are never mutated;
 * results are new at the top and share the (immutable) values. Only own keys count, so `__proto__` is a key like any other.
 */
import type { Stamps } from "./hlc.ts";
import type { Context, JsonValue } from "./model.ts";

/** Values to write, by key. What must be removed is said apart: a JSON value cannot say it. */
export type Diff = Context;

export type SyncResult = {
  /** The local side's values change: `diff` or `removed.local` is not empty. */
  readonly changed: boolean;
  /** To write locally. */
  readonly diff: Diff;
  /** To write at the remote side. */
  readonly push: Diff;
  /** Keys to remove on either side, since a tombstone won. */
  readonly removed: { readonly local: readonly string[]; readonly remote: readonly string[] };
  /** What both sides hold afterwards. */
  readonly merged: Context;
  /** The agreed stamps, tombstones included: to be stored on both sides even where no value changed. */
  readonly stamps: Stamps;
};

/** Both sides' stamps; a key with a stamp and without a value is a tombstone. */
export type SideStamps = { readonly local: Stamps; readonly remote: Stamps };

/** What must be written locally by the whole-context rule. Empty where both `updated_at` are readable and local is newer. */
export function calculateDiff(local: Context, remote: Context): Diff {
  return isLocalNewer(local, remote) ? {} : differing(local, remote);
}

/** A new context: `local` with `diff` written over it and `removed` left out. */
export function merge(local: Context, diff: Diff, removed: readonly string[] = []): Context {
  const merged: Record<string, JsonValue> = { ...local, ...diff };
  for (const key of removed) delete merged[key];
  return merged;
}

/** The whole step; the table above says who wins. Believe the stamps before (`believableStamps`): here they are only compared. */
export function synchronize(local: Context, remote: Context, stamps?: SideStamps): SyncResult {
  return stamps === undefined || (isEmpty(stamps.local) && isEmpty(stamps.remote))
    ? synchronizeWhole(local, remote)
    : synchronizeByKey(local, remote, stamps);
}

function synchronizeWhole(local: Context, remote: Context): SyncResult {
  const localWins = isLocalNewer(local, remote);
  const diff = localWins ? lacking(local, remote) : differing(local, remote);
  const push = localWins ? differing(remote, local) : lacking(remote, local);
  const merged = merge(local, diff);
  return { changed: !isEmpty(diff), diff, push, removed: { local: [], remote: [] }, merged, stamps: {} };
}

function synchronizeByKey(local: Context, remote: Context, stamps: SideStamps): SyncResult {
  const localWins = isLocalNewer(local, remote);
  const diff: [string, JsonValue][] = [];
  const push: [string, JsonValue][] = [];
  const removed = { local: [] as string[], remote: [] as string[] };
  const agreed: [string, string][] = [];
  for (const key of keysOf(local, remote, stamps.local, stamps.remote)) {
    const here = own(local, key);
    const there = own(remote, key);
    const stampHere = own(stamps.local, key);
    const stampThere = own(stamps.remote, key);
    const isStamped = stampHere !== undefined || stampThere !== undefined;
    // "" is smaller than every stamp, so a stamped side beats an unstamped one.
    const takesLocal = isStamped
      ? (stampHere ?? "") > (stampThere ?? "")
      : there === undefined || (here !== undefined && localWins);
    const winner = takesLocal ? here : there;
    const stamp = takesLocal ? stampHere : stampThere;
    if (stamp !== undefined) agreed.push([key, stamp]);
    if (winner === undefined) {
      if (here !== undefined) removed.local.push(key);
      if (there !== undefined) removed.remote.push(key);
    } else {
      if (here === undefined || !isEqual(here, winner)) diff.push([key, winner]);
      if (there === undefined || !isEqual(there, winner)) push.push([key, winner]);
    }
  }
  const diffRecord = Object.fromEntries(diff);
  return {
    changed: diff.length > 0 || removed.local.length > 0,
    diff: diffRecord,
    push: Object.fromEntries(push),
    removed,
    merged: merge(local, diffRecord, removed.local),
    stamps: Object.fromEntries(agreed),
  };
}

/** Keys of `to` that `from` lacks or has otherwise, with `to`'s values. */
function differing(from: Context, to: Context): Diff {
  const diff: [string, JsonValue][] = [];
  for (const key of Object.keys(to)) {
    const wanted = to[key] as JsonValue;
    const present = own(from, key);
    if (present === undefined || !isEqual(present, wanted)) diff.push([key, wanted]);
  }
  // Not by assignment: that would take a `__proto__` key for the prototype.
  return Object.fromEntries(diff);
}

/** Keys that only `to` has, with their values. */
function lacking(from: Context, to: Context): Diff {
  return Object.fromEntries(Object.entries(to).filter(([key]) => !Object.hasOwn(from, key)));
}

/** Equality of JSON values: order of keys does not matter, order of elements does. */
export function isEqual(a: JsonValue, b: JsonValue): boolean {
  if (Object.is(a, b) || a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (isList(a) || isList(b)) {
    if (!isList(a) || !isList(b) || a.length !== b.length) return false;
    return a.every((value, index) => isEqual(value, b[index] as JsonValue));
  }
  const keys = Object.keys(a);
  if (keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && isEqual(a[key] as JsonValue, b[key] as JsonValue));
}

// `Array.isArray` does not narrow a readonly array out of a union.
const isList = (value: JsonValue): value is readonly JsonValue[] => Array.isArray(value);
const isEmpty = (record: object): boolean => Object.keys(record).length === 0;

function own<T>(record: { readonly [key: string]: T }, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}

function keysOf(...records: readonly object[]): Set<string> {
  return new Set(records.flatMap((record) => Object.keys(record)));
}

function isLocalNewer(local: Context, remote: Context): boolean {
  const here = toInstant(own(local, "updated_at"));
  const there = here && toInstant(own(remote, "updated_at"));
  return here !== null && there !== null && compareInstants(here, there) > 0;
}

/** A point in time, exact to any number of digits: `fraction` is what follows the second, without trailing zeros. */
export type Instant = { readonly second: number; readonly fraction: string };

const rfc3339 = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/;

/**
 * An RFC 3339 time as an instant, null for anything else. `Date` keeps milliseconds only, and takes much that is no RFC 3339.
 * **Source:** RFC 3339, sections 5.6 and 5.7 (ranges; 60 only as a leap second, at 23:59 UTC).
 */
export function toInstant(value: unknown): Instant | null {
  const match = typeof value === "string" ? rfc3339.exec(value) : null;
  if (!match) return null;
  const part = (index: number): number => Number(match[index] ?? 0);
  const [year, month, day, hour, minute, second] = [part(1), part(2), part(3), part(4), part(5), part(6)];
  if (month < 1 || month > 12 || day < 1 || day > daysIn(year, month)) return null;
  if (hour > 23 || minute > 59 || second > 60 || part(9) > 23 || part(10) > 59) return null;
  const offsetMinutes = (match[8] === "-" ? -1 : 1) * (part(9) * 60 + part(10));
  const isLeap = second === 60;
  const at = new Date(0);
  at.setUTCFullYear(year, month - 1, day);
  at.setUTCHours(hour, minute - offsetMinutes, isLeap ? 59 : second);
  if (isLeap && (at.getUTCHours() !== 23 || at.getUTCMinutes() !== 59)) return null;
  const digits = trimZeros(match[7] ?? "");
  // "~" sorts behind every digit: a leap second comes after all of :59 and before the next :00.
  return { second: at.getTime() / 1000, fraction: isLeap ? `~${digits}` : digits };
}

/** Negative, zero or positive as `a` is before, at, or after `b`. */
export function compareInstants(a: Instant, b: Instant): number {
  if (a.second !== b.second) return a.second - b.second;
  return a.fraction < b.fraction ? -1 : a.fraction > b.fraction ? 1 : 0;
}

const daysIn = (year: number, month: number): number =>
  month === 2
    ? year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0)
      ? 29
      : 28
    : [4, 6, 9, 11].includes(month)
      ? 30
      : 31;

/** By hand: a pattern for trailing zeros takes quadratic time on a long run of zeros inside. */
function trimZeros(digits: string): string {
  let end = digits.length;
  while (end > 0 && digits[end - 1] === "0") end--;
  return digits.slice(0, end);
}
