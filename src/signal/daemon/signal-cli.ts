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
import type { Transport } from "../transport.ts";
import { createHttp, parseAnswer, DaemonRefusal, toJson, type HttpRequest, type DaemonPlace } from "./http.ts";
import { chooseNumber, createPolledTransport, type SignalDaemon, type Polled, type PollingOptions } from "./polling.ts";
import { saveMessages } from "./salvage.ts";
import { aciOfNumber, refusedByDaemon, toDataUri, toName, toReport, type Words } from "./sending.ts";

const limits = {
  /** Deadlines: loading an account needs the network, and a send includes its uploads. */
  callMs: 60_000,
  sendMs: 120_000,
  typingMs: 10_000,
  /** Shortest poll: a shorter one ends before the daemon has asked Signal, and 0 never asks. */
  pollMsMin: 1000,
  /** Shortest silence that ends a batch of a backlog. */
  silenceMsMin: 100,
  /** A poll that takes this much longer than its time-out is given up, since its daemon hangs. */
  pollAbandonMs: 15 * 60_000,
  pollBytesMax: 32 * 2 ** 20,
  /** Envelopes of one poll in a backlog, and so the most that are lost if the daemon dies during it. */
  batchMax: 16,
  /** signal-cli does not read a request with a longer string. **Source:** signal-cli's Jackson, StreamReadConstraints. */
  stringLengthMax: 20_000_000,
} as const;

type Params = Readonly<Record<string, unknown>>;
/** `params` is required, since signal-cli's typed methods fail without the object. */
type RpcCall = Omit<HttpRequest, "method" | "path" | "json"> & { readonly method: string; readonly params: Params };
type Ask = (method: string, params: Params, what: string, bounds?: Partial<HttpRequest>) => Promise<unknown>;

export const howToLinkSignalCli =
  "Stop its daemon, run `signal-cli link -n signalman`, and scan the line that it prints as a QR code; docs/linking.md says more.";

/** @throws BridgeError `config` when the place is no http(s) URL */
export function createSignalCli(options: PollingOptions): Transport {
  const rpc = createRpc(options);
  /** Holds `account` where the daemon serves several; empty in single mode, where `receive` refuses that key. */
  let account: { readonly account?: string } = {};
  const ask: Ask = (method, params, what, bounds) =>
    rpc.ask({ method, params: { ...account, ...params }, what, deadlineMs: limits.callMs, ...bounds });
  const small = async (method: string, params: Params): Promise<void> =>
    void (await ask(method, params, method, { deadlineMs: limits.typingMs }));
  const daemon: SignalDaemon = {
    name: "signal-cli",
    isLocal: rpc.isLocal,
    sendWords,
    readRefusal: ({ answer: { error } }) =>
      error ? { text: `${error.code}: ${error.message}`, report: toReport(error.data) } : null,
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
      return ask(method, params, "send", { deadlineMs: limits.sendMs, isFresh: true });
    },
    async typing(chat, isTyping) {
      // sendTyping knows no Note to Self.
      if (chat.kind !== "self") await small("sendTyping", { ...toTarget(chat), stop: !isTyping });
    },
    markRead: (sender, sentAt) =>
      small("sendReceipt", { recipient: toName(sender), targetTimestamp: [sentAt], type: "read" }),
    async fetchFile(id, bytesMax, signal) {
      const bounds = { deadlineMs: limits.sendMs, bytesMax: Math.ceil((bytesMax * 4) / 3) + 4096, signal };
      const answer = await ask("getAttachment", { id }, "fetch a file", bounds);
      return Buffer.from(parseAnswer(v.object({ data: v.string() }), answer, "fetch a file").data, "base64");
    },
    /** signal-cli strips the `signalcaptcha://`. */
    async submitCaptcha(challenge, captcha) {
      await ask("submitRateLimitChallenge", { challenge, captcha }, "hand in the captcha");
    },
  };
  return createPolledTransport(daemon, options);
}

const responseSchema = v.looseObject({
  jsonrpc: v.literal("2.0"),
  id: v.nullable(v.string()),
  error: v.nullish(v.object({ code: v.number(), message: v.string(), data: v.optional(v.unknown()) })),
});

/**
 * JSON-RPC over HTTP as signal-cli's daemon speaks it. Errors come with status 200, unknown parameters vanish silently, and a
 * request whose answer is lost may have been carried out or not. **Source:** HttpServerHandler.java, JsonRpcReader.java.
 * @throws BridgeError `config` when the place is no http(s) URL
 */
export function createRpc(place: DaemonPlace) {
  const http = createHttp(place);
  let serial = 0;

  /** Resolves to the result. @throws DaemonRefusal */
  async function ask({ method, params, ...request }: RpcCall): Promise<unknown> {
    const { what } = request;
    const id = `signalman-${++serial}`;
    const json = { jsonrpc: "2.0", method, params, id };
    const text = (await http.ask({ ...request, method: "POST", path: "/api/v1/rpc", json })).toString();
    const answer = { status: 200, text, isUnsent: false };
    const response = v.safeParse(responseSchema, toJson(text));
    // An error whose id is null answers our request too: signal-cli could not read far enough to know the id.
    if (!response.success || (response.output.id !== id && response.output.id !== null)) {
      const message = `Cannot ${what} as the answer of ${http.host} is no JSON-RPC answer to it`;
      throw new DaemonRefusal("signal_protocol", message, answer);
    }
    const { error, result } = response.output;
    if (!error) return result;
    const fault = refusedByDaemon(what, "signal-cli", `${error.code}: ${error.message}`, words, "signal_protocol");
    throw new DaemonRefusal(fault.code, fault.message, { ...answer, error }, { scope: fault.scope });
  }

  return { isLocal: http.isLocal, ask };
}

/** Our code for each of signal-cli's errors, matched by code and words. */
const words: Words = [
  [/^-32602: [^]*failed to load/iu, "signal_unreachable"],
  [/^-32602:/u, "rejected"],
  [/^-1: [^]*already being received/iu, "already_receiving"],
  [/^-3:/u, "signal_unreachable"],
  [/^-4:/u, "untrusted_identity"],
  [/^-5:/u, "signal_rate_limited"],
  // A captcha that Signal does not take.
  [/^-6:/u, "send_rejected"],
];
/** Only the name of its Java class tells an unexpected failure of the network from other internal errors. */
const sendWords: Words = [
  [/^-3:|^-32603: [^]*\((?:\w*IO|Socket|UnknownHost|\w*Timeout)\w*Exception\)/u, "send_uncertain"],
  ...words,
];

/** The daemon's mode and our account in it. @throws BridgeError `not_linked` `rejected`, and those of the line */
async function chooseAccount(ask: Ask, wanted: string | null, signal: AbortSignal) {
  const what = "connect to signal-cli";
  const answer = await ask("listAccounts", {}, what, { signal }).catch((error: unknown) => {
    if (errorCode(error) !== -32601) throw error;
    return null;
  });
  // Single mode does not know `listAccounts`.
  if (answer === null) return { isMulti: false, number: wanted };
  const listed = parseAnswer(v.array(v.object({ number: v.string() })), answer, what);
  const numbers = listed.map(({ number }) => number);
  // An account that is not listed may still be on the daemon's disk: the daemon loads it when asked for it.
  return { isMulti: true, number: chooseNumber("signal-cli", wanted, numbers) };
}

/**
 * Our ACI as the account's contacts or its identities have it; signal-cli trusts its own identity from linking on. These
 * requests make the daemon load the account, which `listAccounts` does not.
 * @throws BridgeError `rejected` when the daemon does not know the account, and those of the line
 */
async function findOwnAci(ask: Ask, number: string, signal?: AbortSignal): Promise<string | null> {
  const what = "use the account";
  // The first two read what the daemon has stored; `getUserStatus` asks Signal's directory.
  const sources = {
    listContacts: { allRecipients: true, recipient: [number] },
    listIdentities: { number },
    getUserStatus: { recipient: [number] },
  };
  for (const [method, params] of Object.entries(sources)) {
    const people = await ask(method, params, what, { signal }).catch((error: unknown) => {
      // Only a lost line (null) or an unknown account (-32602) ends the connect; any other failure just leaves our ACI unknown.
      if (method !== "getUserStatus" && [null, -32602].includes(errorCode(error))) throw error;
    });
    const aci = aciOfNumber(people, number);
    if (aci !== null) return aci;
  }
  return null;
}

/** The code of signal-cli's JSON-RPC error; null where signal-cli did not answer. */
const errorCode = (error: unknown): number | null =>
  (error instanceof DaemonRefusal && error.answer.error?.code) || null;

/**
 * A poll asks for one envelope, so that it returns the moment one arrives and no more can be lost with it. But each poll opens
 * and closes a connection to Signal, so that a backlog would take minutes: after three polls that brought an envelope at once,
 * each poll asks for twice as many, until a batch is not full. Such a batch ends with a silence of four times the previous
 * poll's duration.
 */
function createPoll({ clock, log }: PollingOptions, ask: Ask) {
  let fullPolls = 0;
  let silenceMs: Millis = limits.pollMsMin;
  return async (timeoutMs: Millis, stop: AbortSignal): Promise<Polled> => {
    const maxMessages = Math.min(limits.batchMax, 2 ** Math.max(0, fullPolls - 2));
    const waitMs = maxMessages > 1 ? silenceMs : Math.max(limits.pollMsMin, timeoutMs);
    const startedAt = clock.monotonic();
    const bounds = { deadlineMs: waitMs + limits.pollAbandonMs, bytesMax: limits.pollBytesMax, isFresh: true };
    const polling = ask("receive", { timeout: waitMs / 1000, maxMessages }, "receive", bounds);
    const { messages, isProof } = await polling.then(
      (answer) => ({ messages: parseAnswer(v.array(v.unknown()), answer, "receive"), isProof: true }),
      (error: unknown) => {
        const text = error instanceof DaemonRefusal && !error.answer.error ? error.answer.text : "";
        const found = saveMessages(text, "signal-cli", log);
        if (found.length === 0) throw error;
        return { messages: found, isProof: false };
      },
    );
    const tookMs = Math.ceil(clock.monotonic() - startedAt);
    fullPolls = messages.length >= maxMessages && tookMs < limits.pollMsMin ? fullPolls + 1 : 0;
    silenceMs = Math.min(limits.pollMsMin, Math.max(limits.silenceMsMin, 4 * tookMs));
    // A pause follows an empty answer that came at once, so that a daemon that keeps giving it is not asked in a tight loop.
    if (messages.length === 0 && tookMs < limits.silenceMsMin) await clock.sleep(limits.silenceMsMin, stop);
    // A full batch is no proof, since more may wait and the line counts as back once all of it is in the inbox; one of the
    // largest size is, so that a flood does not make the line look dead.
    const isBacklog = fullPolls > 0 && maxMessages < limits.batchMax;
    // A short poll may be over before the daemon has asked Signal.
    const isAnswer = messages.length > 0 || waitMs >= limits.pollMsMin;
    return { messages, isProof: isProof && isAnswer && !isBacklog };
  };
}

/** The parameters that name a chat. @throws BridgeError `send_rejected` */
function toTarget(chat: Chat): Readonly<Record<string, unknown>> {
  if (chat.kind === "self") return { noteToSelf: true };
  return chat.kind === "group" ? { groupId: chat.id } : { recipient: [toName(chat.peer)] };
}

/** The method and its parameters. @throws BridgeError `send_rejected` when signal-cli cannot take the message */
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

/** Offsets are UTF-16 code units on both sides. Ranges outside of the text are left out, since signal-cli would send them as they are. */
function toTextStyles(text: string, styles: readonly StyleRange[]) {
  const inside = styles.filter(({ start, length }) => start >= 0 && length > 0 && start + length <= text.length);
  return inside.length > 0 && { textStyle: inside.map(({ start, length, style }) => `${start}:${length}:${style}`) };
}

/** Leaves out a quote whose timestamp is below 2 ** 31, which signal-cli reads as a 32-bit integer and fails on. */
function toQuote(quote: Quote | null) {
  const author = quote && (quote.author.aci ?? quote.author.number);
  if (!quote || author === null || !Number.isSafeInteger(quote.sentAt) || quote.sentAt < 2 ** 31) return {};
  return { quoteTimestamp: quote.sentAt, quoteAuthor: author, quoteMessage: (quote.text ?? "").toWellFormed() };
}
