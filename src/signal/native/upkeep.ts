/**
 * What keeps a linked device healthy, behind receiving and sending: pre-keys on the server, the answers that only the phone can
 * give, requests to send again in both directions, and rows that have served their time. **Source:**
 * `docs/signal-protocol.md`, "Asking to send again", "Upkeep".
 */
import { DecryptionErrorMessage, PlaintextContent } from "@signalapp/libsignal-client";
import * as v from "valibot";
import type { Clock } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { findAci, saveRecipient, saveTimer } from "./account.ts";
import { downloadAttachment, parseContacts } from "./attachments.ts";
import { capabilities } from "./connect.ts";
import { nullContent, requestContent } from "./compose.ts";
import type { Bytes, Context } from "./context.ts";
import { deliver, refusal } from "./deliver.ts";
import { toAci } from "./ids.ts";
import { pruneKeys, refreshKeys } from "./keys.ts";
import type { Job } from "./news.ts";
import { type AttachmentPointer, SyncMessage_Request_Type } from "./proto/signal_pb.ts";
import { openOverlay } from "./store.ts";

const dayMs: Millis = 86_400_000;
/** The server keeps what is not acknowledged for some weeks; the ratchet itself knows older repetitions. */
const seenKeptMs: Millis = 14 * dayMs;
const quarantineKeptMs: Millis = 30 * dayMs;
const quarantineLengthMax = 500;
const sendLogKeptMs: Millis = 2 * dayMs;
const deadSessionKeptMs: Millis = 30 * dayMs;
const contactsEveryMs: Millis = 3_600_000;
const contactsBytesMax = 32 * 1024 * 1024;
/** Requests to send again, in each direction, can be provoked from afar: so many per person. */
const retriesMax = 10;
const retriesWindowMs: Millis = 3_600_000;

const whoami = v.object({ uuid: v.string(), pni: v.nullish(v.string()) });

/** After each connect. @throws BridgeError those of `Line.request`: the rest waits for the next connect */
export async function maintain(context: Context): Promise<void> {
  const { log, line, account } = context;
  prune(context.database, context.clock.now());
  const capable = await line().request({ verb: "PUT", path: "/v1/devices/capabilities", json: capabilities });
  if (capable.status >= 300) log.warn("capabilities not taken", { status: capable.status });
  const { pni, syncedAt } = account();
  const who = v.safeParse(whoami, (await line().request({ verb: "GET", path: "/v1/accounts/whoami" })).json);
  if (who.success && who.output.pni && pni && pni.serviceId !== `PNI:${who.output.pni.toLowerCase()}`)
    log.warn("the account has another number than this device knows: link anew if people cannot reach it");
  await refreshAllKeys(context);
  await requestSync(context, syncedAt === null);
}

/** Both identities; cheap when nothing is due. */
export async function refreshAllKeys(context: Context): Promise<void> {
  const { aci, pni } = context.account();
  for (const own of pni === null ? [aci] : [aci, pni])
    if (await refreshKeys(context, context.line(), own)) context.log.info("pre-keys uploaded", { identity: own.name });
}

/**
 * Asks the phone, after linking, for all that a new device asks for: the answer about blocked people is not kept, who may write
 * here is said by the allow list alone. Later only for contacts, while a number on the allow list has no account: only those on
 * the list were kept, and it may be newer than the last answer.
 */
async function requestSync(context: Context, isFirst: boolean): Promise<void> {
  const { BLOCKED, CONFIGURATION, CONTACTS, KEYS } = SyncMessage_Request_Type;
  const { clock, database, allowedNumbers, contacts } = context;
  const { aci, entropyPool } = context.account();
  const isDue = clock.monotonic() - contacts.askedAt >= contactsEveryMs;
  if (!isFirst && !(isDue && allowedNumbers.some((number) => findAci(database, { aci: null, number }) === null)))
    return;
  contacts.askedAt = clock.monotonic();
  const others = isFirst ? [BLOCKED, CONFIGURATION, ...(entropyPool === null ? [KEYS] : [])] : [];
  for (const type of [CONTACTS, ...others]) {
    const timestamp = context.freshTimestamp();
    await deliver(context, { kind: "request", to: aci.serviceId, content: requestContent(type), timestamp });
  }
}

/** Forgets what will not be asked for again. */
export function prune(database: Database, now: Millis): void {
  database.transaction(() => {
    pruneKeys(database, now);
    database.run("DELETE FROM signal_seen WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_attempts WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_send_log WHERE sent_at < ?", now - sendLogKeptMs);
    database.run("DELETE FROM signal_sessions WHERE at < ? AND own = 'pni'", now - deadSessionKeptMs);
    const newest = `SELECT hash FROM signal_quarantine ORDER BY at DESC LIMIT ${quarantineLengthMax}`;
    const sql = `DELETE FROM signal_quarantine WHERE at < ? OR hash NOT IN (${newest})`;
    database.run(sql, now - quarantineKeptMs);
  });
}

/** Hands in the solution of the captcha that the server asked for. @throws BridgeError `send_rejected`, and those of `Line.request` */
export async function answerChallenge({ database, line }: Context, text: string): Promise<void> {
  const token = database.get<{ challenge: string | null }>("SELECT challenge FROM signal_account")?.challenge ?? null;
  if (token === null)
    throw new BridgeError("send_rejected", "Cannot hand in a captcha as none was asked for", {
      hint: "Nothing to do.",
    });
  const json = { type: "captcha", token, captcha: text.replace(/^signalcaptcha:\/\//u, "") };
  const reply = await line().request({ verb: "PUT", path: "/v1/challenge", json });
  if (reply.status >= 300) throw refusal(database, reply, "hand in the captcha");
  database.run("UPDATE signal_account SET challenge = NULL");
}

/** What deliveries left to be done, once they are acknowledged. */
export async function runJob(context: Context, job: Job): Promise<void> {
  switch (job.kind) {
    case "refreshKeys":
      return refreshAllKeys(context);
    case "contacts":
      return takeContacts(context, job.pointer);
    case "askAgain": {
      // Their other devices see that it is not for them.
      if (!context.mayAsk(job.aci)) return context.log.warn("no more requests to send again this hour");
      const content = PlaintextContent.from(job.request);
      const timestamp = context.freshTimestamp();
      await deliver(context, { kind: "repair", to: job.aci, content, timestamp, groupId: job.groupId });
      return;
    }
    case "answerAgain":
      return answerAgain(context, job);
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

/** Of the owner's contacts only those on the allow list are kept. */
async function takeContacts(context: Context, pointer: AttachmentPointer): Promise<void> {
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

/** A person could not read what we sent: the same content goes out again, under a renewed session, with its old timestamp. */
async function answerAgain(
  context: Context,
  { aci: to, deviceId, request: bytes }: Extract<Job, { kind: "answerAgain" }>,
): Promise<void> {
  const request = DecryptionErrorMessage.deserialize(bytes);
  if (request.deviceId() !== context.account().deviceId) return;
  if (!context.mayAnswer(to)) return context.log.warn("no more answers to requests to send again this hour");
  const isArchived = await context.mutex.run(() => archiveSession(context, to, deviceId, request));
  const sql = "SELECT content, group_id AS groupId FROM signal_send_log WHERE sent_at = ? AND service_id = ?";
  const timestamp = request.timestamp();
  const logged = context.database.get<{ content: Bytes; groupId: Bytes | null }>(sql, timestamp, to);
  if (logged !== undefined) await deliver(context, { kind: "message", to, timestamp, ...logged });
  else if (isArchived)
    await deliver(context, { kind: "repair", to, content: nullContent(), timestamp: context.freshTimestamp() });
}

/** Only when the request speaks of the session that we have now: an old request must not undo a new session. */
function archiveSession(context: Context, aci: string, deviceId: number, request: DecryptionErrorMessage): boolean {
  const overlay = openOverlay(context);
  const session = overlay.session("aci", aci, deviceId);
  const ratchetKey = request.ratchetKey();
  if (!ratchetKey || !session?.currentRatchetKeyMatches(ratchetKey)) return false;
  session.archiveCurrentState();
  overlay.putSession("aci", aci, deviceId, session);
  overlay.commit();
  return true;
}
