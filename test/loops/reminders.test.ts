/** "Remind me": the whole program on a clock that moves when told, over sleeps, restarts and lost lines. */
import { afterEach, expect, test } from "bun:test";
import type { JsonValue } from "../../src/core/model.ts";
import type { Script } from "../doubles/scripted.ts";
// Loaded beforehand: while a library loads, no virtual time is to pass.
import "../../src/core/schedule.ts";
import { openStage, type Stage, type StageOptions } from "../e2e/stage.ts";

let seen: Stage;
afterEach(() => seen.close());

/** It is 10:00 in Zurich, a Monday. Claude calls what a message says as JSON, and answers the rest. */
const script: Script = (prompt) => {
  const [, name = "", input = "{}"] = /(reminders?|remind) (\{.*\})/u.exec(prompt) ?? [];
  return name === ""
    ? [{ say: `About ${/[^\n]*$/u.exec(prompt)?.[0]}: yes.` }]
    : [{ call: name, input: JSON.parse(input) as JsonValue }, { say: "So be it." }];
};
async function open(options: StageOptions = {}): Promise<Stage> {
  const flags = { progress: "false", reactions: "off", ...options.flags };
  seen = await openStage({ script, timeZone: "Europe/Zurich", ...options, flags });
  return seen;
}
const wish = async (input: object, name = "remind"): Promise<void> => {
  const done = (): number => seen.texts().filter((text) => text === "So be it.").length;
  const before = done();
  seen.write(`${name} ${JSON.stringify(input)}`);
  await settle(() => done() > before);
};
async function settle(isSo: () => boolean): Promise<void> {
  for (let rounds = 0; rounds < 100 && !isSo(); rounds++) await seen.pass(1);
  expect(isSo()).toBe(true);
}
const alarms = (): string[] => seen.texts().filter((text) => text.startsWith("⏰") && !text.includes("takes it back"));
const results = (): unknown[] => seen.daemon.store.db.all("SELECT state, is_error AS isError FROM calls");

test("a reminder is set without a question, said in the chat, delivered once", async () => {
  await open();
  await wish({ text: "call home", kind: "reminder", when: "in 20 minutes" });
  expect(seen.texts()).toEqual(["⏰ Reminder 1, today 10:20: call home\n/reminders off 1 takes it back.", "So be it."]);
  expect(results()).toEqual([{ state: "posted", isError: 0 }]);
  await seen.pass(19 * 60);
  expect(alarms()).toEqual([]);
  await seen.pass(120);
  expect(alarms()).toEqual(["⏰ call home"]);
  await seen.restart();
  await seen.pass(3_600);
  expect(alarms()).toHaveLength(1);
  expect(seen.daemon.store.reminders.ofChat("self")).toEqual([]);
});

test("what cannot be set is said to Claude, and nothing to the person", async () => {
  await open();
  await wish({ text: "call home", kind: "reminder", when: "at the right moment" });
  expect(seen.texts()).toEqual(["So be it."]);
  expect(results()).toEqual([{ state: "posted", isError: 1 }]);
});

test("a time that a sleep passed over is told when it was; missed repetitions are one", async () => {
  await open();
  await wish({ text: "call home", kind: "reminder", when: "at 18:00" });
  await wish({ text: "water the plants", kind: "reminder", rule: "0 7 * * *" });
  await seen.sleep(3 * 24 * 3_600 + 1_800);
  await seen.pass(120);
  expect(alarms()).toEqual([
    "⏰ call home\n(This was due Mon 23 Nov 18:00.)",
    "⏰ water the plants\n(This was due Tue 24 Nov 07:00, and again since.)",
  ]);
  await seen.sleep(20 * 3_600 + 1_700);
  await seen.pass(120);
  expect(alarms().slice(2)).toEqual(["⏰ water the plants"]);
});

test("a time that passed while the program was off, or Signal away, is told when it was", async () => {
  await open();
  await wish({ text: "tea", kind: "reminder", when: "in 30 minutes" });
  await wish({ text: "call home", kind: "reminder", when: "in 2 hours" });
  await seen.restart(3_600);
  await seen.pass(5);
  expect(alarms()).toEqual([expect.stringMatching(/^⏰ tea\n\(This was due today 10:3\d\.\)$/u)]);
  seen.signal.faults.cut();
  await seen.pass(7_200);
  seen.signal.faults.mend();
  await seen.pass(90);
  expect(alarms()[1]).toMatch(/^⏰ call home\n\(This was due today 12:0\d\.\)$/u);
});

test("a question is asked as if its person had written, and its answer comes; there is nothing to be marked", async () => {
  await open({ flags: { reactions: "on" } });
  await wish({ text: "the weather in Bern", kind: "question", rule: "30 10 * * *" });
  await seen.pass(1_800);
  expect(seen.texts().slice(2)).toEqual(["⏰ the weather in Bern", "About [As scheduled:] the weather in Bern: yes."]);
  await seen.sleep(24 * 3_600 - 60);
  await seen.pass(120);
  expect(seen.texts().slice(4)).toEqual(["⏰ the weather in Bern", "About [As scheduled:] the weather in Bern: yes."]);
  const marks = seen.daemon.store.db.all("SELECT subject FROM outbox WHERE why = 'mark' GROUP BY subject");
  expect(marks).toHaveLength(1);
});

test("who may not ask any more gets nothing, and costs nothing", async () => {
  await open({ flags: { allow: "self" } });
  const address = { aci: "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002", number: null };
  seen.write(`/allow ${address.aci}`);
  await seen.pass(2);
  const plan = { rule: null, timeZone: "UTC", dueAt: Date.UTC(2026, 10, 23, 9, 30) };
  const chat = { kind: "direct", peer: address } as const;
  const { reminders } = seen.daemon.store;
  reminders.add({ ...plan, kind: "question", text: "news" }, { chat, source: address, number: 1 }, 0);
  reminders.add({ ...plan, kind: "reminder", text: "tea" }, { chat, source: address, number: 2 }, 0);
  seen.write(`/disallow ${address.aci}`);
  await seen.pass(3_600);
  expect(alarms()).toEqual([]);
  expect(reminders.ofChat(`direct:${address.aci}`)).toEqual([]);
});

test("a scheduled question is not asked once its person has spent what a day allows", async () => {
  await open({ flags: { spendLimit: "1" } });
  await wish({ text: "news", kind: "question", when: "in 30 minutes" });
  const spent = {
    id: "u",
    at: null,
    type: "usage",
    inputTokens: 9,
    outputTokens: 9,
    costCents: 200,
    isTotal: false,
  } as const;
  seen.daemon.store.usage.add("elsewhere", "2026-11-23", seen.signal.account.aci ?? "", spent);
  await seen.pass(1_900);
  expect(seen.texts().slice(2)).toEqual(["⏰ news", expect.stringContaining("So this one was not asked")]);
});

test("/reminders lists, and takes back what Claude was asked for", async () => {
  await open();
  await wish({ text: "call home", kind: "reminder", when: "in 20 minutes" });
  await wish({ text: "tea", kind: "reminder", when: "in 30 minutes" });
  seen.write("/reminders off 1");
  await seen.pass(2);
  await wish({ off: 2 }, "reminders");
  seen.write("/reminders");
  await seen.pass(3_600);
  expect(alarms()).toEqual([]);
  expect(seen.texts().at(-1)).toStartWith("Nothing is set here.");
});
