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
import type { Batch, Link, Transport } from "../transport.ts";
import { loadAccount, type NativeAccount, toAccount } from "./account.ts";
import { downloadAttachment, fromRef } from "./attachments.ts";
import { type Incoming, type Line, openLine } from "./connect.ts";
import { certificateKeeper } from "./deliver.ts";
import { groupFetcher } from "./groups.ts";
import { makeLink } from "./link.ts";
import { answerChallenge, maintain, prune, refreshAllKeys } from "./maintenance.ts";
import { keepGroups } from "./membership.ts";
import type { Job } from "./news.ts";
import { forgiveAttempts, type IsAllowed, openBatch, type Opened } from "./receive.ts";
import { findRecipient } from "./recipients.ts";
import { jobRunner } from "./jobs.ts";
import { type SendDeps, sendOutbound, sendReceipt, sendTyping } from "./send.ts";
import type { Service } from "./service.ts";
import { openOverlay } from "./store.ts";

/** When quiet, the server is asked this often whether it is still there. */
const proofEveryMs: Millis = 30_000;
const maintainEveryMs: Millis = 6 * 3_600_000;

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
  answerChallenge(captcha: string): Promise<void>;
  /** Resolves when the work that was begun behind receiving and sending (keys, receipts to ask again, contacts) is done. */
  settled(): Promise<void>;
};

type Held = { readonly batch: Batch; readonly opened: Opened; readonly release: () => void };

/** All that changes while the transport lives. */
type State = {
  account: NativeAccount | null;
  line: Line | null;
  /** Aborts what belongs to the present connection. */
  closing: AbortController;
  isReceiving: boolean;
  /** The batch between `receive` and `ack`. */
  held: Held | null;
  /** Monotonic times. */
  provedAt: Millis;
  maintainAt: Millis;
  /** The end of the queue of jobs. */
  jobs: Promise<void>;
};

type Context = NativeDeps & {
  readonly isAllowed: IsAllowed;
  readonly net: Net;
  readonly state: State;
  readonly acquire: () => Promise<() => void>;
  readonly sending: SendDeps;
  readonly trustRoots: readonly PublicKey[];
  readonly runJob: (job: Job) => Promise<void>;
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
    capabilities: {
      ownTimestamps: true,
      typing: true,
      reactions: true,
      edits: true,
      readReceipts: true,
      attachments: true,
    },
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

async function connect(context: Context, signal: AbortSignal) {
  const { state, database, clock } = context;
  state.held?.release();
  state.held = null;
  await disconnect(state);
  const account = loadAccount(database);
  state.account = account;
  state.line = await openLine(context, account, signal);
  state.closing = new AbortController();
  state.provedAt = -Infinity;
  state.maintainAt = clock.monotonic() + maintainEveryMs;
  enqueue(context, () => maintain(context.sending));
  return toAccount(account);
}

async function disconnect(state: State): Promise<void> {
  const { line } = state;
  state.line = null;
  state.closing.abort();
  await line?.close();
  await state.jobs;
}

async function receive(context: Context, timeoutMs: Millis, signal: AbortSignal): Promise<Batch> {
  const { state } = context;
  const line = state.line ?? fail("signal_unreachable", "Cannot receive as there is no connection");
  await line.wait(timeoutMs, signal);
  // Disconnected meanwhile, by ourselves: what was not opened yet comes again.
  if (state.line !== line) return { envelopes: [], isProof: false, persist: null };
  const first = line.take(1)[0];
  if (first !== undefined) return open(context, line, first);
  const fault = line.fault();
  if (fault !== null) {
    await disconnect(state);
    throw fault;
  }
  return { envelopes: [], isProof: !signal.aborted && (await prove(context, line)), persist: null };
}

/** Opens what has arrived, `first` and more. The mutex is held when it resolves, until `acknowledge`. */
async function open(context: Context, line: Line, first: Incoming): Promise<Batch> {
  const { state, database, clock } = context;
  const release = await context.acquire();
  const waiting = [first];
  const taken: Incoming[] = [];
  const next = () => {
    const incoming = waiting.shift() ?? line.take(1)[0] ?? null;
    if (incoming !== null) taken.push(incoming);
    return incoming;
  };
  const overlay = openOverlay(database, clock, context.sending.onIdentityChange);
  try {
    const account = context.sending.account();
    const addressOf = (aci: string) => ({
      aci,
      number: aci === account.aci.serviceId ? account.number : findRecipient(database, aci).number,
    });
    const nameOf = (aci: string) => findRecipient(database, aci).name;
    const opened = await openBatch({ ...context, account, addressOf, nameOf }, overlay, next, line.putBack);
    const batch: Batch = { envelopes: opened.envelopes, isProof: true, persist: () => overlay.write() };
    state.held = { batch, opened, release };
    return batch;
  } catch (error) {
    forgiveAttempts(database, taken);
    release();
    await disconnect(state);
    throw error;
  }
}

async function acknowledge(context: Context, batch: Batch, isCommitted: boolean): Promise<void> {
  const { state, database, clock } = context;
  if (state.held?.batch !== batch) return;
  const { opened, release } = state.held;
  state.held = null;
  if (!isCommitted) {
    // Nothing has happened: the same deliveries are opened anew. Should the line go first, the server brings them again.
    forgiveAttempts(database, opened.deliveries);
    for (const delivery of opened.deliveries.toReversed()) state.line?.putBack(delivery);
    release();
    return;
  }
  for (const delivery of opened.deliveries) delivery.ack();
  // Settings, keys or the number may have come with it.
  state.account = loadAccount(database);
  state.provedAt = clock.monotonic();
  release();
  const kinds = new Set<string>();
  for (const job of opened.jobs) {
    if (job.kind === "refreshKeys" && kinds.has(job.kind)) continue;
    kinds.add(job.kind);
    enqueue(context, () => context.runJob(job));
  }
}

/** A round trip over the authenticated stream, at most every 30 s; false when none was due. */
async function prove(context: Context, line: Line): Promise<boolean> {
  const { state, clock } = context;
  if (clock.monotonic() >= state.maintainAt) {
    state.maintainAt = clock.monotonic() + maintainEveryMs;
    enqueue(context, async () => {
      prune(context.database, clock.now());
      await refreshAllKeys(context.sending);
    });
  }
  if (clock.monotonic() - state.provedAt < proofEveryMs) return false;
  try {
    await line.request({ verb: "GET", path: "/v1/keepalive" });
  } catch (error) {
    await disconnect(state);
    throw (
      line.fault() ??
      new BridgeError("signal_timeout", "Cannot receive as the server does not answer", { cause: error })
    );
  }
  state.provedAt = clock.monotonic();
  return true;
}

/** One after the other, behind receiving and sending. A failure is noted: the next connect, or the next message, tries again. */
function enqueue({ state, log }: Context, work: () => Promise<void>): void {
  state.jobs = state.jobs.then(async () => {
    try {
      await work();
    } catch (error) {
      if (error instanceof BridgeError)
        log.info("background work put off", { code: error.code, reason: error.message });
      else log.error("background work failed", { reason: error instanceof Error ? error.message : String(error) });
    }
  });
}
