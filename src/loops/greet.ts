/** What signalman says of its own accord: a welcome after the first answer, and what waits after a long absence. Each once. */
import type { Envelope, Millis } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Bridge } from "./bridge.ts";

const welcome =
  "Welcome: write to Claude here as you would to a friend; pictures, PDFs and text files are fine, too.\n/help shows what else I understand.";

/** Greets whoever was answered for the first time, outside of groups: the answer comes first. Part of the caller's transaction. */
export function greet({ store, config, clock }: Bridge, { chat, source }: Envelope): void {
  const who = source?.aci ?? source?.number;
  if (!config.welcome || chat === null || chat.kind === "group" || who === undefined || who === null) return;
  const key = `welcomed:${who}`;
  if (store.settings.get(key) !== null) return;
  store.settings.set(key, String(clock.now()));
  store.outbox.add(key, chat, plainText(welcome), clock.now());
}

const minuteMs: Millis = 60_000;

/** Says in each chat where much, or something old, waits that it is answered now. The line has just come back. */
export function announceBacklog({ store, config, clock }: Bridge): void {
  const now = clock.now();
  for (const chatKey of store.inbox.openChats()) {
    const rows = store.inbox.openPrompts(chatKey).filter((row) => row.prompt.kind === "new");
    const [first] = rows;
    const newest = rows.at(-1)?.id ?? 0;
    const oldMs = Math.max(0, ...rows.map((row) => now - sentAt(row)));
    const key = `digest:${chatKey}`;
    const isWorthIt = rows.length > config.digestAfterMessages || oldMs > config.digestAfterMinutes * minuteMs;
    // Those that were announced already are not announced again where the line flaps.
    if (!first?.envelope.chat || !isWorthIt || first.id <= Number(store.settings.get(key) ?? 0)) continue;
    const count = rows.length === 1 ? "1 message" : `${rows.length} messages`;
    const text = `${count} waiting, the oldest ${age(oldMs)}: answering now; /skip to drop ${rows.length === 1 ? "it" : "them"}.`;
    const { chat } = first.envelope;
    store.db.transaction(() => {
      store.settings.set(key, String(newest));
      store.outbox.add(`${key}:${newest}`, chat, plainText(text), now);
    });
  }
}

/** The sender's clock may be ahead. */
const sentAt = ({ envelope, receivedAt }: InboxRow): Millis =>
  Math.min(receivedAt, envelope.serverAt ?? envelope.sentAt);

function age(ms: Millis): string {
  const minutes = Math.round(ms / minuteMs);
  if (minutes < 1) return "less than a minute";
  if (minutes < 120) return `${minutes} min`;
  return minutes < 2 * 24 * 60 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 60 / 24)} days`;
}
