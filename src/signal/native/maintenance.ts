/**
 * What keeps a linked device healthy: pre-keys on the server, capabilities, the answers that only the phone can give, and
 * rows that have served their time. **Source:** SIGNAL-NATIVE 2.7, 6.
 */
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import { downloadAttachment, parseContacts } from "./attachments.ts";
import { requestContent } from "./compose.ts";
import { toAci } from "./content.ts";
import { deliver, refusal } from "./deliver.ts";
import { pruneKeys, refreshKeys } from "./keys.ts";
import { capabilities } from "./link.ts";
import { type AttachmentPointer, SyncMessage_Request_Type } from "./proto/signal_pb.ts";
import type { IsAllowed } from "./receive.ts";
import { saveRecipient, saveTimer } from "./recipients.ts";
import type { SendDeps } from "./send.ts";

const dayMs: Millis = 86_400_000;
/** The server keeps what is not acknowledged for some weeks; the ratchet itself knows older repetitions. */
const seenKeptMs: Millis = 14 * dayMs;
const quarantineKeptMs: Millis = 30 * dayMs;
const quarantineLengthMax = 500;
const sendLogKeptMs: Millis = 2 * dayMs;
const deadSessionKeptMs: Millis = 30 * dayMs;
const contactsBytesMax = 32 * 1024 * 1024;

const whoami = v.object({ uuid: v.string(), pni: v.nullish(v.string()) });

/** After each connect. @throws BridgeError those of `Line.request`: the rest waits for the next connect */
export async function maintain(deps: SendDeps): Promise<void> {
  const { log } = deps;
  const capable = await deps.line().request({ verb: "PUT", path: "/v1/devices/capabilities", json: capabilities });
  if (capable.status >= 300) log.warn("capabilities not taken", { status: capable.status });
  const { pni } = deps.account();
  const who = v.safeParse(whoami, (await deps.line().request({ verb: "GET", path: "/v1/accounts/whoami" })).json);
  const isOther =
    who.success && who.output.pni && pni !== null && pni.serviceId !== `PNI:${who.output.pni.toLowerCase()}`;
  if (isOther) log.warn("the account has another number than this device knows: link anew if people cannot reach it");
  await refreshAllKeys(deps);
  if (deps.account().syncedAt === null) await requestSync(deps);
}

/** Both identities; cheap when nothing is due. */
export async function refreshAllKeys(deps: SendDeps): Promise<void> {
  const { aci, pni } = deps.account();
  for (const own of pni === null ? [aci] : [aci, pni]) {
    const isUploaded = await refreshKeys({ ...deps, line: deps.line() }, own);
    if (isUploaded) deps.log.info("pre-keys uploaded", { identity: own.name });
  }
}

/**
 * Asks the phone for contacts (numbers on the allow list become accounts by them), settings, and the account's key. Deliberately
 * not for the block list: who may write here is said by the allow list alone.
 */
async function requestSync(deps: SendDeps): Promise<void> {
  const { CONTACTS, CONFIGURATION, KEYS } = SyncMessage_Request_Type;
  const to = deps.account().aci.serviceId;
  for (const type of [CONTACTS, CONFIGURATION, ...(deps.account().entropyPool === null ? [KEYS] : [])]) {
    const timestamp = deps.freshTimestamp();
    const content = requestContent(type);
    await deliver(deps, { to, content, timestamp, isUrgent: true, isOnline: false, hint: 0, groupId: null });
  }
}

/** Of the owner's contacts only those on the allow list are kept. */
export async function takeContacts(
  deps: SendDeps,
  pointer: AttachmentPointer,
  isAllowed: IsAllowed,
  signal: AbortSignal,
): Promise<void> {
  const blob = await downloadAttachment(deps.service, pointer, contactsBytesMax, signal);
  deps.database.transaction(() => {
    for (const contact of parseContacts(blob)) {
      const aci = toAci(contact.aciBinary, contact.aci);
      const number = contact.number || null;
      if (aci === null || !isAllowed({ aci, number }, null)) continue;
      saveRecipient(deps.database, aci, number, contact.name || null);
      saveTimer(deps.database, aci, contact.expireTimer, contact.expireTimerVersion);
    }
  });
}

/** Forgets what nobody will ask for again. */
export function prune(database: Database, now: Millis): void {
  pruneKeys(database, now);
  database.transaction(() => {
    database.run("DELETE FROM signal_seen WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_attempts WHERE at < ?", now - seenKeptMs);
    database.run("DELETE FROM signal_send_log WHERE sent_at < ?", now - sendLogKeptMs);
    database.run("DELETE FROM signal_sessions WHERE at < ? AND own = 'pni'", now - deadSessionKeptMs);
    database.run(
      `DELETE FROM signal_quarantine WHERE at < ? OR hash NOT IN
       (SELECT hash FROM signal_quarantine ORDER BY at DESC LIMIT ${quarantineLengthMax})`,
      now - quarantineKeptMs,
    );
  });
}

/** Hands in the solution of the captcha that the server asked for. @throws BridgeError `send_rejected`, and those of `Line.request` */
export async function answerChallenge({ database, line }: SendDeps, captcha: string): Promise<void> {
  const token = database.get<{ challenge: string | null }>("SELECT challenge FROM signal_account")?.challenge ?? null;
  if (token === null) throw new BridgeError("send_rejected", "Cannot hand in a captcha as none was asked for");
  const reply = await line().request({
    verb: "PUT",
    path: "/v1/challenge",
    json: { type: "captcha", token, captcha: captcha.replace(/^signalcaptcha:\/\//u, "") },
  });
  if (reply.status >= 300) throw refusal({ database }, reply, "hand in the captcha");
  database.run("UPDATE signal_account SET challenge = NULL");
}
