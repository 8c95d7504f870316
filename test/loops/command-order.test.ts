import { afterEach, beforeEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createScriptedClaude } from "../doubles/scripted.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createMemorySignal, type MemorySignal } from "../doubles/memory.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { boundary, createVirtualClock, runUntil, type VirtualClock } from "../doubles/clock.ts";
import { seeded } from "../sim/dice.ts";
import { simConfig } from "../sim/config.ts";

let clock: VirtualClock;
let signal: MemorySignal;
let daemon: Daemon;
let home: string;

beforeEach(async () => {
  clock = createVirtualClock();
  home = mkdtempSync(join(tmpdir(), "signalman-order-"));
  signal = createMemorySignal({ clock });
  const claude = createScriptedClaude({ clock, script: (prompt) => [{ pauseMs: 100 }, { say: `re: ${prompt}` }] });
  daemon = await startDaemon(simConfig(home, { welcome: "false" }), {
    log: quietLog,
    clock,
    random: seeded(1),
    networkKey: () => "",
    newId: () => crypto.randomUUID(),
    buildTransport: async () => signal.transport,
    buildLine: async () => claude.line,
  });
  await runUntil(clock, () => daemon.status().connection.state === "CONNECTED", 10_000);
});
afterEach(async () => {
  const stopped = daemon.stop();
  while (!(await Promise.race([stopped.then(() => true), boundary().then(() => false)]))) clock.next(Infinity);
  rmSync(home, { recursive: true, force: true });
});

const shown = (): string[] => signal.screen().map(({ text }) => text);

// Found by the soak: under load a command and what was written after it are in one batch.
test.each(["/new", "/skip", "/stop"])(
  "%s drops what was written before it, and nothing that was written after it",
  async (command) => {
    signal.faults.cut();
    await runUntil(clock, () => daemon.status().connection.state === "DISCONNECTED", 10_000);
    signal.owner.write("before");
    signal.owner.write(command);
    signal.owner.write("after");
    signal.faults.mend();
    expect(await runUntil(clock, () => shown().includes("re: after"), 60_000)).toBe(true);
    await runUntil(clock, () => false, 60_000);
    expect(shown().filter((text) => text === "re: after")).toHaveLength(1);
    expect(shown()).not.toContain("re: before");
    expect(daemon.status().inbox.pending).toBe(0);
  },
);
