/** Announces the messages that wait, once the line is back and again after the late ones that it brings. */
import type { Millis } from "../core/model.ts";
import type { Bridge } from "./bridge.ts";
import { attempt } from "./queue.ts";

/** A message that comes within this time after the line is back has waited for it. */
const backlogMs: Millis = 30_000;
const backlogPauseMs: Millis = 500;

export function createBacklog({ chats, log, clock, isConnected }: Bridge, stopping: AbortSignal) {
  let endsAt = 0;
  let accepted = 0;
  let isFirst = false;
  const announce = (): unknown => attempt(log, "what waits is not announced", () => chats.tellAll({ type: "back" }));
  return {
    onResumed(): void {
      endsAt = isConnected() ? clock.monotonic() + backlogMs : 0;
      isFirst = isConnected();
      if (isFirst) announce();
    },
    /** A daemon hands out late messages one by one, so they are counted again once none has come for `backlogPauseMs`. */
    onAccepted(): void {
      if (clock.monotonic() >= endsAt) return;
      if (isFirst) announce();
      isFirst = false;
      const number = ++accepted;
      void clock.sleep(backlogPauseMs, stopping).then(() => {
        if (number === accepted && !stopping.aborted) announce();
      });
    },
  };
}
