/**
 * Takes what a content tells besides its message: keys, timers, group keys, settings of the account. All of it is written with
 * the batch; work that needs the network becomes a `Job` for after the acknowledgement. Only people and groups on the allow
 * list leave a trace here: the owner's other conversations are not remembered, nor the rest of the block list, nor read marks.
 */
import * as libsignal from "@signalapp/libsignal-client";
import type { Millis } from "../../core/model.ts";
import { findRecipient, saveProfileKey, saveRecipient, saveTimer, storageKeyOf } from "./account.ts";
import { owned, toBase64 } from "./bytes.ts";
import { dataOf, type Sender, speaksOfTimer } from "./content.ts";
import type { Bytes, ReceiveDeps } from "./context.ts";
import { groupIdOf, toAci } from "./ids.ts";
import { saveOwn } from "./keys.ts";
import type * as wire from "./proto/signal_pb.ts";
import { SyncMessage_FetchLatest_Type as FetchLatest } from "./proto/signal_pb.ts";
import type { Overlay } from "./key-store.ts";

export type Job = Readonly<
  /** `refreshKeys`: a pre-key was used up. `storage`: the storage service has something new. */
  | { kind: "refreshKeys" | "storage" }
  /** Ask the sender of an undecryptable message to send it again. */
  | { kind: "askAgain"; aci: string; groupId: Bytes | null; request: libsignal.DecryptionErrorMessage }
  /** A person asks us to send again: a serialized `DecryptionErrorMessage`. */
  | { kind: "answerAgain"; aci: string; deviceId: number; request: Bytes }
  | { kind: "contacts"; pointer: wire.AttachmentPointer }
  | { kind: "receipt"; aci: string; sentAts: readonly Millis[] }
>;

export type Desk = ReceiveDeps & { readonly overlay: Overlay };

/** Merges the jobs of a batch: the lists of keys are looked at once however many were used, and a person gets one receipt. */
export function mergeJobs(jobs: readonly Job[]): Job[] {
  const merged = new Map<unknown, Job>();
  for (const job of jobs) {
    const isOnce = job.kind === "refreshKeys" || job.kind === "storage";
    const key = job.kind === "receipt" ? job.aci : isOnce ? job.kind : job;
    const known = merged.get(key);
    const isMore = job.kind === "receipt" && known?.kind === "receipt";
    merged.set(key, isMore ? { ...job, sentAts: [...known.sentAts, ...job.sentAts] } : job);
  }
  return [...merged.values()];
}

type News = { readonly jobs: readonly Job[]; readonly isLast: boolean };
const quiet: News = { jobs: [], isLast: false };
const work = (job: Job): News => ({ jobs: [job], isLast: false });

type About = { readonly envelope: wire.Envelope; readonly isForPni: boolean };

export function takeNews(deps: Desk, content: wire.Content, sender: Sender, about: About): News {
  const { database, overlay } = deps;
  const { case: kind, value } = content.content;
  if (kind === "syncMessage") return takeSync(deps, value, sender, about.envelope);
  const data = dataOf(content);
  const groupId = data?.groupV2 ? groupIdOf(data.groupV2.masterKey) : null;
  if (!sender.isOwn && !deps.isAllowed(sender, groupId)) return quiet;
  if (kind === "decryptionErrorMessage")
    return work({ kind: "answerAgain", aci: sender.aci, deviceId: sender.deviceId, request: owned(value) });
  if (data === undefined) return quiet;
  rememberGroup(deps, data, groupId);
  if (sender.isOwn) return quiet;
  overlay.later(() => {
    saveRecipient(database, sender.aci, sender.number, null);
    if (data.profileKey.length === 32) saveProfileKey(database, sender.aci, data.profileKey);
    if (content.content.case === "dataMessage" && speaksOfTimer(data))
      saveTimer(database, sender.aci, data.expireTimer, data.expireTimerVersion);
    if (about.isForPni) database.run("UPDATE signal_recipients SET needs_pni_signature = 1 WHERE aci = ?", sender.aci);
  });
  return quiet;
}

/** Stores the master key, which is all that a send into the group needs; the rest is fetched with it. */
function rememberGroup({ database, overlay }: Desk, data: wire.DataMessage, groupId: string | null): void {
  if (data.groupV2 === undefined || groupId === null) return;
  const { masterKey, revision } = data.groupV2;
  const sql = `INSERT INTO signal_groups (group_id, master_key, revision) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET revision = max(revision, excluded.revision)`;
  overlay.later(() => void database.run(sql, groupId, masterKey, revision));
}

/** Takes a sync message of our own devices: `readContent` has refused those of others. */
function takeSync(deps: Desk, sync: wire.SyncMessage, sender: Sender, envelope: wire.Envelope): News {
  const { database, overlay, now, isAllowed } = deps;
  const { case: kind, value } = sync.content;
  const update = (sql: string, ...params: (Bytes | number)[]): News => {
    overlay.later(() => void database.run(`UPDATE signal_account SET ${sql}`, ...params));
    return { jobs: [], isLast: true };
  };
  switch (kind) {
    case "sent": {
      const data = value.message ?? value.editMessage?.dataMessage;
      if (data === undefined) return quiet;
      const groupId = data.groupV2 ? groupIdOf(data.groupV2.masterKey) : null;
      const aci = toAci(value.destinationServiceIdBinary, value.destinationServiceId);
      const isSelf = aci === sender.aci;
      if (groupId !== null) {
        // A `/allow` of the owner in a group not yet allowed needs the group's key too, since the answer goes there.
        if (isAllowed(sender, groupId) || /^\s*[/／](?:dis)?allow\b/iu.test(data.body))
          rememberGroup(deps, data, groupId);
      } else if (aci !== null && (isSelf || isAllowed({ aci, number: findRecipient(database, aci).number }, null)))
        overlay.later(() => {
          // Note to Self has a timer, too.
          if (isSelf) saveRecipient(database, aci, null, null);
          if (value.message && speaksOfTimer(data)) saveTimer(database, aci, data.expireTimer, data.expireTimerVersion);
        });
      // The phone has another profile key: with the old one our messages would hide the owner's name.
      const key = owned(data.profileKey);
      const isNewKey = key.length === 32 && toBase64(key) !== toBase64(deps.account().profileKey ?? owned([]));
      return isNewKey ? update("profile_key = ?", key) : quiet;
    }
    case "contacts":
      return value.blob === undefined ? quiet : work({ kind: "contacts", pointer: value.blob });
    case "configuration": {
      const settings = [value.readReceipts ? 1 : 0, value.typingIndicators ? 1 : 0];
      return update("sends_read_receipts = ?, sends_typing = ?, synced_at = ?", ...settings, now());
    }
    case "keys": {
      if (value.accountEntropyPool === "") return quiet;
      const changed = update("storage_key = ?, storage_version = 0", storageKeyOf(value.accountEntropyPool));
      return { ...changed, jobs: [{ kind: "storage" }] };
    }
    case "fetchLatest":
      return value.type === FetchLatest.LOCAL_PROFILE || value.type === FetchLatest.STORAGE_MANIFEST
        ? work({ kind: "storage" })
        : quiet;
    case "blocked": {
      const given = [...value.acisBinary.map((id) => toAci(id, "")), ...value.acis.map((id) => toAci(null, id))];
      const acis = given.filter((aci) => aci !== null);
      const groupIds = value.groupIds.map(toBase64);
      overlay.later(() => saveBlocked(deps, acis, groupIds));
      return quiet;
    }
    case "pniChangeNumber":
      // Only the phone, which is device 1, may change the number.
      return sender.deviceId === 1 ? changeNumber(deps, value, envelope) : quiet;
    default:
      return quiet;
  }
}

/** Takes the phone's whole block list; people and groups that are not on the allow list are not remembered. */
function saveBlocked({ database, isAllowed }: ReceiveDeps, acis: readonly string[], groupIds: readonly string[]): void {
  for (const aci of acis)
    if (isAllowed({ aci, number: findRecipient(database, aci).number }, null)) saveRecipient(database, aci, null, null);
  const [people, groups] = [JSON.stringify(acis), JSON.stringify(groupIds)];
  database.run("UPDATE signal_recipients SET is_blocked = aci IN (SELECT value FROM json_each(?))", people);
  database.run("UPDATE signal_groups SET is_blocked = group_id IN (SELECT value FROM json_each(?))", groups);
}

/** Takes the account's new number, and its new PNI identity, made by the phone. **Source:** Signal-Desktop `MessageReceiver`. */
function changeNumber(deps: Desk, change: wire.SyncMessage_PniChangeNumber, envelope: wire.Envelope): News {
  const { database, overlay, now, log } = deps;
  const { updatedPniBinary: binary, updatedPni: text } = envelope;
  const uuid = binary.length === 16 ? toAci(binary, "") : toAci(null, text.replace(/^PNI:/, ""));
  if (uuid === null) {
    log.warn("number change without a new identity ignored");
    return quiet;
  }
  const { privateKey } = libsignal.IdentityKeyPair.deserialize(owned(change.identityKeyPair));
  const signed = libsignal.SignedPreKeyRecord.deserialize(owned(change.signedPreKey));
  const lastResort = libsignal.KyberPreKeyRecord.deserialize(owned(change.lastResortKyberPreKey));
  const at = now();
  overlay.later(() => {
    for (const table of ["pre_keys", "signed_pre_keys", "kyber_pre_keys", "kyber_used", "sessions"])
      database.run(`DELETE FROM signal_${table} WHERE own = 'pni'`);
    database.run("UPDATE signal_account SET number = ?", change.newE164);
    const nextId = Math.max(signed.id(), lastResort.id()) + 1;
    const { registrationId } = change;
    const own = { name: "pni", serviceId: `PNI:${uuid}`, identity: privateKey, registrationId, nextId } as const;
    saveOwn(database, own, { signed, lastResort }, at);
  });
  return { jobs: [{ kind: "refreshKeys" }], isLast: true };
}
