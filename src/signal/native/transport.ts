/**
 * Signal as a linked device, inside this process.
 *
 *   connect.ts ─▶ receive.ts ─▶ decrypt.ts ─▶ content.ts ─▶ Batch ─▶ (the loop commits: store.ts) ─▶ ack ─▶ jobs
 *   Outbound ─▶ send.ts ─▶ compose.ts ─▶ deliver.ts ─▶ connect.ts            jobs: retry.ts · maintenance.ts · keys.ts
 *
 * One mutex guards the ratchets. A batch holds it from the first decryption until its `ack`, so that no send can move a
 * session between reading and commit; no network call is made under it. Import this file after `loadLibsignal`.
 */
import { PublicKey } from "@signalapp/libsignal-client";
import { BuildVariant, Net } from "@signalapp/libsignal-client/dist/net.js";
import type { Clock, Random } from "../../clock.ts";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import { allFeatures, type Link, type Transport } from "../transport.ts";
import { downloadAttachment, fromRef } from "./attachments.ts";
import type { Line } from "./connect.ts";
import { certificateKeeper } from "./deliver.ts";
import { groupFetcher } from "./groups.ts";
import { makeLink } from "./link.ts";
import { answerChallenge } from "./maintenance.ts";
import { keepGroups } from "./membership.ts";
import type { IsAllowed } from "./receive.ts";
import { jobRunner } from "./jobs.ts";
import { type SendDeps, sendOutbound, sendReceipt, sendTyping } from "./send.ts";
import type { Service } from "./service.ts";
import { acknowledge, connect, type Context, disconnect, receive, type State } from "./session.ts";

export type NativeDeps = {
  readonly database: Database;
  readonly service: Service;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  /** `name/version`: the server may refuse versions that are too old. */
  readonly userAgent: string;
};

export type NativeTransport = Transport & {
  /**
   * Hands in the solution of the captcha that the server asked for (`captcha`), as text after `signalcaptcha://`.
   * @throws BridgeError `send_rejected` when none was asked for or it was wrong, and those of `connect`
   */
  readonly answerChallenge: (captcha: string) => Promise<void>;
  /** Resolves when the work that was begun behind receiving and sending (keys, receipts to ask again, contacts) is done. */
  settled(): Promise<void>;
};

function openNet({ service, userAgent }: Pick<NativeDeps, "service" | "userAgent">): Net {
  const net = new Net(service.netOptions(userAgent));
  net.setRemoteConfig(service.remoteConfig, BuildVariant.Production);
  return net;
}

/** Makes this program a linked device of the service. Import after `loadLibsignal`. */
export const linkNative = (deps: NativeDeps): Link => makeLink({ ...deps, net: openNet(deps) });

/**
 * The transport over the account that `linkNative` left in `database`. Its tables are those of `signalSchema`. `isAllowed` says
 * to whom the transport may answer by itself: strangers get no receipt and no request to send again.
 */
export function createNative(deps: NativeDeps & { readonly isAllowed: IsAllowed }): NativeTransport {
  const context = openContext(deps);
  const { state, sending } = context;
  return {
    name: "native",
    isLocal: deps.service.isLocal,
    capabilities: { ownTimestamps: true, ...allFeatures },
    connect: (signal) => connect(context, signal),
    receive: async (timeoutMs, signal) => {
      if (state.isReceiving || state.held !== null)
        throw new BridgeError("already_receiving", "Cannot receive as another receive, or its batch, is not finished");
      state.isReceiving = true;
      try {
        return await receive(context, timeoutMs, signal);
      } finally {
        state.isReceiving = false;
      }
    },
    ack: (batch, isCommitted) => acknowledge(context, batch, isCommitted),
    send: (message) => sendOutbound(sending, message, state.closing.signal),
    typing: (chat, isTyping) => quietly(deps.log, sendTyping(sending, chat, isTyping, state.closing.signal)),
    markRead: (envelope) => quietly(deps.log, sendReceipt(sending, envelope)),
    attachment: async (ref, bytesMax, signal) => downloadAttachment(deps.service, fromRef(ref), bytesMax, signal),
    disconnect: () => disconnect(state),
    answerChallenge: (captcha) => answerChallenge(sending, captcha),
    settled: () => state.jobs,
  };
}

function openContext(deps: NativeDeps & { readonly isAllowed: IsAllowed }): Context {
  const { clock, database, log, service } = deps;
  const state: State = {
    account: null,
    line: null,
    closing: new AbortController(),
    isReceiving: false,
    held: null,
    provedAt: -Infinity,
    maintainAt: -Infinity,
    jobs: Promise.resolve(),
  };
  const acquire = mutex();
  const line = () => state.line ?? fail("signal_unreachable", "Cannot reach Signal as there is no connection");
  const account = () => state.account ?? fail("not_linked", "Cannot use Signal as no account is linked");
  const request: Line["request"] = (what) => line().request(what);
  const sending: SendDeps = {
    database,
    clock,
    log,
    service,
    line,
    account,
    connection: () => line().connection,
    lock: async (work) => {
      const release = await acquire();
      try {
        return await work();
      } finally {
        release();
      }
    },
    certificate: certificateKeeper({ line, clock, log }),
    groups: keepGroups({ database, clock, account, fetchGroup: groupFetcher(service, request, clock) }),
    freshTimestamp: timestamps(clock),
    onIdentityChange: () => log.warn("signal identity of a peer changed: reinstalled, or somebody in between"),
  };
  const trustRoots = service.trustRoots.map((key) => PublicKey.deserialize(key));
  const runJob = jobRunner(sending, deps.isAllowed, () => state.closing.signal);
  return { ...deps, net: openNet(deps), state, acquire, sending, trustRoots, runJob };
}

function fail(code: "signal_unreachable" | "not_linked", message: string): never {
  throw new BridgeError(code, message);
}

/** Resolves to the release of the lock, in order of asking. */
function mutex(): () => Promise<() => void> {
  let tail: Promise<void> = Promise.resolve();
  return async () => {
    const before = tail;
    const mine = Promise.withResolvers<void>();
    tail = mine.promise;
    await before;
    return mine.resolve;
  };
}

function timestamps(clock: Clock): () => Millis {
  let last = 0;
  return () => (last = Math.max(last + 1, clock.now()));
}

async function quietly(log: Log, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.debug("notice not sent", { code: error.code });
  }
}
