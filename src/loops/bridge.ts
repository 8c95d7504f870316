/** What every loop is given: the world, the settings, and the other loops; and the notices by which they tell the log, `/status` and the metrics what happens. */
import type { Emitter } from "mitt";
import type { Backend } from "../claude/backend.ts";
import type { Clock, Random } from "../clock.ts";
import type { Limits, State } from "../core/connection.ts";
import type { Fault } from "../core/errors.ts";
import type { AllowRule } from "../core/inbound.ts";
import type { Account, Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { Session } from "../store/sessions.ts";
import type { Store } from "../store/store.ts";
import type { Transcribe } from "./prompt.ts";

/** Nobody decides anything in a handler. */
export type Notices = {
  connection: { readonly state: State; readonly previous: State };
  received: { readonly accepted: number; readonly dropped: number; readonly at: Millis };
  turn: {
    readonly event: "started" | "ended" | "waiting" | "failed";
    readonly session: string;
    readonly durationMs: Millis;
  };
  sent: { readonly at: Millis };
  claude: { readonly fault: Fault | null; readonly at: Millis };
  outboxFault: { readonly fault: Fault | null; readonly at: Millis };
  synced: {
    readonly checked: number;
    readonly changed: number;
    readonly pushed: number;
    readonly failed: number;
    readonly durationMs: Millis;
    readonly at: Millis;
  };
};

export type NoticeBus = Emitter<Notices>;

export type LaneName = "answer" | "control" | "files" | "send";

/** The slice of the settings that decides how the loops behave; `settings.ts` says what each means. */
export type LoopConfig = {
  readonly allow: readonly AllowRule[];
  readonly groupAlways: boolean;
  readonly model: string;
  readonly system: string;
  readonly reactions: readonly (string | null)[];
  readonly readReceipts: boolean;
  readonly progress: boolean;
  readonly welcome: boolean;
  readonly busy: "queue" | "interrupt";
  readonly approvalMinutes: number;
  readonly digestAfterMessages: number;
  readonly digestAfterMinutes: number;
  readonly limits: Partial<Limits> & { readonly lanesMax: number; readonly retentionDays: number };
};

export type Bridge = {
  readonly config: LoopConfig;
  readonly store: Store;
  readonly transport: Transport;
  readonly backend: Backend;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly newId: () => string;
  readonly notices: NoticeBus;
  /** 4 hex digits that tell this home from others in stamps. */
  readonly deviceTag: string;
  /** Null where voice notes stay unheard. */
  readonly transcribe: Transcribe | null;
  /** Who we are; null before the first connect. */
  readonly account: () => Account | null;
  readonly isConnected: () => boolean;
  /** Not before the first sync, and not while SYNCING. */
  readonly canAnswer: () => boolean;
  /** Follows a session that runs at the API although no prompt of ours is open. */
  readonly follow: (session: Session) => void;
  /** These rows are over: the turn of one of them ends here, and at Claude where it was asked. The rows are left to the caller. */
  readonly interrupt: (chatKey: string, inboxIds: readonly number[]) => Promise<void>;
  /** Something changed here that the remote side is to know. */
  readonly syncSoon: () => void;
  /** There may be something to do in this chat (for `files`: this session), or in any. */
  readonly wake: (lane: LaneName, chatKey?: string) => void;
};
