/** What `GET /status` answers (docs/operating.md). Times are RFC 3339, durations ms. */
import type { Line } from "../claude/line.ts";
import type { Clock } from "../clock.ts";
import type { Config } from "../config.ts";
import type { State, StateName } from "../core/connection.ts";
import { errorTable, type Fault, type UserAction } from "../core/errors.ts";
import type { Account, Millis } from "../core/model.ts";
import type { ConnectionLoop } from "../loops/connection.ts";
import type { NoticeBus } from "../loops/bridge.ts";
import { dayOf } from "../core/when.ts";
import { maskNumber } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { Store } from "../store/store.ts";
import { version } from "../version.ts";

type Explained = { readonly code: string; readonly message: string; readonly hint: string };
export type FaultView = Explained & { readonly userAction: UserAction | null };

export type Status = {
  readonly version: string;
  readonly uptimeMs: Millis;
  readonly connection: {
    readonly state: StateName;
    readonly since: string;
    readonly attempt: number;
    /** Null when only a person can help, and while nothing waits. */
    readonly retryAt: string | null;
    readonly lastProofAt: string | null;
    readonly reconnects: number;
    readonly fault: FaultView | null;
  };
  readonly signal: {
    readonly transport: string;
    /** Masked, `+1…42`; null before the first connect. */
    readonly account: string | null;
    readonly lastReceivedAt: string | null;
    readonly lastSentAt: string | null;
    /** Messages that could not be opened or trusted, kept unread; they are forgotten after a month. */
    readonly quarantined: number;
  };
  readonly claude: {
    readonly backend: string;
    readonly model: string;
    /** Null before the first contact. */
    readonly reachable: boolean | null;
    readonly lastError: (Explained & { readonly at: string }) | null;
  };
  readonly sessions: {
    readonly total: number;
    readonly active: number;
    readonly stale: number;
    readonly lastSyncAt: string | null;
    readonly lastSync: {
      readonly checked: number;
      readonly changed: number;
      readonly pushed: number;
      readonly failed: number;
      readonly durationMs: Millis;
    };
  };
  readonly inbox: {
    readonly pending: number;
    readonly oldestMs: Millis | null;
    readonly answered: number;
    readonly dropped: number;
    readonly failed: number;
  };
  readonly outbox: {
    readonly pending: number;
    readonly oldestMs: Millis | null;
    readonly sent: number;
    readonly uncertain: number;
    readonly failed: number;
    readonly fault: FaultView | null;
  };
  readonly database: {
    /** Reads that failed since the process started. */
    readonly failedReads: number;
    /** Why the last one did. */
    readonly lastFailure: string | null;
  };
  /** What Claude read (from the cache and into it included) and wrote, at list prices, and how long answers took. */
  readonly usage: {
    readonly inputTokens: number;
    readonly outputTokens: number;
    readonly costDollars: number;
    readonly todayDollars: number;
    /** Since the process started. */
    readonly answers: number;
    readonly answersMs: Millis;
  };
};

export type StatusDeps = {
  readonly clock: Clock;
  readonly config: Config;
  readonly store: Store;
  readonly notices: NoticeBus;
  readonly transport: Transport;
  readonly line: Line;
  readonly connection: ConnectionLoop;
  readonly account: () => Account | null;
  readonly timeZone?: string;
};

/** A session counts as active when it was used within this time. */
const activeMs: Millis = 24 * 3_600_000;

/** Notices keep the recent facts, the database counts, the state machine says where the line is. */
export function createStatusModel(deps: StatusDeps): { snapshot(): Status } {
  const { clock, config, store, transport, line } = deps;
  const startedAt = clock.monotonic();
  const recent = follow(deps.notices);
  const today = (): number => {
    const day = dayOf(clock.now(), deps.timeZone ?? "UTC");
    return store.usage.between(day, day, null).costCents;
  };
  const counter = store.settings.counter;
  const queue = ({ count, oldestAt }: { count: number; oldestAt: Millis | null }) => ({
    pending: count,
    oldestMs: oldestAt === null ? null : Math.max(0, clock.now() - oldestAt),
  });
  return {
    snapshot: () => ({
      version,
      uptimeMs: Math.round(clock.monotonic() - startedAt),
      connection: connectionView(deps.connection.state(), clock.now() - clock.monotonic()),
      signal: {
        transport: transport.name,
        account: accountView(deps.account()),
        quarantined: transport.quarantined?.() ?? 0,
        ...recent.signal,
      },
      claude: { backend: line.name, model: config.model, ...recent.claude },
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
      database: { failedReads: store.db.failures.count, lastFailure: store.db.failures.last },
      usage: {
        inputTokens: counter("inputTokens"),
        outputTokens: counter("outputTokens"),
        costDollars: counter("costMicros") / 1_000_000,
        todayDollars: today() / 100,
        ...recent.answers,
      },
    }),
  };
}

type Recent = {
  signal: Pick<Status["signal"], "lastReceivedAt" | "lastSentAt">;
  claude: Pick<Status["claude"], "reachable" | "lastError">;
  sync: Pick<Status["sessions"], "lastSyncAt" | "lastSync">;
  outboxFault: Fault | null;
  answers: Pick<Status["usage"], "answers" | "answersMs">;
};

function follow(notices: NoticeBus): Recent {
  const recent: Recent = {
    signal: { lastReceivedAt: null, lastSentAt: null },
    claude: { reachable: null, lastError: null },
    sync: { lastSyncAt: null, lastSync: { checked: 0, changed: 0, pushed: 0, failed: 0, durationMs: 0 } },
    outboxFault: null,
    answers: { answers: 0, answersMs: 0 },
  };
  notices.on("received", ({ at, accepted }) => {
    if (accepted > 0) recent.signal = { ...recent.signal, lastReceivedAt: toTime(at) };
  });
  notices.on("sent", ({ at }) => (recent.signal = { ...recent.signal, lastSentAt: toTime(at) }));
  notices.on("claude", ({ fault, at }) => {
    // One message that Claude does not take is an answer.
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

/** The state's times are monotonic; `offsetMs` is what makes them wall time as it is now. */
function connectionView(state: State, offsetMs: Millis): Status["connection"] {
  const { name, since, attempt, lastProofAt, reconnects } = state;
  const { retryAt, fault } = name === "DISCONNECTED" ? state : { retryAt: null, fault: null };
  const shown = (at: Millis | null): string | null => toTime(at === null ? null : at + offsetMs);
  return {
    state: name,
    since: toTime(since + offsetMs),
    attempt,
    retryAt: shown(retryAt),
    lastProofAt: shown(lastProofAt),
    reconnects,
    fault: toFaultView(fault),
  };
}

/** Without a number the beginning of the account id: only its owner recognises it. */
function accountView(account: Account | null): string | null {
  if (account === null) return null;
  return account.number === null ? (account.aci?.slice(0, 8) ?? null) : maskNumber(account.number);
}

const explained = ({ code, message, hint }: Fault): Explained => ({ code, message, hint });
const toFaultView = (fault: Fault | null): FaultView | null =>
  fault && { ...explained(fault), userAction: errorTable[fault.code].userAction ?? null };

/** RFC 3339 in UTC. */
export function toTime(at: Millis): string;
export function toTime(at: Millis | null): string | null;
export function toTime(at: Millis | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}
