/**
 * Background work that keeps a linked device healthy: pre-keys on the server, the answers that only the phone can give,
 * requests to send again in both directions, and rows that have served their time. **Source:** `docs/signal-protocol.md`,
 * "Asking to send again", "Upkeep".
 */
import { DecryptionErrorMessage, PlaintextContent } from "@signalapp/libsignal-client";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { findAci, saveRecipient, saveTimer } from "./account.ts";
import { downloadAttachment, parseContacts } from "./attachments.ts";
import { tolerate } from "./bytes.ts";
import { nullContent, receiptContent, requestContent } from "./compose.ts";
import { toBridgeError } from "./connect.ts";
import type { Bytes, NativeContext, Ratchets } from "./context.ts";
import { deliver, deliverOnce, type Parcel } from "./deliver.ts";
import { toAci } from "./ids.ts";
import { pruneKeys, refreshKeys } from "./keys.ts";
import type { Job } from "./news.ts";
import { type AttachmentPointer, SyncMessage_Request_Type } from "./proto/signal_pb.ts";
import { answerOf, ask, isGood, login, refused } from "./server.ts";
import { readStorage } from "./storage.ts";

const dayMs: Millis = 86_400_000;
/** The server keeps unacknowledged messages for some weeks; the ratchet itself recognizes older repetitions. */
const seenKeptMs: Millis = 14 * dayMs;
const quarantineKeptMs: Millis = 30 * dayMs;
const quarantineLengthMax = 500;
const sendLogKeptMs: Millis = 2 * dayMs;
const deadSessionKeptMs: Millis = 30 * dayMs;
const firstAskEveryMs: Millis = 60_000;
const askEveryMs: Millis = 3_600_000;
const contactsBytesMax = 32 * 1024 * 1024;
/** Requests to send again per person, in each direction; they are bounded since others can provoke them. */
const retriesMax = 10;
const retriesWindowMs: Millis = 3_600_000;

/** Runs after each connect, and every hour. @throws BridgeError of a step that failed, after all other steps were taken */
export async function maintain(context: NativeContext): Promise<void> {
  pruneNative(context.database, context.now());
  const steps = [tellCapabilities, refreshAllKeys, requestSync, readStorage, lookUpNumbers];
  const faults: BridgeError[] = [];
  for (const step of steps) await tolerate(step(context), (fault) => faults.push(fault));
  const worst = faults.find(({ code }) => code === "outdated") ?? faults[0];
  if (worst !== undefined) throw worst;
}

async function tellCapabilities({ log, line }: NativeContext): Promise<void> {
  const { status } = await line().request(ask.setCapabilities());
  if (status >= 300) log.warn("capabilities not taken", { status });
}

async function refreshAllKeys(context: NativeContext): Promise<void> {
  const { aci, pni } = context.account();
  for (const own of pni === null ? [aci] : [aci, pni])
    if (await refreshKeys(context, context.line(), own)) context.log.info("pre-keys uploaded", { identity: own.name });
}

const unknownNumbers = ({ database, allowedNumbers }: NativeContext): string[] =>
  allowedNumbers.filter((number) => findAci(database, { aci: null, number }) === null);

/**
 * Asks the phone, after linking, for all that a new device asks for; later for contacts alone, while a number on the allow list
 * has no account. The phone uploads all of its contacts then: at most once a minute until it has answered, later once an hour.
 */
async function requestSync(context: NativeContext): Promise<void> {
  const { BLOCKED, CONFIGURATION, CONTACTS, KEYS } = SyncMessage_Request_Type;
  const { now, clock, database, last } = context;
  const { aci, storageKey, syncedAt } = context.account();
  const row = database.get<{ askedAt: Millis | null }>("SELECT asked_at AS askedAt FROM signal_account");
  if (Math.abs(now() - (row?.askedAt ?? -Infinity)) < firstAskEveryMs) return;
  if (syncedAt !== null && clock.monotonic() - last.askedAt < askEveryMs) return;
  const wanted = [
    ...(syncedAt === null ? [CONTACTS, BLOCKED, CONFIGURATION] : unknownNumbers(context).length > 0 ? [CONTACTS] : []),
    ...(storageKey === null ? [KEYS] : []),
  ];
  if (wanted.length === 0) return;
  last.askedAt = clock.monotonic();
  database.run("UPDATE signal_account SET asked_at = ?", now());
  for (const type of wanted)
    await deliverOnce(context, { kind: "request", to: aci.serviceId, content: requestContent(type) });
}

/** Looks up numbers that neither the phone nor the storage service knows: once a day, as Signal limits it; after a failure, in an hour. */
export async function lookUpNumbers(context: NativeContext): Promise<void> {
  const { database, net, line, clock, log, closing, last } = context;
  const e164s = unknownNumbers(context);
  if (e164s.length === 0 || clock.monotonic() - last.lookedUpAt < dayMs) return;
  last.lookedUpAt = clock.monotonic() - dayMs + askEveryMs;
  const given = answerOf(login, await line().request(ask.directoryLogin()), "look up numbers");
  const wanted = { e164s, acisAndAccessKeys: [], abortSignal: closing() };
  const { entries } = await net.cdsiLookup(given, wanted).catch((error: unknown) => {
    throw toBridgeError("Cannot look up numbers", error);
  });
  last.lookedUpAt = clock.monotonic();
  for (const [number, { aci }] of entries) if (aci !== undefined) saveRecipient(database, aci, number, null);
  log.info("numbers looked up", { asked: e164s.length, unknown: unknownNumbers(context).length });
}

export function pruneNative(database: Database, now: Millis): void {
  database.transaction(() => {
    pruneKeys(database, now);
    database.run("DELETE FROM signal_seen WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_attempts WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_send_log WHERE sent_at < ?", now - sendLogKeptMs);
    database.run("DELETE FROM signal_sessions WHERE at < ? AND own = 'pni'", now - deadSessionKeptMs);
    // Rows of strangers, which hold no bytes, are deleted first, so that they do not push out those of people on the allow list.
    const kept = `SELECT hash FROM signal_quarantine ORDER BY envelope IS NULL, at DESC LIMIT ${quarantineLengthMax}`;
    database.run(`DELETE FROM signal_quarantine WHERE at < ? OR hash NOT IN (${kept})`, now - quarantineKeptMs);
  });
}

/** Hands in the solution of the captcha that the server asked for. @throws BridgeError `send_rejected`, and those of `ChatLine.request` */
export async function answerChallenge({ database, line }: NativeContext, text: string): Promise<void> {
  const token = database.get<{ challenge: string | null }>("SELECT challenge FROM signal_account")?.challenge ?? null;
  if (token === null)
    throw new BridgeError("send_rejected", "Cannot hand in a captcha as none was asked for", {
      hint: "Nothing to do.",
    });
  const json = { type: "captcha", token, captcha: text.replace(/^signalcaptcha:\/\//u, "") };
  const reply = await line().request(ask.answerChallenge(json));
  const hint = "Solve a fresh captcha, and hand in all of its text.";
  if (!isGood(reply)) throw refused("hand in the captcha", reply, "send_rejected", hint);
  database.run("UPDATE signal_account SET challenge = NULL");
}

export async function runJob(context: NativeContext, job: Job): Promise<void> {
  const send = async (kind: Parcel["kind"], to: string, content: Parcel["content"], groupId: Bytes | null = null) =>
    void (await deliverOnce(context, { kind, to, content, groupId }));
  switch (job.kind) {
    case "refreshKeys":
      return refreshAllKeys(context);
    case "contacts":
      return takeContacts(context, job.pointer);
    case "storage":
      return readStorage(context);
    case "receipt":
      return send("notice", job.aci, receiptContent("DELIVERY", job.sentAts));
    case "askAgain":
      if (!context.mayAsk(job.aci)) return context.log.warn("no more requests to send again this hour");
      // The request goes to all their devices; the others see that it is not for them.
      return send("repair", job.aci, PlaintextContent.from(job.request), job.groupId);
    case "answerAgain":
      return answerAgain(context, job.aci, job.deviceId, job.request);
  }
}

/** True while `who` has had fewer than ten in the last hour; each true counts. */
export function retryLimiter(clock: Clock): (who: string) => boolean {
  const times = new Map<string, Millis[]>();
  return (who) => {
    const now = clock.monotonic();
    const recent = (times.get(who) ?? []).filter((at) => now - at < retriesWindowMs);
    if (recent.length >= retriesMax) return false;
    times.set(who, [...recent, now]);
    return true;
  };
}

/** Keeps those of the owner's contacts that are on the allow list. */
async function takeContacts(context: NativeContext, pointer: AttachmentPointer): Promise<void> {
  const { database, service, isAllowed, closing } = context;
  const blob = await downloadAttachment(service, pointer, contactsBytesMax, closing());
  database.transaction(() => {
    for (const contact of parseContacts(blob)) {
      const aci = toAci(contact.aciBinary, contact.aci);
      const number = contact.number || null;
      if (aci === null || !isAllowed({ aci, number }, null)) continue;
      saveRecipient(database, aci, number, contact.name || null);
      saveTimer(database, aci, contact.expireTimer, contact.expireTimerVersion);
    }
  });
}

/** Answers a person who could not read our message: the same content goes out again, under a renewed session, with its old timestamp. */
async function answerAgain(context: NativeContext, to: string, deviceId: number, bytes: Bytes): Promise<void> {
  const request = DecryptionErrorMessage.deserialize(bytes);
  if (request.deviceId() !== context.account().deviceId) return;
  if (!context.mayAnswer(to)) return context.log.warn("no more answers to requests to send again this hour");
  const isArchived = await context.withRatchets((ratchets) => archiveSession(ratchets, to, deviceId, request));
  const sql = "SELECT content, group_id AS groupId FROM signal_send_log WHERE sent_at = ? AND service_id = ?";
  const timestamp = request.timestamp();
  const logged = context.database.get<{ content: Bytes; groupId: Bytes | null }>(sql, timestamp, to);
  if (logged !== undefined) await deliver(context, { kind: "message", to, timestamp, ...logged });
  else if (isArchived) await deliverOnce(context, { kind: "repair", to, content: nullContent() });
}

/** Archives the session only when the request speaks of it: an old request must not undo a new session. */
function archiveSession(ratchets: Ratchets, aci: string, deviceId: number, request: DecryptionErrorMessage): boolean {
  const session = ratchets.session("aci", aci, deviceId);
  const ratchetKey = request.ratchetKey();
  if (!ratchetKey || !session?.currentRatchetKeyMatches(ratchetKey)) return false;
  session.archiveCurrentState();
  ratchets.putSession("aci", aci, deviceId, session);
  return true;
}
