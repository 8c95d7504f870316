/**
 * Which `*`, `_` and `~~` of a line of Markdown mean emphasis: the delimiter runs of CommonMark 0.31 (section 6.2), with the
 * "CJK-friendly" flanking of github.com/tats-u/markdown-cjk-friendly, and stricter where people write other things with them:
 *
 *   a*b*c  2 *3  x**2  COUNT(*)  src/*.ts  snake_case  __init__  ~5     stay as they are
 *   **重要：**正文  **「中」**文  **주의:**내용  **T**otal  ***both***        are emphasis
 */

/** `from` and `to` enclose the delimiters, which are `size` long on each side. */
export type Emphasis = { readonly from: number; readonly to: number; readonly size: 1 | 2 };

/** The emphasis in `text` by the index where it begins; code and links must be masked before. Time: n log n at worst. */
export function emphasisIn(text: string): ReadonlyMap<number, Emphasis> {
  const found = new Map<number, Emphasis>();
  const open: Run[] = [];
  for (const run of runsIn(text)) {
    if (run.canClose) close(run, open, text, found);
    if (run.left > 0 && run.canOpen) {
      open.push(run);
      if (open.length > openMax) open.shift();
    }
  }
  return found;
}

type Run = {
  readonly mark: string;
  /** Index of the run's first delimiter that is not used yet. */
  at: number;
  left: number;
  readonly length: number;
  readonly canOpen: boolean;
  readonly canClose: boolean;
  /** Within a word: such a run closes only an opener of its own length (**T**otal). */
  readonly isInner: boolean;
};

/** Openers that wait: prose has a handful; hostile text would make every closer look through thousands. */
const openMax = 64;

function close(run: Run, open: Run[], text: string, found: Map<number, Emphasis>): void {
  for (let index = open.length - 1; index >= 0 && run.left > 0;) {
    const opener = open[index];
    if (!opener || !isPair(opener, run)) {
      index--;
      continue;
    }
    open.length = index + 1;
    const size = opener.left > 1 && run.left > 1 ? 2 : 1;
    const emphasis: Emphasis = { from: opener.at + opener.left - size, to: run.at + size, size };
    if (!isName(text.slice(emphasis.from, emphasis.to), run.isInner)) found.set(emphasis.from, emphasis);
    opener.left -= size;
    run.at += size;
    run.left -= size;
    if (opener.left === 0) {
      open.pop();
      index--;
    }
  }
}

/** CommonMark's rules 9 and 10: runs that could be both do not match where their lengths add up to a multiple of three. */
function isPair(opener: Run, closer: Run): boolean {
  if (opener.mark !== closer.mark) return false;
  if (opener.mark === "~" || closer.isInner) return opener.length === closer.length;
  const isEither = opener.canClose || closer.canOpen;
  return !isEither || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/**
 * `__init__`, `__FILE__` and `__typename__` are names, `__Note__` is bold; two stars around a path are a pattern. A star within a word
 * ends no more than the word: `f(*args), 2*x`.
 */
const isName = (text: string, isInner: boolean): boolean =>
  /^__(?:[a-z]\w*|[A-Z][A-Z0-9_]*)__$|^__[^]*\W__\w+__$/.test(text) ||
  /^\*\*\/[^\s*]*\/\*\*$/.test(text) ||
  (isInner && /^\*[^*]/.test(text) && /\s/.test(text));

function* runsIn(text: string): Generator<Run> {
  for (const {
    0: { length },
    0: mark,
    index: at,
  } of text.matchAll(/\*+|_+|~+/g)) {
    const before = /.$/su.exec(text.slice(Math.max(0, at - 2), at))?.[0] ?? "";
    const ahead = text.slice(at + length, at + length + 2);
    const [next = ""] = ahead;
    const near: Near = {
      before,
      next,
      ahead,
      length,
      around: text.slice(Math.max(0, at - 24), at + 24),
      isLeft: isFlanking(next, before),
      isRight: isFlanking(before, next),
    };
    const [canOpen, canClose] = rules[mark.charAt(0)]?.(near) ?? [false, false];
    const isInner = isWord(before) && isWord(next);
    if (canOpen || canClose) yield { mark: mark.charAt(0), at, left: length, length, canOpen, canClose, isInner };
  }
}

type Near = {
  readonly before: string;
  readonly next: string;
  /** The two characters behind the run. */
  readonly ahead: string;
  /** The text around the run, 24 characters to each side. */
  readonly around: string;
  readonly isLeft: boolean;
  readonly isRight: boolean;
  readonly length: number;
};

const isSpace = (char: string): boolean => char === "" || /\s/u.test(char);
const cjk =
  /[\u1100-\u11ff\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe10-\ufe1f\ufe30-\ufe6f\uff01-\uffef\u{1b000}-\u{1b2ff}\u{20000}-\u{3fffd}]/u;
const isPunctuation = (char: string): boolean => /[\p{P}\p{S}]/u.test(char) && !cjk.test(char);
/** Letters of scripts that set spaces between words, and digits: a mark between two of them is no emphasis. */
const isWord = (char: string): boolean => /[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\p{N}]/u.test(char);

/** True where a run hugs `inner`: no space there, and punctuation only where `outer` is no character of a word. */
const isFlanking = (inner: string, outer: string): boolean =>
  !isSpace(inner) && (!isPunctuation(inner) || isSpace(outer) || isPunctuation(outer) || cjk.test(outer));

const isPathLike = (char: string): boolean => char !== "" && "/\\.=@#&+%$^".includes(char);
const isCloserOnly = (char: string, isSingle: boolean): boolean =>
  char !== "" && (isSingle ? ")]},;:!?" : ")]}").includes(char);

const rules: { readonly [mark: string]: (near: Near) => readonly [canOpen: boolean, canClose: boolean] } = {
  "*": ({ before, next, ahead, around, isLeft, isRight, length }) => {
    const isSingle = length === 1;
    // A product in Chinese or Japanese has no spaces either: 长*宽=面积.
    const isFactor = isSingle && cjk.test(before) && /[=＝]/.test(around);
    const isOpener =
      !isFactor &&
      (cjk.test(next) || !(isWord(before) || /[)\]}%°]/.test(before))) &&
      !isCloserOnly(next, isSingle) &&
      !(isPathLike(before) && !(!isSingle && /\p{L}/u.test(next))) &&
      !(isSingle ? /^(?:\.[^.…]|[/\\|&=])/.test(ahead) : /^\/[*.]/.test(ahead));
    const isCloser =
      !/[([{]/.test(before) &&
      !(before === "/" && next === "/") &&
      (cjk.test(before) || !/\d/.test(next)) &&
      !(isSingle && (/[/\\=]/.test(before) || /^[./\\]\w/.test(ahead)));
    // Models forget the space behind **Note:**, and put endings to **«names»**.
    return [isLeft && isOpener, (isRight || (!isSingle && /[:.!?…"”’»)\]]/.test(before))) && isCloser];
  },
  _: ({ before, next, ahead, isLeft, isRight }) => [
    isLeft && (!isRight || isPunctuation(before)) && !isPathLike(before) && !isCloserOnly(next, true),
    isRight && (!isLeft || isPunctuation(next)) && !/^[./\\=@-]\w/.test(ahead),
  ],
  "~": ({ isLeft, isRight, length }) => [isLeft && length === 2, isRight && length === 2],
};
