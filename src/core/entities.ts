/**
 * Character references as people and models write them. HTML knows 2,231 names; these are the ones of a chat, and what is not
 * here stays as it was written.
 *
 * **Source:** HTML standard, section 13.5 "Named character references"; a number that is no character is U+FFFD by 13.2.5.80.
 */

const pairs = `
  amp & lt < gt > quot " apos ' copy © reg ® trade ™ deg ° plusmn ± micro µ para ¶ sect § middot · cent ¢ pound £ yen ¥ euro €
  iexcl ¡ iquest ¿ laquo « raquo » ndash – mdash — lsquo ‘ rsquo ’ sbquo ‚ ldquo “ rdquo ” bdquo „ bull • hellip … prime ′ Prime ″
  times × divide ÷ minus − frac12 ½ frac14 ¼ frac34 ¾ sup1 ¹ sup2 ² sup3 ³ le ≤ ge ≥ ne ≠ asymp ≈ equiv ≡ infin ∞ radic √ sum ∑
  prod ∏ int ∫ part ∂ isin ∈ notin ∉ cap ∩ cup ∪ sub ⊂ sup ⊃ and ∧ or ∨ not ¬ forall ∀ exist ∃ larr ← uarr ↑ rarr → darr ↓ harr ↔
  rArr ⇒ hArr ⇔ check ✓ cross ✗ alpha α beta β gamma γ delta δ epsilon ε lambda λ mu μ pi π sigma σ omega ω Delta Δ Sigma Σ Omega Ω
  auml ä ouml ö uuml ü Auml Ä Ouml Ö Uuml Ü szlig ß agrave à aacute á acirc â ccedil ç egrave è eacute é ecirc ê ntilde ñ oacute ó
`;

const named = new Map([
  ...Array.from(pairs.matchAll(/(\w+) (\S)/g), ([, name = "", character = ""]) => [name, character] as const),
  ["nbsp", "\u00a0"],
  ["ensp", "\u2002"],
  ["emsp", "\u2003"],
  ["thinsp", "\u2009"],
]);

const reference = /&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([A-Za-z][A-Za-z0-9]{1,31}));/g;

/** `text` with its references replaced. Unknown names stay. */
export function decodeEntities(text: string): string {
  if (!text.includes("&")) return text;
  return text.replace(reference, (raw: string, decimal?: string, hex?: string, name?: string) => {
    if (name !== undefined) return named.get(name) ?? raw;
    const code = decimal === undefined ? Number.parseInt(hex ?? "", 16) : Number(decimal);
    const isCharacter = code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
    return isCharacter ? String.fromCodePoint(code) : "\ufffd";
  });
}
