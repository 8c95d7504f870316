/**
 * Files that Claude makes: which sessions are to be looked through for some, and which files have been dealt with.
 *
 *   a tool was used ─▶ due ─▶ looked ─▶ due again, a little later ─▶ … ─▶ nothing due until a tool is used again
 */
import type { Millis, SessionEvent } from "../core/model.ts";
import type { Database } from "./database.ts";
import { statements } from "./statements.ts";

/** Waits before the looks, one after the other, since a file is listed some seconds after the turn that made it. */
export const looksMs: readonly Millis[] = [1_500, 5_000, 20_000];

export type Files = ReturnType<typeof createFiles>;

export function createFiles(db: Database) {
  const { run, value, values, has } = statements(db);
  const giveUp = (sessionId: string) => run`DELETE FROM file_looks WHERE session_id = ${sessionId}`;
  const looks = (sessionId: string) => value<number>`SELECT looks FROM file_looks WHERE session_id = ${sessionId}`;
  return {
    /** Notes new entries of a session's log; part of the caller's transaction. True where files are to be looked for. */
    note(sessionId: string, added: readonly SessionEvent[]): boolean {
      if (added.some(({ type }) => type === "tool_result"))
        return (
          run`INSERT INTO file_looks (session_id, looks) VALUES (${sessionId}, 0)
            ON CONFLICT (session_id) DO UPDATE SET looks = 0` > 0
        );
      const isDue = added.some(({ type }) => type === "idle") && looks(sessionId) !== null;
      if (isDue) run`UPDATE file_looks SET looks = 0 WHERE session_id = ${sessionId}`;
      return isDue;
    },
    /** Sessions to be looked through. */
    due: () => values<string>`SELECT session_id FROM file_looks`,
    /** Looks that were taken since a tool was used; null where none is due. */
    looks,
    /** A whole look was taken; returns when the next one is due, null for none. */
    markLooked(sessionId: string): Millis | null {
      const taken = (looks(sessionId) ?? 0) + 1;
      const next = looksMs[taken];
      if (next === undefined) giveUp(sessionId);
      else run`UPDATE file_looks SET looks = ${taken} WHERE session_id = ${sessionId}`;
      return next ?? null;
    },
    /** Ends the looks: no more files can be had from this session. */
    giveUp,
    isDone: (sessionId: string, fileId: string) =>
      has`SELECT 1 FROM files WHERE session_id = ${sessionId} AND id = ${fileId}`,
    markDone: (sessionId: string, fileId: string) =>
      run`INSERT INTO files (session_id, id) VALUES (${sessionId}, ${fileId}) ON CONFLICT DO NOTHING`,
  };
}
