/** Gathers what `/status` shows: notices keep the recent facts, the database counts, the state machine says where the line is. */
import type { Backend } from "../claude/backend.ts";
import type { Clock } from "../clock.ts";
import type { Config } from "../config.ts";
import type { State } from "../core/connection.ts";
import type { Fault } from "../core/errors.ts";
import type { Account, Millis } from "../core/model.ts";
import type { ConnectionLoop } from "../loops/connection.ts";
import type { NoticeBus } from "../loops/notices.ts";
import type { Transport } from "../signal/transport.ts";
import type { Store } from "../store/store.ts";
import { version } from "../version.ts";
import { maskNumber } from "../log.ts";
import { toFaultView, toTime, type Status, type SyncView } from "./status.ts";

export type StatusDeps = {
  readonly clock: Clock;
  readonly config: Config;
  readonly store: Store;
  readonly notices: NoticeBus;
  readonly transport: Transport;
  readonly backend: Backend;
  readonly connection: ConnectionLoop;
  readonly account: () => Account | null;
};

/** A session counts as active when it was used within this time. */
const activeMs: Millis = 24 * 3_600_000;

type Recent = {
  receivedAt: Millis | null;
  sentAt: Millis | null;
  reachable: boolean | null;
  claudeFault: (Fault & { readonly at: Millis }) | null;
  outboxFault: Fault | null;
  syncAt: Millis | null;
  sync: SyncView;
};

export function createStatusModel(deps: StatusDeps): { snapshot(): Status } {
  const startedAt = deps.clock.monotonic();
  const recent = listen(deps.notices);
  return {
    snapshot: () => ({
      version,
      uptimeMs: Math.round(deps.clock.monotonic() - startedAt),
      connection: connectionView(deps.connection.state()),
      signal: {
        transport: deps.transport.name,
        account: accountView(deps.account()),
        lastReceivedAt: toTime(recent.receivedAt),
        lastSentAt: toTime(recent.sentAt),
      },
      claude: {
        backend: deps.backend.name,
        model: deps.config.model,
        reachable: recent.reachable,
        lastError: recent.claudeFault && {
          code: recent.claudeFault.code,
          message: recent.claudeFault.message,
          hint: recent.claudeFault.hint,
          at: toTime(recent.claudeFault.at),
        },
      },
      sessions: {
        ...deps.store.sessions.counts(deps.clock.now() - activeMs),
        lastSyncAt: toTime(recent.syncAt),
        lastSync: recent.sync,
      },
      ...queueViews(deps, recent),
    }),
  };
}

function listen(notices: NoticeBus): Recent {
  const recent: Recent = {
    receivedAt: null,
    sentAt: null,
    reachable: null,
    claudeFault: null,
    outboxFault: null,
    syncAt: null,
    sync: { checked: 0, changed: 0, pushed: 0, failed: 0, durationMs: 0 },
  };
  notices.on("received", ({ at, accepted }) => {
    if (accepted > 0) recent.receivedAt = at;
  });
  notices.on("sent", ({ at }) => (recent.sentAt = at));
  notices.on("claude", ({ fault, at }) => {
    recent.reachable = fault === null;
    recent.claudeFault = fault && { ...fault, at };
  });
  notices.on("outboxFault", ({ fault }) => (recent.outboxFault = fault));
  notices.on("synced", ({ at, ...sync }) => {
    recent.syncAt = at;
    recent.sync = { ...sync, durationMs: Math.round(sync.durationMs) };
  });
  return recent;
}

function connectionView(state: State): Status["connection"] {
  return {
    state: state.name,
    since: toTime(state.since),
    attempt: state.attempt,
    retryAt: state.name === "DISCONNECTED" ? toTime(state.retryAt) : null,
    lastProofAt: toTime(state.lastProofAt),
    reconnects: state.reconnects,
    fault: state.name === "DISCONNECTED" ? toFaultView(state.fault) : null,
  };
}

function queueViews({ store, clock }: StatusDeps, recent: Recent): Pick<Status, "inbox" | "outbox"> {
  const { settings } = store;
  const now = clock.now();
  const inbox = store.inbox.pending();
  const outbox = store.outbox.pending();
  const ageOf = (at: Millis | null): Millis | null => (at === null ? null : Math.max(0, now - at));
  return {
    inbox: {
      pending: inbox.count,
      oldestMs: ageOf(inbox.oldestAt),
      answered: settings.counter("answered"),
      dropped: settings.counter("dropped"),
      failed: settings.counter("failed"),
    },
    outbox: {
      pending: outbox.count,
      oldestMs: ageOf(outbox.oldestAt),
      sent: settings.counter("sent"),
      uncertain: settings.counter("uncertain"),
      failed: settings.counter("sendFailed"),
      fault: toFaultView(recent.outboxFault),
    },
  };
}

function accountView(account: Account | null): string | null {
  if (account === null) return null;
  return account.number === null ? (account.aci?.slice(0, 8) ?? null) : maskNumber(account.number);
}
