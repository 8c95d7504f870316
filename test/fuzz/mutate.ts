/** Seeded damage: to JSON values, to texts and to bytes. */
import type { Dice } from "../sim/dice.ts";

const words = [
  "",
  " ",
  "\u0000",
  "\ud83d",
  "\udc00",
  "👩‍👩‍👧‍👦",
  "e\u0301\u0301\u0301\u0301",
  "\u202e\u2066",
  "__proto__",
  "constructor",
  "toString",
  "null",
  "-0",
  "1e999",
  "+15550100001",
  "sgnl://linkdevice?uuid=x",
  "[".repeat(60),
  "*".repeat(80),
  "`".repeat(40),
  "<b>".repeat(20),
  "> ".repeat(90),
  "![](".repeat(30),
  "| - ".repeat(40),
  "&#x1F600;&amp;&lt",
  "\r\n\r\n",
  "data: {}\n\n",
  "event: x\ndata: [DONE]\n\n",
  '{"envelope":',
  '","',
  "a".repeat(5_000),
];
const numbers = [0, -0, -1, 1, 0.5, 2 ** 31, 2 ** 53, -(2 ** 53), 1e308, -1e308, 5e-324, 8.64e15, 8.64e15 + 1];

export function oddText(dice: Dice): string {
  const pieces = Array.from({ length: 1 + dice.below(6) }, () =>
    dice.chance(0.4)
      ? dice.pick(words)
      : String.fromCharCode(...Array.from({ length: dice.below(12) }, () => unit(dice))),
  );
  return pieces.join("");
}

/** Mostly ASCII, now and then anything, half surrogates included. */
const unit = (dice: Dice): number => (dice.chance(0.8) ? 32 + dice.below(95) : dice.below(0x1_0000));

export function oddValue(dice: Dice, depth = 0): unknown {
  switch (dice.below(depth > 3 ? 5 : 9)) {
    case 0:
      return null;
    case 1:
      return dice.chance(0.5);
    case 2:
      return dice.pick(numbers);
    case 3:
    case 4:
      return oddText(dice);
    case 5:
      return Array.from({ length: dice.below(5) }, () => oddValue(dice, depth + 1));
    case 6:
      return deep(dice.pick([10, 100, 600]), dice.chance(0.5));
    case 7:
      // What JSON can hold and no conversion survives.
      return { toString: 1, valueOf: null, constructor: {}, length: -1 };
    default:
      return Object.fromEntries(
        Array.from({ length: dice.below(5) }, () => [oddText(dice), oddValue(dice, depth + 1)]),
      );
  }
}

function deep(levels: number, isList: boolean): unknown {
  let value: unknown = 1;
  for (let level = 0; level < levels; level++) value = isList ? [value] : { a: value };
  return value;
}

type Place = { readonly holder: Record<string, unknown>; readonly key: string };

function places(value: unknown, found: Place[] = []): Place[] {
  if (typeof value !== "object" || value === null) return found;
  const holder = value as Record<string, unknown>;
  for (const key of Object.keys(holder)) {
    found.push({ holder, key });
    places(holder[key], found);
  }
  return found;
}

/** A copy of `value` with one to four things wrong; `others` lend their parts. */
export function mutateJson(dice: Dice, value: unknown, others: readonly unknown[]): unknown {
  if (dice.chance(0.03)) return oddValue(dice);
  const root = { value: structuredClone(value) };
  for (let times = 1 + dice.below(4); times > 0; times--) {
    const all = places(root);
    const { holder, key } = dice.pick(all);
    switch (dice.below(7)) {
      case 0:
        delete holder[key];
        break;
      case 1:
        holder[key] = [holder[key], structuredClone(holder[key])];
        break;
      case 2:
        if (!Array.isArray(holder))
          holder[dice.pick([oddText(dice), ...all.map((place) => place.key)])] = structuredClone(holder[key]);
        break;
      case 3:
        holder[key] = structuredClone(dice.pick(others));
        break;
      case 4:
        if (typeof holder[key] === "string")
          holder[key] = dice.chance(0.3) ? dice.pick(words) : mutateText(dice, holder[key]);
        break;
      default:
        holder[key] = oddValue(dice);
    }
    if (!("value" in root)) break;
  }
  return root.value;
}

export function mutateText(dice: Dice, text: string): string {
  let result = text;
  for (let times = 1 + dice.below(4); times > 0; times--) {
    const at = dice.below(result.length + 1);
    const end = at + dice.below(Math.min(200, result.length - at) + 1);
    switch (dice.below(5)) {
      case 0:
        result = result.slice(0, at);
        break;
      case 1:
        result = result.slice(0, at) + result.slice(end);
        break;
      case 2:
        result = result.slice(0, end) + result.slice(at, end).repeat(1 + dice.below(8)) + result.slice(end);
        break;
      default:
        result = result.slice(0, at) + oddText(dice) + result.slice(dice.chance(0.5) ? at : end);
    }
  }
  return result.slice(0, 200_000);
}

export function mutateBytes(dice: Dice, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  let result = [...bytes];
  for (let times = 1 + dice.below(5); times > 0; times--) {
    const at = dice.below(result.length + 1);
    switch (dice.below(5)) {
      case 0:
        result = result.slice(0, at);
        break;
      case 1:
        result.splice(at, dice.below(20));
        break;
      case 2:
        result.splice(at, 0, ...Array.from({ length: dice.below(20) }, () => dice.below(256)));
        break;
      case 3:
        // A length that lies.
        result.splice(at, dice.below(5), 0xff, 0xff, 0xff, 0xff, 0x0f);
        break;
      default:
        if (at < result.length) result[at] = dice.below(256);
    }
  }
  return new Uint8Array(result);
}

/** The bytes in pieces of any size, also inside a character. */
export function pieces(dice: Dice, bytes: Uint8Array): Uint8Array[] {
  const result: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const size = 1 + Math.floor(dice.between(1, 2_000)) * (dice.chance(0.5) ? 1 : 0);
    result.push(bytes.subarray(at, at + size));
    at += size;
  }
  return result;
}
