/**
 * Yes, no and always as people write them: words of many languages, emojis in every skin tone, with or without punctuation. A text that is
 * not surely one of them is none, since a yes lets Claude do things on a person's machine.
 */

export type Consent = {
  readonly answer: "yes" | "no" | "always";
  /** The words after a no, which Claude is told. */
  readonly reason: string | null;
  /** Numbers of the tool uses that are meant, in a question that shows several; empty for all. */
  readonly numbers: readonly number[];
};

type Answer = Consent["answer"];

/** Skin tones, variation selectors, joiners and other invisible characters. */
const unseen = /[\p{Cf}\p{Variation_Selector}\p{Emoji_Modifier}\p{Default_Ignorable_Code_Point}]/gu;
const pictures = /\p{Extended_Pictographic}|[✗✘∞]/gu;

/** The text in NFKC and lower case, without characters that are invisible or only decorate. */
export const toPlain = (text: string): string => text.normalize("NFKC").replace(unseen, "").toLowerCase();

/** The words with one blank between them, without smileys made of letters; a question mark stays, since it makes a question of them. */
function toWords(text: string): string {
  return toPlain(text)
    .replaceAll(/[:;=]-?[)dp]+(?![\p{L}\p{N}])/gu, " ")
    .replaceAll(/[’‘ʼ`´]/gu, "'")
    .replaceAll(/[^\p{L}\p{M}\p{N}'?+\s-]|(?<![\p{L}])['-]|['-](?![\p{L}])|\+(?!\d)/gu, " ")
    .replaceAll(/(\p{L})\1{2,}/gu, "$1")
    .replaceAll(/\s+/gu, " ")
    .trim();
}

const emojis: ReadonlyMap<string, Answer> = new Map([
  ...list("yes", "👍 👌 ✅ ✔ ☑ 🆗 💯 🙆 🫡"),
  ...list("no", "👎 ❌ ✖ ✗ ✘ ❎ 🚫 ⛔ 🛑 🙅"),
  ...list("always", "♾ ∞"),
]);

/** A phrase of several words counts as one: the longest that is known, from left to right. */
const meanings: ReadonlyMap<string, Answer | "filler"> = new Map([
  ...phrases(
    "yes",
    `yes, y, yess, do, please do, pls do, yeah, yea, yep, yup, aye, ok, okay, okey, okie, okey dokey, okie dokie, okidoki, o k, k, kk, sure,
     of course, by all means, fine, fine by me, why not, works for me, that works, all right, alright, go, go ahead, go right ahead, go for it,
     go on, carry on, do it, do so, do that, let's do it, let's go, lets go, make it so, proceed, continue, allow, allowed, approve, approved,
     accept, accepted, agree, agreed, confirm, confirmed, affirmative, absolutely, certainly, definitely, sounds good, sounds good to me,
     looks good, good to go, all good, ship it, run it, lgtm, ack, roger, you may, you can, granted, +1,
     all, both, all of them,
     ja, jaa, jaja, jawohl, jawoll, jo, jup, jep, klar, klaro, klar doch, na klar, gern, gerne, sicher, natürlich, einverstanden, genehmigt, erlaubt,
     erlauben, freigeben, geht klar, alles klar, mach, mach's, mach das, mach es, mach mal, mach ruhig, los, passt, passt so, in ordnung,
     oui, ouais, d'accord, bien sûr, vas-y, vas y, allez-y, fais-le, autorise, autorisé, sí, si, claro, claro que sí, por supuesto, vale, dale,
     de acuerdo, adelante, hazlo, permitir, permitido, sì, va bene, certo, d'accordo, procedi, sim, claro que sim, pode, tá, está bem,
     tak, dobrze, dobra, jasne, zgoda, da, да, ага, ок, окей, конечно, хорошо, давай, можно, разрешаю, согласен, согласна, так, добре, ano,
     áno, igen, akkoord, visst, evet, tamam, olur, joo, kyllä, jah, jā, taip, oke, iya, ναι, εντάξει, כן, בסדר, בטח, نعم, أجل, حسنا, تمام, हाँ, हां, हा, ठीक है, はい,
     うん, ええ, いいよ, いいですよ, お願いします, オーケー, 了解, 是, 是的, 好, 好的, 好吧, 好啊, 可以, 行, 嗯, 同意, 允许, 确认, 没问题, 對, 네, 예, 응, 그래,
     ㅇㅇ, 좋아, 좋아요, 허용, có, được, vâng, đồng ý, ใช่, ได้, โอเค, ตกลง, boleh, setuju`,
  ),
  ...phrases(
    "no",
    `no, n, no way, nope, nah, nay, never, never mind, nevermind, don't, dont, do not, don't do it, dont do it, do not do it, don't do that,
     do not do that, deny, denied, reject, rejected, refuse, refused, decline, declined, disallow, forbid, stop, cancel, abort, don't allow, dont allow, do not allow,
     absolutely not, certainly not, definitely not, of course not, hell no, leave it, skip, skip it, forget it, not now, not this time, not yet, better not, rather not, please not, negative, no go, none, none of them,
     nein, nee, nö, nicht, lieber nicht, lass es, lass das, lass mal, stopp, halt, abbrechen, abgelehnt, verboten, auf keinen fall, bloß nicht, niemals,
     non, surtout pas, pas maintenant, arrête, refusé, mejor no, cancela, cancelar, não, nao, nie, нет, не надо, не нужно, нельзя, стоп, ні,
     nem, hayır, ei, nej, nei, ne, όχι, לא, لا, नहीं, いいえ, いや, だめ, ダメ, やめて, 結構です, 不, 不要, 不行, 不可以, 不用, 不用了, 别, 否, 拒绝, 取消, 아니,
     아니요, 아니오, 안돼, 안 돼, 하지마, 싫어, không, ไม่, tidak, jangan`,
  ),
  ...phrases(
    "always",
    `always, always allow this, from now on, every time, don't ask again, dont ask again, do not ask again, and don't ask again,
     and dont ask again, and do not ask again, never ask again, stop asking, immer, toujours, siempre, sempre, zawsze, всегда, завжди, altijd, alltid, altid, aina,
     her zaman, いつも, 总是, 始终允许, 항상`,
  ),
  // Words that may stand beside an answer and change nothing.
  ...phrases(
    "filler",
    `please, pls, plz, and do it, it is, i'm, i am, thanks, thank you, thx, ty, thing, then, it, that, this, it's, that's, thats, i, now, once, only once, just once, just this
     once, only this once, this time, for this conversation, in this conversation, for this chat, to all, for all, to both,
     for this tool, don't stop, dont stop, do not stop, sir, doch, bitte, danke, graag, merci,
     s'il te plaît, s'il vous plaît, por favor, gracias, obrigado, obrigada, per favore, grazie, proszę, dziękuję, пожалуйста, спасибо, tack, takk,
     kiitos, lütfen, 谢谢, ください`,
  ),
]);

function list(answer: Answer, signs: string): [string, Answer][] {
  return signs.split(" ").map((sign) => [sign, answer]);
}

function phrases<K extends string>(meaning: K, text: string): [string, K][] {
  return text.split(",").map((phrase) => [toWords(phrase), meaning]);
}

/** A short message as the answer to a question for a yes or no; null where it is none. */
export function consentOf(text: string): Consent | null {
  // A text that long is no answer, and a stranger's text must cost little to read.
  if (text.length > textLengthMax) return null;
  const plain = answerOf(text);
  if (plain !== null) return { answer: plain, reason: null, numbers: [] };
  const numbered = numberedOf(text);
  if (numbered !== null) return numbered;
  const [, head = "", rest = ""] = reasoned.exec(text.trim().replace(signed, "$&,")) ?? [];
  const reason = rest.trim();
  // A yes with conditions is no yes; a no with a reason is a no.
  return answerOf(head) === "no" && reason !== "" && answerOf(reason) !== "yes"
    ? { answer: "no", reason, numbers: [] }
    : null;
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

/** An emoji before words. */
const signed = /^(?:\p{Extended_Pictographic}[\p{Emoji_Modifier}\uFE0F]*)+(?=\s+[\p{L}"“(])/u;
const reasoned =
  /^([^,;:.!…(–—，、；：。！\n]{1,30})(?:[,;:.!…–—，、；：。！\n]|(?=\()|\s-\s|\s(?=(?:because|weil|porque|perché|parce)\s))+\s*(.+)$/su;
const textLengthMax = 1_000;
const wordsMax = 10;

function answerOf(text: string): Answer | null {
  const plain = toPlain(text);
  const signs = [...plain.matchAll(pictures)].flatMap(([sign]) => emojis.get(sign) ?? []);
  const said = wordsMeant(toWords(plain.replaceAll(pictures, " ")));
  if (said === null) return null;
  const all = new Set<Answer>([...signs, ...said]);
  // "Yes, always" means always.
  if (all.has("always")) all.delete("yes");
  const [only, ...others] = all;
  return only !== undefined && others.length === 0 ? only : null;
}

/** The answers that the phrases of a text mean; null where it holds a phrase that is not known. */
function wordsMeant(text: string): Answer[] | null {
  const words = text === "" ? [] : text.split(" ");
  if (words.length > wordsMax) return null;
  const meant: Answer[] = [];
  for (let at = 0; at < words.length;) {
    const known = [4, 3, 2, 1].find((count) => meanings.has(words.slice(at, at + count).join(" ")));
    if (known === undefined) return null;
    const meaning = meanings.get(words.slice(at, at + known).join(" "));
    if (meaning !== undefined && meaning !== "filler") meant.push(meaning);
    at += known;
  }
  return meant;
}

/** The answer that a reaction means: it is one emoji. */
export const consentOfReaction = (emoji: string): Answer | null => answerOf(emoji);
