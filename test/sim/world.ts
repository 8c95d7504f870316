/**
 * A world from a seed: the real daemon, a Signal and a Claude in memory, people, faults, and a clock that moves only when told.
 *
 *   agenda ─▶ people and faults ─▶ one timer fires ─▶ boundary: every promise that can settle settles ─▶ oracle.check ─▶ …
 *
 * First the faults have their time; then all of them stop, and within `graceMs` everything must be as it should be. One seed
 * gives one run: the trace of two runs is the same to the byte.
 */
import { createHash } from "node:crypto";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BridgeError } from "../../src/core/errors.ts";
import { classify } from "../../src/core/inbound.ts";
import type { Millis } from "../../src/core/model.ts";
import { startDaemon, type Daemon } from "../../src/daemon.ts";
import type { Log } from "../../src/log.ts";
import { createMemorySignal } from "../doubles/memory.ts";
import { openStore } from "../../src/store/store.ts";
import { createTheirs } from "./claude.ts";
import { boundary, createVirtualClock } from "../doubles/clock.ts";
import { createDice } from "./dice.ts";
import { makeHome, simConfig } from "./config.ts";
import { createFaults } from "./faults.ts";
import { createGarden } from "./garden.ts";
import { createLife, gateTransport, type Life, type Machine } from "./life.ts";
import { createOracle } from "./oracle.ts";
import { createOwner } from "./owner.ts";
import { createPeople } from "./people.ts";
import { drawPlan, faultKinds, rareKinds, type FaultKind, type Mode } from "./plan.ts";

export type RunOptions = {
  readonly seed: number;
  /** How long faults happen, in virtual minutes. */
  readonly minutes: number;
  readonly mode?: Mode | undefined;
  /** Takes the trace, line by line. */
  readonly write?: ((line: string) => void) | undefined;
};

export type RunResult = {
  readonly seed: number;
  readonly mode: Mode;
  /** The first thing that should not have been, or null. */
  readonly failure: string | null;
  /** Virtual time in which the machine was awake: what was simulated step by step. */
  readonly awakeMs: Millis;
  readonly messages: number;
  readonly faults: number;
  /** Processes that were started. */
  readonly lives: number;
  /** SHA-256 of the trace. */
  readonly hash: string;
};

/** After the last fault, everything must be in order within this time: the largest waits are the sweep's 10 minutes. */
const graceMs: Millis = 40 * 60_000;
/** The longest that a stop may take: the drain, and one request to Claude that hangs. */
const stopMs: Millis = 90_000;

const momentMax = 5_000;

/** A home that was never used, with all migrations done: they cost more than most seeds. */
let emptyDatabase: Promise<Uint8Array> | null = null;

async function makeEmptyDatabase(): Promise<Uint8Array> {
  const home = makeHome();
  try {
    const store = await openStore(home, { isExclusive: false });
    store.close();
    return readFileSync(join(home, "signalman.db"));
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}

/** Runs one seed. Never rejects: what went wrong is in the result. */
export async function runSeed(options: RunOptions): Promise<RunResult> {
  const home = makeHome();
  writeFileSync(join(home, "signalman.db"), await (emptyDatabase ??= makeEmptyDatabase()));
  const run = createRun(options, home);
  try {
    await run.play();
  } catch (error) {
    run.fail(String(error instanceof Error ? error.stack : error));
  } finally {
    run.end();
    rmSync(home, { recursive: true, force: true });
  }
  return run.result();
}

type Process = { readonly life: Life; daemon: Daemon | null; isEnding: boolean };

function createRun({ seed, minutes, mode, write }: RunOptions, home: string) {
  const base = createVirtualClock();
  const plan = drawPlan(createDice(seed, 1), mode);
  const dice = createDice(seed, 2);
  const chance = createDice(seed, 3);
  const hash = createHash("sha256");
  const agenda: { at: Millis; readonly run: () => void }[] = [];
  let mends: (() => void)[] = [];
  let failure: string | null = null;
  let now: Process | null = null;
  let lives = 0;
  let ids = 0;
  let faultCount = 0;
  let isCalm = false;
  let stepsToCrash = Infinity;
  /** For how long the machine was asleep altogether, and when (awake time) the line last showed that it lives. */
  let sleptMs = 0;
  let provenAt = 0;
  let state = "DISCONNECTED";
  let syncingSince = 0;

  const trace = (text: string): void => {
    const line = `${(base.monotonic() / 1000).toFixed(3).padStart(10)} ${text}`;
    hash.update(line).update("\n");
    write?.(line);
  };
  const fail = (what: string): void => {
    if (failure === null) trace(`BROKEN ${what.replaceAll(home, "HOME")}`);
    failure ??= what.replaceAll(home, "HOME");
  };
  const machine: Machine = {
    base,
    wallOffsetMs: 0,
    network: "net-0",
    isDiskFull: false,
    isDiskBroken: false,
    brokenTable: null,
    statements: new Set(),
  };
  const signal = createMemorySignal({ clock: base, ownTimestamps: plan.ownTimestamps });
  // In about a third of the worlds Claude works in a folder of the machine; a stream of draws of its own leaves the others as they were.
  const soil = createDice(seed, 6);
  const callRate = soil.chance(0.35) ? soil.between(0.2, 0.95) : 0;
  const hasGarden = callRate > 0;
  const isCode = plan.backend === "local" && createDice(seed, 8).chance(0.4);
  const owner = createOwner(signal, soil);
  const people = createPeople(signal, createDice(seed, 4), owner.onYes, isCode);
  const garden = createGarden({ dice: soil, rate: callRate, owner, onBroken: fail, trace });
  const theirs = createTheirs({
    base,
    machine,
    plan,
    isCode,
    trace,
    dice: createDice(seed, 5),
    calls: garden.calls,
    people,
    life: () => now?.life ?? null,
    onBroken: fail,
  });
  const oracle = createOracle({
    signal,
    theirs,
    people,
    base,
    ownTimestamps: plan.ownTimestamps,
    onBroken: fail,
    trace,
  });
  // A question that no phone took is over by itself within the grace.
  const soiled = hasGarden ? { projects: "garden=/garden", approvalMinutes: String(1 + soil.below(20)) } : {};
  const coded = isCode ? { backend: "claude-code" } : {};
  const config = simConfig(home, { ...plan.settings, ...soiled, ...coded });
  const schedule = (ms: Millis, run: () => void): void => {
    const at = base.monotonic() + ms;
    const index = agenda.findIndex((entry) => entry.at > at);
    agenda.splice(index < 0 ? agenda.length : index, 0, { at, run });
  };

  /** A loop that takes no time never ends: thousands of anything in one moment are a fault of their own. */
  const moment = { at: -1, counts: { "wake-ups": 0, lines: 0 } };
  const checkPace = (what: "wake-ups" | "lines", onHot: () => void): void => {
    const at = base.monotonic();
    if (moment.at !== at) moment.counts = { "wake-ups": 0, lines: 0 };
    moment.at = at;
    if (++moment.counts[what] <= momentMax) return;
    fail(`${momentMax} ${what}, and time stands still`);
    onHot();
  };

  const logOf = (life: Life): Log => {
    const hear =
      (level: string) =>
      (message: string, fields: object = {}): void => {
        if (life.isDead()) return;
        const line = `${level} ${message} ${JSON.stringify(fields)}`;
        oracle.hearLog(line);
        checkPace("lines", () => life.kill("as it runs hot"));
        trace(line.replaceAll(home, "HOME"));
      };
    return { debug: hear("debug"), info: hear("info"), warn: hear("warn"), error: hear("error") };
  };

  const start = (): void => {
    const life = createLife(machine);
    const process: Process = { life, daemon: null, isEnding: false };
    now = process;
    lives++;
    stepsToCrash = Infinity;
    state = "DISCONNECTED";
    oracle.unhush();
    trace("start");
    life.onDeath((why) => {
      trace(`killed ${why}`);
      state = "DISCONNECTED";
    });
    const startAgain = (): void => schedule(isCalm ? 1_000 : Math.round(dice.between(100, 60_000)), start);
    life.onDeath(startAgain);
    startDaemon(config, {
      log: logOf(life),
      clock: life.clock,
      random: chance.random,
      networkKey: () => machine.network,
      newId: () => `${(++ids).toString(16).padStart(8, "0")}-5eed-4000-8000-000000000000`,
      buildTransport: (store) => {
        life.adopt(store);
        return Promise.resolve(
          gateTransport(life, signal.transport, signal.account, {
            ...oracle.watch,
            isLocal: plan.isLocal,
            onProof: () => (provenAt = base.monotonic() - sleptMs),
            onBroken: fail,
            classify: (envelope, account) =>
              classify(envelope, { account, allow: config.allow, isGroupAlways: config.groupAlways }),
          }),
        );
      },
      isChecked: true,
      workplace: garden.workplace(life),
      buildLine: () => Promise.resolve(theirs.connect(life)),
    }).then(
      (daemon) => {
        if (life.isDead()) return;
        process.daemon = daemon;
        daemon.notices.on("connection", (notice) => {
          if (life.isDead()) return;
          state = notice.state.name;
          if (state === "SYNCING") oracle.syncing(life.look());
          syncingSince = base.monotonic();
        });
        daemon.notices.on("synced", ({ checked, failed, durationMs }) => {
          // One that began before says nothing of what has come since.
          const isOfNow = base.monotonic() - durationMs >= syncingSince;
          if (!life.isDead() && state === "SYNCING" && isOfNow && failed === 0) oracle.synced(life.look(), checked);
        });
        daemon.notices.on("ended", ({ session }) => {
          if (!life.isDead()) trace(`turn ended in ${session}`);
        });
        void daemon.finished.then((code) => {
          if (life.isDead()) return;
          trace(`ended ${code}`);
          if (!process.isEnding) fail(`the daemon ended by itself with ${code}`);
          life.kill("by its own end");
        });
      },
      (error: unknown) => {
        if (life.isDead()) return;
        if (!(error instanceof BridgeError)) return fail(String(error));
        trace(`could not start: ${error.code}`);
        life.kill("as it could not start");
      },
    );
  };

  const stop = (process: Process): void => {
    if (process.daemon === null || process.isEnding) return;
    process.isEnding = true;
    trace("stop");
    void process.daemon.stop();
    schedule(stopMs, () => {
      if (!process.life.isDead()) fail(`a stop took longer than ${stopMs} ms`);
    });
  };

  const tryNow = (): void => {
    oracle.unhush();
    now?.daemon?.reconnect();
  };

  const faults = createFaults({
    dice,
    plan,
    machine,
    theirs,
    people,
    hasGarden,
    line: signal.faults,
    life: () => now?.life ?? null,
    reconnect: () => {
      if (now && !now.life.isDead() && !now.isEnding) tryNow();
    },
    crashSoon: () => void (stepsToCrash = dice.below(6)),
    restart: () => {
      if (now && !now.life.isDead()) stop(now);
    },
    sleep: (ms) => {
      base.jump(ms);
      sleptMs += ms;
      for (const entry of agenda) entry.at += ms;
    },
    after(ms, mend) {
      mends.push(mend);
      schedule(ms, () => {
        if (!mends.includes(mend)) return;
        mends = mends.filter((other) => other !== mend);
        trace("mended");
        mend();
      });
    },
  });

  const inject = (kind: FaultKind): void => {
    faultCount++;
    const text = `fault ${kind}`;
    trace(`${text} ${faults[kind]()}`);
  };

  /** One thing happens, at a rate per minute, again and again until it is calm. */
  const repeatedly = (perMinute: number, work: () => void, of = dice): void => {
    const gapMs = Math.max(1, Math.round((-Math.log(1 - of.random()) * 60_000) / perMinute));
    schedule(gapMs, () => {
      if (isCalm) return;
      work();
      repeatedly(perMinute, work, of);
    });
  };

  const checkFreshness = (): void => {
    if (state !== "CONNECTED" || now === null || now.life.isDead()) return;
    const silentMs = base.monotonic() - sleptMs - provenAt;
    if (silentMs > config.limits.staleAfterMs + tickSlackMs)
      fail(`CONNECTED without a proof of life for ${silentMs} ms`);
  };

  const step = async (): Promise<void> => {
    if (stepsToCrash-- <= 0 && now && !now.life.isDead()) {
      stepsToCrash = Infinity;
      for (let ticks = dice.below(80); ticks > 0; ticks--) await Promise.resolve();
      now.life.kill("at an await");
    }
    await boundary();
    if (now?.life.isDead()) now.life.release();
    oracle.check(now?.life.look() ?? null, now?.life.takeDirty() ?? false);
    checkFreshness();
    checkPace("wake-ups", () => undefined);
    if (failure !== null) throw new Error(failure);
  };

  /** Lets virtual time pass, up to `until` or until `isDone`. */
  const pass = async (until: Millis, isDone: () => boolean): Promise<boolean> => {
    for (;;) {
      if (isDone()) return true;
      const due = agenda[0];
      const next = Math.min(until, due?.at ?? Infinity);
      if (base.next(next)) {
        await step();
        continue;
      }
      base.jump(Math.max(0, next - base.monotonic()));
      if (due === undefined || due.at > base.monotonic()) return isDone();
      agenda.shift();
      due.run();
      await step();
    }
  };

  const db = () => now?.life.look() ?? null;

  /** The world becomes a friendly place: nothing new goes wrong, and people help where only they can. */
  const calm = (): void => {
    isCalm = true;
    trace("calm");
    stepsToCrash = Infinity;
    now?.life.killAfterWrites(Infinity);
    now?.life.killOn(null);
    for (const mend of mends) mend();
    mends = [];
    theirs.calmDown();
    if (now && !now.life.isDead()) tryNow();
  };

  const help = (): void => {
    const open = db();
    // Where it asks is not known here: another device answers.
    for (const session of theirs.world.sessions())
      for (const ask of session.asks) if (open && !ask.isLocal) theirs.world.confirm(session.id, ask.id, true);
    if (open && hasGarden) owner.answerAll();
    if (open && now?.daemon?.status().outbox.fault?.code === "captcha") tryNow();
    schedule(20_000, help);
  };

  return {
    fail,
    async play() {
      trace(`plan ${JSON.stringify(plan)}`);
      start();
      await step();
      repeatedly(plan.talk, () => trace(`person ${people.act()}`));
      if (hasGarden) repeatedly(4 + 3 * plan.talk, () => trace(`owner ${owner.act()}`));
      for (const kind of faultKinds) {
        const rate = plan.rates[kind];
        if (rate !== undefined) repeatedly(rate, () => inject(kind));
      }
      const rare = createDice(seed, 15);
      for (const kind of rareKinds)
        if (plan.mode === "swarm" && rare.chance(0.3)) repeatedly(rare.between(0.03, 2), () => inject(kind), rare);
      let isOver = false;
      schedule(minutes * 60_000, () => (isOver = true));
      await pass(Infinity, () => isOver);
      calm();
      help();
      let reason: string | null = "not looked at yet";
      const isQuiet = (): boolean => {
        const open = db();
        const fault = open && (now?.daemon?.status().outbox.fault?.code ?? null);
        if (open === null) reason = "no process";
        else if (state !== "CONNECTED") reason = `the line is ${state}`;
        else if (fault !== null) reason = `the outbox shows ${fault}`;
        else reason = oracle.unfinished(open) ?? garden.unfinished(open);
        // The sweep would find it within 10 minutes; now and then that is what is waited for.
        if (reason !== null && state === "CONNECTED" && seed % 4 > 0 && base.monotonic() - syncedAt > 20_000) {
          syncedAt = base.monotonic();
          void now?.daemon?.sync().catch((error: unknown) => {
            if (!(error instanceof BridgeError)) fail(String(error));
          });
        }
        return reason === null;
      };
      let looked = -Infinity;
      let syncedAt = base.monotonic();
      const isQuietNow = (): boolean => {
        if (base.monotonic() - looked < 1_000) return false;
        looked = base.monotonic();
        return isQuiet();
      };
      if (!(await pass(base.monotonic() + graceMs, isQuietNow)))
        return fail(`not in order after the faults: ${reason}`);
      trace("in order");
      oracle.searchFiles(home);
      const last: Process | null = now;
      if (last === null) return;
      stop(last);
      await pass(base.monotonic() + stopMs, () => last.life.isDead());
      oracle.searchFiles(home);
    },
    end() {
      if (now && !now.life.isDead()) now.life.kill("at the end");
      now?.life.release();
    },
    result: (): RunResult => ({
      seed,
      mode: plan.mode,
      failure,
      awakeMs: base.monotonic() - sleptMs,
      messages: people.count(),
      faults: faultCount,
      lives,
      hash: hash.digest("hex"),
    }),
  };
}

/** Up to two ticks. */
const tickSlackMs: Millis = 2_000;
