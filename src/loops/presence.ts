/** What a person sees happen to their own message: it is marked as read, a reaction says how it stands, and Claude is typing. */
import type { Chat, Envelope } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Bridge } from "./bridge.ts";

/** In the order in which they follow each other, and in which the setting names their emojis; a later one takes the place of an earlier one that is not sent yet. */
const standings = ["taken", "waiting", "done", "failed"] as const;
type Standing = (typeof standings)[number];

type Presence = Pick<Bridge, "config" | "store" | "transport" | "clock">;

const keyOf = ({ chat, source, sentAt }: Envelope): string =>
  `status:${chat ? chatKey(chat) : ""}|${source?.aci ?? source?.number ?? ""}|${sentAt}`;

/** Adds the reaction to the outbox, at most once per message and standing; part of the caller's transaction. */
export function show(bridge: Presence, envelope: Envelope, standing: Standing): void {
  const emoji = bridge.config.reactions[standings.indexOf(standing)];
  if (emoji) react(bridge, envelope, standing, emoji, false);
}

function react(bridge: Presence, envelope: Envelope, name: string, emoji: string, isRemove: boolean): void {
  const { store, transport, clock } = bridge;
  const { chat, source, content, sentAt } = envelope;
  if (chat === null || source === null || !transport.capabilities.reactions) return;
  const key = `${keyOf(envelope)}:${name}`;
  if (name !== standings[0]) store.outbox.supersedeAll(keyOf(envelope), clock.now(), key);
  // Signal's clients keep the reactions of an edited message at its first version.
  const targetSentAt = content.kind === "edit" ? content.targetSentAt : sentAt;
  store.outbox.add(key, chat, { kind: "reaction", emoji, targetAuthor: source, targetSentAt, isRemove }, clock.now());
}

/** Ends a prompt that is not going to be answered, with what was shown of it; `isGone`: the message itself is no more. */
export function cancel(bridge: Presence, { id, sessionId, envelope }: InboxRow, isGone: boolean): void {
  const { outbox, inbox } = bridge.store;
  const now = bridge.clock.now();
  const shown = standings.map((standing) => outbox.byKey(`${keyOf(envelope)}:${standing}`));
  const last = shown.findLast((row) => row !== null && row.state !== "failed")?.body;
  if (!isGone && last?.kind === "reaction") react(bridge, envelope, "cleared", last.emoji, true);
  if (sessionId !== null && envelope.chat && outbox.byKey(`draft:${id}`))
    outbox.endDraft(`stopped:${id}`, sessionId, envelope.chat, "(stopped)", now);
  inbox.finish(id, "cancelled", now);
}

/** Best effort; never rejects. */
export function markRead({ config, transport }: Presence, envelope: Envelope): void {
  const { kind } = envelope.content;
  if (config.readReceipts && transport.capabilities.readReceipts && (kind === "text" || kind === "edit"))
    void transport.markRead(envelope).catch(() => undefined);
}

/** A peer shows the indicator for about 15 s. **Source:** signal/SIGNAL-CLI.md section 3.7. */
const typingRenewMs = 10_000;
/** The end of the indicator is waited for, so that it is told before a stop; no longer than this. */
const typingEndMs = 2_000;

/** Runs `work` with the indicator on as soon as it says that Claude has begun. A failing indicator never disturbs the work. */
export async function whileTyping<T>(
  { transport, clock, isConnected }: Bridge,
  chat: Chat,
  work: (onBegun: () => void) => Promise<T>,
): Promise<T> {
  if (!transport.capabilities.typing) return work(() => undefined);
  const done = new AbortController();
  const say = async (isTyping: boolean): Promise<void> => {
    if (isConnected()) await transport.typing(chat, isTyping).catch(() => undefined);
  };
  let shown = Promise.resolve();
  const keep = async (): Promise<void> => {
    while (!done.signal.aborted) {
      await say(true);
      await clock.sleep(typingRenewMs, done.signal);
    }
    await say(false);
  };
  try {
    return await work(() => void (shown = keep()));
  } finally {
    done.abort();
    const over = new AbortController();
    await Promise.race([shown.finally(() => over.abort()), clock.sleep(typingEndMs, over.signal)]);
  }
}
