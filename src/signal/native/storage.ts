/**
 * The storage service, read only: what the owner's phone keeps there for its other devices.
 *
 *   login (chat host) ─▶ manifest, if newer ─▶ ids of items ─▶ read ─▶ account: own profile key, settings
 *                                                                 ├▶ contacts on the allow list: name, number, key, blocked
 *                                                                 └▶ groups on the allow list: master key, blocked
 *
 * All other records are skipped. **Source:** `docs/signal-protocol.md`, "Storage service".
 */
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { hkdf } from "@signalapp/libsignal-client";
import { createHmac } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { learnProfileKey, saveRecipient } from "./account.ts";
import { concat, openGcm, owned, readOrThrow, reasonOf, toBase64, utf8 } from "./bytes.ts";
import type { Bytes, NativeContext, PinnedRequest } from "./context.ts";
import { groupIdOf, toAci } from "./ids.ts";
import * as wire from "./proto/signal_pb.ts";
import { answerOf, ask, isGood, login, refused } from "./server.ts";

const timeoutMs: Millis = 30_000;
const bytesMax = 32 * 1024 * 1024;
const idsMax = 2_500;
/** Field numbers of `StorageRecord`: contact, groupV2, account. */
const wantedTypes = new Set([1, 3, 4]);

/** @throws BridgeError `signal_unreachable` `signal_timeout` `signal_protocol` */
export async function readStorage(context: NativeContext): Promise<void> {
  const { database, account, log, reload } = context;
  const { storageKey: key } = account();
  if (key === null) return;
  const fetch = await openHost(context);
  const known =
    database.get<{ version: number }>("SELECT storage_version AS version FROM signal_account")?.version ?? 0;
  const sealed = await fetch("GET", known === 0 ? "manifest" : `manifest/version/${known}`);
  if (sealed === null) return;
  const { version, value } = fromBinary(wire.StorageManifestSchema, sealed);
  const open = () => fromBinary(wire.ManifestRecordSchema, openGcm(hmac(key, `Manifest_${version}`), value));
  const manifest = readOrThrow(open, (cause) => {
    // The phone has another key by now; the next upkeep asks for it.
    database.run("UPDATE signal_account SET storage_key = NULL");
    reload();
    return new BridgeError("signal_protocol", "Cannot read the storage service as our key does not open it", { cause });
  });
  const ids = manifest.identifiers.flatMap(({ raw, type }) => (wantedTypes.has(type) ? [owned(raw)] : []));
  const records: wire.StorageRecord["record"][] = [];
  for (let at = 0; at < ids.length; at += idsMax) {
    const wanted = create(wire.ReadOperationSchema, { readKey: ids.slice(at, at + idsMax) });
    const answer = (await fetch("PUT", "read", toBinary(wire.ReadOperationSchema, wanted))) ?? owned([]);
    for (const item of fromBinary(wire.StorageItemsSchema, answer).items)
      try {
        const plain = openGcm(itemKeyOf(key, owned(manifest.recordIkm), owned(item.key)), item.value);
        records.push(fromBinary(wire.StorageRecordSchema, plain).record);
      } catch (error) {
        log.info("an item of the storage service is not readable", { reason: reasonOf(error) });
      }
  }
  database.transaction(() => {
    for (const record of records) apply(context, record);
    database.run("UPDATE signal_account SET storage_version = ?", Number(version));
  });
  reload();
}

/** Reads everything even if nothing is new, since a record that was skipped before may count now. @throws BridgeError as `readStorage` */
export function readAgain(context: NativeContext): Promise<void> {
  context.database.run("UPDATE signal_account SET storage_version = 0");
  return readStorage(context);
}

/** Resolves to the body; null where the host has nothing, or nothing new. */
type HostFetch = (method: PinnedRequest["method"], path: string, body?: Uint8Array) => Promise<Bytes | null>;

async function openHost({ service, line, closing }: NativeContext): Promise<HostFetch> {
  const what = "read the storage service";
  const { username, password } = answerOf(login, await line().request(ask.storageLogin()), what);
  const authorization = `Basic ${toBase64(utf8(`${username}:${password}`))}`;
  return async (method, path, body) => {
    const url = `${service.storageUrl}/v1/storage/${path}`;
    const headers = { authorization, "content-type": "application/x-protobuf" };
    const bounds = { bytesMax, timeoutMs, signal: closing() };
    const answer = await service.fetch({ method, url, headers, ...(body && { body }), ...bounds });
    if (answer.status === 204 || answer.status === 404) return null;
    if (!isGood(answer)) throw refused(what, answer);
    return answer.body;
  };
}

const hmac = (key: Bytes, text: string): Bytes => owned(createHmac("sha256", key).update(text).digest());

const itemKeyOf = (key: Bytes, recordKey: Bytes, id: Bytes): Bytes =>
  recordKey.length === 0
    ? hmac(key, `Item_${toBase64(id)}`)
    : hkdf(32, recordKey, concat(utf8("20240801_SIGNAL_STORAGE_SERVICE_ITEM_"), id), null);

function apply(
  { database, isAllowed, account }: NativeContext,
  { case: kind, value }: wire.StorageRecord["record"],
): void {
  switch (kind) {
    case "contact": {
      const aci = toAci(value.aciBinary, value.aci);
      const number = value.e164 || null;
      if (aci === null) return;
      if (isAllowed({ aci, number }, null)) {
        const names = [value.systemGivenName, value.systemFamilyName].join(" ").trim();
        saveRecipient(database, aci, number, names || `${value.givenName} ${value.familyName}`.trim() || null);
        if (value.profileKey.length === 32) learnProfileKey(database, aci, value.profileKey);
      }
      // Members of allowed groups have a row too, without being on the list themselves.
      database.run("UPDATE signal_recipients SET is_blocked = ? WHERE aci = ?", Number(value.blocked), aci);
      return;
    }
    case "groupV2": {
      if (value.masterKey.length !== 32) return;
      const groupId = groupIdOf(value.masterKey);
      if (!isAllowed({ aci: account().aci.serviceId, number: account().number }, groupId)) return;
      const sql = `INSERT INTO signal_groups (group_id, master_key, revision, is_blocked) VALUES (?, ?, 0, ?)
        ON CONFLICT DO UPDATE SET is_blocked = excluded.is_blocked`;
      database.run(sql, groupId, value.masterKey, Number(value.blocked));
      return;
    }
    case "account": {
      if (value.profileKey.length === 32) database.run("UPDATE signal_account SET profile_key = ?", value.profileKey);
      const sql = "UPDATE signal_account SET sends_read_receipts = ?, sends_typing = ?";
      database.run(sql, Number(value.readReceipts), Number(value.typingIndicators));
      return;
    }
    case undefined:
  }
}
