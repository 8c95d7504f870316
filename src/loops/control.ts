/**
 * Commands and approvals: what a person says to signalman rather than to Claude. They do not wait in the lane behind a
 * running turn, since some of them are there to end it.
 */
import { backoffMs } from "../core/backoff.ts";
import { commandHelp, commands, type CommandName } from "../core/commands.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import { stampKey } from "../core/hlc.ts";
import type { Consent } from "../core/consent.ts";
import { decide, type Decision } from "../core/inbound.ts";
import type { Account, Chat, JsonValue } from "../core/model.ts";
import { nearest, nearestModel } from "../core/nearest.ts";
import { shorten } from "../core/progress.ts";
import { plainText } from "../core/reply.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session } from "../store/sessions.ts";
import { quietAttempts, sessionOf, untitled } from "./answer.ts";
import type { Bridge } from "./bridge.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import { commandMs, within } from "./patience.ts";
import { cancel } from "./presence.ts";
import { openQuestions, type Question } from "./questions.ts";

type ControlBridge = Bridge & {
  /** A few lines on how everything stands, for `/status`. */
  readonly describeState: () => string;
};

/** Commands and approvals are few and quick; more than this at once is a flood that can wait. */
const parallelMax = 4;

export function createControlLoop(bridge: ControlBridge): Lanes {
  const { inbox } = bridge.store;
  const confirmed = new Set<string>();
  return createLanes<InboxRow>(bridge, {
    name: "control",
    chats: inbox.openChats,
    /** A command or an approval; or the prompt whose question nobody answers in time. */
    head(chatKey) {
      const control = inbox.headControl(chatKey, bridge.clock.now());
      const prompt = inbox.head(chatKey);
      const question = prompt?.state === "waiting" ? prompt : null;
      return control && question && question.notBefore < control.notBefore ? question : (control ?? question);
    },
    async work(row, chatKey, signal) {
      const { chat } = row.envelope;
      const account = bridge.account();
      // Lanes open when the first line has told who we are, and only what has a chat is accepted.
      if (account === null || chat === null) throw new Error("A command has no chat, or nobody to obey it");
      const heard = { bridge, confirmed, chat, chatKey, id: row.id, signal };
      await (row.kind === "prompt" ? expire(heard, row) : obey(heard, row, account));
    },
    isOpen: bridge.canAnswer,
    max: parallelMax,
  });
}

type Heard = {
  readonly bridge: ControlBridge;
  /** Questions that were answered here, and whose answer the log does not show yet. */
  readonly confirmed: Set<string>;
  readonly chat: Chat;
  readonly chatKey: string;
  /** Inbox id: what was written after it is none of its business, also where both arrived together. */
  readonly id: number;
  readonly signal: AbortSignal;
};

async function obey(heard: Heard, row: InboxRow, account: Account): Promise<void> {
  const { bridge, chat, chatKey, signal } = heard;
  const { store, clock, config } = bridge;
  const { allow, groupAlways: isGroupAlways } = config;
  const end = (outcome: "answered" | "failed", text: string | null): void =>
    store.db.transaction(() => {
      if (text !== null) store.outbox.add(`control:${row.id}`, chat, plainText(text), clock.now());
      store.inbox.finish(row.id, outcome, clock.now());
    });
  try {
    const questions = row.kind === "approval" ? unanswered(heard) : [];
    const decision = decide(row.envelope, { account, allow, questions, isGroupAlways });
    end("answered", await answerTo(heard, row, decision, questions));
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    const attempts = row.attempts + 1;
    bridge.log.warn("command failed", { ...toFault(error), attempts });
    // A yes or no costs nothing and is waited for; a command can be given again. A full disk is not the person's concern.
    const isOver = error.retry === "never" || (row.kind === "command" && error.code !== "database");
    if (isOver) return end("failed", `That did not work: ${error.hint}`);
    const waitMs = backoffMs({ attempt: attempts, jitter: bridge.random(), retryAfterMs: error.retryAfterMs });
    const sentence = errorRow(error.code).chat;
    store.db.transaction(() => {
      if (row.told === null && attempts > quietAttempts && sentence !== undefined) {
        store.outbox.add(`told:${row.id}`, chat, plainText(sentence), clock.now());
        store.inbox.markTold(row.id, error.code);
      }
      store.inbox.postpone(row.id, attempts, clock.now() + waitMs);
    });
  } finally {
    bridge.wake("send", chatKey);
    // A prompt behind the command may go on.
    bridge.wake("answer", chatKey);
  }
}

async function answerTo(
  heard: Heard,
  row: InboxRow,
  decision: Decision,
  questions: readonly Question[],
): Promise<string | null> {
  if (decision.kind === "command") return runCommand(heard, decision.name, decision.argument);
  const target = decision.kind === "approval" ? decision.targetSentAt : null;
  const question = target === null ? null : questions.find(({ sentAt }) => sentAt === target);
  if (decision.kind === "approval" && question) return approve(heard, decision, [question]);
  // Answered elsewhere: then nothing may go on waiting here.
  if (questions.length === 0) release(heard.bridge, heard.chatKey);
  if (row.envelope.content.kind === "reaction") return null;
  return questions.length > 1
    ? `Claude waits for ${questions.length} answers. Please react with 👍 or 👎 to each question, or quote it with yes or no.`
    : "Nothing waits for an answer.";
}

/** Open in the log, and not answered by us since. */
const unanswered = ({ bridge, confirmed, chatKey }: Heard): Question[] =>
  openQuestions(bridge, chatKey).filter(({ toolUseId }) => !confirmed.has(toolUseId));

type Run = (heard: Heard, argument: string) => Promise<string | null> | string | null;

/** A yes or no is told from a command before it gets here. */
type Runnable = Exclude<CommandName, "approve" | "deny">;

const runs: Record<Runnable, Run> = {
  help: () => commandHelp(),
  async new(heard) {
    const dropped = await clear(heard, "all");
    const { sessions } = heard.bridge.store;
    const session = sessions.active(heard.chatKey);
    if (session) sessions.end(session.id);
    return `New conversation.${dropped > 0 ? ` ${dropped} open ${dropped === 1 ? "message was" : "messages were"} dropped.` : ""}`;
  },
  stop: async (heard) => ((await clear(heard, "head")) > 0 ? "Stopped." : "Nothing to stop."),
  async skip(heard) {
    const dropped = await clear(heard, "all");
    return dropped === 0
      ? "Nothing is waiting."
      : `Dropped ${dropped} waiting ${dropped === 1 ? "message" : "messages"}.`;
  },
  status({ bridge, chatKey }) {
    const waiting = bridge.store.inbox.openPrompts(chatKey).length;
    return `${bridge.describeState()}\n${waiting === 0 ? "Nothing waits here." : `To be answered here: ${waiting}`}`;
  },
  async model(heard, argument) {
    const { backend, config } = heard.bridge;
    const session = sessionOf(heard.bridge, heard.chatKey, heard.chat);
    const models = await modelsOf(heard);
    const current = textOf(session, "model") ?? config.model;
    const others = (models ?? []).filter((id) => id !== current).slice(0, 12);
    const list = models === null ? ["The list of models cannot be had now."] : others.length > 0 ? ["Others:"] : [];
    if (argument === "") return [`Model: ${current}`, ...list, ...others].join("\n");
    if (models !== null && !models.includes(argument)) {
      const near = nearestModel(argument, models);
      return `No model ${argument.slice(0, 60)}. ${near === null ? "/model lists them." : `Did you mean ${near}?`}`;
    }
    setContext(heard.bridge, session, "model", argument);
    const isFixed = backend.remote !== null && session.remoteId !== null;
    const doubt = models === null ? "\nWhether there is such a model cannot be looked up now." : "";
    return `Model: ${argument.slice(0, 60)}${isFixed ? ", from the next /new on." : ""}${doubt}`;
  },
  title({ bridge, chatKey, chat }, argument) {
    const session = sessionOf(bridge, chatKey, chat);
    if (argument === "") return `Title: ${nameOf(bridge, session)}`;
    setContext(bridge, session, "title", argument.slice(0, 200));
    return `Title: ${argument.slice(0, 200)}`;
  },
  verbose({ bridge, chatKey, chat }, argument) {
    const session = sessionOf(bridge, chatKey, chat);
    const isOn = argument === "" ? session.context["verbose"] !== true : /^(on|yes|1|true)$/iu.test(argument);
    setContext(bridge, session, "verbose", isOn);
    return isOn ? "Tool use is shown." : "Tool use is not shown.";
  },
  sessions({ bridge, chatKey }) {
    const sessions = bridge.store.sessions.ofChat(chatKey, listMax);
    if (sessions.length === 0) return "No conversations yet.";
    const lines = sessions.map(
      (session, index) => `${index + 1}. ${nameOf(bridge, session)}${session.state === "active" ? " (this one)" : ""}`,
    );
    return [...lines, "/resume N goes back to one."].join("\n");
  },
  async resume(heard, argument) {
    const { sessions } = heard.bridge.store;
    const session = sessions.ofChat(heard.chatKey, listMax)[Number(argument) - 1];
    if (!session) return "Which one? /sessions lists them.";
    await clear(heard, "all");
    sessions.resume(session.id);
    heard.bridge.syncSoon();
    return `Back in: ${nameOf(heard.bridge, session)}`;
  },
  usage({ bridge: { store }, chatKey }) {
    const session = store.sessions.active(chatKey);
    const usage = session && store.sessions.lastOfType(session.id, "usage");
    if (usage?.type !== "usage") return "Nothing used yet.";
    const cost = usage.costCents === null ? "" : `\nCost: $${(usage.costCents / 100).toFixed(2)}`;
    return `This conversation: ${usage.inputTokens} tokens in, ${usage.outputTokens} out${cost}`;
  },
};

/** Ids; null where they cannot be had: Claude is away, or the endpoint does not list them. */
async function modelsOf({ bridge: { backend, clock, log }, signal }: Heard): Promise<string[] | null> {
  try {
    return (await within(clock, commandMs, signal, backend.models)).map(({ id }) => id);
  } catch (error) {
    if (!(error instanceof BridgeError)) throw error;
    log.warn("models not listed", toFault(error));
    return null;
  }
}

/** Conversations that `/sessions` lists and `/resume` counts by. */
const listMax = 9;

/** The title, or where nobody gave one the last that was asked. */
function nameOf({ store }: Bridge, session: Session): string {
  const title = textOf(session, "title");
  if (title !== null && title !== untitled(session.id)) return title;
  const asked = store.sessions.lastOfType(session.id, "prompt");
  return asked?.type === "prompt" && asked.text !== "" ? `“${shorten(asked.text, 40)}”` : "untitled";
}

function textOf(session: Session, key: string): string | null {
  const value = session.context[key];
  return typeof value === "string" ? value : null;
}

async function runCommand(heard: Heard, name: string, argument: string): Promise<string | null> {
  const names = commands.map((command) => command.name);
  if (Object.hasOwn(runs, name)) return runs[name as Runnable](heard, argument);
  const near = nearest(name, names);
  return `There is no /${name.slice(0, 20)}.${near === null ? "" : ` Did you mean /${near}?`} /help lists what there is.`;
}

/** Ends the running turn and drops what was open before the command, the prompt at work or all; resolves to their number. */
async function clear({ bridge, chatKey, id: before }: Heard, which: "head" | "all"): Promise<number> {
  const open = bridge.store.inbox.openPrompts(chatKey).filter(({ id }) => id < before);
  const rows = open.slice(0, which === "head" ? 1 : undefined);
  bridge.store.db.transaction(() => rows.forEach((row) => cancel(bridge, row, false)));
  const ids = rows.map(({ id }) => id);
  await bridge.interrupt(chatKey, ids).catch((error: unknown) => {
    if (!(error instanceof BridgeError)) throw error;
    bridge.log.warn("could not interrupt", toFault(error));
  });
  return rows.length;
}

function setContext(bridge: Bridge, session: Session, key: string, value: JsonValue): void {
  const { store, backend, clock, deviceTag } = bridge;
  const stamps = stampKey(session.stamps, key, clock.now() + (backend.remote?.skewMs() ?? 0), deviceTag);
  store.db.transaction(() => {
    store.sessions.setContext(session.id, { ...session.context, [key]: value }, stamps);
    if (session.remoteId !== null) store.sessions.setStale(session.id, true);
  });
  bridge.syncSoon();
}

/** Nobody answered in time: that is a no. Where Claude cannot be told now, the lane tries again. */
async function expire(heard: Heard, row: InboxRow): Promise<void> {
  const { bridge, chat, chatKey } = heard;
  const text = "Nobody answered Claude's question in time, so the answer was no.";
  bridge.store.outbox.add(`expired:${row.id}:${row.notBefore}`, chat, plainText(text), bridge.clock.now());
  bridge.wake("send", chatKey);
  await approve(heard, { answer: "no", reason: null }, unanswered(heard));
  release(bridge, chatKey);
}

/** Answers these questions of Claude's. */
async function approve(heard: Heard, { answer, reason }: Consent, chosen: readonly Question[]): Promise<string | null> {
  const isAllowed = answer !== "no";
  const why = isAllowed ? null : reason === null ? "The person said no." : `The person said no: ${reason}`;
  const { bridge, confirmed, chatKey, signal } = heard;
  const { store, backend } = bridge;
  const session = store.sessions.active(chatKey);
  if (!session || session.remoteId === null || backend.remote === null) return "Nothing waits for an answer.";
  for (const { toolUseId: id } of chosen) {
    try {
      await backend.remote.confirm(session.remoteId, id, isAllowed, why, signal);
      confirmed.add(id);
    } catch (error) {
      // A repeated confirmation is refused: then the log tells that it has been answered (claude/CLAUDE-API.md section 1.9).
      if (!(error instanceof BridgeError) || error.code !== "claude_request") throw error;
    }
  }
  // The session goes on once all of them are answered.
  if (unanswered(heard).length > 0) return null;
  release(bridge, chatKey);
  bridge.follow(session);
  return null;
}

function release({ store, wake }: Bridge, chatKey: string): void {
  for (const row of store.inbox.openPrompts(chatKey)) store.inbox.markPending(row.id);
  wake("answer", chatKey);
}
