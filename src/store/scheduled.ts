/** Reminders that are set: a row is there until its time has come, or until it is taken back; a repeated one moves to its next time. */
import { chatKey, type Millis, type Reminder, type ReminderPlan } from "../core/model.ts";
import { personOf } from "../core/spend.ts";
import type { Database } from "./database.ts";
import { table } from "./statements.ts";

const fields = ["id", "number", "chat", "source", "kind", "text", "rule", "timeZone", "dueAt"] as const;

export type Reminders = ReturnType<typeof createReminders>;

export function createReminders(db: Database) {
  const { many, run, value } = table<Reminder>(db, "reminders", fields, { json: ["chat", "source"] });
  return {
    add: (plan: ReminderPlan, { chat, source, number }: Pick<Reminder, "chat" | "source" | "number">, now: Millis) =>
      run`INSERT INTO reminders (chat_key, chat, person, source, number, kind, text, rule, time_zone, due_at, created_at)
        VALUES (${chatKey(chat)}, ${JSON.stringify(chat)}, ${personOf(source)}, ${JSON.stringify(source)}, ${number},
          ${plan.kind}, ${plan.text}, ${plan.rule}, ${plan.timeZone}, ${plan.dueAt}, ${now})`,
    ofChat: (chat: string) => many`WHERE chat_key = ${chat} ORDER BY number`,
    /** How many reminders a person has in all chats. */
    countOf: (person: string) => value<number>`SELECT count(*) FROM reminders WHERE person = ${person}` ?? 0,
    /** Reminders whose time has come, the earliest first, without damaged rows. Asked each second: while none is due, this reads nothing. */
    due(now: Millis, most: number): readonly Reminder[] {
      const first = value<Millis>`SELECT min(due_at) FROM reminders`;
      if (first === null || first > now) return [];
      return many`WHERE due_at <= ${now} AND json_valid(chat) AND json_valid(source) ORDER BY due_at, id LIMIT ${most}`;
    },
    move: (id: number, dueAt: Millis) => run`UPDATE reminders SET due_at = ${dueAt} WHERE id = ${id}`,
    remove: (id: number) => run`DELETE FROM reminders WHERE id = ${id}`,
  };
}
