/**
 * The SQLite seam: the same few calls on bun:sqlite and on node:sqlite (Deno). No other file imports either.
 *
 * WAL with `synchronous = FULL`: a commit that returned survives a loss of power. One connection, one writer, synchronous:
 * a transaction can never span an `await`.
 */
import { BridgeError } from "../core/errors.ts";

export type SqlValue = null | number | bigint | string | Uint8Array;
export type Row = Record<string, SqlValue>;

/** How long a kept read holds: `always` where no other process writes its tables; else in a `transaction`, which first looks for that. */
export type Holds = "always" | "transaction";

export interface Database {
  /** Runs one statement; `changes` counts the rows it touched, `id` is the last inserted rowid. */
  run(sql: string, ...params: SqlValue[]): { readonly changes: number; readonly id: number };
  /** First row, or undefined. Columns come as SQLite has them: integers as number, blobs as Uint8Array. */
  get<T = Row>(sql: string, ...params: SqlValue[]): T | undefined;
  all<T = Row>(sql: string, ...params: SqlValue[]): T[];
  /** Several statements without parameters. */
  exec(sql: string): void;
  /** All or nothing. A transaction inside another joins it. @throws BridgeError `database` when SQLite fails */
  transaction<T>(work: () => T): T;
  /** Runs `work`, once however often it is given, as the last of the transaction at work; at once where there is none. Dropped where it is rolled back. */
  beforeCommit(work: () => void): void;
  /** Runs `work` when the transaction at work has been committed; at once where there is none. Dropped where it is rolled back. */
  afterCommit(work: () => void): void;
  /** Decodes a row. @throws BridgeError `database` where the row is not as it was written: that counts as a read that failed */
  read<T>(work: () => T): T;
  /** Runs `work` before the first write of the next transaction that writes, or at closing: it costs no commit. Again after a rollback. */
  alongside(work: () => void): void;
  /** The result of this read; an earlier result is kept until a table that the read names is written. */
  remember<T>(sql: string, params: readonly SqlValue[], holds: Holds, read: () => T): T;
  /** Failed reads, and any statement that met a page that cannot be read: how many so far, and why the last one failed. */
  readonly failures: { readonly count: number; readonly last: string | null };
  /** Runs with each transaction that is rolled back, as everything kept of it in memory is wrong. */
  onRollback(listener: () => void): void;
  /** A copy that is consistent while this connection works. @throws BridgeError `database` */
  copyTo(file: string): void;
  /** Flushes and closes; a second call does nothing. */
  close(): void;
}

type Statement = {
  run(...params: SqlValue[]): { changes: number | bigint; lastInsertRowid: number | bigint };
  get(...params: SqlValue[]): unknown;
  all(...params: SqlValue[]): unknown[];
};
type Driver = { prepare(sql: string): Statement; exec(sql: string): unknown; close(): void };

const pageCacheKibibytes = 512;

/** Opens (and creates) the file at `path`. @throws BridgeError `database` with the reason SQLite gives */
export async function openDatabase(path: string): Promise<Database> {
  try {
    const driver = await openDriver(path);
    driver.exec(
      "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON",
    );
    // A quarter of what SQLite takes by itself, without a difference in speed: pages that it lets go are still in the system's cache.
    driver.exec(`PRAGMA cache_size = -${pageCacheKibibytes}`);
    return wrap(driver, path);
  } catch (error) {
    throw sqliteError(`Cannot open the database ${path}`, error, isDamage(error) ? "database_damaged" : "database");
  }
}

/**
 * Holds a file for this process alone until `release`, or until the process ends, `kill -9` included: an open exclusive
 * transaction is the most portable lock there is. Null when another process holds it.
 */
export async function holdFile(path: string): Promise<{ release(): void } | null> {
  const driver = await openDriver(path);
  try {
    driver.exec("PRAGMA busy_timeout = 100; BEGIN EXCLUSIVE");
    return { release: () => driver.close() };
  } catch {
    driver.close();
    return null;
  }
}

async function openDriver(path: string): Promise<Driver> {
  if ("Bun" in globalThis) {
    const { Database: BunDatabase } = await import("bun:sqlite");
    return new BunDatabase(path, { create: true, readwrite: true, strict: true });
  }
  const { DatabaseSync } = await import("node:sqlite");
  return new DatabaseSync(path);
}

function wrap(driver: Driver, path: string): Database {
  const { prepare, forget } = keepStatements(driver);
  const { guard, failures } = createGuard(path);
  const reads = keepReads();
  const late = createLate();
  const { isAtWork, ...transactions } = createTransactions({
    begin: () => void guard(() => driver.exec("BEGIN IMMEDIATE")),
    begun: () => reads.noteOthers(guard(() => prepare("PRAGMA data_version").get())),
    commit() {
      guard(() => driver.exec("COMMIT"));
      late.end(true);
    },
    rollback() {
      reads.forget();
      driver.exec("ROLLBACK");
    },
    over: () => late.end(false),
  });
  let isOpen = true;
  return {
    run: (sql, ...params) =>
      guard(() => {
        if (isAtWork()) late.write();
        reads.note(sql);
        const { changes, lastInsertRowid } = prepare(sql).run(...params);
        return { changes: Number(changes), id: Number(lastInsertRowid) };
      }),
    get: <T>(sql: string, ...params: SqlValue[]) =>
      guard(() => (prepare(sql).get(...params) ?? undefined) as T | undefined, reads.note(sql)),
    all: <T>(sql: string, ...params: SqlValue[]) => guard(() => prepare(sql).all(...params) as T[], reads.note(sql)),
    exec(sql) {
      reads.forget();
      guard(() => void driver.exec(sql));
    },
    remember: (sql, params, holds, read) =>
      isAtWork() || holds === "always" ? reads.remember(sql, params, read) : read(),
    read: (work) => guard(work, true),
    ...transactions,
    alongside: late.add,
    failures,
    copyTo: (file) => void guard(() => prepare("VACUUM INTO ?").run(file)),
    close() {
      if (!isOpen) return;
      isOpen = false;
      try {
        transactions.transaction(late.write);
      } catch {
        // The late writes are lost, and made again after the next start.
      }
      forget();
      driver.close();
    },
  };
}

type Steps = { readonly [step in "begin" | "begun" | "commit" | "rollback" | "over"]: () => void };

/** What fails after a commit takes nothing back: a read that failed is counted, and the queues look by themselves. */
function runAfter(work: () => void): void {
  try {
    work();
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
  }
}

/** Transactions, one at a time, and the work that is due at the end of each. */
function createTransactions({ begin, begun, commit, rollback, over }: Steps) {
  const ending = new Set<() => void>();
  const rolledBack: (() => void)[] = [];
  let committed: (() => void)[] = [];
  let isAtWork = false;
  return {
    isAtWork: (): boolean => isAtWork,
    transaction<T>(work: () => T): T {
      if (isAtWork) return work();
      begin();
      isAtWork = true;
      let due: typeof committed = [];
      let result: T;
      try {
        begun();
        result = work();
        for (const last of ending) last();
        commit();
        due = committed;
      } catch (error) {
        for (const listener of rolledBack) listener();
        try {
          rollback();
        } catch {
          // SQLite has rolled back by itself already (disk full, I/O error).
        }
        throw error;
      } finally {
        isAtWork = false;
        over();
        ending.clear();
        committed = [];
      }
      for (const after of due) runAfter(after);
      return result;
    },
    beforeCommit: (work: () => void): void => (isAtWork ? void ending.add(work) : work()),
    afterCommit: (work: () => void): void => (isAtWork ? void committed.push(work) : work()),
    onRollback: (listener: () => void): void => void rolledBack.push(listener),
  };
}

/** Makes of what SQLite throws a `BridgeError`, and counts the reads that failed. */
function createGuard(path: string) {
  const failures: { count: number; last: string | null } = { count: 0, last: null };
  const guard = <T>(work: () => T, isReading = false): T => {
    try {
      return work();
    } catch (error) {
      if (error instanceof BridgeError) throw error;
      if (isReading || isDamage(error)) Object.assign(failures, { count: failures.count + 1, last: reasonOf(error) });
      throw sqliteError(`Cannot use the database ${path}`, error);
    }
  };
  return { guard, failures };
}

/** Prepares each SQL text once. */
function keepStatements(driver: Driver) {
  const kept = new Map<string, Statement>();
  return {
    prepare(sql: string): Statement {
      const known = kept.get(sql);
      if (known) return known;
      const fresh = driver.prepare(sql);
      kept.set(sql, fresh);
      return fresh;
    },
    forget: () => kept.clear(),
  };
}

/** Answers that are kept of one statement, and rows of a kept answer: an answer with more rows is read anew each time. */
const keptMax = 64;

/** The tables that a `SELECT` names. */
export const tablesRead = (sql: string): readonly string[] =>
  [...sql.matchAll(/\b(?:FROM|JOIN)\s+(\w+)/gu)].flatMap(([, name]) => name ?? []);

/** The table that a statement writes; blank for none. */
const tableWritten = (sql: string): string =>
  /^\s*(?:INSERT(?: OR \w+)? INTO|UPDATE|DELETE FROM)\s+(\w+)/u.exec(sql)?.[1] ?? "";

/** Keeps what was read until its tables are written. */
function keepReads() {
  /** Answers by the text of their statement, then by its values. */
  const kept = new Map<string, { readonly tables: readonly string[]; readonly answers: Map<string, unknown> }>();
  const writes = new Map<string, string>();
  let version: unknown = null;
  const forget = (): void => kept.clear();
  return {
    forget,
    /** Returns whether this statement only reads. Answers that read the table which it writes are forgotten. */
    note(sql: string): boolean {
      const table = writes.get(sql) ?? tableWritten(sql);
      writes.set(sql, table);
      if (table === "") return true;
      for (const { tables, answers } of kept.values()) if (tables.includes(table)) answers.clear();
      return false;
    },
    /** Forgets all answers where `data_version` is another than before: another process has written. */
    noteOthers(row: unknown): void {
      const now = (row as { data_version: unknown }).data_version;
      if (now !== version) forget();
      version = now;
    },
    remember<T>(sql: string, params: readonly SqlValue[], read: () => T): T {
      const { tables, answers } = kept.get(sql) ?? { tables: tablesRead(sql), answers: new Map<string, unknown>() };
      kept.set(sql, { tables, answers });
      const key = JSON.stringify(params);
      if (answers.has(key)) return answers.get(key) as T;
      const found = read();
      if (answers.size >= keptMax) answers.clear();
      if (!Array.isArray(found) || found.length <= keptMax) answers.set(key, found);
      return found;
    },
  };
}

/** Writes that are held until just before the first write of the next transaction. */
function createLate() {
  const works: (() => void)[] = [];
  /** How many of them the transaction at work has done. */
  let done = 0;
  return {
    add: (work: () => void): void => void works.push(work),
    write(): void {
      while (done < works.length) works[done++]?.();
    },
    /** Ends a transaction; writes that were not committed stay due. */
    end(isCommitted: boolean): void {
      if (isCommitted) works.splice(0, done);
      done = 0;
    },
  };
}

/** The reason of an error; the parser's own words about a damaged row are left out, as they quote it. */
const reasonOf = (cause: unknown): string =>
  cause instanceof SyntaxError ? "a row of it is malformed" : cause instanceof Error ? cause.message : String(cause);
/** **Source:** SQLite, result codes SQLITE_CORRUPT and SQLITE_NOTADB. */
export const isDamage = (cause: unknown): boolean => /malformed|file is not a database/u.test(reasonOf(cause));

function sqliteError(what: string, cause: unknown, code: "database" | "database_damaged" = "database"): BridgeError {
  const hint = isDamage(cause)
    ? "Stop signalman and restore a backup: `signalman restore FILE` (docs/operating.md)."
    : undefined;
  return new BridgeError(code, `${what}: ${reasonOf(cause)}`, {
    hint,
    cause: cause instanceof SyntaxError ? undefined : cause,
  });
}
