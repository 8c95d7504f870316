/**
 * The answer loop: one lane per chat. A lane takes the oldest open prompt and runs its turn to the end; what the backend
 * yields is stored step by step, so that a crash anywhere leaves a row from which the next start goes on.
 *
 *   head ─▶ session ─▶ turn: created · sending · asked · events … ─▶ ended    (events + outbox + cursor + row done: one transaction)
 *                                                    ├─▶ waiting for a yes or no: the question goes out, the row waits
 *                                                    ├─▶ gone: new session, the person is told, asked anew
 *                                                    └─▶ fault: never → told, failed · else told once, asked again later
 */
import { backoffMs, defaultBackoff } from "../core/backoff.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import type { Chat, Millis } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session } from "../store/sessions.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import { buildPrompt } from "./prompt.ts";
import { endGone } from "./sync.ts";
import { whileTyping } from "./typing.ts";
import { runTurn, viewOf, type AnswerDeps } from "./turn.ts";

export interface AnswerLoop extends Lanes {
  /** Follows a session that runs at the API although no prompt of ours is open. */
  follow(session: Session): void;
  /** These rows are over: the turn of one of them ends here, and at Claude where it was asked. The rows are left to the caller. */
  interrupt(chatKey: string, inboxIds: readonly number[]): Promise<void>;
  /** The active session of a chat, made where there is none. */
  sessionOf(chatKey: string, chat: Chat): Session;
}

type Task = InboxRow | { readonly sessionId: string; readonly notBefore: Millis };

export function createAnswerLoop(deps: AnswerDeps): AnswerLoop {
  const { store, clock } = deps;
  const following = new Map<string, string>();
  const turns = new Map<string, { readonly inboxId: number | null; readonly stop: AbortController }>();

  const lanes = createLanes<Task>({
    name: "answer",
    chats: () => [...store.inbox.openChats(), ...following.keys()],
    /** A prompt that is due; else a session to be followed; else the prompt when it will be due. */
    head(chatKey) {
      const row = store.inbox.headToAsk(chatKey);
      const sessionId = following.get(chatKey);
      if (sessionId === undefined || (row && row.notBefore <= clock.now())) return row;
      return { sessionId, notBefore: 0 };
    },
    async work(task, chatKey, kill) {
      const stop = new AbortController();
      const signal = AbortSignal.any([kill, stop.signal]);
      turns.set(chatKey, { inboxId: "id" in task ? task.id : null, stop });
      following.delete(chatKey);
      try {
        await ("id" in task ? answerRow(deps, task, signal) : followSession(deps, task.sessionId, signal));
      } finally {
        turns.delete(chatKey);
      }
    },
    isOpen: deps.isOpen,
    max: deps.lanesMax,
    clock,
    random: deps.random,
    log: deps.log,
  });
  return {
    ...lanes,
    follow(session) {
      if (lanes.isBusy(session.chatKey)) return;
      following.set(session.chatKey, session.id);
      lanes.wake(session.chatKey);
    },
    async interrupt(chatKey, inboxIds) {
      const turn = turns.get(chatKey);
      if (turn && inboxIds.some((id) => id === turn.inboxId)) turn.stop.abort();
      const session = store.sessions.active(chatKey);
      const rows = inboxIds.map((id) => store.inbox.get(id));
      const isAsked = rows.some((row) => row && row.prompt.kind !== "new" && row.sessionId === session?.id);
      if (session && session.remoteId !== null && isAsked)
        await deps.backend.remote?.interrupt(session.remoteId, new AbortController().signal);
    },
    sessionOf: (chatKey, chat) => sessionOf(deps, chatKey, chat),
  };
}

/** The title of a session until a person gives it one. */
export const untitled = (id: string): string => `Signal chat ${id.slice(0, 4)}`;

function sessionOf(deps: AnswerDeps, chatKey: string, chat: Chat): Session {
  const { sessions } = deps.store;
  const active = sessions.active(chatKey);
  if (active && active.backend === deps.backend.name) return active;
  const id = deps.newId();
  // What was chosen for the chat outlives its conversations.
  const { model, verbose } = (active ?? sessions.ofChat(chatKey, 1)[0])?.context ?? {};
  const chosen = { ...(model === undefined ? {} : { model }), ...(verbose === undefined ? {} : { verbose }) };
  return deps.store.db.transaction(() => {
    if (active) sessions.end(active.id);
    const context = { title: untitled(id), ...chosen };
    return sessions.create(id, chat, deps.backend.name, context, {}, deps.clock.now());
  });
}

async function answerRow(deps: AnswerDeps, row: InboxRow, signal: AbortSignal): Promise<void> {
  const { store, clock } = deps;
  const account = deps.account();
  const { chat } = row.envelope;
  if (account === null || chat === null) return void store.inbox.postpone(row.id, row.attempts, clock.now() + 1_000);
  const session = sessionOf(deps, row.chatKey, chat);
  // What was asked in a session that is over (`/new`, gone) is asked anew in this one.
  if (row.sessionId !== null && row.sessionId !== session.id) store.inbox.markNew(row.id);
  const startedAt = clock.monotonic();
  const notice = (event: "started" | "ended" | "waiting" | "failed"): void =>
    deps.notices.emit("turn", { event, session: session.id, durationMs: clock.monotonic() - startedAt });
  notice("started");
  try {
    const prompt = await buildPrompt(deps, row.envelope, account, signal);
    const state = row.sessionId === session.id ? row.prompt : ({ kind: "new" } as const);
    const progress = await whileTyping(deps, chat, (onBegun) =>
      runTurn(deps, session, { ...prompt, state }, row, onBegun, signal),
    );
    if (signal.aborted) return;
    deps.notices.emit("claude", { fault: null, at: clock.now() });
    notice(progress === "waiting" ? "waiting" : "ended");
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    notice("failed");
    turnFailed(deps, row, chat, error);
  } finally {
    deps.onOutbox(row.chatKey);
  }
}

/** Follows a session that somebody else set running; no prompt of ours is open in it. */
async function followSession(deps: AnswerDeps, sessionId: string, signal: AbortSignal): Promise<void> {
  const session = deps.store.sessions.get(sessionId);
  if (!session || session.state !== "active") return;
  for await (const step of deps.backend.turn(viewOf(deps, session), null, signal)) {
    if (step.kind === "gone") return endGone(deps.store, session, deps.clock.now());
    if (step.kind !== "events") continue;
    deps.store.sessions.apply(session.id, step.events, deps.clock.now());
    deps.onOutbox(session.chatKey);
  }
}

/** A turn goes on without its stream: looking again costs little, and long silent work must not make the answer late. */
const streamBackoff = { ...defaultBackoff, capMs: 5_000 };
/** Faults that nobody has to hear of while they may still pass within seconds. */
export const quietAttempts = 2;
const lastingCodes = new Set(["claude_key", "claude_credit", "claude_spend_limit", "claude_forbidden", "claude_model"]);

function turnFailed(deps: AnswerDeps, row: InboxRow, chat: Chat, error: BridgeError): void {
  const { store, clock } = deps;
  const now = clock.now();
  const fault = toFault(error);
  const attempts = row.attempts + 1;
  deps.log.warn("turn failed", { ...fault, attempts });
  deps.notices.emit("claude", { fault, at: now });
  const input = { attempt: attempts, jitter: deps.random(), retryAfterMs: error.retryAfterMs };
  const waitMs = backoffMs(input, error.code === "claude_stream_lost" ? streamBackoff : defaultBackoff);
  const isFinal = error.retry === "never";
  const isTold =
    row.told === null && (isFinal || lastingCodes.has(error.code) || attempts > quietAttempts || waitMs > 30_000);
  store.db.transaction(() => {
    const sentence = errorRow(error.code).chat;
    if (isTold && sentence !== undefined) {
      const { sessionId } = row;
      if (sessionId === null) store.outbox.add(`told:${row.id}`, chat, plainText(sentence), now);
      else store.outbox.addAnswer(`told:${row.id}`, sessionId, chat, plainText(sentence), now);
      store.inbox.markTold(row.id, error.code);
    }
    // What passes within seconds is no waiting that anybody has to see.
    if (isFinal || isTold) deps.presence.show(row.envelope, isFinal ? "failed" : "waiting");
    if (isFinal) {
      store.inbox.finish(row.id, "failed", now);
      store.settings.count("failed");
    } else store.inbox.postpone(row.id, attempts, now + waitMs);
  });
}
