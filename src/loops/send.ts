/**
 * The send loop: in order per recipient, in parallel over recipients, the row committed as `sending` before each attempt.
 *
 * | fault                       | the row                                         | the others       |
 * |-----------------------------|-------------------------------------------------|------------------|
 * | surely not sent             | again after backoff                             | go on            |
 * | outcome unknown             | again; counted where the timestamp is not ours  | go on            |
 * | rate limit, captcha         | again when the server allows, or on `reconnect` | wait as well     |
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
  let pause: { readonly fault: Fault & { readonly at: Millis }; readonly until: Millis } | null = null;

  const setPause = (fault: Fault | null, until: Millis): void => {
    if (fault === null && pause === null) return;
    const at = clock.now();
    pause = fault && { fault: { ...fault, at }, until };
    deps.notices.emit("outboxFault", { fault, at });
  };

  const lanes = createLanes({
    name: "send",
    heads: () =>
      store.outbox.heads().map((head) => ({ ...head, notBefore: Math.max(head.notBefore, pause?.until ?? 0) })),
    work: (chatKey) => sendHead(deps, chatKey, setPause),
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
      pause = null;
      lanes.wake();
    },
  };
}

async function sendHead(
  deps: SendDeps,
  chatKey: string,
  setPause: (fault: Fault | null, until: Millis) => void,
): Promise<void> {
  const { store, clock } = deps;
  const row = store.outbox.head(chatKey);
  if (!row) return;
  const body = bodyOf(store, row);
  if (body === null) return store.outbox.markFailed(row.id, "superseded", clock.now());
  store.outbox.markSending(row.id);
  try {
    const outcome = await deps.transport.send({ chat: row.chat, timestamp: row.timestamp, body });
    store.db.transaction(() => {
      store.outbox.markSent(row.id, outcome.timestamp, clock.now());
      if (!isTrimming(row)) store.settings.count("sent");
    });
    setPause(null, 0);
    deps.notices.emit("sent", { at: clock.now() });
    if (outcome.failed.length > 0)
      deps.log.warn("some members did not get it", { failed: outcome.failed.map(({ code }) => code) });
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    sendFailed(deps, row, error, setPause);
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

function sendFailed(
  deps: SendDeps,
  row: OutboxRow,
  error: BridgeError,
  setPause: (fault: Fault | null, until: Millis) => void,
): void {
  const { store, clock } = deps;
  const now = clock.now();
  const fault = toFault(error);
  deps.log.warn("send failed", { code: error.code, error: error.message, attempt: row.attempts + 1 });
  const isUncertain = error.code === "send_uncertain" || error.code === "signal_timeout";
  const { ownTimestamps } = deps.transport.capabilities;
  if (isTrimming(row) && (error.retry === "never" || (isUncertain && !ownTimestamps)))
    return store.outbox.markFailed(row.id, error.code, now);
  if (error.retry === "never") {
    store.db.transaction(() => {
      store.outbox.markFailed(row.id, error.code, now);
      store.settings.count("sendFailed");
    });
    return deps.notices.emit("outboxFault", { fault, at: now });
  }
  const wait =
    error.retry === "person"
      ? (error.retryAfterMs ?? captchaRetryMs)
      : backoffMs({ attempt: row.attempts + 1, jitter: deps.random(), retryAfterMs: error.retryAfterMs });
  store.db.transaction(() => {
    store.outbox.requeue(row.id, error.retry === "person" ? 0 : now + wait, isUncertain);
    if (isUncertain && !ownTimestamps) store.settings.count("uncertain");
  });
  if (error.code === "captcha" || error.code === "signal_rate_limited") setPause(fault, now + wait);
}
