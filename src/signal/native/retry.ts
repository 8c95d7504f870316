/**
 * Asking to send again, and answering who asks us. Both can be provoked from afar, so both are limited per person, and only
 * people on the allow list come this far. **Source:** SIGNAL-NATIVE 4.8.
 */
import { DecryptionErrorMessage, PlaintextContent } from "@signalapp/libsignal-client";
import type { Clock } from "../../clock.ts";
import type { Millis } from "../../core/model.ts";
import { type Bytes, owned } from "./bytes.ts";
import { nullContent } from "./compose.ts";
import { deliver } from "./deliver.ts";
import type { Job } from "./news.ts";
import type { SendDeps } from "./send.ts";
import { openOverlay } from "./store.ts";

const retriesMax = 10;
const retriesWindowMs: Millis = 3_600_000;

/** True while `who` has had fewer than ten in the last hour; each true counts. */
export type Limiter = (who: string) => boolean;

export function retryLimiter(clock: Clock): Limiter {
  const times = new Map<string, Millis[]>();
  return (who) => {
    const now = clock.monotonic();
    const recent = (times.get(who) ?? []).filter((at) => now - at < retriesWindowMs);
    if (recent.length >= retriesMax) return false;
    times.set(who, [...recent, now]);
    return true;
  };
}

/** Tells the sender of a message that we could not read it. Their other devices see that it is not for them. */
export async function askAgain(
  deps: SendDeps,
  job: Extract<Job, { kind: "askAgain" }>,
  mayAsk: Limiter,
): Promise<void> {
  if (!mayAsk(job.aci)) return deps.log.warn("no more requests to send again this hour");
  const content = PlaintextContent.from(DecryptionErrorMessage.deserialize(job.error));
  const timestamp = deps.freshTimestamp();
  const { aci: to, groupId } = job;
  await deliver(deps, { to, content, timestamp, isUrgent: false, isOnline: false, hint: 0, groupId });
}

type Logged = { content: Uint8Array; group_id: Uint8Array | null };

/** Somebody could not read what we sent: the same content goes out again, under a renewed session, with its old timestamp. */
export async function answerAgain(
  deps: SendDeps,
  job: Extract<Job, { kind: "answerAgain" }>,
  mayAnswer: Limiter,
): Promise<void> {
  const request = DecryptionErrorMessage.deserialize(job.request);
  if (request.deviceId() !== deps.account().deviceId) return;
  if (!mayAnswer(job.aci)) return deps.log.warn("no more answers to requests to send again this hour");
  const isArchived = await archiveSession(deps, job, request);
  const sql = "SELECT content, group_id FROM signal_send_log WHERE sent_at = ? AND service_id = ?";
  const logged = deps.database.get<Logged>(sql, request.timestamp(), job.aci);
  const to = job.aci;
  if (logged !== undefined) {
    const groupId: Bytes | null = logged.group_id === null ? null : owned(logged.group_id);
    const timestamp = request.timestamp();
    const content = owned(logged.content);
    await deliver(deps, { to, content, timestamp, isUrgent: true, isOnline: false, hint: 1, groupId });
  } else if (isArchived) {
    const timestamp = deps.freshTimestamp();
    await deliver(deps, {
      to,
      content: nullContent(),
      timestamp,
      isUrgent: false,
      isOnline: false,
      hint: 0,
      groupId: null,
    });
  }
}

/** Only when the request speaks of the session that we have now: an old request must not undo a new session. */
async function archiveSession(
  deps: SendDeps,
  { aci, deviceId }: { readonly aci: string; readonly deviceId: number },
  request: DecryptionErrorMessage,
): Promise<boolean> {
  const ratchetKey = request.ratchetKey();
  if (ratchetKey === undefined) return false;
  return deps.lock(async () => {
    const overlay = openOverlay(deps.database, deps.clock, deps.onIdentityChange);
    const session = overlay.session("aci", aci, deviceId);
    if (session === null || !session.currentRatchetKeyMatches(ratchetKey)) return false;
    session.archiveCurrentState();
    overlay.putSession("aci", aci, deviceId, session);
    overlay.keep();
    deps.database.transaction(() => overlay.write());
    return true;
  });
}
