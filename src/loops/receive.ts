/**
 * The receive loop: poll, decide, commit, acknowledge.
 *
 *   transport.receive ─▶ core/inbound decides ─▶ ONE transaction: ratchet (persist) + inbox rows + counters ─▶ transport.ack
 *
 * Nothing is acknowledged that is not committed, and nothing else is polled while a batch waits for its commit: with a full
 * disk the batch is held and the commit tried again, so that a transport which cannot redeliver loses nothing either.
 */
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { decide, inboxKey, type Decision } from "../core/inbound.ts";
import type { Account, Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import type { Batch } from "../signal/transport.ts";
import type { InboxKind } from "../store/inbox.ts";
import { noteTimer } from "../store/retention.ts";
import type { Bridge } from "./bridge.ts";
import { cancel, markRead, show } from "./presence.ts";

/** What the line and `/health` must hear. */
type Ears = {
  /** A completed round trip, or the stream's keep-alive. */
  readonly onProof: () => void;
  /** The last commit failed (null: it works again). */
  readonly onStoreFault: (message: string | null) => void;
};

type Accepted = {
  readonly rows: { readonly chatKey: string; readonly kind: InboxKind; readonly envelope: Envelope }[];
  readonly withdrawn: { chatKey: string; id: number }[];
  dropped: number;
};

/** How long an idle poll waits: short enough for a clean stop, since a poll is never aborted. */
const pollMs: Millis = 5_000;
/** The first poll of a life is the proof that CONNECTED waits for. */
const firstPollMs: Millis = 500;

/** Polls until `signal` aborts (resolves) or the line is lost (throws BridgeError). */
export async function receiveLoop(bridge: Bridge & Ears, account: Account, signal: AbortSignal): Promise<void> {
  let waitMs = firstPollMs;
  while (!signal.aborted) {
    const batch = await bridge.transport.receive(waitMs, signal);
    // Now, not after the commit: a batch that a full disk holds says nothing about the line as it is by then.
    if (batch.isProof) bridge.onProof();
    waitMs = pollMs;
    if (batch.envelopes.length > 0 || batch.persist !== null) {
      const accepted = await commit(bridge, account, batch, signal);
      await bridge.transport.ack(batch, accepted !== null);
      if (accepted === null) return;
      announce(bridge, accepted);
    } else await bridge.transport.ack(batch, true);
  }
}

/** Tries until it holds; null when we were stopped first. */
async function commit(
  bridge: Bridge & Ears,
  account: Account,
  batch: Batch,
  signal: AbortSignal,
): Promise<Accepted | null> {
  for (let attempt = 1; ; attempt++) {
    try {
      const accepted = bridge.store.db.transaction(() => {
        batch.persist?.();
        return acceptAll(bridge, account, batch.envelopes);
      });
      if (attempt > 1) bridge.onStoreFault(null);
      return accepted;
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      bridge.onStoreFault(error.message);
      bridge.log.error("inbox not writable", { ...toFault(error), attempt, held: batch.envelopes.length });
      if (signal.aborted) return null;
      await bridge.clock.sleep(backoffMs({ attempt, jitter: bridge.random(), retryAfterMs: null }), signal);
      if (signal.aborted) return null;
    }
  }
}

function acceptAll(bridge: Bridge & Ears, account: Account, envelopes: readonly Envelope[]): Accepted {
  const { allow, groupAlways } = bridge.config;
  const accepted: Accepted = { rows: [], withdrawn: [], dropped: 0 };
  for (const envelope of envelopes) {
    const key = envelope.chat ? chatKey(envelope.chat) : "none";
    const isAsking = bridge.store.inbox.head(key)?.state === "waiting";
    const decision = decide(envelope, { account, allow, isAsking, isGroupAlways: groupAlways });
    accept(bridge, account, envelope, key, decision, accepted);
  }
  return accepted;
}

function accept(
  bridge: Bridge & Ears,
  account: Account,
  envelope: Envelope,
  key: string,
  decision: Decision,
  accepted: Accepted,
): void {
  const { inbox, settings } = bridge.store;
  switch (decision.kind) {
    case "ignore":
      return bridge.log.debug("envelope ignored", { reason: decision.reason });
    case "drop":
      accepted.dropped++;
      settings.count("dropped");
      if (envelope.content.kind === "unknown") settings.count("unknown");
      if (envelope.content.kind === "undecryptable") {
        settings.count("undecryptable");
        if (envelope.content.isIdentityChange) settings.count("identityChanges");
        bridge.log.warn("a message could not be decrypted and may be missing", { code: envelope.content.code });
      }
      return bridge.log.debug("envelope dropped", { reason: decision.reason });
    case "withdraw":
      return withdraw(bridge, envelope, key, decision.targetSentAt, accepted);
    case "prompt":
      if (!inbox.accept(inboxKey(envelope, account), "prompt", envelope, bridge.clock.now())) return;
      if (decision.replaces !== null) withdraw(bridge, envelope, key, decision.replaces, accepted);
      if (bridge.config.busy === "interrupt") interrupt(bridge, key, accepted);
      show(bridge, envelope, "taken");
      return letIn(bridge, envelope, key, "prompt", accepted);
    case "command":
    case "approval":
      if (inbox.accept(inboxKey(envelope, account), decision.kind, envelope, bridge.clock.now()))
        letIn(bridge, envelope, key, decision.kind, accepted);
      return;
  }
}

function letIn(bridge: Bridge & Ears, envelope: Envelope, key: string, kind: InboxKind, accepted: Accepted): void {
  accepted.rows.push({ chatKey: key, kind, envelope });
  if (envelope.chat) noteTimer(bridge.store.settings, key, textOf(envelope)?.expiresInSeconds ?? null);
}

/** The prompt that Claude works on makes room; one that was not asked yet waits its turn. */
function interrupt(bridge: Bridge & Ears, key: string, accepted: Accepted): void {
  const row = bridge.store.inbox.head(key);
  if (row === null || row.prompt.kind === "new") return;
  cancel(bridge, row, false);
  accepted.withdrawn.push({ chatKey: key, id: row.id });
}

/** The sender deleted or edited a message: if it still waits for its answer, it is cancelled. */
function withdraw(bridge: Bridge & Ears, envelope: Envelope, key: string, sentAt: Millis, accepted: Accepted): void {
  const source = envelope.source?.aci ?? envelope.source?.number;
  if (!source) return;
  const row = bridge.store.inbox.findBySentAt(key, source, sentAt);
  if (!row) return;
  cancel(bridge, row, true);
  accepted.withdrawn.push({ chatKey: key, id: row.id });
}

function announce(bridge: Bridge & Ears, accepted: Accepted): void {
  bridge.notices.emit("received", {
    accepted: accepted.rows.length,
    dropped: accepted.dropped,
    at: bridge.clock.now(),
  });
  for (const { chatKey, id } of accepted.withdrawn)
    bridge
      .interrupt(chatKey, [id])
      .catch((error: unknown) => bridge.log.warn("could not interrupt; the next sync sees to it", toFault(error)));
  for (const { envelope } of accepted.rows) markRead(bridge, envelope);
  for (const { chatKey, kind } of accepted.rows) bridge.wake(kind === "prompt" ? "answer" : "control", chatKey);
  for (const { chatKey } of [...accepted.rows, ...accepted.withdrawn]) bridge.wake("send", chatKey);
}
