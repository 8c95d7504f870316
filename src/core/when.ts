/** Days and times as people of this machine's zone say them. Pure: the zone (an IANA name) is handed in. */
import type { Millis } from "./model.ts";

/** The latest time that a `Date` can hold. **Source:** ECMA-262, "Time Values". */
const timeMax: Millis = 8.64e15;

const formats = {
  "en-GB": {
    hourCycle: "h23",
    weekday: "long",
    day: "numeric",
    month: "long",
    year: "numeric",
    hour: "2-digit",
    minute: "2-digit",
  },
  "en-CA": { year: "numeric", month: "2-digit", day: "2-digit" },
} as const;
const made = new Map<string, Intl.DateTimeFormat>();

/** Formats are kept, since making one takes longer than everything else that a message needs of this file. */
function formatOf(locale: keyof typeof formats, timeZone: string): Intl.DateTimeFormat {
  const key = `${locale} ${timeZone}`;
  const known = made.get(key) ?? new Intl.DateTimeFormat(locale, { timeZone, ...formats[locale] });
  made.set(key, known);
  return known;
}

function partsOf(at: Millis, timeZone: string): Readonly<Record<string, string>> {
  const format = formatOf("en-GB", timeZone);
  const time = Math.min(Math.max(at, 0), timeMax);
  return Object.fromEntries(format.formatToParts(time).map(({ type, value }) => [type, value]));
}

/** The first line of a prompt: Claude knows neither the date nor the time of day by itself. */
export function timeLine(at: Millis, timeZone: string): string {
  const { weekday, day, month, year, hour, minute } = partsOf(at, timeZone);
  return `[${weekday}, ${day} ${month} ${year}, ${hour}:${minute}, ${timeZone}]`;
}

/** For people: the day as they say it, and the time of day. */
export function momentText(at: Millis, now: Millis, timeZone: string): string {
  const { weekday = "", day, month = "", year, hour, minute } = partsOf(at, timeZone);
  const days = [0, 24, -24].map((hours) => dayOf(now + hours * 60 * minuteMs, timeZone)).indexOf(dayOf(at, timeZone));
  const isThisYear = year === partsOf(now, timeZone)["year"];
  const date =
    ["today", "tomorrow", "yesterday"][days] ??
    `${weekday.slice(0, 3)} ${day} ${month.slice(0, 3)}${isThisYear ? "" : ` ${year}`}`;
  return `${date} ${hour}:${minute}`;
}

const ownLine = /^\[[A-Z][a-z]+day, \d{1,2} [A-Z][a-z]+ \d{4,6}, \d\d:\d\d, [\w/+:-]+\](?:\n|$)/u;

/** A prompt as its person wrote it. */
export const withoutTimeLine = (prompt: string): string => prompt.replace(ownLine, "");

/** The day as `2026-11-30`, the month as its first seven characters. */
export function dayOf(at: Millis, timeZone: string): string {
  const format = formatOf("en-CA", timeZone);
  return format.format(Math.min(Math.max(at, 0), timeMax));
}

const minuteMs: Millis = 60_000;

/** The units of a duration, each with its length and the length of the next. */
const units: readonly (readonly [name: string, ms: Millis, nextMs: Millis])[] = [
  ["d", 86_400_000, Infinity],
  ["h", 3_600_000, 86_400_000],
  ["min", 60_000, 3_600_000],
  ["s", 1_000, 60_000],
];

/** The two largest units: `1 h 5 min`. */
export function duration(ms: Millis): string {
  const counts = units.map(([name, unitMs, nextMs]) => ({
    count: Math.floor((Math.max(0, ms) % nextMs) / unitMs),
    name,
  }));
  const first = counts.findIndex(({ count }) => count > 0);
  const shown = counts.slice(Math.max(0, first), first + 2).filter(({ count }) => count > 0);
  return shown.map(({ count, name }) => `${count} ${name}`).join(" ") || "0 s";
}
