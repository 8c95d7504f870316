/**
 * One delivery, from its bytes to an `Envelope`.
 *
 *   decrypt ─▶ parse ─▶ key distribution ─▶ may they write there? ─▶ news ─▶ Envelope
 *      │          └ breaks a rule: quarantine, the ratchet's step is kept
 *      ├ storage fault: throw; nothing is acknowledged, all comes again
 *      ├ processed before: acknowledge
 *      └ undecryptable: draft dropped, quarantine, perhaps ask to send again
 *
 * Everything it does to the database waits in the overlay until the caller's transaction. **Source:** SIGNAL-NATIVE 4.7, 4.13.
 */
import { fromBinary } from "@bufbuild/protobuf";
import {
  type CiphertextMessageType,
  DecryptionErrorMessage,
  ErrorCode,
  LibSignalErrorBase,
  ProtocolAddress,
  processSenderKeyDistributionMessage,
  type PublicKey,
  SenderKeyDistributionMessage,
} from "@signalapp/libsignal-client";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Address, Envelope as Delivered, Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import type { NativeAccount } from "./account.ts";
import { type Bytes, owned, toBase64 } from "./bytes.ts";
import type { Incoming } from "./connect.ts";
import { readContent, type Sender, toAci } from "./content.ts";
import { decrypt, type Plain, type Sealing } from "./decrypt.ts";
import { groupIdOf } from "./groups.ts";
import type { GroupClaim, GroupKeeper } from "./membership.ts";
import { type Job, takeNews } from "./news.ts";
import { type Content, ContentSchema, type Envelope, Envelope_Type, EnvelopeSchema } from "./proto/signal_pb.ts";
import type { Overlay } from "./store.ts";

/** Whom the loops will listen to. `groupId` as `Chat` has it. Strangers get nothing from us, receipts included. */
export type IsAllowed = (who: Address, groupId: string | null) => boolean;

export type ReceiveDeps = {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
  readonly account: NativeAccount;
  readonly trustRoots: readonly PublicKey[];
  readonly isAllowed: IsAllowed;
  readonly addressOf: (aci: string) => Address;
  /** As the owner's phone lists that person. */
  readonly nameOf: (aci: string) => string | null;
  readonly groups: Pick<GroupKeeper, "standing">;
};

/** What became of one delivery. */
export type Outcome = {
  readonly envelope: Delivered | null;
  /** Why it was set aside; null when it was not. */
  readonly quarantine: string | null;
  readonly jobs: readonly Job[];
  readonly isLast: boolean;
  /** From somebody on the allow list. */
  readonly isForUs: boolean;
  /** Not opened: first the server must say who may write in that group. */
  readonly claim: GroupClaim | null;
};

export const nothing: Outcome = {
  envelope: null,
  quarantine: null,
  jobs: [],
  isLast: false,
  isForUs: false,
  claim: null,
};

/** @throws BridgeError `database` */
export async function openEnvelope(
  deps: ReceiveDeps,
  overlay: Overlay,
  incoming: Incoming,
  now: Millis,
): Promise<Outcome> {
  let envelope: Envelope;
  try {
    envelope = fromBinary(EnvelopeSchema, incoming.bytes);
  } catch {
    return { ...nothing, quarantine: "envelope not readable" };
  }
  if (envelope.type === Envelope_Type.SERVER_DELIVERY_RECEIPT)
    return { ...nothing, envelope: toServerReceipt(deps, envelope) };
  const sealing: Sealing = {
    aci: null,
    deviceId: 0,
    number: null,
    isSealed: false,
    hint: 1,
    groupId: null,
    original: null,
  };
  const serverAt = incoming.serverAt ?? (Number(envelope.serverTimestamp) || null);
  let plain: Plain;
  try {
    const result = await decrypt(deps, overlay, envelope, serverAt ?? now, sealing);
    if ("dropped" in result) {
      overlay.drop();
      deps.log.debug("delivery dropped", { reason: result.dropped });
      return { ...nothing, quarantine: result.dropped };
    }
    plain = result;
  } catch (error) {
    return failed(deps, overlay, envelope, sealing, error);
  }
  const sender = senderOf(deps, sealing, Number(envelope.clientTimestamp), serverAt);
  const read = await readPlain(deps, overlay, envelope, plain, sender, sealing, now).catch((error: unknown) => {
    throwStorageFault(overlay, error);
    return "content not usable";
  });
  const isForUs = sender.isOwn || deps.isAllowed(sender, null);
  if (typeof read === "string") return { ...nothing, quarantine: read, isForUs };
  const jobs = plain.usedPreKey ? [...read.jobs, { kind: "refreshKeys" } as const] : read.jobs;
  return { ...read, jobs, isForUs };
}

function senderOf(deps: ReceiveDeps, sealing: Sealing, sentAt: Millis, serverAt: Millis | null): Sender {
  const aci = sealing.aci ?? "";
  const isOwn = aci === deps.account.aci.serviceId;
  const number = sealing.number ?? deps.addressOf(aci).number;
  return { aci, deviceId: sealing.deviceId, number, name: deps.nameOf(aci), isOwn, sentAt, serverAt };
}

/**
 * What a decrypted body says, or the reason to set it aside: then the ratchet's step is kept all the same.
 * @throws BridgeError `database`
 */
async function readPlain(
  deps: ReceiveDeps,
  overlay: Overlay,
  envelope: Envelope,
  plain: Plain,
  sender: Sender,
  sealing: Sealing,
  now: Millis,
): Promise<Outcome | string> {
  let content: Content;
  try {
    content = fromBinary(ContentSchema, plain.body);
  } catch {
    return "content not readable";
  }
  // A plaintext is authenticated by nobody: it may ask to send again, and nothing else.
  const isRetryRequest = content.content.case === "decryptionErrorMessage";
  if (plain.isPlaintext && !isRetryRequest) return "plaintext with content";
  if (content.senderKeyDistributionMessage.length > 0) {
    try {
      const from = ProtocolAddress.new(sender.aci, sender.deviceId);
      const message = SenderKeyDistributionMessage.deserialize(owned(content.senderKeyDistributionMessage));
      await processSenderKeyDistributionMessage(from, message, overlay.stores(plain.own).senderKeys);
    } catch (error) {
      throwStorageFault(overlay, error);
      return "key distribution not readable";
    }
  }
  const reading = readContent(content, sender, now, deps.addressOf);
  if ("reason" in reading) return reading.reason;
  const claim = groupClaim(deps, content, sender);
  const standing = claim === null ? "member" : deps.groups.standing(claim, sender.aci);
  if (standing === "unknown") return { ...nothing, claim };
  if (standing === "stranger") return "not a member of the group, or may not write there";
  const news = takeNews(deps, overlay, content, sender, { envelope, sealing, isForPni: plain.own.name === "pni" });
  return { ...nothing, envelope: reading.envelope, ...news };
}

/** Of messages that somebody else writes into a group on the allow list. */
function groupClaim({ isAllowed }: ReceiveDeps, { content }: Content, sender: Sender): GroupClaim | null {
  const data =
    content.case === "dataMessage"
      ? content.value
      : content.case === "editMessage"
        ? content.value.dataMessage
        : undefined;
  if (data?.groupV2 === undefined || sender.isOwn) return null;
  const groupId = groupIdOf(data.groupV2.masterKey);
  if (!isAllowed(sender, groupId)) return null;
  return { groupId, masterKey: owned(data.groupV2.masterKey), revision: data.groupV2.revision };
}

function throwStorageFault(overlay: Overlay, error: unknown): void {
  const fault = overlay.fault() ?? (error instanceof BridgeError && error.code === "database" ? error : null);
  if (fault === null) return;
  throw new BridgeError("database", "Cannot open messages as the key store failed", { cause: fault });
}

/** Sorts a failure of libsignal or of our reading. @throws BridgeError `database` when it was the storage, and nothing is final */
function failed(deps: ReceiveDeps, overlay: Overlay, envelope: Envelope, sealing: Sealing, error: unknown): Outcome {
  overlay.drop();
  throwStorageFault(overlay, error);
  if (LibSignalErrorBase.is(error, ErrorCode.DuplicatedMessage)) return nothing;
  const isLibsignal = error instanceof LibSignalErrorBase;
  const code = isLibsignal ? (ErrorCode[error.code] ?? "Generic") : "Malformed";
  const { aci, deviceId, isSealed, hint, original } = sealing;
  if (aci === null) return { ...nothing, quarantine: code };
  if (LibSignalErrorBase.is(error, ErrorCode.InvalidSession)) overlay.putSession("aci", aci, deviceId, null);
  const sentAt = Number(envelope.clientTimestamp);
  const sender = senderOf(deps, sealing, sentAt, null);
  const groupId = sealing.groupId === null ? null : toBase64(sealing.groupId);
  const isForUs = sender.isOwn || deps.isAllowed(sender, groupId);
  deps.log.info("message could not be decrypted", { code, isSealed, hint, isForUs });
  // Only what libsignal refused can be mended by sending it again; the sender must be known and have promised to do so. Of a
  // time that nobody can have sent at, libsignal makes no request.
  const isAsking =
    isLibsignal && isForUs && original !== null && hint === 1 && deviceId > 0 && Number.isSafeInteger(sentAt);
  const jobs: Job[] = isAsking
    ? [
        {
          kind: "askAgain",
          aci,
          deviceId,
          sentAt,
          isSealed,
          groupId: sealing.groupId,
          error: errorMessage(original, sentAt, deviceId),
        },
      ]
    : [];
  return {
    envelope: {
      source: { aci, number: sender.number },
      sourceDevice: deviceId,
      sentAt,
      serverAt: null,
      chat: null,
      isOwn: sender.isOwn,
      sourceName: null,
      content: {
        kind: "undecryptable",
        code,
        isIdentityChange: LibSignalErrorBase.is(error, ErrorCode.UntrustedIdentity),
      },
    },
    quarantine: code,
    jobs,
    isLast: false,
    isForUs,
    claim: null,
  };
}

const errorMessage = (
  original: { bytes: Bytes; type: CiphertextMessageType },
  sentAt: Millis,
  deviceId: number,
): Bytes => DecryptionErrorMessage.forOriginal(original.bytes, original.type, sentAt, deviceId).serialize();

/** The server itself says that an unsealed message of ours was delivered. */
function toServerReceipt({ addressOf }: ReceiveDeps, envelope: Envelope): Delivered {
  const aci = toAci(envelope.sourceServiceIdBinary, envelope.sourceServiceId);
  const sentAt = Number(envelope.clientTimestamp);
  return {
    source: aci === null ? null : { aci, number: addressOf(aci).number },
    sourceDevice: envelope.sourceDeviceId || null,
    sentAt,
    serverAt: Number(envelope.serverTimestamp) || null,
    chat: null,
    isOwn: false,
    sourceName: null,
    content: { kind: "receipt", receipt: "delivery", sentAts: [sentAt] },
  };
}
