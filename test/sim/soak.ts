/** One quiet home for many virtual days: what is done is pruned, and nothing else may grow. */
import { openBench, type Bench } from "./bench.ts";

const dayMs = 86_400_000;
const retentionDays = 2;
const messagesPerDay = 24;
/** Until then the first rows are pruned and everything has been used once. */
const warmDays = retentionDays + 2;
/** Pages are filled differently from day to day. */
const slackBytes = 65_536;
/** Entries of the log per message, and those of the day that stays before the cursor. */
const eventsPerDay = 8 * messagesPerDay;

export type SoakDay = {
  readonly day: number;
  readonly databaseBytes: number;
  /** Of inbox and outbox. */
  readonly rows: number;
  readonly events: number;
  readonly timers: number;
  /** Different SQL texts, each prepared once. */
  readonly statements: number;
};

/** Runs the days, handing each to `report`. @throws Error naming what grew */
export async function soak(days: number, report: (day: SoakDay) => void): Promise<void> {
  await using bench = await openBench({ flags: { retentionDays: String(retentionDays) } });
  let warm: SoakDay | null = null;
  for (let day = 1; day <= days; day++) {
    for (let count = 0; count < messagesPerDay; count++) {
      bench.signal.owner.write(`day ${day}, message ${count}`);
      await bench.pass(dayMs / messagesPerDay);
    }
    const measured = measure(bench, day);
    report(measured);
    if (day === warmDays) warm = measured;
    if (warm !== null) compare(warm, measured);
  }
  const heard = new Set(bench.texts()).size;
  if (heard !== days * messagesPerDay) throw new Error(`${heard} of ${days * messagesPerDay} messages were answered`);
}

function measure(bench: Bench, day: number): SoakDay {
  const count = (sql: string): number =>
    Object.values(bench.life().look()?.get<Record<string, number>>(sql) ?? {})[0] ?? 0;
  return {
    day,
    databaseBytes: count("PRAGMA page_count") * count("PRAGMA page_size"),
    rows: count("SELECT count(*) FROM inbox") + count("SELECT count(*) FROM outbox"),
    events: count("SELECT count(*) FROM events"),
    timers: bench.clock.timerCount(),
    statements: bench.machine.statements.size,
  };
}

function compare(warm: SoakDay, now: SoakDay): void {
  const flat = (key: Exclude<keyof SoakDay, "day">, slack: number): void => {
    if (now[key] > warm[key] + slack) throw new Error(`${key} grew from ${warm[key]} to ${now[key]}`);
  };
  flat("timers", 2);
  flat("statements", 2);
  flat("rows", messagesPerDay);
  flat("events", eventsPerDay);
  flat("databaseBytes", slackBytes);
}
