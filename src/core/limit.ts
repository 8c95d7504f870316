/** What the limit of a day changes: it is announced once, and beyond it nothing is asked. */
import { say, type Change, type Prompt, type View } from "./changes.ts";
import type { Envelope } from "./model.ts";
import { isAnnounced, refusalText, spendText } from "./spend.ts";

/** Its person has spent what a day allows: what was not asked yet is not asked. */
export function refuse(view: Pick<View, "spend">, { id, envelope }: Pick<Prompt, "id" | "envelope">): Change[] {
  const spend = view.spend(envelope);
  return [
    ...(spend === null ? [] : [say("failed", id, refusalText(spend))]),
    { do: "finish", id, outcome: "failed" },
    { do: "mark", id, envelope, stage: "failed" },
  ];
}

export function announceSpend(view: Pick<View, "spend">, envelope: Envelope): Change[] {
  const spend = view.spend(envelope);
  return spend !== null && isAnnounced(spend) ? [say("spend", spend.subject, spendText(spend))] : [];
}
