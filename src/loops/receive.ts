/**
 * The receive loop: poll, decide, commit, acknowledge.
 *
 *   transport.receive ─▶ core/inbound decides ─▶ ONE transaction: ratchet (persist) + inbox rows + counters ─▶ transport.ack
 *
 * Nothing is acknowledged that is not committed, and nothing else is polled while a batch waits for its commit: with a full
 * disk the batch is held and the commit tried again, so that a transport which cannot redeliver loses nothing either.
 */
import { toFault } from "../core/errors.ts";
import { decide, inboxKey, type Decision } from "../core/inbound.ts";
import type { Account, Envelope, Millis } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import { plainText } from "../core/reply.ts";
import type { InboxKind, InboxRow } from "../store/inbox.ts";
import { noteTimer } from "../store/retention.ts";
import type { Bridge } from "./bridge.ts";
import { untilWritten } from "./lanes.ts";
import { cancel, markRead, show } from "./presence.ts";
import { openQuestions } from "./questions.ts";

/** What the line and `/health` must hear. */
type Ears = {
  /** A completed round trip, or the stream's keep-alive. */
  readonly onProof: () => void;
  /** New messages are in the inbox. */
  readonly onAccepted: () => void;
  /** The last commit failed (null: it works again). */
  readonly onStoreFault: (message: string | null) => void;
};

/** How long an idle poll waits: short enough for a clean stop, since a poll is never aborted. */
const pollMs: Millis = 5_000;
/** CONNECTED waits for the first proof of a life. */
const firstPollMs: Millis = 500;

/** Polls until `signal` aborts (resolves) or the line is lost (throws BridgeError). */
export async function receiveLoop(bridge: Bridge & Ears, account: Account, signal: AbortSignal): Promise<void> {
  const { transport } = bridge;
  for (let waitMs = firstPollMs; !signal.aborted;) {
    const batch = await transport.receive(waitMs, signal);
    if (batch.isProof) {
      // Now, not after the commit: a batch that a full disk holds says nothing about the line as it is by then.
      bridge.onProof();
      waitMs = pollMs;
    }
    if (batch.envelopes.length === 0 && batch.persist === null) {
      await transport.ack(batch, true);
      continue;
    }
    const accept = (): Accepted => {
      batch.persist?.();
      return acceptAll(bridge, account, batch.envelopes);
    };
    const accepted = await untilWritten(bridge, "receive", signal, accept, bridge.onStoreFault);
    await transport.ack(batch, accepted !== null);
    if (accepted === null) return;
    announce(bridge, accepted);
  }
}

type Accepted = {
  readonly rows: { readonly chatKey: string; readonly kind: InboxKind; readonly envelope: Envelope }[];
  readonly withdrawn: { readonly chatKey: string; readonly id: number }[];
  dropped: number;
};

/** Part of the caller's transaction. */
function acceptAll(bridge: Bridge, account: Account, envelopes: readonly Envelope[]): Accepted {
  const { store } = bridge;
  const { inbox, settings } = store;
  const { allow, groupAlways: isGroupAlways, busy } = bridge.config;
  const accepted: Accepted = { rows: [], withdrawn: [], dropped: 0 };

  const accept = (envelope: Envelope, key: string, decision: Decision): void => {
    switch (decision.kind) {
      case "ignore":
        return bridge.log.debug("envelope ignored", { reason: decision.reason });
      case "drop":
        accepted.dropped++;
        return drop(bridge, envelope, decision.reason);
      case "hint":
        if (envelope.chat)
          store.outbox.add(
            `hint:${inboxKey(envelope, account)}`,
            envelope.chat,
            plainText(decision.text),
            bridge.clock.now(),
          );
        return;
      case "withdraw":
        return withdraw(sentBy(envelope, key, decision.targetSentAt), key, true);
      case "prompt":
      case "command":
      case "approval":
        if (!inbox.accept(inboxKey(envelope, account), decision.kind, envelope, bridge.clock.now())) return;
        const replaced = decision.replaces === null ? null : sentBy(envelope, key, decision.replaces);
        withdraw(replaced, key, true);
        // The question was that prompt's own, and went with it.
        if (decision.kind === "approval" && replaced?.state === "waiting") return;
        if (decision.kind === "prompt") {
          const atWork = busy === "interrupt" ? inbox.head(key) : null;
          // The prompt that Claude works on makes room; one that was not asked yet waits its turn.
          if (atWork?.prompt.kind !== "new") withdraw(atWork, key, false);
          show(bridge, envelope, "taken");
        }
        accepted.rows.push({ chatKey: key, kind: decision.kind, envelope });
        noteTimer(settings, key, textOf(envelope)?.expiresInSeconds ?? null);
    }
  };
  /** What the sender deletes or edits: where it still waits for its answer. */
  const sentBy = ({ source }: Envelope, key: string, sentAt: Millis): InboxRow | null => {
    const who = source?.aci ?? source?.number;
    return who ? inbox.findBySentAt(key, who, sentAt) : null;
  };
  const withdraw = (row: InboxRow | null, key: string, isGone: boolean): void => {
    if (row === null) return;
    cancel(bridge, row, isGone);
    accepted.withdrawn.push({ chatKey: key, id: row.id });
  };

  for (const envelope of envelopes) {
    const key = envelope.chat ? chatKey(envelope.chat) : "none";
    const questions = inbox.head(key)?.state === "waiting" ? openQuestions(bridge, key) : [];
    accept(envelope, key, decide(envelope, { account, allow, questions, isGroupAlways }));
  }
  return accepted;
}

function drop({ store: { settings }, log }: Bridge, { content }: Envelope, reason: string): void {
  settings.count("dropped");
  if (content.kind === "unknown") settings.count("unknown");
  if (content.kind === "undecryptable") {
    settings.count("undecryptable");
    if (content.isIdentityChange) settings.count("identityChanges");
    log.warn("a message could not be decrypted and may be missing", { code: content.code });
  }
  log.debug("envelope dropped", { reason });
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
  if (accepted.rows.length > 0) bridge.onAccepted();
  for (const { chatKey, kind } of accepted.rows) bridge.wake(kind === "prompt" ? "answer" : "control", chatKey);
  for (const { chatKey } of [...accepted.rows, ...accepted.withdrawn]) bridge.wake("send", chatKey);
}
