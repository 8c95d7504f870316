/**
 * From deliveries to a batch that the caller can commit.
 *
 *   seen? ─▶ attempt counted ─▶ decrypt ─▶ parse ─▶ key distribution, news ─▶ Envelope
 *     │                            │          └ breaks a rule: quarantine, the ratchet's step is kept
 *     └▶ acknowledge               ├ storage fault: throw; nothing is acknowledged, all comes again
 *                                  ├ processed before: acknowledge
 *                                  └ undecryptable: draft dropped, quarantine, perhaps ask to send again
 *
 * Everything a delivery does to the database waits in the overlay until the caller's transaction. An attempt is counted in a
 * transaction of its own *before* libsignal sees the bytes, so that a message that kills the process is given up in the end.
 * What comes for a second time goes alone, lest its neighbours are counted with it. **Source:** SIGNAL-NATIVE 4.7, 4.10.
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
import { createHash } from "node:crypto";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Address, Envelope as Delivered, Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import type { NativeAccount } from "./account.ts";
import { type Bytes, owned } from "./bytes.ts";
import type { Incoming } from "./connect.ts";
import { readContent, type Sender, toAci } from "./content.ts";
import { decrypt, type Plain, type Sealing } from "./decrypt.ts";
import { type Job, takeNews } from "./news.ts";
import { type Content, ContentSchema, type Envelope, Envelope_Type, EnvelopeSchema } from "./proto/signal_pb.ts";
import type { Overlay } from "./store.ts";

/** One transaction's worth. */
const batchLengthMax = 50;
/** So many process deaths over the same bytes, and they are set aside. */
const attemptsMax = 5;

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
};

export type Opened = {
  readonly envelopes: Delivered[];
  /** To be acknowledged after the commit, in order of delivery. */
  readonly deliveries: Incoming[];
  /** To be done after the acknowledgement. */
  readonly jobs: Job[];
};

/**
 * Opens up to 50 deliveries into `overlay`; `next` gives them one by one, null for none left. `putBack` returns one for the
 * next batch.
 * @throws BridgeError `database`: then nothing of the overlay may be written, and nothing acknowledged
 */
export async function openBatch(
  deps: ReceiveDeps,
  overlay: Overlay,
  next: () => Incoming | null,
  putBack: (incoming: Incoming) => void,
): Promise<Opened> {
  const opened: Opened = { envelopes: [], deliveries: [], jobs: [] };
  while (opened.deliveries.length < batchLengthMax) {
    const incoming = next();
    if (incoming === null) break;
    const hash = owned(createHash("sha256").update(incoming.bytes).digest());
    if (deps.database.get("SELECT 1 FROM signal_seen WHERE hash = ?", hash) !== undefined) {
      opened.deliveries.push(incoming);
      continue;
    }
    const isAgain = attemptsOf(deps.database, hash) > 0;
    if (isAgain && opened.deliveries.length > 0) {
      putBack(incoming);
      break;
    }
    const isLast = await openOne(deps, overlay, incoming, hash, opened);
    if (isLast || isAgain) break;
  }
  return opened;
}

const attemptsOf = (database: Database, hash: Bytes): number =>
  database.get<{ count: number }>("SELECT count FROM signal_attempts WHERE hash = ?", hash)?.count ?? 0;

/** The attempts of a batch that was not committed did not count. Best effort, as the database may be what failed. */
export function forgiveAttempts(database: Database, deliveries: readonly Incoming[]): void {
  try {
    for (const { bytes } of deliveries)
      database.run("DELETE FROM signal_attempts WHERE hash = ?", createHash("sha256").update(bytes).digest());
  } catch {
    // Then the count stands: it takes five of them, and a restart in between.
  }
}

/** True when the batch must end here, as the account has changed. */
async function openOne(
  deps: ReceiveDeps,
  overlay: Overlay,
  incoming: Incoming,
  hash: Bytes,
  opened: Opened,
): Promise<boolean> {
  const { database, clock } = deps;
  const now = clock.now();
  const attempts = attemptsOf(database, hash);
  const outcome: Outcome =
    attempts >= attemptsMax
      ? { envelope: null, quarantine: "it ended the process each time", jobs: [], isLast: false, isForUs: true }
      : await (async () => {
          const sql = `INSERT INTO signal_attempts (hash, count, at) VALUES (?, 1, ?)
            ON CONFLICT DO UPDATE SET count = count + 1`;
          database.run(sql, hash, now);
          return openEnvelope(deps, overlay, incoming, now);
        })();
  overlay.later(() => {
    database.run("INSERT OR IGNORE INTO signal_seen (hash, at) VALUES (?, ?)", hash, now);
    database.run("DELETE FROM signal_attempts WHERE hash = ?", hash);
    if (outcome.quarantine === null) return;
    // The bytes, which only we can open, are kept of those on the allow list; of strangers just the fact.
    const sql = "INSERT OR REPLACE INTO signal_quarantine (hash, reason, envelope, at) VALUES (?, ?, ?, ?)";
    database.run(sql, hash, outcome.quarantine, outcome.isForUs ? incoming.bytes : null, now);
  });
  overlay.keep();
  opened.deliveries.push(incoming);
  if (outcome.envelope !== null) opened.envelopes.push(outcome.envelope);
  opened.jobs.push(...outcome.jobs);
  return outcome.isLast;
}

type Outcome = {
  readonly envelope: Delivered | null;
  /** Why it was set aside; null when it was not. */
  readonly quarantine: string | null;
  readonly jobs: readonly Job[];
  readonly isLast: boolean;
  /** From somebody on the allow list. */
  readonly isForUs: boolean;
};

const nothing: Outcome = { envelope: null, quarantine: null, jobs: [], isLast: false, isForUs: false };

async function openEnvelope(deps: ReceiveDeps, overlay: Overlay, incoming: Incoming, now: Millis): Promise<Outcome> {
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
): Promise<Omit<Outcome, "isForUs"> | string> {
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
  const news = takeNews(deps, overlay, content, sender, { envelope, sealing, isForPni: plain.own.name === "pni" });
  return { envelope: reading.envelope, quarantine: null, ...news };
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
  const isForUs = sender.isOwn || deps.isAllowed(sender, null);
  deps.log.info("message could not be decrypted", { code, isSealed, hint, isForUs });
  // Only what libsignal refused can be mended by sending it again; the sender must be known and have promised to do so.
  const isAsking = isLibsignal && isForUs && original !== null && hint === 1 && deviceId > 0;
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
