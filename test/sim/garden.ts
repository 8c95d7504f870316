/**
 * The folder of the simulated machine: beds that Claude wants to look at, dig over or water. It stands behind the real journal and the
 * real rule that what was shown must still hold; the folder alone is played. What may never happen there is checked as it happens:
 *
 *   nothing is done twice · nothing is done without a yes of the owner, who saw it first · what was begun is told as it ended
 */
import type { Clock } from "../../src/clock.ts";
import type { JsonValue } from "../../src/core/model.ts";
import type { Workplace } from "../../src/projects/executor.ts";
// The program imports it when it is first needed, which takes real time.
import "../../src/projects/undo.ts";
import { unknownOutcome } from "../../src/store/calls.ts";
import type { Database } from "../../src/store/database.ts";
import type { Dice } from "./dice.ts";
import type { Life } from "./life.ts";
import type { Owner } from "./owner.ts";

type Call = { readonly name: string; readonly input: JsonValue };

export type Garden = {
  /** The folder as a process of this life finds it. */
  workplace(life: Life): Workplace;
  /** What Claude calls next, at once: each names a bed of its own. */
  calls(): readonly Call[];
  /** What was begun is not told as it ended, or a call is not over; null where all is well. */
  unfinished(db: Database): string | null;
};

export type GardenDeps = {
  readonly dice: Dice;
  /** Of a turn's part to call anything. */
  readonly rate: number;
  readonly owner: Pick<Owner, "isAllowed" | "hasFreed" | "aci">;
  readonly onBroken: (what: string) => void;
  readonly trace: (text: string) => void;
};

/** `local_paint` is called all the same. */
const tools = (["local_read", "local_edit", "local_run"] as const).map((name) => ({
  name,
  description: name,
  inputSchema: {},
}));

type Row = { readonly bed: string; readonly state: string; readonly approver: string | null; readonly content: string };

export function createGarden({ dice, rate, owner, onBroken, trace }: GardenDeps): Garden {
  const dug = new Map<string, number>();
  const told = new Set<string>();
  /** What was shown of them is not so any more. */
  const stale = new Set<string>();
  let beds = 0;

  /** The bed is dug over now, whatever the process learns of that; one that is dead digs nothing. */
  const dig = (life: Life, bed: string, isGranted: boolean): void => {
    if (life.isDead()) return;
    const times = (dug.get(bed) ?? 0) + 1;
    dug.set(bed, times);
    trace(`dug ${bed}`);
    if (stale.has(bed)) onBroken(`${bed} was dug although it is not as it was shown`);
    if (times > 1) onBroken(`${bed} was dug ${times} times`);
    const row = life.look()?.get<Row>(`${rows} WHERE bed = ?`, bed);
    if (row?.state !== "started") onBroken(`${bed} was dug while the journal has it as ${row?.state}`);
    if (!owner.isAllowed(bed) && !(isGranted && owner.hasFreed()))
      onBroken(`${bed} was dug without a yes of the owner, who saw it first`);
    const approver = row?.approver ?? null;
    if (approver !== owner.aci && !(isGranted && approver === null)) onBroken(`${bed} was dug as ${approver} said yes`);
    life.delivered("call");
  };
  const work = async (life: Life, bed: string, isGranted: boolean, signal: AbortSignal) => {
    const { clock } = life;
    const pause = (): Promise<void> => dawdle(clock, dice, signal);
    await pause();
    if (signal.aborted) return { content: `ended before ${bed}`, isError: true };
    dig(life, bed, isGranted);
    await pause();
    told.add(bed);
    return { content: `dug ${bed}`, isError: false };
  };
  return {
    workplace: (life) => ({
      describe: () => Promise.resolve({ root: "/garden", tools, instructions: "A garden." }),
      async look(project, { tool, input }, { isGranted }) {
        await Promise.resolve();
        const { bed = "" } = input as { bed?: string };
        const title = `${tool} ${bed}`;
        const isFree = tool === "local_read" || (tool === "local_edit" && isGranted(project.name));
        if (tool === "local_paint") return { verdict: "never", reason: "There is no such tool" };
        return {
          verdict: isFree ? "free" : "asks",
          reason: "it digs",
          title,
          detail: "",
          basis: title,
          // Another person was in the garden meanwhile, at times.
          holds(basis) {
            if (dice.chance(0.05)) stale.add(bed);
            return basis === title && !stale.has(bed);
          },
          work: (signal) =>
            tool === "local_read"
              ? dawdle(life.clock, dice, signal).then(() => ({ content: `saw ${bed}`, isError: false }))
              : work(life, bed, isFree, signal),
        };
      },
    }),
    calls() {
      if (rate === 0 || !dice.chance(rate)) return [];
      const count = dice.chance(0.6) ? 1 : 2 + dice.below(6);
      return Array.from({ length: count }, () => ({
        name: dice.pick(["local_read", "local_edit", "local_edit", "local_run", "local_run", "local_paint"]),
        // The path as an edit has it: `always` is for ordinary files.
        input: { bed: `bed-${++beds}`, file_path: `bed-${beds}` },
      }));
    },
    unfinished(db) {
      for (const { bed, state, content } of db.all<Row>(rows)) {
        const times = dug.get(bed) ?? 0;
        if (state !== "posted" && isLive(db, bed)) return `${bed} is not over: ${state}`;
        if (content === `dug ${bed}` && times !== 1) onBroken(`${bed} is told as dug, and was dug ${times} times`);
        if (times > 0 && content !== `dug ${bed}` && content !== unknownOutcome)
          onBroken(`${bed} was dug, and Claude heard: ${content}`);
        if (times > 0 && !told.has(bed) && content !== unknownOutcome)
          onBroken(`${bed} was under way when the process died, and Claude heard: ${content}`);
      }
      return null;
    },
  };
}

const rows = `SELECT bed, state, approver, content FROM
  (SELECT id, input ->> '$.bed' AS bed, state, approver, coalesce(content, '') AS content, session_id FROM calls)`;

/** Its conversation goes on: what was called in one that is over is answered as far as that can be. */
const isLive = (db: Database, bed: string): boolean =>
  db.get(
    "SELECT 1 FROM calls JOIN sessions ON sessions.id = session_id WHERE input ->> '$.bed' = ? AND sessions.state = 'active'",
    bed,
  ) !== undefined;

/** Up to half a minute, or until it is stopped. */
const dawdle = (clock: Clock, dice: Dice, signal: AbortSignal): Promise<void> =>
  dice.chance(0.3) ? Promise.resolve() : clock.sleep(Math.round(dice.between(10, 30_000)), signal);
