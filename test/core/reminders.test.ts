/** Times as Claude gives them; and what of them may be set, by whom, and in which words. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Reminder, ReminderPlan, Wish } from "../../src/core/model.ts";
import { remindersMax } from "../../src/core/reminders.ts";
import { nextAfter, readWish } from "../../src/core/schedule.ts";
import type { Fact, View } from "../../src/core/changes.ts";
import { self, owner } from "../doubles/chats.ts";
import { changeOf, decided, prompt, received, session, standings, textsOf, viewOf } from "./chat-cases.ts";

/** A Monday, 17:00 in Zurich. */
const now = Date.UTC(2026, 10, 30, 16);
const zone = "Europe/Zurich";
const iso = (at: number | undefined): string => new Date(at ?? 0).toISOString().slice(0, 16);
const read = (given: object, timeZone = zone): Wish | { refusal: string } => readWish("remind", given, now, timeZone);
const times = (wish: ReturnType<typeof read>): string[] =>
  "refusal" in wish || wish.do !== "set" ? [JSON.stringify(wish)] : [wish.plan.dueAt, ...wish.later].map(iso);

describe("once", () => {
  test.each([
    ["at 18:00", "2026-11-30T17:00"],
    ["6pm", "2026-11-30T17:00"],
    // It is 17:00 already.
    ["at 6", "2026-12-01T05:00"],
    ["in 20 minutes", "2026-11-30T16:20"],
    ["in half an hour", "2026-11-30T16:30"],
    ["in 2 days", "2026-12-02T16:00"],
    ["tomorrow at 7:30", "2026-12-01T06:30"],
    ["on Friday at 9.", "2026-12-04T08:00"],
    ["2026-12-01T18:00", "2026-12-01T17:00"],
    ["2026-12-01T18:00:00Z", "2026-12-01T18:00"],
    ["2026-12-01T18:00:00+05:30", "2026-12-01T12:30"],
    // Summer time by then.
    ["1 June 2027 at 9:00", "2027-06-01T07:00"],
    // A time that the clock skips: an hour later.
    ["28 March 2027 at 2:30", "2027-03-28T01:30"],
    // A time that comes twice.
    ["31 October 2027 at 2:30", "2027-10-31T00:30"],
  ])("%s", (when, at) => {
    expect(times(read({ text: "tea", when }))).toEqual([at]);
  });

  test("in another zone than this machine's", () => {
    expect(times(read({ text: "tea", when: "today at 18:00", time_zone: "America/New_York" }))).toEqual([
      "2026-11-30T23:00",
    ]);
  });

  test.each([
    [{ text: "tea", when: "tomorrow at six" }, "Only “tomorrow” of “tomorrow at six” is understood"],
    [{ text: "tea", when: "soon" }, "Nothing of “soon” is understood"],
    [{ text: "tea", when: "today at 18:00 and tomorrow at 7:00" }, "is understood as a time"],
    [{ text: "tea", when: "yesterday at 5" }, "is past"],
    [{ text: "tea", when: "2090-01-01T08:00" }, "more than 10 years away"],
    [{ text: "tea", when: "at 18:00", time_zone: "Mars/North" }, "no time zone Mars/North"],
    [{ text: "tea" }, "either `when` or `rule`"],
    [{ text: "tea", when: "at 18:00", rule: "0 7 * * *" }, "either `when` or `rule`"],
    [{ text: " ", when: "at 18:00" }, "text: "],
    [{ text: "x".repeat(1_001), when: "at 18:00" }, "text: "],
    [{ text: "tea", kind: "alarm", when: "at 18:00" }, "kind: "],
    [{ text: "tea", rule: "0 7" }, "five fields"],
    [{ text: "tea", rule: "* * * * * *" }, "five fields"],
    [{ text: "tea", rule: "0 25 * * *" }, "no cron expression"],
    [{ text: "tea", rule: "0 0 30 2 *" }, "names no time"],
    [{ text: "tea", rule: "* * * * *" }, "every 5 minutes at most"],
    [{ text: "news", kind: "question", rule: "*/10 * * * *" }, "every 15 minutes at most"],
    // Two of its times are close to each other, the others are not.
    [{ text: "news", kind: "question", rule: "0,5 7 * * *" }, "every 15 minutes at most"],
  ])("%j is refused in words for Claude", (given, words) => {
    expect(read(given)).toEqual({ refusal: expect.stringContaining(words) });
  });
});

describe("repeated", () => {
  test("a rule in its zone; winter and summer at the same time of the day", () => {
    expect(times(read({ text: "weather", kind: "question", rule: "0 7 * * 1-5" }))).toEqual([
      "2026-12-01T06:00",
      "2026-12-02T06:00",
      "2026-12-03T06:00",
    ]);
    expect(iso(nextAfter("0 7 * * *", zone, Date.UTC(2027, 2, 28, 12)) ?? 0)).toBe("2027-03-29T05:00");
    expect(times(read({ text: "news", kind: "question", rule: "*/15 * * * *" }))[0]).toBe("2026-11-30T16:15");
  });

  test("what comes next is after the instant, never at it", () => {
    const at = Date.UTC(2026, 11, 1, 6);
    expect(nextAfter("0 7 * * *", zone, at)).toBe(at + 24 * 3_600_000);
  });
});

test("whatever Claude gives is understood or refused, and what is understood comes later than now", () => {
  const word = fc.oneof(
    fc.constantFrom(
      "at",
      "tomorrow",
      "in",
      "20 minutes",
      "6pm",
      "30 Feb",
      "31 Dec 99999",
      "noon",
      "29/02/2027",
      "24:00",
      "-1",
    ),
    fc.string({ maxLength: 8 }),
  );
  const words = fc.array(word, { maxLength: 4 }).map((list) => list.join(" "));
  const field = fc.constantFrom("*", "*/7", "1-5", "L", "#2", "60", "7,8", "?", "W");
  const rule = fc.array(field, { minLength: 5, maxLength: 5 }).map((list) => list.join(" "));
  const input = fc.oneof(
    fc.record({ text: words, when: words }),
    fc.record({ text: fc.constant("tea"), rule: fc.oneof(rule, words) }),
    fc.jsonValue(),
  );
  fc.assert(
    fc.property(input, (given) => {
      const wish = readWish("remind", given, now, zone);
      if ("refusal" in wish) expect(wish.refusal).not.toBe("");
      else expect(wish.do === "set" && wish.plan.dueAt > now).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("`reminders` lists, or takes back", () => {
  expect(readWish("reminders", {}, now, zone)).toEqual({ do: "list" });
  expect(readWish("reminders", { off: 2 }, now, zone)).toEqual({ do: "off", number: 2 });
  for (const off of ["two", 0, 1.5]) expect(readWish("reminders", { off }, now, zone)).toHaveProperty("refusal");
});

const tea: ReminderPlan = { kind: "reminder", text: "tea", rule: null, timeZone: "UTC", dueAt: now + 3_600_000 };
const anna = { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null };
const row = (number: number, more: Partial<Reminder> = {}): Reminder => ({
  ...tea,
  id: 10 + number,
  number,
  chat: self,
  source: owner,
  ...more,
});
const given = (rows: readonly Reminder[], more: Partial<View["look"]> = {}, view: Partial<View> = {}): View => {
  const base = viewOf([prompt(1, "posted")], { turn: standings.posted.turn, now, ...view });
  return { ...base, look: { ...base.look, reminders: () => rows, timeZone: zone, ...more } };
};
const wished = (wish: Wish): Fact => ({ type: "wished", session, useId: "c", wish });
const set = (plan: Partial<ReminderPlan> = {}, later: readonly number[] = []): Fact =>
  wished({ do: "set", plan: { ...tea, ...plan }, later });

describe("what is set", () => {
  test("is said in the chat with the time as people say it, and how to take it back; Claude hears the same", () => {
    expect(textsOf(given([]), set())).toEqual(["⏰ Reminder 1, today 18:00: tea\n/reminders off 1 takes it back."]);
    const daily = set({ kind: "question", rule: "0 7 * * *", dueAt: now + 14 * 3_600_000 }, [now + 38 * 3_600_000]);
    expect(textsOf(given([row(4)]), daily)[0]).toStartWith(
      "⏰ Question 5, tomorrow 07:00, Wed 2 Dec 07:00 and so on: tea",
    );
    expect(changeOf(given([]), set(), "result")).toMatchObject({ isError: false });
    expect(changeOf(given([]), set(), "schedule")).toMatchObject({ number: 1, source: { aci: owner.aci } });
  });

  test("is bounded by person", () => {
    const full = given([], { remindersOf: () => remindersMax });
    expect(changeOf(full, set(), "schedule")).toBeUndefined();
    expect(changeOf(full, set(), "result")).toMatchObject({ isError: true, text: expect.stringContaining("has 100") });
  });

  test("is listed and taken back, by a command and by Claude", () => {
    const rows = [row(1), row(3, { kind: "question", rule: "0 7 * * *", text: "the weather" })];
    const list =
      "1. today 18:00: tea\n3. today 18:00, and again: the weather (Claude answers)\n/reminders off N takes one back.";
    expect(textsOf(given(rows), received("/reminders"))).toEqual([list]);
    expect(changeOf(given(rows), wished({ do: "list" }), "result")).toMatchObject({ text: list });
    expect(textsOf(given([]), received("/reminders"))[0]).toStartWith("Nothing is set here.");
    expect(decided(given(rows), received("/reminders off 3"))).toEqual(["unschedule 13", "say command 9"]);
    expect(textsOf(given(rows), received("/reminders off 3"))).toEqual(["Taken back: today 18:00, the weather"]);
    expect(textsOf(given(rows), received("/reminders off 2"))[0]).toStartWith("There is no number 2");
    expect(textsOf(given(rows), received("/reminders please"))[0]).toContain("/reminders off 2");
    expect(decided(given(rows), wished({ do: "off", number: 1 }))).toEqual([
      "unschedule 11",
      "say note off c",
      "result of c: Taken back: today 18:00, tea",
    ]);
  });

  test("is its person's in a group; the owner may take any back", () => {
    const rows = [row(1, { source: anna })];
    const guest = given(rows, {}, { isOwner: () => false });
    expect(decided(guest, received("/reminders off 1"))).toEqual(["say command 9"]);
    expect(textsOf(guest, received("/reminders off 1"))[0]).toContain("Another person set that one");
    expect(decided(given(rows), received("/reminders off 1"))).toEqual(["unschedule 11", "say command 9"]);
  });
});

describe("when its time has come", () => {
  const due = (dueAt: number, nextAt: number | null = null, isMissed = false): Fact => ({
    type: "due",
    reminder: row(1, { dueAt }),
    nextAt,
    isMissed,
  });
  test("it is said, and is over", () => {
    expect(textsOf(given([]), due(now))).toEqual(["⏰ tea"]);
    expect(decided(given([]), due(now))).toEqual(["unschedule 11", `say remind 11:${now}`]);
  });
  test("late, it says when it was due; a repeated one comes again", () => {
    expect(textsOf(given([]), due(now - 7_200_000))).toEqual(["⏰ tea\n(This was due today 15:00.)"]);
    expect(textsOf(given([]), due(now - 86_400_000, now + 1, true))).toEqual([
      "⏰ tea\n(This was due yesterday 17:00, and again since.)",
    ]);
    expect(changeOf(given([]), due(now, now + 5), "reschedule")).toMatchObject({ id: 11, dueAt: now + 5 });
  });
});
