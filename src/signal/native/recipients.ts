/** What a send must know of a person: number, profile key, timer. Only people on the allow list have a row. */
import type { Address } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { type Bytes, owned } from "./bytes.ts";

export type Recipient = {
  readonly aci: string;
  readonly number: string | null;
  readonly name: string | null;
  /** 32 bytes; with it messages to this person can be sealed. */
  readonly profileKey: Bytes | null;
  /** The server refused our seal; until a new profile key comes, messages go unsealed. */
  readonly isSealedRefused: boolean;
  /** Disappearing messages of the direct chat, 0 = off. */
  readonly timerSeconds: number;
  readonly timerVersion: number;
  /** They wrote to our number: the next message proves that number and account are the same. */
  readonly needsPniSignature: boolean;
};

type Row = {
  aci: string;
  number: string | null;
  name: string | null;
  profile_key: Uint8Array | null;
  is_sealed_refused: number;
  timer_seconds: number;
  timer_version: number;
  needs_pni_signature: number;
};

/** By ACI; somebody unknown has the defaults. */
export function findRecipient(database: Database, aci: string): Recipient {
  const row = database.get<Row>("SELECT * FROM signal_recipients WHERE aci = ?", aci);
  return {
    aci,
    number: row?.number ?? null,
    name: row?.name ?? null,
    profileKey: row?.profile_key ? owned(row.profile_key) : null,
    isSealedRefused: row?.is_sealed_refused === 1,
    timerSeconds: row?.timer_seconds ?? 0,
    timerVersion: row?.timer_version ?? 1,
    needsPniSignature: row?.needs_pni_signature === 1,
  };
}

/** The ACI behind an address, as far as it is known. */
export function findAci(database: Database, who: Address): string | null {
  if (who.aci !== null) return who.aci;
  const sql = "SELECT aci FROM signal_recipients WHERE number = ?";
  return who.number === null ? null : (database.get<{ aci: string }>(sql, who.number)?.aci ?? null);
}

/** Makes the row; a number given belongs to this person from now on. Names are as the owner's phone has them. */
export function saveRecipient(database: Database, aci: string, number: string | null, name: string | null): void {
  if (number !== null)
    database.run("UPDATE signal_recipients SET number = NULL WHERE number = ? AND aci <> ?", number, aci);
  database.run(
    `INSERT INTO signal_recipients (aci, number, name) VALUES (?, ?, ?) ON CONFLICT (aci) DO UPDATE SET
     number = coalesce(excluded.number, number), name = coalesce(excluded.name, name)`,
    aci,
    number,
    name,
  );
}

export function saveProfileKey(database: Database, aci: string, key: Bytes): void {
  database.run(
    `UPDATE signal_recipients SET is_sealed_refused = CASE WHEN profile_key IS ?1 THEN is_sealed_refused ELSE 0 END,
     profile_key = ?1 WHERE aci = ?2`,
    key,
    aci,
  );
}

/** An older version than the stored one is ignored. **Source:** SIGNAL-NATIVE 4.9. */
export function saveTimer(database: Database, aci: string, seconds: number, version: number): void {
  database.run(
    `UPDATE signal_recipients SET timer_seconds = ?1, timer_version = max(timer_version, ?2)
     WHERE aci = ?3 AND (?2 = 0 OR ?2 >= timer_version)`,
    seconds,
    version,
    aci,
  );
}

export function refuseSealed(database: Database, aci: string): void {
  database.run("UPDATE signal_recipients SET is_sealed_refused = 1 WHERE aci = ?", aci);
}

export function setPniSignature(database: Database, aci: string, isNeeded: boolean): void {
  database.run("UPDATE signal_recipients SET needs_pni_signature = ? WHERE aci = ?", isNeeded ? 1 : 0, aci);
}
