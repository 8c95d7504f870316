/**
 * The send loop: in order per recipient, in parallel over recipients, marks beside the messages; the row committed as `sending` before
 * each attempt.
 *
 * | fault                       | the row                                         | the others       |
 * |-----------------------------|-------------------------------------------------|------------------|
 * | surely not sent             | again after backoff                             | go on            |
 * | outcome unknown             | again; counted where the timestamp is not ours  | go on            |
 * | rate limit, captcha, update | again when the server allows, or on `reconnect` | wait as well; not where the limit is of one recipient |
 * | the database, after a send  | its outcome is held until it is written         | go on            |
 * | this recipient, for good    | failed, counted                                 | go on            |
 */
import { backoffMs, isLogged } from "../core/backoff.ts";
import { BridgeError, toFault, type Fault } from "../core/errors.ts";
import type { Millis, OutboundBody } from "../core/model.ts";
import { sendEditWithinMs } from "../core/reply.ts";
import type { OutboxRow } from "../store/outbox.ts";
import type { Bridge } from "./bridge.ts";
import { createQueue, untilWritten, type Queue } from "./queue.ts";

/** With a captcha unsolved, or a server that has changed, no time is known to wait for: a send is tried this often. */
const personRetryMs: Millis = 3_600_000;
/** Chats that are sent to at the same time; marks beside them. */
const chatsMax = 8;
const marksMax = 4;

/** Stops all sending for `ms`; a fault of null ends that. */
type Pause = (fault: Fault | null, ms: Millis) => void;

export function createSendLoop(bridge: Bridge) {
  const { clock, store, isConnected } = bridge;
  /** No send starts before this, in monotonic time; null for no pause. */
  let pausedUntil: Millis | null = null;
  const isPaused = (): boolean => pausedUntil !== null && pausedUntil > clock.monotonic();
  const pause: Pause = (fault, ms) => {
    if (fault === null && pausedUntil === null) return;
    pausedUntil = fault && clock.monotonic() + ms;
    bridge.notices.emit("outboxFault", { fault, at: clock.now() });
    if (fault !== null) void clock.sleep(ms).then(() => wake());
  };
  const openQueue = (name: string, keys: () => readonly string[], next: Sending["next"], max: number): Queue =>
    createQueue(bridge, {
      name,
      keys,
      async work(chatKey, kill) {
        const isOpen = (): boolean => isConnected() && !kill.aborted && !isPaused();
        let row = isOpen() ? next(chatKey) : null;
        // The pause is over: this send shows whether its reason is over too.
        if (row !== null) pause(null, 0);
        // `outbox.add` wrote a hurried row as `sending`, and counted this attempt.
        if (row?.state === "sending") row = { ...row, attempts: row.attempts - 1 };
        while (row !== null) {
          const following: Next = await sendOne(bridge, row, { next, isOpen, pause, kill });
          // Marks that stood behind this message may go out now.
          if (row.why !== "mark") marks.wake(chatKey);
          if (typeof following === "number") return following;
          row = following;
        }
        return null;
      },
      isOpen: () => isConnected() && !isPaused(),
      max,
    });
  const { outbox } = store;
  const queue = openQueue("send", outbox.openChats, outbox.head, chatsMax);
  // Marks have a queue of their own, so that a mark which waits or fails delays no message. `nextMark` holds each behind its message.
  const marks: Queue = openQueue("marks", outbox.chatsWithMarks, outbox.nextMark, marksMax);
  const wake = (chatKey?: string): void => {
    queue.wake(chatKey);
    marks.wake(chatKey);
  };
  const hurry = (): void => {
    queue.hurry();
    marks.hurry();
  };
  return {
    ...queue,
    wake,
    hurry,
    /** Whether this chat's next message may go out at once: no wait holds it, and no send of the chat is under way. */
    isReady: (chatKey: string): boolean =>
      isConnected() && !isPaused() && !queue.isBusy(chatKey) && queue.busyCount() < chatsMax,
    /** Ends the pause and all waits, since a person asked for a try now. */
    resume(): void {
      pause(null, 0);
      hurry();
    },
    /** Sends until `stop` aborts; what is under way then is not tried again. */
    run: async (stop: AbortSignal): Promise<void> =>
      void (await Promise.all([queue.run(stop, stop), marks.run(stop, stop)])),
  };
}

/** Sends of one queue share these. */
type Sending = {
  /** The row of a chat that is to be sent now. */
  readonly next: (chatKey: string) => OutboxRow | null;
  readonly isOpen: () => boolean;
  readonly pause: Pause;
  readonly kill: AbortSignal;
};

/** The next row, marked as `sending` already; null for none; or how long this chat waits. */
type Next = OutboxRow | Millis | null;

/**
 * Sends a row. The next one of the chat is marked in the commit that records this one as sent. A reaction that is sent again after a
 * crash only replaces itself: it is not marked as `sending`, and the next commit records it.
 */
async function sendOne(bridge: Bridge, row: OutboxRow, sending: Sending): Promise<Next> {
  const { next: nextOf, isOpen, pause, kill } = sending;
  const { outbox, counters } = bridge.store;
  const { clock, log } = bridge;
  const take = (next: OutboxRow | null): Next => {
    if (next === null || !isOpen()) return null;
    if (next.body.kind !== "reaction") outbox.markSending(next.id, clock.now());
    return { ...next, state: "sending" };
  };
  const body = bodyOf(bridge, row);
  if (typeof body === "string") {
    outbox.markFailed(row.id, body, clock.now());
    return take(nextOf(row.chatKey));
  }
  if (row.state !== "sending") take(row);
  try {
    const outcome = await bridge.transport.send({ chat: row.chat, timestamp: row.timestamp, body });
    const isReaction = row.body.kind === "reaction";
    if (isReaction) outbox.markShown(row, outcome.timestamp, clock.now());
    const record = (): Next => {
      if (!isReaction) outbox.markSent(row.id, outcome.timestamp, clock.now());
      if (!isTrimming(row)) counters.add({ sent: 1 });
      return take(nextOf(row.chatKey));
    };
    const isLast = isReaction && nextOf(row.chatKey) === null;
    const next = isLast ? null : await untilWritten(bridge, "send", kill, record);
    bridge.notices.emit("sent", { at: clock.now() });
    const failed = outcome.failed.map(({ code }) => code);
    if (failed.length > 0) log.warn("some members did not get it", { failed });
    // A captcha for any member is asked of the whole account: `/status` says so until the next send.
    if (failed.includes("captcha"))
      pause(toFault(new BridgeError("captcha", "Cannot reach a member of a group as Signal asks for a captcha")), 0);
    return next;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    const attempt = row.attempts + 1;
    log[isLogged(attempt) ? "warn" : "debug"]("send failed", { code: error.code, error: error.message, attempt });
    return sendFailed(bridge, row, error, sending);
  }
}

/** Resolves to how long the chat waits. */
async function sendFailed(
  bridge: Bridge,
  row: OutboxRow,
  error: BridgeError,
  { pause, kill }: Sending,
): Promise<Millis> {
  const { clock, transport } = bridge;
  const { outbox, counters } = bridge.store;
  const isUncertain = error.code === "send_uncertain" || error.code === "signal_timeout";
  const isCounted = isUncertain && !transport.capabilities.ownTimestamps;
  if (error.retry === "never" || (isTrimming(row) && isCounted)) {
    await untilWritten(bridge, "send", kill, () => {
      outbox.markFailed(row.id, isUncertain ? "send_uncertain" : error.code, clock.now());
      if (!isTrimming(row)) counters.add({ sendFailed: 1 });
    });
    return 0;
  }
  const isForPerson = error.code === "captcha" || error.code === "outdated";
  const attempts = row.attempts + 1;
  const waitMs = isForPerson
    ? (error.retryAfterMs ?? personRetryMs)
    : backoffMs({ attempt: attempts, jitter: bridge.random(), retryAfterMs: error.retryAfterMs });
  const isForAll = isForPerson || (error.code === "signal_rate_limited" && error.scope === "account");
  if (isForAll) pause(toFault(error), waitMs);
  await untilWritten(bridge, "send", kill, () => {
    outbox.requeue(row.id, attempts, isUncertain);
    if (isCounted) counters.add({ uncertain: 1 });
  });
  // The pause of all chats is this chat's wait too.
  return isForPerson ? 0 : waitMs;
}

/** True for a row that only accompanies messages (a mark, a preview): it is not missed, and counts as no message. */
const isTrimming = ({ why }: OutboxRow): boolean => why === "mark" || why === "draft" || why === "below";

/** The body that goes out for a row now, or why none does. An edit without its message becomes one, unless it only accompanies others. */
function bodyOf(bridge: Bridge, row: OutboxRow): OutboundBody | "superseded" | "send_uncertain" {
  const { body } = row;
  // Without a timestamp of our own a second copy is a second message, and as an edit it would name an old version.
  const mayBeThere = row.isUncertain && !bridge.transport.capabilities.ownTimestamps;
  if (mayBeThere && isTrimming(row) && body.kind !== "reaction") return "send_uncertain";
  if (body.kind !== "edit") return body;
  const targetSentAt = mayBeThere ? null : newestVersion(bridge, body.targetSentAt);
  if (targetSentAt !== null) return { ...body, targetSentAt };
  if (isTrimming(row)) return "superseded";
  return { kind: "text", text: body.text, styles: body.styles, quote: null, files: [] };
}

/**
 * The timestamp of the version that an edit has to name: phones show an edit of an older version as a message of its own. Null where it
 * is not known, or where phones would not take the edit any more. **Source:** issue 14906 of Signal-Android.
 */
function newestVersion({ store: { outbox }, clock }: Bridge, draftTimestamp: Millis): Millis | null {
  const draft = outbox.byTimestamp(draftTimestamp);
  if (draft?.state !== "sent" || clock.now() - (draft.sendingAt ?? draft.timestamp) > sendEditWithinMs) return null;
  const last = outbox.lastEdit(draft.subject);
  return last?.state === "failed" ? null : (last ?? draft).signalTimestamp;
}
