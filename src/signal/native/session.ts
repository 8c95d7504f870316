/**
 * One connection after the other: polling, the batch between `receive` and `ack`, and the work behind them.
 *
 *   connect ─▶ receive: wait · open (mutex taken) ─▶ [caller commits] ─▶ acknowledge (acks out, mutex released, jobs queued)
 *                  └ quiet: keep-alive at most every 30 s, upkeep every 6 h
 */
import type { PublicKey } from "@signalapp/libsignal-client";
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { Database } from "../../store/database.ts";
import type { Batch } from "../transport.ts";
import { loadAccount, type NativeAccount, toAccount } from "./account.ts";
import { forgiveAttempts, openBatch, type Opened } from "./batch.ts";
import { type Incoming, type Line, type LineDeps, openLine } from "./connect.ts";
import { maintain, prune, refreshAllKeys } from "./maintenance.ts";
import type { Job } from "./news.ts";
import type { IsAllowed } from "./receive.ts";
import { findRecipient } from "./recipients.ts";
import type { SendDeps } from "./send.ts";
import { openOverlay } from "./store.ts";

/** When quiet, the server is asked this often whether it is still there. */
const proofEveryMs: Millis = 30_000;
const maintainEveryMs: Millis = 6 * 3_600_000;

type Held = { readonly batch: Batch; readonly opened: Opened; readonly release: () => void };

/** All that changes while the transport lives. */
export type State = {
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

export type Context = LineDeps & {
  readonly database: Database;
  readonly isAllowed: IsAllowed;
  readonly state: State;
  readonly acquire: () => Promise<() => void>;
  readonly sending: SendDeps;
  readonly trustRoots: readonly PublicKey[];
  readonly runJob: (job: Job) => Promise<void>;
};

/** @throws BridgeError as `Transport.connect` */
export async function connect(context: Context, signal: AbortSignal) {
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
  enqueue(context, () => {
    prune(database, clock.now());
    return maintain(context.sending);
  });
  return toAccount(account);
}

/** Ends what belongs to the present connection. Never rejects. */
export async function disconnect(state: State): Promise<void> {
  const { line } = state;
  state.line = null;
  state.closing.abort();
  await line?.close();
  await state.jobs;
}

/** @throws BridgeError as `Transport.receive`; the line is closed then */
export async function receive(context: Context, timeoutMs: Millis, signal: AbortSignal): Promise<Batch> {
  const { state } = context;
  const { line } = state;
  if (line === null) throw new BridgeError("signal_unreachable", "Cannot receive as there is no connection");
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

/**
 * Opens what has arrived, `first` and more. The mutex is held when it resolves, until `acknowledge`; it is not while the
 * server is asked about a group.
 */
async function open(context: Context, line: Line, first: Incoming): Promise<Batch> {
  for (;;) {
    line.putBack(first);
    const held = await openHeld(context, line);
    const { claim, deliveries } = held.opened;
    if (claim === null || deliveries.length > 0) {
      context.state.held = held;
      return held.batch;
    }
    held.release();
    try {
      await context.sending.groups.learn(claim, context.state.closing.signal);
    } catch (error) {
      await disconnect(context.state);
      throw error;
    }
    const again = line.take(1)[0];
    if (again === undefined) return { envelopes: [], isProof: false, persist: null };
    first = again;
  }
}

async function openHeld(context: Context, line: Line): Promise<Held> {
  const { state, database, clock } = context;
  const release = await context.acquire();
  const taken: Incoming[] = [];
  const next = () => {
    const incoming = line.take(1)[0] ?? null;
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
    const { groups } = context.sending;
    const opened = await openBatch({ ...context, account, addressOf, nameOf, groups }, overlay, next, line.putBack);
    const batch: Batch = { envelopes: opened.envelopes, isProof: true, persist: () => overlay.write() };
    return { batch, opened, release };
  } catch (error) {
    forgiveAttempts(database, taken);
    release();
    await disconnect(state);
    throw error;
  }
}

/** See `Transport.ack`. */
export async function acknowledge(context: Context, batch: Batch, isCommitted: boolean): Promise<void> {
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
