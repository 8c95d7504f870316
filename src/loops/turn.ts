/**
 * One turn, stored step by step: what the backend yields becomes rows before the next step is pulled, so that whoever comes
 * after a crash goes on from there. Where the turn has ended, events, replies, cursor and the inbox row are one transaction.
 */
import type { Clock, Random } from "../clock.ts";
import type { Backend, Prompt, SessionView } from "../claude/backend.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import { spokenText } from "../core/inbound.ts";
import { encodeMetadata } from "../core/metadata.ts";
import type { Account, Millis, SessionEvent, StopReason } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import { plainText } from "../core/reply.ts";
import { question, toolLine } from "../core/progress.ts";
import { progressOf, trackAll, trackTurn, type Progress } from "../core/turn.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session, Settlement } from "../store/sessions.ts";
import type { Store } from "../store/store.ts";
import { greet } from "./greet.ts";
import type { NoticeBus } from "./notices.ts";
import { createDraft } from "./draft.ts";
import type { Presence } from "./presence.ts";
import { type Transcribe } from "./prompt.ts";
import { endGone } from "./sync.ts";

/** What answering needs of the rest of the program. */
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

/** A session as a backend sees it. */
export function viewOf(deps: AnswerDeps, session: Session): SessionView {
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

/** Runs one turn to its end and settles the row; resolves to how it ended. */
export async function runTurn(
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
