/**
 * The send loop: in order per recipient, in parallel over recipients, the row committed as `sending` before each attempt.
 *
 * | fault                       | the row                                         | the others       |
 * |-----------------------------|-------------------------------------------------|------------------|
 * | surely not sent             | again after backoff                             | go on            |
 * | outcome unknown             | again; counted where the timestamp is not ours  | go on            |
 * | rate limit, captcha         | again when the server allows, or on `reconnect` | wait as well     |
 * | the database, after a send  | what became of it is held until it is written   | go on            |
 * | this recipient, for good    | failed, counted                                 | go on            |
 */
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Millis, OutboundBody } from "../core/model.ts";
import { editedWithinMs } from "../core/progress.ts";
import type { OutboxRow } from "../store/outbox.ts";
import type { Bridge } from "./bridge.ts";
import { createLanes, untilWritten, type Lanes } from "./lanes.ts";

export interface SendLoop extends Lanes {
  /** A person asked to try now. */
  resume(): void;
}

/** With a captcha unsolved there is no time to wait for: look again this often. */
const captchaRetryMs = 3_600_000;

export function createSendLoop(bridge: Bridge): SendLoop {
  const { clock, store, isConnected } = bridge;
  const { outbox } = store;
  /** Until when nothing is sent; monotonic: somebody may set the clock. */
  let pausedUntil: Millis | null = null;

  const pause: Pause = (fault, ms) => {
    if (fault === null && pausedUntil === null) return;
    pausedUntil = fault && clock.monotonic() + ms;
    bridge.notices.emit("outboxFault", { fault, at: clock.now() });
  };
  const lanes = createLanes<OutboxRow>(bridge, {
    name: "send",
    chats: outbox.openChats,
    head(chatKey) {
      const row = outbox.head(chatKey);
      if (row === null || pausedUntil === null) return row;
      return { ...row, notBefore: Math.max(row.notBefore, clock.now() + pausedUntil - clock.monotonic()) };
    },
    async work(row, _, kill) {
      // The wait is over; whether its reason is, this send will tell.
      if (pausedUntil !== null && pausedUntil <= clock.monotonic()) pause(null, 0);
      const isDue = ({ notBefore }: OutboxRow): boolean =>
        isConnected() && !kill.aborted && pausedUntil === null && notBefore <= clock.now();
      for (let next: OutboxRow | null = row; next;) next = await sendOne(bridge, next, isDue, pause, kill);
    },
    isOpen: isConnected,
    max: bridge.config.limits.lanesMax,
  });
  return {
    ...lanes,
    resume() {
      pause(null, 0);
      lanes.wake();
    },
  };
}

/** Stops all sending for `ms`; a fault of null ends that. */
type Pause = (fault: Fault | null, ms: Millis) => void;

/**
 * Sends a row; resolves to the next one of the chat where it is marked as `sending` already: in the commit that records this
 * one as sent. A reaction takes the place of itself, so that sending it again after a crash says nothing twice: it is not marked.
 */
async function sendOne(
  bridge: Bridge,
  row: OutboxRow,
  isDue: (next: OutboxRow) => boolean,
  pause: Pause,
  kill: AbortSignal,
): Promise<OutboxRow | null> {
  const { outbox, settings } = bridge.store;
  const { clock, log } = bridge;
  const body = bodyOf(bridge, row);
  if (typeof body === "string") {
    outbox.markFailed(row.id, body, clock.now());
    return null;
  }
  const mark = ({ id, body: { kind } }: OutboxRow): void => {
    if (kind !== "reaction") outbox.markSending(id, clock.now());
  };
  if (row.state !== "sending") mark(row);
  try {
    const outcome = await bridge.transport.send({ chat: row.chat, timestamp: row.timestamp, body });
    const next = await untilWritten(bridge, "send", kill, (): OutboxRow | null => {
      outbox.markSent(row.id, outcome.timestamp, clock.now());
      if (!isTrimming(row)) settings.count("sent");
      const head = outbox.head(row.chatKey);
      if (head === null || !isDue(head)) return null;
      mark(head);
      return { ...head, state: "sending" };
    });
    bridge.notices.emit("sent", { at: clock.now() });
    if (outcome.failed.length > 0)
      log.warn("some members did not get it", { failed: outcome.failed.map(({ code }) => code) });
    return next;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn("send failed", { code: error.code, error: error.message, attempt: row.attempts + 1 });
    await sendFailed(bridge, row, error, pause, kill);
    return null;
  }
}

async function sendFailed(
  bridge: Bridge,
  row: OutboxRow,
  error: BridgeError,
  pause: Pause,
  kill: AbortSignal,
): Promise<void> {
  const { clock, transport } = bridge;
  const { outbox, settings } = bridge.store;
  const isUncertain = error.code === "send_uncertain" || error.code === "signal_timeout";
  const isCounted = isUncertain && !transport.capabilities.ownTimestamps;
  if (error.retry === "never" || (isTrimming(row) && isCounted)) {
    await untilWritten(bridge, "send", kill, () => {
      outbox.markFailed(row.id, isUncertain ? "send_uncertain" : error.code, clock.now());
      if (!isTrimming(row)) settings.count("sendFailed");
    });
    return;
  }
  const isCaptcha = error.code === "captcha";
  const attempts = row.attempts + 1;
  const waitMs = isCaptcha
    ? (error.retryAfterMs ?? captchaRetryMs)
    : backoffMs({ attempt: attempts, jitter: bridge.random(), retryAfterMs: error.retryAfterMs });
  if (isCaptcha || error.code === "signal_rate_limited") pause(toFault(error), waitMs);
  await untilWritten(bridge, "send", kill, () => {
    // The time of the write: it may have waited for the disk, and somebody may have set the clock meanwhile.
    outbox.requeue(row.id, attempts, isCaptcha ? 0 : clock.now() + waitMs, isUncertain);
    if (isCounted) settings.count("uncertain");
  });
}

/** What is shown besides the messages: nobody misses it, and it is no message to be counted. */
const isTrimming = ({ key }: OutboxRow): boolean => /^(?:status|draft|below):/u.test(key);

/** What goes out for a row now; or why nothing does. An edit that has lost its message is a message of its own, where it says anything. */
function bodyOf(bridge: Bridge, row: OutboxRow): OutboundBody | "superseded" | "send_uncertain" {
  const { body } = row;
  // Without a timestamp of our own a second copy is a second message, and as an edit it would name an old version.
  const mayBeThere = row.isUncertain === 1 && !bridge.transport.capabilities.ownTimestamps;
  if (mayBeThere && isTrimming(row) && body.kind !== "reaction") return "send_uncertain";
  if (body.kind !== "edit") return body;
  const targetSentAt = mayBeThere ? null : newestVersion(bridge, body.targetSentAt);
  if (targetSentAt !== null) return { ...body, targetSentAt };
  if (isTrimming(row)) return "superseded";
  return { kind: "text", text: body.text, styles: body.styles, quote: null, files: [] };
}

/**
 * What an edit has to name: phones show one that names an older version as a message of its own. Null where that is not known,
 * or where the phones would not take it any more. **Source:** issue 14906 of Signal-Android.
 */
function newestVersion({ store: { outbox }, clock }: Bridge, draftTimestamp: Millis): Millis | null {
  const draft = outbox.byTimestamp(draftTimestamp);
  if (draft?.state !== "sent" || clock.now() - (draft.sendingAt ?? draft.timestamp) > editedWithinMs) return null;
  const last = outbox.lastEdit(draft.key);
  return last?.state === "failed" ? null : (last ?? draft).signalTimestamp;
}
