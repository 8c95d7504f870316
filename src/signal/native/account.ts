/**
 * Our account and our recipients, as rows and as the objects that libsignal wants. Only people on the allow list have a row
 * among the recipients.
 */
import { PrivateKey, ProtocolAddress } from "@signalapp/libsignal-client";
import { AccountEntropyPool } from "@signalapp/libsignal-client/dist/AccountKeys.js";
import { createHmac } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Account, Address, Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { owned } from "./bytes.ts";
import type { Bytes, NativeAccount, Own, OwnName } from "./context.ts";

type OwnRow = { name: OwnName; serviceId: string; identity: Bytes; registrationId: number };

/** The linked account, or null when this database has none. */
export function readAccount(database: Database): NativeAccount | null {
  const sql = `SELECT number, device_id AS deviceId, password, profile_key AS profileKey, storage_key AS storageKey,
    credential_salt AS credentialSalt, sends_read_receipts AS sendsReadReceipts, sends_typing AS sendsTyping,
    synced_at AS syncedAt FROM signal_account`;
  const row = database.get<Omit<NativeAccount, OwnName>>(sql);
  if (row === undefined) return null;
  const all = `SELECT own AS name, service_id AS serviceId, identity, registration_id AS registrationId FROM signal_own`;
  const owns = database.all<OwnRow>(all).map((own): Own => {
    const identity = PrivateKey.deserialize(own.identity);
    const address = ProtocolAddress.new(own.serviceId, row.deviceId);
    return { ...own, identity, publicKey: identity.getPublicKey(), address };
  });
  const [aci, pni] = (["aci", "pni"] as const).map((name) => owns.find((own) => own.name === name));
  return aci ? { ...row, aci, pni: pni ?? null } : null;
}

/** @throws BridgeError `not_linked` */
export function loadAccount(database: Database): NativeAccount {
  const account = readAccount(database);
  if (account === null) throw new BridgeError("not_linked", "Cannot use Signal as no account is linked");
  return account;
}

export const toAccount = ({ aci, number, deviceId }: NativeAccount): Account => ({
  aci: aci.serviceId,
  number,
  deviceId,
});

/** **Source:** `docs/signal-protocol.md`, "Storage service". */
export function storageKeyOf(entropyPool: string): Bytes {
  const masterKey = AccountEntropyPool.deriveSvrKey(entropyPool);
  return owned(createHmac("sha256", masterKey).update("Storage Service Encryption").digest());
}

export type Recipient = {
  readonly number: string | null;
  /** As the owner's phone has it. */
  readonly name: string | null;
  /** 32 bytes; with it messages to this person can be sealed. */
  readonly profileKey: Bytes | null;
  /** When the server refused our seal: for a day, or until a new profile key comes, messages go unsealed. */
  readonly sealedRefusedAt: Millis | null;
  /** Disappearing messages of the direct chat, 0 = off. */
  readonly timerSeconds: number;
  readonly timerVersion: number;
  /** 1 after this person wrote to our number: our next message proves that number and account are the same. */
  readonly needsPniSignature: 0 | 1;
  /** 1 where the owner blocked this person on the phone: official clients drop what a blocked person writes. */
  readonly isBlocked: 0 | 1;
};

const nameLengthMax = 64;

/** Finds a recipient by ACI; a person without a row has the defaults. */
export function findRecipient(database: Database, aci: string): Recipient {
  const sql = `SELECT number, name, profile_key AS profileKey, sealed_refused_at AS sealedRefusedAt,
    coalesce(timer_seconds, 0) AS timerSeconds, coalesce(timer_version, 1) AS timerVersion,
    coalesce(needs_pni_signature, 0) AS needsPniSignature, coalesce(is_blocked, 0) AS isBlocked
    FROM (SELECT 1) LEFT JOIN signal_recipients ON aci = ?`;
  return database.get<Recipient>(sql, aci) as Recipient;
}

export function findAci(database: Database, { aci, number }: Address): string | null {
  if (aci !== null || number === null) return aci;
  return database.get<{ aci: string }>("SELECT aci FROM signal_recipients WHERE number = ?", number)?.aci ?? null;
}

/**
 * Makes or updates a person's row, and takes the number from any other row. A name becomes one line without a colon, so that it
 * cannot look like a message. Writes nothing where all of that is known.
 */
export function saveRecipient(database: Database, aci: string, number: string | null, given: string | null): void {
  const line = given?.replaceAll(":", "").replace(/[\p{Cc}\s]+/gu, " ") ?? "";
  const name = line.trim().slice(0, nameLengthMax) || null;
  const sql = "SELECT number, name FROM signal_recipients WHERE aci = ?";
  const known = database.get<Pick<Recipient, "number" | "name">>(sql, aci);
  if (known !== undefined && (number ?? known.number) === known.number && (name ?? known.name) === known.name) return;
  if (number !== null)
    database.run("UPDATE signal_recipients SET number = NULL WHERE number = ? AND aci <> ?", number, aci);
  const upsert = `INSERT INTO signal_recipients (aci, number, name) VALUES (?, ?, ?) ON CONFLICT (aci) DO UPDATE SET
    number = coalesce(excluded.number, number), name = coalesce(excluded.name, name)`;
  database.run(upsert, aci, number, name);
}

/** Saves a key told by others, unless one is known that the server has not refused: a key from the person's own message is newer. */
export function learnProfileKey(database: Database, aci: string, key: Uint8Array): void {
  const { profileKey, sealedRefusedAt } = findRecipient(database, aci);
  if (profileKey !== null && sealedRefusedAt === null) return;
  saveRecipient(database, aci, null, null);
  saveProfileKey(database, aci, key);
}

export function saveProfileKey(database: Database, aci: string, key: Uint8Array): void {
  const sql = `UPDATE signal_recipients SET profile_key = ?1,
    sealed_refused_at = CASE WHEN profile_key IS ?1 THEN sealed_refused_at END WHERE aci = ?2`;
  database.run(sql, key, aci);
}

/** Ignores a version older than the stored one. **Source:** `docs/signal-protocol.md`, "Timers". */
export function saveTimer(database: Database, aci: string, seconds: number, version: number): void {
  const sql = `UPDATE signal_recipients SET timer_seconds = ?1, timer_version = max(timer_version, ?2)
    WHERE aci = ?3 AND (?2 = 0 OR ?2 >= timer_version)`;
  database.run(sql, seconds, version, aci);
}
