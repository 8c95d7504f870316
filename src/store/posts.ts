/**
 * The durable queue to Claude, as the outbox is the one to Signal.
 *
 *   add ─▶ queued ─▶ posting ─▶ posted ◀─▶ waiting (for a person) ─▶ done
 *             ▲         │ the answer was never seen: looked up in the log before anything is posted again
 *             └─────────┘
 *
 * `request` is written when it is built, before it goes out: a file is fetched and a voice note written down once. It is removed with
 * the end of the post.
 */
import type { Request } from "../claude/line.ts";
import type { Post } from "../core/changes.ts";
import type { Millis } from "../core/model.ts";
import type { Database } from "./database.ts";
import { statements, table } from "./statements.ts";

export type PostRow = Post & {
  readonly id: number;
  readonly kind: Request["kind"];
  readonly subject: string;
  /** Null before it was built. */
  readonly request: Request | null;
  /** The server's time when it went out. */
  readonly postedAt: Millis | null;
  readonly eventId: string | null;
};

const fields = ["id", "sessionId", "kind", "subject", "request", "state", "postedAt", "eventId", "tries"] as const;

const toInboxId = (row: PostRow | null): number | null => row && Number(row.subject);

export type Posts = ReturnType<typeof createPosts>;

/** `onAsked`: a question goes to Claude, or was answered; part of the caller's transaction. */
export function createPosts(db: Database, onAsked: () => void) {
  const { run } = statements(db);
  const underWay = new Map<string, readonly number[]>();
  /** Prompts that the transaction at work found in the log, with their entries: written at its end, as most of them end in it, too. */
  const found = new Map<string, string | null>();
  db.onRollback(() => found.clear());
  const writeFound = (): void => {
    for (const [subject, eventId] of found)
      run`UPDATE posts SET state = 'posted', event_id = ${eventId} WHERE kind = 'prompt' AND subject = ${subject} AND state <> 'done'`;
    found.clear();
  };
  const write: typeof run = (...tag) => {
    writeFound();
    return run(...tag);
  };
  const reads = createReads(db, underWay, found);
  return {
    ...reads,
    /** Adds a post; does nothing where the same request was made before, but an answer that was refused makes room for another. */
    add: (sessionId: string, kind: Request["kind"], subject: string, request: Request | null, now: Millis) =>
      write`INSERT INTO posts (session_id, kind, subject, request, state, created_at)
        VALUES (${sessionId}, ${kind}, ${subject}, ${request && JSON.stringify(request)}, 'queued', ${now})
        ON CONFLICT (kind, subject) DO UPDATE SET state = 'queued', request = excluded.request
        WHERE kind IN ('confirm', 'result') AND state = 'done' AND posted_at IS NULL`,
    /** The post goes out: from here on its fate may be unknown. */
    markPosting(id: number, postedAt: Millis, request: Request | null): void {
      write`UPDATE posts SET state = 'posting', posted_at = ${postedAt}, request = coalesce(${request && JSON.stringify(request)}, request)
        WHERE id = ${id} AND state <> 'done'`;
      onAsked();
    },
    /**
     * The posts go out, kept in memory until the next `begin`, or `end`: for a line that cannot look anything up after a crash, so that
     * `markPosting` would be of no use. The rows are read as `posting` meanwhile.
     */
    begin: (sessionId: string, ids: readonly number[]): void => void underWay.set(sessionId, ids),
    end: (sessionId: string): void => void underWay.delete(sessionId),
    /** The post is in the log, which ends any post but a prompt. Returns the row; null where it is over already. */
    markPosted(id: number, eventId: string | null): PostRow | null {
      const row = reads.openOne(id);
      if (row?.kind === "prompt") {
        found.set(row.subject, eventId);
        db.beforeCommit(writeFound);
      } else if (row !== null)
        write`UPDATE posts SET state = 'done', event_id = ${eventId}, posted_at = coalesce(posted_at, 0), request = NULL WHERE id = ${id}`;
      onAsked();
      return row;
    },
    setWaiting: (inboxId: number, isWaiting: boolean) =>
      write`UPDATE posts SET state = ${isWaiting ? "waiting" : "posted"} WHERE kind = 'prompt' AND subject = ${String(inboxId)}
        AND state IN ('posted', 'waiting')`,
    /** The prompt goes on in this session; one that is lost is queued anew. */
    again: (inboxId: number, sessionId: string, isLost: boolean, tries: Post["tries"]) =>
      write`UPDATE posts SET session_id = ${sessionId}, state = iif(${isLost ? 1 : 0}, 'queued', state),
        event_id = iif(${isLost ? 1 : 0}, NULL, event_id), tries = ${JSON.stringify(tries)}
        WHERE kind = 'prompt' AND subject = ${String(inboxId)} AND state <> 'done'`,
    /** The post surely did not arrive. */
    markQueued: (id: number) =>
      write`UPDATE posts SET state = 'queued', event_id = NULL WHERE id = ${id} AND state <> 'done'`,
    setTries: (id: number, tries: Post["tries"]) =>
      write`UPDATE posts SET tries = ${JSON.stringify(tries)} WHERE id = ${id}`,
    finish: (id: number) =>
      write`UPDATE posts SET state = 'done', request = NULL, posted_at = iif(kind = 'prompt', posted_at, coalesce(posted_at, 0)) WHERE id = ${id}`,
    /** Ends the post as if it had never gone out (without `posted_at`), so that the tool use is unanswered. The tries are kept. */
    reopen: (id: number, tries: Post["tries"]) =>
      write`UPDATE posts SET state = 'done', request = NULL, posted_at = NULL, tries = ${JSON.stringify(tries)} WHERE id = ${id}`,
    finishPrompt(inboxId: number): void {
      const subject = String(inboxId);
      const eventId = found.get(subject) ?? null;
      found.delete(subject);
      write`UPDATE posts SET state = 'done', request = NULL, event_id = coalesce(${eventId}, event_id) WHERE kind = 'prompt' AND subject = ${subject}`;
    },
  };
}

/** `underWay`: posts that go out, by session; `found`: prompts that are in the log, with their entries. Both are not written yet. */
function createReads(
  db: Database,
  underWay: ReadonlyMap<string, readonly number[]>,
  found: ReadonlyMap<string, string | null>,
) {
  const { values, has, ...rows } = table<PostRow>(db, "posts", fields, { json: ["request", "tries"] });
  const standing = (row: PostRow): PostRow => {
    const eventId = row.kind === "prompt" ? found.get(row.subject) : undefined;
    if (eventId !== undefined) return { ...row, state: "posted", eventId };
    return row.state === "queued" && underWay.get(row.sessionId)?.includes(row.id) ? { ...row, state: "posting" } : row;
  };
  const one = (...where: Parameters<typeof rows.one>): PostRow | null => {
    const row = rows.one(...where);
    return row && standing(row);
  };
  const many = (...where: Parameters<typeof rows.many>): PostRow[] => rows.many(...where).map(standing);
  /** Posts of a session that are to go out, or went out and are not over. */
  const open = (sessionId: string) => many`WHERE session_id = ${sessionId} AND state <> 'done' ORDER BY id`;
  const openIn = (sessionId: string | undefined) => (sessionId === undefined ? [] : open(sessionId));
  /** The post; null where it is over. */
  const openOne = (id: number): PostRow | null => {
    const row = one`WHERE id = ${id}`;
    return (row?.state as string | undefined) === "done" ? null : row;
  };
  return {
    get: (id: number) => one`WHERE id = ${id}`,
    /** The row of the inbox that was asked last in a session, or is being asked; null where nothing of ours was. */
    lastAsked: (sessionId: string): number | null =>
      toInboxId(one`WHERE session_id = ${sessionId} AND kind = 'prompt' AND (posted_at IS NOT NULL OR event_id IS NOT NULL
        OR id IN (SELECT value FROM json_each(${JSON.stringify(underWay.get(sessionId) ?? [])}))) ORDER BY id DESC LIMIT 1`),
    /** The post of a prompt, which mostly is among the open ones of this session. */
    ofPrompt: (inboxId: number, sessionId?: string) =>
      openIn(sessionId).find(({ kind, subject }) => kind === "prompt" && subject === String(inboxId)) ??
      one`WHERE kind = 'prompt' AND subject = ${String(inboxId)} AND state <> 'done'`,
    /** The posts of all open prompts of a chat, however many wait, in one look. */
    ofChat: (chat: string) =>
      many`WHERE kind = 'prompt' AND state <> 'done'
        AND subject IN (SELECT CAST(id AS TEXT) FROM inbox WHERE chat_key = ${chat} AND state = 'open')`,
    open,
    /** Sessions with anything to post or to follow, those that have waited longest first. */
    dueSessions: () =>
      values<string>`SELECT session_id FROM posts WHERE state <> 'done' AND state <> 'waiting'
        GROUP BY session_id ORDER BY min(id)`,
    /** Whether any turn waits for a person. */
    isWaiting: () => has`SELECT 1 FROM posts WHERE state <> 'done' AND state = 'waiting' LIMIT 1`,
    openOne,
    /** Whether a post, which mostly is one of this session, is not over. */
    isOpen: (id: number, sessionId?: string): boolean =>
      openIn(sessionId).some((row) => row.id === id) || openOne(id) !== null,
    isConfirmed: (subject: string) =>
      has`SELECT 1 FROM posts WHERE kind IN ('confirm', 'result') AND subject = ${subject}
        AND (state <> 'done' OR posted_at IS NOT NULL)`,
    /** Entries of the log that belong to a post: an uncertain prompt may not take them for its own. */
    mappedEventIds: (sessionId: string) =>
      values<string>`SELECT event_id FROM posts WHERE session_id = ${sessionId} AND event_id IS NOT NULL`,
  };
}
