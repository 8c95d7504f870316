/** Rows of what is set for later, and a database from before there were any. */
import { afterEach, expect, test } from "bun:test";
import type { ReminderPlan } from "../../src/core/model.ts";
import { openDatabase } from "../../src/store/database.ts";
import { createChatRig, noteOf, owner, self, type ChatRig } from "../doubles/chats.ts";
import { makeVersion, steps } from "../fixtures/store/steps.ts";

let rig: ChatRig;
afterEach(() => rig.close());

const at = 1_786_953_600_000;
const tea: ReminderPlan = { kind: "reminder", text: "tea", rule: null, timeZone: "Europe/Zurich", dueAt: at };
const person = owner.aci ?? "";
const of = (number: number) => ({ chat: self, source: { aci: owner.aci, number: owner.number }, number });

test("a row comes when it is due, earliest first, and moves or goes", async () => {
  rig = await createChatRig();
  const { reminders } = rig.store;
  reminders.add({ ...tea, dueAt: at + 2 }, of(1), at);
  reminders.add({ ...tea, rule: "0 7 * * *", dueAt: at + 1 }, of(2), at);
  expect(reminders.due(at, 9)).toEqual([]);
  const due = reminders.due(at + 2, 9);
  expect(due.map(({ number }) => number)).toEqual([2, 1]);
  expect(due[0]).toEqual({ ...tea, ...of(2), rule: "0 7 * * *", dueAt: at + 1, id: expect.any(Number) });
  expect(reminders.due(at + 2, 1)).toHaveLength(1);
  expect(reminders.countOf(person)).toBe(2);
  expect(() => reminders.add(tea, of(2), at)).toThrow();
  reminders.move(due[0]?.id ?? 0, at + 9);
  reminders.remove(due[1]?.id ?? 0);
  expect(reminders.ofChat("self").map(({ number, dueAt }) => [number, dueAt])).toEqual([[2, at + 9]]);
});

test("a damaged row holds up no other", async () => {
  rig = await createChatRig();
  const { reminders, db } = rig.store;
  reminders.add(tea, of(1), at);
  reminders.add(tea, of(2), at);
  db.run("UPDATE reminders SET chat = 'damaged' WHERE number = 1");
  expect(reminders.due(at, 9).map(({ number }) => number)).toEqual([2]);
});

test("a file from before them opens: what is in it stays, and they can be set", async () => {
  const before = steps.findIndex((step) => step.includes("CREATE TABLE reminders"));
  rig = await createChatRig({}, async (file) => {
    const db = await openDatabase(file);
    makeVersion(db, before);
    db.run(
      "INSERT INTO inbox (key, chat_key, kind, envelope, versions, state, received_at) VALUES ('k', 'self', 'prompt', ?, '[]', 'open', 1)",
      JSON.stringify(noteOf("hello", at)),
    );
    db.run("INSERT INTO settings (key, value) VALUES ('allow:+15550100007', '1')");
    db.close();
  });
  expect(rig.store.inbox.head("self")).toHaveLength(1);
  expect(rig.store.settings.idsOf("allow")).toEqual(["+15550100007"]);
  rig.store.reminders.add(tea, of(1), at);
  expect(rig.store.reminders.ofChat("self")).toHaveLength(1);
});

test("/forget all deletes them with the chat; the conversation alone does not", async () => {
  rig = await createChatRig();
  rig.say("hello");
  rig.store.reminders.add(tea, of(1), at);
  rig.say("/forget");
  expect(rig.store.reminders.ofChat("self")).toHaveLength(1);
  rig.say("hello again");
  rig.say("/forget all yes");
  expect(rig.store.reminders.ofChat("self")).toEqual([]);
});
