/** Counts what goes to the disk: the seam to SQLite is one object, and everything calls through it. */
import type { Database } from "../../src/store/database.ts";

export type Disk = {
  /** Commits that wrote; those that only looked cost nothing. */
  readonly commits: number;
  /** Those that waited for the disk. */
  readonly fsyncs: number;
  readonly statements: number;
  /** The first write of each commit, to see what it was for. */
  readonly first: readonly string[];
};

/** From now on; the answer counts since the last call. */
export function countCommits(db: Database): () => Disk {
  const { run, get, all, exec, transaction } = db;
  let count = { commits: 0, fsyncs: 0, statements: 0, first: [] as string[] };
  let depth = 0;
  let firstWrite: string | null = null;
  let isFull = true;
  const commit = (): void => {
    if (firstWrite === null) return;
    count.commits++;
    if (isFull) count.fsyncs++;
    count.first.push(firstWrite);
    firstWrite = null;
  };
  const note = (sql: string): void => {
    count.statements++;
    if (/^\s*(?:INSERT|UPDATE|DELETE)/u.test(sql)) firstWrite ??= sql.trim().replaceAll(/\s+/gu, " ").slice(0, 60);
  };
  const watch =
    <A extends [string, ...never[]], R>(call: (...args: A) => R) =>
    (...args: A): R => {
      note(args[0]);
      const result = call(...args);
      if (depth === 0) commit();
      return result;
    };
  Object.assign(db, {
    run: watch(run),
    get: watch(get as never),
    all: watch(all as never),
    exec(sql: string) {
      if (/synchronous/iu.test(sql)) isFull = /full/iu.test(sql);
      exec(sql);
    },
    transaction<T>(work: () => T): T {
      depth++;
      try {
        const result = transaction(work);
        if (depth === 1) commit();
        return result;
      } finally {
        depth--;
        if (depth === 0) firstWrite = null;
      }
    },
  });
  return () => {
    const counted = count;
    count = { commits: 0, fsyncs: 0, statements: 0, first: [] };
    return counted;
  };
}
