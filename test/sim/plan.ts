/**
 * What one seed's world is like: which faults there are and how often, drawn in one of three ways.
 *
 * | mode        | like                                                                                         |
 * |-------------|----------------------------------------------------------------------------------------------|
 * | lite        | a good day: people talk, the line does its usual small things, nothing dies                  |
 * | swarm       | about half of all faults, each at an intensity of its own: rare combinations become frequent |
 * | performance | many people at once, every fault as rarely as in real life                                   |
 */
import type { Dice } from "./dice.ts";

export const modes = ["lite", "swarm", "performance"] as const;
export type Mode = (typeof modes)[number];

export const faultKinds = [
  "cut",
  "unlink",
  "hang",
  "loseAnswer",
  "loseAck",
  "rateLimit",
  "captcha",
  "refuseSend",
  "refuseSome",
  "duplicate",
  "late",
  "odd",
  "stranger",
  "claudeRefuse",
  "claudeLose",
  "claudeHang",
  "claudeDown",
  "claudeMute",
  "streamCut",
  "say",
  "patch",
  "askElsewhere",
  "confirmElsewhere",
  "gone",
  "crash",
  "restart",
  "sleep",
  "setClock",
  "diskFull",
  "diskBroken",
  "network",
] as const;
/** Drawn apart, so that seeds that are known by number stay as they were: pages that cannot be read, no descriptor to be had. */
export const rareKinds = ["brokenPages", "descriptors"] as const;
export type FaultKind = (typeof faultKinds)[number] | (typeof rareKinds)[number];

export type Plan = {
  readonly mode: Mode;
  /** Where the conversation is kept: at Claude's side, or in the database. */
  readonly backend: "remote" | "local";
  /** The timestamp of a message is ours, so that a repeated send is seen once. */
  readonly ownTimestamps: boolean;
  readonly isLocal: boolean;
  /** Messages of people per minute. */
  readonly talk: number;
  /** Faults per minute; kinds that are missing do not happen. */
  readonly rates: Readonly<Partial<Record<FaultKind, number>>>;
  /** Longest that a fault lasts, in ms. */
  readonly lastingMs: number;
  /** Probabilities per turn. */
  readonly ask: number;
  readonly slow: number;
  /** Of an answer to be so slow that a preview of it is shown. */
  readonly preview: number;
  readonly exhausted: number;
  readonly terminal: number;
  readonly oddStop: number;
  /** As flags. */
  readonly settings: Readonly<Record<string, string>>;
};

const small: readonly FaultKind[] = [
  "duplicate",
  "late",
  "odd",
  "stranger",
  "loseAck",
  "streamCut",
  "say",
  "patch",
  "network",
];

export function drawPlan(dice: Dice, wanted?: Mode): Plan {
  const mode = wanted ?? dice.pick(["lite", "swarm", "swarm", "swarm", "performance"] as const);
  const isSwarm = mode === "swarm";
  const rates: Partial<Record<FaultKind, number>> = {};
  for (const kind of faultKinds) {
    const rate = dice.between(0.03, 4);
    const isIn = isSwarm ? dice.chance(0.5) : mode === "performance" || small.includes(kind);
    if (isIn) rates[kind] = isSwarm ? rate : 0.05;
  }
  const some = (probability: number): number => (isSwarm && dice.chance(0.5) ? dice.random() * probability : 0.02);
  return {
    mode,
    backend: dice.chance(0.15) ? "local" : "remote",
    rates,
    ownTimestamps: dice.chance(0.6),
    isLocal: dice.chance(0.5),
    talk: mode === "performance" ? dice.between(10, 40) : dice.between(0.5, 8),
    lastingMs: dice.between(2_000, 240_000),
    ask: some(0.6),
    slow: some(0.5),
    preview: some(0.7),
    exhausted: some(0.4),
    terminal: mode === "lite" ? 0 : some(0.2),
    oddStop: some(0.3),
    settings: {
      busy: dice.chance(0.2) ? "interrupt" : "queue",
      progress: String(dice.chance(0.7)),
      reactions: dice.chance(0.7) ? "on" : "off",
      approvalMinutes: String(1 + dice.below(60)),
      digestAfterMinutes: String(1 + dice.below(60)),
      lanesMax: String(1 + dice.below(8)),
    },
  };
}
