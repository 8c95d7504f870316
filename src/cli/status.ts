/** `signalman status`: how the running daemon stands. */
import * as v from "valibot";
import { BridgeError } from "../core/errors.ts";
import type { Status } from "../status/status.ts";
import { configOf, toTable, type Flags, type Io } from "./io.ts";
import { fetchStatus } from "./remote.ts";

/** Enough to know that it is ours: the daemon is of the same version, or has the same stable names. */
const shape = v.looseObject({ version: v.string(), connection: v.looseObject({ state: v.string() }) });

export async function showStatus(io: Io, flags: Flags, options: { json?: true }): Promise<number> {
  const config = configOf(io, flags);
  const answer = v.safeParse(shape, await fetchStatus(config, io.signal));
  if (!answer.success) throw new BridgeError("not_running", "Cannot read the status: something else answers there");
  const status = answer.output as unknown as Status;
  io.out(options.json ? `${JSON.stringify(status, null, 2)}\n` : describe(status));
  return 0;
}

function describe({ version, connection, signal, claude, sessions, inbox, outbox }: Status): string {
  const retry = connection.retryAt === null ? "" : `, next attempt at ${connection.retryAt}`;
  const reachable = claude.reachable === null ? "not asked yet" : claude.reachable ? "reachable" : "not reachable";
  const rows = [
    ["connection", `${connection.state} since ${connection.since}${retry}`],
    ["signal", [signal.transport, signal.account].filter((part) => part !== null).join(" ")],
    ["claude", `${claude.backend} ${claude.model}, ${reachable}`],
    ["sessions", `${sessions.total}, ${sessions.stale} waiting for sync`],
    ["inbox", `${inbox.pending} waiting, ${inbox.answered} answered, ${inbox.failed} failed`],
    ["outbox", `${outbox.pending} waiting, ${outbox.sent} sent, ${outbox.uncertain} repeated, ${outbox.failed} failed`],
    ["version", version],
  ];
  const faults = [connection.fault, claude.lastError, outbox.fault].filter((fault) => fault !== null);
  return toTable(rows) + faults.map(({ message, hint }) => `\n${message}\n${hint}\n`).join("");
}
