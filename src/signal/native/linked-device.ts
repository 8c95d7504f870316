/**
 * Signal as a linked device, inside this process.
 *
 *   connect.ts ─▶ receiver.ts ─▶ decrypt.ts ─▶ content.ts ─▶ Batch ─▶ (the loop commits: key-store.ts) ─▶ ack ─▶ jobs: upkeep.ts
 *   Outbound ─▶ sender.ts ─▶ compose.ts ─▶ deliver.ts ─▶ connect.ts
 *
 *   connect ─▶ receive: wait · open (lock taken) ─▶ [caller commits] ─▶ ack (acks out, lock released, jobs queued)
 *                  └ quiet: keep-alive at most every 30 s                    upkeep: at connecting, and every hour
 *
 * A single lock guards the ratchets. A batch holds it from the first decryption until its `ack`, so that no send can move a
 * session between reading and commit; sends that wait for it share a commit; no network call is made under it. Import this file
 * after `loadLibsignal`.
 */
import { PublicKey } from "@signalapp/libsignal-client";
import { BuildVariant, Net } from "@signalapp/libsignal-client/dist/net.js";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import { duration } from "../../core/when.ts";
import { allFeatures, type Batch, type Link, type Notice, type Transport } from "../transport.ts";
import { loadAccount, toAccount } from "./account.ts";
import { downloadAttachment, pointerOfRef } from "./attachments.ts";
import { tolerate, reasonOf } from "./bytes.ts";
import { settleClaims } from "./claims.ts";
import { openLine } from "./connect.ts";
import type {
  NativeContext,
  GroupState,
  ChatLine,
  Lock,
  NativeAccount,
  NativeAllow,
  NativeDeps,
  Waiting,
} from "./context.ts";
import { certificateKeeper } from "./deliver.ts";
import { groupFetcher, keepGroups, learnNames } from "./groups.ts";
import { makeLink } from "./linking.ts";
import { mergeJobs } from "./news.ts";
import { countQuarantined, giveBack, openBatch, type Opened } from "./receiver.ts";
import { resumeOwed, sendOutbound, sendReceipt, sendTyping } from "./sender.ts";
import { ask } from "./server.ts";
import { openOverlay, shareCommits } from "./key-store.ts";
import { readAgain } from "./storage.ts";
import { answerChallenge, maintain, retryLimiter, runJob } from "./upkeep.ts";

/** How often a quiet server is asked whether it is still there. */
const proofEveryMs: Millis = 30_000;
const maintainEveryMs: Millis = 3_600_000;
const skewMsMax: Millis = 300_000;
const minuteMs: Millis = 60_000;
const noticeEveryMs: Millis = 24 * 3_600_000;

export type NativeTransport = Transport & {
  readonly answerChallenge: (captcha: string) => Promise<void>;
  /** Resolves when the background work that was begun (keys, receipts, requests to send again, contacts) is done. */
  settled(): Promise<void>;
};

function openNet({ service, userAgent }: NativeDeps): Net {
  const net = new Net(service.netOptions(userAgent));
  if (service.proxy !== null) net.setProxyFromUrl(service.proxy);
  net.setRemoteConfig(service.remoteConfig, BuildVariant.Production);
  return net;
}

export const linkNative = (deps: NativeDeps, onReplaced = (): void => undefined): Link =>
  makeLink({ ...deps, net: openNet(deps), onReplaced });

/** The state that changes while the transport lives; times are monotonic. */
const freshState = () => ({
  account: null as NativeAccount | null,
  line: null as ChatLine | null,
  closing: new AbortController(),
  isReceiving: false,
  /** The batch between `receive` and `ack`. */
  held: null as { readonly batch: Batch; readonly opened: Opened; readonly release: () => void } | null,
  provedAt: -Infinity,
  maintainAt: -Infinity,
  /** The server's clock as last heard, and when that was. */
  serverTime: null as { readonly ms: Millis; readonly at: Millis } | null,
  /** Deliveries that wait until their group is known, and the requests for those groups. */
  waiting: new Map() as Waiting,
  claims: Promise.resolve(),
  /** Notices for the next batch, and when each code was told last. */
  notices: [] as Notice[],
  toldAt: new Map<Notice["code"], Millis>(),
  jobs: Promise.resolve(),
});

type State = ReturnType<typeof freshState>;
type Live = NativeContext & { readonly state: State };

/** The transport over the account that `linkNative` left in `database`, whose tables are those of `signalSchema`. */
export function createNative(deps: NativeDeps & NativeAllow): NativeTransport {
  const context = openContext(deps);
  const { state, closing } = context;
  const quietly = (work: Promise<void>) => tolerate(work, ({ code }) => deps.log.debug("notice not sent", { code }));
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
    ack: async (batch, isCommitted) => acknowledge(context, batch, isCommitted),
    send: (message) => sendOutbound(context, message, closing()),
    typing: (chat, isTyping) => quietly(sendTyping(context, chat, isTyping, closing())),
    markRead: (envelope) => quietly(sendReceipt(context, envelope)),
    attachment: async (ref, bytesMax, signal) => downloadAttachment(deps.service, pointerOfRef(ref), bytesMax, signal),
    disconnect: () => disconnect(state),
    answerChallenge: (captcha) => answerChallenge(context, captcha),
    skewMs: () => deps.clock.now() - context.now(),
    quarantined: () => countQuarantined(deps.database),
    settled: () => state.jobs,
  };
}

function openContext(deps: NativeDeps & NativeAllow): Live {
  const { clock, database, log, service } = deps;
  const state = freshState();
  const now = () =>
    state.serverTime === null ? clock.now() : Math.floor(state.serverTime.ms + clock.monotonic() - state.serverTime.at);
  const notify = (notice: Notice) => {
    if (clock.monotonic() - (state.toldAt.get(notice.code) ?? -Infinity) < noticeEveryMs) return;
    state.toldAt.set(notice.code, clock.monotonic());
    state.notices.push(notice);
  };
  const line = () => {
    if (state.line !== null) return state.line;
    throw new BridgeError("signal_unreachable", "Cannot reach Signal as there is no connection");
  };
  const request: ChatLine["request"] = (what) => line().request(what);
  const account = () => state.account ?? loadAccount(database);
  const learnMore = async (state: GroupState, isNew: boolean) => {
    await learnNames(state, database, request);
    // The storage service tells whether the owner has blocked a new member.
    if (isNew) await tolerate(readAgain(context), () => undefined);
  };
  const onIdentityChange = () => log.warn("signal identity of a peer changed: reinstalled, or a listener in between");
  const lock = makeLock();
  let lastTimestamp = 0;
  const context: Live = {
    ...deps,
    net: openNet(deps),
    state,
    trustRoots: service.trustRoots.map((key) => PublicKey.deserialize(key)),
    account,
    line,
    closing: () => state.closing.signal,
    lock,
    withRatchets: shareCommits({ database, clock, onIdentityChange }, lock),
    now,
    notify,
    reload: () => void (state.account = loadAccount(database)),
    last: { askedAt: -Infinity, pushedAt: -Infinity, lookedUpAt: -Infinity },
    dueAt: new Map(),
    mayAsk: retryLimiter(clock),
    mayAnswer: retryLimiter(clock),
    certificate: certificateKeeper({ line, now, log }),
    groups: keepGroups({ database, now, account, fetchGroup: groupFetcher(service, request, now), learnMore }),
    // After a clock that ran ahead is set back, timestamps follow it instead of staying in the future.
    freshTimestamp: () =>
      (lastTimestamp = lastTimestamp - now() > skewMsMax ? now() : Math.max(lastTimestamp + 1, now())),
    onIdentityChange,
    later(waitMs, work) {
      const { signal } = state.closing;
      void clock.sleep(waitMs, signal).then(() => signal.aborted || enqueue(context, work));
    },
  };
  return context;
}

function makeLock(): Lock {
  let tail: Promise<void> = Promise.resolve();
  return async () => {
    const before = tail;
    const { promise, resolve } = Promise.withResolvers<void>();
    tail = promise;
    await before;
    return resolve;
  };
}

async function connect(context: Live, signal: AbortSignal) {
  const { state, database } = context;
  state.held?.release();
  state.held = null;
  await disconnect(state);
  const account = loadAccount(database);
  state.account = account;
  const onServerTime = (ms: Millis) => hearServerTime(context, ms);
  state.line = await openLine({ ...context, onServerTime }, account, signal);
  state.closing = new AbortController();
  state.provedAt = -Infinity;
  startUpkeep(context);
  resumeOwed(context);
  return toAccount(account);
}

function startUpkeep(context: Live): void {
  context.state.maintainAt = context.clock.monotonic() + maintainEveryMs;
  enqueue(context, () => maintain(context));
}

function hearServerTime({ state, clock, log, notify, now }: Live, ms: Millis): void {
  // The header of a delivery may be older than the time that is known.
  if (state.serverTime !== null && ms <= now()) return;
  state.serverTime = { ms, at: clock.monotonic() };
  const skewMs = clock.now() - ms;
  if (Math.abs(skewMs) <= skewMsMax) return;
  log.warn("the clock of this machine is wrong", { skewMs });
  const off = `${duration(minuteMs * Math.round(Math.abs(skewMs) / minuteMs))} ${skewMs > 0 ? "ahead" : "behind"}`;
  notify({ code: "clock_wrong", text: `The clock of this bridge's machine is ${off}. Please set it right.` });
}

/** Ends what belongs to the present connection. Never rejects. */
async function disconnect(state: State): Promise<void> {
  const { line } = state;
  state.line = null;
  state.closing.abort();
  state.waiting.clear();
  await line?.[Symbol.asyncDispose]();
  await state.claims;
  await state.jobs;
}

const batchOf = (state: State, batch: Omit<Batch, "notices">): Batch =>
  state.notices.length === 0 ? batch : { ...batch, notices: state.notices.splice(0) };

/** Closes the line when it throws. */
async function receive(context: Live, timeoutMs: Millis, signal: AbortSignal): Promise<Batch> {
  const { state } = context;
  const { line } = state;
  if (line === null) throw new BridgeError("signal_unreachable", "Cannot receive as there is no connection");
  if (context.clock.monotonic() >= state.maintainAt) startUpkeep(context);
  try {
    const hasCome = await line.wait(timeoutMs, signal);
    // We disconnected meanwhile: deliveries that were not opened yet come again.
    const nothing = { envelopes: [], isProof: false, persist: null };
    if (state.line !== line) return nothing;
    if (hasCome) return await open(context, line);
    const fault = line.fault();
    if (fault !== null) throw fault;
    return batchOf(state, { ...nothing, isProof: !signal.aborted && (await prove(context, line)) });
  } catch (error) {
    await disconnect(state);
    throw error;
  }
}

/** Opens the deliveries that have arrived, under the lock, which then stays held until `acknowledge`. */
async function open(context: Live, line: ChatLine): Promise<Batch> {
  const { state } = context;
  const release = await context.lock();
  const overlay = openOverlay(context);
  try {
    const opened = await openBatch({ ...context, overlay, waiting: state.waiting }, line);
    const batch = batchOf(state, { envelopes: opened.envelopes, isProof: true, persist: overlay.write });
    state.held = { batch, opened, release };
    const asking = settleClaims(context, line, state.waiting);
    state.claims = Promise.all([state.claims, asking]).then(() => undefined);
    return batch;
  } catch (error) {
    release();
    throw error;
  }
}

function acknowledge(context: Live, batch: Batch, isCommitted: boolean): void {
  const { state, database, clock } = context;
  if (state.held?.batch !== batch) return;
  const { opened, release } = state.held;
  state.held = null;
  if (isCommitted) {
    for (const delivery of opened.deliveries) delivery.ack();
    if (opened.isAccountChanged) context.reload();
    state.provedAt = clock.monotonic();
  }
  // A failed commit has changed nothing: the same deliveries are opened anew. Should the line go first, the server brings them again.
  else giveBack(database, state.line, opened.deliveries);
  release();
  if (!isCommitted) return;
  for (const job of mergeJobs(opened.jobs)) enqueue(context, () => runJob(context, job));
}

/** A round trip over the authenticated stream, at most every 30 s; false when none was due. */
async function prove(context: Live, line: ChatLine): Promise<boolean> {
  const { state, clock } = context;
  if (clock.monotonic() - state.provedAt < proofEveryMs) return false;
  try {
    await line.request(ask.keepAlive());
  } catch (cause) {
    const message = "Cannot receive as the server does not answer";
    throw line.fault() ?? new BridgeError("signal_timeout", message, { cause });
  }
  state.provedAt = clock.monotonic();
  return true;
}

/** Runs background work one after the other. A failure is logged: the next connect, or the next message, tries again. */
function enqueue({ state, log, notify }: Live, work: () => Promise<void>): void {
  const putOff = ({ code, message: reason, hint }: BridgeError) => {
    log.info("background work put off", { code, reason });
    if (code === "outdated") notify({ code, text: `Soon I may not be able to use Signal any more. ${hint}` });
  };
  const fail = (error: unknown) => log.error("background work failed", { reason: reasonOf(error) });
  state.jobs = state.jobs.then(() => tolerate(work(), putOff)).catch(fail);
}
