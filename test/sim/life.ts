/**
 * One life of the daemon's process on a machine, from its start to `kill -9`.
 *
 *   daemon ─▶ clock (machine's wall time)  ─┐
 *          ─▶ transport (gated)             ─┼─▶ the world, which outlives it
 *          ─▶ database (patched)            ─┘
 *
 * A dead life waits for ever: its timers never fire, its calls never come back, its database refuses every statement. So it
 * may be killed at any await, before or after any single write, and before or after any commit.
 */
import type { Clock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { inboxKey, type Verdict } from "../../src/core/inbound.ts";
import type { Account, Chat, Envelope, Millis, Outbound } from "../../src/core/model.ts";
import type { Batch, Transport } from "../../src/signal/transport.ts";
import type { Database } from "../../src/store/database.ts";
import type { Store } from "../../src/store/store.ts";
import type { VirtualClock } from "../doubles/clock.ts";

/** What the lives of one home have in common. */
export type Machine = {
  readonly base: VirtualClock;
  /** The machine's wall clock minus the true time. */
  wallOffsetMs: Millis;
  network: string;
  /** No page more than the file has. */
  isDiskFull: boolean;
  /** Every commit fails. */
  isDiskBroken: boolean;
  /** The table whose pages cannot be read. */
  brokenTable: string | null;
  /** Every SQL text that was ever prepared. */
  readonly statements: Set<string>;
};

export type Trap = "message" | "prompt" | "call";

export type Life = {
  readonly clock: Clock;
  readonly machine: Machine;
  isDead(): boolean;
  /** What it was killed by, for the trace. */
  kill(why: string): void;
  /** Dies of its own accord when so many writes or commits have passed. */
  killAfterWrites(count: number): void;
  /** Dies when the world has what it was sent, before it can learn that: a message, a prompt, a call's doing. Null: not any more. */
  killOn(trap: Trap | null): void;
  /** The world has it. */
  delivered(what: Trap): void;
  onDeath(listener: (why: string) => void): void;
  /** Resolves and rejects only while this life lasts. */
  gate<T>(work: () => Promise<T>): Promise<T>;
  /** Takes over the store as soon as the daemon has opened it. */
  adopt(store: Store): void;
  /** What the store says outside of what the daemon does; null before it is open and after death. */
  look(): Database | null;
  applyDisk(): void;
  /** Something was written since the last call. */
  takeDirty(): boolean;
  /** Gives the files back, as the end of a process does. */
  release(): void;
};

const never = new Promise<never>(() => undefined);

export function createLife(machine: Machine): Life {
  const { base } = machine;
  let store: Store | null = null;
  let real: Database | null = null;
  let cause: string | null = null;
  let writesLeft = Infinity;
  let isDirty = false;
  let isReleased = false;
  let trap: Trap | null = null;
  const listeners: ((why: string) => void)[] = [];
  const isDead = (): boolean => cause !== null;
  const kill = (why: string): void => {
    if (cause !== null) return;
    cause = why;
    for (const listener of listeners) listener(why);
  };
  const check = (): void => {
    if (cause !== null) throw new BridgeError("database", "Cannot use the database as the process is dead");
  };
  /** One point where the process may end. */
  const crashPoint = (what: string): void => {
    check();
    isDirty = true;
    if (--writesLeft > 0) return;
    kill(what);
    check();
  };
  const gate = <T>(work: () => Promise<T>): Promise<T> =>
    isDead()
      ? never
      : work().then(
          (value) => (isDead() ? never : value),
          (error: unknown) => {
            if (isDead()) return never;
            throw error;
          },
        );

  const patch = (db: Database): Database => {
    const original = { ...db };
    const seen = (sql: string): void => void machine.statements.add(sql);
    const broken = new Error("database disk image is malformed");
    const read = <T>(sql: string, work: () => T): T => {
      seen(sql);
      check();
      const { brokenTable } = machine;
      if (brokenTable === null || !sql.includes(brokenTable)) return work();
      return original.read(() => {
        throw broken;
      });
    };
    const patched: Database = {
      ...original,
      run(sql, ...params) {
        seen(sql);
        crashPoint("before a write");
        const result = original.run(sql, ...params);
        crashPoint("after a write");
        return result;
      },
      get: (sql, ...params) => read(sql, () => original.get(sql, ...params)),
      all: (sql, ...params) => read(sql, () => original.all(sql, ...params)),
      transaction<T>(work: () => T): T {
        check();
        const result = original.transaction(() => {
          const result = work();
          crashPoint("before a commit");
          if (machine.isDiskBroken) throw new BridgeError("database", "Cannot use the database: disk I/O error");
          return result;
        });
        crashPoint("after a commit");
        return result;
      },
    };
    Object.assign(db, patched);
    return original;
  };

  const applyDisk = (): void => {
    if (!real || isDead()) return;
    const pages = real.get<{ page_count: number }>("PRAGMA page_count")?.page_count ?? 0;
    real.exec(`PRAGMA max_page_count = ${machine.isDiskFull ? pages : 1_000_000}`);
  };

  return {
    machine,
    clock: {
      now: () => base.now() + machine.wallOffsetMs,
      monotonic: () => base.monotonic(),
      sleep: (ms, signal) => (isDead() ? never : base.sleep(ms, signal).then(() => (isDead() ? never : undefined))),
    },
    isDead,
    kill,
    killAfterWrites: (count) => void (writesLeft = count),
    killOn: (next) => void (trap = next),
    delivered(what) {
      if (trap === what) kill(`when a ${what} was through`);
    },
    onDeath: (listener) => void listeners.push(listener),
    gate,
    adopt(opened) {
      store = opened;
      // A killed process needs no fsync to find its commits again; only a loss of power would.
      opened.db.exec("PRAGMA synchronous = OFF");
      opened.db.exec(watchers);
      real = patch(opened.db);
      applyDisk();
    },
    look: () => (isDead() ? null : real),
    applyDisk,
    takeDirty() {
      const was = isDirty;
      isDirty = false;
      return was;
    },
    release() {
      if (isReleased) return;
      isReleased = true;
      store?.close();
    },
  };
}

/** What no statement may ever do, and each setting that was made, noted by the database itself. */
const watchers = `
  CREATE TEMP TABLE broken (what TEXT);
  CREATE TEMP TABLE changes (id TEXT, context TEXT, stamps TEXT);
  INSERT INTO changes SELECT remote_id, context, stamps FROM sessions WHERE remote_id IS NOT NULL;
  CREATE TEMP TRIGGER settings_change AFTER UPDATE OF context, stamps ON sessions WHEN NEW.remote_id IS NOT NULL
    BEGIN INSERT INTO changes VALUES (NEW.remote_id, NEW.context, NEW.stamps); END;
  CREATE TEMP TRIGGER inbox_ends_once AFTER UPDATE ON inbox WHEN OLD.state = 'done'
    AND (NEW.state <> 'done' OR NEW.outcome IS NOT OLD.outcome OR NEW.done_at IS NOT OLD.done_at)
    BEGIN INSERT INTO broken VALUES ('inbox row ' || OLD.id || ' changed after its end'); END;
  CREATE TEMP TRIGGER inbox_not_lost AFTER DELETE ON inbox WHEN OLD.state <> 'done'
    BEGIN INSERT INTO broken VALUES ('open inbox row ' || OLD.id || ' was removed'); END;
  CREATE TEMP TRIGGER outbox_is_fixed AFTER UPDATE ON outbox
    WHEN NEW.timestamp <> OLD.timestamp OR NEW.why <> OLD.why OR NEW.session_id <> OLD.session_id OR NEW.subject <> OLD.subject OR NEW.body <> OLD.body OR NEW.chat <> OLD.chat
    BEGIN INSERT INTO broken VALUES ('outbox row ' || OLD.id || ' is not the message it was'); END;
  CREATE TEMP TRIGGER outbox_ends_once AFTER UPDATE ON outbox WHEN OLD.state IN ('sent', 'failed') AND NEW.state <> OLD.state
    BEGIN INSERT INTO broken VALUES ('outbox row ' || OLD.id || ' changed after its end'); END;
  CREATE TEMP TRIGGER outbox_not_lost AFTER DELETE ON outbox WHEN OLD.done_at IS NULL
    BEGIN INSERT INTO broken VALUES ('open outbox row ' || OLD.id || ' was removed'); END;
  CREATE TEMP TRIGGER events_are_history AFTER UPDATE ON events
    WHEN NEW.body <> OLD.body OR NEW.id <> OLD.id OR (OLD.at IS NOT NULL AND NEW.at IS NOT OLD.at)
    BEGIN INSERT INTO broken VALUES ('event ' || OLD.id || ' was rewritten'); END;
  CREATE TEMP TRIGGER events_stay AFTER DELETE ON events
    WHEN OLD.at IS NOT NULL AND EXISTS (SELECT 1 FROM posts WHERE session_id = OLD.session_id AND state <> 'done')
    BEGIN INSERT INTO broken VALUES ('event ' || OLD.id || ' was removed, and a prompt of its session is open'); END;
`;

export type TransportWatch = {
  /** It is through, whatever the sender learns of that; its timestamp names the row. */
  readonly onDelivered: (message: Outbound) => void;
  /** It is on its way. */
  readonly onSend: () => void;
  readonly onRefused: (message: Outbound, error: BridgeError) => void;
  /** A person there can see that we read or write. */
  readonly onShown: (chat: Chat) => void;
  readonly onProof: () => void;
  readonly onBroken: (what: string) => void;
  readonly classify: (envelope: Envelope, account: Account) => Verdict;
  readonly isLocal: boolean;
};

/** The world's transport as this life sees it: gated, and watched for what it is told. */
export function gateTransport(life: Life, transport: Transport, account: Account, watch: TransportWatch): Transport {
  const { gate } = life;
  /** Commit before acknowledge: what is accepted is in the inbox by now. */
  const checkCommitted = (batch: Batch): void => {
    const db = life.look();
    if (!db) return;
    for (const envelope of batch.envelopes) {
      const { kind } = watch.classify(envelope, account);
      if (kind !== "prompt" && kind !== "command") continue;
      // The key of a command goes on with its words.
      const key = inboxKey(envelope, account);
      if (db.get("SELECT 1 FROM inbox WHERE key = ? OR instr(key, ?) = 1", key, `${key}|`) === undefined)
        watch.onBroken("an envelope was acknowledged that is not in the inbox");
    }
  };
  return {
    name: transport.name,
    capabilities: transport.capabilities,
    // Signal's servers tell the time.
    skewMs: () => life.machine.wallOffsetMs,
    isLocal: watch.isLocal,
    connect: (signal) => gate(() => transport.connect(signal)),
    receive: (timeoutMs, signal) =>
      gate(async () => {
        const batch = await transport.receive(timeoutMs, signal);
        if (batch.isProof) watch.onProof();
        return batch;
      }),
    ack(batch, isCommitted) {
      if (isCommitted && !life.isDead()) checkCommitted(batch);
      return gate(() => transport.ack(batch, isCommitted));
    },
    send: (message) =>
      gate(async () => {
        const through = (): void => {
          watch.onDelivered(message);
          life.delivered("message");
        };
        watch.onSend();
        try {
          const outcome = await transport.send(message);
          through();
          return outcome;
        } catch (error) {
          if (!(error instanceof BridgeError)) throw error;
          if (error.code === "send_uncertain") through();
          else watch.onRefused(message, error);
          throw error;
        }
      }),
    typing(chat, isTyping) {
      watch.onShown(chat);
      return gate(() => transport.typing(chat, isTyping));
    },
    markRead(envelope) {
      if (envelope.chat) watch.onShown(envelope.chat);
      return gate(() => transport.markRead(envelope));
    },
    attachment: (ref, bytesMax, signal) => gate(() => transport.attachment(ref, bytesMax, signal)),
    answerChallenge: transport.answerChallenge,
    disconnect: () => gate(() => transport.disconnect()),
  };
}
