/** Conversations with Claude. One active session per chat; ended ones stay readable. Their event logs: `event-log.ts`. */
import type { Chat, Context, Millis, Session, Stamps } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { Database } from "./database.ts";
import { statements, table } from "./statements.ts";

const fields = [
  ...(["id", "chatKey", "chat", "backend", "remoteId", "state", "project", "context", "stamps", "cursor"] as const),
  ...(["remoteUpdatedAt", "isStale", "createdAt", "usedAt", "syncedAt"] as const),
];

export type Sessions = ReturnType<typeof createSessions>;

export function createSessions(db: Database) {
  const { run } = statements(db);
  const reads = createReads(db);
  const need = (id: string): Session => {
    const session = reads.get(id);
    if (!session) throw new Error(`No session ${id} in the database`);
    return session;
  };
  return {
    ...reads,
    create(
      id: string,
      chat: Chat,
      backend: string,
      context: Context,
      stamps: Stamps,
      now: Millis,
      project: string | null = null,
    ): Session {
      run`INSERT INTO sessions (id, chat_key, chat, backend, state, project, context, stamps, created_at, used_at)
        VALUES (${id}, ${chatKey(chat)}, ${JSON.stringify(chat)}, ${backend}, 'active', ${project}, ${JSON.stringify(context)},
          ${JSON.stringify(stamps)}, ${now}, ${now})`;
      return need(id);
    },
    /** The newest conversation of a chat that works on this project, or on none. */
    lastOfProject: (chat: string, project: string | null) =>
      reads.ofChat(chat, projectLookMax).find((session) => session.project === project) ?? null,
    setRemote: (id: string, remoteId: string) => run`UPDATE sessions SET remote_id = ${remoteId} WHERE id = ${id}`,
    setContext: (id: string, context: Context, stamps: Stamps) =>
      run`UPDATE sessions SET context = ${JSON.stringify(context)}, stamps = ${JSON.stringify(stamps)} WHERE id = ${id}`,
    setSynced: (id: string, remoteUpdatedAt: string | null, now: Millis) =>
      run`UPDATE sessions SET remote_updated_at = ${remoteUpdatedAt}, synced_at = ${now}, is_stale = 0 WHERE id = ${id}`,
    setStale: (id: string) => run`UPDATE sessions SET is_stale = 1 WHERE id = ${id}`,
    end: (id: string) => run`UPDATE sessions SET state = 'ended', is_stale = 0 WHERE id = ${id}`,
    /** Makes an ended session the active one of its chat again, ending the one that was. */
    resume: (id: string) =>
      db.transaction(() => {
        run`UPDATE sessions SET state = 'ended' WHERE chat_key = ${need(id).chatKey} AND state = 'active'`;
        run`UPDATE sessions SET state = 'active' WHERE id = ${id}`;
      }),
  };
}

function createReads(db: Database) {
  const { one, many, get } = table<Session>(db, "sessions", fields, {
    json: ["chat", "context", "stamps"],
    flags: ["isStale"],
  });
  const byId = (id: string) => one`WHERE id = ${id}`;
  return {
    get: byId,
    active: (chat: string) => one`WHERE chat_key = ${chat} AND state = 'active'`,
    /** The session by our id or the remote one. */
    find: (id: string) => byId(id) ?? one`WHERE remote_id = ${id}`,
    /** Sessions of all chats, newest first, at most `max`. */
    list: (max: number) => many`ORDER BY used_at DESC LIMIT ${max}`,
    ofChat: (chat: string, max: number) => many`WHERE chat_key = ${chat} ORDER BY used_at DESC LIMIT ${max}`,
    /**
     * Sessions to read in a sync: all that are stale, have an open prompt, or were used since `recentSince`; and of the rest
     * the `sweepMax` that were not read for longest.
     */
    toSync: (recentSince: Millis, sweepMax: number) =>
      many`WHERE state = 'active' AND remote_id IS NOT NULL AND id IN (
           SELECT id FROM sessions WHERE state = 'active' AND is_stale = 1
           UNION SELECT session_id FROM posts WHERE state <> 'done'
           UNION SELECT id FROM sessions WHERE state = 'active' AND used_at >= ${recentSince}
           UNION SELECT id FROM (SELECT id FROM sessions WHERE state = 'active' ORDER BY synced_at LIMIT ${sweepMax})
         )`,
    counts: (recentSince: Millis) =>
      get<{ total: number; active: number; stale: number }>`
        SELECT count(*) AS total, coalesce(sum(used_at >= ${recentSince}), 0) AS active, coalesce(sum(is_stale), 0) AS stale
        FROM sessions WHERE state = 'active'` ?? { total: 0, active: 0, stale: 0 },
  };
}

/** Conversations that are looked through for the one to go back to. */
const projectLookMax = 100;
