/**
 * One turn, stored step by step: what the backend yields becomes rows before the next step is pulled, so that whoever comes
 * after a crash goes on from there. Where the turn has ended, events, replies, cursor and the inbox row are one transaction.
 */
import type { Prompt, SessionView, TurnStep } from "../claude/backend.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import { spokenText } from "../core/inbound.ts";
import { encodeMetadata } from "../core/metadata.ts";
import type { Millis, SessionEvent, StopReason } from "../core/model.ts";
import { textOf } from "../core/prompt.ts";
import { plainText } from "../core/reply.ts";
import { itemOf, question } from "../core/question.ts";
import { progressOf, trackAll, type Progress } from "../core/turn.ts";
import type { InboxRow } from "../store/inbox.ts";
import type { Session } from "../store/sessions.ts";
import type { Bridge } from "./bridge.ts";
import { createDraft, type Draft } from "./draft.ts";
import { greet } from "./greet.ts";
import { show } from "./presence.ts";
import { questionKey } from "./questions.ts";
import { endGone } from "./sync.ts";

/** A session as a backend sees it. */
export function viewOf(bridge: Bridge, session: Session): SessionView {
  const { context } = session;
  return {
    id: session.id,
    remoteId: session.remoteId,
    cursor: session.cursor,
    title: typeof context["title"] === "string" ? context["title"] : "Signal chat",
    model: typeof context["model"] === "string" ? context["model"] : bridge.config.model,
    system: bridge.config.system,
    metadata: { ...encodeMetadata(context, session.stamps), "sb.schema": "1", "sb.chat": session.id.slice(0, 8) },
    get mappedEventIds() {
      return bridge.store.inbox.mappedEventIds(session.id);
    },
    history: () => bridge.store.sessions.events(session.id),
  };
}

/** The answer that says what our prompt is called may wait this long for company: until then a crash finds it by its text. */
const askedHoldMs: Millis = 20;
const minuteMs: Millis = 60_000;

/** Runs one turn to its end and settles the row; resolves to how it ended. `on` hears when Claude has the prompt, and has begun to answer. */
export async function runTurn(
  bridge: Bridge,
  session: Session,
  prompt: Prompt,
  row: InboxRow,
  on: (what: "begun" | "spoken") => void,
  signal: AbortSignal,
): Promise<"ended" | "waiting" | "gone"> {
  const { store, clock, backend } = bridge;
  const draft = createDraft(bridge, row, session.id, session.chat);
  const ledger = createLedger(bridge, session, prompt, row, draft);
  if (ledger.progress().kind === "ended") {
    ledger.write();
    return "ended";
  }
  if (prompt.state.kind === "asked") on("begun");
  /** Until our prompt is on its way, what Claude writes answers somebody else: no preview of ours. */
  let isSent = prompt.state.kind !== "new";
  const run = (until: AbortSignal): AsyncIterable<TurnStep> => backend.turn(viewOf(bridge, session), prompt, until);
  for await (const step of gather(bridge, run, signal, ledger.holdMs)) {
    switch (step.kind) {
      case "pause":
        ledger.write();
        break;
      case "created":
        store.sessions.setRemote(session.id, step.remoteId);
        break;
      case "sending":
        isSent = true;
        store.db.transaction(() => {
          ledger.write();
          // In the server's time, as known now: somebody may set our clock before the prompt is looked for.
          store.inbox.markAsking(row.id, session.id, clock.now() + (backend.remote?.skewMs() ?? 0), prompt.text);
        });
        break;
      case "asked":
        ledger.asked(step.eventId);
        on("begun");
        break;
      case "events":
        ledger.add(step.events);
        break;
      case "delta":
        on("spoken");
        if (isSent) draft.delta(step.eventId, step.text);
        break;
      case "gone":
        endGone(store, session, step.isBroken === true, clock.now());
        store.inbox.markNew(row.id);
        return "gone";
    }
  }
  const { kind } = ledger.progress();
  if (kind === "ended" || kind === "waiting") return kind;
  if (kind === "flushed") store.inbox.markNew(row.id);
  else if (signal.aborted) return "ended";
  throw unfinished(kind);
}

/** What is known of the turn, and what of it the backend has yielded and the database does not have yet. */
function createLedger(bridge: Bridge, session: Session, prompt: Prompt, row: InboxRow, draft: Draft) {
  const { store } = bridge;
  const asks = new Map<string, SessionEvent>();
  let eventId = prompt.state.kind === "asked" ? prompt.state.eventId : null;
  let progress: Progress = progressOf(null);
  let isNews = false;
  let events: SessionEvent[] = [];

  const note = (seen: readonly SessionEvent[]): void => {
    for (const event of seen) if (event.type === "tool_use" && event.isAsk) asks.set(event.id, event);
    progress = trackAll(progress, seen);
  };
  /** From what a sync, an earlier look or the last life has stored of this turn already. */
  const resume = (): void => {
    progress = progressOf(eventId, progress.facts.earlierStopIds);
    if (eventId !== null && prompt.state.kind !== "new") note(store.sessions.events(session.id, eventId));
  };
  resume();
  let written = isUnderWay(progress) ? progress : null;
  return {
    progress: () => progress,
    asked(id: string): void {
      eventId = id;
      isNews = true;
      resume();
    },
    add(more: readonly SessionEvent[]): void {
      events.push(...more);
      note(more);
    },
    /** How long what is held may wait for what comes next; null: as long as it takes. */
    holdMs(): Millis | null {
      if (!isNews && events.length === 0) return null;
      if (bridge.backend.remote === null || !isUnderWay(progress) || !events.every(isQuiet)) return 0;
      return isNews ? askedHoldMs : null;
    },
    /** One transaction. */
    write(): void {
      if (!isNews && events.length === 0 && progress === written) return;
      const [asked, fresh] = [isNews ? eventId : null, events];
      isNews = false;
      events = [];
      written = progress;
      const isVerbose = store.db.transaction(() => {
        if (asked !== null) store.inbox.markAsked(row.id, session.id, asked);
        return record(bridge, session, row, fresh, progress, eventId, asks);
      });
      if (progress.kind === "running" && !isVerbose) draft.events(fresh);
      bridge.wake("send", row.chatKey);
      if (fresh.some(({ type }) => type === "tool_result")) bridge.wake("files", session.id);
    },
  };
}

/**
 * The steps of a turn, each as soon as it is there, and a pause where none has come for as long as what is held may wait
 * (null: for ever), and at the end, a failure included: what comes at once is written at once, in one commit.
 */
async function* gather(
  { clock }: Bridge,
  run: (signal: AbortSignal) => AsyncIterable<TurnStep>,
  signal: AbortSignal,
  holdMs: () => Millis | null,
): AsyncGenerator<TurnStep | { readonly kind: "pause" }> {
  const cut = new AbortController();
  const steps = run(AbortSignal.any([signal, cut.signal]))[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = steps.next();
      const ms = holdMs();
      if (ms !== null && !(await isWithin(next, ms, clock))) yield { kind: "pause" };
      const { done, value } = await next;
      if (done) break;
      yield value;
    }
  } catch (error) {
    yield { kind: "pause" };
    throw error;
  } finally {
    cut.abort();
    await steps.return?.();
  }
  yield { kind: "pause" };
}

async function isWithin(work: Promise<unknown>, ms: Millis, clock: Bridge["clock"]): Promise<boolean> {
  const timer = new AbortController();
  const yes = (): boolean => true;
  return Promise.race([work.then(yes, yes), clock.sleep(ms, timer.signal).then(() => false)]).finally(() =>
    timer.abort(),
  );
}

const unfinished = (kind: Progress["kind"]): BridgeError =>
  kind === "flushed"
    ? new BridgeError("claude_overloaded", "Cannot finish the turn as Claude gave it up after its own retries")
    : new BridgeError("claude_stream_lost", "Cannot follow the turn as its stream ended early");

/** Nobody reads these, and the log at the API keeps them: they wait for the commit of the next that matters. */
const isQuiet = ({ type }: SessionEvent): boolean =>
  type === "prompt" || type === "running" || type === "usage" || type === "other";
const isUnderWay = ({ kind }: Progress): boolean => kind === "queued" || kind === "running";

/** Events, replies, cursor, and where the turn has ended also the row; part of the caller's transaction. True where tool use is shown. */
function record(
  bridge: Bridge,
  session: Session,
  row: InboxRow,
  events: readonly SessionEvent[],
  progress: Progress,
  promptId: string | null,
  asks: ReadonlyMap<string, SessionEvent>,
): boolean {
  const { store, clock } = bridge;
  const now = clock.now();
  const applied = store.sessions.apply(session.id, events, now);
  // Where it was taken back meanwhile, its end is nobody's business any more.
  if (progress.kind === "ended" && store.inbox.get(row.id)?.state !== "done") {
    const isAnswered = promptId !== null && store.sessions.hasReplySince(session.id, promptId);
    const text = lastWord(progress.stop, isAnswered);
    if (text !== null) store.outbox.addAnswer(`end:${row.id}`, session.id, session.chat, plainText(text), now);
    const outcome = outcomeOf(progress.stop);
    // A sync that found the session gone in this very moment has taken the row out of it.
    if (promptId !== null) store.inbox.markAsked(row.id, session.id, promptId);
    store.inbox.finish(row.id, outcome, now);
    store.settings.count(outcome);
    show(bridge, row.envelope, outcome === "failed" ? "failed" : "done");
    greet(bridge, row.envelope);
  }
  if (progress.kind === "waiting") {
    const account = bridge.account();
    const body = textOf(row.envelope);
    const prompt = body && account ? spokenText(body, account) : "";
    const isGroup = session.chat.kind === "group" || progress.toolUseIds.length > 1;
    for (const id of progress.toolUseIds) {
      const ask = asks.get(id);
      const { text, file } = question([itemOf(ask?.type === "tool_use" ? ask : null)], { prompt, isGroup });
      const body = { kind: "text", text, styles: [], quote: null, files: file ? [file] : [] } as const;
      store.outbox.add(questionKey(session.id, id), session.chat, body, now);
    }
    store.inbox.markWaiting(row.id, now + bridge.config.approvalMinutes * minuteMs);
    show(bridge, row.envelope, "waiting");
  }
  // As it stands now: `/verbose` may come in the middle of a turn.
  return applied.session.context["verbose"] === true;
}

const outcomeOf = ({ kind }: StopReason): "failed" | "answered" =>
  kind === "refusal" || kind === "context_exceeded" || kind === "budget_reached" ? "failed" : "answered";

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
    case "cut":
      return 'The line to Claude broke off here. Say "go on" for the rest.';
    case "end_turn":
    case "requires_action":
    case "retries_exhausted":
    case "other":
      return isAnswered ? null : "Claude finished without a message.";
  }
}
