/** Builds the answer of `GET /status` (docs/operating.md). Times are RFC 3339, durations ms. */
import type { Config } from "../config.ts";
import type { State } from "../core/connection.ts";
import { errorTable, type Fault, type UserAction } from "../core/errors.ts";
import type { Account, Millis } from "../core/model.ts";
import type { ConnectionLoop } from "../loops/connector.ts";
import type { Bridge, NoticeBus } from "../loops/bridge.ts";
import { dayOf } from "../core/when.ts";
import { maskAddress } from "../log.ts";
import { version } from "../version.ts";

type Explained = { readonly code: string; readonly message: string; readonly hint: string };
export type FaultView = Explained & { readonly userAction: UserAction | null };

export type Status = ReturnType<ReturnType<typeof createStatusModel>["snapshot"]>;

export type StatusDeps = Pick<Bridge, "clock" | "store" | "notices" | "transport" | "line" | "account"> & {
  readonly config: Config;
  readonly connection: ConnectionLoop;
  readonly timeZone?: string;
};

/** A session counts as active when it was used within this time. */
const activeMs: Millis = 24 * 3_600_000;

/** Puts the status together: recent facts from notices, counts from the database, the line from the state machine. */
export function createStatusModel(deps: StatusDeps) {
  const { clock, config, store, transport, line } = deps;
  const startedAt = clock.monotonic();
  const recent = follow(deps.notices);
  const today = (): number => {
    const day = dayOf(clock.now(), deps.timeZone ?? "UTC");
    return store.usage.between(day, day, null).costCents;
  };
  const counter = store.counters.get;
  const queue = ({ count, oldestAt }: { count: number; oldestAt: Millis | null }) => ({
    pending: count,
    oldestMs: oldestAt === null ? null : Math.max(0, clock.now() - oldestAt),
  });
  const view = (account: Account | null) => ({
    version,
    uptimeMs: Math.round(clock.monotonic() - startedAt),
    connection: connectionView(deps.connection.state(), clock.now() - clock.monotonic()),
    signal: {
      transport: transport.name,
      /** Masked, `+1…42`; null before the first connect. */
      account: account && maskAddress(account),
      /** Messages that could not be opened or trusted, kept unread; they are forgotten after a month. */
      quarantined: transport.quarantined?.() ?? 0,
      ...recent.signal,
    },
    claude: { backend: line.name as string, model: config.model, ...recent.claude },
    sessions: { ...store.sessions.counts(clock.now() - activeMs), ...recent.sync },
    inbox: {
      ...queue(store.inbox.pending()),
      answered: counter("answered"),
      dropped: counter("dropped"),
      failed: counter("failed"),
    },
    outbox: {
      ...queue(store.outbox.pending()),
      sent: counter("sent"),
      uncertain: counter("uncertain"),
      failed: counter("sendFailed"),
      fault: toFaultView(recent.outboxFault),
    },
    /** Reads that failed since the process started, and why the last one did. */
    database: { failedReads: store.db.failures.count, lastFailure: store.db.failures.last },
    /** Tokens that Claude read (from the cache and into it included) and wrote, their list price, and how long answers took. */
    usage: {
      inputTokens: counter("inputTokens"),
      outputTokens: counter("outputTokens"),
      costDollars: counter("costMicros") / 1_000_000,
      todayDollars: today() / 100,
      ...recent.answers,
    },
  });
  return { snapshot: () => view(deps.account()) };
}

/** Keeps what notices have told since the process started. */
function follow(notices: NoticeBus) {
  const recent = {
    signal: { lastReceivedAt: null as string | null, lastSentAt: null as string | null },
    /** `reachable` is null before the first contact. */
    claude: { reachable: null as boolean | null, lastError: null as (Explained & { readonly at: string }) | null },
    sync: {
      lastSyncAt: null as string | null,
      lastSync: { checked: 0, changed: 0, pushed: 0, failed: 0, durationMs: 0 },
    },
    outboxFault: null as Fault | null,
    answers: { answers: 0, answersMs: 0 },
  };
  notices.on("received", ({ at, accepted }) => {
    if (accepted > 0) recent.signal = { ...recent.signal, lastReceivedAt: toTime(at) };
  });
  notices.on("sent", ({ at }) => (recent.signal = { ...recent.signal, lastSentAt: toTime(at) }));
  notices.on("claude", ({ fault, at }) => {
    // A refusal for good comes from Claude, which was reached then.
    const reachable = fault === null || errorTable[fault.code].retry === "never";
    recent.claude = { reachable, lastError: fault && { ...explained(fault), at: toTime(at) } };
  });
  notices.on("outboxFault", ({ fault }) => (recent.outboxFault = fault));
  notices.on("ended", ({ durationMs }) => {
    const { answers, answersMs } = recent.answers;
    recent.answers = { answers: answers + 1, answersMs: answersMs + Math.round(durationMs) };
  });
  notices.on("synced", ({ at, ...sync }) => {
    recent.sync = { lastSyncAt: toTime(at), lastSync: { ...sync, durationMs: Math.round(sync.durationMs) } };
  });
  return recent;
}

/** The state's times are monotonic: `offsetMs` turns them into wall time as it is now. */
function connectionView(state: State, offsetMs: Millis) {
  const { name, since, attempt, lastProofAt, reconnects } = state;
  const { retryAt, fault } = name === "DISCONNECTED" ? state : { retryAt: null, fault: null };
  const shown = (at: Millis | null): string | null => toTime(at === null ? null : at + offsetMs);
  return {
    state: name,
    since: toTime(since + offsetMs),
    attempt,
    /** Null when only a person can help, and while nothing waits. */
    retryAt: shown(retryAt),
    lastProofAt: shown(lastProofAt),
    reconnects,
    fault: toFaultView(fault),
  };
}

const explained = ({ code, message, hint }: Fault): Explained => ({ code, message, hint });
const toFaultView = (fault: Fault | null): FaultView | null =>
  fault && { ...explained(fault), userAction: errorTable[fault.code].userAction };

/** RFC 3339 in UTC. */
export function toTime(at: Millis): string;
export function toTime(at: Millis | null): string | null;
export function toTime(at: Millis | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}
