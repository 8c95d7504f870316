/**
 * The receive loop: poll, decide, commit, acknowledge.
 *
 *   transport.receive ─▶ core/inbound decides ─▶ ONE transaction: ratchet (persist) + inbox rows + counters ─▶ transport.ack
 *
 * Nothing is acknowledged that is not committed, and nothing else is polled while a batch waits for its commit: with a full
 * disk the batch is held and the commit tried again, so that a transport which cannot redeliver loses nothing either.
 */
import type { Clock, Random } from "../clock.ts";
import { backoffMs } from "../core/backoff.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { decide, inboxKey, type AllowRule, type Decision } from "../core/inbound.ts";
import type { Account, Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import type { Log } from "../log.ts";
import type { Batch, Transport } from "../signal/transport.ts";
import type { InboxKind } from "../store/inbox.ts";
import { noteTimer } from "../store/retention.ts";
import type { Store } from "../store/store.ts";
import type { NoticeBus } from "./notices.ts";
import type { Presence } from "./presence.ts";

export type ReceiveDeps = {
  readonly transport: Transport;
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly notices: NoticeBus;
  readonly allow: readonly AllowRule[];
  readonly isGroupAlways: boolean;
  readonly presence: Presence;
  /** A new prompt takes the place of the one at work. */
  readonly isInterrupting: boolean;
  /** A completed round trip, or the stream's keep-alive. */
  readonly onProof: () => void;
  /** There is something new in a chat. */
  readonly onAccepted: (chatKey: string, kind: InboxKind) => void;
  /** An edit or a deletion takes a prompt back; called after the commit. */
  readonly onWithdrawn: (chatKey: string, inboxId: number) => void;
  /** The last commit failed (null: it works again); for `/health`. */
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
export async function receiveLoop(deps: ReceiveDeps, account: Account, signal: AbortSignal): Promise<void> {
  let waitMs = firstPollMs;
  while (!signal.aborted) {
    const batch = await deps.transport.receive(waitMs, signal);
    // Now, not after the commit: a batch that a full disk holds says nothing about the line as it is by then.
    if (batch.isProof) deps.onProof();
    waitMs = pollMs;
    if (batch.envelopes.length > 0 || batch.persist !== null) {
      const accepted = await commit(deps, account, batch, signal);
      await deps.transport.ack(batch, accepted !== null);
      if (accepted === null) return;
      announce(deps, accepted);
    } else await deps.transport.ack(batch, true);
  }
}

/** Tries until it holds; null when we were stopped first. */
async function commit(
  deps: ReceiveDeps,
  account: Account,
  batch: Batch,
  signal: AbortSignal,
): Promise<Accepted | null> {
  for (let attempt = 1; ; attempt++) {
    try {
      const accepted = deps.store.db.transaction(() => {
        batch.persist?.();
        return acceptAll(deps, account, batch.envelopes);
      });
      if (attempt > 1) deps.onStoreFault(null);
      return accepted;
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      deps.onStoreFault(error.message);
      deps.log.error("inbox not writable", { ...toFault(error), attempt, held: batch.envelopes.length });
      if (signal.aborted) return null;
      await deps.clock.sleep(backoffMs({ attempt, jitter: deps.random(), retryAfterMs: null }), signal);
      if (signal.aborted) return null;
    }
  }
}

function acceptAll(deps: ReceiveDeps, account: Account, envelopes: readonly Envelope[]): Accepted {
  const accepted: Accepted = { rows: [], withdrawn: [], dropped: 0 };
  for (const envelope of envelopes) {
    const key = envelope.chat ? chatKey(envelope.chat) : "none";
    const isAsking = deps.store.inbox.head(key)?.state === "waiting";
    const decision = decide(envelope, { account, allow: deps.allow, isAsking, isGroupAlways: deps.isGroupAlways });
    accept(deps, account, envelope, key, decision, accepted);
  }
  return accepted;
}

function accept(
  deps: ReceiveDeps,
  account: Account,
  envelope: Envelope,
  key: string,
  decision: Decision,
  accepted: Accepted,
): void {
  const { inbox, settings } = deps.store;
  switch (decision.kind) {
    case "ignore":
      return deps.log.debug("envelope ignored", { reason: decision.reason });
    case "drop":
      accepted.dropped++;
      settings.count("dropped");
      if (envelope.content.kind === "unknown") settings.count("unknown");
      if (envelope.content.kind === "undecryptable") {
        settings.count("undecryptable");
        if (envelope.content.isIdentityChange) settings.count("identityChanges");
        deps.log.warn("a message could not be decrypted and may be missing", { code: envelope.content.code });
      }
      return deps.log.debug("envelope dropped", { reason: decision.reason });
    case "withdraw":
      return withdraw(deps, envelope, key, decision.targetSentAt, accepted);
    case "prompt":
      if (!inbox.accept(inboxKey(envelope, account), "prompt", envelope, deps.clock.now())) return;
      if (decision.replaces !== null) withdraw(deps, envelope, key, decision.replaces, accepted);
      if (deps.isInterrupting) interrupt(deps, key, accepted);
      deps.presence.show(envelope, "taken");
      return letIn(deps, envelope, key, "prompt", accepted);
    case "command":
    case "approval":
      if (inbox.accept(inboxKey(envelope, account), decision.kind, envelope, deps.clock.now()))
        letIn(deps, envelope, key, decision.kind, accepted);
      return;
  }
}

function letIn(deps: ReceiveDeps, envelope: Envelope, key: string, kind: InboxKind, accepted: Accepted): void {
  accepted.rows.push({ chatKey: key, kind, envelope });
  if (envelope.chat) noteTimer(deps.store.settings, key, textOf(envelope)?.expiresInSeconds ?? null);
}

/** The prompt that Claude works on makes room; one that was not asked yet waits its turn. */
function interrupt(deps: ReceiveDeps, key: string, accepted: Accepted): void {
  const row = deps.store.inbox.head(key);
  if (row === null || row.prompt.kind === "new") return;
  deps.presence.cancel(row, false);
  accepted.withdrawn.push({ chatKey: key, id: row.id });
}

/** The sender deleted or edited a message: if it still waits for its answer, it is cancelled. */
function withdraw(deps: ReceiveDeps, envelope: Envelope, key: string, sentAt: Millis, accepted: Accepted): void {
  const source = envelope.source?.aci ?? envelope.source?.number;
  if (!source) return;
  const row = deps.store.inbox.findBySentAt(key, source, sentAt);
  if (!row) return;
  deps.presence.cancel(row, true);
  accepted.withdrawn.push({ chatKey: key, id: row.id });
}

function announce(deps: ReceiveDeps, accepted: Accepted): void {
  deps.notices.emit("received", {
    accepted: accepted.rows.length,
    dropped: accepted.dropped,
    at: deps.clock.now(),
  });
  for (const { chatKey, id } of accepted.withdrawn) deps.onWithdrawn(chatKey, id);
  for (const { envelope } of accepted.rows) deps.presence.markRead(envelope);
  for (const { chatKey, kind } of accepted.rows) deps.onAccepted(chatKey, kind);
}
