/** Which of the daemon's accounts is ours, and whether the daemon can use it. */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Rpc } from "./rpc.ts";
import { resultOf, rpcFault } from "./rpc.ts";

/** `params.account` is set where the daemon serves several accounts: in single mode `receive` refuses the key. */
export type ChosenAccount = { readonly params: { readonly account?: string }; readonly number: string | null };

/**
 * The daemon's mode and our account in it.
 * @throws BridgeError `not_linked` `rejected`, and those of the line
 *
 * **Source:** signal-cli 0.14.6, single mode does not know `listAccounts`.
 */
export async function chooseAccount(
  rpc: Rpc,
  wanted: string | null,
  callMs: Millis,
  signal: AbortSignal,
): Promise<ChosenAccount> {
  const what = "connect to signal-cli";
  const outcome = await rpc({ method: "listAccounts", params: {}, what, deadlineMs: callMs, signal });
  if (outcome.kind === "error" && outcome.code === -32601) return { params: {}, number: wanted };
  const listed = v.safeParse(v.array(v.object({ number: v.string() })), resultOf(outcome, what));
  if (!listed.success) throw new BridgeError("signal_protocol", `Cannot ${what} as it lists its accounts strangely`);
  const numbers = listed.output.map(({ number }) => number);
  // An account that is not listed may still be on its disk: it is loaded when it is asked for.
  const number = wanted ?? (numbers.length === 1 ? numbers[0] : undefined);
  if (number !== undefined) return { params: { account: number }, number };
  if (numbers.length === 0) throw new BridgeError("not_linked", `Cannot ${what} as it has no account`);
  throw new BridgeError("rejected", `Cannot ${what} as it has ${numbers.length} accounts`, {
    hint: "Set SIGNALMAN_ACCOUNT to the number that signalman is to use.",
  });
}

/**
 * Makes the daemon load the account, which a list of accounts does not, and asks for its own contact on the way: a local
 * call, the only one that may tell our ACI; null when it does not.
 * @throws BridgeError `rejected` when the daemon does not know the account, and those of the line
 */
export async function wakeAccount(
  rpc: Rpc,
  { params, number }: ChosenAccount,
  callMs: Millis,
  signal: AbortSignal,
): Promise<string | null> {
  const what = "use the account";
  const filter = number === null ? {} : { recipient: [number] };
  const outcome = await rpc({
    method: "listContacts",
    params: { ...params, ...filter, allRecipients: true },
    what,
    deadlineMs: callMs,
    bytesMax: 16 * 2 ** 20,
    signal,
  });
  if (outcome.kind === "fault") throw outcome.fault;
  if (outcome.kind === "error" && outcome.code === -32602) throw rpcFault(what, outcome);
  if (outcome.kind === "error" || number === null) return null;
  const contacts = v.safeParse(v.array(v.object({ number: v.unknown(), uuid: v.unknown() })), outcome.result);
  const own = contacts.success ? contacts.output.find((contact) => contact.number === number) : undefined;
  return typeof own?.uuid === "string" ? own.uuid.toLowerCase() : null;
}
