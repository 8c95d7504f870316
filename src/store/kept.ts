/** Files of projects as they were before a turn changed them. Their bytes lie in the home, by hash: `projects/undo.ts`. */
import type { Millis } from "../core/model.ts";
import type { Database } from "./database.ts";
import { table } from "./statements.ts";

export type Kept = {
  readonly sessionId: string;
  /** The canonical folder of the project. */
  readonly root: string;
  /** Path of the file, from the project's folder on. */
  readonly path: string;
  readonly turn: string;
  /** The hash of the bytes; null where there was no file. */
  readonly before: string | null;
  readonly bytes: number;
  /** The hash of the bytes that Claude left. */
  readonly after: string;
  readonly at: Millis;
};

const fields = ["sessionId", "root", "path", "turn", "before", "bytes", "after", "at"] as const;

export type KeptRows = ReturnType<typeof createKept>;

export function createKept(db: Database) {
  const { one, many, run, value, values } = table<Kept>(db, "kept", fields);
  return {
    get: (sessionId: string, root: string, path: string, turn: string) =>
      one`WHERE session_id = ${sessionId} AND root = ${root} AND path = ${path} AND turn = ${turn}`,
    /** Keeps the first state of a turn; `after` is always the newest. */
    put: (kept: Kept): void =>
      void run`INSERT INTO kept (session_id, root, path, turn, before, bytes, after, at)
        VALUES (${kept.sessionId}, ${kept.root}, ${kept.path}, ${kept.turn}, ${kept.before}, ${kept.bytes}, ${kept.after},
          ${kept.at}) ON CONFLICT (session_id, root, path, turn) DO UPDATE SET after = excluded.after`,
    /** The files that the last turn changed in the folder. */
    lastTurn(sessionId: string, root: string): readonly Kept[] {
      const last = one`WHERE session_id = ${sessionId} AND root = ${root} ORDER BY seq DESC LIMIT 1`;
      return last === null
        ? []
        : many`WHERE session_id = ${sessionId} AND root = ${root} AND turn = ${last.turn} ORDER BY path`;
    },
    /** The first state of each file that the session changed. */
    firsts: (sessionId: string, root: string) =>
      many`WHERE seq IN (SELECT min(seq) FROM kept WHERE session_id = ${sessionId} AND root = ${root} GROUP BY path) ORDER BY path`,
    drop: ({ sessionId, root, path, turn }: Kept): void =>
      void run`DELETE FROM kept WHERE session_id = ${sessionId} AND root = ${root} AND path = ${path} AND turn = ${turn}`,
    /** Drops rows older than `before`, then the oldest turns until the rest has at most `bytesMax`. */
    prune(before: Millis, bytesMax: number): void {
      run`DELETE FROM kept WHERE at < ${before}`;
      for (;;) {
        const sum = value<number>`SELECT sum(bytes) FROM kept` ?? 0;
        const oldest = sum > bytesMax ? one`ORDER BY seq LIMIT 1` : null;
        if (oldest === null) return;
        run`DELETE FROM kept WHERE session_id = ${oldest.sessionId} AND root = ${oldest.root} AND turn = ${oldest.turn}`;
      }
    },
    hashes: (): ReadonlySet<string> =>
      new Set(values<string>`SELECT DISTINCT before FROM kept WHERE before IS NOT NULL`),
  };
}
