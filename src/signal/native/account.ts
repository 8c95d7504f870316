/** Who we are: the linked account and its one or two identities, as rows and as the objects that libsignal wants. */
import { PrivateKey, ProtocolAddress, type PublicKey } from "@signalapp/libsignal-client";
import { BridgeError } from "../../core/errors.ts";
import type { Account, Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { type Bytes, owned } from "./bytes.ts";

export type OwnName = "aci" | "pni";

/** One identity of the account. Keys, sessions and registration id belong to it; the device id is shared. */
export type Own = {
  readonly name: OwnName;
  /** `<uuid>`, or `PNI:<uuid>`. */
  readonly serviceId: string;
  readonly identity: PrivateKey;
  readonly publicKey: PublicKey;
  /** 1..16383. */
  readonly registrationId: number;
  /** Our own protocol address under this identity. */
  readonly address: ProtocolAddress;
};

export type NativeAccount = {
  readonly number: string | null;
  /** 2..127, given by the server. */
  readonly deviceId: number;
  readonly password: string;
  readonly profileKey: Bytes | null;
  readonly entropyPool: string | null;
  readonly masterKey: Bytes | null;
  readonly credentialSalt: Bytes | null;
  readonly sendsReadReceipts: boolean;
  readonly sendsTyping: boolean;
  /** When the phone last answered our sync requests; null right after linking. */
  readonly syncedAt: Millis | null;
  readonly aci: Own;
  /** Null for an account without a phone number. */
  readonly pni: Own | null;
};

type AccountRow = {
  number: string | null;
  device_id: number;
  password: string;
  profile_key: Uint8Array | null;
  entropy_pool: string | null;
  master_key: Uint8Array | null;
  credential_salt: Uint8Array | null;
  sends_read_receipts: number;
  sends_typing: number;
  synced_at: number | null;
};
type OwnRow = { own: OwnName; service_id: string; identity: Uint8Array; registration_id: number };

/** The linked account, or null when this database has none. */
export function findAccount(database: Database): NativeAccount | null {
  const row = database.get<AccountRow>("SELECT * FROM signal_account");
  if (row === undefined) return null;
  const owns = database.all<OwnRow>("SELECT own, service_id, identity, registration_id FROM signal_own");
  const ownOf = (name: OwnName): Own | null => {
    const found = owns.find(({ own }) => own === name);
    return found === undefined ? null : toOwn(found, row.device_id);
  };
  const aci = ownOf("aci");
  if (aci === null) return null;
  return {
    number: row.number,
    deviceId: row.device_id,
    password: row.password,
    profileKey: row.profile_key === null ? null : owned(row.profile_key),
    entropyPool: row.entropy_pool,
    masterKey: row.master_key === null ? null : owned(row.master_key),
    credentialSalt: row.credential_salt === null ? null : owned(row.credential_salt),
    sendsReadReceipts: row.sends_read_receipts === 1,
    sendsTyping: row.sends_typing === 1,
    syncedAt: row.synced_at,
    aci,
    pni: ownOf("pni"),
  };
}

/** @throws BridgeError `not_linked` */
export function loadAccount(database: Database): NativeAccount {
  const account = findAccount(database);
  if (account === null) throw new BridgeError("not_linked", "Cannot use Signal as no account is linked");
  return account;
}

/** The account as the rest of the program knows it. */
export const toAccount = (account: NativeAccount): Account => ({
  aci: account.aci.serviceId,
  number: account.number,
  deviceId: account.deviceId,
});

function toOwn(row: OwnRow, deviceId: number): Own {
  const identity = PrivateKey.deserialize(owned(row.identity));
  return {
    name: row.own,
    serviceId: row.service_id,
    identity,
    publicKey: identity.getPublicKey(),
    registrationId: row.registration_id,
    address: ProtocolAddress.new(row.service_id, deviceId),
  };
}
