/** The real daemon between a Signal and a Claude in memory, on a clock that moves when told: for tests of one promise each. */
import { rmSync } from "node:fs";
import { createScriptedClaude, type Script, type ScriptedClaude } from "../doubles/scripted.ts";
import { createWorld, type World } from "../doubles/world.ts";
import { classify } from "../../src/core/inbound.ts";
import type { Millis } from "../../src/core/model.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import { createMemorySignal, type MemorySignal } from "../doubles/memory.ts";
import { accountsIn } from "../../src/store/names.ts";
import { createHeardLog } from "../doubles/quiet-log.ts";
import { boundary, createVirtualClock, runUntil, type VirtualClock } from "../doubles/clock.ts";
import { seeded } from "./dice.ts";
import { makeHome, simConfig } from "./config.ts";
import { createLife, gateTransport, type Life, type Machine } from "./life.ts";

export type BenchOptions = {
  readonly script?: Script;
  readonly ownTimestamps?: boolean;
  readonly flags?: Readonly<Record<string, string>>;
};

export type Bench = {
  readonly clock: VirtualClock;
  readonly machine: Machine;
  readonly signal: MemorySignal;
  readonly world: World;
  /** What was posted to Claude, retries included. */
  readonly posts: readonly string[];
  readonly log: readonly string[];
  /** The line of the present process to Claude. */
  claude(): ScriptedClaude;
  daemon(): Daemon;
  life(): Life;
  state(): string;
  /** Texts on the phones, in order. */
  texts(): string[];
  /** Starts the next process, the one before being dead. */
  start(): Promise<void>;
  /** Kills the process now. */
  kill(): Promise<void>;
  /** @throws Error where it does not become true within 20 virtual minutes */
  until(what: string, isDone: () => boolean): Promise<void>;
  pass(ms: Millis): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
};

const patienceMs: Millis = 20 * 60_000;
/** The screen shows what was said and nothing else. */
const plain = { reactions: "off", welcome: "false", progress: "false" };

export const answerAll: Script = (prompt) => [{ say: `re: ${prompt}` }];

export async function openBench({
  script = answerAll,
  ownTimestamps = true,
  flags = {},
}: BenchOptions = {}): Promise<Bench> {
  const home = makeHome();
  const clock = createVirtualClock();
  const config = simConfig(home, { ...plain, ...flags });
  const machine: Machine = {
    base: clock,
    wallOffsetMs: 0,
    network: "",
    isDiskFull: false,
    isDiskBroken: false,
    brokenTable: null,
    statements: new Set(),
  };
  const signal = createMemorySignal({ clock, ownTimestamps });
  const posts: string[] = [];
  const real = createWorld(clock, script);
  const world: World = {
    ...real,
    post(id, text) {
      posts.push(text);
      const event = real.post(id, text);
      now?.life.delivered("prompt");
      return event;
    },
  };
  const random = seeded(7);
  const log = createHeardLog();
  let ids = 0;
  let now: { life: Life; claude: ScriptedClaude; daemon: Daemon | null } | null = null;
  const need = () => {
    if (now === null) throw new Error("No process was started");
    return now;
  };
  /** What the transport was told and must not be; thrown by the test's next wait, so that no code on the way can swallow it. */
  let broken: string | null = null;
  const run = async (isDone: () => boolean, ms: Millis): Promise<boolean> => {
    const isOver = await runUntil(clock, () => broken !== null || isDone(), ms);
    if (broken !== null) throw new Error(broken);
    return isOver;
  };
  const start = async (): Promise<void> => {
    const life = createLife(machine);
    const claude = createScriptedClaude({ clock: life.clock, world, skewMs: -machine.wallOffsetMs });
    life.onDeath(() => claude.setDown(true));
    const process: typeof now = { life, claude, daemon: null };
    now = process;
    const started = startDaemon(config, {
      log,
      random,
      clock: life.clock,
      networkKey: () => machine.network,
      newId: () => `${(++ids).toString(16).padStart(8, "0")}-5eed-4000-8000-000000000000`,
      buildLine: () => Promise.resolve(claude.line),
      buildTransport(store) {
        life.adopt(store);
        return Promise.resolve(
          gateTransport(life, signal.transport, signal.account, {
            isLocal: true,
            onProof: () => undefined,
            onDelivered: () => undefined,
            onSend: () => undefined,
            onRefused: () => undefined,
            onShown: () => undefined,
            onBroken: (what) => {
              broken ??= what;
            },
            classify: (envelope, account) =>
              classify(envelope, {
                account,
                allow: config.allow,
                isGroupAlways: false,
                accountOf: accountsIn(store.settings),
              }),
          }),
        );
      },
    }).then(
      (daemon) => void (process.daemon = daemon),
      (error: unknown) => {
        if (!life.isDead()) throw error;
      },
    );
    await Promise.race([started, new Promise<void>((resolve) => life.onDeath(() => resolve()))]);
    await boundary();
  };
  const bench: Bench = {
    clock,
    machine,
    signal,
    world,
    posts,
    log: log.lines(),
    claude: () => need().claude,
    life: () => need().life,
    daemon() {
      const { daemon } = need();
      if (!daemon) throw new Error("The process has not started");
      return daemon;
    },
    state: () => bench.daemon().status().connection.state,
    texts: () => signal.screen().map(({ text }) => text),
    start,
    async kill() {
      need().life.kill("by the test");
      await boundary();
      need().life.release();
    },
    async until(what, isDone) {
      if (!(await run(isDone, patienceMs))) throw new Error(`Waited in vain for ${what}`);
    },
    pass: async (ms) => void (await run(() => false, ms)),
    async [Symbol.asyncDispose]() {
      if (now && !now.life.isDead()) await bench.kill();
      now?.life.release();
      rmSync(home, { recursive: true, force: true });
    },
  };
  await start();
  await bench.until("the line", () => bench.state() === "CONNECTED");
  return bench;
}

/** Nothing is open any more. */
export function isSettled(bench: Bench): boolean {
  if (bench.life().isDead()) return false;
  const { inbox, outbox, connection } = bench.daemon().status();
  return connection.state === "CONNECTED" && inbox.pending + outbox.pending === 0 && bench.signal.queued().length === 0;
}
