/**
 * The whole program in this process, over the in-memory Signal and the scripted Claude, on a virtual clock: for behaviour
 * that takes minutes or hours, or faults that a phone does not have. What a phone sees of the real program: `scene.ts`.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Line } from "../../src/claude/line.ts";
import type { Clock } from "../../src/clock.ts";
import { createScriptedClaude, type Script, type ScriptedClaude } from "../doubles/scripted.ts";
import { loadConfig } from "../../src/config.ts";
import type { Envelope } from "../../src/core/model.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import type { Workplace } from "../../src/projects/executor.ts";
import { createMemorySignal, type MemorySignal } from "../doubles/memory.ts";
import type { WriteOptions } from "../doubles/memory.ts";
import { quietLog } from "../doubles/quiet-log.ts";
import { boundary, createVirtualClock, runUntil } from "../doubles/clock.ts";
import { seeded } from "../sim/dice.ts";

export interface Stage {
  readonly signal: MemorySignal;
  readonly claude: ScriptedClaude;
  readonly daemon: Daemon;
  readonly home: string;
  /** In Note to Self. */
  write(text: string, options?: WriteOptions): Envelope;
  /** The texts of our messages, as the phone shows them now. */
  texts(): string[];
  /** Lets so many seconds pass. */
  pass(seconds: number): Promise<void>;
  /** The machine sleeps: the time of day goes on without anything being done. */
  sleep(seconds: number): Promise<void>;
  /** Ends the process and starts it anew on the same home, so much later. */
  restart(offSeconds?: number): Promise<void>;
  close(): Promise<void>;
}

export type StageOptions = {
  readonly script?: Script;
  readonly flags?: Readonly<Record<string, string>>;
  /** What config.toml says. */
  readonly config?: string;
  /** False as with signal-cli: a message is known by the timestamp that its sending gives it. */
  readonly ownTimestamps?: boolean;
  readonly timeZone?: string;
  /** Instead of the folders of this machine. */
  readonly workplace?: Workplace;
  /** Instead of the scripted Claude. */
  readonly line?: (clock: Clock) => Line;
};

export async function openStage(options: StageOptions = {}): Promise<Stage> {
  const clock = createVirtualClock(Date.UTC(2026, 10, 23, 9));
  const signal = createMemorySignal({ clock, ownTimestamps: options.ownTimestamps });
  const claude = createScriptedClaude({ clock, ...(options.script ? { script: options.script } : {}) });
  const home = mkdtempSync(join(tmpdir(), "signalman-stage-"));
  const flags = { transport: "signal-cli", account: "+15550100001", listen: "off", welcome: "false" };
  if (options.config !== undefined) writeFileSync(join(home, "config.toml"), options.config, { mode: 0o600 });
  const { config } = loadConfig({ flags: { ...flags, ...options.flags, home }, env: {} });
  let ids = 0;
  const start = (): Promise<Daemon> =>
    startDaemon(config, {
      log: quietLog,
      clock,
      random: seeded(7),
      networkKey: () => "",
      ...(options.timeZone === undefined ? {} : { timeZone: options.timeZone }),
      newId: () => `${String(++ids).padStart(8, "0")}-5eed-4000-8000-000000000000`,
      buildTransport: () => Promise.resolve(signal.transport),
      isChecked: true,
      env: process.env,
      ...(options.workplace === undefined ? {} : { workplace: options.workplace }),
      buildLine: () => Promise.resolve(options.line?.(clock) ?? claude.line),
    });
  let daemon = await start();
  const stop = async (): Promise<void> => {
    let isOver = false;
    void daemon.stop().then(() => (isOver = true));
    if (!(await runUntil(clock, () => isOver, 60_000))) throw new Error("the daemon does not stop");
  };
  await runUntil(clock, () => daemon.isReady(), 5_000);
  return {
    signal,
    claude,
    home,
    get daemon() {
      return daemon;
    },
    write: (text, write = {}) => signal.owner.write(text, write),
    texts: () => signal.screen().map(({ text }) => text),
    async pass(seconds) {
      const until = clock.monotonic() + seconds * 1000;
      await runUntil(clock, () => false, seconds * 1000);
      clock.jump(Math.max(0, until - clock.monotonic()));
      await boundary();
    },
    async sleep(seconds) {
      clock.jump(seconds * 1_000, true);
      await boundary();
    },
    async restart(offSeconds = 0) {
      await stop();
      clock.jump(offSeconds * 1_000);
      daemon = await start();
      await runUntil(clock, () => daemon.isReady(), 5_000);
    },
    async close() {
      await stop();
      rmSync(home, { recursive: true, force: true });
    },
  };
}
