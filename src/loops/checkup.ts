/**
 * Whether the database can be trusted: its pages are read at the start, once a day, and after each read that failed. What is wrong is
 * in `/health`, in the log, and in the owner's chat. A database that was set back is noticed and told at the start.
 */
import { BridgeError } from "../core/errors.ts";
import type { Bridge } from "./bridge.ts";
import { tellOwner } from "./owner.ts";

/** SQLite reads some 500 MB a second: what is larger is read in slices, so that nothing waits for it. */
const wholeBytesMax = 16 * 1024 * 1024;
const sliceRows = 500;

export interface Checkup {
  /** Why the database is not to be trusted; null while nothing speaks against it. */
  fault(): string | null;
  /** A read has failed since the last look. */
  isDue(): boolean;
  /** Never rejects. */
  run(signal: AbortSignal): Promise<void>;
}

export function createCheckup(bridge: Bridge): Checkup {
  const { store, log } = bridge;
  const { failures } = store.db;
  let damage: string | null = null;
  let seen = 0;
  const isDue = (): boolean => failures.count > seen;
  return {
    fault: () => damage ?? (isDue() ? `the database could not be read: ${failures.last}` : null),
    isDue,
    async run(signal) {
      const found = await findDamage(bridge, signal);
      if (signal.aborted) return;
      const count = failures.count - seen;
      seen = failures.count;
      damage = found && `the database is damaged: ${found}`;
      if (damage === null) return count === 0 ? undefined : log.warn("reads of the database failed", { count });
      log.error("the database is damaged", { found, failedReads: failures.count, hint: restoreHint });
      try {
        tellOwner(bridge, "damaged", damagedText);
      } catch (error) {
        // It says so in `/health` and in the log.
        if (!(error instanceof BridgeError)) throw error;
      }
    },
  };
}

const restoreHint = "Stop signalman and restore a backup: `signalman restore FILE` (docs/operating.md).";
const damagedText =
  "The database of signalman is damaged: parts of it cannot be read any more. Messages may be lost. The owner should stop signalman and restore a backup; `signalman doctor` says more.";

/** What SQLite finds wrong first; null for nothing. */
async function findDamage({ store: { db }, clock }: Pick<Bridge, "store" | "clock">, signal: AbortSignal) {
  try {
    const size = db.get<{ bytes: number }>(
      "SELECT page_count * page_size AS bytes FROM pragma_page_count(), pragma_page_size()",
    );
    if ((size?.bytes ?? 0) <= wholeBytesMax) return checkPages(db);
    const tables = db.all<{ name: string; wr: number }>("SELECT name, wr FROM pragma_table_list WHERE schema = 'main'");
    for (const { name, wr } of tables) {
      if (signal.aborted) return null;
      await clock.sleep(0);
      const isLarge = wr === 0 && (await readInSlices(name));
      const found = isLarge ? null : checkPages(db, name);
      if (found !== null) return found;
    }
    return null;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return error.message;
  }

  /** False where one slice is all of it. */
  async function readInSlices(table: string): Promise<boolean> {
    for (let [from, slices] = [-1, 0]; !signal.aborted; slices++) {
      const rows = db.all<{ at: number }>(
        `SELECT rowid AS at, * FROM "${table}" WHERE rowid > ? ORDER BY rowid LIMIT ${sliceRows}`,
        from,
      );
      if (rows.length < sliceRows) return slices > 0;
      from = rows.at(-1)?.at ?? from;
      await clock.sleep(0);
    }
    return true;
  }
}

/** **Source:** SQLite's documentation of `PRAGMA quick_check`: one row `ok`, or what is wrong. */
function checkPages(db: Bridge["store"]["db"], table?: string): string | null {
  const row = db.get(table === undefined ? "PRAGMA quick_check(1)" : `PRAGMA quick_check("${table}")`);
  const [verdict = "ok"] = Object.values(row ?? {});
  return verdict === "ok" ? null : String(verdict);
}

/** What an older version, a lost wake or a lost database left lying goes on, or is told. */
export function begin(bridge: Bridge): void {
  const { store, chats, log } = bridge;
  const { generation, sessions, settings } = store;
  if (!generation.isSetBack()) return chats.tellAll({ type: "started" });
  log.warn("the database is older than what was written last: what is open in it is not asked again");
  const number = store.db.transaction(() => {
    const number = generation.next();
    chats.tellAll({ type: "setBack", generation: number });
    // What was said in them since is on the phones already.
    for (const { id, remoteId } of sessions.list(Number.MAX_SAFE_INTEGER))
      if (remoteId !== null) settings.set(`said:${id}`, "1");
    tellOwner(bridge, `setback ${number}`, setBackText);
    return number;
  });
  generation.keep(number);
}

const setBackText =
  "The database of signalman is older than what it wrote last: a backup was restored, or a part of it was deleted. What was asked and answered since is not known here, and nothing of it is asked again. If people see messages that cannot be read, link this device anew.";
