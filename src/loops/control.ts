/**
 * Commands and approvals: what a person says to signalman rather than to Claude. They do not wait in the lane behind a
 * running turn, since some of them are there to end it.
 */
import type { Clock, Random } from "../clock.ts";
import type { Backend } from "../claude/backend.ts";
import { backoffMs } from "../core/backoff.ts";
import { commandHelp, commands, type CommandName } from "../core/commands.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import { stampKey } from "../core/hlc.ts";
import { decide, type AllowRule } from "../core/inbound.ts";
import type { Account, Chat, JsonValue, Millis } from "../core/model.ts";
import { nearest } from "../core/nearest.ts";
import { plainText } from "../core/reply.ts";
import { shorten } from "../core/progress.ts";
import { pendingAsks } from "../core/turn.ts";
import type { Log } from "../log.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session } from "../store/sessions.ts";
import type { Store } from "../store/store.ts";
import { quietAttempts, untitled, type AnswerLoop } from "./answer.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import type { Presence } from "./presence.ts";

export type ControlDeps = {
  readonly backend: Backend;
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly answer: AnswerLoop;
  readonly presence: Presence;
  readonly allow: readonly AllowRule[];
  readonly isGroupAlways: boolean;
  readonly model: string;
  readonly deviceTag: string;
  readonly account: () => Account | null;
  readonly isOpen: () => boolean;
  /** One line on the state of the line, for `/status`. */
  readonly describeState: () => string;
  readonly onOutbox: (chatKey: string) => void;
  /** The context of a session changed here: write it to the remote side soon. */
  readonly syncSoon: () => void;
};

/** Questions that were answered here, and whose answer the log does not show yet. */
type Deps = ControlDeps & { readonly confirmed: Set<string> };

/** Commands and approvals are few and quick; more than this at once is a flood that can wait. */
const parallelMax = 4;

export function createControlLoop(control: ControlDeps): Lanes {
  const deps: Deps = { ...control, confirmed: new Set() };
  const { inbox } = deps.store;
  return createLanes({
    name: "control",
    chats: inbox.openChats,
    /** A command or an approval; or the prompt whose question nobody answers in time. */
    head(chatKey) {
      const control = inbox.headControl(chatKey);
      const prompt = inbox.head(chatKey);
      const question = prompt?.state === "waiting" ? prompt : null;
      return control && question && question.notBefore < control.notBefore ? question : (control ?? question);
    },
    work: (row, chatKey, signal) => handle(deps, row, chatKey, signal),
    isOpen: deps.isOpen,
    max: parallelMax,
    clock: deps.clock,
    random: deps.random,
    log: deps.log,
  });
}

async function handle(deps: Deps, row: InboxRow, chatKey: string, signal: AbortSignal): Promise<void> {
  const { store, clock } = deps;
  const account = deps.account();
  // The lanes open when the first line has told it.
  if (account === null) return;
  if (row.kind === "prompt") return expire(deps, row, chatKey, signal);
  const { chat } = row.envelope;
  const decision = decide(row.envelope, {
    account,
    allow: deps.allow,
    isAsking: row.kind === "approval",
    isGroupAlways: deps.isGroupAlways,
  });
  try {
    let text: string | null = null;
    if (chat !== null && decision.kind === "command")
      text = await runCommand({ deps, chat, chatKey, argument: decision.argument, id: row.id, signal }, decision.name);
    if (decision.kind === "approval")
      text = await approve(deps, chatKey, decision.isAllowed, decision.targetSentAt, signal);
    store.db.transaction(() => {
      if (text !== null && chat !== null) store.outbox.add(`control:${row.id}`, chat, plainText(text), clock.now());
      store.inbox.finish(row.id, "answered", clock.now());
    });
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    controlFailed(deps, row, error);
  } finally {
    deps.onOutbox(chatKey);
    // A prompt behind the command may go on.
    deps.answer.wake(chatKey);
  }
}

function controlFailed(deps: Deps, row: InboxRow, error: BridgeError): void {
  const { store, clock } = deps;
  const attempts = row.attempts + 1;
  deps.log.warn("command failed", { ...toFault(error), attempts });
  if (error.retry !== "never") {
    const waitMs = backoffMs({ attempt: attempts, jitter: deps.random(), retryAfterMs: error.retryAfterMs });
    const sentence = errorRow(error.code).chat;
    return store.db.transaction(() => {
      if (row.told === null && attempts > quietAttempts && sentence !== undefined && row.envelope.chat) {
        store.outbox.add(`told:${row.id}`, row.envelope.chat, plainText(sentence), clock.now());
        store.inbox.markTold(row.id, error.code);
      }
      store.inbox.postpone(row.id, attempts, clock.now() + waitMs);
    });
  }
  store.db.transaction(() => {
    if (row.envelope.chat)
      store.outbox.add(
        `control:${row.id}`,
        row.envelope.chat,
        plainText(`That did not work: ${error.hint}`),
        clock.now(),
      );
    store.inbox.finish(row.id, "failed", clock.now());
  });
}

type Run = (context: {
  readonly deps: Deps;
  readonly chat: Chat;
  readonly chatKey: string;
  readonly argument: string;
  /** Inbox id of the command: what was written after it is none of its business, also where both arrived together. */
  readonly id: number;
  readonly signal: AbortSignal;
}) => Promise<string | null> | string | null;

const runs: Record<CommandName, Run> = {
  help: () => commandHelp(),
  new: async ({ deps, chatKey, id }) => {
    const dropped = await clear(deps, chatKey, "all", id);
    const session = deps.store.sessions.active(chatKey);
    if (session) deps.store.sessions.end(session.id);
    return `New conversation.${dropped > 0 ? ` ${dropped} open ${dropped === 1 ? "message was" : "messages were"} dropped.` : ""}`;
  },
  stop: async ({ deps, chatKey, id }) => {
    const dropped = await clear(deps, chatKey, "head", id);
    return dropped > 0 ? "Stopped." : "Nothing to stop.";
  },
  skip: async ({ deps, chatKey, id }) => {
    const dropped = await clear(deps, chatKey, "all", id);
    return dropped === 0
      ? "Nothing is waiting."
      : `Dropped ${dropped} waiting ${dropped === 1 ? "message" : "messages"}.`;
  },
  status: ({ deps, chatKey }) => {
    const waiting = deps.store.inbox.openPrompts(chatKey).length;
    return `${deps.describeState()}\n${waiting === 0 ? "Nothing waits here." : `To be answered here: ${waiting}`}`;
  },
  model: async ({ deps, chat, chatKey, argument, signal }) => {
    const session = deps.answer.sessionOf(chatKey, chat);
    const models = (await deps.backend.models(signal)).map(({ id }) => id);
    const current = textOf(session, "model") ?? deps.model;
    const others = models.filter((id) => id !== current).slice(0, 12);
    if (argument === "") return [`Model: ${current}`, ...(others.length > 0 ? ["Others:", ...others] : [])].join("\n");
    const near = nearest(argument, models);
    if (!models.includes(argument))
      return `No model ${argument.slice(0, 60)}. ${near === null ? "/model lists them." : `Did you mean ${near}?`}`;
    setContext(deps, session, "model", argument);
    const isFixed = deps.backend.remote !== null && session.remoteId !== null;
    return `Model: ${argument}${isFixed ? ", from the next /new on." : ""}`;
  },
  title: ({ deps, chat, chatKey, argument }) => {
    const session = deps.answer.sessionOf(chatKey, chat);
    if (argument === "") return `Title: ${nameOf(deps, session)}`;
    setContext(deps, session, "title", argument.slice(0, 200));
    return `Title: ${argument.slice(0, 200)}`;
  },
  verbose: ({ deps, chat, chatKey, argument }) => {
    const session = deps.answer.sessionOf(chatKey, chat);
    const isOn = argument === "" ? session.context["verbose"] !== true : /^(on|yes|1|true)$/iu.test(argument);
    setContext(deps, session, "verbose", isOn);
    return isOn ? "Tool use is shown." : "Tool use is not shown.";
  },
  sessions: ({ deps, chatKey }) => {
    const sessions = deps.store.sessions.ofChat(chatKey, 9);
    if (sessions.length === 0) return "No conversations yet.";
    const lines = sessions.map(
      (session, index) => `${index + 1}. ${nameOf(deps, session)}${session.state === "active" ? " (this one)" : ""}`,
    );
    return [...lines, "/resume N goes back to one."].join("\n");
  },
  resume: async ({ deps, chatKey, argument, id }) => {
    const session = deps.store.sessions.ofChat(chatKey, 9)[Number(argument) - 1];
    if (!session) return "Which one? /sessions lists them.";
    await clear(deps, chatKey, "all", id);
    deps.store.sessions.resume(session.id);
    deps.syncSoon();
    return `Back in: ${nameOf(deps, session)}`;
  },
  usage: ({ deps, chatKey }) => {
    const session = deps.store.sessions.active(chatKey);
    const usage = session && deps.store.sessions.lastOfType(session.id, "usage");
    if (usage?.type !== "usage") return "Nothing used yet.";
    const cost = usage.costCents === null ? "" : `\nCost: $${(usage.costCents / 100).toFixed(2)}`;
    return `This conversation: ${usage.inputTokens} tokens in, ${usage.outputTokens} out${cost}`;
  },
  approve: ({ deps, chatKey, signal }) => approve(deps, chatKey, true, null, signal),
  deny: ({ deps, chatKey, signal }) => approve(deps, chatKey, false, null, signal),
};

/** The title, or where nobody gave one the last that was asked. */
function nameOf({ store }: ControlDeps, session: Session): string {
  const title = textOf(session, "title");
  if (title !== null && title !== untitled(session.id)) return title;
  const asked = store.sessions.lastOfType(session.id, "prompt");
  return asked?.type === "prompt" && asked.text !== "" ? `“${shorten(asked.text, 40)}”` : "untitled";
}

function textOf(session: Session, key: string): string | null {
  const value = session.context[key];
  return typeof value === "string" ? value : null;
}

async function runCommand(context: Parameters<Run>[0], name: string): Promise<string | null> {
  const names = commands.map((command) => command.name);
  const known = names.find((candidate) => candidate === name);
  if (known) return runs[known](context);
  const near = nearest(name, names);
  return `There is no /${name.slice(0, 20)}.${near === null ? "" : ` Did you mean /${near}?`} /help lists what there is.`;
}

/** Ends the running turn and drops open prompts, the one at work or all, of before inbox id `before`; resolves to their number. */
async function clear(deps: Deps, chatKey: string, which: "head" | "all", before: number): Promise<number> {
  const { store } = deps;
  const open = store.inbox.openPrompts(chatKey).filter(({ id }) => id < before);
  const rows = open.slice(0, which === "head" ? 1 : undefined);
  store.db.transaction(() => rows.forEach((row) => deps.presence.cancel(row, false)));
  const ids = rows.map(({ id }) => id);
  await deps.answer.interrupt(chatKey, ids).catch((error: unknown) => {
    if (!(error instanceof BridgeError)) throw error;
    deps.log.warn("could not interrupt", toFault(error));
  });
  deps.answer.wake(chatKey);
  return rows.length;
}

function setContext(deps: Deps, session: Session, key: string, value: JsonValue): void {
  const skewMs = deps.backend.remote?.skewMs() ?? 0;
  const stamps = stampKey(session.stamps, key, deps.clock.now() + skewMs, deps.deviceTag);
  deps.store.db.transaction(() => {
    deps.store.sessions.setContext(session.id, { ...session.context, [key]: value }, stamps);
    if (session.remoteId !== null) deps.store.sessions.setStale(session.id, true);
  });
  deps.syncSoon();
}

/** Nobody answered in time: that is a no. Where Claude cannot be told now, the lane tries again. */
async function expire(deps: Deps, row: InboxRow, chatKey: string, signal: AbortSignal): Promise<void> {
  const { store, clock } = deps;
  if (row.envelope.chat === null) return;
  store.outbox.add(`expired:${row.id}:${row.notBefore}`, row.envelope.chat, plainText(expiredText), clock.now());
  deps.onOutbox(chatKey);
  await approve(deps, chatKey, false, null, signal);
  release(deps, chatKey);
}

const expiredText = "Nobody answered Claude's question in time, so the answer was no.";

/** Answers what Claude asks: the question that was quoted or reacted to, else every open one. */
async function approve(
  deps: Deps,
  chatKey: string,
  isAllowed: boolean,
  targetSentAt: Millis | null,
  signal: AbortSignal,
): Promise<string | null> {
  const { store, backend } = deps;
  const session = store.sessions.active(chatKey);
  if (!session || session.remoteId === null || backend.remote === null) return "Nothing waits for an answer.";
  const open = pendingAsks(store.sessions.events(session.id)).filter((id) => !deps.confirmed.has(id));
  const target = targetSentAt === null ? null : store.outbox.bySignalTimestamp(targetSentAt)?.key;
  const chosen =
    target === null || target === undefined ? open : open.filter((id) => target === `ask:${session.id}:${id}`);
  // Answered elsewhere: then nothing may go on waiting here.
  if (open.length === 0) release(deps, chatKey);
  if (chosen.length === 0) return targetSentAt === null ? "Nothing waits for an answer." : null;
  for (const id of chosen) {
    try {
      await backend.remote.confirm(session.remoteId, id, isAllowed, isAllowed ? null : "The person said no.", signal);
      deps.confirmed.add(id);
    } catch (error) {
      // A repeated confirmation is refused: then the log tells that it has been answered (claude/CLAUDE-API.md section 1.9).
      if (!(error instanceof BridgeError) || error.code !== "claude_request") throw error;
    }
  }
  // The session goes on once all of them are answered.
  if (chosen.length < open.length) return null;
  release(deps, chatKey);
  deps.answer.follow(session);
  return null;
}

function release({ store, answer }: Deps, chatKey: string): void {
  for (const row of store.inbox.openPrompts(chatKey)) store.inbox.markPending(row.id);
  answer.wake(chatKey);
}
