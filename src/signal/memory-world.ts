/** What the in-process Signal remembers, and what can be wrong with its line. */
import type { Clock } from "../clock.ts";
import type { ErrorCode } from "../core/errors.ts";
import type { Chat, Envelope, Millis, OutboundFile, Quote, StyleRange } from "../core/model.ts";

/** A message on the screens of the people in its chat. Edits change `text` and `styles` in place. */
export type Seen = {
  readonly chat: Chat;
  readonly timestamp: Millis;
  text: string;
  styles: readonly StyleRange[];
  readonly quote: Quote | null;
  readonly files: readonly OutboundFile[];
  /** Emoji that our account put on it. */
  reaction: string | null;
  editCount: number;
};

/** Our account's emoji on any message; null takes it away. */
export type SeenReaction = { readonly chat: Chat; readonly targetSentAt: Millis; readonly emoji: string | null };

export type MemoryFaults = {
  /** Nothing gets through until `mend`: connect, receive and send fail with `signal_unreachable`. */
  cut(): void;
  mend(): void;
  /** The account is unlinked until `relink`. */
  unlink(): void;
  relink(): void;
  /** Connect, receive and send do not come back until `release`, `cut` or `disconnect`. */
  hang(): void;
  release(): void;
  /** The next `count` sends arrive, but their answer does not: `send_uncertain`. */
  loseAnswers(count?: number): void;
  /** The next `count` sends are refused with `code` and never arrive. */
  refuseSends(code: ErrorCode, count?: number, retryAfterMs?: Millis): void;
  /** The next `count` acknowledgements are lost: the batch comes again. */
  loseAcks(count?: number): void;
  /** The server keeps this file no longer. */
  loseFile(ref: string): void;
};

export type MemoryState = {
  readonly queue: Envelope[];
  readonly screen: Seen[];
  readonly arrivals: Seen[];
  readonly typing: Set<string>;
  readonly reactions: SeenReaction[];
  readonly readMarks: Millis[];
  readonly files: Map<string, string>;
  isConnected: boolean;
  isCut: boolean;
  isUnlinked: boolean;
  isHanging: boolean;
  lostAnswers: number;
  lostAcks: number;
  refusals: { readonly code: ErrorCode; readonly retryAfterMs: Millis | undefined }[];
  taken: number;
  lastStamp: Millis;
  /** Resolved and renewed whenever anything changes. */
  change: PromiseWithResolvers<void>;
};

export function newMemoryState(): MemoryState {
  return {
    queue: [],
    screen: [],
    arrivals: [],
    typing: new Set(),
    reactions: [],
    readMarks: [],
    files: new Map(),
    isConnected: false,
    isCut: false,
    isUnlinked: false,
    isHanging: false,
    lostAnswers: 0,
    lostAcks: 0,
    refusals: [],
    taken: 0,
    lastStamp: 0,
    change: Promise.withResolvers(),
  };
}

/** Wakes whoever waits for something to happen. */
export function changed(state: MemoryState): void {
  const { resolve } = state.change;
  state.change = Promise.withResolvers();
  resolve();
}

export function enqueue(state: MemoryState, envelope: Envelope): void {
  state.queue.push(envelope);
  changed(state);
}

/** Two messages never share a timestamp. */
export function stamp(state: MemoryState, clock: Clock): Millis {
  state.lastStamp = Math.max(state.lastStamp + 1, clock.now());
  return state.lastStamp;
}

export function createMemoryFaults(state: MemoryState): MemoryFaults {
  const set = (patch: Partial<MemoryState>) => () => {
    Object.assign(state, patch);
    changed(state);
  };
  return {
    cut: set({ isCut: true }),
    mend: set({ isCut: false }),
    unlink: set({ isUnlinked: true }),
    relink: set({ isUnlinked: false }),
    hang: set({ isHanging: true }),
    release: set({ isHanging: false }),
    loseAnswers(count = 1) {
      state.lostAnswers += count;
    },
    refuseSends(code, count = 1, retryAfterMs) {
      for (let index = 0; index < count; index++) state.refusals.push({ code, retryAfterMs });
    },
    loseAcks(count = 1) {
      state.lostAcks += count;
    },
    loseFile: (ref) => void state.files.delete(ref),
  };
}
