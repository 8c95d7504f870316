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
import type { OutboxRow } from "../store/outbox.ts";
import type { Store } from "../store/store.ts";
import type { Bridge } from "./bridge.ts";
import { createLanes, type Lanes } from "./lanes.ts";

export interface SendLoop extends Lanes {
  /** What stops all sending now, with the time it is tried again; null when nothing does. */
  fault(): (Fault & { readonly at: Millis }) | null;
  /** A person asked to try now. */
  resume(): void;
}

/** With a captcha unsolved there is no time to wait for: look again this often. */
const captchaRetryMs = 3_600_000;

export function createSendLoop(bridge: Bridge): SendLoop {
  const { clock, store } = bridge;
  /** `until` is monotonic: somebody may set the clock. */
  let pause: { readonly fault: Fault & { readonly at: Millis }; readonly until: Millis } | null = null;

  const setPause: SetPause = (fault, ms) => {
    if (fault === null && pause === null) return;
    const at = clock.now();
    pause = fault && { fault: { ...fault, at }, until: clock.monotonic() + ms };
    bridge.notices.emit("outboxFault", { fault, at });
  };
  const pausedUntil = (): Millis => (pause === null ? 0 : clock.now() + pause.until - clock.monotonic());

  const lanes = createLanes<OutboxRow>(bridge, {
    name: "send",
    chats: store.outbox.openChats,
    head(chatKey) {
      const row = store.outbox.head(chatKey);
      return row && { ...row, notBefore: Math.max(row.notBefore, pausedUntil()) };
    },
    async work(row, _, kill) {
      // The wait is over; whether its reason is, this send will tell.
      if (pause !== null && pause.until <= clock.monotonic()) setPause(null, 0);
      const isNextDue = ({ notBefore }: OutboxRow): boolean =>
        bridge.isConnected() && !kill.aborted && pause === null && notBefore <= clock.now();
      for (let next: OutboxRow | null = row; next;) next = await sendOne(bridge, next, isNextDue, setPause, kill);
    },
    isOpen: bridge.isConnected,
    max: bridge.config.limits.lanesMax,
  });
  return {
    ...lanes,
    fault: () => pause?.fault ?? null,
    resume() {
      setPause(null, 0);
      lanes.wake();
    },
  };
}

/** Stops all sending for `ms`; a fault of null ends that. */
type SetPause = (fault: Fault | null, ms: Millis) => void;

/**
 * Sends a row; resolves to the next one of the chat where it is marked as `sending` already: in the commit that records this
 * one as sent. A reaction takes the place of itself, so that sending it again after a crash says nothing twice: it is not marked.
 */
async function sendOne(
  bridge: Bridge,
  row: OutboxRow,
  isNextDue: (next: OutboxRow) => boolean,
  setPause: SetPause,
  kill: AbortSignal,
): Promise<OutboxRow | null> {
  const { store, clock } = bridge;
  const body = bodyOf(store, row);
  if (body === null) {
    store.outbox.markFailed(row.id, "superseded", clock.now());
    return null;
  }
  const mark = ({ id, body: { kind } }: OutboxRow): void => {
    if (kind !== "reaction") store.outbox.markSending(id);
  };
  if (row.state !== "sending") mark(row);
  try {
    const outcome = await bridge.transport.send({ chat: row.chat, timestamp: row.timestamp, body });
    const next = await record(bridge, kill, (): OutboxRow | null => {
      store.outbox.markSent(row.id, outcome.timestamp, clock.now());
      if (!isTrimming(row)) store.settings.count("sent");
      const head = store.outbox.head(row.chatKey);
      if (head === null || !isNextDue(head)) return null;
      mark(head);
      return { ...head, state: "sending" };
    });
    setPause(null, 0);
    bridge.notices.emit("sent", { at: clock.now() });
    if (outcome.failed.length > 0)
      bridge.log.warn("some members did not get it", { failed: outcome.failed.map(({ code }) => code) });
    return next;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    await sendFailed(bridge, row, error, setPause, kill);
    return null;
  }
}

/**
 * Writes what became of a send, and tries until it holds: sending again because the disk is full would say it twice, and
 * uncounted. Killed meanwhile, the row stays `sending`, as after a crash.
 */
async function record<T>(bridge: Bridge, kill: AbortSignal, work: () => T): Promise<T | null> {
  for (let attempt = 1; !kill.aborted; attempt++) {
    try {
      return bridge.store.db.transaction(work);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      bridge.log.error("outbox not writable", { code: error.code, error: error.message, attempt });
      await bridge.clock.sleep(backoffMs({ attempt, jitter: bridge.random(), retryAfterMs: null }), kill);
    }
  }
  return null;
}

/** What is shown besides the messages: nobody misses it, and it is no message to be counted. */
const isTrimming = ({ key }: OutboxRow): boolean => key.startsWith("status:") || key.startsWith("draft:");

/** Our edits name a message by the timestamp chosen for it. Where it did not go out, an answer is a message of its own. */
function bodyOf(store: Store, row: OutboxRow): OutboundBody | null {
  const { body } = row;
  const target = body.kind === "edit" ? store.outbox.byTimestamp(body.targetSentAt) : null;
  if (body.kind !== "edit" || target === null) return body;
  if (target.state === "failed" && isTrimming(row)) return null;
  if (target.state === "failed") return { kind: "text", text: body.text, styles: body.styles, quote: null, files: [] };
  return { ...body, targetSentAt: target.signalTimestamp ?? body.targetSentAt };
}

async function sendFailed(
  bridge: Bridge,
  row: OutboxRow,
  error: BridgeError,
  setPause: SetPause,
  kill: AbortSignal,
): Promise<void> {
  const { store, clock } = bridge;
  const fault = toFault(error);
  bridge.log.warn("send failed", { code: error.code, error: error.message, attempt: row.attempts + 1 });
  const isUncertain = error.code === "send_uncertain" || error.code === "signal_timeout";
  const { ownTimestamps } = bridge.transport.capabilities;
  if (isTrimming(row) && (error.retry === "never" || (isUncertain && !ownTimestamps)))
    return void (await record(bridge, kill, () => store.outbox.markFailed(row.id, error.code, clock.now())));
  if (error.retry === "never") {
    await record(bridge, kill, () => {
      store.outbox.markFailed(row.id, error.code, clock.now());
      store.settings.count("sendFailed");
    });
    return;
  }
  const isCaptcha = error.code === "captcha";
  const wait = isCaptcha
    ? (error.retryAfterMs ?? captchaRetryMs)
    : backoffMs({ attempt: row.attempts + 1, jitter: bridge.random(), retryAfterMs: error.retryAfterMs });
  if (isCaptcha || error.code === "signal_rate_limited") setPause(fault, wait);
  await record(bridge, kill, () => {
    // The time of the write: it may have waited for the disk, and somebody may have set the clock meanwhile.
    store.outbox.requeue(row.id, row.attempts + 1, isCaptcha ? 0 : clock.now() + wait, isUncertain);
    if (isUncertain && !ownTimestamps) store.settings.count("uncertain");
  });
}
