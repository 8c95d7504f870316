/**
 * The transport over signal-cli-rest-api in normal or native mode, which starts a signal-cli per request.
 *
 *   connect   the mode and the list of accounts
 *   receive   short polls with pauses (polling.ts); damaged answers are salvaged (salvage.ts)
 *   send      between two polls; an unclear refusal counts as possibly sent
 *
 * The json-rpc mode is refused, since the container then receives by itself and drops messages while no client listens.
 * **Source:** signal-cli-rest-api, src/api/api.go and src/client/client.go (commit a08db23).
 */
import * as v from "valibot";
import { BridgeError } from "../../core/errors.ts";
import type { Chat, Outbound } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Transport } from "../transport.ts";
import { createHttp, parseAnswer, DaemonRefusal, toJson, type HttpRequest } from "./http.ts";
import { chooseNumber, createPolledTransport, type SignalDaemon, type Polled, type PollingOptions } from "./polling.ts";
import { saveMessages } from "./salvage.ts";
import {
  aciOfNumber,
  refusedByDaemon,
  toDataUri,
  toName,
  toPrintedReport,
  toReport,
  type Said,
  type Words,
} from "./sending.ts";
import { toStyledText } from "./styled.ts";

const limits = {
  callMs: 30_000,
  /** The container kills a command after 120 s; a send may wait that long for the lock and then run as long. */
  sendMs: 250_000,
  pollMs: 150_000,
  fileMs: 120_000,
  /** Seconds of silence that end a poll, which holds the account's lock as long; 0 would never ask Signal. */
  pollSeconds: 1,
  /** Pause between two empty polls, since each starts a process. */
  pauseMs: 1000,
  pollBytesMax: 32 * 2 ** 20,
  /** Envelopes of one poll, and so the most that are lost if the container dies during it. */
  batchMax: 10,
} as const;

type Request = Pick<HttpRequest, "method" | "path" | "json">;

export const howToLinkRest =
  "Open /v1/qrcodelink?device_name=signalman of the container in a browser and scan the code; docs/linking.md says more.";

/** @throws BridgeError `config` when the place is no http(s) URL */
export function createRest(options: PollingOptions): Transport {
  const { clock, log } = options;
  const http = createHttp(options);
  const inTurn = createTurns();
  let account = "";
  /** How many calls wait or run; polls do not count. */
  let calls = 0;
  const own = (route: string): string => `/v1/${route}/${encodeURIComponent(account)}`;
  const get = (what: string, path: string, bounds: Partial<HttpRequest>) =>
    http.ask({ method: "GET", path, what, deadlineMs: limits.callMs, ...bounds });
  const call = (what: string, request: Request & Partial<HttpRequest>): Promise<Buffer> => {
    calls++;
    return inTurn(() => http.ask({ what, deadlineMs: limits.sendMs, ...request })).finally(() => calls--);
  };
  const query = `timeout=${limits.pollSeconds}&max_messages=${limits.batchMax}&ignore_stories=true`;
  const pollBounds = { deadlineMs: limits.pollMs, bytesMax: limits.pollBytesMax, isFresh: true };

  const daemon: SignalDaemon = {
    name: "rest",
    isLocal: http.isLocal,
    async connect(signal) {
      account = await findAccount((what, path) => get(what, path, { signal }), options.account);
      return { aci: null, number: account };
    },
    /** signal-cli lists its own identity too, as it trusts it from linking on. */
    async findOwnAci(number) {
      const people = await call("find the own account", { method: "GET", path: own("identities") });
      return aciOfNumber(toJson(people.toString()), number);
    },
    /** Repeats short polls until one brings messages, the time is over or `stop` aborts: a stop between two of them loses no message. */
    async poll(timeoutMs, stop) {
      const endsAt = clock.monotonic() + timeoutMs;
      for (;;) {
        const polled = await toPolled(
          inTurn(() => get("receive", `${own("receive")}?${query}`, pollBounds)),
          log,
        );
        const leftMs = endsAt - clock.monotonic();
        if (polled.messages.length > 0 || leftMs <= limits.pauseMs || stop.aborted) return polled;
        await clock.sleep(limits.pauseMs, stop);
        if (stop.aborted) return polled;
      }
    },
    async send(message) {
      const answer = await call("send", { ...toRequest(message, account, own), isFresh: true });
      // The answer to a reaction names no timestamp, and none is needed.
      return message.body.kind === "reaction" ? { timestamp: message.timestamp } : toJson(answer.toString());
    },
    readRefusal,
    sendWords,
    async typing(chat, isTyping) {
      // A request costs a process and the lock, so it is made only while no call waits; phones end the indicator by themselves after 15 s.
      if (chat.kind === "self" || !isTyping || calls > 0) return;
      const json = { recipient: toRecipient(chat, account) };
      await call("show typing", { method: "PUT", path: own("typing-indicator"), json });
    },
    async markRead(sender, timestamp) {
      const json = { recipient: toName(sender), receipt_type: "read", timestamp };
      await call("send a receipt", { method: "POST", path: own("receipts"), json });
    },
    /** Reads a file of the container's disk, without a process or the lock, so that it need not wait for its turn. */
    async fetchFile(id, bytesMax, signal) {
      const path = `/v1/attachments/${encodeURIComponent(id)}`;
      return get("fetch a file", path, { deadlineMs: limits.fileMs, bytesMax, signal });
    },
    async submitCaptcha(token, captcha) {
      const json = { challenge_token: token, captcha };
      const path = `${own("accounts")}/rate-limit-challenge`;
      await call("hand in the captcha", { method: "POST", path, json }).catch((error: unknown) => {
        if (!(error instanceof DaemonRefusal) || error.answer.status === null) throw error;
        throw new BridgeError("send_rejected", "Cannot hand in the captcha as Signal refuses it");
      });
    },
  };
  return createPolledTransport(daemon, options);
}

/**
 * Runs requests one at a time, in the order of their calls: each starts a process that takes the account's lock, and a second
 * one would wait for it inside the container, unseen, with all requests behind it. A poll follows a pause, so that waiting
 * calls go before it.
 */
function createTurns() {
  let last: Promise<unknown> = Promise.resolve();
  return <T>(work: () => Promise<T>): Promise<T> => {
    const result = last.then(work);
    last = result.catch(() => undefined);
    return result;
  };
}

type Get = (what: string, path: string) => Promise<Buffer>;

/** @throws BridgeError `json_rpc_mode` `rejected` `not_linked`, and those of the line */
async function findAccount(get: Get, wanted: string | null): Promise<string> {
  const what = "connect to the REST API";
  const read = async <T>(path: string, schema: v.GenericSchema<unknown, T>): Promise<T> =>
    parseAnswer(schema, toJson((await get(what, path)).toString()), what);
  const { mode } = await read("/v1/about", v.object({ mode: v.string() }));
  if (mode.startsWith("json-rpc")) throw new BridgeError("json_rpc_mode", `Cannot ${what} as it runs in json-rpc mode`);
  const numbers = await read("/v1/accounts", v.array(v.string()));
  const number = chooseNumber("the REST API", wanted, numbers);
  if (numbers.includes(number)) return number;
  throw new BridgeError("rejected", `Cannot ${what} as it does not have the account`);
}

/**
 * Reads the answer to a poll. Stray lines of signal-cli's log make it invalid, and a failure puts the messages printed before
 * into the error's text: Signal has forgotten them, so they are picked out one by one. @throws BridgeError when there are none
 */
async function toPolled(answer: Promise<Buffer>, log: Log): Promise<Polled> {
  const came = await answer.catch((error: unknown) => {
    if (error instanceof DaemonRefusal) return error;
    throw error;
  });
  const refusal = came instanceof DaemonRefusal ? came : null;
  const text = refusal === null ? came.toString() : refusal.answer.text;
  const whole = refusal === null ? toJson(text) : undefined;
  if (Array.isArray(whole)) return { messages: whole, isProof: true };
  const error = toErrorText(text);
  const messages = saveMessages(error, "the REST API", log);
  // The outer brackets show that signal-cli ended well, whatever it printed, since the container adds them only then.
  const isProof = refusal === null && /^\[[^]*\]$/u.test(text.trim());
  if (isProof || messages.length > 0) return { messages, isProof };
  if (refusal !== null && refusal.answer.status !== 400) throw refusal;
  throw refusedByDaemon("receive", "the REST API", error, receiveWords, "signal_protocol");
}

/** The `error` of an answer, which in normal and native mode is all that signal-cli printed; else the whole text. */
function toErrorText(text: string): string {
  const parsed = v.safeParse(v.object({ error: v.string() }), toJson(text));
  return parsed.success ? parsed.output.error : text;
}

const receiveWords: Words = [
  [/websocket/iu, "json_rpc_mode"],
  [/is not registered/u, "unlinked"],
  [/already being received/u, "already_receiving"],
  [/timeout reached/u, "signal_timeout"],
  [/rate limit/iu, "signal_rate_limited"],
  [/Error while|IOException|UnknownHost/u, "signal_unreachable"],
];

const sendWords: Words = [
  [/untrusted/iu, "untrusted_identity"],
  [/rate limit/iu, "signal_rate_limited"],
  [/^User \S+ is not registered/mu, "unlinked"],
  // The check of the account comes before the send, which did not happen.
  [/Error while checking account/u, "signal_unreachable"],
  // A timestamp, or a complaint about stray text: signal-cli had something to report, so that the message may be out.
  [/"timestamp":|(?<!\d)\d{13}(?!\d)|invalid character|strconv|timeout reached|IOException/u, "send_uncertain"],
];

/** @throws BridgeError `captcha` where Signal asks for one */
function readRefusal({ answer: { status, text } }: DaemonRefusal): Said | null {
  if (status === 429) {
    const parsed = v.safeParse(v.object({ challenge_tokens: v.array(v.string()) }), toJson(text));
    const challenge = parsed.success ? parsed.output.challenge_tokens.find((token) => token !== "") : undefined;
    if (challenge) throw new BridgeError("captcha", "Cannot send as Signal asks for a captcha", { challenge });
  }
  if (status !== 400) return null;
  // The error is all that signal-cli printed, as JSON or in words; its report of who got the message decides, if it holds one.
  const error = toErrorText(text);
  return { text: error, report: toReport(toJson(error.split("\n", 1)[0] ?? "")) ?? toPrintedReport(error) };
}

/** The REST API's name of a group is `group.` and the base64 of the base64 that envelopes carry. */
function toRecipient(chat: Chat, account: string): string {
  if (chat.kind === "self") return account;
  return chat.kind === "group" ? `group.${btoa(chat.id)}` : toName(chat.peer);
}

/** @throws BridgeError `send_rejected` when the REST API cannot take the message */
function toRequest({ chat, body }: Outbound, account: string, own: (route: string) => string): Request {
  const recipient = toRecipient(chat, account);
  if (body.kind === "reaction") {
    // A removal needs the emoji too, where the container asks a daemon behind it.
    const target = { reaction: body.emoji, target_author: toName(body.targetAuthor), timestamp: body.targetSentAt };
    return { method: body.isRemove ? "DELETE" : "POST", path: own("reactions"), json: { recipient, ...target } };
  }
  const plain = body.text.toWellFormed();
  const marked = toStyledText(plain, body.styles);
  const isStyled = marked !== toStyledText(plain, []);
  const message = {
    number: account,
    recipients: [recipient],
    message: isStyled ? marked : plain,
    // Always stated, since the container's default may read markup into plain text.
    text_mode: isStyled ? "styled" : "normal",
    // The container's default, true, would make a note to self an incoming message of its own.
    notify_self: false,
  };
  const json = { ...message, ...(body.kind === "edit" ? { edit_timestamp: body.targetSentAt } : toExtras(body)) };
  return { method: "POST", path: "/v2/send", json };
}

function toExtras({ quote, files }: Extract<Outbound["body"], { kind: "text" }>) {
  const quote_author = quote && (quote.author.aci ?? quote.author.number);
  const base64_attachments = files.map((file) =>
    toDataUri(file, file.fileName.toWellFormed().replaceAll(/[;,\n\r/\\]/gu, "_")),
  );
  const quote_message = (quote?.text ?? "").toWellFormed();
  return {
    ...(quote && quote_author && { quote_timestamp: quote.sentAt, quote_author, quote_message }),
    ...(files.length > 0 && { base64_attachments }),
  };
}
