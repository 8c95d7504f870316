/**
 * The transport over signal-cli-rest-api in normal or native mode, which starts a signal-cli per request.
 *
 *   connect   the mode and the list of accounts
 *   receive   short polls with pauses (polling.ts); damaged answers are salvaged (salvage.ts)
 *   send      between two polls (turnstile.ts); an unclear refusal counts as possibly sent (rest-send.ts)
 *
 * In json-rpc mode the container receives by itself and drops what nobody listens to: that mode is refused.
 * **Source:** signal-cli-rest-api, src/api/api.go and src/client/client.go (commit a08db23).
 */
import * as v from "valibot";
import type { Clock } from "../clock.ts";
import { createChallenge } from "./challenge.ts";
import { BridgeError } from "../core/errors.ts";
import type { Account, Address, Millis, Outbound } from "../core/model.ts";
import type { Log } from "../log.ts";
import { fromRef, ownAciIn, toEnvelope } from "./envelope.ts";
import type { Answer, Fetch, Http } from "./http.ts";
import { createHttp, lineFault, statusFault, toJson, toText } from "./http.ts";
import { maskPeople } from "./mask.ts";
import type { Polled } from "./polling.ts";
import { createPolling } from "./polling.ts";
import { toRestCall, toRestOutcome, toRestRecipient } from "./rest-send.ts";
import { salvage } from "./salvage.ts";
import type { SendOutcome, Transport } from "./transport.ts";
import type { Turnstile } from "./turnstile.ts";
import { createTurnstile } from "./turnstile.ts";

const restLimits = {
  callMs: 30_000,
  /** The container kills a command after 120 s; a send may wait that long for the lock and then run as long. */
  sendMs: 250_000,
  typingMs: 60_000,
  /** Seconds of silence that end a poll: so long it holds the account's lock. 0 would never ask Signal. */
  pollSeconds: 1,
  /** Rest between two empty polls: each costs the start of a process. */
  pauseMs: 1000,
  /** A poll holds the lock, may wait for it, and is killed after 120 s. */
  pollMs: 250_000,
  pollGraceMs: 60_000,
  settleMs: 5000,
  pollBytesMax: 32 * 2 ** 20,
  /** Envelopes of one poll: as many are lost if the container dies in it. */
  batchMax: 10,
} as const;

export type RestOptions = {
  readonly baseUrl: string;
  /** Own number in E.164, as it was registered. */
  readonly account: string | null;
  readonly clock: Clock;
  readonly log: Log;
  readonly fetch?: Fetch | undefined;
  readonly limits?: Partial<Record<keyof typeof restLimits, number>> | undefined;
};

type Session = { readonly number: string; own: Address };
type Line = {
  readonly http: Http;
  readonly clock: Clock;
  readonly log: Log;
  readonly limits: Record<keyof typeof restLimits, number>;
  readonly turnstile: Turnstile;
  readonly session: (what: string) => Session;
};

/**
 * A container behind `baseUrl`. Nothing is asked before `connect`.
 * @throws BridgeError `config` when `baseUrl` is no http(s) URL
 */
export function createRest(options: RestOptions): Transport {
  let session: Session | null = null;
  let ownAci: string | null = null;
  const challenge = createChallenge();
  const line: Line = {
    http: createHttp(options),
    clock: options.clock,
    log: options.log,
    limits: { ...restLimits, ...options.limits },
    turnstile: createTurnstile(),
    session(what) {
      if (session) return session;
      throw new BridgeError("signal_unreachable", `Cannot ${what} as the transport is not connected`);
    },
  };
  const { http, limits } = line;
  const polling = createPolling({
    clock: options.clock,
    poll: (timeoutMs, stop) => pollUntil(line, timeoutMs, stop),
    graceMs: limits.pollGraceMs,
    settleMs: limits.settleMs,
  });
  const disconnect = async (): Promise<void> => {
    ownAci ??= session?.own.aci ?? null;
    session = null;
    await polling.settle();
  };
  return {
    name: "rest",
    isLocal: http.isLocal,
    capabilities: {
      ownTimestamps: false,
      typing: true,
      reactions: true,
      edits: true,
      readReceipts: true,
      attachments: true,
    },
    async connect(signal): Promise<Account> {
      await disconnect();
      const number = await chooseNumber(line, options.account, signal);
      session = { number, own: { aci: ownAci, number } };
      return { aci: ownAci, number, deviceId: null };
    },
    async receive(timeoutMs, signal) {
      line.session("receive");
      return polling.receive(timeoutMs, signal);
    },
    ack: async (batch, isCommitted) => polling.ack(batch, isCommitted),
    send: (message) => challenge.watch(() => sendOver(line, message)),
    answerChallenge: (captcha) => challenge.answer((token) => submitCaptcha(line, token, captcha)),
    async typing(chat, isTyping) {
      // Each one costs a process and the lock: only when nothing else waits, and the end is left to Signal's own 15 s.
      if (chat.kind === "self" || !isTyping || !line.turnstile.isFree()) return;
      await attempt(line, "PUT", "typing-indicator", (number) => ({ recipient: toRestRecipient(chat, number) }));
    },
    async markRead({ source, sentAt, isOwn }) {
      if (source === null || isOwn) return;
      const body = { recipient: source.aci ?? source.number, receipt_type: "read", timestamp: sentAt };
      await attempt(line, "POST", "receipts", () => body);
    },
    attachment: (ref, bytesMax, signal) => fetchFile(line, ref, bytesMax, signal),
    disconnect,
  };
}

/** @throws BridgeError `json_rpc_mode` `rejected` `not_linked`, and those of the line */
async function chooseNumber(line: Line, wanted: string | null, signal: AbortSignal): Promise<string> {
  const what = "connect to the REST API";
  const about = v.safeParse(v.object({ mode: v.string() }), await get(line, "/v1/about", what, signal));
  if (!about.success) throw new BridgeError("signal_protocol", `Cannot ${what} as it does not tell its mode`);
  if (about.output.mode.startsWith("json-rpc"))
    throw new BridgeError("json_rpc_mode", `Cannot ${what} as it runs in json-rpc mode`);
  const listed = v.safeParse(v.array(v.string()), await get(line, "/v1/accounts", what, signal));
  if (!listed.success) throw new BridgeError("signal_protocol", `Cannot ${what} as it lists its accounts strangely`);
  const numbers = listed.output;
  const [only] = numbers;
  if (wanted !== null && numbers.includes(wanted)) return wanted;
  if (wanted !== null) throw new BridgeError("rejected", `Cannot ${what} as it does not have the account`);
  if (only === undefined) throw new BridgeError("not_linked", `Cannot ${what} as it has no account`);
  if (numbers.length === 1) return only;
  throw new BridgeError("rejected", `Cannot ${what} as it has ${numbers.length} accounts`, {
    hint: "Set SIGNALMAN_ACCOUNT to the number that signalman is to use.",
  });
}

/** The JSON of an answer that must be 200. @throws BridgeError */
async function get({ http, limits }: Line, path: string, what: string, signal: AbortSignal): Promise<unknown> {
  const request = { method: "GET", path, deadlineMs: limits.callMs, bytesMax: 2 ** 20, signal } as const;
  const exchange = await http.exchange(request);
  if (exchange.kind !== "answer") throw lineFault(what, http.host, exchange);
  if (exchange.status !== 200) throw statusFault(what, http.host, exchange);
  return toJson(toText(exchange.body));
}

/** Short polls until one brings something, the time is over or `stop` aborts: between two of them nothing can be lost. */
async function pollUntil(line: Line, timeoutMs: Millis, stop: AbortSignal): Promise<Polled> {
  const startedAt = line.clock.monotonic();
  for (;;) {
    const polled = await line.turnstile.poll(() => poll(line));
    const leftMs = timeoutMs - (line.clock.monotonic() - startedAt);
    if (polled.envelopes.length > 0 || leftMs <= line.limits.pauseMs || stop.aborted) return polled;
    await line.clock.sleep(line.limits.pauseMs, stop);
    if (stop.aborted) return polled;
  }
}

async function poll({ http, log, limits, session }: Line): Promise<Polled> {
  const current = session("receive");
  const query = `timeout=${limits.pollSeconds}&max_messages=${limits.batchMax}&ignore_stories=true`;
  const exchange = await http.exchange({
    method: "GET",
    path: `/v1/receive/${encodeURIComponent(current.number)}?${query}`,
    deadlineMs: limits.pollMs,
    bytesMax: limits.pollBytesMax,
  });
  const bytes = exchange.kind === "answer" ? exchange.body : exchange.kind === "lost" ? exchange.partial : null;
  const text = bytes === null ? "" : toText(bytes);
  const isWell = exchange.kind === "answer" && exchange.status === 200;
  const whole = isWell ? toJson(text) : undefined;
  const messages = Array.isArray(whole) ? whole : rescue(text, isWell, log);
  if (messages.length === 0 && !isWell) {
    if (exchange.kind !== "answer") throw lineFault("receive", http.host, exchange);
    throw toReceiveFault(exchange, http.host);
  }
  const envelopes = messages.map((message: unknown) => toEnvelope(message, current.own));
  const aci = envelopes.map(ownAciIn).find((found) => found !== null);
  if (aci !== undefined) current.own = { ...current.own, aci };
  return { envelopes, isProof: Array.isArray(whole) };
}

/**
 * Stray lines of signal-cli's log make an answer invalid, and after a failure what was printed before is inside the error's
 * text: Signal has forgotten these messages, so they are picked out one by one.
 */
function rescue(text: string, isWell: boolean, log: Log): readonly unknown[] {
  const { found, lostCount } = salvage(isWell ? text : toErrorText(text));
  if (isWell || found.length + lostCount > 0)
    log.warn("an answer of the REST API came damaged", { salvaged: found.length, lost: lostCount });
  return found;
}

function toErrorText(text: string): string {
  const parsed = v.safeParse(v.object({ error: v.string() }), toJson(text));
  return parsed.success ? parsed.output.error : text;
}

function toReceiveFault(answer: Answer, host: string): BridgeError {
  if (answer.status !== 400) return statusFault("receive", host, answer);
  const error = toErrorText(toText(answer.body));
  const detail = `Cannot receive as the REST API refused it: ${maskPeople(error)}`;
  if (/websocket/iu.test(error)) return new BridgeError("json_rpc_mode", detail);
  if (/is not registered/u.test(error)) return new BridgeError("unlinked", detail);
  if (/already being received/u.test(error)) return new BridgeError("already_receiving", detail);
  if (/timeout reached/u.test(error)) return new BridgeError("signal_timeout", detail);
  if (/rate limit/iu.test(error)) return new BridgeError("signal_rate_limited", detail);
  if (/Error while|IOException|UnknownHost/u.test(error)) return new BridgeError("signal_unreachable", detail);
  return new BridgeError("signal_protocol", detail);
}

async function sendOver({ http, limits, turnstile, session }: Line, message: Outbound): Promise<SendOutcome> {
  const call = toRestCall(message, session("send").number);
  const request = { ...call, deadlineMs: limits.sendMs, bytesMax: 2 ** 20 };
  const exchange = await turnstile.call(() => http.exchange(request));
  const isReaction = message.body.kind === "reaction";
  // The answer to a reaction names no timestamp, and nobody asks for one.
  if (isReaction && exchange.kind === "answer" && exchange.status === 204)
    return { timestamp: message.timestamp, failed: [] };
  return toRestOutcome(exchange, message.chat, http.host);
}

/** Best effort: what is lost here is not worth a fault. */
async function attempt(line: Line, method: "PUT" | "POST", what: string, toBody: (number: string) => unknown) {
  try {
    const { number } = line.session(what);
    const json = toBody(number);
    const path = `/v1/${what}/${encodeURIComponent(number)}`;
    const request = { method, path, json, deadlineMs: line.limits.typingMs, bytesMax: 2 ** 16 };
    const exchange = await line.turnstile.call(() => line.http.exchange(request));
    if (exchange.kind !== "answer" || exchange.status !== 204) line.log.debug("small send failed", { what });
  } catch (error) {
    line.log.debug("small send failed", { what, code: error instanceof BridgeError ? error.code : "internal" });
  }
}

const unavailable = (why: string) => new BridgeError("attachment_unavailable", `Cannot fetch a file as ${why}`);

/** A file of the container's disk: no process, no lock, so it need not wait for its turn. */
async function fetchFile(line: Line, ref: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array> {
  line.session("fetch a file");
  const { id, sizeBytes } = fromRef(ref);
  if (sizeBytes !== null && sizeBytes > bytesMax) throw unavailable("it is too large");
  const path = `/v1/attachments/${encodeURIComponent(id)}`;
  const exchange = await line.http.exchange({ method: "GET", path, deadlineMs: line.limits.sendMs, bytesMax, signal });
  if (exchange.kind === "lost" && exchange.reason === "too large") throw unavailable("it is too large");
  if (exchange.kind !== "answer") throw unavailable("the container did not answer");
  if (exchange.status !== 200) throw unavailable("it is not there");
  const { body } = exchange;
  // A download that failed leaves an empty or a cut file behind.
  if (body.length === 0 || (sizeBytes !== null && body.length < sizeBytes)) throw unavailable("it is incomplete");
  return body;
}

async function submitCaptcha(line: Line, token: string, captcha: string): Promise<void> {
  const what = "hand in the captcha";
  const { http, limits } = line;
  const path = `/v1/accounts/${encodeURIComponent(line.session(what).number)}/rate-limit-challenge`;
  const json = { challenge_token: token, captcha };
  const request = { method: "POST", path, json, deadlineMs: limits.sendMs, bytesMax: 2 ** 16 } as const;
  const exchange = await line.turnstile.call(() => http.exchange(request));
  if (exchange.kind !== "answer") throw lineFault(what, http.host, exchange);
  if (exchange.status !== 204)
    throw new BridgeError("send_rejected", "Cannot hand in the captcha as Signal refuses it");
}
