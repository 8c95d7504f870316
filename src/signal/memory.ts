/**
 * Signal inside the process: the transport, the people on the other side, and the faults of the line. The demo, the tests and
 * the simulation run on it; it passes the same contract as the real adapters.
 *
 *   person.write ─▶ queue ─▶ receive ─▶ ack          send ─▶ screen (what the people see)
 *
 * Deterministic: it has no timers and no macrotasks. Whoever waits, waits on the injected clock or on what another does.
 */
import { Buffer } from "node:buffer";
import type { Clock } from "../clock.ts";
import type { ErrorCode } from "../core/errors.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import type { Account, Address, Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { Person } from "./memory-people.ts";
import { arrive, createPerson } from "./memory-people.ts";
import type { MemoryFaults, MemoryState, Seen, SeenReaction } from "./memory-world.ts";
import { changed, createMemoryFaults, enqueue, newMemoryState, stamp } from "./memory-world.ts";
import type { Batch, Transport } from "./transport.ts";

/** Envelopes of one batch. */
const batchMax = 16;

export type MemoryOptions = {
  readonly clock: Clock;
  readonly account?: Account | undefined;
  /** As with `native` (the default): a message sent twice with one timestamp is seen once. */
  readonly ownTimestamps?: boolean | undefined;
};

export type MemorySignal = {
  readonly transport: Transport;
  readonly account: Account;
  /** Our own account on its phone; writes to Note to Self. */
  readonly owner: Person;
  person(address: Address, name?: string): Person;
  /** Puts any envelope into the queue. */
  deliver(envelope: Envelope): void;
  /** Every message that arrived, in order, without the duplicates that a phone drops. */
  screen(): readonly Seen[];
  /** Resolves with the next message, edit or reaction that arrives after the ones already taken by `next`. */
  next(): Promise<Seen>;
  /** Every reaction of ours, also to messages that others wrote. */
  reactions(): readonly SeenReaction[];
  /** Keys of the chats that show "typing". */
  typing(): ReadonlySet<string>;
  /** `sentAt` of the messages that we marked as read. */
  readMarks(): readonly Millis[];
  /** Envelopes that are not acknowledged. */
  queued(): readonly Envelope[];
  readonly faults: MemoryFaults;
};

const defaultAccount: Account = { aci: "00000000-0000-4000-8000-000000000001", number: "+15550100001", deviceId: 2 };

/** A Signal of its own: nothing is shared between two of them. */
export function createMemoryTransport(options: MemoryOptions): MemorySignal {
  const account = options.account ?? defaultAccount;
  const ownTimestamps = options.ownTimestamps ?? true;
  const state = newMemoryState();
  const { clock } = options;
  return {
    transport: createTransport(state, clock, account, ownTimestamps),
    account,
    owner: createPerson(state, clock, account, account, "Me"),
    person: (address, name) => createPerson(state, clock, account, address, name ?? null),
    deliver: (envelope) => enqueue(state, envelope),
    screen: () => state.screen,
    async next() {
      const index = state.taken++;
      for (;;) {
        const seen = state.arrivals[index];
        if (seen) return seen;
        await state.change.promise;
      }
    },
    reactions: () => state.reactions,
    typing: () => state.typing,
    readMarks: () => state.readMarks,
    queued: () => state.queue,
    faults: createMemoryFaults(state),
  };
}

const fault = (code: ErrorCode, what: string, retryAfterMs?: Millis) =>
  new BridgeError(code, `Cannot ${what} as the line says: ${errorRow(code).title}`, { retryAfterMs });

/** Waits while the line hangs. @throws BridgeError what the line is like then */
async function passLine(state: MemoryState, what: string, signal?: AbortSignal): Promise<void> {
  const isAborted = () => signal?.aborted === true;
  const aborted = signal && abortion(signal);
  while (state.isHanging && !state.isCut && !isAborted()) {
    const wasConnected = state.isConnected;
    await (aborted ? Promise.race([state.change.promise, aborted]) : state.change.promise);
    if (wasConnected && !state.isConnected) break;
  }
  if (state.isCut || isAborted()) throw fault("signal_unreachable", what);
  if (state.isUnlinked) throw fault("unlinked", what);
}

const abortion = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });

function createTransport(state: MemoryState, clock: Clock, account: Account, ownTimestamps: boolean): Transport {
  return {
    name: "memory",
    isLocal: true,
    capabilities: {
      ownTimestamps,
      typing: true,
      reactions: true,
      edits: true,
      readReceipts: true,
      attachments: true,
    },
    async connect(signal) {
      state.isConnected = false;
      changed(state);
      await passLine(state, "connect", signal);
      state.isConnected = true;
      return account;
    },
    receive: (timeoutMs, signal) => receive(state, clock, timeoutMs, signal),
    async ack(batch, isCommitted) {
      if (!isCommitted) return;
      if (batch.envelopes.length > 0 && state.lostAcks > 0) state.lostAcks--;
      else for (const envelope of batch.envelopes) remove(state.queue, envelope);
    },
    async send(message) {
      if (!state.isConnected) throw fault("signal_unreachable", "send");
      await passLine(state, "send");
      if (!state.isConnected) throw fault("signal_unreachable", "send");
      const refusal = state.refusals.shift();
      if (refusal) throw fault(refusal.code, "send", refusal.retryAfterMs);
      const timestamp = ownTimestamps ? message.timestamp : stamp(state, clock);
      arrive(state, message, timestamp);
      if (state.lostAnswers === 0) return { timestamp, failed: [] };
      state.lostAnswers--;
      throw fault("send_uncertain", "send");
    },
    answerChallenge: null,
    async typing(chat, isTyping) {
      if (!state.isConnected || state.isCut) return;
      if (isTyping) state.typing.add(chatKey(chat));
      else state.typing.delete(chatKey(chat));
    },
    async markRead(envelope) {
      if (state.isConnected && !state.isCut && !envelope.isOwn) state.readMarks.push(envelope.sentAt);
    },
    async attachment(ref, bytesMax) {
      if (state.isCut) throw fault("signal_unreachable", "fetch a file");
      const base64 = state.files.get(ref);
      if (base64 === undefined) throw fault("attachment_unavailable", "fetch a file");
      const bytes = new Uint8Array(Buffer.from(base64, "base64"));
      if (bytes.length > bytesMax) throw fault("attachment_unavailable", "fetch a file");
      return bytes;
    },
    async disconnect() {
      state.isConnected = false;
      changed(state);
    },
  };
}

/** A batch stays in the queue until it is acknowledged, so that it is received again where that did not happen. */
async function receive(state: MemoryState, clock: Clock, timeoutMs: Millis, signal: AbortSignal): Promise<Batch> {
  if (!state.isConnected) throw fault("signal_unreachable", "receive");
  const endsAt = clock.monotonic() + timeoutMs;
  const done = new AbortController();
  const stop = AbortSignal.any([signal, done.signal]);
  let isOver = false;
  const over = clock.sleep(timeoutMs, stop).then(() => {
    isOver = true;
  });
  try {
    while (state.isConnected) {
      await passLine(state, "receive");
      if (!state.isConnected) break;
      const envelopes = state.queue.slice(0, batchMax);
      if (envelopes.length > 0) return { envelopes, isProof: true, persist: null };
      if (isOver) return { envelopes, isProof: clock.monotonic() >= endsAt, persist: null };
      await Promise.race([state.change.promise, over]);
    }
    return { envelopes: [], isProof: false, persist: null };
  } finally {
    done.abort();
  }
}

function remove<T>(items: T[], item: T): void {
  const index = items.indexOf(item);
  if (index >= 0) items.splice(index, 1);
}
