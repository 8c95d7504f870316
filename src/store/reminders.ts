/** What people have set for later: a row is there until its time has come, or until it is taken back; a repeated one moves on. */
import { chatKey, type Address, type Chat, type Millis, type Reminder, type ReminderPlan } from "../core/model.ts";
import { personOf } from "../core/spend.ts";
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";

type Raw = Omit<Reminder, "chat" | "source"> & { readonly chat: string; readonly source: string };

const select = `SELECT id, number, chat, source, kind, text, rule, time_zone AS timeZone, due_at AS dueAt FROM reminders`;
const toReminder = ({ chat, source, ...row }: Raw): Reminder => ({
  ...row,
  chat: JSON.parse(chat) as Chat,
  source: JSON.parse(source) as Address,
});

export type Reminders = ReturnType<typeof createReminders>;

export function createReminders(db: Database) {
  const { many, run, get } = statements<Raw, Reminder>(db, select, toReminder);
  return {
    add: (plan: ReminderPlan, { chat, source, number }: Pick<Reminder, "chat" | "source" | "number">, now: Millis) =>
      run`INSERT INTO reminders (chat_key, chat, person, source, number, kind, text, rule, time_zone, due_at, created_at)
        VALUES (${chatKey(chat)}, ${JSON.stringify(chat)}, ${personOf(source)}, ${JSON.stringify(source)}, ${number},
          ${plan.kind}, ${plan.text}, ${plan.rule}, ${plan.timeZone}, ${plan.dueAt}, ${now})`,
    ofChat: (chat: string) => many`WHERE chat_key = ${chat} ORDER BY number`,
    /** In all chats. */
    countOf: (person: string): number =>
      get<{ count: number }>`SELECT count(*) AS count FROM reminders WHERE person = ${person}`?.count ?? 0,
    /** Those whose time has come, the earliest first. Asked each second: while none is near, it reads nothing. */
    due(now: Millis, most: number): readonly Reminder[] {
      const first = get<{ at: Millis | null }>`SELECT min(due_at) AS at FROM reminders`?.at ?? null;
      return first === null || first > now ? [] : many`WHERE due_at <= ${now} ORDER BY due_at, id LIMIT ${most}`;
    },
    move: (id: number, dueAt: Millis) => run`UPDATE reminders SET due_at = ${dueAt} WHERE id = ${id}`,
    remove: (id: number) => run`DELETE FROM reminders WHERE id = ${id}`,
  };
}
