/**
 * The common part of the transports over `signal-cli` and over signal-cli-rest-api; a `SignalDaemon` is what differs.
 *
 * Both daemons acknowledge a message to Signal before we have seen it, so that a message dropped here is lost for good:
 *
 * - A poll is never cut. It outlives the `receive` that began it, and a later `receive`, after a reconnect if need be, takes
 *   its messages and starts a second poll beside it: where the old poll has died with its connection, the new one brings the
 *   messages; where it lives, the daemon refuses the new one.
 * - A batch is kept from `receive` until its commit, and handed out again if the commit failed.
 */
import type { Clock } from "../../clock.ts";
import { BridgeError, toFault } from "../../core/errors.ts";
import type { Account, Address, Chat, Envelope, Millis, Outbound } from "../../core/model.ts";
import { textOf } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import { allFeatures, type Batch, type Transport } from "../transport.ts";
import { accountOf, deliveredAt, fromRef, toEnvelope } from "./envelope.ts";
import type { DaemonPlace } from "./http.ts";
import { judgeRefusal, type Judged, toSendOutcome } from "./sending.ts";

export type Polled = {
  /** Message objects as signal-cli writes them. */
  readonly messages: readonly unknown[];
  readonly isProof: boolean;
};

/** The part of an adapter that differs. `connect` is called before any other method; rejections are those of `Transport`. */
export type SignalDaemon = Judged & {
  readonly name: "signal-cli" | "rest";
  readonly isLocal: boolean;
  /** Resolves to our account; a part that the daemon does not tell is null. */
  connect(signal: AbortSignal): Promise<Address>;
  /** Our ACI as the daemon's own files have it; null where they do not. */
  findOwnAci(number: string): Promise<string | null>;
  /** One poll, which obeys `stop` only where no message can be lost by that. */
  poll(timeoutMs: Millis, stop: AbortSignal): Promise<Polled>;
  /** Resolves to the daemon's answer. */
  send(message: Outbound): Promise<unknown>;
  /** Best effort, as is `markRead`. */
  typing(chat: Chat, isTyping: boolean): Promise<void>;
  markRead(sender: Address, sentAt: Millis): Promise<void>;
  fetchFile(id: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array>;
  submitCaptcha(token: string, captcha: string): Promise<void>;
};

/** How much longer than its time-out `receive` waits for a poll, since an offline signal-cli goes on far beyond it. */
const pollGraceMs: Millis = 60_000;
/** A smaller difference says nothing about our clock, since a message reaches us some time after Signal delivered it to the daemon. */
const skewMsMin: Millis = 60_000;
/** The least skew of this many polls counts, since a message that waited in the daemon makes our clock seem ahead. */
const skewsMax = 5;
/** How much longer than its time-out `disconnect` waits for a poll. */
const settleMs: Millis = 5000;

/** Options of both adapters, which ask nothing of the daemon before `connect`. */
export type PollingOptions = DaemonPlace & {
  /** Own number in E.164 as it was registered; null takes the daemon's only account. */
  readonly account: string | null;
  readonly log: Log;
};

export function createPolledTransport(daemon: SignalDaemon, { clock, log }: PollingOptions): Transport {
  const account = keepAccount(daemon, clock);
  let isConnected = false;
  /** The token of the captcha that Signal asked for when it refused the last send. */
  let challenge: string | null = null;
  let handedOut: Batch | null = null;
  const polls = createPolls(daemon, clock);

  const requireLine = (what: string): void => {
    if (!isConnected) throw new BridgeError("signal_unreachable", `Cannot ${what} as the transport is not connected`);
  };
  /** Runs a small send (typing, receipt), whose failure is only logged. */
  const quietly = async (what: string, work: () => Promise<void>): Promise<void> => {
    if (isConnected)
      await work().catch((error: unknown) => log.debug("small send failed", { what, code: toFault(error).code }));
  };
  const disconnect = async (): Promise<void> => {
    isConnected = false;
    await polls.settle();
  };

  return {
    name: daemon.name,
    isLocal: daemon.isLocal,
    capabilities: { ownTimestamps: false, ...allFeatures },
    async connect(signal) {
      await disconnect();
      const own = account.take(await daemon.connect(signal));
      isConnected = true;
      return own;
    },
    async receive(timeoutMs, signal) {
      requireLine("receive");
      if (handedOut !== null) return handedOut;
      const { messages, isProof } = await polls.next(timeoutMs, signal);
      const envelopes = await account.read(messages);
      if (envelopes.length > 0) handedOut = { envelopes, isProof: false, persist: null };
      return { envelopes, isProof, persist: null };
    },
    async ack(_batch, isCommitted) {
      if (isCommitted) handedOut = null;
    },
    async send(message) {
      requireLine("send");
      const sending = daemon.send(message).then(
        (answer) => toSendOutcome(answer, message.chat),
        (error: unknown) => judgeRefusal(error, daemon),
      );
      const asked = await sending.then(
        ({ failed }) => failed,
        (error: unknown) => [error as BridgeError],
      );
      challenge = asked.find((fault) => fault.challenge)?.challenge ?? challenge;
      return sending;
    },
    async answerChallenge(captcha) {
      if (challenge === null) throw new BridgeError("send_rejected", "Cannot hand in a captcha as none was asked for");
      requireLine("hand in the captcha");
      await daemon.submitCaptcha(challenge, captcha);
      challenge = null;
    },
    typing: (chat, isTyping) => quietly("typing", () => daemon.typing(chat, isTyping)),
    async markRead({ source, sentAt, isOwn }) {
      if (source !== null && !isOwn) await quietly("receipt", () => daemon.markRead(source, sentAt));
    },
    async attachment(ref, bytesMax, signal) {
      requireLine("fetch a file");
      return fetchFile(daemon, ref, bytesMax, signal);
    },
    skewMs: account.skewMs,
    disconnect,
  };
}

/** Keeps our account across reconnects in one object, which traffic completes; traffic also tells how far our clock is off. */
function keepAccount(daemon: SignalDaemon, clock: Clock) {
  let own: { aci: string | null; number: string | null; readonly deviceId: null } = blank();
  let isAsked = false;
  const skews: Millis[] = [];
  return {
    skewMs(): Millis {
      const least = Math.min(...skews);
      return Number.isFinite(least) && Math.abs(least) >= skewMsMin ? least : 0;
    },
    /** Takes the account as the daemon tells it at the start of a connection. */
    take({ number, aci }: Address): Account {
      if (number !== null && number !== own.number) own = { ...blank(), number };
      own.aci ??= aci;
      isAsked = false;
      return own;
    },
    /** Reads message objects as envelopes. Our ACI is looked up before the first, since it decides whether a message is meant for us. */
    async read(messages: readonly unknown[]): Promise<Envelope[]> {
      const at = deliveredAt(messages.at(-1));
      if (at !== null) skews.push(clock.now() - at);
      if (skews.length > skewsMax) skews.shift();
      for (const message of messages) own.number ??= accountOf(message);
      if (messages.length > 0 && own.aci === null && own.number !== null && !isAsked) {
        isAsked = true;
        own.aci = await daemon.findOwnAci(own.number).catch(() => null);
      }
      return messages.map((message) => {
        const envelope = toEnvelope(message, own);
        own.aci ??= ownAciIn(envelope, own.number);
        return envelope;
      });
    },
  };
}

const blank = () => ({ aci: null, number: null, deviceId: null });

/** Our ACI, if the envelope tells it: our other devices send under it, and signal-cli adds our number to a mention or quote of us. */
function ownAciIn(envelope: Envelope, number: string | null): string | null {
  if (envelope.isOwn) return envelope.source?.aci ?? null;
  const body = textOf(envelope);
  const people = [...(body?.mentions.map(({ who }) => who) ?? []), ...(body?.quote ? [body.quote.author] : [])];
  return people.find((who) => who.number !== null && who.number === number)?.aci ?? null;
}

async function fetchFile(
  daemon: SignalDaemon,
  ref: string,
  bytesMax: number,
  signal: AbortSignal,
): Promise<Uint8Array> {
  const { id, sizeBytes } = fromRef(ref);
  if (sizeBytes !== null && sizeBytes > bytesMax) throw unavailable("it is too large");
  const bytes = await daemon.fetchFile(id, bytesMax, signal).catch((error: unknown) => {
    const { code } = toFault(error);
    throw code === "signal_unreachable" || code === "signal_timeout" ? error : unavailable("it is not there");
  });
  if (bytes.length > bytesMax) throw unavailable("it is too large");
  // A download that failed leaves an empty or a cut file behind, and the daemon hands that out.
  if (bytes.length === 0 || bytes.length < (sizeBytes ?? 0)) throw unavailable("it is incomplete");
  return new Uint8Array(bytes);
}

const unavailable = (why: string) => new BridgeError("attachment_unavailable", `Cannot fetch a file as ${why}`);

/** Chooses our account among those of a daemon; a `wanted` account need not be in the list. @throws BridgeError */
export function chooseNumber(daemon: string, wanted: string | null, numbers: readonly string[]): string {
  const number = wanted ?? numbers[0];
  if (number === undefined) throw new BridgeError("not_linked", `Cannot connect to ${daemon} as it has no account`);
  if (wanted !== null || numbers.length === 1) return number;
  throw new BridgeError("rejected", `Cannot connect to ${daemon} as it has ${numbers.length} accounts`, {
    hint: "Set SIGNALMAN_ACCOUNT to the number that signalman is to use.",
  });
}

type PendingPoll = {
  /** Resolves to the poll itself, and never rejects. */
  readonly settled: Promise<PendingPoll>;
  outcome: { readonly polled: Polled } | { readonly error: unknown } | null;
  readonly dueAt: Millis;
};

/** Holds the polls that still run or whose messages were not taken: the last one, and those that earlier connections left behind. */
function createPolls(daemon: SignalDaemon, clock: Clock) {
  const pending = new Set<PendingPoll>();
  let settling = new AbortController();
  let givingUp = new AbortController();

  function begin(timeoutMs: Millis, signal: AbortSignal): PendingPoll {
    const settled = daemon.poll(timeoutMs, AbortSignal.any([signal, settling.signal])).then(
      (polled) => ((poll.outcome = { polled }), poll),
      (error: unknown) => ((poll.outcome = { error }), poll),
    );
    const poll: PendingPoll = { settled, outcome: null, dueAt: clock.monotonic() + timeoutMs + settleMs };
    pending.add(poll);
    return poll;
  }

  return {
    /** Resolves to the first answer of a poll. @throws BridgeError `signal_timeout` when it takes too long: it stays pending; else its error */
    async next(timeoutMs: Millis, signal: AbortSignal): Promise<Polled> {
      // A failure that no `next` waited for concerns a connection that is gone.
      for (const poll of pending) if (poll.outcome && "error" in poll.outcome) pending.delete(poll);
      const isReady = [...pending].some(({ outcome }) => outcome !== null);
      const latest = isReady ? null : begin(timeoutMs, signal);
      const endsAt = clock.monotonic() + timeoutMs + pollGraceMs;
      let failure: unknown = new BridgeError("signal_timeout", "Cannot receive as the daemon does not end the poll");
      while (pending.size > 0) {
        const first = Promise.race([...pending].map(({ settled }) => settled));
        const poll = await within(clock, first, endsAt - clock.monotonic(), givingUp.signal);
        if (!poll?.outcome) break;
        pending.delete(poll);
        if ("polled" in poll.outcome) return poll.outcome.polled;
        if (poll !== latest) continue;
        failure = poll.outcome.error;
        // The daemon may be busy with an older poll of our own, which is waited for.
        if (toFault(failure).code !== "already_receiving") break;
      }
      throw failure;
    },
    /** Resolves when every pending poll has ended or is overdue; a waiting `next` ends with it. */
    async settle(): Promise<void> {
      settling.abort();
      const now = clock.monotonic();
      const inTime = [...pending].filter(({ dueAt }) => dueAt > now);
      const leftMs = Math.max(0, ...inTime.map(({ dueAt }) => dueAt - now));
      if (leftMs > 0) await within(clock, Promise.all(inTime.map(({ settled }) => settled)), leftMs);
      givingUp.abort();
      settling = new AbortController();
      givingUp = new AbortController();
    },
  };
}

/** Resolves to the promise's value, or to null after `ms` or as soon as `signal` aborts. */
async function within<T>(clock: Clock, promise: Promise<T>, ms: Millis, signal?: AbortSignal): Promise<T | null> {
  const done = new AbortController();
  const stop = signal ? AbortSignal.any([signal, done.signal]) : done.signal;
  try {
    return await Promise.race([promise, clock.sleep(ms, stop).then(() => null)]);
  } finally {
    done.abort();
  }
}
