/**
 * Messages of groups about which the server must be asked first. They wait, not acknowledged, while everything else goes on:
 * a storage host that is down, blocked or slow must not hold up the line.
 *
 *   unknown group ─▶ waits ─▶ asked ─▶ back into the queue, in order
 *                               └ failed: again after 2 s, 4 s … 5 min; after 12 times the group is given up and the messages are
 *                                 set aside with their bytes
 */
import { BridgeError } from "../../core/errors.ts";
import type { Millis } from "../../core/model.ts";
import type { NativeContext, GroupClaim, Incoming, ChatLine, Waiting } from "./context.ts";

const asksMax = 12;
const firstWaitMs: Millis = 2_000;
const waitMsMax: Millis = 300_000;

/** Kept below 256, the most deliveries that the server leaves unacknowledged: while so many waited, it would bring nothing else. */
const waitingMax = 100;
export const isFull = (waiting: Waiting): boolean =>
  [...waiting.values()].reduce((sum, { deliveries }) => sum + deliveries.length, 0) >= waitingMax;

export function addClaim(waiting: Waiting, claim: GroupClaim, incoming: Incoming): void {
  const known = waiting.get(claim.groupId);
  if (known === undefined) waiting.set(claim.groupId, { claim, deliveries: [incoming], isAsked: false });
  else known.deliveries.push(incoming);
}

/** Asks about the groups that are not asked about yet. Resolves when each is learnt or given up, or the connection has ended. */
export async function settleClaims(context: NativeContext, line: ChatLine, waiting: Waiting): Promise<void> {
  const fresh = [...waiting.values()].filter(({ isAsked }) => !isAsked);
  await Promise.all(
    fresh.map(async (one) => {
      one.isAsked = true;
      await learn(context, one.claim);
      if (waiting.get(one.claim.groupId) !== one) return;
      waiting.delete(one.claim.groupId);
      line.putBack(one.deliveries);
    }),
  );
}

async function learn({ groups, clock, log, closing }: NativeContext, claim: GroupClaim): Promise<void> {
  const signal = closing();
  for (let asked = 1; !signal.aborted; asked++) {
    try {
      return await groups.learn(claim, signal);
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      if (asked >= asksMax) return groups.giveUp(claim);
      if (!signal.aborted) log.warn("messages of a group wait as it cannot be read", { code: error.code, asked });
    }
    await clock.sleep(Math.min(waitMsMax, firstWaitMs * 2 ** (asked - 1)), signal);
  }
}
