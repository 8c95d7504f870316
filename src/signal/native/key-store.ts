/**
 * libsignal's stores on SQLite, with an overlay in between.
 *
 *   libsignal (async callbacks) ─▶ draft ─keep─▶ kept ─write─▶ SQLite (one synchronous transaction of the caller)
 *                                    └──drop──▶ ∅
 *
 * A SQLite transaction of ours must never span an `await`. Therefore the callbacks read through and write into memory: `draft`
 * holds what one envelope did, `kept` what the batch did so far, and `write` puts all of it into the database at once, together
 * with whatever the caller adds to that transaction. Overlays share no cache, since a record is read and parsed in 5 µs.
 *
 * libsignal turns every exception of a callback into the same kind of error and forgets the original. A missing or replayed
 * pre-key, which any stranger can provoke, must be told from a failing disk: only the latter sets `fault`.
 * **Source:** `docs/signal-protocol.md`, "Asking to send again".
 */
import * as libsignal from "@signalapp/libsignal-client";
import { Buffer } from "node:buffer";
import type { Clock } from "../../clock.ts";
import type { Database, SqlValue } from "../../store/database.ts";
import type { Bytes, NativeContext, Lock, Own, OwnName } from "./context.ts";

type Serial = { serialize(): Uint8Array };
/** How a kind of record is parsed, and its statements. */
type Kind<T> = Readonly<Record<"select" | "remove" | "upsert", string>> & { readonly parse: (bytes: Bytes) => T };

function kind<T>(type: { deserialize(bytes: Bytes): T }, table: string, ...columns: readonly string[]): Kind<T> {
  const where = columns.map((column) => `${column} = ?`).join(" AND ");
  return {
    parse: (bytes) => type.deserialize(bytes),
    select: `SELECT record FROM signal_${table} WHERE ${where}`,
    remove: `DELETE FROM signal_${table} WHERE ${where}`,
    upsert: `INSERT INTO signal_${table} (${columns.join(", ")}, record, at) VALUES (${"?, ".repeat(columns.length)}?, ?)
      ON CONFLICT DO UPDATE SET record = excluded.record, at = excluded.at`,
  };
}

const session = kind(libsignal.SessionRecord, "sessions", "own", "service_id", "device_id");
const identity = kind(libsignal.PublicKey, "identities", "service_id");
const preKey = kind(libsignal.PreKeyRecord, "pre_keys", "own", "key_id");
const signedPreKey = kind(libsignal.SignedPreKeyRecord, "signed_pre_keys", "own", "key_id");
const kyberPreKey = kind(libsignal.KyberPreKeyRecord, "kyber_pre_keys", "own", "key_id");
const senderKey = kind(libsignal.SenderKeyRecord, "sender_keys", "service_id", "device_id", "distribution_id");
const mark: Serial = { serialize: () => new Uint8Array() };
const kyberUse = kind({ deserialize: () => mark }, "kyber_used", "own", "kyber_id", "signed_id", "base_key");

type Key = readonly (string | number)[];
/** `isNew`: the database does not have this record yet. */
type Entry = {
  readonly kind: Kind<unknown>;
  readonly key: Key;
  readonly record: Serial | null;
  readonly isNew: boolean;
};

export type Overlay = ReturnType<typeof openOverlay>;

type OverlayDeps = Pick<NativeContext, "database" | "clock" | "onIdentityChange">;

export function openOverlay(deps: OverlayDeps) {
  const records = openRecords(deps.database, deps.clock);
  return {
    ...records,
    stores: (own: Own) => ({
      sessions: sessionStore(records, own.name),
      identities: identityStore(records, own, deps),
      ...preKeyStores(records, own.name),
      senderKeys: senderKeyStore(records),
    }),
    session: (own: OwnName, serviceId: string, deviceId: number): libsignal.SessionRecord | null =>
      records.get(session, [own, serviceId, deviceId]),
    putSession: (own: OwnName, serviceId: string, deviceId: number, record: libsignal.SessionRecord | null) =>
      records.put(session, [own, serviceId, deviceId], record),
  };
}

/** Works that share one commit; with more of them, the first would wait long for it. */
const sharedMax = 32;

export function shareCommits(deps: OverlayDeps, lock: Lock): NativeContext["withRatchets"] {
  const waiting: ((overlay: Overlay) => Promise<(fault: unknown) => void>)[] = [];
  let isTurn = false;
  const turn = async (): Promise<void> => {
    const release = await lock();
    const overlay = openOverlay(deps);
    const ends: ((fault: unknown) => void)[] = [];
    for (let work = waiting.shift(); work !== undefined; work = ends.length < sharedMax ? waiting.shift() : undefined)
      ends.push(await work(overlay));
    isTurn = false;
    start();
    let fault: unknown = null;
    try {
      overlay.commit();
    } catch (error) {
      fault = error;
    }
    release();
    for (const end of ends) end(fault);
  };
  const start = (): void => {
    if (isTurn || waiting.length === 0) return;
    isTurn = true;
    void turn();
  };
  return (work) =>
    new Promise((resolve, reject) => {
      waiting.push(async (overlay) => {
        try {
          const result = await work(overlay);
          overlay.keep();
          return (fault) => (fault === null ? resolve(result) : reject(fault));
        } catch (error) {
          overlay.drop();
          return () => reject(error);
        }
      });
      start();
    });
}

type Records = ReturnType<typeof openRecords>;

function openRecords(database: Database, clock: Clock) {
  const layer = () => ({ entries: new Map<string, Entry>(), work: [] as (() => void)[] });
  /** Also holds the records read from the database, which only `write` changes while an overlay is at work. */
  const kept = layer();
  let draft = layer();
  // The SQL of a kind is unique, so that it names the kind.
  const nameOf = (kind: Kind<unknown>, key: Key) => `${kind.select} ${key.join(" ")}`;
  let fault: unknown = null;
  const guarded = <T>(look: () => T): T => {
    try {
      return look();
    } catch (error) {
      fault = error;
      throw error;
    }
  };
  const keep = (): void => {
    for (const [name, entry] of draft.entries) kept.entries.set(name, entry);
    kept.work.push(...draft.work);
    draft = layer();
  };
  const write = (): void => {
    for (const { kind, key, record, isNew } of kept.entries.values())
      if (!isNew) continue;
      else if (record === null) database.run(kind.remove, ...key);
      else database.run(kind.upsert, ...key, record.serialize(), clock.now());
    for (const work of kept.work) work();
  };
  return {
    has: (sql: string, ...params: SqlValue[]) => guarded(() => database.get(sql, ...params)) !== undefined,
    get<T extends Serial>(kind: Kind<T>, key: Key): T | null {
      const name = nameOf(kind, key);
      const entry = draft.entries.get(name) ?? kept.entries.get(name);
      if (entry !== undefined) return entry.record as T | null;
      const row = guarded(() => database.get<{ record: Bytes }>(kind.select, ...key));
      const record = row === undefined ? null : kind.parse(row.record);
      kept.entries.set(name, { kind, key, record, isNew: false });
      return record;
    },
    put<T extends Serial>(kind: Kind<T>, key: Key, record: T | null): void {
      draft.entries.set(nameOf(kind, key), { kind, key, record, isNew: true });
    },
    devices(own: OwnName, serviceId: string): number[] {
      const sql = "SELECT device_id AS id FROM signal_sessions WHERE own = ? AND service_id = ?";
      const ids = new Set(guarded(() => database.all<{ id: number }>(sql, own, serviceId)).map(({ id }) => id));
      for (const { kind, key, record } of [...kept.entries.values(), ...draft.entries.values()]) {
        if (kind !== session || key[0] !== own || key[1] !== serviceId) continue;
        if (record === null) ids.delete(Number(key[2]));
        else ids.add(Number(key[2]));
      }
      return [...ids].sort((a, b) => a - b);
    },
    later: (work: () => void): void => void draft.work.push(work),
    keep,
    drop: (): void => void (draft = layer()),
    /** Runs inside a transaction of the caller. Leaves the overlay as it is, so that a transaction that failed has lost nothing. */
    write,
    commit: (): void => database.transaction(write),
    fault: () => fault,
  };
}

/** libsignal asks for subclasses of its stores; objects with their prototype, made of closures, do as well. */
const extend = <T extends object>(base: { readonly prototype: T }, methods: Partial<T>): T =>
  Object.assign(Object.create(base.prototype) as T, methods);

const keyOf = (address: libsignal.ProtocolAddress): [string, number] => [address.name(), address.deviceId()];

const found = <T>(record: T | null): T => {
  if (record === null) throw new Error("there is no such record");
  return record;
};

const sessionStore = (records: Records, own: OwnName): libsignal.SessionStore =>
  extend(libsignal.SessionStore, {
    getSession: async (address) => records.get(session, [own, ...keyOf(address)]),
    saveSession: async (address, record) => records.put(session, [own, ...keyOf(address)], record),
  });

/**
 * The identity policy. Receiving: any key is taken, else everything after a peer's reinstall would be lost; the change is
 * reported, and the peer's other sessions are archived. Sending: a changed key is trusted too, as the peer is a person who
 * talks to a machine, unless `is_blocked` was set. Under our own service id only our own key is ever right.
 */
function identityStore(records: Records, own: Own, { onIdentityChange }: OverlayDeps) {
  return extend(libsignal.IdentityKeyStore, {
    getIdentityKey: async () => own.identity,
    getLocalRegistrationId: async () => own.registrationId,
    getIdentity: async (address) => records.get(identity, [address.name()]),
    isTrustedIdentity: async (address, key, direction) => {
      if (address.name() === own.serviceId) return key.equals(own.publicKey);
      const sql = "SELECT 1 FROM signal_identities WHERE service_id = ? AND is_blocked = 1";
      return direction === libsignal.Direction.Receiving || !records.has(sql, address.name());
    },
    saveIdentity: async (address, key) => {
      const [serviceId, deviceId] = keyOf(address);
      const known = records.get(identity, [serviceId]);
      if (known?.equals(key)) return libsignal.IdentityChange.NewOrUnchanged;
      records.put(identity, [serviceId], key);
      if (known === null) return libsignal.IdentityChange.NewOrUnchanged;
      for (const other of records.devices(own.name, serviceId)) {
        const old = records.get(session, [own.name, serviceId, other]);
        if (other === deviceId || old === null) continue;
        // The change goes into a copy, as the draft may be dropped.
        const copy = session.parse(old.serialize());
        copy.archiveCurrentState();
        records.put(session, [own.name, serviceId, other], copy);
      }
      onIdentityChange();
      return libsignal.IdentityChange.ReplacedExisting;
    },
  });
}

/** These stores save no pre-keys, since only `keys.ts` makes them. */
const preKeyStores = (records: Records, own: OwnName) => ({
  preKeys: extend(libsignal.PreKeyStore, {
    getPreKey: async (id) => found(records.get(preKey, [own, id])),
    removePreKey: async (id) => records.put(preKey, [own, id], null),
  }),
  signedPreKeys: extend(libsignal.SignedPreKeyStore, {
    getSignedPreKey: async (id) => found(records.get(signedPreKey, [own, id])),
  }),
  kyberPreKeys: extend(libsignal.KyberPreKeyStore, {
    getKyberPreKey: async (id) => found(records.get(kyberPreKey, [own, id])),
    markKyberPreKeyUsed: async (id, signedId, baseKey) => {
      const sql = "SELECT 1 FROM signal_kyber_pre_keys WHERE own = ? AND key_id = ? AND is_last_resort = 1";
      if (!records.has(sql, own, id)) return records.put(kyberPreKey, [own, id], null);
      const use = [own, id, signedId, Buffer.from(baseKey.serialize()).toString("hex")];
      if (records.get(kyberUse, use) !== null) throw new Error("this first message was used before");
      records.put(kyberUse, use, mark);
    },
  }),
});

const senderKeyStore = (records: Records): libsignal.SenderKeyStore =>
  extend(libsignal.SenderKeyStore, {
    getSenderKey: async (sender, distributionId) => records.get(senderKey, [...keyOf(sender), distributionId]),
    saveSenderKey: async (sender, distributionId, record) =>
      records.put(senderKey, [...keyOf(sender), distributionId], record),
  });
