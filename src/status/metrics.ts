/** `GET /metrics`: the status snapshot as Prometheus text. Imported with the first scrape, as prom-client costs 27 ms. */
import { Counter, Gauge, Registry } from "prom-client";
import type { Status } from "./status.ts";

const states = ["DISCONNECTED", "RECONNECTING", "SYNCING", "CONNECTED"] as const;
const seconds = (ms: number | null): number | null => (ms === null ? null : ms / 1000);
const instant = (time: string | null): number | null => (time === null ? null : Date.parse(time) / 1000);
const bit = (yes: boolean | null): number | null => (yes === null ? null : Number(yes));

/** The help of each metric, and its sample, null for none. Counters end in `_total`. */
const metrics: Record<string, readonly [help: string, read: (status: Status) => number | null]> = {
  uptime_seconds: ["Since the process started", (s) => seconds(s.uptimeMs)],
  connection_attempt: ["Failed attempts in a row", (s) => s.connection.attempt],
  connection_since_timestamp_seconds: ["When the state was entered", (s) => instant(s.connection.since)],
  last_proof_timestamp_seconds: ["Last proof of life from Signal", (s) => instant(s.connection.lastProofAt)],
  reconnects_total: ["Times the line came up again", (s) => s.connection.reconnects],
  last_received_timestamp_seconds: ["Last accepted message", (s) => instant(s.signal.lastReceivedAt)],
  last_sent_timestamp_seconds: ["Last message sent", (s) => instant(s.signal.lastSentAt)],
  signal_quarantined: ["Messages kept unread as they could not be opened or trusted", (s) => s.signal.quarantined],
  claude_reachable: ["0 when Claude did not answer at the last contact", (s) => bit(s.claude.reachable)],
  sessions: ["Sessions kept here", (s) => s.sessions.total],
  sessions_active: ["Sessions used in the last day", (s) => s.sessions.active],
  sessions_stale: ["Sessions that wait for a sync", (s) => s.sessions.stale],
  last_sync_timestamp_seconds: ["Last sync", (s) => instant(s.sessions.lastSyncAt)],
  last_sync_duration_seconds: ["How long the last sync took", (s) => seconds(s.sessions.lastSync.durationMs)],
  last_sync_failed_sessions: ["Sessions the last sync could not read", (s) => s.sessions.lastSync.failed],
  inbox_pending: ["Messages that wait for an answer", (s) => s.inbox.pending],
  inbox_oldest_seconds: ["Age of the oldest of them", (s) => seconds(s.inbox.oldestMs ?? 0)],
  inbox_answered_total: ["Messages answered", (s) => s.inbox.answered],
  inbox_dropped_total: ["Envelopes of senders that are not on the allow list", (s) => s.inbox.dropped],
  inbox_failed_total: ["Messages given up", (s) => s.inbox.failed],
  outbox_pending: ["Messages that wait to be sent", (s) => s.outbox.pending],
  outbox_oldest_seconds: ["Age of the oldest of them", (s) => seconds(s.outbox.oldestMs ?? 0)],
  outbox_sent_total: ["Messages sent", (s) => s.outbox.sent],
  outbox_uncertain_total: ["Sends repeated as their outcome was unknown", (s) => s.outbox.uncertain],
  claude_input_tokens_total: ["Tokens read, the cache included", (s) => s.usage.inputTokens],
  claude_output_tokens_total: ["Tokens written", (s) => s.usage.outputTokens],
  claude_cost_dollars_total: ["List cost in US dollars", (s) => s.usage.costDollars],
  claude_cost_today_dollars: ["List cost since midnight", (s) => s.usage.todayDollars],
  claude_answers_total: ["Turns that ended since the start", (s) => s.usage.answers],
  claude_answer_seconds_total: ["Time that they took", (s) => seconds(s.usage.answersMs)],
  database_failed_reads_total: ["Reads of the database that failed", (s) => s.database.failedReads],
  outbox_failed_total: ["Sends given up", (s) => s.outbox.failed],
};

export async function renderMetrics(status: Status): Promise<{ readonly body: string; readonly contentType: string }> {
  const registry = new Registry();
  const registers = [registry];
  for (const [key, [help, read]] of Object.entries(metrics)) {
    const value = read(status);
    if (value === null || !Number.isFinite(value)) continue;
    const options = { name: `signalman_${key}`, help, registers };
    if (key.endsWith("_total")) new Counter(options).inc(value);
    else new Gauge(options).set(value);
  }
  const gauge = (name: string, help: string, ...labelNames: string[]) =>
    new Gauge({ name: `signalman_${name}`, help, labelNames, registers });
  const state = gauge("connection_state", "1 for the present state", "state");
  for (const name of states) state.set({ state: name }, Number(name === status.connection.state));
  const { version, signal, claude } = status;
  const info = gauge("info", "Version and adapters", "version", "transport", "backend");
  info.set({ version, transport: signal.transport, backend: claude.backend }, 1);
  return { body: await registry.metrics(), contentType: registry.contentType };
}
