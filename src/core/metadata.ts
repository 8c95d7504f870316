/**
 * A chat's context as the metadata of its session at the Claude API, and back.
 *
 *   "c.model": "0k3v9q2m00a1f4~\"claude-x\""     stamp ~ JSON in ASCII
 *   "c.title": "0k3v9q2m01a1f4!"                  tombstone: removed at that stamp
 *   "c.quiet": "~true"                            a value without a stamp
 *   "sb.…"                                        reserved by us; any other key is not ours
 *
 * Total both ways: a pair that cannot be read is not ours and is left alone; a pair that does not fit stays local.
 *
 * **Source:** the SDK's `BetaManagedAgentsSession.metadata`: at most 16 pairs, key ≤ 64, value ≤ 512 characters.
 */
import { parseStamp, type Stamp } from "./hlc.ts";
import type { Context, JsonValue, Stamps } from "./model.ts";
import { own } from "./synchronizer.ts";

/** 16 pairs less those by which a session is known (`sb.schema`, `sb.id`), and room for one more. */
const keysMax = 13;
const keyCharsMax = 64;
const valueCharsMax = 512;
const prefix = "c.";

export type Metadata = { readonly [key: string]: string };

/**
 * The pairs for a context and its stamps. A pair that is too large, or beyond 13, is left out; values go before tombstones, newer pairs
 * before older ones.
 */
export function encodeMetadata(context: Context, stamps: Stamps): Record<string, string> {
  const pairs = Object.keys({ ...stamps, ...context }).map((key) => {
    const value = own(context, key);
    const given = own(stamps, key) ?? "";
    // A text that is no stamp would make the whole pair unreadable.
    const stamp = parseStamp(given) === null ? "" : given;
    const text = stamp + (value === undefined ? "!" : `~${toAscii(JSON.stringify(value))}`);
    return { key: prefix + key, text, stamp, isTombstone: value === undefined };
  });
  const fitting = pairs
    .filter(({ key, text }) => key.length <= keyCharsMax && text.length <= valueCharsMax)
    .sort(
      (a, b) => Number(a.isTombstone) - Number(b.isTombstone) || (a.stamp < b.stamp ? 1 : a.stamp > b.stamp ? -1 : 0),
    );
  return Object.fromEntries(fitting.slice(0, keysMax).map(({ key, text }) => [key, text]));
}

/** The context and stamps in a session's metadata; any input is fine, pairs that are not ours are passed over. */
export function decodeMetadata(metadata: Metadata): { readonly context: Context; readonly stamps: Stamps } {
  const context: [string, JsonValue][] = [];
  const stamps: [string, Stamp][] = [];
  for (const [key, text] of Object.entries(metadata)) {
    const entry = decodeEntry(key, text);
    if (!entry) continue;
    if (entry.stamp !== "") stamps.push([entry.key, entry.stamp]);
    if (entry.value !== undefined) context.push([entry.key, entry.value]);
  }
  return { context: Object.fromEntries(context), stamps: Object.fromEntries(stamps) };
}

/** The patch that turns `before` into `after` at the API: a string writes, null removes. A pair that is not ours is never removed. */
export function metadataPatch(before: Metadata, after: Metadata): Record<string, string | null> {
  const writes = Object.entries(after).filter(([key, value]) => own(before, key) !== value);
  const removals = Object.entries(before)
    .filter(([key, text]) => !Object.hasOwn(after, key) && decodeEntry(key, text) !== null)
    .map(([key]): [string, null] => [key, null]);
  return Object.fromEntries<string | null>([...writes, ...removals]);
}

/** Stamp, `~` or `!`, the rest. */
const entryPattern = /^([^~!]*)([~!])(.*)$/s;

/** Null where the pair is not ours, or of a kind that this version does not know (`@mem:…`). */
function decodeEntry(
  key: string,
  text: unknown,
): { readonly key: string; readonly stamp: Stamp; readonly value?: JsonValue } | null {
  // Pairs of ours keep the API's limit; a longer value could be nested too deep to be worth parsing.
  if (!key.startsWith(prefix) || typeof text !== "string" || text.length > valueCharsMax) return null;
  const [, stamp = "", mark, rest = ""] = entryPattern.exec(text) ?? [];
  if (mark === undefined || (stamp !== "" && parseStamp(stamp) === null)) return null;
  const name = key.slice(prefix.length);
  if (mark === "!") return stamp !== "" && rest === "" ? { key: name, stamp } : null;
  try {
    return { key: name, stamp, value: JSON.parse(rest) as JsonValue };
  } catch {
    return null;
  }
}

/** JSON in ASCII, so that characters and bytes are the same: no document says which of them the limit of 512 counts. */
function toAscii(json: string): string {
  return json.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
