/**
 * Turns deliveries into a batch that the caller can commit.
 *
 *   seen? ─▶ attempt counted ─▶ decrypt ─▶ parse ─▶ key distribution ─▶ may they write there? ─▶ news ─▶ Envelope
 *     └▶ acknowledge               │          │                              └ unknown: it waits (claims.ts), the rest goes on
 *                                  │          └ breaks a rule: quarantine, the ratchet's step is kept
 *                                  ├ storage fault: throw; nothing is acknowledged, all comes again
 *                                  ├ processed before: acknowledge
 *                                  └ undecryptable: draft dropped, quarantine, perhaps ask to send again
 *
 * All changes to the database wait in the overlay until the caller's transaction, except the attempts, which are counted
 * *before* libsignal sees the bytes, so that a message that kills the process is given up in the end. A delivery that was
 * attempted before gets a batch of its own, lest its neighbours are given up with it. **Source:** `docs/signal-protocol.md`,
 * "Envelopes".
 */
import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf";
import * as libsignal from "@signalapp/libsignal-client";
import { createHash } from "node:crypto";
import { BridgeError } from "../../core/errors.ts";
import type { Address, Envelope as Delivered, Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { findRecipient } from "./account.ts";
import { owned, readOrNull, toBase64 } from "./bytes.ts";
import { addClaim, isFull } from "./claims.ts";
import { dataOf, readContent, type Sender, composeEnvelope } from "./content.ts";
import type { Bytes, GroupClaim, Incoming, ChatLine, Waiting } from "./context.ts";
import { decrypt, type Plain, type Sealing, unknownType, unsealed } from "./decrypt.ts";
import { groupIdOf } from "./ids.ts";
import { type Desk, type Job, takeNews } from "./news.ts";
import * as wire from "./proto/signal_pb.ts";
import { putRow } from "./tables.ts";
import type { Overlay } from "./key-store.ts";

const batchLengthMax = 50;
/** A delivery is set aside after the process has died over it this often. */
const attemptsMax = 5;
const profileKeyUpdate = wire.DataMessage_Flags.PROFILE_KEY_UPDATE;
const blockedText =
  "A person or group that may write here is blocked in Signal: until you unblock them on the phone, what they write is dropped.";

type Outcome = {
  readonly envelope?: Delivered;
  /** Why the delivery is set aside; its bytes are kept where `isForUs`: it comes from a person on the allow list. */
  readonly quarantine?: string;
  readonly isForUs?: boolean;
  readonly jobs?: readonly Job[];
  /** The account changed, so that later deliveries must be opened with the new one. */
  readonly isLast?: boolean;
  /** Set where the delivery waits, since the server must first say who may write in its group. */
  readonly claim?: GroupClaim;
};

/** `deliveries` are to be acknowledged after the commit. */
export type Opened = {
  readonly envelopes: Delivered[];
  readonly deliveries: Incoming[];
  readonly jobs: Job[];
  isAccountChanged: boolean;
};

type Work = Desk & { readonly waiting: Waiting };
type Reading = Work & { readonly envelope: wire.Envelope; readonly latest: Millis };

const hashOf = ({ bytes }: Incoming): Bytes => owned(createHash("sha256").update(bytes).digest());

/**
 * Opens up to 50 deliveries of `line`.
 * @throws BridgeError `database`: then nothing of the overlay may be written, and nothing acknowledged
 */
export async function openBatch(work: Work, line: ChatLine): Promise<Opened> {
  const { database, overlay } = work;
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
      const outcome = await countAndOpen(work, incoming, hash, attempts);
      if (outcome.claim) {
        overlay.drop();
        giveBack(database, null, [incoming]);
        addClaim(work.waiting, outcome.claim, incoming);
        continue;
      }
      overlay.later(() => note(work, incoming, hash, outcome));
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

/** Counts the attempt without waiting for the disk: the count must outlive the process, not a loss of power, which no message causes. */
async function countAndOpen(work: Work, incoming: Incoming, hash: Bytes, attempts: number): Promise<Outcome> {
  if (attempts >= attemptsMax) return { quarantine: "it ended the process each time", isForUs: true };
  const sql = `INSERT INTO signal_attempts (hash, count, at) VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET count = count + 1`;
  work.database.exec("PRAGMA synchronous = NORMAL");
  try {
    work.database.run(sql, hash, work.now());
  } finally {
    work.database.exec("PRAGMA synchronous = FULL");
  }
  return openEnvelope(work, incoming);
}

function note({ database, log, now }: Work, { bytes }: Incoming, hash: Bytes, outcome: Outcome): void {
  const { quarantine: reason, isForUs = false } = outcome;
  putRow(database, "seen", { hash, at: now() });
  database.run("DELETE FROM signal_attempts WHERE hash = ?", hash);
  if (reason === undefined) return;
  // The bytes, which only we can open, are kept where people on the allow list sent them; of strangers only the reason is kept.
  putRow(database, "quarantine", { hash, reason, envelope: isForUs ? bytes : null, at: now() });
  if (isForUs) log.warn("message set aside, its bytes are kept", { reason });
}

/** How many messages of people on the allow list are kept unread. */
export const countQuarantined = (database: Database): number =>
  database.get<{ count: number }>("SELECT count(envelope) AS count FROM signal_quarantine")?.count ?? 0;

/** Puts deliveries back for a later batch and uncounts their attempts. Best effort, as the database may be what failed. */
export function giveBack(database: Database, line: ChatLine | null, deliveries: readonly Incoming[]): void {
  line?.putBack(deliveries);
  try {
    database.transaction(() => {
      for (const one of deliveries) database.run("DELETE FROM signal_attempts WHERE hash = ?", hashOf(one));
    });
  } catch {
    // The count then stands, which does little: only five counts set a delivery aside, with restarts in between.
  }
}

/** @throws BridgeError `database` */
export async function openEnvelope(work: Work, incoming: Incoming): Promise<Outcome> {
  const { overlay, log } = work;
  const envelope = parse(wire.EnvelopeSchema, incoming.bytes);
  if (envelope === null) return { quarantine: "envelope not readable" };
  const sealing = unsealed();
  const sentAt = Number(envelope.clientTimestamp);
  // `serverAt` is when the server received the envelope; the header of the delivery says when it was handed out.
  const serverAt = (Number(envelope.serverTimestamp) || incoming.serverAt) ?? null;
  // Such an envelope is the server's receipt for an unsealed message of ours, and there is nothing to open.
  if (envelope.type === wire.Envelope_Type.SERVER_DELIVERY_RECEIPT) return {};
  try {
    const plain = await decrypt(work, envelope, serverAt ?? work.now(), sealing);
    const sender = senderOf(work, sealing, sentAt, serverAt);
    const isForUs = sealing.aci !== null && isTheirs(work, sender, sealing);
    if (typeof plain === "string") {
      overlay.drop();
      log.debug("delivery dropped", { reason: plain });
      const aside = { quarantine: plain, isForUs };
      if (plain === unknownType && sealing.groupId === null) return { ...aside, ...newerKind(sender) };
      return plain === "our own" ? {} : aside;
    }
    const latest = Math.max(work.now(), serverAt ?? 0, incoming.serverAt ?? 0);
    const read = await readPlain({ ...work, envelope, latest }, plain, sender, sealing.isSealed).catch(
      (error: unknown) => {
        throwStorageFault(overlay, error);
        return "content not usable";
      },
    );
    return typeof read === "string" ? { quarantine: read, isForUs } : { ...read, isForUs };
  } catch (error) {
    return failed(work, sentAt, sealing, error);
  }
}

/** Gives a message of a newer type an envelope, so that its sender gets an answer. */
function newerKind(sender: Sender): Outcome {
  if (sender.isOwn || sender.isBlocked) return {};
  const peer = { aci: sender.aci, number: sender.number };
  return { envelope: composeEnvelope(sender, { kind: "unknown", what: unknownType }, { kind: "direct", peer }) };
}

const isTheirs = ({ isAllowed }: Work, sender: Sender, { groupId }: Sealing): boolean =>
  sender.isOwn || isAllowed(sender, groupId && toBase64(groupId));

const addressOf = ({ account, database }: Work, aci: string): Address => ({
  aci,
  number: aci === account().aci.serviceId ? account().number : findRecipient(database, aci).number,
});

function senderOf(work: Work, from: Sealing, sentAt: Millis, serverAt: Millis | null): Sender {
  const aci = from.aci ?? "";
  const { name, timerSeconds, isBlocked } = findRecipient(work.database, aci);
  const number = from.number ?? addressOf(work, aci).number;
  const isOwn = aci === work.account().aci.serviceId;
  const more = { isOwn, isBlocked: isBlocked === 1, timerSeconds };
  return { aci, number, deviceId: from.deviceId, name, sentAt, serverAt, ...more };
}

/** Reads a decrypted body; a text is the reason to set it aside, while the ratchet's step is kept. @throws BridgeError `database` */
async function readPlain(work: Reading, plain: Plain, sender: Sender, isSealed: boolean): Promise<Outcome | string> {
  const { overlay, account, groups, latest } = work;
  const content = parse(wire.ContentSchema, plain.body);
  if (content === null) return "content not readable";
  // A plaintext is not authenticated, so that all it may do is ask to send again.
  const isRetryRequest = content.content.case === "decryptionErrorMessage";
  if (plain.type === libsignal.CiphertextMessageType.Plaintext && !isRetryRequest) return "plaintext with content";
  const keys = content.senderKeyDistributionMessage;
  if (keys.length > 0) await takeSenderKey(overlay, plain, sender, owned(keys));
  const ownAci = account().aci.serviceId;
  const read = readContent(content, sender, { latest, ownAci, addressOf: (aci) => addressOf(work, aci) });
  if (typeof read === "string") return read;
  const data = dataOf(content);
  const claim = claimOf(data);
  const mayWrite = sender.isOwn || work.isAllowed(sender, claim?.groupId ?? null);
  const isClaimed = claim !== null && !sender.isOwn && mayWrite;
  const standing = isClaimed ? groups.standing(claim, sender.aci) : "member";
  if (isClaimed && standing === "unknown" && !isFull(work.waiting)) return { claim };
  if (standing === "stranger") return "not a member of the group, or may not write there";
  if (standing === "unreadable" || standing === "unknown") return "its group could not be read";
  if (standing === "blocked" || (sender.isBlocked && !sender.isOwn)) {
    work.log.info("message dropped: the owner has blocked its sender or group in Signal");
    work.notify({ code: "blocked", text: blockedText });
    return {};
  }
  const news = takeNews(work, content, sender, { envelope: work.envelope, isForPni: plain.own.name === "pni" });
  const jobs: Job[] = [...news.jobs];
  if (plain.type === libsignal.CiphertextMessageType.PreKey) jobs.push({ kind: "refreshKeys" });
  // The server itself confirms the delivery of unsealed messages.
  if (isSealed && data && mayWrite && !sender.isOwn && !(data.flags & profileKeyUpdate))
    jobs.push({ kind: "receipt", aci: sender.aci, sentAts: [sender.sentAt] });
  return { envelope: withGroupName(work, read), jobs, isLast: news.isLast };
}

function withGroupName({ database }: Work, envelope: Delivered): Delivered {
  if (envelope.chat?.kind !== "group") return envelope;
  const sql = "SELECT state ->> '$.title' AS title FROM signal_groups WHERE group_id = ?";
  const groupName = database.get<{ title: string | null }>(sql, envelope.chat.id)?.title ?? null;
  return groupName === null ? envelope : { ...envelope, groupName };
}

async function takeSenderKey(overlay: Overlay, { own }: Plain, { aci, deviceId }: Sender, bytes: Bytes): Promise<void> {
  const from = libsignal.ProtocolAddress.new(aci, deviceId);
  const message = libsignal.SenderKeyDistributionMessage.deserialize(bytes);
  await libsignal.processSenderKeyDistributionMessage(from, message, overlay.stores(own).senderKeys);
}

const parse = <T extends DescMessage>(schema: T, bytes: Bytes): MessageShape<T> | null =>
  readOrNull(() => fromBinary(schema, bytes));

function claimOf(data: wire.DataMessage | undefined): GroupClaim | null {
  if (data?.groupV2 === undefined) return null;
  const { masterKey, revision } = data.groupV2;
  const isAdminOnly = data.adminDelete !== undefined;
  return { groupId: groupIdOf(masterKey), masterKey: owned(masterKey), revision, isAdminOnly };
}

function throwStorageFault(overlay: Overlay, error: unknown): void {
  const fault = overlay.fault() ?? (error instanceof BridgeError && error.code === "database" ? error : null);
  if (fault === null) return;
  throw new BridgeError("database", "Cannot open messages as the key store failed", { cause: fault });
}

/** Sorts a failure of libsignal or of our reading. @throws BridgeError `database` when the storage failed, since nothing is final then */
function failed(work: Work, sentAt: Millis, sealing: Sealing, error: unknown): Outcome {
  const { overlay } = work;
  overlay.drop();
  throwStorageFault(overlay, error);
  const is = (code: libsignal.ErrorCode) => libsignal.LibSignalErrorBase.is(error, code);
  if (is(libsignal.ErrorCode.DuplicatedMessage)) return {};
  const isLibsignal = error instanceof libsignal.LibSignalErrorBase;
  const code = isLibsignal ? (libsignal.ErrorCode[error.code] ?? "Generic") : "Malformed";
  const { aci, deviceId, isSealed, hint, original, groupId } = sealing;
  // A message that waits for the same group may bring the sender key of this one.
  const claim = groupId && work.waiting.get(toBase64(groupId))?.claim;
  if (claim && !isFull(work.waiting)) return { claim };
  if (aci === null) return { quarantine: code };
  if (is(libsignal.ErrorCode.InvalidSession)) overlay.putSession("aci", aci, deviceId, null);
  const sender = senderOf(work, sealing, sentAt, null);
  const isForUs = isTheirs(work, sender, sealing);
  work.log.info("message could not be decrypted", { code, isSealed, hint, isForUs });
  const jobs: Job[] = [];
  // Sending again can only mend a message that libsignal refused, from a known sender that promised to do so (hint 1).
  // libsignal makes no request for a timestamp that no message can have.
  const mayBeMended = isLibsignal && hint === 1 && deviceId > 0 && Number.isSafeInteger(sentAt);
  if (mayBeMended && original !== null && isForUs && !sender.isBlocked) {
    const request = libsignal.DecryptionErrorMessage.forOriginal(original.bytes, original.type, sentAt, deviceId);
    jobs.push({ kind: "askAgain", aci, groupId, request });
  }
  const said = { kind: "undecryptable", code, isIdentityChange: is(libsignal.ErrorCode.UntrustedIdentity) } as const;
  return { envelope: composeEnvelope(sender, said, null), quarantine: code, jobs, isForUs };
}
