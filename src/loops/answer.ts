/**
 * The answer loop: one lane per chat. A lane takes the oldest open prompt and runs its turn to the end; what the backend
 * yields is stored step by step, so that a crash anywhere leaves a row from which the next start goes on.
 *
 *   head ─▶ session ─▶ turn: created · sending · asked · events … ─▶ ended    (events + outbox + cursor + row done: one transaction)
 *                                                    ├─▶ waiting for a yes or no: the question goes out, the row waits
 *                                                    ├─▶ gone: new session, the person is told, asked anew
 *                                                    └─▶ fault: the bound of its class reached → told, failed
 *                                                               else told once, asked again later (core/backoff.ts)
 */
import { faultClass, nextTryMs, promptBounds } from "../core/backoff.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import type { Chat, Millis } from "../core/model.ts";
import { plainText } from "../core/reply.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session } from "../store/sessions.ts";
import type { Bridge } from "./bridge.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import { commandMs, within } from "./patience.ts";
import { show, whileTyping } from "./presence.ts";
import { buildPrompt } from "./prompt.ts";
import { endGone } from "./sync.ts";
import { runTurn, viewOf } from "./turn.ts";

export type AnswerLoop = Lanes & Pick<Bridge, "follow" | "interrupt">;

type Task = InboxRow | { readonly sessionId: string; readonly notBefore: Millis };

export function createAnswerLoop(bridge: Bridge): AnswerLoop {
  const { store, clock } = bridge;
  const following = new Map<string, string>();
  const turns = new Map<string, { readonly inboxId: number | null; readonly stop: AbortController }>();
  const lanes = createLanes<Task>(bridge, {
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
        await ("id" in task ? answerRow(bridge, task, signal) : followSession(bridge, task.sessionId, signal));
      } finally {
        turns.delete(chatKey);
      }
    },
    isOpen: bridge.canAnswer,
    max: bridge.config.limits.lanesMax,
  });
  return {
    ...lanes,
    follow({ chatKey, id }) {
      if (lanes.isBusy(chatKey)) return;
      following.set(chatKey, id);
      lanes.wake(chatKey);
    },
    async interrupt(chatKey, inboxIds) {
      const turn = turns.get(chatKey);
      if (turn && inboxIds.some((id) => id === turn.inboxId)) turn.stop.abort();
      const session = store.sessions.active(chatKey);
      const rows = inboxIds.map((id) => store.inbox.get(id));
      const isAsked = rows.some((row) => row && row.prompt.kind !== "new" && row.sessionId === session?.id);
      if (session && session.remoteId !== null && isAsked) await interruptRemote(bridge, session.remoteId);
    },
  };
}

/** A command waits for this: what Claude did not hear by then, the next sync sees to. */
async function interruptRemote({ backend, clock }: Bridge, remoteId: string): Promise<void> {
  await within(clock, commandMs, new AbortController().signal, async (signal) =>
    backend.remote?.interrupt(remoteId, signal),
  );
}

/** The title of a session until a person gives it one. */
export const untitled = (id: string): string => `Signal chat ${id.slice(0, 4)}`;

/** The active session of a chat, made where there is none. */
export function sessionOf({ store, backend, newId, clock }: Bridge, chatKey: string, chat: Chat): Session {
  const { sessions } = store;
  const active = sessions.active(chatKey);
  if (active?.backend === backend.name) return active;
  const id = newId();
  // What was chosen for the chat outlives its conversations.
  const { model, verbose } = (active ?? sessions.ofChat(chatKey, 1)[0])?.context ?? {};
  const chosen = { ...(model === undefined ? {} : { model }), ...(verbose === undefined ? {} : { verbose }) };
  return store.db.transaction(() => {
    if (active) sessions.end(active.id);
    return sessions.create(id, chat, backend.name, { title: untitled(id), ...chosen }, {}, clock.now());
  });
}

async function answerRow(bridge: Bridge, row: InboxRow, signal: AbortSignal): Promise<void> {
  const { store, clock, notices } = bridge;
  const { chat } = row.envelope;
  const account = bridge.account();
  // Lanes open when the first line has told who we are, and only what has a chat is accepted.
  if (account === null || chat === null) throw new Error("A prompt has no chat, or nobody to answer it");
  const session = sessionOf(bridge, row.chatKey, chat);
  // What was asked in a session that is over (`/new`, gone) is asked anew in this one.
  if (row.sessionId !== null && row.sessionId !== session.id) store.inbox.markNew(row.id);
  const startedAt = clock.monotonic();
  const notice = (event: "started" | "ended" | "waiting" | "failed"): void =>
    notices.emit("turn", { event, session: session.id, durationMs: clock.monotonic() - startedAt });
  notice("started");
  let hasSpoken = false;
  const on = (onBegun: () => void) => (what: "begun" | "spoken") => {
    if (what === "begun") onBegun();
    else hasSpoken = true;
  };
  try {
    const prompt = await buildPrompt(bridge, row.envelope, account, signal);
    const state = row.sessionId === session.id ? row.prompt : ({ kind: "new" } as const);
    const progress = await whileTyping(bridge, chat, (onBegun) =>
      runTurn(bridge, session, { ...prompt, state, isLastTry: isLastTry(row) }, row, on(onBegun), signal),
    );
    if (signal.aborted) return;
    notices.emit("claude", { fault: null, at: clock.now() });
    notice(progress === "waiting" ? "waiting" : "ended");
    if (progress === "waiting") bridge.wake("control", row.chatKey);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof BridgeError)) throw error;
    notice("failed");
    turnFailed(bridge, session, row, error, hasSpoken);
  } finally {
    bridge.wake("send", row.chatKey);
  }
}

/** Follows a session that somebody else set running; no prompt of ours is open in it. */
async function followSession(bridge: Bridge, sessionId: string, signal: AbortSignal): Promise<void> {
  const { store, clock } = bridge;
  const session = store.sessions.get(sessionId);
  if (session?.state !== "active") return;
  for await (const step of bridge.backend.turn(viewOf(bridge, session), null, signal)) {
    if (step.kind === "gone") return endGone(store, session, step.isBroken === true, clock.now());
    if (step.kind !== "events") continue;
    store.sessions.apply(session.id, step.events, clock.now());
    bridge.wake("send", session.chatKey);
    bridge.wake("files", session.id);
  }
}

/** Faults that nobody has to hear of while they may still pass within seconds. */
export const quietAttempts = 2;
const lastingCodes = new Set(["claude_key", "claude_credit", "claude_spend_limit", "claude_forbidden", "claude_model"]);

const isLastTry = ({ tries }: InboxRow): boolean => (tries.broken ?? 0) + 1 >= promptBounds.broken.triesMax;

/** The log says that a prompt has taken its session with it. */
function diedWith({ sessions }: Bridge["store"], id: string): boolean {
  const last = sessions.lastOfType(id, "error");
  return last?.type === "error" && last.retry === "terminal" && sessions.lastOfType(id, "terminated") !== null;
}

function turnFailed(bridge: Bridge, session: Session, row: InboxRow, error: BridgeError, hasSpoken: boolean): void {
  const { store, clock } = bridge;
  const { chat } = session;
  const now = clock.now();
  const fault = toFault(error);
  const attempts = row.attempts + 1;
  const isFatal = diedWith(store, session.id);
  const kind = faultClass(error, { isFatal, isAskedAnew: bridge.backend.remote === null, hasSpoken });
  const attempt = (row.tries[kind] ?? 0) + 1;
  bridge.log.warn("turn failed", { ...fault, attempts });
  // A voice note that nobody can hear, or a file that Signal does not give, says nothing about Claude.
  if (error.code.startsWith("claude_")) bridge.notices.emit("claude", { fault, at: now });
  const waitMs = nextTryMs(kind, { attempt, jitter: bridge.random(), retryAfterMs: error.retryAfterMs });
  const isFinal = waitMs === null;
  const isLasting = !isFinal && (lastingCodes.has(error.code) || attempts > quietAttempts || waitMs > 30_000);
  const { chat: sentence, title } = errorRow(error.code);
  const over = isFatal
    ? `Claude's session ended over that message: ${title}. Your next message starts a fresh one.`
    : promptBounds[kind].ending;
  const text = isFinal ? (over ?? sentence) : sentence;
  // Once; but whoever was promised an answer hears that none will come.
  const isTold = isFinal || (isLasting && kind !== "broken" && row.told === null);
  store.db.transaction(() => {
    if (isTold && text !== undefined) {
      const { sessionId } = row;
      const key = `${row.told === null ? "told" : "failed"}:${row.id}`;
      if (sessionId === null) store.outbox.add(key, chat, plainText(text), now);
      else store.outbox.addAnswer(key, sessionId, chat, plainText(text), now);
      store.inbox.markTold(row.id, error.code);
    }
    // What passes within seconds is no waiting that anybody has to see.
    if (isFinal || isTold) show(bridge, row.envelope, isFinal ? "failed" : "waiting");
    if (!isFinal) return void store.inbox.postpone(row.id, attempts, now + waitMs, { ...row.tries, [kind]: attempt });
    // The sentence says it: no sync has to say that the session is gone.
    if (isFatal) store.sessions.end(session.id);
    store.inbox.finish(row.id, "failed", now);
    store.settings.count("failed");
  });
}
