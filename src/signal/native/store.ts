/**
 * libsignal's stores on SQLite, with an overlay in between.
 *
 *   libsignal (async callbacks) ─▶ draft ─keep─▶ kept ─write─▶ SQLite (one synchronous transaction of the caller)
 *                                    └──drop──▶ ∅
 *
 * libsignal calls back asynchronously, and a SQLite transaction of ours must never span an `await`. So the callbacks read
 * through and write into memory: `draft` holds what one envelope did, `kept` what the batch did so far, and `write` puts all
 * of it into the database at once, together with whatever the caller adds to that transaction.
 *
 * libsignal turns every exception of a callback into the same kind of error and forgets the original. A missing or replayed
 * pre-key, which any stranger can provoke, must be told from a failing disk: only the latter sets `fault`.
 * **Source:** SIGNAL-NATIVE 4.7, verified against libsignal 0.100.0.
 */
import {
  Direction,
  IdentityChange,
  IdentityKeyStore,
  KyberPreKeyRecord,
  KyberPreKeyStore,
  PreKeyRecord,
  PreKeyStore,
  PublicKey,
  SenderKeyRecord,
  SenderKeyStore,
  SessionRecord,
  SessionStore,
  SignedPreKeyRecord,
  SignedPreKeyStore,
  type ProtocolAddress,
} from "@signalapp/libsignal-client";
import { Buffer } from "node:buffer";
import type { Clock } from "../../clock.ts";
import type { Database } from "../../store/database.ts";
import type { Own, OwnName } from "./account.ts";
import { type Bytes, owned } from "./bytes.ts";

/** Each kind of record: its table and the columns of its key. */
const tables = {
  session: ["signal_sessions", "own", "service_id", "device_id"],
  identity: ["signal_identities", "service_id"],
  preKey: ["signal_pre_keys", "own", "key_id"],
  signedPreKey: ["signal_signed_pre_keys", "own", "key_id"],
  kyberPreKey: ["signal_kyber_pre_keys", "own", "key_id"],
  kyberUse: ["signal_kyber_used", "own", "kyber_id", "signed_id", "base_key"],
  senderKey: ["signal_sender_keys", "service_id", "device_id", "distribution_id"],
} as const;

type Kind = keyof typeof tables;
type Key = readonly (string | number)[];
type Entry = { readonly kind: Kind; readonly key: Key; readonly record: Bytes | null };

export type Stores = {
  readonly sessions: SessionStore;
  readonly identities: IdentityKeyStore;
  readonly preKeys: PreKeyStore;
  readonly signedPreKeys: SignedPreKeyStore;
  readonly kyberPreKeys: KyberPreKeyStore;
  readonly senderKeys: SenderKeyStore;
};

export type Overlay = {
  stores(own: Own): Stores;
  session(own: OwnName, serviceId: string, deviceId: number): SessionRecord | null;
  /** Device ids with a stored session, usable or not, ascending. */
  devices(own: OwnName, serviceId: string): number[];
  putSession(own: OwnName, serviceId: string, deviceId: number, record: SessionRecord | null): void;
  identity(serviceId: string): PublicKey | null;
  /** Adds a statement of the caller to what `write` will do; dropped with the draft. */
  later(work: () => void): void;
  keep(): void;
  drop(): void;
  /** Inside a transaction of the caller. Leaves the overlay as it is, so that a transaction that failed has lost nothing. */
  write(): void;
  /** What SQLite said when it failed under a callback; null while all is well. */
  fault(): unknown;
};

/** Called when a peer shows another identity key than before: it was reinstalled, or somebody is in between. */
export type OnIdentityChange = (serviceId: string) => void;

export function openOverlay(database: Database, clock: Clock, onIdentityChange: OnIdentityChange): Overlay {
  const records = openRecords(database, clock);
  const overlay: Overlay = {
    stores: (own) => ({
      sessions: sessionStore(records, own.name),
      identities: identityStore(records, own, database, onIdentityChange),
      ...preKeyStores(records, own.name, database),
      senderKeys: senderKeyStore(records),
    }),
    session: (own, serviceId, deviceId) => toRecord(records.get("session", [own, serviceId, deviceId]), SessionRecord),
    devices: (own, serviceId) => records.sessionDevices(own, serviceId),
    putSession: (own, serviceId, deviceId, record) =>
      records.put("session", [own, serviceId, deviceId], record?.serialize() ?? null),
    identity: (serviceId) => toRecord(records.get("identity", [serviceId]), PublicKey),
    later: records.later,
    keep: records.keep,
    drop: records.drop,
    write: records.write,
    fault: records.fault,
  };
  return overlay;
}

type Records = ReturnType<typeof openRecords>;

function openRecords(database: Database, clock: Clock) {
  let draft = new Map<string, Entry>();
  let draftWork: (() => void)[] = [];
  const kept = new Map<string, Entry>();
  const keptWork: (() => void)[] = [];
  let fault: unknown = null;
  /** Every touch of SQLite by a callback goes through here. */
  const guarded = <T>(work: () => T): T => {
    try {
      return work();
    } catch (error) {
      fault = error;
      throw error;
    }
  };
  const nameOf = (kind: Kind, key: Key) => `${kind} ${key.join(" ")}`;
  return {
    get(kind: Kind, key: Key): Bytes | null {
      const name = nameOf(kind, key);
      const entry = draft.get(name) ?? kept.get(name);
      if (entry !== undefined) return entry.record;
      const [table, ...columns] = tables[kind];
      const sql = `SELECT record FROM ${table} WHERE ${columns.map((column) => `${column} = ?`).join(" AND ")}`;
      const row = guarded(() => database.get<{ record: Uint8Array }>(sql, ...key));
      return row === undefined ? null : owned(row.record);
    },
    put(kind: Kind, key: Key, record: Bytes | null): void {
      draft.set(nameOf(kind, key), { kind, key, record });
    },
    sessionDevices(own: OwnName, serviceId: string): number[] {
      const sql = "SELECT device_id FROM signal_sessions WHERE own = ? AND service_id = ?";
      const ids = new Set(
        guarded(() => database.all<{ device_id: number }>(sql, own, serviceId)).map((row) => row.device_id),
      );
      for (const { kind, key, record } of [...kept.values(), ...draft.values()]) {
        if (kind !== "session" || key[0] !== own || key[1] !== serviceId) continue;
        if (record === null) ids.delete(Number(key[2]));
        else ids.add(Number(key[2]));
      }
      return [...ids].sort((a, b) => a - b);
    },
    guarded,
    later: (work: () => void): void => void draftWork.push(work),
    keep(): void {
      for (const [name, entry] of draft) kept.set(name, entry);
      keptWork.push(...draftWork);
      draft = new Map();
      draftWork = [];
    },
    drop(): void {
      draft = new Map();
      draftWork = [];
    },
    write(): void {
      for (const entry of kept.values()) writeEntry(database, entry, clock.now());
      for (const work of keptWork) work();
    },
    fault: () => fault,
  };
}

function writeEntry(database: Database, { kind, key, record }: Entry, at: number): void {
  const [table, ...columns] = tables[kind];
  if (record === null) {
    database.run(`DELETE FROM ${table} WHERE ${columns.map((column) => `${column} = ?`).join(" AND ")}`, ...key);
    return;
  }
  database.run(
    `INSERT INTO ${table} (${columns.join(", ")}, record, at) VALUES (${columns.map(() => "?").join(", ")}, ?, ?)
     ON CONFLICT DO UPDATE SET record = excluded.record, at = excluded.at`,
    ...key,
    record,
    at,
  );
}

const toRecord = <T>(bytes: Bytes | null, type: { deserialize(bytes: Bytes): T }): T | null =>
  bytes === null ? null : type.deserialize(bytes);

/** libsignal asks for subclasses; closures on its prototype do as well. */
const extend = <T extends object>(base: { readonly prototype: T }, methods: Partial<T>): T =>
  Object.assign(Object.create(base.prototype) as T, methods);

const keyOf = (address: ProtocolAddress): [string, number] => [address.name(), address.deviceId()];

function sessionStore(records: Records, own: OwnName): SessionStore {
  const find = (address: ProtocolAddress) => toRecord(records.get("session", [own, ...keyOf(address)]), SessionRecord);
  return extend(SessionStore, {
    getSession: async (address) => find(address),
    saveSession: async (address, record) => records.put("session", [own, ...keyOf(address)], record.serialize()),
    getExistingSessions: async (addresses) =>
      addresses.map((address) => {
        const session = find(address);
        if (session === null) throw new Error("no session for one of the addresses");
        return session;
      }),
  });
}

/**
 * The identity policy. Receiving: any key is taken (else everything after a peer's reinstall would be lost), the change is
 * recorded, counted and reported, and the peer's other sessions are archived. Sending: a changed key is trusted too, as the
 * peer on the allow list is a person who talks to a machine, unless `is_blocked` was set on the peer's row. Our own account
 * is the exception: under our own service id only our own key is ever right.
 */
function identityStore(records: Records, own: Own, database: Database, onChange: OnIdentityChange): IdentityKeyStore {
  return extend(IdentityKeyStore, {
    getIdentityKey: async () => own.identity,
    getLocalRegistrationId: async () => own.registrationId,
    getIdentity: async (address) => toRecord(records.get("identity", [address.name()]), PublicKey),
    isTrustedIdentity: async (address, key, direction) => {
      if (address.name() === own.serviceId) return key.equals(own.publicKey);
      if (direction === Direction.Receiving) return true;
      const sql = "SELECT 1 FROM signal_identities WHERE service_id = ? AND is_blocked = 1";
      return records.guarded(() => database.get(sql, address.name())) === undefined;
    },
    saveIdentity: async (address, key) => {
      const [serviceId, deviceId] = keyOf(address);
      const known = toRecord(records.get("identity", [serviceId]), PublicKey);
      if (known?.equals(key)) return IdentityChange.NewOrUnchanged;
      records.put("identity", [serviceId], key.serialize());
      if (known === null) return IdentityChange.NewOrUnchanged;
      for (const other of records.sessionDevices(own.name, serviceId)) {
        const session = toRecord(records.get("session", [own.name, serviceId, other]), SessionRecord);
        if (other === deviceId || session === null) continue;
        session.archiveCurrentState();
        records.put("session", [own.name, serviceId, other], session.serialize());
      }
      records.later(
        () => void database.run("UPDATE signal_identities SET changes = changes + 1 WHERE service_id = ?", serviceId),
      );
      onChange(serviceId);
      return IdentityChange.ReplacedExisting;
    },
  });
}

/** Saving never happens here: only `keys.ts` makes pre-keys. */
function preKeyStores(records: Records, own: OwnName, database: Database) {
  const existing = <T>(kind: Kind, id: number, type: { deserialize(bytes: Bytes): T }): T => {
    const record = toRecord(records.get(kind, [own, id]), type);
    if (record === null) throw new Error(`no ${kind} with that id`);
    return record;
  };
  return {
    preKeys: extend(PreKeyStore, {
      getPreKey: async (id) => existing("preKey", id, PreKeyRecord),
      removePreKey: async (id) => records.put("preKey", [own, id], null),
    }),
    signedPreKeys: extend(SignedPreKeyStore, {
      getSignedPreKey: async (id) => existing("signedPreKey", id, SignedPreKeyRecord),
    }),
    kyberPreKeys: extend(KyberPreKeyStore, {
      getKyberPreKey: async (id) => existing("kyberPreKey", id, KyberPreKeyRecord),
      markKyberPreKeyUsed: async (id, signedId, baseKey) => {
        const sql = "SELECT is_last_resort AS isLastResort FROM signal_kyber_pre_keys WHERE own = ? AND key_id = ?";
        const row = records.guarded(() => database.get<{ isLastResort: number }>(sql, own, id));
        if (row?.isLastResort !== 1) return records.put("kyberPreKey", [own, id], null);
        const use = [own, id, signedId, Buffer.from(baseKey.serialize()).toString("hex")];
        if (records.get("kyberUse", use) !== null) throw new Error("this first message was used before");
        records.put("kyberUse", use, new Uint8Array());
      },
    }),
  };
}

function senderKeyStore(records: Records): SenderKeyStore {
  return extend(SenderKeyStore, {
    getSenderKey: async (sender, distributionId) =>
      toRecord(records.get("senderKey", [...keyOf(sender), distributionId]), SenderKeyRecord),
    saveSenderKey: async (sender, distributionId, record) =>
      records.put("senderKey", [...keyOf(sender), distributionId], record.serialize()),
  });
}
