/** Our tools `remind` and `reminders`, and the delivery of the reminders that they have set. */
import type { LocalTool } from "../claude/line.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { access } from "../core/inbound.ts";
import type { Session } from "../core/model.ts";
import { asMessage } from "../core/reminders.ts";
import { accountsIn, namesIn } from "../store/names.ts";
import { allAllowed } from "../store/allowed.ts";
import type { Call } from "../store/calls.ts";
import type { Bridge } from "./bridge.ts";

const string = (description: string) => ({ type: "string", description });

/** These tools ask for no yes, since each says in the chat what it has done. */
export const reminderTools: readonly LocalTool[] = [
  {
    name: "remind",
    description:
      "Sets a reminder for the person whom you answer, or a question that you are asked again at a time. It is kept on the person's machine and comes to this chat. " +
      "Use it whenever the person wants to be reminded, or wants something done later or regularly: nothing else of yours can do that. " +
      "Give either `when` (once) or `rule` (repeated). The person is shown what was set.",
    inputSchema: {
      type: "object",
      properties: {
        text: string("What the reminder says; of a question, what you are asked then, complete in itself."),
        kind: {
          enum: ["reminder", "question"],
          ...string(
            "`reminder`: the text itself is delivered. `question`: you are asked the text then, and your answer is delivered.",
          ),
        },
        when: string(
          'RFC 3339, such as 2026-12-01T18:00 (an offset may follow), or English words with digits, such as "today at 18:00" or "in 20 minutes".',
        ),
        rule: string('A cron expression of five fields, such as "0 7 * * 1-5" for 07:00 from Monday to Friday.'),
        time_zone: string("An IANA name; without it the zone of the person's machine is meant."),
      },
      required: ["text", "kind"],
    },
    isOfMachine: false,
  },
  {
    name: "reminders",
    description:
      "Lists the reminders and questions that are set in this chat, with their numbers; with `off` takes one back.",
    inputSchema: {
      type: "object",
      properties: { off: { type: "integer", description: "The number of the one to take back." } },
    },
    isOfMachine: false,
  },
];

export const isReminderTool = (name: string): name is "remind" | "reminders" =>
  reminderTools.some((tool) => tool.name === name);

/** Does what the call asks for, in one transaction with its result. */
export async function workOnReminders({ chats, clock, timeZone }: Bridge, session: Session, call: Call): Promise<void> {
  const { readWish } = await import("../core/schedule.ts");
  const { id: useId, tool, input } = call;
  const wish = isReminderTool(tool) && readWish(tool, input, clock.now(), timeZone ?? "UTC");
  if (!wish) return;
  if ("refusal" in wish)
    chats.settle(session.chat, { type: "settled", session, useId, text: wish.refusal, isError: true });
  else chats.settle(session.chat, { type: "wished", session, useId, wish });
}

/** Reminders that one look delivers: more wait for the next look, a second later. */
const dueMax = 20;

/** Delivers due reminders while connected: missed repetitions as one, none to a person who may not ask any more. Logs database faults. */
export async function deliverDue(bridge: Bridge): Promise<void> {
  const { store, chats, clock, log, config, account, isConnected } = bridge;
  const own = account();
  if (own === null || !isConnected()) return;
  try {
    for (const reminder of store.reminders.due(clock.now(), dueMax)) {
      const { rule, timeZone, dueAt, chat, source, kind, id } = reminder;
      const schedule = rule === null ? null : await import("../core/schedule.ts");
      const now = clock.now();
      const after = (at: number): number | null => schedule?.nextAfter(rule ?? "", timeZone, at) ?? null;
      const nextAt = after(Math.max(now, dueAt));
      const isMissed = nextAt !== after(dueAt);
      const isOwn = source.aci !== null ? source.aci === own.aci : source.number === own.number;
      const message = asMessage(reminder, now, namesIn(store.settings)(source), isOwn);
      const allow = allAllowed(config.allow, store.settings);
      const options = { account: own, allow, isGroupAlways: true, accountOf: accountsIn(store.settings) };
      const denied = access(message, options);
      if (denied !== null) {
        log.info("a reminder is dropped, as its person may not ask any more", { reason: denied });
        store.reminders.remove(id);
        continue;
      }
      store.db.transaction(() => {
        chats.settle(chat, { type: "due", reminder, nextAt, isMissed });
        if (kind === "question") chats.receive(`reminder|${id}|${dueAt}`, message, { kind: "prompt", replaces: null });
      });
    }
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn("reminders are postponed", toFault(error));
  }
}
