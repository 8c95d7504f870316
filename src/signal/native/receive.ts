/**
 * From deliveries to a batch that the caller can commit.
 *
 *   seen? ─▶ attempt counted ─▶ decrypt ─▶ parse ─▶ key distribution ─▶ may they write there? ─▶ news ─▶ Envelope
 *     └▶ acknowledge               │          │                              └ unknown: it waits (claims.ts), the rest goes on
 *                                  │          └ breaks a rule: quarantine, the ratchet's step is kept
 *                                  ├ storage fault: throw; nothing is acknowledged, all comes again
 *                                  ├ processed before: acknowledge
 *                                  └ undecryptable: draft dropped, quarantine, perhaps ask to send again
 *
 * Everything this does to the database waits in the overlay until the caller's transaction; but for the attempts, which are
 * counted *before* libsignal sees the bytes, so that a message that kills the process is given up in the end. What comes for
 * a second time goes alone, lest its neighbours are given up with it. **Source:**
 * `docs/signal-protocol.md`, "Envelopes", "Asking to send again".
 */
import { fromBinary } from "@bufbuild/protobuf";
import * as libsignal from "@signalapp/libsignal-client";
import { createHash } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Address, Envelope as Delivered, Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { findRecipient } from "./account.ts";
import { owned, reasonOf, toBase64 } from "./bytes.ts";
import { addClaim } from "./claims.ts";
import { dataOf, readContent, type Sender, toEnvelope } from "./content.ts";
import type { Bytes, GroupClaim, Incoming, Line, ReceiveDeps, Waiting } from "./context.ts";
import { decrypt, type Plain, type Sealing } from "./decrypt.ts";
import { groupIdOf, toAci } from "./ids.ts";
import { type Job, takeNews } from "./news.ts";
import * as wire from "./proto/signal_pb.ts";
import { putRow } from "./schema.ts";
import type { Overlay } from "./store.ts";

/** One transaction's worth. */
const batchLengthMax = 50;
/** So many process deaths over the same bytes, and they are set aside. */
const attemptsMax = 5;
const profileKeyUpdate = wire.DataMessage_Flags.PROFILE_KEY_UPDATE;
const blockedText =
  "A person or group that may write here is blocked in Signal: what they write is dropped until you unblock them on the phone.";

/** What became of one delivery. */
type Outcome = {
  readonly envelope?: Delivered;
  /** Why it was set aside. */
  readonly quarantine?: string;
  /** To be done after the acknowledgement. */
  readonly jobs?: readonly Job[];
  /** The account changed, and what comes next must be opened with the new one. */
  readonly isLast?: boolean;
  /** From a person on the allow list. */
  readonly isForUs?: boolean;
  /** Not opened: first the server must say who may write in that group. */
  readonly claim?: GroupClaim;
};

export type Opened = {
  readonly envelopes: Delivered[];
  /** To be acknowledged after the commit, in order of delivery. */
  readonly deliveries: Incoming[];
  readonly jobs: Job[];
  isAccountChanged: boolean;
};

const hashOf = ({ bytes }: Incoming): Bytes => owned(createHash("sha256").update(bytes).digest());

/**
 * Opens up to 50 deliveries of `line` into `overlay`; what must wait for its group goes to `waiting`.
 * @throws BridgeError `database`: then nothing of the overlay may be written, and nothing acknowledged
 */
export async function openBatch(deps: ReceiveDeps, overlay: Overlay, line: Line, waiting: Waiting): Promise<Opened> {
  const { database, now } = deps;
  const opened: Opened = { envelopes: [], deliveries: [], jobs: [], isAccountChanged: false };
  const { deliveries } = opened;
  while (deliveries.length < batchLengthMax) {
    const incoming = line.take();
    if (incoming === undefined) break;
    try {
      const hash = hashOf(incoming);
      if (database.get("SELECT 1 FROM signal_seen WHERE hash = ?", hash) !== undefined) {
        deliveries.push(incoming);
        continue;
      }
      const sql = "SELECT count FROM signal_attempts WHERE hash = ?";
      const attempts = database.get<{ count: number }>(sql, hash)?.count ?? 0;
      if (attempts > 0 && deliveries.length > 0) {
        line.putBack([incoming]);
        break;
      }
      const outcome = await attempt(deps, overlay, incoming, hash, attempts, waiting);
      if (outcome.claim) {
        overlay.drop();
        giveBack(database, null, [incoming]);
        addClaim(waiting, outcome.claim, incoming);
        continue;
      }
      overlay.later(() => note(deps, incoming, hash, outcome, now()));
      overlay.keep();
      deliveries.push(incoming);
      if (outcome.envelope) opened.envelopes.push(outcome.envelope);
      opened.jobs.push(...(outcome.jobs ?? []));
      opened.isAccountChanged = outcome.isLast === true;
      if (opened.isAccountChanged || attempts > 0) break;
    } catch (error) {
      giveBack(database, line, [...deliveries, incoming]);
      throw error;
    }
  }
  return opened;
}

/** The count must outlive the process, not a loss of power, in which no message has a part: it does not wait for the disk. */
async function attempt(
  deps: ReceiveDeps,
  overlay: Overlay,
  incoming: Incoming,
  hash: Bytes,
  attempts: number,
  waiting: Waiting,
): Promise<Outcome> {
  if (attempts >= attemptsMax) return { quarantine: "it ended the process each time", isForUs: true };
  const { database, now } = deps;
  const sql =
    "INSERT INTO signal_attempts (hash, count, at) VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET count = count + 1";
  database.exec("PRAGMA synchronous = NORMAL");
  try {
    database.run(sql, hash, now());
  } finally {
    database.exec("PRAGMA synchronous = FULL");
  }
  return openEnvelope(deps, overlay, incoming, now(), waiting);
}

function note(deps: ReceiveDeps, { bytes }: Incoming, hash: Bytes, outcome: Outcome, at: Millis): void {
  const { database, log, notify } = deps;
  putRow(database, "seen", { hash, at });
  database.run("DELETE FROM signal_attempts WHERE hash = ?", hash);
  const { quarantine: reason, isForUs = false } = outcome;
  if (reason === undefined) return;
  // The bytes, which only we can open, are kept of those on the allow list; of strangers just the fact.
  putRow(database, "quarantine", { hash, reason, envelope: isForUs ? bytes : null, at });
  if (!isForUs) return;
  log.warn("message set aside, its bytes are kept", { reason });
  notify({ code: "set_aside", text: "A message to me could not be opened and is kept aside. Please send it again." });
}

/** How many messages of people on the allow list are kept unread. */
export const countQuarantined = (database: Database): number =>
  database.get<{ count: number }>("SELECT count(envelope) AS count FROM signal_quarantine")?.count ?? 0;

/** For a later batch; that they were about to be opened does not count. Best effort, as the database may be what failed. */
export function giveBack(database: Database, line: Line | null, deliveries: readonly Incoming[]): void {
  line?.putBack(deliveries);
  try {
    database.transaction(() => {
      for (const one of deliveries) database.run("DELETE FROM signal_attempts WHERE hash = ?", hashOf(one));
    });
  } catch {
    // Then the count stands: it takes five of them, and a restart in between.
  }
}

/** @throws BridgeError `database` */
export async function openEnvelope(
  deps: ReceiveDeps,
  overlay: Overlay,
  incoming: Incoming,
  now: Millis,
  waiting: Waiting,
): Promise<Outcome> {
  let envelope: wire.Envelope;
  try {
    envelope = fromBinary(wire.EnvelopeSchema, incoming.bytes);
  } catch {
    return { quarantine: "envelope not readable" };
  }
  const sealing: Sealing = {
    aci: null,
    deviceId: 0,
    number: null,
    isSealed: false,
    hint: 1,
    groupId: null,
    original: null,
  };
  const sentAt = Number(envelope.clientTimestamp);
  // When the server received it; the header of the delivery says when it was handed out.
  const serverAt = (Number(envelope.serverTimestamp) || incoming.serverAt) ?? null;
  const latest = Math.max(now, serverAt ?? 0, incoming.serverAt ?? 0);
  if (envelope.type === wire.Envelope_Type.SERVER_DELIVERY_RECEIPT) {
    // The server itself says that an unsealed message of ours was delivered.
    sealing.aci = toAci(envelope.sourceServiceIdBinary, envelope.sourceServiceId);
    sealing.deviceId = envelope.sourceDeviceId;
    const said = { kind: "receipt", receipt: "delivery", sentAts: [sentAt] } as const;
    return sealing.aci === null ? {} : { envelope: toEnvelope(senderOf(deps, sealing, sentAt, serverAt), said, null) };
  }
  try {
    const plain = await decrypt(deps, overlay, envelope, serverAt ?? now, sealing);
    const sender = senderOf(deps, sealing, sentAt, serverAt);
    const isForUs = sealing.aci !== null && isTheirs(deps, sender, sealing);
    if (typeof plain === "string") {
      overlay.drop();
      deps.log.debug("delivery dropped", { reason: plain });
      return plain === "our own" ? {} : { quarantine: plain, isForUs };
    }
    const read = await readPlain(deps, overlay, envelope, plain, sender, sealing, latest).catch((error: unknown) => {
      throwStorageFault(overlay, error);
      return "content not usable";
    });
    return typeof read === "string" ? { quarantine: read, isForUs } : { ...read, isForUs };
  } catch (error) {
    return failed(deps, overlay, sentAt, sealing, error, waiting);
  }
}

/** Of our other devices, or of people and groups on the allow list. */
const isTheirs = ({ isAllowed }: ReceiveDeps, sender: Sender, { groupId }: Sealing): boolean =>
  sender.isOwn || isAllowed(sender, groupId && toBase64(groupId));

const addressOf = ({ account, database }: ReceiveDeps, aci: string): Address => ({
  aci,
  number: aci === account().aci.serviceId ? account().number : findRecipient(database, aci).number,
});

function senderOf(deps: ReceiveDeps, sealing: Sealing, sentAt: Millis, serverAt: Millis | null): Sender {
  const aci = sealing.aci ?? "";
  const isOwn = aci === deps.account().aci.serviceId;
  const known = findRecipient(deps.database, aci);
  const number = sealing.number ?? (isOwn ? deps.account().number : known.number);
  const { name, timerSeconds } = known;
  return { aci, deviceId: sealing.deviceId, number, name, isOwn, sentAt, serverAt, timerSeconds };
}

/**
 * What a decrypted body says, or the reason to set it aside: then the ratchet's step is kept all the same.
 * @throws BridgeError `database`
 */
async function readPlain(
  deps: ReceiveDeps,
  overlay: Overlay,
  envelope: wire.Envelope,
  plain: Plain,
  sender: Sender,
  { isSealed }: Sealing,
  latest: Millis,
): Promise<Outcome | string> {
  let content: wire.Content;
  try {
    content = fromBinary(wire.ContentSchema, plain.body);
  } catch {
    return "content not readable";
  }
  // A plaintext is not authenticated: it may ask to send again, and nothing else.
  const isRetryRequest = content.content.case === "decryptionErrorMessage";
  if (plain.type === libsignal.CiphertextMessageType.Plaintext && !isRetryRequest) return "plaintext with content";
  if (content.senderKeyDistributionMessage.length > 0) {
    try {
      const from = libsignal.ProtocolAddress.new(sender.aci, sender.deviceId);
      const message = libsignal.SenderKeyDistributionMessage.deserialize(owned(content.senderKeyDistributionMessage));
      await libsignal.processSenderKeyDistributionMessage(from, message, overlay.stores(plain.own).senderKeys);
    } catch (error) {
      throwStorageFault(overlay, error);
      return "key distribution not readable";
    }
  }
  const read = readContent(content, sender, latest, (aci) => addressOf(deps, aci));
  if (typeof read === "string") return read;
  const claim = groupClaim(deps, content, sender);
  const standing = claim === undefined ? "member" : deps.groups.standing(claim, sender.aci);
  if (claim && standing === "unknown") return { claim };
  if (standing === "stranger") return "not a member of the group, or may not write there";
  if (standing === "unreadable") return "its group could not be read";
  if (standing === "blocked" || (!sender.isOwn && findRecipient(deps.database, sender.aci).isBlocked)) {
    deps.log.info("message dropped: the owner has blocked its sender or group in Signal");
    deps.notify({ code: "blocked", text: blockedText });
    return {};
  }
  const news = takeNews(deps, overlay, content, sender, { envelope, isForPni: plain.own.name === "pni" });
  const jobs: Job[] = [...news.jobs];
  if (plain.type === libsignal.CiphertextMessageType.PreKey) jobs.push({ kind: "refreshKeys" });
  const data = dataOf(content);
  const groupId = data?.groupV2 ? groupIdOf(data.groupV2.masterKey) : null;
  // The server itself says so of unsealed ones.
  if (isSealed && data && !sender.isOwn && !(data.flags & profileKeyUpdate) && deps.isAllowed(sender, groupId))
    jobs.push({ kind: "receipt", aci: sender.aci, sentAts: [sender.sentAt] });
  return { envelope: read, jobs, isLast: news.isLast };
}

/** Of messages that others write into a group on the allow list. */
function groupClaim({ isAllowed }: ReceiveDeps, content: wire.Content, sender: Sender): GroupClaim | undefined {
  const { groupV2: group, adminDelete } = dataOf(content) ?? {};
  if (group === undefined || sender.isOwn) return undefined;
  const groupId = groupIdOf(group.masterKey);
  if (!isAllowed(sender, groupId)) return undefined;
  const { masterKey, revision } = group;
  return { groupId, masterKey: owned(masterKey), revision, isAdminOnly: adminDelete !== undefined };
}

function throwStorageFault(overlay: Overlay, error: unknown): void {
  const fault = overlay.fault() ?? (error instanceof BridgeError && error.code === "database" ? error : null);
  if (fault === null) return;
  throw new BridgeError("database", "Cannot open messages as the key store failed", { cause: fault });
}

/** Sorts a failure of libsignal or of our reading. @throws BridgeError `database` when it was the storage, and nothing is final */
function failed(
  deps: ReceiveDeps,
  overlay: Overlay,
  sentAt: Millis,
  sealing: Sealing,
  error: unknown,
  waiting: Waiting,
): Outcome {
  overlay.drop();
  throwStorageFault(overlay, error);
  if (libsignal.LibSignalErrorBase.is(error, libsignal.ErrorCode.DuplicatedMessage)) return {};
  const isLibsignal = error instanceof libsignal.LibSignalErrorBase;
  const code = isLibsignal ? (libsignal.ErrorCode[error.code] ?? "Generic") : "Malformed";
  const { aci, deviceId, isSealed, hint, original, groupId } = sealing;
  // A message that waits for its group may bring the key of this one.
  const claim = groupId === null ? undefined : waiting.get(toBase64(groupId))?.claim;
  if (claim) return { claim };
  // A certificate that this version does not know: any sender may be behind it.
  if (aci === null) return { quarantine: code, isForUs: /certificate/i.test(reasonOf(error)) };
  if (libsignal.LibSignalErrorBase.is(error, libsignal.ErrorCode.InvalidSession))
    overlay.putSession("aci", aci, deviceId, null);
  const sender = senderOf(deps, sealing, sentAt, null);
  const isForUs = isTheirs(deps, sender, sealing);
  deps.log.info("message could not be decrypted", { code, isSealed, hint, isForUs });
  const jobs: Job[] = [];
  // Only what libsignal refused can be mended by sending it again; the sender must be known and have promised to do so. Of a
  // time that no message can have, libsignal makes no request.
  if (isLibsignal && isForUs && original !== null && hint === 1 && deviceId > 0 && Number.isSafeInteger(sentAt)) {
    const request = libsignal.DecryptionErrorMessage.forOriginal(original.bytes, original.type, sentAt, deviceId);
    jobs.push({ kind: "askAgain", aci, groupId, request });
  }
  const isIdentityChange = libsignal.LibSignalErrorBase.is(error, libsignal.ErrorCode.UntrustedIdentity);
  const envelope = toEnvelope(sender, { kind: "undecryptable", code, isIdentityChange }, null);
  return { envelope, quarantine: code, jobs, isForUs };
}
