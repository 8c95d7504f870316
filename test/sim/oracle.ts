/**
 * What must hold: after every step (safety), and soon after the faults have stopped (liveness).
 *
 * The database itself watches that no row changes after its end (life.ts), the transport that nothing is acknowledged before
 * it is committed (life.ts), Claude's side that nothing is asked twice (claude.ts). Here: what reaches the phones, and what must
 * never be seen anywhere.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { WorldSession } from "../../src/claude/world.ts";
import { decodeMetadata } from "../../src/core/metadata.ts";
import type { Context, Millis, Outbound } from "../../src/core/model.ts";
import { chatKey } from "../../src/core/model.ts";
import { isEqual } from "../../src/core/synchronizer.ts";
import type { MemorySignal } from "../../src/signal/memory.ts";
import type { Database } from "../../src/store/database.ts";
import { replyMark, type Theirs } from "./claude.ts";
import { apiKey, people, secretWord } from "./config.ts";

export type Oracle = {
  deliver(message: Outbound): void;
  hearLog(line: string): void;
  /** After every step; `db` is null while no process lives. */
  check(db: Database | null): void;
  /** Everything on disk, secrets being what must not be there. */
  searchFiles(home: string): void;
  /** What is not yet as it must be in the end, or null. */
  unfinished(db: Database): string | null;
};

type OracleDeps = {
  readonly signal: MemorySignal;
  readonly theirs: Theirs;
  readonly ownTimestamps: boolean;
  readonly onBroken: (what: string) => void;
  readonly trace: (text: string) => void;
};

type Reply = { readonly session: WorldSession; readonly index: number };

const wholeNumber = /\+\d{7,}/;
const conversation = new RegExp(`ask-\\d|${replyMark.source}`);

export function createOracle(deps: OracleDeps): Oracle {
  const { signal, theirs, onBroken } = deps;
  const deliveries: Outbound[] = [];
  const replies = new Map<string, Reply>();
  const scanned = new Map<WorldSession, number>();
  /** By reply: the row that brought it to the screen. */
  const shown = new Map<string, Millis>();
  const rows = new Set<Millis>();
  const lastIndex = new Map<string, number>();
  let duplicates = 0;

  const scan = (): void => {
    for (const session of theirs.sessions) {
      const from = scanned.get(session) ?? 0;
      for (let index = from; index < session.log.length; index++) {
        const event = session.log[index];
        const mark = event?.type === "reply" ? replyMark.exec(event.text)?.[0] : undefined;
        if (mark !== undefined) replies.set(mark, { session, index });
      }
      scanned.set(session, session.log.length);
    }
  };

  const arrive = (db: Database, { chat, timestamp: row, body }: Outbound): void => {
    const stored = db.get<{ key: string; chat_key: string }>(
      "SELECT key, chat_key FROM outbox WHERE timestamp = ?",
      row,
    );
    if (!stored) return onBroken("a message arrived that is not in the outbox");
    if (stored.chat_key !== chatKey(chat)) onBroken("a message arrived in another chat than its row's");
    deps.trace(`arrived ${body.kind} ${stored.key} in ${stored.chat_key}`);
    if (body.kind === "reaction") return;
    if (rows.has(row)) return body.kind === "edit" || deps.ownTimestamps ? undefined : repeated(db);
    rows.add(row);
    const mark = replyMark.exec(body.text)?.[0];
    if (mark === undefined || !stored.key.startsWith("reply:")) return;
    const reply = replies.get(mark);
    if (!reply) return onBroken(`reply ${mark} arrived that Claude never gave`);
    if (shown.has(mark)) onBroken(`reply ${mark} arrived in two rows`);
    shown.set(mark, row);
    const owner = db.get<{ chat_key: string }>(
      "SELECT chat_key FROM sessions WHERE remote_id = ?",
      reply.session.id,
    )?.chat_key;
    if (owner !== chatKey(chat)) onBroken(`reply ${mark} arrived in ${chatKey(chat)}, not in the chat of its session`);
    if ((lastIndex.get(reply.session.id) ?? -1) >= reply.index) onBroken(`reply ${mark} arrived out of order`);
    lastIndex.set(reply.session.id, reply.index);
  };

  const repeated = (db: Database): void => {
    duplicates++;
    const value = db.get<{ value: string }>("SELECT value FROM settings WHERE key = 'count.uncertain'")?.value;
    if (duplicates > Number(value ?? 0)) onBroken("a row was seen twice that nobody counts as uncertain");
  };

  /** How often each reply stands on a phone now: edits change what was shown before. */
  const onScreen = (): ReadonlyMap<string, number> => {
    const counts = new Map<string, number>();
    for (const { text } of signal.screen()) {
      // A preview whose answer came as a message of its own, since the server refused the preview at last.
      if (text.endsWith(" …")) continue;
      const mark = replyMark.exec(text)?.[0];
      if (mark !== undefined) counts.set(mark, (counts.get(mark) ?? 0) + 1);
    }
    if (deps.ownTimestamps)
      for (const [mark, count] of counts) if (count > 1) onBroken(`reply ${mark} stands ${count} times on the phone`);
    return counts;
  };

  return {
    deliver: (message) => void deliveries.push(message),
    hearLog(line) {
      if (line.includes(secretWord) || line.includes(people.stranger.aci))
        onBroken(`a stranger is in the log: ${line}`);
      if (line.includes(apiKey)) onBroken("the API key is in the log");
      if (wholeNumber.test(line)) onBroken(`a whole number is in the log: ${line}`);
      if (conversation.test(line)) onBroken(`the conversation is in the log: ${line}`);
      if (line.includes("fault in signalman itself")) onBroken(line);
      if (line.includes("constraint failed")) onBroken(`the database refused a statement: ${line}`);
    },
    check(db) {
      if (!db) return;
      const broken = db.get<{ what: string }>("SELECT what FROM broken LIMIT 1");
      if (broken) onBroken(broken.what);
      if (deliveries.length === 0) return;
      scan();
      for (const message of deliveries.splice(0)) arrive(db, message);
    },
    searchFiles(home) {
      for (const suffix of ["", "-wal"]) {
        const bytes = readIfThere(join(home, `signalman.db${suffix}`));
        for (const secret of [secretWord, people.stranger.aci, people.stranger.number, apiKey])
          if (bytes.includes(secret)) onBroken(`${secret} is on the disk`);
      }
    },
    unfinished(db) {
      scan();
      const asked = db.get(
        "SELECT id, chat_key, kind, state, session_id, event_id, attempts FROM inbox WHERE state <> 'done' LIMIT 1",
      );
      if (asked) return `a message waits in the inbox: ${JSON.stringify(asked)}`;
      const unsent = db.get("SELECT id, key, state, attempts FROM outbox WHERE done_at IS NULL LIMIT 1");
      if (unsent) return `a message waits in the outbox: ${JSON.stringify(unsent)}`;
      if (signal.queued().length > 0) return "an envelope was never acknowledged";
      for (const session of theirs.sessions) {
        const missing = isLive(theirs, session) ? unequal(db, session, onScreen()) : null;
        if (missing !== null) return missing;
      }
      return unanswered(db);
    },
  };
}

const readIfThere = (path: string): Buffer => {
  try {
    return readFileSync(path);
  } catch {
    return Buffer.alloc(0);
  }
};

const isLive = (theirs: Theirs, session: WorldSession): boolean =>
  theirs.world.find(session.id) === session && !session.isArchived && session.status !== "terminated";

/** How a session that lives on both sides differs, or null. */
function unequal(db: Database, session: WorldSession, shown: ReadonlyMap<string, number>): string | null {
  const local = db.get<{ id: string; context: string }>(
    "SELECT id, context FROM sessions WHERE remote_id = ? AND state = 'active'",
    session.id,
  );
  if (!local) return null;
  if (session.status === "running") return `${session.id} is at work`;
  for (const event of session.log) {
    if (event.type !== "reply") continue;
    const mark = replyMark.exec(event.text)?.[0];
    if (mark === undefined || shown.has(mark)) continue;
    const key = `reply:${local.id}:${event.id}:0`;
    const state = db.get<{ state: string }>("SELECT state FROM outbox WHERE key = ?", key)?.state;
    if (state !== "failed") return `reply ${mark} of ${session.id} is missing on the phone (row: ${state ?? "none"})`;
  }
  const here = JSON.parse(local.context) as Context;
  const there = decodeMetadata(session.metadata).context;
  if (!isEqual(here, there))
    return `${session.id} differs: ${JSON.stringify(here)} here, ${JSON.stringify(there)} there`;
  if (here["title"] !== session.title) return `${session.id} is called ${session.title} there`;
  return null;
}

/** Who was answered has something to read: a reply that came after the prompt, or a word of ours. */
function unanswered(db: Database): string | null {
  const row = db.get<{ id: number; session_id: string; event_id: string }>(
    `SELECT id, session_id, event_id FROM inbox WHERE kind = 'prompt' AND outcome = 'answered'
     AND NOT EXISTS (SELECT 1 FROM outbox WHERE key = 'end:' || inbox.id)
     AND NOT EXISTS (SELECT 1 FROM events AS reply JOIN events AS prompt ON prompt.session_id = reply.session_id
       WHERE prompt.session_id = inbox.session_id AND prompt.id = inbox.event_id AND reply.type = 'reply'
       AND (reply.at > prompt.at OR (reply.at = prompt.at AND reply.seq > prompt.seq)))
     LIMIT 1`,
  );
  return row ? `${JSON.stringify(row)} counts as answered, and nothing was said` : null;
}
