/**
 * Files that Claude makes: which sessions are to be looked through for some, and which files have been dealt with.
 *
 *   a tool was used ─▶ due ─▶ looked ─▶ due again, a little later ─▶ … ─▶ nothing due until a tool is used again
 */
import type { Millis, SessionEvent } from "../core/model.ts";
import { statements, type Database } from "./database.ts";

/** A file is listed some seconds after the turn that made it: so long after that it is looked for, and again. */
const looksMs: readonly Millis[] = [1_500, 5_000, 20_000];

export type Files = ReturnType<typeof createFiles>;

export function createFiles(db: Database) {
  const { run, get, all } = statements(db);
  const giveUp = (sessionId: string) => run`DELETE FROM file_looks WHERE session_id = ${sessionId}`;
  return {
    /** Takes notice of new entries of a session's log; part of the caller's transaction. */
    note(sessionId: string, added: readonly SessionEvent[], now: Millis): void {
      const first = now + (looksMs[0] ?? 0);
      if (added.some(({ type }) => type === "tool_result"))
        run`INSERT INTO file_looks (session_id, due_at, looks) VALUES (${sessionId}, ${first}, 0)
          ON CONFLICT (session_id) DO UPDATE SET due_at = excluded.due_at, looks = 0`;
      else if (added.some(({ type }) => type === "idle"))
        run`UPDATE file_looks SET due_at = ${first}, looks = 0 WHERE session_id = ${sessionId}`;
    },
    /** Sessions to be looked through, the first one first. */
    due: () =>
      all<{ sessionId: string }>`SELECT session_id AS sessionId FROM file_looks ORDER BY due_at`.map(
        ({ sessionId }) => sessionId,
      ),
    /** When a session is to be looked through. */
    next: (sessionId: string) =>
      get<{ notBefore: Millis }>`SELECT due_at AS notBefore FROM file_looks WHERE session_id = ${sessionId}` ?? null,
    /** A whole look was taken. */
    markLooked(sessionId: string, now: Millis): void {
      const row = get<{ looks: number }>`SELECT looks FROM file_looks WHERE session_id = ${sessionId}`;
      const next = looksMs[(row?.looks ?? 0) + 1];
      if (next === undefined) giveUp(sessionId);
      else run`UPDATE file_looks SET due_at = ${now + next}, looks = looks + 1 WHERE session_id = ${sessionId}`;
    },
    postpone: (sessionId: string, until: Millis) =>
      run`UPDATE file_looks SET due_at = ${until} WHERE session_id = ${sessionId}`,
    /** Nothing is to be had from this session any more. */
    giveUp,
    /** No look waits beyond `latest`. */
    hasten: (latest: Millis) => run`UPDATE file_looks SET due_at = ${latest} WHERE due_at > ${latest}`,
    isDone: (sessionId: string, fileId: string): boolean =>
      get`SELECT 1 FROM files WHERE session_id = ${sessionId} AND id = ${fileId}` !== undefined,
    markDone: (sessionId: string, fileId: string) =>
      run`INSERT INTO files (session_id, id) VALUES (${sessionId}, ${fileId}) ON CONFLICT DO NOTHING`,
  };
}
