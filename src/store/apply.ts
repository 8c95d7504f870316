/**
 * Writes what a decision says, in the transaction of the fact that caused it; and wakes the queues of what it touched once that has
 * been committed. Only `core/chat.ts` chooses, only this file writes.
 *
 *   fact ─▶ ONE transaction: the fact's own rows ─▶ view ─▶ decide ─▶ changes as rows ─▶ commit ─▶ wake
 */
import { askSubject, checkChat, decide } from "../core/chat.ts";
import type { Ask, Change, Fact, Look, Post, Prompt, Stage, View } from "../core/changes.ts";
import { conversationsMax } from "../core/execute.ts";
import type {
  Account,
  Chat,
  Context,
  Envelope,
  JsonValue,
  Millis,
  Session,
  SessionEvent,
  Stamps,
} from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { nameOf, transcriptOf, untitled } from "../core/conversation.ts";
import { plainText } from "../core/reply.ts";
import { textOf } from "../core/prompt.ts";
import { personOf } from "../core/spend.ts";
import { forgetChat, forgetSession, lastingKeys } from "./forgetting.ts";
import { setAllowed } from "./allowed.ts";
import type { InboxRow } from "./inbox.ts";
import type { PostRow } from "./posts.ts";
import { noteUsage, spendOf, usedBy } from "./spending.ts";
import type { Store } from "./store.ts";

/** What a decision needs to know of the world outside of the database. */
export type Surroundings = {
  readonly account: () => Account | null;
  readonly now: () => Millis;
  readonly random: () => number;
  /** The conversation is kept here: an answer that breaks off can only be asked for again, and is paid for again. */
  readonly isAskedAnew: boolean;
  readonly newId: () => string;
  readonly backend: string;
  /** The next stamp of a key that is set here. */
  readonly stamp: (stamps: Stamps, key: string) => Stamps;
  /** What a message of a person is marked with; null for no mark. */
  readonly emojiOf: (stage: Stage) => string | null;
  /** A message's timestamp here is its identity on Signal. */
  readonly hasOwnTimestamps: boolean;
  readonly isWelcoming: boolean;
  /** What a person's questions may cost in a day, in US cents; null without a limit. */
  readonly spendLimitCents: number | null;
  /** Days end at midnight there. */
  readonly timeZone: string;
  readonly look: Pick<Look, "guests" | "models" | "defaultModel" | "defaultEffort" | "isModelFixed" | "situation">;
  /** Asserts what must hold after each decision: in tests and simulation. */
  readonly isChecked: boolean;
  /** Rows of this chat, or posts of these sessions, were written and committed. */
  readonly onTouched: (chatKey: string, sessionIds: readonly string[]) => void;
};

export type Chats = ReturnType<typeof createChats>;

export function createChats(store: Store, world: Surroundings) {
  const viewOf = createView(store, world);
  const apply = createApply(store, world);
  /** Part of the caller's transaction, if there is one. */
  const settle = (chat: Chat, fact: Fact): readonly Change[] =>
    store.db.transaction(() => {
      const changes = decide(viewOf(chat, fact.type === "received" ? fact.id : 0), fact);
      const sessionIds = apply(chat, changes);
      if (
        fact.type === "received" &&
        fact.id > 0 &&
        !changes.some((change) => change.do === "open" && change.id === fact.id)
      )
        store.inbox.finish(fact.id, "answered", world.now());
      if (world.isChecked) checkChat(viewOf(chat));
      const key = chatKey(chat);
      if (changes.length > 0) store.db.afterCommit(() => world.onTouched(key, sessionIds));
      return changes;
    });
  return {
    settle,
    /** Rows of this chat are written in the transaction at work. */
    touch: (chat: Chat): void => store.db.afterCommit(() => world.onTouched(chatKey(chat), [])),
    /** Entries of a log, with the posts that turned out to be among them. */
    log(
      session: Session,
      events: readonly SessionEvent[],
      posted: readonly { readonly id: number; readonly eventId: string | null }[] = [],
    ): readonly Change[] {
      return store.db.transaction(() => {
        for (const { id, eventId } of posted) store.posts.markPosted(id, eventId);
        const present = store.sessions.get(session.id) ?? session;
        const added = store.log.apply(present, events, world.now());
        store.files.note(session.id, added);
        noteUsage(store, world, present, added);
        return settle(session.chat, { type: "logged", session: present, events: added });
      });
    },
    /** An allowed message; null where it is there already. */
    receive(key: string, envelope: Envelope, verdict: Extract<Fact, { type: "received" }>["verdict"]): number | null {
      const kind = verdict.kind === "hint" ? "command" : verdict.kind;
      if (envelope.chat === null || (kind !== "prompt" && kind !== "command" && kind !== "answer")) return null;
      const id = store.inbox.accept(key, kind, envelope, world.now());
      if (id === null) return null;
      settle(envelope.chat, { type: "received", id, envelope, verdict });
      return id;
    },
    /** Tells every chat in which something is open. */
    tellAll(fact: Extract<Fact, { type: "started" | "back" | "setBack" }>): void {
      for (const key of store.inbox.openChats()) {
        const chat = store.inbox.head(key)[0]?.envelope.chat;
        if (chat) settle(chat, fact);
      }
    },
    viewOf,
  };
}

const toPrompt = ({ id, envelope, versions, told, receivedAt }: InboxRow, post: Post | null): Prompt => ({
  id,
  envelope,
  versions,
  told,
  receivedAt,
  post,
});

function createView(store: Store, world: Surroundings) {
  const { inbox, posts, sessions, log, outbox, settings } = store;
  const asksOf = (session: Session): Ask[] => {
    const { uses, isWaiting } = log.open(session.id);
    if (!isWaiting) return [];
    return uses.flatMap((use) => {
      const subject = askSubject({ session }, use.id);
      if (!use.isAsk || posts.isConfirmed(subject)) return [];
      const rows = [...outbox.of("ask", subject), ...outbox.of("reminder", subject)];
      const shown = rows.map(({ state, timestamp, signalTimestamp, sendingAt }) => ({
        sentAt: signalTimestamp ?? (world.hasOwnTimestamps ? timestamp : null),
        at: state === "sent" ? sendingAt : null,
      }));
      return [{ use, shown, isSaid: rows.length > 0 }];
    });
  };
  /** `exceptId`: a row that is being decided on, and is open for now. */
  return (chat: Chat, exceptId = 0): View => {
    const key = chatKey(chat);
    const account = world.account();
    // A decision is made for what has arrived, and nothing arrives before it is known who we are.
    if (account === null) throw new Error("A decision needs the account");
    const active = sessions.active(key);
    const session = active?.backend === world.backend ? active : null;
    const rows = inbox.head(key, exceptId);
    const post: PostRow | null = rows[0] ? posts.ofPrompt(rows[0].id) : null;
    const open = post && log.open(post.sessionId);
    return {
      chat,
      account,
      now: world.now(),
      jitter: world.random(),
      session,
      head: rows.map((row, index) => toPrompt(row, index === 0 ? post : null)),
      prompts: () => inbox.openPrompts(key, exceptId).map((row) => toPrompt(row, posts.ofPrompt(row.id))),
      isAskedAnew: world.isAskedAnew,
      turn: post?.eventId ? log.turn(post.sessionId, post.eventId) : null,
      asks: session ? asksOf(session) : [],
      granted: session ? (JSON.parse(settings.get(`granted:${session.id}`) ?? "[]") as string[]) : [],
      lastError: open?.error ? { code: open.error.code, isTerminal: open.error.retry === "terminal" } : null,
      hasReply: () => post !== null && post.eventId !== null && log.hasReplySince(post.sessionId, post.eventId),
      isWelcome: ({ chat, source }) =>
        !world.isWelcoming ||
        chat?.kind === "group" ||
        settings.get(`welcomed:${source?.aci ?? source?.number}`) !== null,
      announcedUpTo: () => Number(settings.get(`digest:${key}`) ?? 0),
      endedText({ source }, sentAt) {
        const row = inbox.ended(key, sentAt);
        const isSame = row?.envelope.source?.aci === source?.aci && row?.envelope.source?.number === source?.number;
        return (isSame && row && textOf(row.envelope)?.text.trim()) || null;
      },
      spend: ({ source }) => spendOf(store, world, personOf(source)),
      look: { ...world.look, ...lookOf(store, world, key, session) },
    };
  };
}

function lookOf(store: Store, world: Surroundings, key: string, session: Session | null) {
  const { sessions, log, inbox } = store;
  return {
    conversations: () =>
      sessions
        .ofChat(key, conversationsMax)
        .map((one) => ({ session: one, name: nameOf(one, log.lastOfType(one.id, "prompt")) })),
    usage: (envelope: Envelope) => usedBy(store, world, session, envelope),
    lastPrompt: () => inbox.lastEnded(key)?.envelope ?? null,
    chosen: () => session?.context ?? lasting(store, key, sessions.ofChat(key, 1)[0]),
    transcript: () => (session ? transcriptOf(session, log.events(session.id)) : ""),
  };
}

/** Resolves to the session that has new work, if one has. */
type Writes<Do extends Change["do"]> = {
  readonly [D in Do]: (chat: Chat, change: Extract<Change, { do: D }>) => string | void;
};

type ConversationDo =
  | "grant"
  | "endSession"
  | "resumeSession"
  | "set"
  | "forget"
  | "forgetChat"
  | "allow"
  | "announced"
  | "welcome";

function createConversationWrites(
  store: Store,
  world: Surroundings,
  current: (chat: Chat) => Session,
): Writes<ConversationDo> {
  const { outbox, sessions, settings } = store;
  return {
    grant(chat, { tools }) {
      // Never in the context: what is synchronized could be changed elsewhere.
      settings.set(`granted:${current(chat).id}`, JSON.stringify([...new Set(tools)]));
    },
    endSession: (_, { id }) => void sessions.end(id),
    resumeSession: (_, { id }) => {
      sessions.resume(id);
      sessions.setStale(id, true);
      return id;
    },
    set(chat, { key, value }) {
      const session = current(chat);
      setContext(store, world, session, key, value);
      return session.id;
    },
    forget(_, { id }) {
      forgetSession(store.db, id);
      store.db.afterCommit(() => store.db.exec("PRAGMA wal_checkpoint(TRUNCATE)"));
      return id;
    },
    forgetChat(chat) {
      forgetChat(store.db, chatKey(chat));
      store.db.afterCommit(() => store.db.exec("PRAGMA wal_checkpoint(TRUNCATE)"));
    },
    allow: (_, { rule, isAllowed }) => setAllowed(settings, rule, isAllowed),
    announced: (chat, { id }) => void settings.set(`digest:${chatKey(chat)}`, String(id)),
    welcome(chat, { envelope: { source } }) {
      const who = source?.aci ?? source?.number;
      if (who === undefined || who === null) return;
      settings.set(`welcomed:${who}`, String(world.now()));
      outbox.add("welcome", who, 0, chat, plainText(welcomeText), world.now());
    },
  };
}

function createApply(store: Store, world: Surroundings) {
  const { inbox, outbox, drafts, posts, settings } = store;
  const current = createSessionMaker(store, world);
  const write: Writes<Change["do"]> = {
    ...createConversationWrites(store, world, current),
    say(chat, { why, subject, part, body, draftOf }) {
      if (draftOf === null) outbox.add(why, subject, part, chat, body, world.now());
      else drafts.addAnswer(why, subject, part, draftOf, chat, body, world.now());
    },
    mark: (chat, { id, envelope, stage }) => mark(store, world, chat, id, envelope, stage),
    open(_, { id, envelope, versions }) {
      const known = inbox.get(id);
      if (known && (known.kind !== "prompt" || versions.length > 1 || envelope !== known.envelope))
        inbox.open(id, envelope, versions);
    },
    finish(chat, { id, outcome }) {
      // No preview outlives the prompt that it answers.
      drafts.endDraft(id, chat, outcome === "cancelled" ? "(stopped)" : "(no answer)", world.now());
      inbox.finish(id, outcome, world.now());
      posts.finishPrompt(id);
      if (outcome !== "cancelled") settings.count(outcome);
    },
    tell: (_, { id, code }) => void inbox.markTold(id, code),
    ask(chat, { id }) {
      const session = current(chat);
      posts.add(session.id, "prompt", String(id), null, world.now());
      return session.id;
    },
    again(chat, { id, isLost, tries }) {
      const session = current(chat);
      posts.again(id, session.id, isLost, tries);
      return session.id;
    },
    wait(_, { id, isWaiting }) {
      posts.setWaiting(id, isWaiting);
      return posts.ofPrompt(id)?.sessionId;
    },
    confirm(chat, { use, isAllowed, reason }) {
      const session = current(chat);
      const request = { kind: "confirm", toolUseId: use.id, isAllowed, reason } as const;
      posts.add(session.id, "confirm", askSubject({ session }, use.id), request, world.now());
      return session.id;
    },
    interrupt(_, { id, sessionId }) {
      posts.add(sessionId, "interrupt", String(id), { kind: "interrupt" }, world.now());
      return sessionId;
    },
  };
  /** Resolves to the sessions with new work. */
  return (chat: Chat, changes: readonly Change[]): string[] => {
    const touched = new Set<string>();
    for (const change of changes) {
      const sessionId = (write[change.do] as (chat: Chat, change: Change) => string | void)(chat, change);
      if (sessionId !== undefined) touched.add(sessionId);
    }
    return [...touched];
  };
}

const welcomeText =
  "Welcome: write to Claude here as you would to a friend; pictures, PDFs and text files are fine, too.\n/help shows what else I understand.";

function mark({ outbox }: Store, world: Surroundings, chat: Chat, id: number, envelope: Envelope, stage: Stage): void {
  const { source, content, sentAt } = envelope;
  const last = outbox.of("mark", String(id)).findLast(({ state }) => state !== "failed")?.body;
  const isRemove = stage === "cleared";
  const emoji = isRemove && last?.kind === "reaction" ? last.emoji : world.emojiOf(stage);
  if (emoji === null || source === null) return;
  // Signal's clients keep the reactions of an edited message at its first version.
  const targetSentAt = content.kind === "edit" ? content.targetSentAt : sentAt;
  outbox.addMark(
    id,
    stage,
    chat,
    { kind: "reaction", emoji, targetAuthor: source, targetSentAt, isRemove },
    world.now(),
  );
}

/** What was chosen for the chat, by the last of its conversations, or that which was deleted. */
function lasting({ settings }: Store, key: string, before: Session | undefined): Context {
  const context = before?.context ?? (JSON.parse(settings.get(`chosen:${key}`) ?? "{}") as Context);
  return Object.fromEntries(
    lastingKeys.flatMap((name) => {
      const value = context[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

function createSessionMaker(store: Store, world: Surroundings) {
  const { sessions } = store;
  /** The active session of a chat, made where there is none. */
  return (chat: Chat): Session => {
    const key = chatKey(chat);
    const active = sessions.active(key);
    if (active?.backend === world.backend) return active;
    const id = world.newId();
    const chosen = lasting(store, key, active ?? sessions.ofChat(key, 1)[0]);
    if (active) sessions.end(active.id);
    return sessions.create(id, chat, world.backend, { title: untitled(id), ...chosen }, {}, world.now());
  };
}

function setContext({ sessions }: Store, world: Surroundings, session: Session, key: string, value: JsonValue): void {
  sessions.setContext(session.id, { ...session.context, [key]: value }, world.stamp(session.stamps, key));
  if (session.remoteId !== null) sessions.setStale(session.id, true);
}
