import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createSignalCli } from "../../src/signal/daemon/signal-cli.ts";
import { createApp } from "../../src/status/app.ts";
import { playedDaemon } from "../doubles/status-server.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { me } from "../doubles/wire.ts";
import { boundary, createVirtualClock, runUntil, type VirtualClock } from "../doubles/clock.ts";
import { seeded } from "../sim/dice.ts";
import { simConfig } from "../sim/config.ts";

let clock: VirtualClock;
let daemon: Daemon;
let home: string;
/** The daemon's own stream to Signal is dead: it answers every call but `receive`. */
let isDead: boolean;

/** A signal-cli that answers its health page, its version and its accounts at once, whatever the state of its stream. */
async function daemonDouble(url: string, init: RequestInit): Promise<Response> {
  if (url.endsWith("/api/v1/check")) return new Response(null, { status: 200 });
  const { method, params, id } = JSON.parse(init.body as string) as {
    method: string;
    params: { timeout: number };
    id: number;
  };
  const isHung = method === "receive" && isDead;
  const hang = () =>
    new Promise<never>((_, reject) =>
      init.signal?.addEventListener("abort", () => reject(new DOMException("gone", "AbortError"))),
    );
  if (method === "receive") await (isHung ? hang() : clock.sleep(params.timeout * 1_000));
  const result = method === "listAccounts" ? [{ number: me.number }] : [];
  return Response.json({ jsonrpc: "2.0", result, id });
}

beforeEach(async () => {
  clock = createVirtualClock();
  isDead = false;
  home = mkdtempSync(join(tmpdir(), "signalman-proof-"));
  const claude = createScriptedClaude({ clock });
  daemon = await startDaemon(simConfig(home), {
    log: quietLog,
    clock,
    random: seeded(1),
    networkKey: () => "",
    newId: () => crypto.randomUUID(),
    buildTransport: async () =>
      createSignalCli({ baseUrl: "http://127.0.0.1:1", account: me.number, clock, log: quietLog, fetch: daemonDouble }),
    buildLine: async () => claude.line,
  });
});
afterEach(async () => {
  const stopped = daemon.stop();
  while (!(await Promise.race([stopped.then(() => true), boundary().then(() => false)]))) clock.next(Infinity);
  rmSync(home, { recursive: true, force: true });
});

const isState = (name: string) => () => daemon.status().connection.state === name;
const staleAfterMs = 90_000;

test("a daemon that answers its health page while its stream is dead is caught within staleAfter", async () => {
  expect(await runUntil(clock, isState("CONNECTED"), 10_000)).toBe(true);
  await runUntil(clock, () => false, 20_000);
  expect((await daemonDouble("http://127.0.0.1:1/api/v1/check", {})).status).toBe(200);
  isDead = true;
  const diedAt = clock.monotonic();
  expect(await runUntil(clock, () => !isState("CONNECTED")(), staleAfterMs + 2_000)).toBe(true);
  expect(clock.monotonic() - diedAt).toBeLessThanOrEqual(staleAfterMs + 2_000);
  expect(daemon.status().connection.fault?.code).toMatch(/^(stalled|signal_timeout)$/u);
});

test("/health goes 503 when the proof is older than staleAfter, and 200 with the next proof", async () => {
  const app = createApp({
    ...playedDaemon(),
    status: daemon.status,
    health: daemon.health,
    isReady: daemon.isReady,
    now: clock.now,
  });
  const health = async (): Promise<number> => (await app.request("http://localhost/health")).status;
  await runUntil(clock, isState("CONNECTED"), 10_000);
  expect(await health()).toBe(200);
  isDead = true;
  // The poll in the air still comes back.
  await runUntil(clock, () => false, 6_000);
  const provedAt = Date.parse(daemon.status().connection.lastProofAt ?? "");
  await runUntil(clock, () => clock.now() - provedAt >= staleAfterMs - 1_000, staleAfterMs);
  expect(await health()).toBe(200);
  await runUntil(clock, () => clock.now() - provedAt > staleAfterMs + 1_000, staleAfterMs);
  const answer = await app.request("http://localhost/health");
  expect(answer.status).toBe(503);
  expect(await answer.text()).toContain("no proof of life from Signal for 9");
  // It connects, and connects again: an answering port is still no proof.
  await runUntil(clock, () => false, 300_000);
  expect(await health()).toBe(503);
  expect(isState("CONNECTED")()).toBe(false);
  isDead = false;
  // The poll that hangs is given up after a quarter of an hour.
  expect(await runUntil(clock, isState("CONNECTED"), 20 * 60_000)).toBe(true);
  expect(await health()).toBe(200);
});

test("a daemon that never proved anything is unhealthy once staleAfter has passed", async () => {
  isDead = true;
  await runUntil(clock, () => false, staleAfterMs - 5_000);
  expect(daemon.health()).toBeNull();
  await runUntil(clock, () => false, 10_000);
  expect(daemon.health()).toContain("no proof of life");
});

test("the status has exactly the names and types of the contract", async () => {
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/u;
  const kindOf = (value: unknown): unknown => {
    if (typeof value === "string") return time.test(value) ? "time" : "text";
    if (typeof value === "number") return Number.isSafeInteger(value) && value >= 0 ? "whole" : value;
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([key, field]) => [key, kindOf(field)]));
  };
  await runUntil(clock, isState("CONNECTED"), 10_000);
  const line = { state: "text", since: "time", attempt: "whole", lastProofAt: "time", reconnects: "whole" };
  expect(kindOf(daemon.status())).toEqual({
    version: "text",
    uptimeMs: "whole",
    connection: { ...line, retryAt: null, fault: null },
    signal: { transport: "text", account: "text", lastReceivedAt: null, lastSentAt: null, quarantined: "whole" },
    claude: { backend: "text", model: "text", reachable: null, lastError: null },
    sessions: {
      total: "whole",
      active: "whole",
      stale: "whole",
      lastSyncAt: "time",
      lastSync: { checked: "whole", changed: "whole", pushed: "whole", failed: "whole", durationMs: "whole" },
    },
    inbox: { pending: "whole", oldestMs: null, answered: "whole", dropped: "whole", failed: "whole" },
    usage: {
      inputTokens: "whole",
      outputTokens: "whole",
      costDollars: "whole",
      todayDollars: "whole",
      answers: "whole",
      answersMs: "whole",
    },
    database: { failedReads: "whole", lastFailure: null },
    outbox: { pending: "whole", oldestMs: null, sent: "whole", uncertain: "whole", failed: "whole", fault: null },
  });
  isDead = true;
  const isDown = (): boolean => daemon.status().connection.fault !== null;
  expect(await runUntil(clock, isDown, 200_000)).toBe(true);
  const fault = { code: "text", message: "text", hint: "text", userAction: null };
  expect(kindOf(daemon.status().connection)).toEqual({ ...line, retryAt: "time", fault });
});
