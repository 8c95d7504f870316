/**
 * From deliveries to a batch that the caller can commit.
 *
 *   seen? ─▶ attempt counted ─▶ receive.ts ─▶ kept in the overlay: seen, quarantined, …
 *     └▶ acknowledge
 *
 * An attempt is counted in a transaction of its own *before* libsignal sees the bytes, so that a message that kills the
 * process is given up in the end. What comes for a second time goes alone, lest its neighbours are counted with it.
 * **Source:** SIGNAL-NATIVE 4.10.
 */
import { createHash } from "node:crypto";
import type { Envelope } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { type Bytes, owned } from "./bytes.ts";
import type { Incoming } from "./connect.ts";
import type { GroupClaim } from "./membership.ts";
import type { Job } from "./news.ts";
import { nothing, openEnvelope, type Outcome, type ReceiveDeps } from "./receive.ts";
import type { Overlay } from "./store.ts";

/** One transaction's worth. */
const batchLengthMax = 50;
/** So many process deaths over the same bytes, and they are set aside. */
const attemptsMax = 5;

export type Opened = {
  readonly envelopes: Envelope[];
  /** To be acknowledged after the commit, in order of delivery. */
  readonly deliveries: Incoming[];
  /** To be done after the acknowledgement. */
  readonly jobs: Job[];
  /** The batch ends before a message of a group of which too little is known; it was put back. */
  claim: GroupClaim | null;
};

/**
 * Opens up to 50 deliveries into `overlay`; `next` gives them one by one, null for none left. `putBack` returns one for the
 * next batch.
 * @throws BridgeError `database`: then nothing of the overlay may be written, and nothing acknowledged
 */
export async function openBatch(
  deps: ReceiveDeps,
  overlay: Overlay,
  next: () => Incoming | null,
  putBack: (incoming: Incoming) => void,
): Promise<Opened> {
  const opened: Opened = { envelopes: [], deliveries: [], jobs: [], claim: null };
  while (opened.deliveries.length < batchLengthMax) {
    const incoming = next();
    if (incoming === null) break;
    const hash = owned(createHash("sha256").update(incoming.bytes).digest());
    if (deps.database.get("SELECT 1 FROM signal_seen WHERE hash = ?", hash) !== undefined) {
      opened.deliveries.push(incoming);
      continue;
    }
    const isAgain = attemptsOf(deps.database, hash) > 0;
    if (isAgain && opened.deliveries.length > 0) {
      putBack(incoming);
      break;
    }
    const isLast = await openOne(deps, overlay, incoming, hash, opened);
    if (opened.claim !== null) {
      overlay.drop();
      forgiveAttempts(deps.database, [incoming]);
      putBack(incoming);
    }
    if (isLast || isAgain) break;
  }
  return opened;
}

const attemptsOf = (database: Database, hash: Bytes): number =>
  database.get<{ count: number }>("SELECT count FROM signal_attempts WHERE hash = ?", hash)?.count ?? 0;

/** The attempts of a batch that was not committed did not count. Best effort, as the database may be what failed. */
export function forgiveAttempts(database: Database, deliveries: readonly Incoming[]): void {
  try {
    for (const { bytes } of deliveries)
      database.run("DELETE FROM signal_attempts WHERE hash = ?", createHash("sha256").update(bytes).digest());
  } catch {
    // Then the count stands: it takes five of them, and a restart in between.
  }
}

/** True when the batch must end here, as the account has changed, or a group must be asked for first. */
async function openOne(
  deps: ReceiveDeps,
  overlay: Overlay,
  incoming: Incoming,
  hash: Bytes,
  opened: Opened,
): Promise<boolean> {
  const { database, clock } = deps;
  const now = clock.now();
  const attempts = attemptsOf(database, hash);
  const outcome: Outcome =
    attempts >= attemptsMax
      ? { ...nothing, quarantine: "it ended the process each time", isForUs: true }
      : await (async () => {
          const sql = `INSERT INTO signal_attempts (hash, count, at) VALUES (?, 1, ?)
            ON CONFLICT DO UPDATE SET count = count + 1`;
          database.run(sql, hash, now);
          return openEnvelope(deps, overlay, incoming, now);
        })();
  opened.claim = outcome.claim;
  if (outcome.claim !== null) return true;
  overlay.later(() => {
    database.run("INSERT OR IGNORE INTO signal_seen (hash, at) VALUES (?, ?)", hash, now);
    database.run("DELETE FROM signal_attempts WHERE hash = ?", hash);
    if (outcome.quarantine === null) return;
    // The bytes, which only we can open, are kept of those on the allow list; of strangers just the fact.
    const sql = "INSERT OR REPLACE INTO signal_quarantine (hash, reason, envelope, at) VALUES (?, ?, ?, ?)";
    database.run(sql, hash, outcome.quarantine, outcome.isForUs ? incoming.bytes : null, now);
  });
  overlay.keep();
  opened.deliveries.push(incoming);
  if (outcome.envelope !== null) opened.envelopes.push(outcome.envelope);
  opened.jobs.push(...outcome.jobs);
  return outcome.isLast;
}
