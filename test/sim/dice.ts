/** Chance from a seed: same seed, same draws. */
import type { Random } from "../../src/clock.ts";

/** A small seeded generator (mulberry32): same seed, same numbers. */
export function seeded(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export type Dice = {
  readonly random: Random;
  /** A whole number from 0 to n − 1. */
  below(n: number): number;
  chance(probability: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Spread evenly over the orders of magnitude from `low` to `high`. */
  between(low: number, high: number): number;
};

/** Draws of one stream; `salt` keeps the streams of one seed apart, so that a draw more in one does not shift the others. */
export function createDice(seed: number, salt: number): Dice {
  const random = seeded(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(salt, 0x85ebca6b));
  const below = (n: number): number => Math.floor(random() * n);
  return {
    random,
    below,
    chance: (probability) => random() < probability,
    pick<T>(items: readonly T[]): T {
      if (items.length === 0) throw new Error("Nothing to pick from");
      return items[below(items.length)] as T;
    },
    between: (low, high) => Math.exp(Math.log(low) + random() * (Math.log(high) - Math.log(low))),
  };
}
