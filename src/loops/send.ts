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
import type { Clock, Random } from "../clock.ts";
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Millis, OutboundBody } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { OutboxRow } from "../store/outbox.ts";
import type { Store } from "../store/store.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import type { NoticeBus } from "./notices.ts";

export type SendDeps = {
  readonly transport: Transport;
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly notices: NoticeBus;
  readonly lanesMax: number;
  /** CONNECTED. */
  readonly isOpen: () => boolean;
};

export interface SendLoop extends Lanes {
  /** What stops all sending now, with the time it is tried again; null when nothing does. */
  fault(): (Fault & { readonly at: Millis }) | null;
  /** A person asked to try now. */
  resume(): void;
}

/** With a captcha unsolved there is no time to wait for: look again this often. */
const captchaRetryMs = 3_600_000;

export function createSendLoop(deps: SendDeps): SendLoop {
  const { clock, store } = deps;
  /** `until` is monotonic: somebody may set the clock. */
  let pause: { readonly fault: Fault & { readonly at: Millis }; readonly until: Millis } | null = null;

  const setPause: SetPause = (fault, ms) => {
    if (fault === null && pause === null) return;
    const at = clock.now();
    pause = fault && { fault: { ...fault, at }, until: clock.monotonic() + ms };
    deps.notices.emit("outboxFault", { fault, at });
  };
  const pausedUntil = (): Millis => (pause === null ? 0 : clock.now() + pause.until - clock.monotonic());

  const lanes = createLanes({
    name: "send",
    heads: () => store.outbox.heads().map((head) => ({ ...head, notBefore: Math.max(head.notBefore, pausedUntil()) })),
    work(chatKey, kill) {
      // The wait is over; whether its reason is, this send will tell.
      if (pause !== null && pause.until <= clock.monotonic()) setPause(null, 0);
      return sendHead(deps, chatKey, setPause, kill);
    },
    isOpen: deps.isOpen,
    max: deps.lanesMax,
    clock,
    random: deps.random,
    log: deps.log,
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

async function sendHead(deps: SendDeps, chatKey: string, setPause: SetPause, kill: AbortSignal): Promise<void> {
  const { store, clock } = deps;
  const row = store.outbox.head(chatKey);
  if (!row) return;
  const body = bodyOf(store, row);
  if (body === null) return store.outbox.markFailed(row.id, "superseded", clock.now());
  store.outbox.markSending(row.id);
  try {
    const outcome = await deps.transport.send({ chat: row.chat, timestamp: row.timestamp, body });
    await record(deps, kill, () => {
      store.outbox.markSent(row.id, outcome.timestamp, clock.now());
      if (!isTrimming(row)) store.settings.count("sent");
    });
    setPause(null, 0);
    deps.notices.emit("sent", { at: clock.now() });
    if (outcome.failed.length > 0)
      deps.log.warn("some members did not get it", { failed: outcome.failed.map(({ code }) => code) });
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    await sendFailed(deps, row, error, setPause, kill);
  }
}

/**
 * Writes what became of a send, and tries until it holds: sending again because the disk is full would say it twice, and
 * uncounted. Killed meanwhile, the row stays `sending`, as after a crash.
 */
async function record(deps: SendDeps, kill: AbortSignal, work: () => void): Promise<void> {
  for (let attempt = 1; !kill.aborted; attempt++) {
    try {
      return deps.store.db.transaction(work);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      deps.log.error("outbox not writable", { code: error.code, error: error.message, attempt });
      await deps.clock.sleep(backoffMs({ attempt, jitter: deps.random(), retryAfterMs: null }), kill);
    }
  }
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
  deps: SendDeps,
  row: OutboxRow,
  error: BridgeError,
  setPause: SetPause,
  kill: AbortSignal,
): Promise<void> {
  const { store, clock } = deps;
  const fault = toFault(error);
  deps.log.warn("send failed", { code: error.code, error: error.message, attempt: row.attempts + 1 });
  const isUncertain = error.code === "send_uncertain" || error.code === "signal_timeout";
  const { ownTimestamps } = deps.transport.capabilities;
  if (isTrimming(row) && (error.retry === "never" || (isUncertain && !ownTimestamps)))
    return record(deps, kill, () => store.outbox.markFailed(row.id, error.code, clock.now()));
  if (error.retry === "never") {
    await record(deps, kill, () => {
      store.outbox.markFailed(row.id, error.code, clock.now());
      store.settings.count("sendFailed");
    });
    return;
  }
  const isCaptcha = error.code === "captcha";
  const wait = isCaptcha
    ? (error.retryAfterMs ?? captchaRetryMs)
    : backoffMs({ attempt: row.attempts + 1, jitter: deps.random(), retryAfterMs: error.retryAfterMs });
  if (isCaptcha || error.code === "signal_rate_limited") setPause(fault, wait);
  await record(deps, kill, () => {
    // The time of the write: it may have waited for the disk, and somebody may have set the clock meanwhile.
    store.outbox.requeue(row.id, isCaptcha ? 0 : clock.now() + wait, isUncertain);
    if (isUncertain && !ownTimestamps) store.settings.count("uncertain");
  });
}
