/** Judges the status for the page and for `signalman status`: one sentence, faults first and what waits because of them; then figures. */
import type { Millis } from "../core/model.ts";
import { duration } from "../core/when.ts";
import type { FaultView, Status } from "./status.ts";

export type StatusVerdict = {
  readonly mood: "good" | "busy" | "bad";
  /** The sentence. It has no times in it, so that a screen reader reads it when it changes, and not each second. */
  readonly words: string;
  /** How long the verdict has held, and the age of what waits. */
  readonly times: string;
  readonly faults: readonly Omit<FaultView, "userAction">[];
};

const seconds = (ms: Millis): Millis => Math.floor(ms / 1_000) * 1_000;

/** `now` in Unix ms. */
export function judgeStatus({ connection, claude, inbox, outbox, uptimeMs }: Status, now: Millis): StatusVerdict {
  const { state, since, lastProofAt, retryAt } = connection;
  const isUp = state === "CONNECTED";
  // A line that is down counts as lost since its last proof, or since the start where it had none.
  const lostAt = lastProofAt === null ? now - uptimeMs : Date.parse(lastProofAt);
  const standsAt = isUp ? Date.parse(since) : lostAt;
  const signal = {
    CONNECTED: "Signal is connected",
    SYNCING: "Signal is connected, and conversations are being compared",
    RECONNECTING: "Signal is being connected",
    DISCONNECTED: "Signal is not connected",
  }[state];
  const halted = state === "DISCONNECTED" && retryAt === null ? ", and waits for you" : "";
  const away = claude.reachable === false ? "; Claude cannot be reached" : "";
  const held = outbox.fault === null ? "" : "; nothing can be sent";
  const waits = [waiting(inbox.pending, "for an answer"), waiting(outbox.pending, "to be sent")].filter(Boolean);
  const oldestMs = Math.max(inbox.oldestMs ?? 0, outbox.oldestMs ?? 0);
  const times = [
    duration(seconds(now - standsAt)),
    waits.length > 0 ? `the oldest waits for ${duration(seconds(oldestMs))}` : "",
    retryAt === null ? "" : `next attempt in ${duration(seconds(Date.parse(retryAt) - now))}`,
  ];
  const isFine = isUp && away === "" && held === "";
  return {
    mood: isFine ? "good" : isUp || state === "DISCONNECTED" ? "bad" : "busy",
    words: `${signal}${halted}${away}${held}${waits.length === 0 ? "" : `: ${waits.join(", ")}`}`,
    times: `for ${times.filter(Boolean).join("; ")}`,
    faults: [connection.fault, claude.lastError, outbox.fault].filter((fault) => fault !== null),
  };
}

const waiting = (count: number, what: string): string =>
  count === 0 ? "" : `${count} ${count === 1 ? "message waits" : "messages wait"} ${what}`;

export type Card = { readonly title: string; readonly facts: readonly (readonly [name: string, value: Fact])[] };
type Fact = string | number | null;

/** The figures, a card for each subject. A figure that is null or zero is left out, and so is a card without figures. */
export function cardsOf(
  { connection, signal, claude, sessions, inbox, outbox, usage }: Status,
  now: Millis,
): readonly Card[] {
  const { checked, changed, pushed, failed } = sessions.lastSync;
  const all: Readonly<Record<string, Readonly<Record<string, Fact>>>> = {
    Signal: {
      Transport: signal.transport,
      Account: signal.account,
      "Last proof of life": ago(connection.lastProofAt, now),
      Received: ago(signal.lastReceivedAt, now),
      Sent: ago(signal.lastSentAt, now),
      Reconnects: connection.reconnects,
      "Failed attempts": connection.attempt,
      "Kept unread": signal.quarantined || null,
    },
    Claude: {
      Backend: claude.backend,
      Model: claude.model,
      API: claude.reachable === null ? "not asked yet" : claude.reachable ? "reachable" : "not reachable",
      "Cost today": dollars(usage.todayDollars),
      "Cost so far": dollars(usage.costDollars),
      "Answers take": tenths(usage.answersMs / usage.answers),
    },
    Conversations: {
      Kept: sessions.total,
      "Used today": sessions.active,
      "Waiting for sync": sessions.stale,
      "Last sync": ago(sessions.lastSyncAt, now),
      "Compared then": checked,
      "Changed here": changed,
      "Changed at Claude": pushed,
      "Could not be read": failed,
    },
    Questions: {
      Waiting: inbox.pending,
      Answered: inbox.answered,
      "From strangers, dropped": inbox.dropped,
      Failed: inbox.failed,
    },
    Answers: { Waiting: outbox.pending, Sent: outbox.sent, Repeated: outbox.uncertain, Failed: outbox.failed },
  };
  return Object.entries(all)
    .map(([title, facts]) => ({
      title,
      facts: Object.entries(facts).filter(([, value]) => value !== null && value !== 0),
    }))
    .filter(({ facts }) => facts.length > 0);
}

const ago = (time: string | null, now: Millis): string | null => time && `${duration(now - Date.parse(time))} ago`;

/** Seconds with one decimal, "< 0.1 s" for less; null where no answer has been given. */
const tenths = (ms: Millis): string | null =>
  Number.isNaN(ms) ? null : ms < 100 ? "< 0.1 s" : `${(ms / 1_000).toFixed(1)} s`;

/** An amount in dollars, "< $0.01" for less than a cent; null for zero. */
const dollars = (sum: number): string | null => (sum === 0 ? null : sum < 0.01 ? "< $0.01" : `$${sum.toFixed(2)}`);
