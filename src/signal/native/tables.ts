/**
 * The tables of the native transport, in the same file as the inbox: ratchet state, used pre-keys and inbox rows commit
 * together or not at all.
 *
 *   account + own identities   who we are; these rows are enough to act as us
 *   sessions … sender_keys     libsignal's records, opaque; `record` is what its `serialize()` gave
 *   seen, attempts, quarantine deliveries: done, begun, given up
 *   recipients, groups         what a send needs to know; only of people and groups on the allow list
 *   owed                       OUR messages that members of groups did not get yet, and how often that was tried again
 *   send_log                   OUR messages of the last days, to answer a request to send again
 *
 * No plaintext of other people is in here. Times are Unix ms. `own` is `aci` or `pni`; a service id is `<uuid>` or `PNI:<uuid>`.
 */
import type { Database, SqlValue } from "../../store/database.ts";

/** The migrations of the tables, in order; one that has shipped is never edited. */
export const signalSchema = [
  `
CREATE TABLE signal_account (
  id INTEGER PRIMARY KEY CHECK (id = 1), number TEXT, device_id INTEGER NOT NULL, password TEXT NOT NULL,
  profile_key BLOB, entropy_pool TEXT, master_key BLOB, credential_salt BLOB,
  sends_read_receipts INTEGER NOT NULL DEFAULT 0, sends_typing INTEGER NOT NULL DEFAULT 1,
  linked_at INTEGER NOT NULL, synced_at INTEGER, challenge TEXT) STRICT;
CREATE TABLE signal_own (
  own TEXT PRIMARY KEY CHECK (own IN ('aci', 'pni')), service_id TEXT NOT NULL, identity BLOB NOT NULL,
  registration_id INTEGER NOT NULL, next_id INTEGER NOT NULL, signed_id INTEGER NOT NULL,
  last_resort_id INTEGER NOT NULL, rotated_at INTEGER NOT NULL) STRICT;
CREATE TABLE signal_pending_link (
  id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL, state TEXT NOT NULL) STRICT;
CREATE TABLE signal_sessions (
  own TEXT NOT NULL, service_id TEXT NOT NULL, device_id INTEGER NOT NULL, record BLOB NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY (own, service_id, device_id)) STRICT;
CREATE TABLE signal_identities (
  service_id TEXT PRIMARY KEY, record BLOB NOT NULL, at INTEGER NOT NULL, changes INTEGER NOT NULL DEFAULT 0,
  is_blocked INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE signal_pre_keys (
  own TEXT NOT NULL, key_id INTEGER NOT NULL, record BLOB NOT NULL, at INTEGER NOT NULL, stale_at INTEGER,
  PRIMARY KEY (own, key_id)) STRICT;
CREATE TABLE signal_signed_pre_keys (
  own TEXT NOT NULL, key_id INTEGER NOT NULL, record BLOB NOT NULL, at INTEGER NOT NULL, stale_at INTEGER,
  PRIMARY KEY (own, key_id)) STRICT;
CREATE TABLE signal_kyber_pre_keys (
  own TEXT NOT NULL, key_id INTEGER NOT NULL, record BLOB NOT NULL, at INTEGER NOT NULL, stale_at INTEGER,
  is_last_resort INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (own, key_id)) STRICT;
CREATE TABLE signal_kyber_used (
  own TEXT NOT NULL, kyber_id INTEGER NOT NULL, signed_id INTEGER NOT NULL, base_key TEXT NOT NULL,
  record BLOB NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (own, kyber_id, signed_id, base_key)) STRICT;
CREATE TABLE signal_sender_keys (
  service_id TEXT NOT NULL, device_id INTEGER NOT NULL, distribution_id TEXT NOT NULL, record BLOB NOT NULL,
  at INTEGER NOT NULL, PRIMARY KEY (service_id, device_id, distribution_id)) STRICT;
CREATE TABLE signal_seen (hash BLOB PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE TABLE signal_attempts (hash BLOB PRIMARY KEY, count INTEGER NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE signal_quarantine (hash BLOB PRIMARY KEY, reason TEXT NOT NULL, envelope BLOB, at INTEGER NOT NULL) STRICT;
CREATE TABLE signal_recipients (
  aci TEXT PRIMARY KEY, number TEXT UNIQUE, name TEXT, profile_key BLOB,
  is_sealed_refused INTEGER NOT NULL DEFAULT 0, timer_seconds INTEGER NOT NULL DEFAULT 0,
  timer_version INTEGER NOT NULL DEFAULT 1, needs_pni_signature INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE signal_groups (
  group_id TEXT PRIMARY KEY, master_key BLOB NOT NULL, revision INTEGER NOT NULL, state TEXT, fetched_at INTEGER
) STRICT;
CREATE TABLE signal_send_log (
  sent_at INTEGER NOT NULL, service_id TEXT NOT NULL, content BLOB NOT NULL, group_id BLOB,
  PRIMARY KEY (sent_at, service_id)) STRICT;
`,
  `
-- Of the account's secrets only the key of the storage service is kept; it is asked for anew.
ALTER TABLE signal_account DROP COLUMN entropy_pool;
ALTER TABLE signal_account DROP COLUMN master_key;
ALTER TABLE signal_account ADD COLUMN storage_key BLOB;
ALTER TABLE signal_account ADD COLUMN storage_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE signal_account ADD COLUMN asked_at INTEGER;
ALTER TABLE signal_recipients DROP COLUMN is_sealed_refused;
ALTER TABLE signal_recipients ADD COLUMN sealed_refused_at INTEGER;
ALTER TABLE signal_recipients ADD COLUMN is_blocked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE signal_groups ADD COLUMN is_blocked INTEGER NOT NULL DEFAULT 0;
DROP TABLE signal_pending_link;
`,
  `
CREATE TABLE signal_owed (
  sent_at INTEGER NOT NULL, service_id TEXT NOT NULL, content BLOB NOT NULL, group_id BLOB NOT NULL, tries INTEGER NOT NULL,
  PRIMARY KEY (sent_at, service_id)) STRICT;
`,
] as const;

/** Writes a whole row of `signal_<table>`; one with the same key is replaced. */
export function putRow(database: Database, table: string, row: Readonly<Record<string, SqlValue>>): void {
  const columns = Object.keys(row);
  const sql = `INSERT OR REPLACE INTO signal_${table} (${columns.join(", ")}) VALUES (${columns.map(() => "?").join(", ")})`;
  database.run(sql, ...Object.values(row));
}
