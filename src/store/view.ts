/** The view that a decision reads: the rows of one chat, inside its transaction, and facts of the world outside of the database. */
import type { Ask, Look, Post, Prompt, Stage, View } from "../core/changes.ts";
import { conversationsMax } from "../core/execute.ts";
import type { Account, Chat, Context, Envelope, Millis, Session, Stamps } from "../core/model.ts";
import { chatKey, isSameAddress, ownProgram, textOf } from "../core/model.ts";
import { nameOf, transcriptOf } from "../core/conversation.ts";
import { personOf } from "../core/spend.ts";
import { toUse, type Call } from "./calls.ts";
import { lastingKeys } from "./forgetting.ts";
import type { InboxRow } from "./inbox.ts";
import type { PostRow } from "./posts.ts";
import { spendOf, usedBy } from "./spending.ts";
import type { Store } from "./store.ts";

/** The world outside of the database, as far as a decision needs it. */
export type Surroundings = {
  readonly account: () => Account | null;
  readonly now: () => Millis;
  readonly random: () => number;
  /** The conversation is kept here: an answer that breaks off can only be asked for again, and is paid for again. */
  readonly isAskedAnew: boolean;
  readonly newId: () => string;
  readonly backend: string;
  /** The stamps after a key was set here. */
  readonly stamp: (stamps: Stamps, key: string) => Stamps;
  /** The emoji that a message of a person is marked with; null for no mark. */
  readonly emojiOf: (stage: Stage) => string | null;
  /** A message's timestamp here is its identity on Signal. */
  readonly hasOwnTimestamps: boolean;
  /** How far our clock is ahead of Signal's, as far as that is known. */
  readonly skewMs: () => Millis;
  readonly isWelcoming: boolean;
  /** Whether a message that is written for this chat now goes out at once. */
  readonly isSendReady: (chatKey: string) => boolean;
  /** The most that a person's questions may cost in a day, in US cents; null without a limit. */
  readonly spendLimitCents: number | null;
  /** The zone at whose midnight a day ends. */
  readonly timeZone: string;
  readonly isOwner: (envelope: Envelope) => boolean;
  /** The project of this name; or the one that a setting binds this chat to. */
  readonly project: (
    of: { readonly name: string } | { readonly chatKey: string },
  ) => { name: string; model: string | null; backend: string | null } | null;
  /** Whether `always` can free the call from questions: an edit of an ordinary file. */
  readonly mayAlways: (call: Pick<Call, "tool" | "input">) => boolean;
  /** Edits of a project need no yes for an hour; null: of none any more. */
  readonly grantEdits: (project: string | null) => void;
  /** A call that runs here is not wanted any more. */
  readonly onDropped: (useId: string) => void;
  /** A message asks for work on files of this machine. */
  readonly onOwe: (inboxId: number) => void;
  readonly look: Pick<
    Look,
    | "guests"
    | "models"
    | "defaultModel"
    | "defaultEffort"
    | "isModelFixed"
    | "privacy"
    | "situation"
    | "projects"
    | "granted"
  >;
  /** Whether the invariants of a chat are asserted after each decision: in tests and simulation. */
  readonly isChecked: boolean;
  /** Rows of this chat, or posts of these sessions, were written and committed. */
  readonly onTouched: (chatKey: string, sessionIds: readonly string[]) => void;
  /** A setting, or the deletion of a conversation, is to be passed on to Claude. */
  readonly onOwed: () => void;
  /** Claude may have made files in this session. */
  readonly onFiles: (sessionId: string) => void;
};

const toPrompt = (row: InboxRow, post: Post | null): Prompt => ({ ...row, post });

/** The line that keeps a conversation, by the current settings. */
const backendOf = (world: Pick<Surroundings, "project" | "backend">, { project }: Session): string =>
  (project === null ? null : world.project({ name: project }))?.backend ?? world.backend;

/** The tool uses that wait for a yes or no, those at Claude first, and the questions that show them. */
function createAsks({ posts, log, outbox }: Store, world: Surroundings) {
  const shownBy = (sessionId: string) => {
    const rows = outbox.questions(sessionId);
    return (useId: string): Pick<Ask, "shown" | "question"> => {
      const own = rows.filter(({ uses }) => uses?.includes(useId));
      const whole = own.filter(({ why }) => why === "ask");
      const isWhole = whole.length === 0 || whole.some(({ state }) => state !== "failed");
      const shown = (isWhole ? own : whole).map(
        ({ state, timestamp, signalTimestamp, sendingAt, doneAt, isUncertain }) => ({
          sentAt: signalTimestamp ?? (world.hasOwnTimestamps ? timestamp : null),
          // Phones date a person's message by Signal's clock. They may have the question before its send is over, but surely only then.
          at: state === "sent" && doneAt !== null ? doneAt - world.skewMs() : null,
          copiesFrom: isUncertain && !world.hasOwnTimestamps ? sendingAt : null,
        }),
      );
      const uses = own[0]?.uses ?? null;
      if (uses === null) return { shown, question: null };
      const unsent = isWhole ? null : (whole[0]?.body ?? null);
      return { shown, question: { subject: { sessionId, uses }, number: uses.indexOf(useId) + 1, unsent } };
    };
  };
  return (session: Session, open: readonly Call[]): Ask[] => {
    const { uses, isWaiting } = log.open(session.id);
    const theirs = isWaiting ? uses.filter(({ id, isAsk }) => isAsk && !posts.isConfirmed(id)) : [];
    const ours = open.filter(({ state }) => state === "asked");
    if (theirs.length + ours.length === 0) return [];
    const shown = shownBy(session.id);
    return [
      ...theirs.map((use): Ask => ({ use, ...shown(use.id), call: null })),
      ...ours.map((call): Ask => {
        const { project } = call;
        return {
          use: toUse(call),
          ...shown(call.id),
          call: { project, mayAlways: project !== "" && world.mayAlways(call) },
        };
      }),
    ];
  };
}

export function createView(store: Store, world: Surroundings) {
  const { inbox, posts, sessions, log, settings } = store;
  const asksOf = createAsks(store, world);
  /** `exceptId`: the row that is being decided on, which is open until that is done. */
  return (chat: Chat, exceptId = 0): View => {
    const key = chatKey(chat);
    const account = world.account();
    // A decision follows an arrival, and nothing arrives before our account is known.
    if (account === null) throw new Error("A decision needs the account");
    const active = sessions.active(key);
    const session = active && active.backend === backendOf(world, active) ? active : null;
    const rows = inbox.head(key, exceptId);
    const post: PostRow | null = rows[0] ? posts.ofPrompt(rows[0].id, active?.id) : null;
    const open = post && log.open(post.sessionId);
    const hasCalls = session !== null && log.open(session.id).uses.some(({ isLocal }) => isLocal);
    const hasReply = (): boolean =>
      post !== null && post.eventId !== null && log.hasReplySince(post.sessionId, post.eventId);
    const calls = hasCalls ? store.calls.open(session.id).filter(({ content }) => content === null) : [];
    return {
      chat,
      account,
      now: world.now(),
      jitter: world.random(),
      session,
      left: session === null ? active : null,
      head: rows.map((row, index) => toPrompt(row, index === 0 ? post : null)),
      prompts() {
        const made = new Map(posts.ofChat(key).map((post) => [post.subject, post]));
        return inbox.openPrompts(key, exceptId).map((row) => toPrompt(row, made.get(String(row.id)) ?? null));
      },
      waiting: () => inbox.waiting(key, exceptId),
      named: (sentAt) => inbox.named(key, sentAt, exceptId).map((row) => toPrompt(row, posts.ofPrompt(row.id))),
      isSaid: store.outbox.isSaid,
      isAskedAnew: world.isAskedAnew || session?.backend === ownProgram,
      turn: post?.eventId ? log.turn(post.sessionId, post.eventId) : null,
      asks: session ? asksOf(session, calls) : [],
      calls: calls.map(toUse),
      callCount: (sessionId, prompt) => store.calls.count(sessionId, String(prompt.id)),
      canAnswer: (sessionId, eventIds) => log.answerable(sessionId, eventIds).length === eventIds.length,
      isOwner: world.isOwner,
      get granted() {
        const tools = session && settings.get(`granted:${session.id}`);
        return store.db.read(() => JSON.parse(tools ?? "[]") as string[]);
      },
      lastError: open?.error ? { code: open.error.code, isTerminal: open.error.retry === "terminal" } : null,
      hasReply,
      isSeen({ id, told }) {
        const isSaid = (["draft", "slow"] as const).some((why) => store.outbox.has(why, String(id)));
        return told !== null || isSaid || hasReply();
      },
      isWelcome: ({ chat, source }) =>
        !world.isWelcoming ||
        chat?.kind === "group" ||
        settings.get(`welcomed:${source?.aci ?? source?.number}`) !== null,
      announcedUpTo: () => Number(settings.get(`digest:${key}`) ?? 0),
      endedText({ source }, sentAt) {
        const row = inbox.ended(key, sentAt);
        const isSame = row?.envelope.source && source && isSameAddress(row.envelope.source, source);
        return (isSame && row && textOf(row.envelope)?.text.trim()) || null;
      },
      spend: ({ source }) => spendOf(store, world, personOf(source)),
      look: { ...world.look, timeZone: world.timeZone, ...lookOf(store, world, key, session) },
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
    openProject: () => (session ? session.project : (nextProject(store, world, key)?.name ?? null)),
    lastOfProject: (project: string | null) => sessions.lastOfProject(key, project),
    chosen: () => session?.context ?? lasting(store, key, sessions.ofChat(key, 1)[0]),
    reminders: () => store.reminders.ofChat(key),
    remindersOf: store.reminders.countOf,
    lastPrompt: () => inbox.lastEnded(key)?.envelope ?? null,
    transcript: () => (session ? transcriptOf(session, log.events(session.id)) : ""),
  };
}

/** The project of the chat's next conversation: the one that was opened there, else the one that a setting binds the group to. */
export function nextProject({ settings }: Store, world: Surroundings, key: string) {
  const named = settings.get(`project:${key}`);
  if (named === "") return null;
  return world.project(named === null ? { chatKey: key } : { name: named });
}

/** The settings chosen for the chat: those of its last conversation, or of the one that was deleted. */
export function lasting({ db, settings }: Store, key: string, before: Session | undefined): Context {
  const context = before?.context ?? db.read(() => JSON.parse(settings.get(`chosen:${key}`) ?? "{}") as Context);
  return Object.fromEntries(
    lastingKeys.flatMap((name) => {
      const value = context[name];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}
