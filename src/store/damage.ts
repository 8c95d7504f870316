/** Finds damage to the database while it is used: in its pages, in its rows, and with its files. */
import { closeSync, openSync, readSync, statSync } from "node:fs";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Database } from "./database.ts";

/** SQLite reads some 500 MB a second: a large table is read in slices, so that nothing waits for it. */
const sliceRows = 500;

/** Columns whose text is JSON: `quick_check` takes any text for good. */
const jsonColumns: Readonly<Record<string, readonly string[]>> = {
  calls: ["input"],
  events: ["body"],
  inbox: ["envelope", "versions"],
  outbox: ["chat", "body", "uses"],
  posts: ["request", "tries"],
  reminders: ["chat", "source"],
  sessions: ["chat", "context", "stamps"],
  signal_groups: ["state"],
};
const isBroken = (table: string): string =>
  ["0", ...(jsonColumns[table] ?? []).map((column) => `json_valid("${column}") = 0`)].join(" OR ");

type Table = { readonly name: string; readonly wr: 0 | 1 };

/** The first damage found, in words; null for none, and where `signal` aborts. */
export async function findDamage(
  db: Database,
  clock: Pick<Clock, "sleep">,
  signal: AbortSignal,
): Promise<string | null> {
  try {
    const tables = db.all<Table>("SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'");
    for (const table of tables) {
      const found = signal.aborted ? null : await checkTable(db, table, clock, signal);
      if (found !== null) return found;
    }
    return null;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    return error.message;
  }
}

/** **Source:** SQLite's documentation of `PRAGMA quick_check`: one row `ok`, or what is wrong. */
function checkWhole(db: Database, table: string): string | null {
  const [verdict = "ok"] = Object.values(db.get(`PRAGMA quick_check("${table}")`) ?? {});
  if (verdict !== "ok") return String(verdict);
  return db.get(`SELECT 1 FROM "${table}" WHERE ${isBroken(table)} LIMIT 1`) === undefined ? null : brokenRow(table);
}

const brokenRow = (table: string): string => `a row of ${table} is malformed`;

/** Checks a table: in slices, where it has more rows than one slice. */
async function checkTable(
  db: Database,
  { name, wr }: Table,
  clock: Pick<Clock, "sleep">,
  signal: AbortSignal,
): Promise<string | null> {
  const slice = `SELECT rowid AS sliceAt, *, ${isBroken(name)} AS isBroken FROM "${name}" WHERE rowid > ? ORDER BY rowid LIMIT ${sliceRows}`;
  for (let from = wr === 1 ? null : -1; from !== null && !signal.aborted;) {
    const rows = db.all<{ sliceAt: number; isBroken: 0 | 1 | null }>(slice, from);
    if (rows.some((row) => row.isBroken === 1)) return brokenRow(name);
    if (rows.length < sliceRows && from === -1) break;
    if (rows.length < sliceRows) return checkIndexes(db, name);
    from = rows.at(-1)?.sliceAt ?? null;
    await clock.sleep(0);
  }
  return checkWhole(db, name);
}

/** Reads the indexes whole, as they are small beside their table. A partial index cannot be read for all rows. */
function checkIndexes(db: Database, table: string): null {
  const indexes = db.all<{ name: string }>("SELECT name FROM pragma_index_list(?) WHERE partial = 0", table);
  for (const { name } of indexes) db.get(`SELECT count(*) FROM "${table}" INDEXED BY "${name}"`);
  return null;
}

export type FileWatch = {
  /** Says which file of the database was deleted, replaced or written by another process; null for none. */
  readonly lost: () => string | null;
  /** Ends the watch, once the database is closed. */
  readonly close: () => void;
};

/**
 * Watches for files that were deleted or replaced beneath this process, which goes on writing to those it has open; and for a copy that
 * was written over the database, whose pages mix with ours. Called at the start; `lost` is asked again and again.
 */
export function watchFiles(file: string): FileWatch {
  const idOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.ino ?? 0;
  const files = ["", "-wal", "-shm"].map((suffix) => [file + suffix, idOf(file + suffix)] as const);
  // POSIX drops all locks of a process on a file, SQLite's too, when the process closes any descriptor of it: `shm` stays open.
  const shm = openSync(`${file}-shm`, "r");
  let seen = lastWrite(file, shm);
  let isForeign = false;
  const lost = (): string | null => {
    const [gone] = files.find(([path, id]) => id !== 0 && idOf(path) !== id) ?? [];
    const now = gone === undefined ? lastWrite(file, shm) : seen;
    isForeign ||= now.at !== seen.at && now.checkpoint === seen.checkpoint;
    seen = now;
    const path = gone ?? (isForeign ? file : null);
    return path && `${path} was deleted or replaced while signalman runs: restart it`;
  };
  let isOpen = true;
  const close = (): void => {
    if (isOpen) closeSync(shm);
    isOpen = false;
  };
  return { lost, close };
}

/**
 * When the database file itself was written, and the checkpoint that wrote it, which begins before the first page: SQLite writes there by
 * nothing else. **Source:** SQLite, "WAL-mode File Format": salts at 32 of the -shm file, nBackfill at 96, nBackfillAttempted at 128.
 */
function lastWrite(file: string, shm: number): { readonly at: Millis; readonly checkpoint: string } {
  const at = statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const head = Buffer.alloc(132);
  readSync(shm, head, 0, head.length, 0);
  return {
    at,
    checkpoint: Buffer.concat([head.subarray(32, 40), head.subarray(96, 100), head.subarray(128)]).toString("hex"),
  };
}
