/**
 * The transport over `signal-cli daemon --http --receive-mode manual`.
 *
 *   connect   listAccounts tells the daemon's mode · the account is chosen and woken
 *   receive   long polls of one envelope, small batches in a backlog (polling.ts: a poll is never cut)
 *   send      one call per message; the list of results decides (send-report.ts)
 *
 * signal-cli acknowledges to Signal before we see anything and picks the timestamps itself: a message can be lost with the
 * daemon, and a send whose answer is lost may go out twice. The native transport has neither weakness.
 */
import { Buffer } from "node:buffer";
import * as v from "valibot";
import type { Clock } from "../clock.ts";
import { createChallenge } from "./challenge.ts";
import { BridgeError } from "../core/errors.ts";
import type { Address, Millis, Outbound } from "../core/model.ts";
import type { Log } from "../log.ts";
import { fromRef, ownAciIn, toEnvelope } from "./envelope.ts";
import type { Fetch } from "./http.ts";
import { createHttp } from "./http.ts";
import type { Polled } from "./polling.ts";
import { createPolling } from "./polling.ts";
import type { Rpc, RpcOutcome } from "./rpc.ts";
import { createRpc, resultOf } from "./rpc.ts";
import { salvage } from "./salvage.ts";
import { chooseAccount, wakeAccount } from "./signal-cli-account.ts";
import { toCall, toRecipient, toSendOutcome, toTarget } from "./signal-cli-send.ts";
import type { Transport, SendOutcome } from "./transport.ts";

const signalCliLimits = {
  /** Deadline of calls that should take no time. Loading an account goes to the network. */
  callMs: 60_000,
  /** Deadline of a send; uploads are part of it. */
  sendMs: 120_000,
  typingMs: 10_000,
  /** Shortest poll: less is over before the daemon has asked Signal, and 0 never asks. */
  pollMsMin: 1000,
  /** Offline, signal-cli goes on reconnecting far beyond the time-out it was given. */
  pollGraceMs: 60_000,
  /** A poll older than this is given up: its daemon hangs. */
  pollAbandonMs: 15 * 60_000,
  settleMs: 5000,
  pollBytesMax: 32 * 2 ** 20,
  /** Envelopes of one poll in a backlog: as many are lost if the daemon dies in it. */
  batchMax: 16,
  /** A request with a longer string is not read. **Source:** signal-cli's Jackson, StreamReadConstraints. */
  stringLengthMax: 20_000_000,
} as const;

export type SignalCliOptions = {
  readonly baseUrl: string;
  /** Own number in E.164; null takes the daemon's only account. */
  readonly account: string | null;
  readonly clock: Clock;
  readonly log: Log;
  readonly fetch?: Fetch | undefined;
  readonly limits?: Partial<Record<keyof typeof signalCliLimits, number>> | undefined;
};

type Session = { readonly params: { readonly account?: string }; own: Address };
type Line = {
  readonly rpc: Rpc;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: Record<keyof typeof signalCliLimits, number>;
  readonly session: (what: string) => Session;
};

/**
 * A daemon behind `baseUrl`. Nothing is asked before `connect`.
 * @throws BridgeError `config` when `baseUrl` is no http(s) URL
 */
export function createSignalCli(options: SignalCliOptions): Transport {
  const http = createHttp(options);
  const limits = { ...signalCliLimits, ...options.limits };
  /** `own` is kept across reconnects: the ACI is learnt from traffic, since hardly a call tells it. */
  let own: Address = { aci: null, number: options.account };
  let session: Session | null = null;
  const challenge = createChallenge();
  const line: Line = {
    rpc: createRpc(http),
    clock: options.clock,
    log: options.log,
    limits,
    session(what) {
      if (session) return session;
      throw new BridgeError("signal_unreachable", `Cannot ${what} as the transport is not connected`);
    },
  };
  const poll = createPoll(line);
  const polling = createPolling({
    clock: options.clock,
    poll,
    graceMs: limits.pollGraceMs,
    settleMs: limits.settleMs,
  });
  const disconnect = async (): Promise<void> => {
    if (session) own = session.own;
    session = null;
    await polling.settle();
  };
  return {
    name: "signal-cli",
    isLocal: http.isLocal,
    capabilities: {
      ownTimestamps: false,
      typing: true,
      reactions: true,
      edits: true,
      readReceipts: true,
      attachments: true,
    },
    async connect(signal) {
      await disconnect();
      const chosen = await chooseAccount(line.rpc, options.account, limits.callMs, signal);
      const aci = await wakeAccount(line.rpc, chosen, limits.callMs, signal);
      own = { aci: aci ?? own.aci, number: chosen.number };
      session = { params: chosen.params, own };
      return { ...own, deviceId: null };
    },
    async receive(timeoutMs, signal) {
      line.session("receive");
      return polling.receive(timeoutMs, signal);
    },
    ack: async (batch, isCommitted) => polling.ack(batch, isCommitted),
    send: (message) => challenge.watch(() => sendOver(line, message)),
    answerChallenge: (captcha) => challenge.answer((token) => submitCaptcha(line, token, captcha)),
    async typing(chat, isTyping) {
      // sendTyping knows no Note to Self.
      if (chat.kind === "self" || !session) return;
      await attempt(line, "sendTyping", () => ({ ...toTarget(chat), stop: !isTyping }));
    },
    async markRead({ source, sentAt, isOwn }) {
      if (source === null || isOwn || !session) return;
      const recipient = toRecipient(source);
      await attempt(line, "sendReceipt", () => ({ recipient, targetTimestamp: [sentAt], type: "read" }));
    },
    attachment: (ref, bytesMax, signal) => fetchFile(line, ref, bytesMax, signal),
    disconnect,
  };
}

/**
 * One envelope per poll: it returns the moment something arrives, and one is all that can be lost with it. But each poll
 * opens and closes a connection to Signal, so that hundreds of waiting messages would take minutes: after three polls that
 * brought something at once the batch grows, with a short silence as its end, until a batch is not full. Somebody who writes
 * while a poll waits is no backlog, and must not wait for that silence.
 */
function createPoll({ rpc, clock, log, limits, session }: Line) {
  let fullPolls = 0;
  return async (timeoutMs: Millis): Promise<Polled> => {
    const current = session("receive");
    const maxMessages = Math.min(limits.batchMax, 2 ** Math.max(0, fullPolls - 2));
    const waitMs = maxMessages > 1 ? limits.pollMsMin : Math.max(limits.pollMsMin, timeoutMs);
    const startedAt = clock.monotonic();
    const outcome = await rpc({
      method: "receive",
      params: { ...current.params, timeout: waitMs / 1000, maxMessages },
      what: "receive",
      deadlineMs: waitMs + limits.pollAbandonMs,
      bytesMax: limits.pollBytesMax,
    });
    const messages = toMessages(outcome, log);
    const isBacklog = messages.length >= maxMessages && clock.monotonic() - startedAt < limits.pollMsMin;
    fullPolls = isBacklog ? fullPolls + 1 : 0;
    const envelopes = messages.map((message) => toEnvelope(message, current.own));
    const aci = envelopes.map(ownAciIn).find((found) => found !== null);
    if (aci !== undefined) current.own = { ...current.own, aci };
    return { envelopes, isProof: outcome.kind === "result" };
  };
}

/** The message objects of a poll, also of one whose answer came damaged. @throws BridgeError when there are none to be had */
function toMessages(outcome: RpcOutcome, log: Log): readonly unknown[] {
  if (outcome.kind === "fault") {
    const { found, lostCount } = salvage(outcome.partial);
    if (found.length + lostCount > 0)
      log.warn("an answer of signal-cli came damaged", { salvaged: found.length, lost: lostCount });
    if (found.length > 0) return found;
  }
  const result = resultOf(outcome, "receive");
  if (!Array.isArray(result))
    throw new BridgeError("signal_protocol", "Cannot receive as signal-cli answered without a list");
  return result;
}

/** Best effort: what is lost here is not worth a fault. */
async function attempt(line: Line, method: string, toParams: () => Readonly<Record<string, unknown>>): Promise<void> {
  try {
    const params = { ...line.session(method).params, ...toParams() };
    resultOf(await line.rpc({ method, params, what: method, deadlineMs: line.limits.typingMs }), method);
  } catch (error) {
    line.log.debug("small send failed", { method, code: error instanceof BridgeError ? error.code : "internal" });
  }
}

const unavailable = (why: string) => new BridgeError("attachment_unavailable", `Cannot fetch a file as ${why}`);

async function fetchFile(line: Line, ref: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array> {
  const { params } = line.session("fetch a file");
  const { id, sizeBytes } = fromRef(ref);
  if (sizeBytes !== null && sizeBytes > bytesMax) throw unavailable("it is too large");
  const outcome = await line.rpc({
    method: "getAttachment",
    params: { ...params, id },
    what: "fetch a file",
    deadlineMs: line.limits.sendMs,
    bytesMax: Math.ceil((bytesMax * 4) / 3) + 4096,
    signal,
  });
  const result = v.safeParse(v.object({ data: v.string() }), outcome.kind === "result" ? outcome.result : null);
  if (!result.success) throw unavailable(outcome.kind === "fault" ? "the daemon did not answer" : "it is not there");
  const bytes = new Uint8Array(Buffer.from(result.output.data, "base64"));
  // A download that failed leaves an empty or a cut file behind, and signal-cli hands that out.
  if (bytes.length === 0 || (sizeBytes !== null && bytes.length < sizeBytes)) throw unavailable("it is incomplete");
  if (bytes.length > bytesMax) throw unavailable("it is too large");
  return bytes;
}

async function sendOver(line: Line, message: Outbound): Promise<SendOutcome> {
  const { params } = line.session("send");
  const { method, body } = toCall(message, line.limits.stringLengthMax);
  return toSendOutcome(
    await line.rpc({ method, params: { ...params, ...body }, what: "send", deadlineMs: line.limits.sendMs }),
  );
}

/** **Source:** signal/SIGNAL-CLI.md section 3.8; signal-cli strips the `signalcaptcha://`. */
async function submitCaptcha(line: Line, challenge: string, captcha: string): Promise<void> {
  const what = "hand in the captcha";
  const params = { ...line.session(what).params, challenge, captcha };
  const call = { method: "submitRateLimitChallenge", params, what, deadlineMs: line.limits.callMs };
  resultOf(await line.rpc(call), what);
}
