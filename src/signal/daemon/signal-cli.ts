/**
 * The transport over `signal-cli daemon --http --receive-mode manual`.
 *
 *   connect   listAccounts tells the daemon's mode · the account is chosen, and our ACI looked up in its files
 *   receive   long polls of one envelope, small batches in a backlog (polling.ts: a poll is never cut)
 *   send      one call per message; the list of results decides (sending.ts)
 *
 * signal-cli acknowledges to Signal before we see anything and picks the timestamps itself: a message can be lost with the
 * daemon, and a send whose answer is lost may go out twice. **Source:** signal-cli 0.14.6, commands of the same names.
 */
import { Buffer } from "node:buffer";
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Chat, Millis, Outbound, Quote, StyleRange } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { SendOutcome, Transport } from "../transport.ts";
import { maskPeople } from "./http.ts";
import { chooseNumber, createPolledTransport, type Daemon, type Polled, type PollingOptions } from "./polling.ts";
import { createRpc, resultOf, rpcFault, type RpcCall, type RpcOutcome } from "./rpc.ts";
import { salvage } from "./salvage.ts";
import { findAci, toDataUri, toName, toOutcome, toReport } from "./sending.ts";

const limits = {
  /** Deadlines. Loading an account goes to the network, and uploads are part of a send. */
  callMs: 60_000,
  sendMs: 120_000,
  typingMs: 10_000,
  /** Shortest poll: less is over before the daemon has asked Signal, and 0 never asks. */
  pollMsMin: 1000,
  /** Shortest silence that ends a batch of a backlog. */
  silenceMsMin: 100,
  /** A poll older than this is given up: its daemon hangs. */
  pollAbandonMs: 15 * 60_000,
  pollBytesMax: 32 * 2 ** 20,
  /** Envelopes of one poll in a backlog: as many are lost if the daemon dies in it. */
  batchMax: 16,
  /** A request with a longer string is not read. **Source:** signal-cli's Jackson, StreamReadConstraints. */
  stringLengthMax: 20_000_000,
} as const;

type Params = Readonly<Record<string, unknown>>;
type Ask = (method: string, params: Params, what: string, bounds: Partial<RpcCall>) => Promise<RpcOutcome>;

export const howToLink =
  "Stop its daemon, run `signal-cli link -n signalman`, and scan the line that it prints as a QR code; docs/linking.md says more.";

/** @throws BridgeError `config` when the place is no http(s) URL */
export function createSignalCli(options: PollingOptions): Transport {
  const rpc = createRpc(options);
  /** Set where the daemon serves several accounts: in single mode `receive` refuses the key. */
  let account: { readonly account?: string } = {};
  const ask: Ask = (method, params, what, bounds) =>
    rpc.ask({ method, params: { ...account, ...params }, what, deadlineMs: limits.callMs, ...bounds });
  const small = async (method: string, params: Params): Promise<void> =>
    void resultOf(v.unknown(), await ask(method, params, method, { deadlineMs: limits.typingMs }), method);
  const daemon: Daemon = {
    name: "signal-cli",
    isLocal: rpc.isLocal,
    async connect(signal) {
      account = {};
      const { isMulti, number } = await chooseAccount(ask, options.account, signal);
      account = isMulti && number !== null ? { account: number } : {};
      return { number, aci: number === null ? null : await findOwnAci(ask, number, signal) };
    },
    findOwnAci: (number) => findOwnAci(ask, number),
    poll: createPoll(options, ask),
    async send(message) {
      const { method, params } = toCall(message);
      return toSendOutcome(await ask(method, params, "send", { deadlineMs: limits.sendMs, isFresh: true }));
    },
    async typing(chat, isTyping) {
      // sendTyping knows no Note to Self.
      if (chat.kind !== "self") await small("sendTyping", { ...toTarget(chat), stop: !isTyping });
    },
    markRead: (sender, sentAt) =>
      small("sendReceipt", { recipient: toName(sender), targetTimestamp: [sentAt], type: "read" }),
    async fetchFile(id, bytesMax, signal) {
      const bounds = { deadlineMs: limits.sendMs, bytesMax: Math.ceil((bytesMax * 4) / 3) + 4096, signal };
      const outcome = await ask("getAttachment", { id }, "fetch a file", bounds);
      return Buffer.from(resultOf(v.object({ data: v.string() }), outcome, "fetch a file").data, "base64");
    },
    /** signal-cli strips the `signalcaptcha://`. */
    async submitCaptcha(challenge, captcha) {
      const what = "hand in the captcha";
      resultOf(v.unknown(), await ask("submitRateLimitChallenge", { challenge, captcha }, what, {}), what);
    },
  };
  return createPolledTransport(daemon, options);
}

/** The daemon's mode and our account in it. @throws BridgeError `not_linked` `rejected`, and those of the line */
async function chooseAccount(ask: Ask, wanted: string | null, signal: AbortSignal) {
  const what = "connect to signal-cli";
  const outcome = await ask("listAccounts", {}, what, { signal });
  // Single mode does not know the method.
  if (outcome.kind === "error" && outcome.code === -32601) return { isMulti: false, number: wanted };
  const listed = resultOf(v.array(v.object({ number: v.string() })), outcome, what);
  const numbers = listed.map(({ number }) => number);
  // One that is not listed may still be on its disk: it is loaded when it is asked for.
  return { isMulti: true, number: chooseNumber("signal-cli", wanted, numbers) };
}

/**
 * Our ACI as the account's contacts or its identities have it; signal-cli trusts its own identity from linking on. Asking
 * makes the daemon load the account, which a list of accounts does not.
 * @throws BridgeError `rejected` when the daemon does not know the account, and those of the line
 */
async function findOwnAci(ask: Ask, number: string, signal?: AbortSignal): Promise<string | null> {
  const what = "use the account";
  const sources = { listContacts: { allRecipients: true, recipient: [number] }, listIdentities: { number } };
  for (const [method, params] of Object.entries(sources)) {
    const outcome = await ask(method, params, what, { signal });
    // Whatever else is wrong with a list is no reason not to begin.
    if (outcome.kind === "error" && outcome.code !== -32602) continue;
    const aci = findAci(resultOf(v.unknown(), outcome, what), number);
    if (aci !== null) return aci;
  }
  return null;
}

/**
 * One envelope per poll: it returns the moment something arrives, and one is all that can be lost with it. But each poll
 * opens and closes a connection to Signal, so that a backlog would take minutes: after three polls that brought something at
 * once the batch grows, until a batch is not full. Such a batch ends with a silence of four times what the poll before took.
 */
function createPoll({ clock, log }: PollingOptions, ask: Ask) {
  let fullPolls = 0;
  let silenceMs: Millis = limits.pollMsMin;
  return async (timeoutMs: Millis, stop: AbortSignal): Promise<Polled> => {
    const maxMessages = Math.min(limits.batchMax, 2 ** Math.max(0, fullPolls - 2));
    const waitMs = maxMessages > 1 ? silenceMs : Math.max(limits.pollMsMin, timeoutMs);
    const startedAt = clock.monotonic();
    const bounds = { deadlineMs: waitMs + limits.pollAbandonMs, bytesMax: limits.pollBytesMax, isFresh: true };
    const outcome = await ask("receive", { timeout: waitMs / 1000, maxMessages }, "receive", bounds);
    const messages = toMessages(outcome, log);
    const tookMs = Math.ceil(clock.monotonic() - startedAt);
    fullPolls = messages.length >= maxMessages && tookMs < limits.pollMsMin ? fullPolls + 1 : 0;
    silenceMs = Math.min(limits.pollMsMin, Math.max(limits.silenceMsMin, 4 * tookMs));
    // Nothing, and at once: whatever the reason, it is no reason to ask again at once.
    if (messages.length === 0 && tookMs < limits.silenceMsMin) await clock.sleep(limits.silenceMsMin, stop);
    // Behind a full batch more may wait, and the line counts as back once all of it is in the inbox; a flood shall not end it.
    const isBacklog = fullPolls > 0 && maxMessages < limits.batchMax;
    // A short poll may be over before the daemon has asked Signal.
    const isAnswer = messages.length > 0 || waitMs >= limits.pollMsMin;
    return { messages, isProof: outcome.kind === "result" && isAnswer && !isBacklog };
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
  return resultOf(v.array(v.unknown()), outcome, "receive");
}

/** The parameters that name a chat. @throws BridgeError `send_rejected` */
function toTarget(chat: Chat): Readonly<Record<string, unknown>> {
  if (chat.kind === "self") return { noteToSelf: true };
  return chat.kind === "group" ? { groupId: chat.id } : { recipient: [toName(chat.peer)] };
}

/** The method and its parameters. @throws BridgeError `send_rejected` when it cannot be said to signal-cli */
function toCall({ chat, body }: Outbound) {
  const target = toTarget(chat);
  if (body.kind === "reaction") {
    const { emoji, targetSentAt: targetTimestamp, isRemove: remove } = body;
    const params = { ...target, emoji, targetAuthor: toName(body.targetAuthor), targetTimestamp, remove };
    return { method: "sendReaction", params };
  }
  // Half a surrogate pair does not survive Java's UTF-8.
  const message = body.text.toWellFormed();
  const said = { ...target, message, ...toTextStyles(message, body.styles) };
  if (body.kind === "edit") return { method: "send", params: { ...said, editTimestamp: body.targetSentAt } };
  const attachment = body.files.map((file) => toDataUri(file, encodeURIComponent(file.fileName.toWellFormed())));
  if (attachment.some((uri) => uri.length > limits.stringLengthMax))
    throw new BridgeError("send_rejected", "Cannot send as a file is larger than signal-cli takes");
  return { method: "send", params: { ...said, ...toQuote(body.quote), ...(attachment.length > 0 && { attachment }) } };
}

/** Offsets are UTF-16 code units on both sides. Ranges outside of the text would be sent as they are. */
function toTextStyles(text: string, styles: readonly StyleRange[]) {
  const inside = styles.filter(({ start, length }) => start >= 0 && length > 0 && start + length <= text.length);
  return inside.length > 0 && { textStyle: inside.map(({ start, length, style }) => `${start}:${length}:${style}`) };
}

/** signal-cli reads smaller integers than a timestamp of today as 32-bit ones, and then fails on them. */
function toQuote(quote: Quote | null) {
  const author = quote && (quote.author.aci ?? quote.author.number);
  if (!quote || author === null || !Number.isSafeInteger(quote.sentAt) || quote.sentAt < 2 ** 31) return {};
  return { quoteTimestamp: quote.sentAt, quoteAuthor: author, quoteMessage: (quote.text ?? "").toWellFormed() };
}

/** What became of the call: only a request that never left, or was refused unread, is surely not sent. @throws BridgeError */
function toSendOutcome(outcome: RpcOutcome): SendOutcome {
  if (outcome.kind === "fault") {
    const { code, message, retryAfterMs } = outcome.fault;
    if (code === "signal_rate_limited") throw outcome.fault;
    const details = { retryAfterMs: retryAfterMs ?? undefined, cause: outcome.fault };
    throw new BridgeError(outcome.isUnsent ? "signal_unreachable" : "send_uncertain", message, details);
  }
  const report = toReport(outcome.kind === "error" ? outcome.data : outcome.result);
  if (report) return toOutcome(report);
  if (outcome.kind === "result") {
    // A success is one even where no recipient is listed: what counts is by which timestamp the message is known.
    const sent = v.safeParse(v.object({ timestamp: v.pipe(v.number(), v.safeInteger()) }), outcome.result);
    if (sent.success) return { timestamp: sent.output.timestamp, failed: [] };
    throw new BridgeError("send_uncertain", "Cannot send as signal-cli does not tell the message's timestamp");
  }
  const { code, message } = outcome;
  if (code === -4 || code === -5 || code === -32602) throw rpcFault("send", outcome);
  // An unexpected failure of the network is told apart by the name of its Java class only.
  const isNetwork =
    code === -3 || (code === -32603 && /\((?:\w*IO|Socket|UnknownHost|\w*Timeout)\w*Exception\)/u.test(message));
  throw new BridgeError(
    isNetwork ? "send_uncertain" : "send_rejected",
    `Cannot send as signal-cli answered ${code}: ${maskPeople(message)}`,
  );
}
