/** What the loops tell the log, `/status` and the metrics. Nobody decides anything in a handler. */
import type { Emitter } from "mitt";
import type { State } from "../core/connection.ts";
import type { Fault } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";

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
