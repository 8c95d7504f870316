/**
 * What must hold: after every step (safety), and soon after the faults have stopped (liveness).
 *
 * The database itself watches that no row changes after its end (life.ts), the transport that nothing is acknowledged before
 * it is committed (life.ts), Claude's side that nothing is asked twice, too late, in the wrong session or out of order
 * (claude.ts). Here: what reaches the phones, what a sync must bring, what must never be seen anywhere, and at the end the
 * books: everything that was written, answered and set has become what it had to become.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../../src/clock.ts";
import type { WorldSession } from "../doubles/world.ts";
import { decodeMetadata } from "../../src/core/metadata.ts";
import type { Context, Envelope, JsonValue, Millis, Outbound, SessionEvent } from "../../src/core/model.ts";
import { chatKey } from "../../src/core/model.ts";
import { isEqual } from "../../src/core/synchronizer.ts";
import type { MemorySignal } from "../doubles/memory.ts";
import type { Database } from "../../src/store/database.ts";
import { replyMark, type Theirs } from "./claude.ts";
import { apiKey, people as addresses, secretWord } from "./config.ts";
import type { TransportWatch } from "./life.ts";
import type { People } from "./people.ts";

export type Oracle = {
  readonly watch: Pick<TransportWatch, "onDelivered" | "onSend" | "onRefused" | "onShown">;
  /** A person says to try now, or another process begins: no server's wish holds any more. */
  unhush(): void;
  hearLog(line: string): void;
  /** After every step; `db` is null while no process lives; `isDirty`: it was written to. */
  check(db: Database | null, isDirty: boolean): void;
  /** A sync has begun, and has read `checked` sessions without a fault, before the line counts as connected. */
  syncing(db: Database | null): void;
  synced(db: Database | null, checked: number): void;
  /** Everything on disk, secrets being what must not be there. */
  searchFiles(home: string): void;
  /** What is not yet as it must be in the end, or null. */
  unfinished(db: Database): string | null;
};

export type OracleDeps = {
  readonly signal: MemorySignal;
  readonly theirs: Theirs;
  readonly people: People;
  readonly base: Clock;
  readonly ownTimestamps: boolean;
  readonly onBroken: (what: string) => void;
  readonly trace: (text: string) => void;
};

type Reply = { readonly session: WorldSession; readonly index: number };

const wholeNumber = /\+\d{7,}/;
const conversation = new RegExp(`ask-\\d|${replyMark.source}`);

export function createOracle(deps: OracleDeps): Oracle {
  const { signal, theirs, people, onBroken } = deps;
  const arrivals = createArrivals(deps);
  const changes = createChanges(theirs);
  let hushed = { since: 0, until: 0 };
  let atStart: { readonly session: WorldSession; readonly localId: string; readonly length: number }[] = [];
  const checkPlace = (key: string, what: string): void => {
    if (!people.isPlace(key)) onBroken(`${what} in ${key}, where nobody is let in`);
  };
  return {
    watch: {
      onDelivered(message) {
        checkPlace(chatKey(message.chat), "something was said");
        arrivals.deliver(message);
      },
      onSend() {
        const ms = hushed.until - deps.base.monotonic();
        // In the moment of the refusal others may be on their way.
        if (ms > 0 && deps.base.monotonic() > hushed.since)
          onBroken(`something was sent ${ms} ms before the server wanted it`);
      },
      onRefused({ timestamp }, { code, retry, retryAfterMs }) {
        if (retry === "never") arrivals.refused.add(timestamp);
        const since = deps.base.monotonic();
        if (code === "signal_rate_limited") hushed = { since, until: since + (retryAfterMs ?? 0) };
      },
      onShown: (chat) => checkPlace(chatKey(chat), "reading or writing was shown"),
    },
    unhush: () => void (hushed = { since: 0, until: 0 }),
    hearLog(line) {
      if (line.includes(secretWord) || line.includes(addresses.stranger.aci))
        onBroken(`a stranger is in the log: ${line}`);
      if (line.includes(apiKey)) onBroken("the API key is in the log");
      if (wholeNumber.test(line)) onBroken(`a whole number is in the log: ${line}`);
      if (conversation.test(line)) onBroken(`the conversation is in the log: ${line}`);
      if (line.includes("fault in signalman itself")) onBroken(line);
      if (line.includes("constraint failed")) onBroken(`the database refused a statement: ${line}`);
    },
    check(db, isDirty) {
      if (!db) return;
      const broken = isDirty && db.get<{ what: string }>("SELECT what FROM broken LIMIT 1");
      if (broken) onBroken(broken.what);
      changes.look(isDirty ? db : null);
      arrivals.check(db);
    },
    syncing(db) {
      const locals = db?.all<{ id: string; remote: string }>(
        "SELECT id, remote_id AS remote FROM sessions WHERE state = 'active' AND remote_id IS NOT NULL",
      );
      atStart = (locals ?? []).flatMap(({ id, remote }) => {
        const session = theirs.world.find(remote);
        return session && isLive(theirs, session) ? [{ session, localId: id, length: session.log.length }] : [];
      });
    },
    synced(db, checked) {
      if (!db || checked < atStart.length) return;
      for (const { session, localId, length } of atStart) {
        if (!db.get("SELECT 1 FROM sessions WHERE id = ? AND state = 'active'", localId)) continue;
        const isMissing = session.log
          .slice(0, length)
          .find(
            (event) =>
              event.type === "reply" &&
              !db.get(
                "SELECT 1 FROM outbox WHERE why = 'reply' AND session_id = ? AND subject = ?",
                localId,
                event.id,
              ) &&
              !db.get("SELECT 1 FROM events WHERE session_id = ? AND id = ?", localId, event.id),
          );
        if (isMissing)
          onBroken(`the sync of ${session.id} ended without ${isMissing.id}, which was there before it began`);
      }
    },
    searchFiles(home) {
      for (const suffix of ["", "-wal"]) {
        const bytes = readIfThere(join(home, `signalman.db${suffix}`));
        for (const secret of [secretWord, addresses.stranger.aci, addresses.stranger.number, apiKey])
          if (bytes.includes(secret)) onBroken(`${secret} is on the disk`);
      }
    },
    unfinished(db) {
      const asked = db.get("SELECT id, chat_key, kind, state FROM inbox WHERE state <> 'done' LIMIT 1");
      if (asked) return `a message waits in the inbox: ${JSON.stringify(asked)}`;
      const post = db.get("SELECT id, kind, subject, state, tries FROM posts WHERE state <> 'done' LIMIT 1");
      if (post) return `a post is not over: ${JSON.stringify(post)}`;
      const unsent = db.get("SELECT id, why, subject, state, attempts FROM outbox WHERE done_at IS NULL LIMIT 1");
      if (unsent) return `a message waits in the outbox: ${JSON.stringify(unsent)}`;
      if (signal.queued().length > 0) return "an envelope was never acknowledged";
      const shown = arrivals.onScreen();
      for (const session of theirs.sessions) {
        const missing = isLive(theirs, session) ? unequal(db, session, shown, changes) : null;
        if (missing !== null) return missing;
      }
      return unanswered(db) ?? unseen(db, shown) ?? unwritten(deps, db) ?? arrivals.unsaid(db);
    },
  };
}

/** What reaches the phones: each row as itself, in the order of the rows, in the chat of its session. */
function createArrivals({ signal, theirs, people, ownTimestamps, onBroken, trace }: OracleDeps) {
  const pending: Outbound[] = [];
  const replies = new Map<string, Reply>();
  const scanned = new Map<WorldSession, number>();
  /** By reply: the row that brought it to the screen. */
  const shown = new Set<string>();
  /** How often each row was through. */
  const times = new Map<Millis, number>();
  const refused = new Set<Millis>();
  const lastIndex = new Map<string, number>();
  const lastRow = new Map<string, Millis>();
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
    const stored = db.get<{ id: number; key: string; why: string; chat_key: string }>(
      "SELECT id, why || ':' || subject || ':' || part AS key, why, chat_key FROM outbox WHERE timestamp = ?",
      row,
    );
    // It is said past the outbox where not even that can be written.
    const isDamage = body.kind === "text" && body.text.startsWith("The database of signalman is damaged");
    if (!stored) return isDamage ? undefined : onBroken("a message arrived that is not in the outbox");
    const key = chatKey(chat);
    if (stored.chat_key !== key) onBroken("a message arrived in another chat than its row's");
    trace(`arrived ${body.kind} ${stored.key} in ${stored.chat_key}`);
    const count = (times.get(row) ?? 0) + 1;
    times.set(row, count);
    if (count > 1) return body.kind === "text" && !ownTimestamps ? repeated(db) : undefined;
    // Not by timestamp: a clock that was far ahead is left behind. Marks go out beside the messages.
    const queue = body.kind === "reaction" ? `marks ${key}` : key;
    if (stored.id < (lastRow.get(queue) ?? 0)) onBroken(`${stored.key} arrived after a later row of its chat`);
    lastRow.set(queue, stored.id);
    const mark = body.kind === "reaction" ? undefined : replyMark.exec(body.text)?.[0];
    if (mark === undefined) return;
    const reply = replies.get(mark);
    // A preview may be of a reply that is not given yet.
    if (stored.why !== "reply" && stored.why !== "partial") return;
    if (shown.has(mark)) onBroken(`reply ${mark} arrived in two rows`);
    shown.add(mark);
    const answered = theirs.answers.get(mark);
    if (answered !== undefined && !people.chatsOf(answered).includes(key))
      onBroken(`reply ${mark} arrived in ${key}, not in the chat of ${answered}`);
    if (answered !== undefined) return;
    if (!reply) return onBroken(`reply ${mark} arrived that Claude never gave`);
    const owner = db.get<{ chat_key: string }>(
      "SELECT chat_key FROM sessions WHERE remote_id = ?",
      reply.session.id,
    )?.chat_key;
    if (owner !== key) onBroken(`reply ${mark} arrived in ${key}, not in the chat of its session`);
    if ((lastIndex.get(reply.session.id) ?? -1) >= reply.index) onBroken(`reply ${mark} arrived out of order`);
    lastIndex.set(reply.session.id, reply.index);
  };

  const repeated = (db: Database): void => {
    duplicates++;
    const value = db.get<{ value: number }>("SELECT value FROM counters WHERE name = 'uncertain'")?.value;
    if (duplicates > (value ?? 0)) onBroken("a row was seen twice that nobody counts as uncertain");
  };

  return {
    refused,
    deliver: (message: Outbound) => void pending.push(message),
    check(db: Database): void {
      if (pending.length === 0) return;
      scan();
      for (const message of pending.splice(0)) arrive(db, message);
    },
    /** What stands on the phones now, by the reply in it: edits change what was shown before. */
    onScreen(): Shown {
      const texts = new Map<string, string[]>();
      for (const { text } of signal.screen()) {
        const mark = text.endsWith(draftEnd) ? undefined : replyMark.exec(text)?.[0];
        if (mark !== undefined) texts.set(mark, [...(texts.get(mark) ?? []), text]);
      }
      if (ownTimestamps)
        for (const [mark, copies] of texts)
          if (copies.length > 1) onBroken(`reply ${mark} stands ${copies.length} times on the phone`);
      return texts;
    },
    /** The outbox says what was true: what counts as sent was through, what counts as failed was refused, no preview is left over. */
    unsaid(db: Database): string | null {
      const done = db.all<{
        key: string;
        why: string;
        timestamp: number;
        state: string;
        fault: string | null;
        isUncertain: number;
        target: number | null;
      }>(
        `SELECT why || ':' || subject || ':' || part AS key, why, timestamp, state, fault, is_uncertain AS isUncertain,
           json_extract(body, '$.targetSentAt') AS target
         FROM outbox WHERE why <> 'mark'`,
      );
      let leftovers = 0;
      for (const { key, why, timestamp, state, fault, isUncertain, target } of done) {
        const isAnswer = why !== "draft";
        const isDraft = why === "draft" || why === "below";
        const count = times.get(timestamp) ?? 0;
        if (state === "sent" && count === 0) onBroken(`${key} counts as sent, and never arrived`);
        if (state === "failed" && !isDraft && !refused.has(timestamp))
          onBroken(`${key} was given up although nobody refused it`);
        // A preview stays as it was where it is not known to be there, or which version is, or where its last edit was refused or
        // may be there: its copy is a message of its own.
        if (isDraft && target === null) leftovers += count - (state === "sent" ? 1 : 0);
        if (target !== null && (isAnswer ? state === "failed" || isUncertain === 1 : fault === "send_uncertain"))
          leftovers++;
      }
      const previews = signal.screen().filter(({ text }) => text.endsWith(draftEnd)).length;
      if (previews > leftovers) return `${previews} previews are left on the phones, where ${leftovers} may be`;
      return null;
    },
  };
}

/** Texts on the phones, by the reply in them. */
type Shown = ReadonlyMap<string, readonly string[]>;

const draftEnd = " …";

type Change = { readonly stamp: string; readonly value: JsonValue | undefined };
type Changes = { look(db: Database | null): void; lost(remoteId: string, context: Context): string | null };

/** The newest change of each setting that either side ever had: it must be what both have in the end. */
function createChanges(theirs: Theirs): Changes {
  const newest = new Map<string, Map<string, Change>>();
  const seen = new Map<WorldSession, WorldSession["metadata"]>();
  const note = (remoteId: string, context: Context, stamps: { readonly [key: string]: string }): void => {
    const known = newest.get(remoteId) ?? new Map<string, Change>();
    newest.set(remoteId, known);
    for (const [key, stamp] of Object.entries(stamps))
      if (stamp > (known.get(key)?.stamp ?? "")) known.set(key, { stamp, value: context[key] });
  };
  return {
    look(db) {
      for (const session of theirs.sessions) {
        if (seen.get(session) === session.metadata) continue;
        seen.set(session, session.metadata);
        const { context, stamps } = decodeMetadata(session.metadata);
        note(session.id, context, stamps);
      }
      const locals = db?.all<{ id: string; context: string; stamps: string }>(
        "SELECT id, context, stamps FROM changes",
      );
      if (locals?.length) db?.exec("DELETE FROM changes");
      for (const { id, context, stamps } of locals ?? [])
        note(id, JSON.parse(context) as Context, JSON.parse(stamps) as { readonly [key: string]: string });
    },
    lost(remoteId, context) {
      for (const [key, { value, stamp }] of newest.get(remoteId) ?? [])
        if (!isEqual(context[key] ?? null, value ?? null))
          return `the change of ${key} at ${stamp} was lost: it is ${JSON.stringify(context[key])}, not ${JSON.stringify(value)}`;
      return null;
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
function unequal(db: Database, session: WorldSession, shown: Shown, changes: Changes): string | null {
  const local = db.get<{ id: string; context: string }>(
    "SELECT id, context FROM sessions WHERE remote_id = ? AND state = 'active'",
    session.id,
  );
  if (!local) return null;
  if (session.status === "running") return `${session.id} is at work`;
  const missing = session.log.find((event) => isMissing(db, local.id, event, shown));
  if (missing) return `${missing.id} of ${session.id} is missing on the phone`;
  const here = JSON.parse(local.context) as Context;
  const there = decodeMetadata(session.metadata).context;
  if (!isEqual(here, there))
    return `${session.id} differs: ${JSON.stringify(here)} here, ${JSON.stringify(there)} there`;
  if (here["title"] !== session.title) return `${session.id} is called ${session.title} there`;
  return changes.lost(session.id, here);
}

/** It is no message on the phone, word for word, and nobody refused it for good. */
function isMissing(db: Database, localId: string, event: SessionEvent, shown: Shown): boolean {
  const mark = event.type === "reply" ? replyMark.exec(event.text)?.[0] : undefined;
  if (event.type !== "reply" || mark === undefined) return false;
  const texts = shown.get(mark) ?? [];
  if (texts.includes(event.text) || (event.text.length > wholeMax && texts.length > 0)) return false;
  return (
    db.get(
      "SELECT 1 FROM outbox WHERE why = 'reply' AND session_id = ? AND subject = ? AND part = 0 AND state = 'failed'",
      localId,
      event.id,
    ) === undefined
  );
}

/** Every reply of the log here is on the phone, also those of conversations that are over. */
function unseen(db: Database, shown: Shown): string | null {
  const rows = db.all<{ id: string; session: string; body: string }>(
    "SELECT id, session_id AS session, body FROM events WHERE type = 'reply'",
  );
  const missing = rows.find(({ session, body }) => isMissing(db, session, JSON.parse(body) as SessionEvent, shown));
  return missing ? `${missing.id} of ${missing.session} is in the log, and not on the phone` : null;
}

/** A reply of so many characters is one message, word for word. */
const wholeMax = 200;

/** Who was answered has something to read: a reply that came after the prompt, or a word of ours. */
function unanswered(db: Database): string | null {
  const row = db.get<{ id: number; session_id: string; event_id: string }>(
    `SELECT inbox.id, session_id, event_id FROM inbox JOIN posts ON posts.kind = 'prompt' AND posts.subject = CAST(inbox.id AS TEXT)
     WHERE inbox.kind = 'prompt' AND outcome = 'answered'
     AND NOT EXISTS (SELECT 1 FROM outbox WHERE why = 'end' AND subject = CAST(inbox.id AS TEXT))
     AND NOT EXISTS (SELECT 1 FROM events AS reply JOIN events AS prompt ON prompt.session_id = reply.session_id
       WHERE prompt.session_id = posts.session_id AND prompt.id = posts.event_id AND reply.type = 'reply'
       AND (reply.at > prompt.at OR (reply.at = prompt.at AND reply.seq > prompt.seq)))
     LIMIT 1`,
  );
  return row ? `${JSON.stringify(row)} counts as answered, and nothing was said` : null;
}

/** Identity is account, sender, device, time and kind: every message is in the inbox, and once. */
function unwritten({ people, base }: OracleDeps, db: Database): string | null {
  const rows = db.all<{ envelope: string }>("SELECT envelope FROM inbox WHERE kind <> 'command'");
  const count = (envelopes: readonly Envelope[]): Map<string, number> => {
    const counts = new Map<string, number>();
    for (const { source, sourceDevice, sentAt, content } of envelopes) {
      const name = [source?.aci, sourceDevice, sentAt, content.kind].join(" ");
      counts.set(name, (counts.get(name) ?? 0) + 1);
    }
    return counts;
  };
  const there = count(rows.map(({ envelope }) => JSON.parse(envelope) as Envelope));
  const isKept = ({ sentAt }: Envelope): boolean => sentAt > base.now() - keptMs;
  for (const name of count(people.prompts().filter(isKept)).keys())
    if (there.get(name) !== 1) return `a message is in the inbox ${there.get(name) ?? 0} times: ${name}`;
  return null;
}

/** Less than what is done is kept, however wrong the clock is. */
const keptMs: Millis = 25 * 86_400_000;
