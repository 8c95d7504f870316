/**
 * Shows a person that Claude is at work: the typing indicator, and a preview of a long answer, which is one message, edited now and
 * then, that ends as the answer (`store/drafts.ts`). All of it is best effort, and none of it ever delays an answer.
 */
import { chatKey, type Chat, type Millis, type Session, type SessionEvent } from "../core/model.ts";
import { toolLine } from "../core/question.ts";
import { isDraftDue, renderPreview, type DraftState } from "../core/reply.ts";
import type { Bridge } from "./bridge.ts";
import { attempt } from "./queue.ts";

/** The prompt that Claude works on, and its session. */
type AtWork = { readonly inboxId: number; readonly session: Session };

export type Live = ReturnType<typeof createLive>;

/** A peer shows the indicator for about 15 s. **Source:** signal-cli, man page of JSON-RPC, `sendTyping`. */
const typingRenewMs: Millis = 10_000;
/** A stop waits this long at most until the end of the indicator is sent. */
const typingEndMs: Millis = 2_000;
const cursorMark = " …";
/** Characters kept of a preview: no more than one message of it is ever shown. */
const previewKeptMax = 4_000;

export function createLive(bridge: Bridge) {
  const { clock, store, transport } = bridge;
  let work: AtWork | null = null;
  let typing: AbortController | null = null;
  let shown: Promise<void> = Promise.resolve();
  let draft = createDraft(bridge, null);

  const say = async (chat: Chat, isTyping: boolean): Promise<void> => {
    if (bridge.isConnected()) await transport.typing(chat, isTyping).catch(() => undefined);
  };
  const keepTyping = async (chat: Chat, stop: AbortSignal): Promise<void> => {
    while (!stop.aborted) {
      await say(chat, true);
      await clock.sleep(typingRenewMs, stop);
    }
    // A message that is on its way ends the indicator by itself.
    const next = attempt(bridge.log, "what goes out next is not known", () => store.outbox.head(chatKey(chat)));
    if (next?.body.kind !== "text") await say(chat, false);
  };
  const at = (next: AtWork | null): void => {
    if (next?.inboxId === work?.inboxId) return void (work = next);
    work = next;
    typing?.abort();
    typing = null;
    draft = createDraft(bridge, next);
    if (next === null || !transport.capabilities.typing) return;
    typing = new AbortController();
    shown = keepTyping(next.session.chat, typing.signal);
  };
  return {
    /** The caller names the prompt that Claude works on from now on; null for none. */
    at,
    /** The next piece of a reply. */
    text: (eventId: string, text: string): void => draft.text(eventId, text),
    events: (events: readonly SessionEvent[]): void =>
      work?.session.context["verbose"] === true ? undefined : draft.events(events),
    /** Resolves when the indicator is off, after a short time at the latest. */
    async end(): Promise<void> {
      at(null);
      const over = new AbortController();
      await Promise.race([shown.finally(() => over.abort()), clock.sleep(typingEndMs, over.signal)]);
    },
  };
}

function createDraft(bridge: Bridge, work: AtWork | null) {
  const { store, clock, config, transport } = bridge;
  let state: DraftState = { startedAt: clock.monotonic(), changedAt: null, changes: 0 };
  let preview = { eventId: "", text: "" };

  const show = (markdown: string): void => {
    if (work === null || !config.progress || !transport.capabilities.edits || !bridge.isConnected()) return;
    const now = clock.monotonic();
    if (markdown === "" || !isDraftDue(state, now)) return;
    const { text, styles } = renderPreview(markdown);
    const changes = store.db.transaction(() => {
      // A prompt that was answered or taken back meanwhile gets no preview.
      if (store.inbox.get(work.inboxId)?.state !== "open") return Infinity;
      bridge.chats.touch(work.session.chat);
      return store.drafts.addDraft(work.inboxId, work.session.chat, { text: text + cursorMark, styles }, clock.now());
    });
    state = { ...state, changedAt: now, changes: Math.max(state.changes + 1, changes) };
  };
  return {
    text(eventId: string, text: string): void {
      const before = preview.eventId === eventId ? preview.text : "";
      preview = { eventId, text: before.length > previewKeptMax ? before : before + text };
      show(preview.text.trim());
    },
    events(events: readonly SessionEvent[]): void {
      const use = events.findLast((event) => event.type === "tool_use");
      if (use?.type === "tool_use") show(toolLine(use));
    },
  };
}
