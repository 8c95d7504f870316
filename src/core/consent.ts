/**
 * Yes, no and always as people write them: words of many languages, emojis in every skin tone, with or without punctuation. What
 * is not surely one of them is none: it is what lets Claude do things on a person's machine.
 */

export type Consent = {
  readonly answer: "yes" | "no" | "always";
  /** What was said after a no, for Claude to hear. */
  readonly reason: string | null;
  /** Of a question that has several things in it: those that are meant; none for all. */
  readonly numbers: readonly number[];
};

type Answer = Consent["answer"];

/** Skin tones, variation selectors, joiners, and what is not seen at all. */
const unseen = /[\p{Cf}\p{Variation_Selector}\p{Emoji_Modifier}\p{Default_Ignorable_Code_Point}]/gu;
const pictures = /\p{Extended_Pictographic}|[✗✘∞]/gu;

/** Compatibility forms as one, lower case, without what is not seen and without what only decorates. */
export const toPlain = (text: string): string => text.normalize("NFKC").replace(unseen, "").toLowerCase();

/** Words with one blank between them; a question mark stays, for it asks. */
function toWords(text: string): string {
  return toPlain(text)
    .replaceAll(/[’‘ʼ`´]/gu, "'")
    .replaceAll(/[^\p{L}\p{M}\p{N}'?\s-]|(?<![\p{L}])['-]|['-](?![\p{L}])/gu, " ")
    .replaceAll(/\s+/gu, " ")
    .trim();
}

const emojis: ReadonlyMap<string, Answer> = new Map([
  ...list("yes", "👍 👌 ✅ ✔ ☑ 🆗 💯 🙆 🫡"),
  ...list("no", "👎 ❌ ✖ ✗ ✘ ❎ 🚫 ⛔ 🛑 🙅"),
  ...list("always", "♾ ∞"),
]);

const words: ReadonlyMap<string, Answer> = new Map([
  ...phrases(
    "yes",
    `yes, y, yes please, please do, yes do, yes do it, yes go ahead, yes ok, yes okay, yes sure, yes thanks, yes thank you, yeah,
     yea, yep, yup, aye, ok, okay, okey, okay do it, ok do it, ok go, ok yes, k, kk, sure, sure thing, sure go ahead, of course, fine,
     that's fine, all right, alright, go, go ahead, go for it, go on, do it, do that, proceed, continue, allow, allow it, allowed, approve,
     approved, approve it, accept, accepted, agree, agreed, confirm, confirmed, affirmative, absolutely, certainly, definitely, sounds good,
     looks good, lgtm, you may, granted, all, both, all of them, yes all, yes to all, yes both, yes to both, allow all,
     ja, ja bitte, ja gerne, ja mach, ja mach das, ja klar, jawohl, jo, jup, jep, klar, klaro, gern, gerne, sicher, natürlich, einverstanden,
     genehmigt, erlaubt, erlauben, mach, mach das, mach es, mach mal, los, passt, in ordnung, bitte ja, na klar, okidoki,
     oui, ouais, oui merci, oui s'il te plaît, d'accord, bien sûr, vas-y, allez-y, fais-le, autorise, autorisé,
     sí, si, claro, sí por favor, por supuesto, vale, dale, de acuerdo, adelante, hazlo, permitir, permitido,
     sì, va bene, certo, d'accordo, procedi, sim, claro que sim, pode, tá, está bem, tak, dobrze, jasne, zgoda, da, da da,
     да, ага, конечно, хорошо, давай, можно, разрешаю, согласен, согласна, добре, ano, jo jo, áno, igen, evet, tamam, olur, joo, kyllä,
     jah, jā, taip, ναι, εντάξει, כן, בסדר, نعم, أجل, حسنا, हाँ, हां, ठीक है, はい, うん, ええ, いいよ, いいですよ, お願いします, オーケー, 是, 是的,
     好, 好的, 好吧, 可以, 行, 同意, 允许, 對, 네, 예, 응, 그래, 좋아, 좋아요, 허용, có, vâng, đồng ý, ya boleh, boleh, setuju`,
  ),
  ...phrases(
    "no",
    `no, n, no thanks, no thank you, no way, no no, nope, nah, nay, never, no please, no don't, no do not, no stop, don't, dont, do not, none, no to all, no to both, none of them,
     do not do it, don't do it, dont do it, don't do that, deny, denied, reject, rejected, refuse, refused, decline, declined, disallow, forbid,
     stop, stop it, cancel, cancel it, abort, not now, better not, rather not, please don't, please no, please not, negative, no go,
     nein, nein danke, nein bitte nicht, ne danke, nee, nö, nope nope, nicht, bitte nicht, lieber nicht, lass es, lass das, stopp, halt, halt stopp,
     abbrechen, abgelehnt, verboten, auf keinen fall, niemals, non, non merci, surtout pas, pas maintenant, arrête, refuse, refusé,
     no gracias, mejor no, cancela, cancelar, no grazie, não, nao, não obrigado, não obrigada, nie, nie dziękuję, нет, не надо, не нужно, нельзя, стоп,
     ні, nem, hayır, ei, ei kiitos, nej, nej tack, nej tak, nei, nei takk, ne, όχι, לא, لا, नहीं, いいえ, いや, だめ, ダメ, やめて, 不, 不要, 不行,
     不可以, 不用, 否, 拒绝, 取消, 아니, 아니요, 아니오, 안돼, 안 돼, 하지마, không, tidak, jangan`,
  ),
  ...phrases(
    "always",
    `always, always yes, yes always, always allow, allow always, always allow this, always ok, ok always, every time, yes every time, immer,
     ja immer, immer erlauben, immer ja, toujours, oui toujours, siempre, sí siempre, si siempre, sempre, sì sempre, sim sempre, zawsze, всегда,
     да всегда, завжди, altijd, ja altijd, alltid, ja alltid, altid, aina, her zaman, いつも, 总是, 始终允许, 항상`,
  ),
]);

function list(answer: Answer, signs: string): [string, Answer][] {
  return signs.split(" ").map((sign) => [sign, answer]);
}

function phrases(answer: Answer, text: string): [string, Answer][] {
  return text.split(",").map((phrase) => [toWords(phrase), answer]);
}

/** What a short message means as an answer to a question for a yes or no; null where it means none. */
export function consentOf(text: string): Consent | null {
  // Nothing that long is an answer, and what a stranger's text costs stays small.
  if (text.length > textLengthMax) return null;
  const plain = answerOf(text);
  if (plain !== null) return { answer: plain, reason: null, numbers: [] };
  const numbered = numberedOf(text);
  if (numbered !== null) return numbered;
  const [, head = "", rest = ""] = /^([^,;:.!–—\n]{1,30})(?:[,;:.!–—\n]|\s-\s)+\s*(.+)$/su.exec(text.trim()) ?? [];
  const reason = rest.trim();
  // A yes with conditions is no yes; a no with a reason is a no.
  return answerOf(head) === "no" && reason !== "" ? { answer: "no", reason, numbers: [] } : null;
}

/** "yes 1 3", "no 2, use the other file": a yes with anything behind its numbers is none. */
function numberedOf(text: string): Consent | null {
  const [, head = "", tail = ""] = /^(\D{1,30}?)\s*(?:\b(?:to|for|zu|für)\s+)?#?(\p{Nd}.*)$/su.exec(text.trim()) ?? [];
  const answer = answerOf(head);
  const { numbers, rest } = numbersOf(tail);
  if (answer === null || numbers.length === 0 || (rest !== "" && answer !== "no")) return null;
  return { answer, reason: rest === "" ? null : rest, numbers };
}

/** Numbers and ranges that a text begins with, digits of keycaps and full-width ones included; and what stands behind them. */
export function numbersOf(text: string): { readonly numbers: readonly number[]; readonly rest: string } {
  let rest = text
    .replaceAll(/[\uFF10-\uFF19]/gu, (digit) => digit.normalize("NFKC"))
    .replaceAll(/(?<=\d)\uFE0F?\u20E3/gu, " ")
    .trim();
  const numbers = new Set<number>();
  for (;;) {
    const [whole, first, last] = numberForm.exec(rest) ?? [];
    if (whole === undefined) break;
    for (let number = Number(first); number <= Number(last ?? first); number++) numbers.add(number);
    rest = rest.slice(whole.length);
  }
  return { numbers: [...numbers], rest: numbers.size === 0 ? rest : rest.replace(/^[\s,;:.!–—、，-]+/u, "") };
}

const numberForm =
  /^#?(\d{1,2})(?:\s?[-–]\s?(\d{1,2}))?(?:[.)](?=\s|$))?(?:[\s,;:&+!、，]+(?:(?:and|und|et|y)\s+(?=#?\d))?|$)/iu;

const textLengthMax = 1_000;

function answerOf(text: string): Answer | null {
  const plain = toPlain(text);
  const signs = [...plain.matchAll(pictures)].flatMap(([sign]) => emojis.get(sign) ?? []);
  const said = toWords(plain.replaceAll(pictures, " "));
  const meant = said === "" ? null : words.get(said);
  if (meant === undefined) return null;
  const all = new Set<Answer>([...signs, ...(meant === null ? [] : [meant])]);
  const [only, ...others] = all;
  return only !== undefined && others.length === 0 ? only : null;
}

/** The same of a reaction: one emoji. */
export const consentOfReaction = (emoji: string): Answer | null => answerOf(emoji);
