/**
 * The receive loop: poll, decide, commit, acknowledge.
 *
 *   transport.receive ─▶ core/inbound decides ─▶ ONE transaction: ratchet (persist) + inbox rows + counters ─▶ transport.ack
 *
 * A batch is acknowledged after its commit, and no other is polled before: with a full disk the batch is held and the commit tried
 * again, so that a transport which cannot redeliver loses nothing either.
 */
import { classify, inboxKey, type DropReason } from "../core/inbound.ts";
import type { Account, Envelope, Millis } from "../core/model.ts";
import { chatKey, textOf } from "../core/model.ts";
import { oneLine } from "../core/text.ts";
import { dayOf } from "../core/when.ts";
import type { Batch } from "../signal/transport.ts";
import { maskNumber } from "../log.ts";
import { accountsIn, noteAccount, noteName } from "../store/names.ts";
import { allAllowed, isFromOwner } from "../store/allowed.ts";
import { noteTimer } from "../store/retention.ts";
import type { Bridge } from "./bridge.ts";
import { tellOnce, tellOwner } from "./owner.ts";
import { untilWritten } from "./queue.ts";

/** The loop calls these for the state machine of the line and for `/health`. */
type ReceiveHooks = {
  /** A completed round trip, or the stream's keep-alive. */
  readonly onProof: () => void;
  /** New messages are in the inbox. */
  readonly onAccepted: () => void;
  /** The last commit failed (null: it works again). */
  readonly onStoreFault: (message: string | null) => void;
};

/** How long an idle poll waits: short enough for a clean stop, since a poll is never aborted. */
const pollMs: Millis = 5_000;
/** The first poll of a life is short, since CONNECTED waits for its proof. */
const firstPollMs: Millis = 500;

/** Polls until `signal` aborts (resolves) or the line is lost (throws BridgeError). */
export async function receiveLoop(bridge: Bridge & ReceiveHooks, account: Account, signal: AbortSignal): Promise<void> {
  const { transport } = bridge;
  for (let waitMs = firstPollMs; !signal.aborted;) {
    const batch = await transport.receive(waitMs, signal);
    if (batch.isProof) {
      // The proof is told before the commit: a full disk may hold the batch for so long that it proves nothing of the line any more.
      bridge.onProof();
      waitMs = pollMs;
    }
    const { notices = [] } = batch;
    if (batch.envelopes.length === 0 && batch.persist === null && notices.length === 0) {
      await transport.ack(batch, true);
      continue;
    }
    const accepted = await acceptBatch(bridge, account, { ...batch, notices }, signal);
    await transport.ack(batch, accepted !== null);
    if (accepted === null) return;
    announce(bridge, accepted);
  }
}

type Accepted = { readonly envelopes: readonly Envelope[]; readonly dropped: number };

/** Envelopes of one commit: other work waits little for a burst. `persist` is in the last: after a crash before it, all come anew. */
const partMax = 50;

/** Null where `signal` aborted before all was written. */
async function acceptBatch(
  bridge: Bridge & ReceiveHooks,
  account: Account,
  { envelopes, persist, notices = [] }: Batch,
  signal: AbortSignal,
): Promise<Accepted | null> {
  let all: Accepted = { envelopes: [], dropped: 0 };
  for (let from = 0; from === 0 || from < envelopes.length; from += partMax) {
    if (from > 0) await bridge.clock.sleep(0);
    const part = envelopes.slice(from, from + partMax);
    const accept = (): Accepted => {
      if (from + partMax >= envelopes.length) {
        persist?.();
        for (const { code, text } of notices) tellOwner(bridge, code, text);
      }
      return acceptAll(bridge, account, part);
    };
    const accepted = await untilWritten(bridge, "receive", signal, accept, bridge.onStoreFault);
    if (accepted === null) return null;
    all = { envelopes: [...all.envelopes, ...accepted.envelopes], dropped: all.dropped + accepted.dropped };
  }
  return all;
}

/** Part of the caller's transaction. */
function acceptAll(bridge: Bridge, account: Account, envelopes: readonly Envelope[]): Accepted {
  const { chats, config, log, store } = bridge;
  const { isSaid } = store.outbox;
  const accountOf = accountsIn(store.settings);
  const allow = allAllowed(config.allow, store.settings);
  const isByOwner = (envelope: Envelope): boolean => isFromOwner(envelope, config.allow, store.settings);
  const options = { account, allow, isByOwner, isGroupAlways: config.groupAlways, accountOf, isSaid };
  const accepted: Envelope[] = [];
  let dropped = 0;
  for (const envelope of envelopes) {
    const verdict = classify(envelope, options);
    if (verdict.kind === "ignore") log.debug("envelope ignored", { reason: verdict.reason });
    else if (verdict.kind === "drop") {
      dropped++;
      drop(bridge, envelope, verdict.reason);
    } else if (chats.receive(inboxKey(envelope, account), envelope, verdict) !== null) {
      accepted.push(envelope);
      noteName(store.settings, envelope);
      noteAccount(store.settings, envelope);
      if (envelope.chat) noteTimer(store.settings, chatKey(envelope.chat), textOf(envelope)?.expiresInSeconds ?? null);
    }
  }
  return { envelopes: accepted, dropped };
}

function drop(bridge: Bridge, envelope: Envelope, reason: DropReason): void {
  const { chat, content, source } = envelope;
  const { log } = bridge;
  const { counters } = bridge.store;
  counters.add({ dropped: 1 });
  if (reason === "number of another account" && source?.number) {
    log.warn("an allowed number belongs to another account now", { number: maskNumber(source.number) });
    tellOwner(bridge, `number ${source.number}`, changedHandsText(source.number, source.aci ?? ""));
  }
  if (reason === "not on the allow list") tellOfStranger(bridge, envelope);
  if (content.kind === "unknown") counters.add({ unknown: 1 });
  if (reason === "newer than this program" && chat) tellOnce(bridge, chat, `newer ${chatKey(chat)}`, newerText);
  if (content.kind === "undecryptable") {
    counters.add({ undecryptable: 1 });
    if (content.isIdentityChange) counters.add({ identityChanges: 1 });
    log.warn("a message could not be decrypted and may be missing", { code: content.code });
  }
  log.debug("envelope dropped", { reason });
}

/** Strangers that the owner is told of in a day, so that an account that many write to does not ring all the time. */
const strangersMax = 5;

/**
 * Tells the owner of an account of Claude's own once of a person who wrote to it, is known by name and may not ask, without what that
 * person wrote. On the owner's own account such a message is private traffic, so the owner is told nothing.
 */
function tellOfStranger(bridge: Bridge, { source, sourceName, chat, content }: Envelope): void {
  const { settings } = bridge.store;
  const [name, id] = [oneLine(sourceName, 40), source?.number ?? source?.aci ?? null];
  if (name === null || id === null || chat?.kind !== "direct" || content.kind !== "text") return;
  if (bridge.config.allow.some(({ kind }) => kind === "self")) return;
  const today = dayOf(bridge.clock.now(), "UTC");
  const known = settings.idsOf("refused");
  if (known.includes(id) || known.filter((one) => settings.get(`refused:${one}`) === today).length >= strangersMax)
    return;
  settings.set(`refused:${id}`, today);
  const text = `“${name}”, as they call themselves, wrote to this account and may not ask: nothing was answered or kept.`;
  tellOwner(bridge, `refused ${id}`, `${text} /allow ${id} lets them.`);
}

const newerText = "I cannot read that kind of message: it needs a newer signalman.";

const changedHandsText = (number: string, aci: string): string =>
  `${number} of the allow list belongs to another Signal account now; what it writes is not answered. If it is still the same person, put the account on the list: ${aci}`;

function announce(bridge: Bridge & ReceiveHooks, { envelopes, dropped }: Accepted): void {
  bridge.notices.emit("received", { accepted: envelopes.length, dropped, at: bridge.clock.now() });
  for (const envelope of envelopes) markRead(bridge, envelope);
  if (envelopes.length > 0) bridge.onAccepted();
}

/** Best effort; never rejects. */
function markRead({ config, transport }: Bridge, envelope: Envelope): void {
  const { kind } = envelope.content;
  if (config.readReceipts && transport.capabilities.readReceipts && (kind === "text" || kind === "edit"))
    void transport.markRead(envelope).catch(() => undefined);
}
