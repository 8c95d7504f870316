/** Decisions over a real database, without the loops: facts are handed in, and rows are looked at. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Change, Fact, View } from "../../src/core/changes.ts";
import { classify, inboxKey } from "../../src/core/inbound.ts";
import type { Account, Chat, Content, Envelope, SessionEvent, TextContent } from "../../src/core/model.ts";
import { wordsOnly } from "../../src/core/model.ts";
import { createChats, type Chats } from "../../src/store/apply.ts";
import type { Surroundings } from "../../src/store/view.ts";
import { openStore, type Store } from "../../src/store/store.ts";

export const self: Chat = { kind: "self" };
export const owner: Account = { aci: "7d3c1e90-5b0f-4c43-9a7e-2f6b8d1c0a11", number: "+15550100001", deviceId: 2 };

export const textContent = (text: string, more: Partial<TextContent> = {}): TextContent => ({
  ...wordsOnly(text),
  ...more,
});

export const noteOf = (content: Content | string, sentAt: number, more: Partial<Envelope> = {}): Envelope => ({
  source: { aci: owner.aci, number: owner.number },
  sourceDevice: 1,
  sentAt,
  serverAt: null,
  chat: self,
  isOwn: true,
  sourceName: "Me",
  content: typeof content === "string" ? textContent(content) : content,
  ...more,
});

export type ChatRig = {
  readonly store: Store;
  readonly chats: Chats;
  /** The time that decisions are told. */
  now: number;
  /** What was touched with each commit, oldest first. */
  readonly touched: (readonly [chatKey: string, sessionIds: readonly string[]])[];
  /** As the receive loop takes an envelope from a listed sender in; resolves to the row, null for none. */
  take(envelope: Envelope): number | null;
  say(text: string, sentAt?: number): number;
  log(events: readonly SessionEvent[], sessionId?: string): readonly Change[];
  settle(fact: Fact): readonly Change[];
  view(): View;
  /** The post of the prompt, as it goes out and as its echo comes: in the log as this entry. */
  post(inboxId: number, eventId: string): void;
  /** What is to be read on the phone, oldest first. */
  texts(): string[];
  /** As `why:subject:part`, oldest first. */
  names(): string[];
  /** The process dies and comes back. */
  restart(): Promise<void>;
  close(): void;
};

/** @param prepare puts a database there before it is opened */
export async function createChatRig(
  more: Partial<Surroundings> = {},
  prepare?: (file: string) => Promise<void>,
): Promise<ChatRig> {
  const home = mkdtempSync(join(tmpdir(), "signalman-chat-"));
  await prepare?.(join(home, "signalman.db"));
  const open = async (): Promise<Store> => {
    const store = await openStore(home, { isExclusive: false });
    store.db.exec("PRAGMA synchronous = OFF");
    return store;
  };
  let store = await open();
  let sessions = 0;
  const touched: ChatRig["touched"] = [];
  const guests = { isOwner: () => true, isOwnAccount: true, find: () => null, list: () => [] };
  const models = { models: () => [], defaultModel: "claude-test", defaultEffort: "medium", isModelFixed: true };
  const look = { guests, ...models, privacy: "" };
  const world: Surroundings = {
    account: () => owner,
    now: () => rig.now,
    random: () => 0.5,
    isAskedAnew: false,
    newId: () => `s${++sessions}`,
    backend: "scripted",
    stamp: (stamps, key) => ({ ...stamps, [key]: `${rig.now}` }),
    emojiOf: (stage) => ({ taken: "👀", waiting: "⏳", done: "✅", failed: "⚠️", cleared: null })[stage],
    hasOwnTimestamps: true,
    skewMs: () => 0,
    isSendReady: () => false,
    isWelcoming: false,
    spendLimitCents: null,
    timeZone: "UTC",
    isOwner: () => true,
    project: () => null,
    mayAlways: () => false,
    grantEdits: () => undefined,
    onDropped: () => undefined,
    onOwe: () => undefined,
    look: { ...look, situation: () => "Signal: connected", projects: () => [], granted: () => [] },
    isChecked: true,
    onTouched: (chatKey, sessionIds) => void touched.push([chatKey, sessionIds]),
    onOwed: () => undefined,
    onFiles: () => undefined,
    ...more,
  };
  let chats = createChats(store, world);
  const rig: ChatRig = {
    get store() {
      return store;
    },
    get chats() {
      return chats;
    },
    now: 1_786_953_600_000,
    touched,
    take(envelope) {
      const allow = [{ kind: "self" }, { kind: "aci", aci: envelope.source?.aci ?? "" }] as const;
      const verdict = classify(envelope, { account: owner, allow, isGroupAlways: true });
      if (verdict.kind === "withdraw" && envelope.chat)
        chats.settle(envelope.chat, { type: "received", id: 0, envelope, verdict });
      return chats.receive(inboxKey(envelope, owner), envelope, verdict);
    },
    say(text, sentAt = ++rig.now) {
      const id = rig.take(noteOf(text, sentAt));
      if (id === null) throw new Error("It was not taken");
      return id;
    },
    log(events, sessionId) {
      const session = sessionId === undefined ? store.sessions.active("self") : store.sessions.get(sessionId);
      if (session === null) throw new Error("There is no session");
      return chats.log(session.id, events);
    },
    settle: (fact) => chats.settle(self, fact),
    view: () => chats.viewOf(self),
    post(inboxId, eventId) {
      const post = store.posts.ofPrompt(inboxId);
      const session = post && store.sessions.get(post.sessionId);
      if (!session) throw new Error("Nothing of it is to be posted");
      store.posts.markPosting(post.id, rig.now, null);
      chats.log(
        session.id,
        [{ id: eventId, at: ++rig.now, type: "prompt", text: "asked" }],
        [{ id: post.id, eventId }],
      );
    },
    texts: () =>
      store.db
        .all<{ text: string | null }>(
          "SELECT body ->> '$.text' AS text FROM outbox WHERE state <> 'failed' ORDER BY id",
        )
        .flatMap(({ text }) => (text === null || text === "" ? [] : [text])),
    names: () =>
      store.db
        .all<{ name: string }>(
          "SELECT why || ':' || iif(session_id = '', '', session_id || ':') || subject || ':' || part AS name FROM outbox ORDER BY id",
        )
        .map(({ name }) => name),
    async restart() {
      store.close();
      store = await open();
      chats = createChats(store, world);
      store.outbox.recover();
      chats.tellAll({ type: "started" });
    },
    close() {
      store.close();
      rmSync(home, { recursive: true });
    },
  };
  return rig;
}
