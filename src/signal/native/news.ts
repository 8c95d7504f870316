/**
 * What a content tells besides its message: keys, timers, group keys, settings of the account. Everything is written with the
 * batch; what needs the network becomes a `Job` for after the acknowledgement. Only people and groups on the allow list leave
 * a trace here: of the owner's other conversations nothing is remembered, their block list and read marks included.
 */
import { KyberPreKeyRecord, IdentityKeyPair, SignedPreKeyRecord } from "@signalapp/libsignal-client";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { type Bytes, owned } from "./bytes.ts";
import { type Sender, toAci } from "./content.ts";
import type { Sealing } from "./decrypt.ts";
import { groupIdOf } from "./groups.ts";
import { saveStandingKeys } from "./keys.ts";
import type {
  AttachmentPointer,
  Content,
  DataMessage,
  Envelope,
  SyncMessage,
  SyncMessage_PniChangeNumber,
} from "./proto/signal_pb.ts";
import type { ReceiveDeps } from "./receive.ts";
import { saveProfileKey, saveRecipient, saveTimer, setPniSignature } from "./recipients.ts";
import type { Overlay } from "./store.ts";

export type Job =
  /** A pre-key was used up. */
  | { readonly kind: "refreshKeys" }
  /** Ask the sender of an undecryptable message to send it again. */
  | {
      readonly kind: "askAgain";
      readonly aci: string;
      readonly deviceId: number;
      readonly sentAt: Millis;
      readonly isSealed: boolean;
      readonly groupId: Bytes | null;
      /** A serialized `DecryptionErrorMessage`. */
      readonly error: Bytes;
    }
  /** Somebody asks us to send again. */
  | { readonly kind: "answerAgain"; readonly aci: string; readonly deviceId: number; readonly request: Bytes }
  /** The owner's contacts lie on the CDN. */
  | { readonly kind: "contacts"; readonly pointer: AttachmentPointer };

/** `isLast`: the account changed, and what comes next must be opened with the new one. */
export type News = { readonly jobs: readonly Job[]; readonly isLast: boolean };

const quiet: News = { jobs: [], isLast: false };

type About = { readonly envelope: Envelope; readonly sealing: Sealing; readonly isForPni: boolean };

export function takeNews(deps: ReceiveDeps, overlay: Overlay, content: Content, sender: Sender, about: About): News {
  const { case: kind, value } = content.content;
  if (kind === "syncMessage") return takeSync(deps, overlay, value, sender, about.envelope);
  const data = kind === "dataMessage" ? value : kind === "editMessage" ? value.dataMessage : undefined;
  const groupId = data?.groupV2 ? groupIdOf(data.groupV2.masterKey) : null;
  if (!sender.isOwn && !deps.isAllowed(sender, groupId)) return quiet;
  if (kind === "decryptionErrorMessage") {
    const job = { kind: "answerAgain", aci: sender.aci, deviceId: sender.deviceId, request: owned(value) } as const;
    return { jobs: [job], isLast: false };
  }
  if (data !== undefined) {
    if (!sender.isOwn) rememberSender(deps.database, overlay, data, sender, groupId === null, about.isForPni);
    rememberGroup(deps.database, overlay, data, groupId);
  }
  return quiet;
}

function rememberSender(
  database: Database,
  overlay: Overlay,
  data: DataMessage,
  sender: Sender,
  isDirect: boolean,
  isForPni: boolean,
): void {
  overlay.later(() => {
    saveRecipient(database, sender.aci, sender.number, null);
    if (data.profileKey.length === 32) saveProfileKey(database, sender.aci, owned(data.profileKey));
    if (isDirect) saveTimer(database, sender.aci, data.expireTimer, data.expireTimerVersion);
    if (isForPni) setPniSignature(database, sender.aci, true);
  });
}

/** The master key is all that a send into the group needs; the rest is fetched with it. */
function rememberGroup(database: Database, overlay: Overlay, data: DataMessage, groupId: string | null): void {
  if (data.groupV2 === undefined || groupId === null) return;
  const { masterKey, revision } = data.groupV2;
  overlay.later(
    () =>
      void database.run(
        `INSERT INTO signal_groups (group_id, master_key, revision) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET revision = max(revision, excluded.revision)`,
        groupId,
        owned(masterKey),
        revision,
      ),
  );
}

/** From our own devices only: `readContent` has refused it from anybody else. */
function takeSync(deps: ReceiveDeps, overlay: Overlay, sync: SyncMessage, sender: Sender, envelope: Envelope): News {
  const { case: kind, value } = sync.content;
  const update = (sql: string, ...params: (string | number | Uint8Array)[]): News => {
    overlay.later(() => void deps.database.run(`UPDATE signal_account SET ${sql}`, ...params));
    return { jobs: [], isLast: true };
  };
  switch (kind) {
    case "sent": {
      const data = value.message ?? value.editMessage?.dataMessage;
      if (data === undefined) return quiet;
      const groupId = data.groupV2 ? groupIdOf(data.groupV2.masterKey) : null;
      if (groupId !== null) {
        if (deps.isAllowed({ aci: sender.aci, number: sender.number }, groupId))
          rememberGroup(deps.database, overlay, data, groupId);
        return quiet;
      }
      const aci = toAci(value.destinationServiceIdBinary, value.destinationServiceId);
      if (aci !== null && aci !== sender.aci && deps.isAllowed(deps.addressOf(aci), null))
        overlay.later(() => saveTimer(deps.database, aci, data.expireTimer, data.expireTimerVersion));
      return quiet;
    }
    case "contacts":
      return value.blob === undefined ? quiet : { jobs: [{ kind: "contacts", pointer: value.blob }], isLast: false };
    case "configuration":
      return update(
        "sends_read_receipts = ?, sends_typing = ?, synced_at = ?",
        value.readReceipts ? 1 : 0,
        value.typingIndicators ? 1 : 0,
        deps.clock.now(),
      );
    case "keys":
      if (value.accountEntropyPool === "") return quiet;
      return update("entropy_pool = ?", value.accountEntropyPool);
    case "pniChangeNumber":
      // Only the phone may change the number.
      if (sender.deviceId !== 1) return quiet;
      return changeNumber(deps, overlay, value, envelope);
    default:
      return quiet;
  }
}

/** The account has another number: another PNI identity, made by the phone. **Source:** SIGNAL-NATIVE 4.12. */
function changeNumber(
  deps: ReceiveDeps,
  overlay: Overlay,
  change: SyncMessage_PniChangeNumber,
  envelope: Envelope,
): News {
  const { database, clock } = deps;
  const serviceId = updatedPni(envelope);
  if (serviceId === null) {
    deps.log.warn("number change without a new identity ignored");
    return quiet;
  }
  const { privateKey, publicKey } = IdentityKeyPair.deserialize(owned(change.identityKeyPair));
  const signed = SignedPreKeyRecord.deserialize(owned(change.signedPreKey));
  const lastResort = KyberPreKeyRecord.deserialize(owned(change.lastResortKyberPreKey));
  const at = clock.now();
  overlay.later(() => {
    for (const table of ["pre_keys", "signed_pre_keys", "kyber_pre_keys", "kyber_used", "sessions"])
      database.run(`DELETE FROM signal_${table} WHERE own = 'pni'`);
    database.run("UPDATE signal_account SET number = ?", change.newE164);
    database.run(
      `INSERT OR REPLACE INTO signal_own (own, service_id, identity, registration_id, next_id, signed_id, last_resort_id, rotated_at)
       VALUES ('pni', ?, ?, ?, ?, 0, 0, ?)`,
      serviceId,
      privateKey.serialize(),
      change.registrationId,
      Math.max(signed.id(), lastResort.id()) + 1,
      at,
    );
    const sql = "INSERT OR REPLACE INTO signal_identities (service_id, record, at) VALUES (?, ?, ?)";
    database.run(sql, serviceId, publicKey.serialize(), at);
    saveStandingKeys(database, "pni", { signed, lastResort }, at);
  });
  return { jobs: [{ kind: "refreshKeys" }], isLast: true };
}

function updatedPni({ updatedPniBinary: binary, updatedPni: text }: Envelope): string | null {
  const uuid = binary.length === 16 ? toAci(binary, "") : toAci(null, text.replace(/^PNI:/, ""));
  return uuid === null ? null : `PNI:${uuid}`;
}
