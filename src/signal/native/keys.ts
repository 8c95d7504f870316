/**
 * Our pre-keys, which others need to write to us first.
 *
 * Rows are committed before they are uploaded: the other order would leave the server handing out keys that we cannot use. An
 * upload replaces the one-time lists on the server, yet a peer may have fetched a key just before: superseded rows are kept for a
 * while. **Source:** `docs/signal-protocol.md`, "Pre-keys".
 */
import * as libsignal from "@signalapp/libsignal-client";
import * as v from "valibot";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { toBase64 } from "./bytes.ts";
import type { NativeContext, ChatLine, Own, OwnName } from "./context.ts";
import { putRow } from "./tables.ts";
import { answerOf, ask, isGood, refused } from "./server.ts";

export const keyIdMax = 0xffffff;
/** Keys of each kind in one upload; the server takes no more. */
const batchSize = 100;
/** When the server has fewer keys than this, the lists are filled up again. **Source:** mautrix-signal pkg/signalmeow/keys.go (50). */
const countMin = 50;
const dayMs: Millis = 86_400_000;
const rotateAfterMs: Millis = 2 * dayMs;
/** Superseded one-time keys are kept for this long, and the newest `oneTimeKept` keys always. */
const oneTimeKeptMs: Millis = 90 * dayMs;
const oneTimeKept = 200;
const signedKeptMs: Millis = 30 * dayMs;

type Signed = libsignal.SignedPreKeyRecord;
type Kyber = libsignal.KyberPreKeyRecord;
/** The two keys that a device always has: reusable, signed by the identity, replaced every two days. */
type StandingKeys = { readonly signed: Signed; readonly lastResort: Kyber };

export function makeStandingKeys(identity: libsignal.PrivateKey, nextId: () => number, at: Millis): StandingKeys {
  const pair = libsignal.PrivateKey.generate();
  const publicKey = pair.getPublicKey();
  const signature = identity.sign(publicKey.serialize());
  return {
    signed: libsignal.SignedPreKeyRecord.new(nextId(), at, publicKey, pair, signature),
    lastResort: makeKyberKey(identity, nextId(), at),
  };
}

function makeKyberKey(identity: libsignal.PrivateKey, id: number, at: Millis): Kyber {
  const pair = libsignal.KEMKeyPair.generate();
  return libsignal.KyberPreKeyRecord.new(id, at, pair, identity.sign(pair.getPublicKey().serialize()));
}

export const toUpload = (key: Signed | Kyber) => ({
  keyId: key.id(),
  publicKey: toBase64(key.publicKey().serialize()),
  signature: toBase64(key.signature()),
});

type NewOwn = Pick<Own, "name" | "serviceId" | "identity" | "registrationId"> & { readonly nextId: number };

/** Saves a new identity of ours with its standing keys, in the place of an old one. Inside a transaction of the caller. */
export function saveOwn(database: Database, own: NewOwn, keys: StandingKeys, at: Millis): void {
  const { name, serviceId, identity, registrationId, nextId } = own;
  const row = { own: name, service_id: serviceId, identity: identity.serialize(), registration_id: registrationId };
  putRow(database, "own", { ...row, next_id: nextId, signed_id: 0, last_resort_id: 0, rotated_at: at });
  putRow(database, "identities", { service_id: serviceId, record: identity.getPublicKey().serialize(), at });
  saveStandingKeys(database, name, keys, at);
}

function saveStandingKeys(database: Database, own: OwnName, { signed, lastResort }: StandingKeys, at: Millis): void {
  supersede(database, "signed_pre_keys", own, at);
  supersede(database, "kyber_pre_keys", own, at, "AND is_last_resort = 1");
  putRow(database, "signed_pre_keys", { own, key_id: signed.id(), record: signed.serialize(), at });
  const record = lastResort.serialize();
  putRow(database, "kyber_pre_keys", { own, key_id: lastResort.id(), record, at, is_last_resort: 1 });
  const sql = "UPDATE signal_own SET signed_id = ?, last_resort_id = ?, rotated_at = ? WHERE own = ?";
  database.run(sql, signed.id(), lastResort.id(), at, own);
}

function supersede(database: Database, table: string, own: OwnName, at: Millis, which = ""): void {
  database.run(`UPDATE signal_${table} SET stale_at = ? WHERE own = ? AND stale_at IS NULL ${which}`, at, own);
}

type KeyDeps = Pick<NativeContext, "database" | "now" | "log">;
const counts = v.object({ count: v.number(), pqCount: v.number() });

/**
 * Fills the one-time lists up to 100 when the server has few left, and replaces the standing keys when they are two days old.
 * The one-time lists always go along, since some servers take an absent list for an empty one.
 * @returns true when something was uploaded
 * @throws BridgeError `signal_protocol` when the server refuses, and those of `ChatLine.request`
 */
export async function refreshKeys({ database, now, log }: KeyDeps, line: ChatLine, own: Own): Promise<boolean> {
  const answer = await line.request(ask.countKeys(own.name));
  if (own.name === "pni" && answer.status >= 400 && answer.status < 429) {
    log.info("no pre-keys for the number: the account has lost it", { status: answer.status });
    return false;
  }
  const { count, pqCount } = answerOf(counts, answer, "count pre-keys");
  const at = now();
  const sql = "SELECT rotated_at AS rotatedAt FROM signal_own WHERE own = ?";
  const isRotating =
    Math.abs(at - (database.get<{ rotatedAt: number }>(sql, own.name)?.rotatedAt ?? 0)) >= rotateAfterMs;
  if (!isRotating && Math.min(count, pqCount) >= countMin) return false;
  const json = database.transaction(() => makeAndSave(database, own, isRotating, at));
  const reply = await line.request(ask.uploadKeys(own.name, json));
  if (isGood(reply)) return true;
  // The rotation did not take place, so that the next round repeats it.
  if (isRotating) database.run("UPDATE signal_own SET rotated_at = 0 WHERE own = ?", own.name);
  throw refused("upload pre-keys", reply);
}

function makeAndSave(database: Database, { name: own, identity }: Own, isRotating: boolean, at: Millis) {
  const nextId = takeIds(database, own, 2 * batchSize + 2);
  const oneTime = Array.from({ length: batchSize }, () => {
    const pair = libsignal.PrivateKey.generate();
    return libsignal.PreKeyRecord.new(nextId(), pair.getPublicKey(), pair);
  });
  const kyber = Array.from({ length: batchSize }, () => makeKyberKey(identity, nextId(), at));
  supersede(database, "pre_keys", own, at);
  supersede(database, "kyber_pre_keys", own, at, "AND is_last_resort = 0");
  for (const key of oneTime) putRow(database, "pre_keys", { own, key_id: key.id(), record: key.serialize(), at });
  for (const key of kyber) putRow(database, "kyber_pre_keys", { own, key_id: key.id(), record: key.serialize(), at });
  const standing = isRotating ? makeStandingKeys(identity, nextId, at) : null;
  if (standing !== null) saveStandingKeys(database, own, standing, at);
  return {
    preKeys: oneTime.map((key) => ({ keyId: key.id(), publicKey: toBase64(key.publicKey().serialize()) })),
    pqPreKeys: kyber.map(toUpload),
    ...(standing && { signedPreKey: toUpload(standing.signed), pqLastResortPreKey: toUpload(standing.lastResort) }),
  };
}

/** Takes ids from one counter for all kinds: they stay unique, and wrap after 16 million. Inside a transaction of the caller. */
function takeIds(database: Database, own: OwnName, count: number): () => number {
  const row = database.get<{ next: number }>("SELECT next_id AS next FROM signal_own WHERE own = ?", own);
  let next = row === undefined || row.next + count > keyIdMax ? 1 : row.next;
  database.run("UPDATE signal_own SET next_id = ? WHERE own = ?", next + count, own);
  return () => next++;
}

export function pruneKeys(database: Database, now: Millis): void {
  for (const [table, which] of [
    ["signal_pre_keys", ""],
    ["signal_kyber_pre_keys", "AND is_last_resort = 0"],
  ] as const)
    database.run(
      `DELETE FROM ${table} AS old WHERE stale_at < ? ${which} AND key_id NOT IN
       (SELECT key_id FROM ${table} WHERE own = old.own ${which} ORDER BY at DESC, key_id DESC LIMIT ${oneTimeKept})`,
      now - oneTimeKeptMs,
    );
  database.run("DELETE FROM signal_signed_pre_keys WHERE stale_at < ?", now - signedKeptMs);
  database.run("DELETE FROM signal_kyber_pre_keys WHERE is_last_resort = 1 AND stale_at < ?", now - signedKeptMs);
  database.run(`DELETE FROM signal_kyber_used AS used WHERE NOT EXISTS
    (SELECT 1 FROM signal_kyber_pre_keys WHERE own = used.own AND key_id = used.kyber_id)`);
}
