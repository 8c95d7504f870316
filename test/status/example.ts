/** A status with something in every field; invented. */
import type { Status } from "../../src/status/status.ts";

export const nowAt = Date.parse("2026-11-23T12:00:00.000Z");

export const connected: Status = {
  version: "0.1.0",
  uptimeMs: 93_784_000,
  connection: {
    state: "CONNECTED",
    since: "2026-11-23T10:55:00.000Z",
    attempt: 0,
    retryAt: null,
    lastProofAt: "2026-11-23T11:59:51.000Z",
    reconnects: 3,
    fault: null,
  },
  signal: {
    transport: "native",
    account: "+1…42",
    lastReceivedAt: "2026-11-23T11:58:00.000Z",
    lastSentAt: "2026-11-23T11:58:20.000Z",
    quarantined: 0,
  },
  claude: { backend: "sessions", model: "claude-sonnet-5-5", reachable: true, lastError: null },
  sessions: {
    total: 12,
    active: 4,
    stale: 1,
    lastSyncAt: "2026-11-23T10:55:01.000Z",
    lastSync: { checked: 5, changed: 2, pushed: 1, failed: 0, durationMs: 840 },
  },
  inbox: { pending: 1, oldestMs: 4_000, answered: 321, dropped: 7, failed: 2 },
  usage: {
    inputTokens: 81_000,
    outputTokens: 9_000,
    costDollars: 0.252,
    todayDollars: 0.12,
    answers: 20,
    answersMs: 90_000,
  },
  database: { failedReads: 0, lastFailure: null },
  outbox: { pending: 2, oldestMs: 61_000, sent: 400, uncertain: 1, failed: 0, fault: null },
};

export const disconnected: Status = {
  ...connected,
  connection: {
    ...connected.connection,
    state: "DISCONNECTED",
    attempt: 4,
    retryAt: "2026-11-23T12:00:30.000Z",
    fault: {
      code: "signal_unreachable",
      message:
        'Cannot poll Signal as <script>alert(1)</script> & "others" refused the connection: http://127.0.0.1:8080',
      hint: "Check that the daemon or the network is up; signalman keeps trying.",
      userAction: null,
    },
  },
  claude: {
    ...connected.claude,
    model: '"><img src=x onerror=alert(1)>',
    reachable: false,
    lastError: {
      code: "claude_overloaded",
      message: "Cannot ask Claude as it is overloaded",
      hint: "Nothing to do: prompts wait and are answered when it is over.",
      at: "2026-11-23T11:59:00.000Z",
    },
  },
};
