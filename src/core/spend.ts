/** The cost of questions: sums in words, and the limit of what a person may spend in a day. */
import type { Address } from "./model.ts";

/** Tokens, and their list cost as far as there is one. */
export type Sum = {
  /** All input tokens, those read from the cache and written into it included. */
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly costCents: number;
  /** True where a part of the tokens has no list price. */
  readonly isUnpriced: boolean;
};

/** The spending of a person today, beside the limit. */
export type Spend = {
  readonly limitCents: number;
  readonly cents: number;
  /** When the day ends, in words. */
  readonly until: string;
  /** This day and person, as the subject of a message. */
  readonly subject: string;
  /** Whether the person was told today that most of the limit is spent. */
  readonly isTold: boolean;
};

/** The id that a person's spending is kept by: the account id, which stays, else the number; empty where neither is known. */
export const personOf = (source: Address | null): string => source?.aci ?? source?.number ?? "";

const dollars = (cents: number): string => `$${(cents / 100).toFixed(2)}`;
const tokens = (count: number): string => count.toLocaleString("en");

function sumText({ inputTokens, outputTokens, costCents, isUnpriced }: Sum): string {
  const price = dollars(costCents) + (isUnpriced ? " and what has no list price" : "");
  const cost = isUnpriced && costCents === 0 ? "" : `, ${price}`;
  return `${tokens(inputTokens)} tokens in, ${tokens(outputTokens)} out${cost}`;
}

/** A line for each sum, with its name; a sum of no tokens is left out. */
export function usageText(sums: readonly (readonly [name: string, sum: Sum])[]): string | null {
  const used = sums.filter(([, { inputTokens, outputTokens }]) => inputTokens + outputTokens > 0);
  return used.length === 0 ? null : used.map(([name, sum]) => `${name}: ${sumText(sum)}`).join("\n");
}

export const isSpent = (spend: Spend | null): spend is Spend => spend !== null && spend.cents >= spend.limitCents;

/** A limit is announced when this much of it is spent. */
const announcedShare = 0.8;
export const isAnnounced = ({ cents, limitCents, isTold }: Spend): boolean =>
  !isTold && cents >= announcedShare * limitCents;

export const spendText = ({ cents, limitCents, until }: Spend): string =>
  `Your questions today cost ${dollars(cents)} of the ${dollars(limitCents)} allowed, until ${until}.`;

export const refusalText = (spend: Spend): string =>
  `${spendText(spend)} So this one was not asked; /retry asks it after that.`;
