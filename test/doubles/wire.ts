/** What both doubles share: the people, signal-cli's message objects, and messages as the phone sees them. */
import type { Clock } from "../../src/clock.ts";
import type { Address, Chat, Millis, StyleRange } from "../../src/core/model.ts";

export type WirePerson = Address & { readonly name?: string };

export const me = { number: "+15550100001", aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", name: "Me" };
export const alice = { number: "+15550100002", aci: "b1a6c2f4-0d3e-4f5a-8c7b-9e1d2a3b4c5d", name: "Alice" };
/** Her number is hidden. */
export const carol = { number: null, aci: "0f9e8d7c-6b5a-4c3d-8e2f-1a0b9c8d7e6f", name: "Carol" };
export const groupId = "I/ikF3jXX5A3ygXVGxesR3UWsIQnfR5uzwFgxHaVZFs=";

/** A message of ours as it reached the phones. */
export type SentMessage = {
  readonly chat: Chat;
  readonly timestamp: Millis;
  readonly text: string;
  readonly styles: readonly StyleRange[];
  readonly quoteSentAt: Millis | null;
  readonly editOf: Millis | null;
  readonly reaction: { readonly emoji: string; readonly targetSentAt: Millis; readonly isRemove: boolean } | null;
  readonly files: readonly { readonly fileName: string; readonly contentType: string; readonly base64: string }[];
};

export type WireWrite = {
  readonly groupId?: string;
  readonly extra?: Readonly<Record<string, unknown>>;
};

/** Messages that people wrote: `make` returns one and its timestamp, which is never given twice. */
export function createWriter(clock: Clock, account: WirePerson) {
  let last = 0;
  const stamp = (): Millis => {
    last = Math.max(last + 1, clock.now());
    return last;
  };
  const data = (sentAt: Millis, text: string | null, { groupId: id, extra }: WireWrite) => ({
    timestamp: sentAt,
    message: text,
    expiresInSeconds: 0,
    isExpirationUpdate: false,
    viewOnce: false,
    ...(id === undefined
      ? {}
      : { groupInfo: { groupId: id, groupName: "Weekend Hike", revision: 7, type: "DELIVER" } }),
    ...extra,
  });
  const wrap = (from: WirePerson, sentAt: Millis, body: Readonly<Record<string, unknown>>) => ({
    envelope: {
      source: from.number ?? from.aci,
      sourceNumber: from.number,
      sourceUuid: from.aci,
      sourceName: from.name ?? null,
      sourceDevice: 1,
      timestamp: sentAt,
      serverReceivedTimestamp: sentAt + 180,
      serverDeliveredTimestamp: sentAt + 420,
      ...body,
    },
    account: account.number,
  });
  return {
    stamp,
    /** Our own account on its phone, to itself or to a group. */
    own(text: string, write: WireWrite = {}) {
      const sentAt = stamp();
      const isGroup = write.groupId !== undefined;
      const to = isGroup ? null : account;
      const sentMessage = {
        destination: to?.number ?? null,
        destinationNumber: to?.number ?? null,
        destinationUuid: to?.aci ?? null,
        ...data(sentAt, text, write),
      };
      return { sentAt, wire: wrap(account, sentAt, { syncMessage: { sentMessage } }) };
    },
    person(from: WirePerson, text: string | null, write: WireWrite = {}) {
      const sentAt = stamp();
      return { sentAt, wire: wrap(from, sentAt, { dataMessage: data(sentAt, text, write) }) };
    },
    typing(from: WirePerson) {
      const sentAt = stamp();
      return { sentAt, wire: wrap(from, sentAt, { typingMessage: { action: "STARTED", timestamp: sentAt } }) };
    },
  };
}

/** Wakes every waiter. `until` looks again after each ring. */
export function createBell() {
  let change = Promise.withResolvers<void>();
  const bell = {
    ring(): void {
      const { resolve } = change;
      change = Promise.withResolvers();
      resolve();
    },
    next: (): Promise<void> => change.promise,
    async until(isSo: () => boolean): Promise<void> {
      while (!isSo()) await change.promise;
    },
  };
  return bell;
}

/** Values in their order, with a promise for those still to come. */
export function createTape<T>() {
  const items: T[] = [];
  const bell = createBell();
  let taken = 0;
  return {
    items: items as readonly T[],
    push(item: T): void {
      items.push(item);
      bell.ring();
    },
    async next(): Promise<T> {
      const index = taken++;
      await bell.until(() => index < items.length);
      return items[index] as T;
    },
  };
}
