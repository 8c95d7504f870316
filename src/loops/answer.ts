/**
 * The answer loop: one lane per chat. A lane takes the oldest open prompt and runs its turn to the end; what the backend
 * yields is stored step by step, so that a crash anywhere leaves a row from which the next start goes on.
 *
 *   head ─▶ session ─▶ turn: created · sending · asked · events … ─▶ ended    (events + outbox + cursor + row done: one transaction)
 *                                                    ├─▶ waiting for a yes or no: the question goes out, the row waits
 *                                                    ├─▶ gone: new session, the person is told, asked anew
 *                                                    └─▶ fault: never → told, failed · else told once, asked again later
 */
import type { Clock, Random } from "../clock.ts";
import type { Backend, Prompt, SessionView } from "../claude/backend.ts";
import { backoffMs, defaultBackoff } from "../core/backoff.ts";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import { spokenText } from "../core/inbound.ts";
import { encodeMetadata } from "../core/metadata.ts";
import type { Account, Chat, Millis, SessionEvent, StopReason } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import { plainText } from "../core/reply.ts";
import { question, toolLine } from "../core/tools.ts";
import { progressOf, trackAll, trackTurn, type Progress } from "../core/turn.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session, Settlement } from "../store/sessions.ts";
import type { Store } from "../store/store.ts";
import { greet } from "./greet.ts";
import { createLanes, type Lanes } from "./lanes.ts";
import type { NoticeBus } from "./notices.ts";
import { createDraft } from "./draft.ts";
import type { Presence } from "./presence.ts";
import { buildPrompt, type Transcribe } from "./prompt.ts";
import { endGone } from "./sync.ts";
import { whileTyping } from "./typing.ts";

export type AnswerDeps = {
  readonly backend: Backend;
  readonly transport: Transport;
  readonly store: Store;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly notices: NoticeBus;
  readonly model: string;
  readonly system: string;
  readonly lanesMax: number;
  readonly newId: () => string;
  readonly account: () => Account | null;
  /** Not while SYNCING, and not before the first sync. */
  readonly isOpen: () => boolean;
  /** The line is up, so that typing indicators make sense. */
  readonly isConnected: () => boolean;
  /** Outbox rows were added. */
  readonly onOutbox: () => void;
  readonly presence: Presence;
  readonly isProgressShown: boolean;
  readonly isWelcoming: boolean;
  /** A question of Claude's is open for so long. */
  readonly approvalMs: Millis;
  readonly transcribe: Transcribe | null;
};

export interface AnswerLoop extends Lanes {
  /** Follows a session that runs at the API although no prompt of ours is open. */
  follow(session: Session): void;
  /** These rows are over: the turn of one of them ends here, and at Claude where it was asked. The rows are left to the caller. */
  interrupt(chatKey: string, inboxIds: readonly number[]): Promise<void>;
  /** The active session of a chat, made where there is none. */
  sessionOf(chatKey: string, chat: Chat): Session;
}

export function createAnswerLoop(deps: AnswerDeps): AnswerLoop {
  const { store, clock } = deps;
  const following = new Map<string, string>();
  const turns = new Map<string, { readonly inboxId: number | null; readonly stop: AbortController }>();

  const work = async (chatKey: string, kill: AbortSignal): Promise<void> => {
    const row = store.inbox.head(chatKey, "prompt");
    const stop = new AbortController();
    turns.set(chatKey, { inboxId: row?.id ?? null, stop });
    try {
      const signal = AbortSignal.any([kill, stop.signal]);
      const followed = following.get(chatKey);
      following.delete(chatKey);
      const isDue = store.inbox.heads().some((head) => head.chatKey === chatKey && head.notBefore <= clock.now());
      if (row && isDue) await answerRow(deps, row, signal);
      else if (followed !== undefined) await followSession(deps, followed, signal);
    } finally {
      turns.delete(chatKey);
    }
  };

  const lanes = createLanes({
    name: "answer",
    heads: () => [...store.inbox.heads(), ...[...following.keys()].map((chatKey) => ({ chatKey, notBefore: 0 }))],
    work,
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
      lanes.wake();
    },
    async interrupt(chatKey, inboxIds) {
      const turn = turns.get(chatKey);
      if (turn && inboxIds.some((id) => id === turn.inboxId)) turn.stop.abort();
      const session = store.sessions.active(chatKey);
      const rows = inboxIds.map((id) => store.inbox.get(id));
      const isAsked = rows.some((row) => row && row.prompt.kind !== "new" && row.sessionId === session?.id);
      if (session && isAsked) await deps.backend.interrupt(viewOf(deps, session), new AbortController().signal);
    },
    sessionOf: (chatKey, chat) => sessionOf(deps, chatKey, chat),
  };
}

function sessionOf(deps: AnswerDeps, chatKey: string, chat: Chat): Session {
  const { sessions } = deps.store;
  const active = sessions.active(chatKey);
  if (active && active.backend === deps.backend.name) return active;
  const id = deps.newId();
  return deps.store.db.transaction(() => {
    if (active) sessions.end(active.id);
    return sessions.create(
      id,
      chat,
      deps.backend.name,
      { title: `Signal chat ${id.slice(0, 4)}` },
      {},
      deps.clock.now(),
    );
  });
}

function viewOf(deps: AnswerDeps, session: Session): SessionView {
  const { context } = session;
  return {
    id: session.id,
    remoteId: session.remoteId,
    cursor: session.cursor,
    title: typeof context["title"] === "string" ? context["title"] : "Signal chat",
    model: typeof context["model"] === "string" ? context["model"] : deps.model,
    system: deps.system,
    metadata: { ...encodeMetadata(context, session.stamps), "sb.schema": "1", "sb.chat": session.id.slice(0, 8) },
    get mappedEventIds() {
      return deps.store.inbox.mappedEventIds(session.id);
    },
    history: () => deps.store.sessions.events(session.id),
  };
}

async function answerRow(deps: AnswerDeps, row: InboxRow, signal: AbortSignal): Promise<void> {
  const { store, clock } = deps;
  const account = deps.account();
  const { chat } = row.envelope;
  if (account === null || chat === null) return store.inbox.postpone(row.id, row.attempts, clock.now() + 1_000);
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
    deps.onOutbox();
  }
}

/** Runs one turn to its end and settles the row; resolves to how it ended. */
async function runTurn(
  deps: AnswerDeps,
  session: Session,
  prompt: Prompt,
  row: InboxRow,
  onBegun: () => void,
  signal: AbortSignal,
): Promise<"ended" | "waiting" | "gone"> {
  const { store, clock } = deps;
  let eventId = prompt.state.kind === "asked" ? prompt.state.eventId : null;
  const asks = new Map<string, SessionEvent>();
  const quiet: SessionEvent[] = [];
  let progress: Progress = progressOf(null);
  const draft = createDraft(deps, row, session.id, session.chat);
  /** From what a sync, an earlier look or the last life has stored of this turn already. */
  const resume = (): void => {
    const stored = eventId === null ? [] : store.sessions.events(session.id, eventId);
    for (const event of stored) noteAsk(asks, event);
    progress = trackAll(progressOf(eventId), stored);
  };
  resume();
  if (progress.kind === "ended") apply(deps, session, row, [], progress, eventId, asks);
  if (progress.kind === "ended") return "ended";
  if (eventId !== null) onBegun();
  for await (const step of deps.backend.turn(viewOf(deps, session), prompt, signal)) {
    switch (step.kind) {
      case "created":
        store.sessions.setRemote(session.id, step.remoteId);
        break;
      case "sending":
        markAsking(deps, session, row, prompt.text);
        break;
      case "asked":
        eventId = step.eventId;
        store.inbox.markAsked(row.id, session.id, eventId);
        onBegun();
        resume();
        break;
      case "events": {
        for (const event of step.events) {
          noteAsk(asks, event);
          progress = trackTurn(progress, event);
        }
        quiet.push(...step.events);
        if (deps.backend.remote && isUnderWay(progress) && step.events.every(isQuiet)) break;
        apply(deps, session, row, quiet.splice(0), progress, eventId, asks);
        if (progress.kind === "running" && !isVerbose(store, session)) draft.events(step.events);
        deps.onOutbox();
        break;
      }
      case "delta":
        draft.delta(step.eventId, step.text);
        break;
      case "gone":
        endGone(store, session, clock.now());
        store.inbox.markNew(row.id);
        return "gone";
    }
  }
  if (progress.kind === "ended") return "ended";
  if (progress.kind === "waiting") {
    apply(deps, session, row, [], progress, eventId, asks);
    return "waiting";
  }
  if (progress.kind === "flushed") store.inbox.markNew(row.id);
  if (progress.kind !== "flushed" && signal.aborted) return "ended";
  throw unfinished(progress);
}

function markAsking({ store, clock, backend }: AnswerDeps, session: Session, row: InboxRow, text: string): void {
  store.db.transaction(() => {
    store.sessions.touch(session.id, clock.now());
    // In the server's time, as known now: somebody may set our clock before the prompt is looked for.
    store.inbox.markAsking(row.id, session.id, clock.now() + (backend.remote?.skewMs() ?? 0), text);
  });
}

const unfinished = ({ kind }: Progress): BridgeError =>
  kind === "flushed"
    ? new BridgeError("claude_overloaded", "Cannot finish the turn as Claude gave it up after its own retries")
    : new BridgeError("claude_stream_lost", "Cannot follow the turn as its stream ended early");

/** Nobody reads these, and the log at the API keeps them: they wait for the commit of the next that matters. */
const isQuiet = ({ type }: SessionEvent): boolean =>
  type === "prompt" || type === "running" || type === "usage" || type === "other";
const isUnderWay = ({ kind }: Progress): boolean => kind === "queued" || kind === "running";

const noteAsk = (asks: Map<string, SessionEvent>, event: SessionEvent): void => {
  if (event.type === "tool_use" && event.isAsk) asks.set(event.id, event);
};

/** One transaction: events, replies, cursor, and where the turn has ended also the row. */
function apply(
  deps: AnswerDeps,
  session: Session,
  row: InboxRow,
  events: readonly SessionEvent[],
  progress: Progress,
  promptId: string | null,
  asks: ReadonlyMap<string, SessionEvent>,
): void {
  const { store, clock } = deps;
  store.db.transaction(() => {
    const now = clock.now();
    const { added } = store.sessions.apply(session.id, events, now);
    for (const event of isVerbose(store, session) ? added : [])
      if (event.type === "tool_use")
        store.outbox.add(`tool:${session.id}:${event.id}`, session.chat, plainText(toolLine(event)), now);
    // Where it was taken back meanwhile, its end is nobody's business any more.
    if (progress.kind === "ended" && store.inbox.get(row.id)?.state !== "done") {
      const isAnswered = promptId !== null && store.sessions.hasReplySince(session.id, promptId);
      const text = lastWord(progress.stop, isAnswered);
      if (text !== null) store.outbox.addAnswer(`end:${row.id}`, session.id, session.chat, plainText(text), now);
      const settle = settlement(row, progress.stop);
      store.sessions.apply(session.id, [], now, settle);
      deps.presence.show(row.envelope, settle.outcome === "failed" ? "failed" : "done");
      if (deps.isWelcoming) greet(store, row.envelope, now);
    }
    if (progress.kind === "waiting") {
      const account = deps.account();
      const body = textOf(row.envelope);
      const prompt = body && account ? spokenText(body, account) : "";
      for (const id of progress.toolUseIds) {
        const ask = asks.get(id);
        const text = question(ask?.type === "tool_use" ? ask : null, prompt, progress.toolUseIds.length);
        store.outbox.add(`ask:${session.id}:${id}`, session.chat, plainText(text), now);
      }
      store.inbox.markWaiting(row.id, now + deps.approvalMs);
      deps.presence.show(row.envelope, "waiting");
    }
  });
}

/** As it stands now: `/verbose` may come in the middle of a turn. */
const isVerbose = (store: Store, { id }: Session): boolean => store.sessions.get(id)?.context["verbose"] === true;

function settlement(row: InboxRow, stop: StopReason): Settlement {
  const isFailure = stop.kind === "refusal" || stop.kind === "context_exceeded" || stop.kind === "budget_reached";
  return { inboxId: row.id, outcome: isFailure ? "failed" : "answered" };
}

/** What the person must still be told when a turn has ended, or null. */
function lastWord(stop: StopReason, isAnswered: boolean): string | null {
  switch (stop.kind) {
    case "refusal":
      return errorRow("claude_refusal").chat ?? null;
    case "context_exceeded":
      return errorRow("claude_context").chat ?? null;
    case "budget_reached":
      return errorRow("claude_budget").chat ?? null;
    case "max_tokens":
      return 'The answer was cut at the length limit. Say "go on" for the rest.';
    case "end_turn":
    case "requires_action":
    case "retries_exhausted":
    case "other":
      return isAnswered ? null : "Claude finished without a message.";
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
    deps.onOutbox();
  }
}

/** A turn goes on without its stream: looking again costs little, and long silent work must not make the answer late. */
const streamBackoff = { ...defaultBackoff, capMs: 5_000 };
/** Faults that nobody has to hear of while they may still pass within seconds. */
const quietAttempts = 2;
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
    deps.presence.show(row.envelope, isFinal ? "failed" : "waiting");
    if (isFinal) {
      store.inbox.finish(row.id, "failed", now);
      store.settings.count("failed");
    } else store.inbox.postpone(row.id, attempts, now + waitMs);
  });
}
