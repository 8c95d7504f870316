/** What can go wrong, and how it is mended. Each fault happens once per call; what lasts mends itself through the agenda. */
import type { Fault, Point } from "../doubles/scripted.ts";
import { errorTable, type ErrorCode } from "../../src/core/errors.ts";
import type { Millis } from "../../src/core/model.ts";
import type { WorldSession } from "../doubles/world.ts";
import type { MemoryFaults } from "../doubles/memory.ts";
import type { Theirs } from "./claude.ts";
import type { Dice } from "./dice.ts";
import type { Life, Machine } from "./life.ts";
import type { People } from "./people.ts";
import type { FaultKind, Plan } from "./plan.ts";

export type FaultDeps = {
  readonly dice: Dice;
  readonly plan: Plan;
  readonly machine: Machine;
  readonly line: MemoryFaults;
  readonly theirs: Theirs;
  readonly people: People;
  /** The process that lives now, if any. */
  readonly life: () => Life | null;
  /** A person asks the daemon to try now. */
  /** Claude works in a folder of the machine. */
  readonly hasGarden: boolean;
  readonly reconnect: () => void;
  /** Kills at one of the next awaits. */
  readonly crashSoon: () => void;
  readonly restart: () => void;
  readonly sleep: (ms: Millis) => void;
  /** Runs at the end of a fault; `mend` may come sooner, when all faults stop. */
  readonly after: (ms: Millis, mend: () => void) => void;
};

const points: readonly Point[] = [
  "create",
  "open",
  "open",
  "list",
  "list",
  "post",
  "post",
  "post",
  "post",
  "retrieve",
  "update",
  "check",
];
const claudeCodes = (Object.keys(errorTable) as ErrorCode[]).filter(
  (code) => code.startsWith("claude_") && code !== "claude_stream_lost",
);

/** By kind: makes it happen, and says what exactly. */
export function createFaults(deps: FaultDeps): Readonly<Record<FaultKind, () => string>> {
  const { dice, machine, line, theirs, people } = deps;
  const lasting = (): Millis => Math.round(dice.between(300, deps.plan.lastingMs));
  const forAWhile = (start: () => void, mend: () => void, ms = lasting()): string => {
    start();
    deps.after(ms, mend);
    return `for ${ms} ms`;
  };
  const claude = (fault: Fault): string => {
    const point = dice.pick(points);
    theirs.fail(point, fault);
    return `at ${point}`;
  };
  const withSession = (work: (session: WorldSession) => void): string => {
    const living = theirs.world.sessions().filter((session) => !session.isArchived && session.status !== "terminated");
    if (living.length === 0) return "no session is there";
    const session = dice.pick(living);
    try {
      work(session);
    } catch {
      return `${session.id} refused`;
    }
    return session.id;
  };
  const once = (work: () => void): string => {
    work();
    return "";
  };
  const disk = (key: "isDiskFull" | "isDiskBroken"): string =>
    forAWhile(
      () => {
        machine[key] = true;
        deps.life()?.applyDisk();
      },
      () => {
        machine[key] = false;
        deps.life()?.applyDisk();
      },
    );
  return {
    cut: () => forAWhile(line.cut, line.mend),
    unlink: () =>
      forAWhile(line.unlink, () => {
        line.relink();
        deps.reconnect();
      }),
    // Long enough, at times, for the line to count as stalled.
    hang: () => forAWhile(line.hang, line.release, Math.round(dice.between(1_000, 400_000))),
    loseAnswer: () => once(() => line.loseAnswers(1 + dice.below(3))),
    loseAck: () => once(() => line.loseAcks()),
    rateLimit: () => once(() => line.refuseSends("signal_rate_limited", 1, lasting())),
    captcha: () => forAWhile(() => line.refuseSends("captcha"), deps.reconnect),
    refuseSend: () => once(() => line.refuseSends(dice.pick(["untrusted_identity", "unregistered", "send_rejected"]))),
    duplicate: () => once(() => people.repeat()),
    late: people.late,
    // A garbled answer, a 5xx, a line that was gone before the message was: several at a time.
    refuseSome: () => {
      const code = dice.pick(["signal_protocol", "signal_unreachable", "signal_timeout"] as const);
      line.refuseSends(code, 1 + dice.below(3));
      // At last it is refused for good: what waits behind it was written in the belief that it would be there.
      if (dice.chance(0.5)) line.refuseSends("send_rejected");
      return code;
    },
    odd: () => once(() => people.oddity()),
    stranger: people.intrude,
    claudeRefuse: () => {
      const code = dice.pick(claudeCodes);
      const retryAfterMs = dice.chance(0.3) ? lasting() : 0;
      return `${code} ${claude({ kind: "refuse", code, retryAfterMs })}`;
    },
    claudeLose: () => claude({ kind: dice.chance(0.3) ? "unechoed" : "lose" }),
    claudeHang: () => claude({ kind: "hang" }),
    claudeDown: () =>
      forAWhile(
        () => theirs.setDown(true),
        () => theirs.setDown(false),
      ),
    claudeMute: () =>
      forAWhile(
        () => theirs.setMute(true),
        () => theirs.setMute(false),
      ),
    streamCut: () => once(() => theirs.world.cut()),
    say: () => withSession(theirs.speak),
    patch: () => withSession(dice.chance(0.3) ? theirs.elsewhere.rename : theirs.elsewhere.set),
    confirmElsewhere: () =>
      withSession(({ id, asks: [ask] }) => ask && !ask.isLocal && theirs.world.confirm(id, ask.id, dice.chance(0.5))),
    askElsewhere: () => withSession(theirs.elsewhere.ask),
    gone: () =>
      withSession(({ id, status }) =>
        // Only one that rests can be archived or deleted.
        status === "idle" ? theirs.world[dice.pick(["archive", "delete"] as const)](id) : undefined,
      ),
    crash: () => {
      // What dies idle dies of nothing: something is under way.
      if (dice.chance(0.7)) people.ask();
      const life = deps.life();
      const ways: readonly (readonly [string, () => void])[] = [
        ["at a write", () => life?.killAfterWrites(1 + dice.below(60))],
        ["at an await", deps.crashSoon],
        ["after a message", () => life?.killOn("message")],
        ["after a prompt", () => life?.killOn("prompt")],
        ...(deps.hasGarden ? [["in a call", () => life?.killOn("call")] as const] : []),
      ];
      const [way, arm] = dice.pick(ways);
      arm();
      return way;
    },
    restart: () => once(() => deps.restart()),
    sleep: () => {
      const ms = Math.round(dice.between(5_000, 8 * 3_600_000));
      deps.sleep(ms);
      return `for ${ms} ms`;
    },
    setClock: () => {
      machine.wallOffsetMs = dice.chance(0.3) ? 0 : Math.round((dice.random() - 0.5) * dice.between(2_000, 20_000_000));
      theirs.setSkew();
      return `to ${machine.wallOffsetMs} ms off`;
    },
    brokenPages() {
      const table = dice.pick(["events", "inbox", "outbox", "posts", "sessions", "settings", "calls"]);
      const mended = (): void => void (machine.brokenTable = null);
      return `${table} ${forAWhile(() => void (machine.brokenTable = table), mended)}`;
    },
    // Nothing can be opened any more: the database is open already.
    descriptors: () =>
      forAWhile(
        () => {
          line.cut();
          theirs.setDown(true);
        },
        () => {
          line.mend();
          theirs.setDown(false);
        },
      ),
    diskFull: () => disk("isDiskFull"),
    diskBroken: () => disk("isDiskBroken"),
    network: () => {
      machine.network = `net-${dice.below(3)}`;
      return machine.network;
    },
  };
}
