/** The nearest of some words, for "did you mean". */
import damerauLevenshtein from "damerau-levenshtein";
import fuzzysort from "fuzzysort";

/** The candidate with the fewest edits to `word`, or null when none is close: one edit in a short word, three in a long one. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const editsMax = word.length < 6 ? 1 : word.length < 10 ? 2 : 3;
  const near = candidates
    // The difference in length is the least number of edits; and a stranger's word must cost little, however long it is.
    .filter((candidate) => Math.abs(candidate.length - word.length) <= editsMax)
    .map((candidate) => ({ candidate, edits: damerauLevenshtein(word.toLowerCase(), candidate.toLowerCase()).steps }))
    .filter(({ edits }) => edits <= editsMax)
    .sort((a, b) => a.edits - b.edits);
  return near[0]?.candidate ?? null;
}

/** The near miss as a question; "" where none is close. */
export function didYouMean(word: string, candidates: readonly string[]): string {
  const near = nearest(word, candidates);
  return near === null ? "" : `Did you mean ${near}?`;
}

/** The model that is meant by a part of its name (`opus`, `claude-haiku`) or by a slip; null where none is like it. */
export const nearestModel = (word: string, models: readonly string[]): string | null =>
  fuzzysort.go(word, models, { limit: 1 })[0]?.target ?? nearest(word, models);
