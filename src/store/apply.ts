/**
 * Writes the changes of a decision, in the transaction of the fact that caused it; and wakes the queues of the rows that were touched once
 * that is committed. `core/chat.ts` alone decides, and its changes are written here and in `apply-calls.ts` alone. The loops write how far
 * their own requests have come (a send, a post, a call, a look): `test/tidy.test.ts` names these writes, and why each is no decision.
 *
 *   fact ─▶ ONE transaction: the fact's own rows ─▶ view ─▶ decide ─▶ changes as rows ─▶ commit ─▶ wake
 */
import { checkChat, decide } from "../core/chat.ts";
import type { Change, Fact, FactOf, Outcome, Stage } from "../core/changes.ts";
import { BridgeError, type Fault } from "../core/errors.ts";
import type { Chat, Envelope, Session, SessionEvent } from "../core/model.ts";
import { chatKey } from "../core/model.ts";
import { untitled } from "../core/conversation.ts";
import { setAllowed } from "./allowed.ts";
import { answerCall, createCallWrites, endSession, type Writes } from "./apply-calls.ts";
import { isDamage } from "./database.ts";
import { forgetChat, forgetSession } from "./forgetting.ts";
import type { PostRow } from "./posts.ts";
import { noteUsage } from "./spending.ts";
import type { Store } from "./store.ts";
import { createView, lasting, nextProject, type Surroundings } from "./view.ts";

export type Chats = ReturnType<typeof createChats>;

export function createChats(store: Store, world: Surroundings) {
  const viewOf = createView(store, world);
  const apply = createApply(store, world);
  /** Decides on a fact and writes the changes, in the caller's transaction if there is one. */
  const settle = (chat: Chat, fact: Fact): readonly Change[] =>
    store.db.transaction(() => {
      const changes = decide(viewOf(chat, fact.type === "received" ? fact.id : 0), fact);
      const sessionIds = apply(chat, changes);
      if (isNoPrompt(fact, changes)) store.inbox.finish(fact.id, "answered", world.now());
      if (world.isChecked) checkChat(viewOf(chat));
      if (changes.length > 0) store.db.afterCommit(() => world.onTouched(chatKey(chat), sessionIds));
      return changes;
    });
  return {
    settle,
    /** Wakes the queues of a chat whose rows are written in the transaction at work. */
    touch: (chat: Chat): void => store.db.afterCommit(() => world.onTouched(chatKey(chat), [])),
    /** Stores entries of a log, and marks the posts that turned out to be among them; does nothing where the session was forgotten. */
    log(
      sessionId: string,
      events: readonly SessionEvent[],
      posted: readonly { readonly id: number; readonly eventId: string | null }[] = [],
    ): readonly Change[] {
      return store.db.transaction(() => {
        let asked: number | null = null;
        for (const { id, eventId } of posted) {
          const { kind, subject = "" } = store.posts.markPosted(id, eventId) ?? {};
          if (kind === "prompt") asked = Number(subject);
          if (kind === "result") store.calls.markPosted(subject, world.now());
        }
        const session = store.sessions.get(sessionId);
        if (session === null) return [];
        const added = store.log.apply(session, events, world.now());
        // A listing looks back beyond the cursor, and mostly finds what is here.
        if (added.length === 0 && posted.length === 0) return [];
        if (store.files.note(sessionId, added)) store.db.afterCommit(() => world.onFiles(sessionId));
        noteUsage(store, world, session, added, asked);
        return settle(session.chat, { type: "logged", session, events: added });
      });
    },
    refused: createRefusals(store, world, settle),
    /** Stores entries that were dealt with before the database was set back: nothing is decided about them. */
    keep: (sessionId: string, events: readonly SessionEvent[]): void =>
      store.db.transaction(() => {
        const session = store.sessions.get(sessionId);
        if (session !== null) store.log.apply(session, events, world.now());
      }),
    /** Writes an allowed message; returns its row, or null where the message is there already, or only takes another back. */
    receive(key: string, envelope: Envelope, verdict: FactOf<"received">["verdict"]): number | null {
      const { chat } = envelope;
      if (chat === null || verdict.kind === "drop" || verdict.kind === "ignore") return null;
      const kind = verdict.kind === "hint" ? "command" : verdict.kind;
      return store.db.transaction(() => {
        const id = kind === "withdraw" ? 0 : store.inbox.accept(key, kind, envelope, world.now());
        if (id !== null) settle(chat, { type: "received", id, envelope, verdict });
        return id || null;
      });
    },
    /** Tells a fact to every chat in which something is open; a chat whose rows are damaged does not keep the others from it. */
    tellAll(fact: FactOf<"started" | "back" | "setBack">): void {
      for (const key of store.inbox.openChats())
        try {
          const chat = store.inbox.head(key)[0]?.envelope.chat;
          if (chat) settle(chat, fact);
        } catch (error) {
          if (!(error instanceof BridgeError && isDamage(error))) throw error;
        }
    },
    viewOf,
  };
}

/** Whether a message did not become a prompt, and so is over with its decision. */
const isNoPrompt = (fact: Fact, changes: readonly Change[]): fact is FactOf<"received"> =>
  fact.type === "received" && fact.id > 0 && !changes.some((change) => change.do === "open" && change.id === fact.id);

type Settle = (chat: Chat, fact: Fact) => unknown;

/** Claude does not take this answer, or this stop, and never will: the post counts as if it had never been made. */
function createRefusals({ db, sessions, posts, log, calls }: Store, world: Surroundings, settle: Settle) {
  return ({ id, sessionId, kind, request, tries }: PostRow, fault: Fault): void =>
    db.transaction(() => {
      const session = sessions.get(sessionId);
      const useId = request !== null && "toolUseId" in request ? request.toolUseId : null;
      const use = log.open(sessionId).uses.find((open) => open.id === useId) ?? null;
      const isStopped = posts.open(sessionId).some((post) => post.kind === "interrupt");
      const isResult = kind === "result";
      if (isResult && useId !== null) calls.markPosted(useId, world.now());
      posts.reopen(id, tries);
      if (session !== null)
        settle(session.chat, { type: "refused", postId: id, session, use, isStopped, isResult, tries, fault });
    });
}

function createConversationWrites(store: Store, world: Surroundings, current: (chat: Chat) => Session) {
  const { sessions, settings } = store;
  return {
    grant(chat, { tools }) {
      // Kept out of the context, since a synchronized value could be changed elsewhere.
      settings.set(`granted:${current(chat).id}`, JSON.stringify([...new Set(tools)]));
    },
    endSession: (_, { id }) => endSession(store, world, id),
    openProject(chat, { project }) {
      // "" means no project, even where a setting binds the group to one.
      settings.set(`project:${chatKey(chat)}`, project ?? "");
    },
    resumeSession: (chat, { id }) => {
      sessions.resume(id);
      settings.set(`project:${chatKey(chat)}`, sessions.get(id)?.project ?? "");
      setStale(store, world, id);
      return id;
    },
    set(chat, { key, value }) {
      const session = current(chat);
      sessions.setContext(session.id, { ...session.context, [key]: value }, world.stamp(session.stamps, key));
      if (session.remoteId !== null) setStale(store, world, session.id);
      return session.id;
    },
    forget(chat, { id }) {
      if (id === null) forgetChat(store.db, chatKey(chat));
      else forgetSession(store.db, id);
      store.db.afterCommit(() => {
        store.db.exec("PRAGMA wal_checkpoint(TRUNCATE)");
        world.onOwed();
      });
      return id ?? undefined;
    },
    allow: (_, { rule, isAllowed }) => setAllowed(settings, rule, isAllowed),
    announced: (chat, { id }) => void settings.set(`digest:${chatKey(chat)}`, String(id)),
    welcome: (_, { person }) => void settings.set(`welcomed:${person}`, String(world.now())),
  } satisfies Partial<Writes>;
}

function createApply(store: Store, world: Surroundings) {
  const { inbox, outbox, drafts, posts, counters } = store;
  const current = createSessionMaker(store, world);
  const write: Writes = {
    ...createConversationWrites(store, world, current),
    ...createCallWrites(store, world),
    say(chat, { why, subject, part, body, draftOf }) {
      const isHurried = (why === "reply" || why === "end") && world.isSendReady(chatKey(chat));
      if (draftOf === null) outbox.add(why, subject, part, chat, body, world.now(), isHurried);
      else drafts.addAnswer(why, subject, part, draftOf, chat, body, world.now(), isHurried);
    },
    open(chat, { id, envelope, versions }) {
      inbox.open(id, envelope, versions);
      mark(store, world, chat, id, envelope, "taken");
    },
    finish(chat, { id, envelope, outcome, left }) {
      drafts.endDraft(id, chat, left, world.now());
      inbox.finish(id, outcome, world.now());
      posts.finishPrompt(id);
      if (outcome !== "cancelled") counters.add({ [outcome]: 1 });
      if (envelope !== null) mark(store, world, chat, id, envelope, endStages[outcome]);
    },
    tell(chat, { id, envelope, code }) {
      inbox.markTold(id, code);
      mark(store, world, chat, id, envelope, "waiting");
    },
    ask(chat, { id }) {
      const session = current(chat);
      if (posts.add(session.id, "prompt", String(id), null, world.now()) > 0) drafts.expect(id);
      return session.id;
    },
    again(chat, { id, isLost, tries }) {
      const session = current(chat);
      posts.again(id, session.id, isLost, tries);
      return session.id;
    },
    unanswered: (_, { postId, tries }) => void (tries === null ? posts.finish(postId) : posts.reopen(postId, tries)),
    wait(chat, { id, envelope, isWaiting }) {
      posts.setWaiting(id, isWaiting);
      if (isWaiting) mark(store, world, chat, id, envelope, "waiting");
      return posts.ofPrompt(id)?.sessionId;
    },
    answer(chat, change) {
      if (change.use.isLocal) return answerCall(store, world, change);
      const session = current(chat);
      const { use, isAllowed } = change;
      const request = {
        kind: "confirm",
        toolUseId: use.id,
        isAllowed,
        reason: isAllowed ? null : change.reason,
      } as const;
      posts.add(session.id, "confirm", use.id, request, world.now());
      return session.id;
    },
    interrupt(_, { subject, sessionId }) {
      posts.add(sessionId, "interrupt", subject, { kind: "interrupt" }, world.now());
      return sessionId;
    },
  };
  /** Returns the ids of the sessions with new work. */
  return (chat: Chat, changes: readonly Change[]): string[] => {
    const touched = new Set<string>();
    for (const change of changes) {
      const sessionId = (write[change.do] as (chat: Chat, change: Change) => string | void)(chat, change);
      if (sessionId !== undefined) touched.add(sessionId);
    }
    return [...touched];
  };
}

/** The mark of a message by its outcome. */
const endStages: { readonly [outcome in Outcome]: Stage } = {
  answered: "done",
  failed: "failed",
  cancelled: "cleared",
};

function mark({ outbox }: Store, world: Surroundings, chat: Chat, id: number, envelope: Envelope, stage: Stage): void {
  const { source, content, sentAt, isScheduled } = envelope;
  const isRemove = stage === "cleared";
  const last = isRemove ? outbox.of("mark", String(id)).findLast(({ state }) => state !== "failed")?.body : undefined;
  const emoji = last?.kind === "reaction" ? last.emoji : world.emojiOf(stage);
  if (emoji === null || source === null || isScheduled) return;
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

function createSessionMaker(store: Store, world: Surroundings) {
  const { sessions } = store;
  /** The active session of a chat, made where there is none. */
  return (chat: Chat): Session => {
    const key = chatKey(chat);
    const active = sessions.active(key);
    if (active) return active;
    const id = world.newId();
    const chosen = lasting(store, key, sessions.ofChat(key, 1)[0]);
    const project = nextProject(store, world, key);
    const title = project === null ? untitled(id) : `${project.name}: ${untitled(id)}`;
    const context = { title, ...chosen, ...(project?.model ? { model: project.model } : {}) };
    const backend = project?.backend ?? world.backend;
    return sessions.create(id, chat, backend, context, {}, world.now(), project?.name ?? null);
  };
}

/** Leaves the session to the next sync, which runs at once where Claude can be reached. */
function setStale({ sessions, db }: Store, world: Surroundings, id: string): void {
  sessions.setStale(id);
  db.afterCommit(world.onOwed);
}
