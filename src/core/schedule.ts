/** Times as Claude gives them (RFC 3339, words, rules) as instants. Imported when a reminder is first set: the libraries are large. */
import { casual } from "chrono-node/en";
import { Cron } from "croner";
import * as v from "valibot";
import type { Millis, ReminderKind, ReminderPlan, Wish } from "./model.ts";

const textMax = 1_000;
const yearsMax = 10;
const yearMs: Millis = 366 * 24 * 3_600_000;
/** Minutes between two times of a rule at least: a question costs money, and a message that comes all the time is a nuisance. */
const gapMinutes: Record<ReminderKind, number> = { reminder: 5, question: 15 };
/** The next times of a rule among which the smallest gap is looked for. */
const timesLooked = 60;
const timesShown = 3;

const words = (max: number) => v.pipe(v.string(), v.trim(), v.minLength(1), v.maxLength(max));
const inputs = {
  remind: v.object({
    text: words(textMax),
    kind: v.optional(v.picklist(["reminder", "question"]), "reminder"),
    when: v.optional(words(100)),
    rule: v.optional(words(100)),
    time_zone: v.optional(words(60)),
  }),
  reminders: v.object({ off: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1))) }),
};

export type Refusal = { readonly refusal: string };

/** Reads a call of `remind` or `reminders`; a refusal says in words for Claude why that cannot be. @param timeZone of this machine */
export function readWish(tool: keyof typeof inputs, given: unknown, now: Millis, timeZone: string): Wish | Refusal {
  if (tool === "reminders") {
    const read = v.safeParse(inputs.reminders, given);
    if (!read.success) return { refusal: "`off` is the number of one that is set here." };
    return read.output.off === undefined ? { do: "list" } : { do: "off", number: read.output.off };
  }
  const read = v.safeParse(inputs.remind, given);
  if (!read.success) return { refusal: `${v.getDotPath(read.issues[0]) ?? "input"}: ${read.issues[0].message}` };
  const { text, kind, when, rule, time_zone: zone = timeZone } = read.output;
  if (!isZone(zone)) return { refusal: `There is no time zone ${zone}: give an IANA name, such as Europe/Zurich.` };
  if ((when === undefined) === (rule === undefined)) return { refusal: "Give either `when` or `rule`." };
  const times = rule === undefined ? readWhen(when ?? "", now, zone) : readRule(rule, kind, now, zone);
  if ("refusal" in times) return times;
  const [dueAt, ...later] = times.at;
  const plan: ReminderPlan = { kind, text, rule: rule ?? null, timeZone: zone, dueAt };
  return { do: "set", plan, later };
}

type Times = { readonly at: readonly [Millis, ...Millis[]] };

function readWhen(when: string, now: Millis, timeZone: string): Times | Refusal {
  const reference = { instant: new Date(now), timezone: offsetMinutes(now, timeZone) };
  const [found, ...others] = casual.parse(when, reference, { forwardDate: true });
  const said = found?.text ?? "";
  // A part that is not understood may be the part that matters: "tomorrow at six" has no hour for the library.
  if (found === undefined || others.length > 0 || found.end !== null || said.length < when.length - 1)
    return {
      refusal: `${said === "" ? "Nothing" : `Only “${said}”`} of “${when}” is understood as a time. Give RFC 3339, or English words with digits, such as "tomorrow at 18:00".`,
    };
  const { start } = found;
  const part = (name: "year" | "month" | "day" | "hour" | "minute" | "second"): number => start.get(name) ?? 0;
  const wall = new Date(0);
  wall.setUTCFullYear(part("year"), part("month") - 1, part("day"));
  wall.setUTCHours(part("hour"), part("minute"), part("second"));
  if (!(wall.getTime() < now + yearsMax * yearMs)) return { refusal: `“${when}” is more than ${yearsMax} years away.` };
  const at = start.isCertain("timezoneOffset")
    ? start.date().getTime()
    : (new Cron(wall.toISOString().slice(0, 19), { timezone: timeZone }).nextRun(new Date(0))?.getTime() ?? now);
  if (at <= now) return { refusal: `“${when}” is past: it is ${new Date(now).toISOString()} now.` };
  return { at: [at] };
}

function readRule(rule: string, kind: ReminderKind, now: Millis, timeZone: string): Times | Refusal {
  if (rule.split(/\s+/u).length !== 5)
    return { refusal: "`rule` has five fields: minute, hour, day of the month, month, day of the week." };
  let runs: Millis[];
  try {
    runs = new Cron(rule, { timezone: timeZone }).nextRuns(timesLooked, new Date(now)).map((run) => run.getTime());
  } catch (error) {
    return { refusal: `\`rule\` is no cron expression: ${error instanceof Error ? error.message : String(error)}` };
  }
  const [first, ...later] = runs;
  if (first === undefined) return { refusal: "`rule` names no time that ever comes." };
  const gap = Math.min(...later.map((at, index) => at - (runs[index] ?? 0)));
  if (gap < gapMinutes[kind] * 60_000)
    return { refusal: `A repeated ${kind} comes every ${gapMinutes[kind]} minutes at most.` };
  return { at: [first, ...later.slice(0, timesShown - 1)] };
}

/** The first time of a rule after an instant; null where none comes any more. */
export const nextAfter = (rule: string, timeZone: string, at: Millis): Millis | null =>
  new Cron(rule, { timezone: timeZone }).nextRun(new Date(at))?.getTime() ?? null;

function isZone(name: string): boolean {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone !== "";
  } catch {
    return false;
  }
}

/** Minutes that the zone is east of Greenwich at that instant. */
function offsetMinutes(at: Millis, timeZone: string): number {
  const format = new Intl.DateTimeFormat("en", { timeZone, timeZoneName: "longOffset" });
  const name = format.formatToParts(at).find(({ type }) => type === "timeZoneName")?.value ?? "";
  const [, sign = "+", hours = "0", minutes = "0"] = /([+-])(\d\d):(\d\d)/u.exec(name) ?? [];
  return (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes));
}
