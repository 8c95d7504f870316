/**
 * Signal inside the process: the transport, the owner on their phone, and the faults of the line. The demo and the self-test
 * run on it; so do the tests and the simulation, whose double adds other people (`test/doubles/memory.ts`). It passes the same
 * contract tests as the real adapters, but has no keys, no devices and no files.
 *
 *   owner.write ─▶ queue ─▶ receive ─▶ ack          send ─▶ screen (what the people see)
 *
 * Deterministic: it has no timers and no macrotasks. A call that waits does so on the injected clock or on another call.
 */
import type { Clock } from "../clock.ts";
import { BridgeError, errorRow, type ErrorCode } from "../core/errors.ts";
import type { Account, Chat, Envelope, Millis, Outbound, OutboundFile, Quote, StyleRange } from "../core/model.ts";
import { chatKey, wordsOnly } from "../core/model.ts";
import { allFeatures, type Batch, type Transport } from "./transport.ts";

/** Envelopes of one batch. */
const batchMax = 16;

export type MemoryOptions = {
  readonly clock: Clock;
  readonly account?: Account | undefined;
  /** True (the default) as with `native`: a message sent twice with one timestamp is seen once. */
  readonly ownTimestamps?: boolean | undefined;
};

/** A message on the screens of the people in its chat. Edits change `text` and `styles` in place. */
export type Seen = {
  readonly chat: Chat;
  readonly timestamp: Millis;
  /** Timestamps of all its versions, the newest last. */
  readonly versions: Millis[];
  text: string;
  styles: readonly StyleRange[];
  readonly quote: Quote | null;
  readonly files: readonly OutboundFile[];
  editCount: number;
};

/** Our account's emoji on any message; null takes it away. */
export type SeenReaction = { readonly chat: Chat; readonly targetSentAt: Millis; readonly emoji: string | null };

const defaultAccount: Account = { aci: "00000000-0000-4000-8000-000000000001", number: "+15550100001", deviceId: 2 };

/** Each call makes a Signal of its own, which shares no state with another. */
export function createMemoryTransport(options: MemoryOptions) {
  const { clock, account = defaultAccount, ownTimestamps = true } = options;
  const world = createWorld(clock);
  let taken = 0;
  return {
    transport: createTransport(world, clock, account, ownTimestamps),
    account,
    /** The owner, who writes on the phone of our own account, in Note to Self. */
    owner: { write: (text: string): Envelope => world.write(account, text) },
    /** Every message that arrived, in order, without the duplicates that a phone drops. */
    screen: (): readonly Seen[] => world.screen,
    /** Resolves with the next message or edit that arrives after the ones already taken by `next`. */
    async next(): Promise<Seen> {
      const index = taken++;
      for (;;) {
        const seen = world.arrivals[index];
        if (seen) return seen;
        await world.changing();
      }
    },
    world,
    faults: createFaults(world),
  };
}

type World = ReturnType<typeof createWorld>;

/** State of the in-process Signal: its queue, its screens, and the faults of its line. */
function createWorld(clock: Clock) {
  let change = Promise.withResolvers<void>();
  let lastStamp = 0;
  const world = {
    queue: [] as Envelope[],
    screen: [] as Seen[],
    arrivals: [] as Seen[],
    reactions: [] as SeenReaction[],
    readMarks: [] as Millis[],
    typing: new Set<string>(),
    isConnected: false,
    isCut: false,
    isUnlinked: false,
    isHanging: false,
    lostAnswers: 0,
    lostAcks: 0,
    refusals: [] as BridgeError[],
    /** Resolves when anything changes. */
    changing: (): Promise<void> => change.promise,
    set(patch: Partial<Record<"isConnected" | "isCut" | "isUnlinked" | "isHanging", boolean>>): void {
      Object.assign(world, patch);
      world.changed();
    },
    changed(): void {
      const { resolve } = change;
      change = Promise.withResolvers();
      resolve();
    },
    /** Two messages never share a timestamp. */
    stamp: (): Millis => (lastStamp = Math.max(lastStamp + 1, clock.now())),
    deliver(envelope: Envelope): Envelope {
      world.queue.push(envelope);
      world.changed();
      return envelope;
    },
    /** A text of our own account's phone, in Note to Self. */
    write({ aci, number }: Account, text: string): Envelope {
      const sentAt = world.stamp();
      const from = { source: { aci, number }, sourceDevice: 1, sourceName: "Me", isOwn: true };
      return world.deliver({ ...from, sentAt, serverAt: sentAt, chat: { kind: "self" }, content: wordsOnly(text) });
    },
  };
  return world;
}

export type MemoryFaults = ReturnType<typeof createFaults>;

const createFaults = (world: World) => ({
  /** Connect, receive and send fail with `signal_unreachable` until `mend`. */
  cut: () => world.set({ isCut: true }),
  mend: () => world.set({ isCut: false }),
  /** The account is unlinked until `relink`. */
  unlink: () => world.set({ isUnlinked: true }),
  relink: () => world.set({ isUnlinked: false }),
  /** Connect, receive and send do not return until `release`, `cut` or `disconnect`. */
  hang: () => world.set({ isHanging: true }),
  release: () => world.set({ isHanging: false }),
  /** The next `count` sends arrive, but their answer does not: `send_uncertain`. */
  loseAnswers: (count = 1) => void (world.lostAnswers += count),
  /** The next `count` sends are refused with `code` and never arrive. */
  refuseSends(code: ErrorCode, count = 1, retryAfterMs?: Millis): void {
    for (let index = 0; index < count; index++) world.refusals.push(lineFault(code, "send", retryAfterMs));
  },
  /** The next `count` acknowledgements are lost: the batch comes again. */
  loseAcks: (count = 1) => void (world.lostAcks += count),
});

export const lineFault = (code: ErrorCode, what: string, retryAfterMs?: Millis) =>
  new BridgeError(code, `Cannot ${what} as the line says: ${errorRow(code).title}`, { retryAfterMs });

/** Waits while the line hangs. @throws BridgeError `signal_unreachable` if it is cut, `unlinked` if the account is unlinked */
async function passLine(world: World, what: string, signal?: AbortSignal): Promise<void> {
  const isAborted = () => signal?.aborted === true;
  signal?.addEventListener("abort", world.changed, { once: true });
  while (world.isHanging && !world.isCut && !isAborted()) {
    const wasConnected = world.isConnected;
    await world.changing();
    if (wasConnected && !world.isConnected) break;
  }
  signal?.removeEventListener("abort", world.changed);
  if (world.isCut || isAborted()) throw lineFault("signal_unreachable", what);
  if (world.isUnlinked) throw lineFault("unlinked", what);
}

function createTransport(world: World, clock: Clock, account: Account, ownTimestamps: boolean): Transport {
  const isUp = () => world.isConnected && !world.isCut;
  const requireLine = (what: string): void => {
    if (!world.isConnected) throw lineFault("signal_unreachable", what);
  };
  return {
    name: "memory",
    isLocal: true,
    capabilities: { ownTimestamps, ...allFeatures },
    async connect(signal) {
      world.set({ isConnected: false });
      await passLine(world, "connect", signal);
      world.isConnected = true;
      return account;
    },
    receive: (timeoutMs, signal) => receive(world, clock, timeoutMs, signal),
    async ack(batch, isCommitted) {
      if (!isCommitted) return;
      if (batch.envelopes.length > 0 && world.lostAcks > 0) world.lostAcks--;
      else world.queue.splice(0, Infinity, ...world.queue.filter((envelope) => !batch.envelopes.includes(envelope)));
    },
    async send(message) {
      requireLine("send");
      await passLine(world, "send");
      requireLine("send");
      const refusal = world.refusals.shift();
      if (refusal) throw refusal;
      const timestamp = ownTimestamps ? message.timestamp : world.stamp();
      arrive(world, message, timestamp);
      if (world.lostAnswers === 0) return { timestamp, failed: [] };
      world.lostAnswers--;
      throw lineFault("send_uncertain", "send");
    },
    answerChallenge: null,
    async typing(chat, isTyping) {
      if (isUp()) world.typing[isTyping ? "add" : "delete"](chatKey(chat));
    },
    async markRead({ sentAt, isOwn }) {
      if (isUp() && !isOwn) world.readMarks.push(sentAt);
    },
    async attachment() {
      throw lineFault("attachment_unavailable", "fetch a file");
    },
    disconnect: async () => world.set({ isConnected: false }),
  };
}

/** A batch stays in the queue until it is acknowledged, so that an unacknowledged one is received again. */
async function receive(world: World, clock: Clock, timeoutMs: Millis, signal: AbortSignal): Promise<Batch> {
  if (!world.isConnected) throw lineFault("signal_unreachable", "receive");
  const endsAt = clock.monotonic() + timeoutMs;
  const done = new AbortController();
  let isOver = false;
  const over = clock.sleep(timeoutMs, AbortSignal.any([signal, done.signal])).then(() => (isOver = true));
  try {
    while (world.isConnected) {
      await passLine(world, "receive");
      if (!world.isConnected) break;
      const envelopes = world.queue.slice(0, batchMax);
      if (envelopes.length > 0) return { envelopes, isProof: true, persist: null };
      if (isOver) return { envelopes, isProof: clock.monotonic() >= endsAt, persist: null };
      await Promise.race([world.changing(), over]);
    }
    return { envelopes: [], isProof: false, persist: null };
  } finally {
    done.abort();
  }
}

/** Signal-Android takes no edit of a message older than this. **Source:** Signal-Android, the time window of received edits. */
const acceptEditWithinMs: Millis = 24 * 3_600_000;

/**
 * Puts a message of ours on the screens, unless a phone drops it as a duplicate. Phones show an edit of an older version as a
 * message of its own; `arrive` refuses such an edit, so that a test notices.
 */
function arrive(world: World, { chat, body }: Outbound, timestamp: Millis): void {
  const inChat = (sentAt: Millis) =>
    world.screen.find((seen) => seen.versions.includes(sentAt) && chatKey(seen.chat) === chatKey(chat));
  if (body.kind === "reaction") {
    const emoji = body.isRemove ? null : body.emoji;
    return void world.reactions.push({ chat, targetSentAt: body.targetSentAt, emoji });
  }
  world.typing.delete(chatKey(chat));
  const { text, styles } = body;
  // Signal's clients drop a second message with the timestamp of the first.
  if (inChat(timestamp)) return;
  if (body.kind === "edit") {
    const known = inChat(body.targetSentAt);
    const isOld = known !== undefined && timestamp - known.timestamp > acceptEditWithinMs;
    if (known?.versions.at(-1) !== body.targetSentAt || isOld) throw lineFault("send_rejected", "edit");
    known.versions.push(timestamp);
    world.arrivals.push(Object.assign(known, { text, styles, editCount: known.editCount + 1 }));
  } else {
    const versions = [timestamp];
    const seen: Seen = { chat, timestamp, versions, text, styles, quote: body.quote, files: body.files, editCount: 0 };
    world.screen.push(seen);
    world.arrivals.push(seen);
  }
  world.changed();
}
