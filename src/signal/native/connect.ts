/**
 * The line to Signal's chat server: one authenticated connection that delivers and takes requests, and beside it an
 * unauthenticated one for sealed messages, whose loss never disturbs receiving.
 *
 *   libsignal events ─▶ queue (bounded) ─▶ take()          request() · sealedRequest() ─▶ ServiceReply
 *                          interruption ─▶ fault()
 *
 * libsignal holds its listeners weakly through the connection object: the `ChatLine` keeps that object alive, else events would
 * stop without a word. **Source:** `docs/signal-protocol.md`, "The line".
 */
import { ErrorCode, LibSignalErrorBase } from "@signalapp/libsignal-client";
import type {
  AuthenticatedChatConnection,
  ChatServerMessageAck,
  ChatServiceListener,
  Net,
  UnauthenticatedChatConnection,
} from "@signalapp/libsignal-client/dist/net.js";
import { Buffer } from "node:buffer";
import { type Clock, startDeadline } from "../../clock.ts";
import { BridgeError, type ErrorCode as BridgeCode } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { readOrNull, reasonOf, utf8 } from "./bytes.ts";
import type { NativeContext, Incoming, ChatLine, NativeAccount, ServiceReply, ServiceRequest } from "./context.ts";
import { openedTlsHint } from "./signal-service.ts";

/** libsignal's own limits are 15 s per address and 60 s per route. */
const connectTimeoutMs: Millis = 90_000;
const requestTimeoutMs: Millis = 15_000;
/** A lost sealed connection is tried again by the next send, but not more often than this. */
const sealedRetryMs: Millis = 10_000;
/** Deliveries beyond this are dropped unacknowledged, and come again after the next connect. */
const queueLengthMax = 5_000;
/** How long the rest of a backlog is waited for after the first delivery of a connection. */
const settleMs: Millis = 100;
const idleText =
  "Signal says that your phone has not been online for a month. Open Signal on it soon: otherwise the account, and this bridge with it, is removed.";

/** `onServerTime` hears the server's clock, at connecting and with each delivery. */
type LineDeps = Pick<NativeContext, "net" | "clock" | "log" | "notify"> & {
  readonly onServerTime: (ms: Millis) => void;
};

type ChatConnection = AuthenticatedChatConnection | UnauthenticatedChatConnection;

const unreachable = (message: string, cause?: unknown) => new BridgeError("signal_unreachable", message, { cause });

/** @throws BridgeError `unlinked` `outdated` `signal_rate_limited` `signal_unreachable` `signal_timeout` */
export async function openLine(deps: LineDeps, account: NativeAccount, signal: AbortSignal): Promise<ChatLine> {
  const { listener, lose, ...inbound } = openInbound(deps);
  // Without this call libsignal would rest its routes for 10 s after an outage that has ended.
  deps.net.onNetworkChange();
  const user = `${account.aci.serviceId}.${account.deviceId}`;
  const connection = await withDeadline(deps.clock, signal, (abortSignal) =>
    deps.net.connectAuthenticatedChat(user, account.password, false, listener, { abortSignal }),
  );
  const sealed = openSealed(deps);
  const closing = new AbortController();
  return {
    ...inbound,
    connection,
    request: async (what) => {
      const fault = inbound.fault();
      if (fault) throw unreachable("Cannot ask Signal as the line is lost", fault);
      const reply = await exchange(connection, what);
      if (reply.status !== 401) return reply;
      lose(new BridgeError("unlinked", "Cannot use Signal as the server no longer knows this device"));
      throw unreachable("Cannot ask Signal as this device is no longer linked");
    },
    sealedRequest: async (what) => {
      const open = closing.signal.aborted ? null : await sealed.get(closing.signal);
      return open === null ? null : exchange(open, what);
    },
    async [Symbol.asyncDispose]() {
      closing.abort();
      lose(unreachable("Cannot receive as the line was closed"));
      await Promise.allSettled([connection.disconnect(), sealed.close()]);
    },
  };
}

function openInbound({ clock, log, onServerTime, notify }: LineDeps) {
  const queue: Incoming[] = [];
  let isOverflown = false;
  /** The backlog has come, or the wait for it is over. */
  let isDelivered = false;
  let fault: BridgeError | null = null;
  let wake = Promise.withResolvers<void>();
  const stir = () => {
    wake.resolve();
    wake = Promise.withResolvers();
  };
  const lose = (error: BridgeError) => {
    fault ??= error;
    stir();
  };
  const until = async (isDone: () => boolean, ms: Millis, signal: AbortSignal): Promise<void> => {
    const done = new AbortController();
    const late = clock.sleep(ms, AbortSignal.any([signal, done.signal])).then(() => false);
    let isInTime = true;
    while (isInTime && !isDone()) isInTime = await Promise.race([late, wake.promise.then(() => true)]);
    done.abort();
  };
  const listener: ChatServiceListener = {
    onIncomingMessage: (bytes, timestamp, ack) => {
      isOverflown ||= queue.length >= queueLengthMax;
      if (isOverflown) return;
      if (timestamp > 0) onServerTime(timestamp);
      queue.push({ bytes, serverAt: timestamp > 0 ? timestamp : null, ack: once(ack) });
      stir();
    },
    onServerTimestamp: onServerTime,
    // In production this event follows the last acknowledgement of the backlog, so that no acknowledgement may wait for it.
    onQueueEmpty: () => {
      isDelivered = true;
      stir();
    },
    onReceivedAlerts: (alerts) => {
      if (alerts.length > 0) log.warn("signal alerts about the account: open Signal on the phone", { alerts });
      // Signal-Desktop knows the alert with `critical-` in front, too.
      if (alerts.some((alert) => alert.endsWith("idle-primary-device"))) notify({ code: "phone_idle", text: idleText });
    },
    onConnectionInterrupted: (cause) => {
      if (cause === null) return lose(unreachable("Cannot receive as the line was closed"));
      const error = toBridgeError("Cannot receive from Signal", cause);
      log.info("signal line lost", { code: error.code, reason: error.message });
      lose(error);
    },
  };
  return {
    listener,
    lose,
    take: () => {
      const taken = queue.shift();
      if (isOverflown && queue.length === 0)
        lose(unreachable("Cannot receive more as the backlog is too long for one connection"));
      return taken;
    },
    putBack: (deliveries: readonly Incoming[]) => {
      queue.unshift(...deliveries);
      if (deliveries.length > 0) stir();
    },
    wait: async (ms: Millis, signal: AbortSignal) => {
      await until(() => fault !== null || queue.length > 0, ms, signal);
      // The rest of a backlog is waited for, so that all of it can be announced together.
      if (queue.length > 0) await until(() => fault !== null || isDelivered, settleMs, signal);
      isDelivered ||= queue.length > 0;
      return queue.length > 0;
    },
    fault: () => fault,
  };
}

/** A second acknowledgement would panic inside libsignal; one on a dead connection means that the message comes again. */
export function once(ack: ChatServerMessageAck): () => void {
  let isSent = false;
  return () => {
    if (isSent) return;
    isSent = true;
    try {
      ack.send(200);
    } catch (error) {
      if (!LibSignalErrorBase.is(error, ErrorCode.ChatServiceInactive)) throw error;
    }
  };
}

function openSealed({ net, clock, log }: LineDeps) {
  let current: Promise<UnauthenticatedChatConnection | null> | null = null;
  let triedAt = -Infinity;
  return {
    async get(signal: AbortSignal): Promise<UnauthenticatedChatConnection | null> {
      if (current !== null) return current;
      if (clock.monotonic() - triedAt < sealedRetryMs) return null;
      triedAt = clock.monotonic();
      current = connectSealed(net, clock, signal, () => void (current = null)).catch((error: unknown) => {
        log.info("no connection for sealed messages", { reason: reasonOf(error) });
        current = null;
        return null;
      });
      return current;
    },
    close: async () => (await current)?.disconnect(),
  };
}

/** @throws BridgeError as `openLine` */
export const connectSealed = (net: Net, clock: Clock, signal: AbortSignal, onConnectionInterrupted: () => void) =>
  withDeadline(clock, signal, (late) =>
    net.connectUnauthenticatedChat({ onConnectionInterrupted }, { abortSignal: late }),
  );

/** @throws BridgeError `send_uncertain`, as the server may have got the request; `signal_unreachable` where that does not matter (GET) */
export async function exchange(connection: ChatConnection, request: ServiceRequest): Promise<ServiceReply> {
  const { verb, path, headers = [], json, isFixed = false } = request;
  const isJson = json !== undefined;
  try {
    const response = await connection.fetch({
      verb,
      path,
      headers: isJson ? [["content-type", "application/json"], ...headers] : headers,
      timeoutMillis: requestTimeoutMs,
      ...(isJson && { body: utf8(JSON.stringify(json)) }),
    });
    const { status, body } = response;
    if (goneStatuses.has(status) || (isFixed && (status === 404 || status === 410))) {
      const place = path.split("/").slice(0, 3).join("/");
      throw new BridgeError("outdated", `Cannot ask Signal as the server answered ${status} to ${verb} ${place}`, {
        hint: "Update signalman: Signal's server has changed.",
      });
    }
    const retryAfter = Number(response.headers.find(([name]) => name.toLowerCase() === "retry-after")?.[1]);
    return { status, json: parseJson(body), retryAfterMs: Number.isFinite(retryAfter) ? retryAfter * 1000 : null };
  } catch (cause) {
    if (cause instanceof BridgeError) throw cause;
    if (LibSignalErrorBase.is(cause, ErrorCode.RateLimitedError)) throw toBridgeError("Cannot ask Signal", cause);
    if (verb === "GET") throw unreachable(`Cannot ask Signal: ${reasonOf(cause)}`, cause);
    throw new BridgeError("send_uncertain", `Cannot tell the outcome of ${verb} as ${reasonOf(cause)}`, { cause });
  }
}

const goneStatuses = new Set([405, 426, 499, 501]);

const parseJson = (body: Uint8Array | undefined): unknown =>
  body === undefined ? null : readOrNull(() => JSON.parse(Buffer.from(body).toString("utf8")) as unknown);

type Connect<T> = (signal: AbortSignal) => Promise<T>;
/** Runs a connect under its time limit. @throws BridgeError as `openLine` */
export async function withDeadline<T>(clock: Clock, signal: AbortSignal, connect: Connect<T>): Promise<T> {
  using deadline = startDeadline(clock, connectTimeoutMs, signal);
  try {
    return await connect(deadline.signal);
  } catch (error) {
    if (signal.aborted) throw unreachable("Cannot connect to Signal as it was cancelled");
    if (deadline.isLate())
      throw new BridgeError("signal_timeout", `Cannot connect to Signal as it took more than ${connectTimeoutMs} ms`);
    throw toBridgeError("Cannot connect to Signal", error);
  }
}

const finalCodes = new Map<ErrorCode, BridgeCode>([
  [ErrorCode.DeviceDelinked, "unlinked"],
  [ErrorCode.AppExpired, "outdated"],
  [ErrorCode.ConnectedElsewhere, "replaced"],
]);

export function toBridgeError(what: string, cause: unknown): BridgeError {
  const message = `${what}: ${reasonOf(cause)}`;
  if (!(cause instanceof LibSignalErrorBase)) return new BridgeError("signal_protocol", message, { cause });
  if (cause.is(ErrorCode.RateLimitedError))
    return new BridgeError("signal_rate_limited", message, { cause, retryAfterMs: cause.retryAfterSecs * 1000 });
  if (cause.code === ErrorCode.PossibleCaptiveNetwork)
    return new BridgeError("signal_unreachable", `${what}: this network opens TLS`, { cause, hint: openedTlsHint });
  const code = /timed out/.test(cause.message) ? "signal_timeout" : "signal_unreachable";
  return new BridgeError(finalCodes.get(cause.code) ?? code, message, { cause });
}
