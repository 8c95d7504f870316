/** List prices. **Source:** https://platform.claude.com/docs/en/about-claude/pricing as of 24 Oct 2026; a model that is not there has no price. */

type Price = { readonly input: number; readonly output: number; readonly cacheRead: number };

/** US dollars per million tokens; the first pattern that matches a model's id counts. */
const prices: readonly (readonly [RegExp, Price])[] = [
  [/^claude-(fable|mythos)-5-1/u, { input: 10, output: 50, cacheRead: 0.25 }],
  [/^claude-(fable|mythos)-5(?!-\d\b)/u, { input: 10, output: 50, cacheRead: 1 }],
  [/^claude-opus-5-5/u, { input: 4, output: 20, cacheRead: 0.2 }],
  [/^claude-opus-(4-[5-8]|5(?!-\d\b))/u, { input: 5, output: 25, cacheRead: 0.5 }],
  [/^claude-opus-4/u, { input: 15, output: 75, cacheRead: 1.5 }],
  [/^claude-sonnet-5-5/u, { input: 2, output: 10, cacheRead: 0.1 }],
  [/^claude-sonnet-5(?!-\d\b)/u, { input: 2, output: 10, cacheRead: 0.2 }],
  [/^claude-sonnet-4/u, { input: 3, output: 15, cacheRead: 0.3 }],
  [/^claude-haiku-5-5/u, { input: 0.1, output: 0.5, cacheRead: 0.01 }],
  [/^claude-haiku-4/u, { input: 1, output: 5, cacheRead: 0.1 }],
];

/** Haiku 5.5 costs five times as much, all of the request, where the prompt is longer than this. */
const longPromptTokens = 100_000;
const cacheWriteFactor = 1.25;
const centsPerSearch = 1;

/** What a request to the Messages API used; counts of tokens and of searches. */
export type Used = {
  readonly input: number;
  readonly cacheRead: number;
  readonly cacheWrite: number;
  readonly output: number;
  readonly searches: number;
};

/** The list cost of one request in US cents; null where the model has no price here. */
export function centsOf(model: string, { input, cacheRead, cacheWrite, output, searches }: Used): number | null {
  const price = prices.find(([pattern]) => pattern.test(model))?.[1];
  if (!price) return null;
  const isLong = model.startsWith("claude-haiku-5-5") && input + cacheRead + cacheWrite > longPromptTokens;
  const written = cacheWrite * price.input * cacheWriteFactor;
  const dollarsPerMillion = input * price.input + cacheRead * price.cacheRead + written + output * price.output;
  return (dollarsPerMillion * (isLong ? 5 : 1)) / 10_000 + searches * centsPerSearch;
}
