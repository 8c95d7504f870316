/** `Bridge` gives every loop the world, the settings and the decisions; `Notices` tell the log, `/status` and the metrics what happens. */
import type { Emitter } from "mitt";
import type { Line, SessionView } from "../claude/line.ts";
import type { Clock, Random } from "../clock.ts";
import type { Limits, State } from "../core/connection.ts";
import type { Fault } from "../core/errors.ts";
import type { AllowRule } from "../core/inbound.ts";
import type { Account, Millis, Session } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import type { Chats } from "../store/apply.ts";
import type { Store } from "../store/store.ts";

/** Events for display: a handler of one decides nothing. */
export type Notices = {
  connection: { readonly state: State; readonly previous: State };
  received: { readonly accepted: number; readonly dropped: number; readonly at: Millis };
  /** A turn has ended; `durationMs` is the time since its prompt went out. */
  ended: { readonly session: string; readonly durationMs: Millis };
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

export type Reach = ReturnType<typeof createReach>;

/** Whether Claude can be reached, by the last request. */
export function createReach({ clock, notices }: Pick<Bridge, "clock" | "notices">) {
  let fault: Fault | null = null;
  return {
    /** Null while Claude can be reached, or before the first request. */
    fault: (): Fault | null => fault,
    /** Takes what a request showed; null: Claude can be reached. */
    heard(now: Fault | null): void {
      fault = now;
      notices.emit("claude", { fault, at: clock.now() });
    },
  };
}

/** The slice of the settings that decides how the loops behave; `settings.ts` says what each means. */
export type LoopConfig = {
  readonly allow: readonly AllowRule[];
  readonly groupAlways: boolean;
  readonly model: string;
  readonly effort: string;
  readonly system: string;
  readonly reactions: boolean;
  readonly readReceipts: boolean;
  readonly progress: boolean;
  readonly welcome: boolean;
  readonly approvalMinutes: number;
  readonly limits: Partial<Limits> & { readonly retentionDays: number };
};

/** Resolves to the words of a recording, or to null where they could not be made out. Bounded in time and length; never rejects. */
export type Transcribe = (bytes: Uint8Array, contentType: string, signal: AbortSignal) => Promise<string | null>;

export type Bridge = {
  readonly config: LoopConfig;
  readonly store: Store;
  readonly chats: Chats;
  readonly transport: Transport;
  readonly line: Line;
  /** The line that keeps this session: `line`, or the owner's own program where the session's project is worked on with that. */
  readonly lineOf: (session: Pick<Session, "backend">) => Line;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly notices: NoticeBus;
  readonly reach: Reach;
  /** 4 hex digits that tell this home from others in stamps. */
  readonly deviceTag: string;
  /** Null where no program writes voice notes down. */
  readonly transcribe: Transcribe | null;
  /** Our tools that a session has, and the part of its system prompt that explains them. */
  readonly toolsOf: (session: Session) => Promise<Pick<SessionView, "tools" | "system" | "folder" | "mayRun">>;
  /** The time zone of this machine as an IANA name; without it prompts do not say when they were written. */
  readonly timeZone?: string;
  /** The linked account; null before the first connect. */
  readonly account: () => Account | null;
  readonly isConnected: () => boolean;
};
