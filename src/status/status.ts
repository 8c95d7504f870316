/** What `GET /status` answers: DESIGN.md section 6, to the letter. Times are RFC 3339, durations ms. */
import { userActionOf, type Fault, type UserAction } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";

export type FaultView = {
  readonly code: string;
  readonly message: string;
  readonly hint: string;
  readonly userAction: UserAction | null;
};

export type SyncView = {
  readonly checked: number;
  readonly changed: number;
  readonly pushed: number;
  readonly failed: number;
  readonly durationMs: Millis;
};

export type Status = {
  readonly version: string;
  readonly uptimeMs: Millis;
  readonly connection: {
    readonly state: "DISCONNECTED" | "RECONNECTING" | "SYNCING" | "CONNECTED";
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
  };
  readonly claude: {
    readonly backend: string;
    readonly model: string;
    /** Null before the first contact. */
    readonly reachable: boolean | null;
    readonly lastError: {
      readonly code: string;
      readonly message: string;
      readonly hint: string;
      readonly at: string;
    } | null;
  };
  readonly sessions: {
    readonly total: number;
    readonly active: number;
    readonly stale: number;
    readonly lastSyncAt: string | null;
    readonly lastSync: SyncView;
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
};

/** RFC 3339 in UTC. */
export function toTime(at: Millis): string;
export function toTime(at: Millis | null): string | null;
export function toTime(at: Millis | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}

export const toFaultView = (fault: Fault | null): FaultView | null =>
  fault && { code: fault.code, message: fault.message, hint: fault.hint, userAction: userActionOf(fault.code) };
