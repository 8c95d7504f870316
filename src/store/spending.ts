/** The spending of each person: noted with the log entries that tell it, and read for `/usage` and for the limit of a day. */
import type { Envelope, Millis, Session, SessionEvent } from "../core/model.ts";
import { personOf, usageText, type Spend } from "../core/spend.ts";
import { dayOf } from "../core/when.ts";
import type { Store } from "./store.ts";

type World = {
  readonly now: () => Millis;
  /** The zone at whose midnight a day ends. */
  readonly timeZone: string;
  /** The most that a person's questions may cost in a day, in US cents; null without a limit. */
  readonly spendLimitCents: number | null;
};

/** Notes usage for the person whose question caused it: the question that these entries begin with, or the last of the session. */
export function noteUsage(
  store: Store,
  { now, timeZone }: World,
  { id }: Session,
  added: readonly SessionEvent[],
  justAsked: number | null,
): void {
  const { usage, posts, inbox, counters } = store;
  for (const event of added) {
    if (event.type !== "usage") continue;
    const asked = justAsked ?? posts.lastAsked(id);
    const person = personOf(asked === null ? null : (inbox.get(asked)?.envelope.source ?? null));
    const sum = usage.add(id, dayOf(Math.min(event.at ?? now(), now()), timeZone), person, event);
    const { inputTokens, outputTokens, costCents } = sum;
    counters.add({ inputTokens, outputTokens, costMicros: Math.round(costCents * 10_000) });
  }
}

export function spendOf(
  { usage, outbox }: Store,
  { spendLimitCents: limitCents, timeZone, now }: World,
  person: string,
): Spend | null {
  if (limitCents === null) return null;
  const day = dayOf(now(), timeZone);
  const subject = `${day} ${person}`;
  const { costCents: cents } = usage.between(day, day, person);
  return { limitCents, cents, until: `midnight (${timeZone})`, subject, isTold: outbox.has("spend", subject) };
}

/** The usage of a person, in words; in Note to Self also that of all people. */
export function usedBy(
  { usage }: Store,
  { now, timeZone }: World,
  session: Session | null,
  { source, chat }: Envelope,
): string | null {
  const today = dayOf(now(), timeZone);
  const month = `${today.slice(0, 7)}-01`;
  const person = personOf(source);
  const all = usage.between(month, today, null);
  const own = usage.between(month, today, person);
  return usageText([
    ...(session ? [["This conversation", usage.ofSession(session.id)] as const] : []),
    ["Today", usage.between(today, today, person)],
    ["This month", own],
    ...(chat?.kind === "self" && all.inputTokens > own.inputTokens ? [["All people, this month", all] as const] : []),
  ]);
}
