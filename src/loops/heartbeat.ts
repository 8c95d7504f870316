/** Work that time alone sets off: ticks, housekeeping, reminders, and a new connect after sleep or on a new network. */
import type { Chat, Millis } from "../core/model.ts";
import type { Bridge } from "./bridge.ts";
import type { Checkup } from "./checkup.ts";
import type { ConnectionLoop } from "./connector.ts";
import { attempt, type OnFault } from "./queue.ts";
import { pruneMax } from "../store/retention.ts";
import { deliverDue } from "./due.ts";

const tickMs: Millis = 1_000;
/** A gap this much larger than a tick means that the machine slept, or that its clock was set. */
const gapMs: Millis = 10_000;
const minuteMs: Millis = 60_000;
const hourMs: Millis = 3_600_000;
const dayMs: Millis = 24 * hourMs;
/** A clock that leaps ahead by more is wrong, or this machine was off: rows that are old by it are pruned a day later, if still old. */
const leapMs: Millis = 7 * dayMs;

const postponed = "housekeeping postponed";

type Hooks = {
  readonly networkKey: () => string;
  readonly wakeAll: () => void;
  readonly onStoreFault: OnFault;
  readonly checkup: Checkup;
  /** Removes files that are of no use any more. */
  readonly tidy: () => Promise<void>;
};

/**
 * Beats until `stop` aborts. `networkKey` tells one network from another; a change reconnects at once. Once a minute something is
 * written, so that a database which refuses it is known (`onStoreFault`) before the next message comes.
 */
export async function beat(bridge: Bridge & Hooks, { dispatch }: ConnectionLoop, stop: AbortSignal): Promise<void> {
  const { config, clock, log, store, networkKey, wakeAll, onStoreFault, checkup, tidy } = bridge;
  const expire = createExpiry(bridge);
  const every = (ms: Millis): (() => boolean) => {
    let at = clock.monotonic();
    return () => {
      const isDue = clock.monotonic() - at >= ms;
      if (isDue) at = clock.monotonic();
      return isDue;
    };
  };
  const [isMinute, isHour, isDay] = [every(minuteMs), every(hourMs), every(dayMs)];
  let last = clock.now();
  let lastTickAt = clock.monotonic();
  let trustedAt = clock.monotonic();
  const prune = async (): Promise<void> => {
    const before = clock.now() - config.limits.retentionDays * dayMs;
    const isMore = (): boolean =>
      clock.monotonic() >= trustedAt && (attempt(log, postponed, () => store.prune(before)) ?? 0) >= pruneMax;
    while (!stop.aborted && isMore()) await clock.sleep(0);
    await tidy();
  };
  const aliveAt = attempt(log, postponed, () => Number(store.settings.get("alive_at") ?? last)) ?? last;
  if (last - aliveAt > leapMs) trustedAt += dayMs;
  let network = networkKey();
  let checking = checkup.run(stop);
  await prune();
  for (;;) {
    await clock.sleep(tickMs, stop);
    if (stop.aborted) return checking;
    const [now, at] = [clock.now(), clock.monotonic()];
    if (Math.abs(now - last - tickMs) > gapMs) {
      dispatch({ type: "woke", sleptMs: Math.max(0, at - lastTickAt - tickMs) });
      wakeAll();
    }
    if (now - last > leapMs) trustedAt = at + dayMs;
    [last, lastTickAt] = [now, at];
    const key = networkKey();
    if (key !== network) dispatch({ type: "networkChanged" });
    network = key;
    const isKept = isMinute();
    const keep = (): void => {
      store.forget(now);
      store.db.transaction(() => {
        store.settings.set("alive_at", String(now));
        store.generation.advance();
      });
      expire();
    };
    if (isKept) attempt(log, postponed, keep, onStoreFault);
    // `isDue` looks at the files at each tick: over a minute with a checkpoint of ours in it they do not tell who wrote them.
    const isSuspect = checkup.isDue();
    if ((isKept && isSuspect) || isDay()) checking = checking.then(() => checkup.run(stop));
    if (isHour()) await prune();
    await deliverDue(bridge);
    dispatch({ type: "tick" });
  }
}

/** A prompt is slow this long after it was first seen at work; as `beat` looks once a minute, the person hears within five. */
const slowMs: Millis = 3 * minuteMs;

/**
 * Expires questions: one without an answer for `approvalMinutes` counts as a no, for half of that it is repeated once; a prompt at
 * work for `slowMs` gets a notice. The clock tells how old a question was when this process first saw it; from then on its time is
 * monotonic.
 */
function createExpiry({ store, chats, clock, config, account, log, isConnected }: Bridge): () => void {
  const seen = new Map<string, Millis>();
  return () => {
    if (account() === null) return;
    const limitMs = config.approvalMinutes * minuteMs;
    const present = new Set<string>();
    const expireIn = (chat: Chat | null | undefined): void => {
      if (!chat) return;
      const { asks, head } = chats.viewOf(chat);
      const age = (id: string, times: readonly Millis[]): Millis => {
        const now = clock.now();
        const since = seen.get(id) ?? clock.monotonic() - (now - Math.min(now, ...times));
        seen.set(id, since);
        present.add(id);
        return clock.monotonic() - since;
      };
      const aged = asks
        .filter(({ question }) => question !== null)
        .map(({ use: { id }, shown }) => ({
          id,
          ms: age(
            id,
            shown.flatMap(({ at }) => at ?? []),
          ),
        }));
      for (const isLast of [true, false]) {
        const askIds = aged
          .filter(({ ms }) => (isLast ? ms >= limitMs : ms >= limitMs / 2 && ms < limitMs))
          .map(({ id }) => id);
        if (askIds.length > 0) chats.settle(chat, { type: "expired", askIds, isLast });
      }
      for (const { id, post } of head.slice(0, 1)) {
        const isAtWork = post?.state === "posted" || post?.state === "posting";
        if (isAtWork && age(`prompt ${id}`, []) >= slowMs && isConnected()) chats.settle(chat, { type: "slow", id });
      }
    };
    for (const key of store.inbox.openChats())
      attempt(log, postponed, () => expireIn(store.inbox.head(key)[0]?.envelope.chat));
    // A turn of another device asks here without an open message in the inbox.
    for (const id of store.calls.askedSessions()) attempt(log, postponed, () => expireIn(store.sessions.get(id)?.chat));
    for (const id of seen.keys()) if (!present.has(id)) seen.delete(id);
  };
}
