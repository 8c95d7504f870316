/** What a person sees happen to their own message: it is marked as read, and a reaction says how it stands. */
import type { Clock } from "../clock.ts";
import type { Envelope } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { Transport } from "../signal/transport.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Store } from "../store/store.ts";

/** In the order in which they follow each other; a later one takes the place of an earlier one that is not sent yet. */
const standings = ["taken", "waiting", "done", "failed"] as const;
export type Standing = (typeof standings)[number];

export interface Presence {
  /** Adds the reaction to the outbox, at most once per message and standing; part of the caller's transaction. */
  show(envelope: Envelope, standing: Standing): void;
  /** Ends a prompt that is not going to be answered, with what was shown of it; `isGone`: the message itself is no more. */
  cancel(row: InboxRow, isGone: boolean): void;
  /** Best effort; never rejects. */
  markRead(envelope: Envelope): void;
}

export type PresenceDeps = {
  readonly transport: Transport;
  readonly store: Store;
  readonly clock: Clock;
  /** Emojis by the order of the standings; null or missing shows nothing. */
  readonly reactions: readonly (string | null)[];
  readonly isReceiptSent: boolean;
};

export function createPresence({ transport, store, clock, reactions, isReceiptSent }: PresenceDeps): Presence {
  const keyOf = ({ chat, source, sentAt }: Envelope): string =>
    `status:${chat ? chatKey(chat) : ""}|${source?.aci ?? source?.number ?? ""}|${sentAt}`;
  const react = (envelope: Envelope, name: string, emoji: string, isRemove: boolean): void => {
    const { chat, source, content, sentAt } = envelope;
    if (chat === null || source === null || !transport.capabilities.reactions) return;
    const now = clock.now();
    const key = `${keyOf(envelope)}:${name}`;
    if (name !== standings[0]) store.outbox.supersedeAll(keyOf(envelope), now, key);
    // Signal's clients keep the reactions of an edited message at its first version.
    const targetSentAt = content.kind === "edit" ? content.targetSentAt : sentAt;
    const body = { kind: "reaction", emoji, targetAuthor: source, targetSentAt, isRemove } as const;
    store.outbox.add(key, chat, body, now);
  };
  const sentOf = (envelope: Envelope): string | null => {
    const shown = standings.map((standing) => store.outbox.byKey(`${keyOf(envelope)}:${standing}`));
    const last = shown.findLast((row) => row !== null && row.state !== "failed");
    return last?.body.kind === "reaction" ? last.body.emoji : null;
  };
  return {
    show(envelope, standing) {
      const emoji = reactions[standings.indexOf(standing)];
      if (emoji) react(envelope, standing, emoji, false);
    },
    cancel({ id, sessionId, envelope }, isGone) {
      const emoji = isGone ? null : sentOf(envelope);
      if (emoji !== null) react(envelope, "cleared", emoji, true);
      if (sessionId !== null && envelope.chat && store.outbox.byKey(`draft:${id}`) && store.outbox.openDraft(sessionId))
        store.outbox.addAnswer(`stopped:${id}`, sessionId, envelope.chat, plainText("(stopped)"), clock.now());
      store.inbox.finish(id, "cancelled", clock.now());
    },
    markRead(envelope) {
      const { kind } = envelope.content;
      if (isReceiptSent && transport.capabilities.readReceipts && (kind === "text" || kind === "edit"))
        void transport.markRead(envelope).catch(() => undefined);
    },
  };
}
