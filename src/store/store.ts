/** Opens everything that is durable: one file, one writer. */
import { chmodSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { holdFile, openDatabase } from "./database.ts";
import { createCalls } from "./calls.ts";
import { createCounters } from "./counters.ts";
import { createDrafts } from "./drafts.ts";
import { watchFiles } from "./damage.ts";
import { createFiles } from "./files.ts";
import { createGeneration } from "./generation.ts";
import { createInbox } from "./inbox.ts";
import { createKept } from "./kept.ts";
import { createLog } from "./event-log.ts";
import { isNewest, migrate } from "./migrations.ts";
import { createOutbox } from "./outbox.ts";
import { createReminders } from "./scheduled.ts";
import { createPosts } from "./posts.ts";
import { createSettings } from "./remembered.ts";
import { forget, prune } from "./retention.ts";
import { createSessions } from "./sessions.ts";
import { createUsage } from "./usage.ts";

/** Everything that is durable. */
export type Store = Awaited<ReturnType<typeof openStore>>;

export type StoreOptions = {
  /** True for the daemon, which takes the home for itself; false for a command that only looks. */
  readonly isExclusive: boolean;
};

/**
 * Opens `signalman.db` in `home` (created 0700 where it is missing, files 0600) and brings it to the newest schema.
 * @throws BridgeError `home_in_use` `database` `database_damaged` `database_newer`
 */
export async function openStore(home: string, options: StoreOptions) {
  makeHome(home);
  refuseLooseHome(home);
  const lock = options.isExclusive ? await takeLock(home) : null;
  try {
    const file = join(home, "signalman.db");
    const db = await openDatabase(file);
    for (const suffix of ["", "-wal", "-shm"]) chmodQuietly(file + suffix);
    if (lock === null && !isNewest(db)) await requireNoDaemon(home);
    migrate(db);
    const settings = createSettings(db);
    const counters = createCounters(db);
    const generation = createGeneration(db, counters, home);
    const files = watchFiles(file);
    return {
      db,
      inbox: createInbox(db),
      posts: createPosts(db, generation.advance),
      log: createLog(db),
      outbox: createOutbox(db),
      drafts: createDrafts(db),
      sessions: createSessions(db),
      files: createFiles(db),
      /** The journal of what Claude asked to do on this machine, and files as they were before. */
      calls: createCalls(db),
      kept: createKept(db),
      usage: createUsage(db),
      reminders: createReminders(db),
      settings,
      counters,
      generation,
      /** Which file of the database was deleted or replaced since it was opened; null for none. */
      lostFile: files.lost,
      /** Blanks the texts that have disappeared by the timers of their chats. */
      forget: (now: Millis): void => forget(db, now),
      /** Removes rows that are done and older than `before`, in parts: from `pruneMax` on there are more. Returns their number. */
      prune: (before: Millis): number => prune(db, before),
      close(): void {
        db.close();
        files.close();
        lock?.release();
      },
    };
  } catch (error) {
    lock?.release();
    throw error;
  }
}

function makeHome(home: string): void {
  try {
    mkdirSync(home, { recursive: true, mode: 0o700 });
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const hint = "Set SIGNALMAN_HOME to a folder that you may write to.";
    throw new BridgeError("database", `Cannot make the home folder as the system says: ${why}`, { hint, cause });
  }
}

/** A folder that others can enter gives the account away. */
function refuseLooseHome(home: string): void {
  if (process.platform === "win32") return;
  const mode = statSync(home).mode & 0o777;
  if ((mode & 0o077) !== 0)
    throw new BridgeError(
      "config",
      `Cannot use the home folder ${home} as others may enter it (mode ${mode.toString(8)})`,
      {
        hint: `Run: chmod 700 ${home}`,
      },
    );
}

/** Takes the home for this process alone. @throws BridgeError `home_in_use` */
export async function takeLock(home: string): Promise<{ release(): void }> {
  const file = join(home, "signalman.lock");
  const lock = await holdFile(file);
  if (!lock) throw new BridgeError("home_in_use", `Cannot start as another signalman uses ${home}`);
  chmodQuietly(file);
  return lock;
}

/** A daemon of an earlier release goes on with the schema that it knows: a command that only looks must not change it. */
async function requireNoDaemon(home: string): Promise<void> {
  const lock = await takeLock(home).catch(() => null);
  lock?.release();
  if (lock === null)
    throw new BridgeError(
      "database",
      "Cannot look into the database as the signalman that runs is of an earlier release",
      {
        hint: "Restart it: it brings the database forward.",
      },
    );
}

function chmodQuietly(file: string): void {
  try {
    chmodSync(file, 0o600);
  } catch {
    // The file is not there yet, or its file system has no modes: the folder's 0700 protects it.
  }
}
