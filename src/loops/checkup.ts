/**
 * Checks whether the database can be trusted: its pages are read at the start, once a day, and after each read that failed. Damage is
 * told in `/health`, in the log, and in the owner's chat. A database that was set back is noticed and told at the start.
 */
import { BridgeError } from "../core/errors.ts";
import { plainText } from "../core/reply.ts";
import { findDamage } from "../store/damage.ts";
import type { Bridge } from "./bridge.ts";
import { ownerChat, tellOwner } from "./owner.ts";

export type Checkup = ReturnType<typeof createCheckup>;

export function createCheckup(bridge: Bridge) {
  const { store, log, clock } = bridge;
  const { failures } = store.db;
  let damage: string | null = null;
  let seen = 0;
  let isTold = false;
  const hasFailed = (): boolean => failures.count > seen;
  /** Tells the owner by a row of the outbox or, where the database takes none, by a message past the outbox, once in this process. */
  const say = async (text: string): Promise<void> => {
    try {
      tellOwner(bridge, "damaged", text);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      const chat = ownerChat(bridge.config);
      if (isTold || chat === null || bridge.account() === null) return;
      isTold = true;
      await bridge.transport.send({ chat, timestamp: clock.now(), body: plainText(text) }).catch((failed: unknown) => {
        if (!(failed instanceof BridgeError)) throw failed;
        isTold = false;
      });
    }
  };
  return {
    /** Why the database is not to be trusted; null while no fault of it is known. */
    fault: (): string | null => damage ?? (hasFailed() ? `the database could not be read: ${failures.last}` : null),
    /** True where a read has failed since the last look, or a file of the database is lost. */
    isDue: (): boolean => hasFailed() || (damage === null && store.lostFile() !== null),
    /** Never rejects. */
    async run(signal: AbortSignal): Promise<void> {
      const lost = store.lostFile();
      const found = await findDamage(store.db, clock, signal);
      if (signal.aborted) return;
      const count = failures.count - seen;
      seen = failures.count;
      damage = lost ?? (found && `the database is damaged: ${found}`);
      if (damage === null) return count === 0 ? undefined : log.warn("reads of the database failed", { count });
      log.error("the database is damaged", { found: lost ?? found, failedReads: failures.count, hint: restoreHint });
      await say(lost === null ? damagedText : lostText);
    },
  };
}

const restoreHint = "Stop signalman and restore a backup: `signalman restore FILE` (docs/operating.md).";
const damagedText =
  "The database of signalman is damaged: parts of it cannot be read any more. Messages may be lost. The owner should stop signalman and restore a backup; `signalman doctor` says more.";
const lostText =
  "A file of signalman's database was deleted or replaced while signalman runs. Messages may be lost. The owner should restart signalman now; `/health` names the file.";

/** Resumes work that an older version or a lost wake left open. After a set-back database the chats are told: Claude may have answered. */
export function begin(bridge: Bridge): void {
  const { store, chats, log } = bridge;
  const { generation, sessions, settings } = store;
  if (!generation.isSetBack()) {
    chats.tellAll({ type: "started" });
    return generation.advance();
  }
  log.warn("the database is older than what was written last: what is open in it is not asked again");
  store.db.transaction(() => {
    const number = generation.acknowledge();
    chats.tellAll({ type: "setBack", generation: number });
    // Replies since the backup are on the phones already: the next listing of a log is stored, and none of it sent.
    for (const { id, remoteId } of sessions.list(Number.MAX_SAFE_INTEGER))
      if (remoteId !== null) settings.set(`said:${id}`, "1");
    tellOwner(bridge, `setback ${number}`, setBackText);
  });
}

const setBackText =
  "The database of signalman is older than what it wrote last: a backup was restored, or a part of it was deleted. What was asked and answered since is not known here, and nothing of it is asked again. If people see messages that cannot be read, link this device anew.";
