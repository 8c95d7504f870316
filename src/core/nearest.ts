/** The nearest of some words, for "did you mean". */
import damerauLevenshtein from "damerau-levenshtein";

/** The candidate with the fewest edits to `word`, or null when none is close (more than a third of it would change). */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const editsMax = Math.max(1, Math.ceil(word.length / 3));
  const near = candidates
    // As many edits at least; and what a stranger's word costs stays small, however long it is.
    .filter((candidate) => Math.abs(candidate.length - word.length) <= editsMax)
    .map((candidate) => ({ candidate, edits: damerauLevenshtein(word.toLowerCase(), candidate.toLowerCase()).steps }))
    .filter(({ edits }) => edits <= editsMax)
    .sort((a, b) => a.edits - b.edits);
  return near[0]?.candidate ?? null;
}
