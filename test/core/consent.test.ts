import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { consentOf, consentOfReaction } from "../../src/core/consent.ts";

const yes = `yes|Yes!|YES.|y|yep|yeah|okay|OK|ok 👍|k|sure|yes please|go ahead|do it|sounds good|ja|Ja, bitte|klar|oui|d’accord|vas-y|sí|Sí.|si
  |vale|да|はい|いいよ|好的|可以|네|evet|tak|हाँ|نعم|ｙｅｓ|ＯＫ|“yes”|**yes**|y\u200Bes|\u202Eyes|S\u0069\u0301|👍|👍🏽|👍\uFE0F|👍🏿👍🏿|✔|✔️|✅|☑️|👌🏻|yes 😀|yes, go ahead|yesss|yes yes|Sure, thanks!|ok danke
  |please go ahead|yeah do it please|that’s fine|it's ok|ja, gerne|Oui, vas-y|да, конечно|はい、お願いします|好啊|ได้|ok go for it|+1
  |yes :-D|ok ;)|allow once|yes, just this once|do it now|run it|jaja|geht klar|d'accord, vas y|ja graag|okie dokie|thats fine|yes it is ok|sure, why not|Okay, go ahead and do it|yes I’m sure`;
const no = `no|No.|nope|nah|no thanks|No, thank you!|don't|don’t|stop|cancel|nein|nein danke|nö|non|não|нет|いいえ|不要|아니요|hayır|لا|नहीं|ｎｏ|👎|👎🏻|❌|✖️|🚫|⛔️|no 👎|nooo|no no|please don't|not yet|never mind|いいえ、結構です|不用了
  |absolutely not|of course not|don't allow it|skip it|forget it|not this time|bloß nicht`;
const always =
  "always please|yes, from now on|ja, immer bitte|always|Always!|yes, always|always allow|immer|toujours|siempre|всегда|♾|♾️|∞|don't ask again|yes, and don’t ask again|stop asking|always for this conversation";
const none = `|?|ok?|yes?|sure?|yes but only the first|yes, and add a test|yes if it is safe|not sure|no problem|no worries|no idea|maybe|hmm|wait|yesterday
  |okra|nobody|👍👎|yes 👎|no 👍|❤️|👨‍👩‍👧|🤔|1|yes\nand also delete the other|allow me to explain|go away|please|danke|ya|pode ser|no, go ahead|don't stop
  |ok stop|yes, not now|not bad|never say never|go to hell|thanks|it|ok what|yes because it is safe|once|now|👍 but not the tests|${"yes ".repeat(11)}`;
const words = (list: string): string[] => list.split("|").map((word) => word.replace(/^\s+|\n\s*$/gu, ""));

describe("a yes is a yes", () => {
  for (const [list, answer] of [
    [yes, "yes"],
    [no, "no"],
    [always, "always"],
  ] as const)
    test.each(words(list))(`%p means ${answer}`, (word) => {
      expect(consentOf(word)).toEqual({ answer, reason: null, numbers: [] });
      expect(consentOf(`  ${word}\n`)?.answer).toBe(answer);
    });
  test.each(words(none))("%p means none of them", (word) => expect(consentOf(word)).toBeNull());

  test.each([
    ["no, use the other folder", "use the other folder"],
    ["No: the other one", "the other one"],
    ["nein – lieber morgen", "lieber morgen"],
    ["no thanks. Use make instead.", "Use make instead."],
    ["no\nuse the other", "use the other"],
    ["No - not that", "not that"],
    ["no because it is wrong", "because it is wrong"],
    ["不要，用另一个", "用另一个"],
    ["👎🏽 wrong file", "wrong file"],
    ["no… the other one", "the other one"],
    ["no (the other one)", "(the other one)"],
    ["no, and don't ask again", "and don't ask again"],
  ])("%p is a no with a reason", (said, reason) =>
    expect(consentOf(said)).toEqual({ answer: "no", reason, numbers: [] }),
  );

  test.each([
    ["yes 1 3", "yes", [1, 3], null],
    ["Yes, 1 and 3.", "yes", [1, 3], null],
    ["yes to 1-3", "yes", [1, 2, 3], null],
    ["ja 2", "yes", [2], null],
    ["👍 1️⃣ 3️⃣", "yes", [1, 3], null],
    ["はい１、３", "yes", [1, 3], null],
    ["はい１，３", "yes", [1, 3], null],
    ["ok #2", "yes", [2], null],
    ["always 2", "always", [2], null],
    ["no 2", "no", [2], null],
    ["no 2, use the other file", "no", [2], "use the other file"],
    ["No 1, 2: Use 3 files", "no", [1, 2], "Use 3 files"],
    ["no 2 - not that", "no", [2], "not that"],
    ["yes 1 in 10", null, [], null],
    ["yes 2, but only the first line", null, [], null],
    ["go 1.22", null, [], null],
    ["yes 2026", null, [], null],
    ["1 3", null, [], null],
    ["maybe 2", null, [], null],
  ] as const)("%p: %p to %p", (said, answer, numbers, reason) =>
    expect(consentOf(said)).toEqual(answer === null ? null : { answer, numbers: [...numbers], reason }),
  );

  test("a reaction is read as the emoji that it is", () => {
    expect(["👍🏽", "👎", "♾️", "😂", ""].map(consentOfReaction)).toEqual(["yes", "no", "always", null, null]);
  });

  test("case, width, blanks, punctuation and skin tones change nothing", () => {
    const tone = fc.constantFrom("", "🏻", "🏼", "🏽", "🏾", "🏿");
    const end = fc.constantFrom("", ".", "!", "!!", "…", " ", "\u200B", "\uFE0F");
    fc.assert(
      fc.property(fc.constantFrom("👍", "👌", "👎"), tone, end, (sign, skin, tail) => {
        expect(consentOf(sign + skin + tail)?.answer).toBe(sign === "👎" ? "no" : "yes");
      }),
    );
    fc.assert(
      fc.property(fc.constantFrom("yes", "go ahead", "no", "nein", "always"), end, (word, tail) => {
        const wide = word.replaceAll(/[a-z]/gu, (letter) =>
          String.fromCodePoint((letter.codePointAt(0) ?? 0) + 0xfee0),
        );
        expect(consentOf(wide + tail)).toEqual(consentOf(word));
        expect(consentOf(word.toUpperCase() + tail)).toEqual(consentOf(word));
      }),
    );
  });

  test("of any text at most a short one is a yes, and none throws", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 300 }), (said) => {
        const found = consentOf(said);
        if (found?.answer === "yes") expect(said.length).toBeLessThan(60);
      }),
    );
    expect(consentOf("yes ".repeat(1_000_000))).toBeNull();
  });
});
