/** Runs inputs one by one. Input `index` of a seed is always the same, whatever ran before it. */
import { createDice } from "../sim/dice.ts";
import type { Target } from "./targets.ts";

export type Finding = { readonly target: string; readonly index: number; readonly what: string };
export type Report = {
  readonly runs: number;
  readonly findings: readonly Finding[];
  /** By target: how many inputs, and the slowest in ms. */
  readonly targets: ReadonlyMap<string, { runs: number; slowestMs: number }>;
};

/** One input takes far less; more is a finding. A machine that is busy with others must not make one. */
export const inputMsMax = 2_000;
const findingsMax = 20;

export async function fuzz(
  targets: readonly Target[],
  options: {
    readonly seed: number;
    readonly from?: number;
    readonly runs: number;
    readonly onRun?: (index: number, findings: number) => void;
  },
): Promise<Report> {
  const wheel = targets.flatMap((target) => Array.from({ length: target.weight }, () => target));
  const tallies = new Map(targets.map(({ name }) => [name, { runs: 0, slowestMs: 0 }]));
  const findings: Finding[] = [];
  const from = options.from ?? 0;
  // A parser prints nothing: what it prints is what it was fed.
  const printers = { error: console.error, warn: console.warn, log: console.log };
  let printed = "";
  const hear = (...args: unknown[]): void => {
    printed ||= args.map(String).join(" ").slice(0, 300);
  };
  let index = from;
  for (; index < from + options.runs && findings.length < findingsMax; index++) {
    const dice = createDice(options.seed, index);
    const target = dice.pick(wheel);
    options.onRun?.(index, findings.length);
    const startedAt = performance.now();
    printed = "";
    Object.assign(console, { error: hear, warn: hear, log: hear });
    try {
      await target.run(dice);
      if (printed !== "") throw new Error(`it printed: ${printed}`);
    } catch (error) {
      const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
      findings.push({ target: target.name, index, what: what.slice(0, 1_500) });
    } finally {
      Object.assign(console, printers);
    }
    const ms = performance.now() - startedAt;
    const tally = tallies.get(target.name);
    if (tally) Object.assign(tally, { runs: tally.runs + 1, slowestMs: Math.max(tally.slowestMs, ms) });
    if (ms > inputMsMax) findings.push({ target: target.name, index, what: `it took ${ms.toFixed(0)} ms` });
  }
  return { runs: index - from, findings, targets: tallies };
}
