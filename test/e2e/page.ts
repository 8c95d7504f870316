/**
 * The page on which a transcript is written, and who waits for its lines.
 *
 * Messages, edits and reactions come to a phone in the order in which they were sent. Receipts and typing travel beside
 * them, so that they are given a place: a receipt under its message; typing behind the reactions of the moment, where it
 * begins, and its end only where no answer ends it. A chat is shown as one phone sees it: Note to Self on the owner's, a
 * direct chat on that person's, the group on Ben's.
 */
import type { StyleRange } from "../../src/core/model.ts";
import type { Place, Seen, SeenFile } from "../doubles/phone.ts";

export type Who = "me" | "Anna" | "Ben";
/** A message in the transcript, to be named later. */
export type Said = { readonly who: Who; readonly sentAt: number; readonly place: Place };

/** Longest wait for what a phone is to show, in ms. */
const patienceMs = 30_000;

type Line =
  | { readonly kind: "person" | "note"; readonly text: string; readonly sentAt: number }
  | {
      readonly kind: "claude" | "reaction" | "typing" | "untyping";
      readonly text: string;
      /** By its timestamp, where it has one. */
      readonly sentAt?: number;
      isClaimed: boolean;
    };

/** @param output what the program has written, for the error of a wait that was in vain */
export function createPage(output: () => string) {
  const lines: Line[] = [];
  const reads = new Set<number>();
  const names = new Map<number, string>();
  const typing = new Map<Place, boolean>();
  const finals = new Set<number>();
  const messages: { sentAt: number; text: string }[] = [];
  let change = Promise.withResolvers<void>();
  const nameOf = (sentAt: number): string => quoted(names.get(sentAt) ?? "?");
  const until = async (isSo: () => boolean, what: string): Promise<void> => {
    const patience = AbortSignal.timeout(patienceMs);
    const over = new Promise<void>((resolve) => patience.addEventListener("abort", () => resolve()));
    while (!isSo()) {
      if (patience.aborted) throw new Error(`the phone never showed ${what}:\n${text()}\n${output().slice(-3_000)}`);
      await Promise.race([change.promise, over]);
    }
  };
  const text = (): string => `${render(lines, reads).join("\n")}\n`;
  const add = (line: Line): void => void lines.push(line);
  /** Marks travel beside the messages as well: their place is what they were sent before. */
  const addMark = (line: Line, sentAt: number): void => {
    let place = lines.length;
    for (let at = place - 1; at >= 0; at--) {
      const other = lines[at];
      if (other === undefined || other.kind === "person" || other.kind === "note") break;
      if (other.sentAt === undefined) continue;
      if (other.sentAt < sentAt) break;
      place = at;
    }
    lines.splice(place, 0, line);
  };
  const isRead = ({ who, sentAt }: Said): boolean => who === "me" || reads.has(sentAt);
  return {
    nameOf,
    text,
    rename: (sentAt: number, name: string) => void names.set(sentAt, name),
    person(who: Who, sentAt: number, said: string, name: string) {
      names.set(sentAt, name);
      add({ kind: "person", text: framed(who, said), sentAt });
    },
    note: (said: string) => add({ kind: "note", text: `— ${said} —`, sentAt: 0 }),
    last(part: string) {
      const found = messages.findLast((message) => message.text.includes(part));
      if (!found) throw new Error(`nothing with ${part} was shown`);
      return found;
    },
    typing: (place: Place = null) => until(() => typing.get(place) === true, "typing"),
    see(on: Who, seen: Seen) {
      // The other members of a group see the same.
      if (seen.place !== null && on !== "Ben") return;
      switch (seen.kind) {
        case "message":
        case "edit":
          messages.push(seen);
          names.set(seen.sentAt, seen.text);
          // As phones do.
          if (seen.kind === "message") typing.set(seen.place, false);
          add({
            kind: "claude",
            text: framed(seen.kind === "edit" ? "Claude✎" : "Claude", shown(seen)),
            sentAt: seen.sentAt,
            isClaimed: false,
          });
          break;
        case "reaction": {
          const { emoji, isRemove, targetSentAt } = seen;
          if (["✅", "⚠️"].includes(emoji)) finals.add(targetSentAt);
          const what = nameOf(targetSentAt);
          const said = isRemove ? `${emoji} taken off ${what}` : `${emoji} on ${what}`;
          addMark(
            { kind: "reaction", text: framed("", `  ${said}`), sentAt: seen.sentAt, isClaimed: false },
            seen.sentAt,
          );
          break;
        }
        case "read":
          reads.add(seen.targetSentAt);
          break;
        case "typing":
          if (seen.isTyping !== (typing.get(seen.place) ?? false))
            add({
              kind: seen.isTyping ? "typing" : "untyping",
              text: framed("", seen.isTyping ? "  Claude is typing …" : "  (no longer typing)"),
              isClaimed: false,
            });
          typing.set(seen.place, seen.isTyping);
          break;
      }
      change.resolve();
      change = Promise.withResolvers();
    },
    shows(part: string) {
      const claim = (): boolean => {
        const line = lines.find((line) => "isClaimed" in line && !line.isClaimed && line.text.includes(part));
        if (line && "isClaimed" in line) line.isClaimed = true;
        return line !== undefined;
      };
      return until(claim, part);
    },
    read: (said: Said) => until(() => isRead(said), `the read mark of ${nameOf(said.sentAt)}`),
    answered(said: Said) {
      const { sentAt, place } = said;
      const isOver = (): boolean => finals.has(sentAt) && isRead(said) && typing.get(place) !== true;
      return until(isOver, `the end of ${nameOf(sentAt)}`);
    },
  };
}

/** As the head of this file says. */
function render(lines: readonly Line[], reads: ReadonlySet<number>): string[] {
  const rank = { reaction: 0, untyping: 1, typing: 2 } as const;
  const out: string[] = [];
  let marks: (Line & { kind: keyof typeof rank })[] = [];
  const flush = (): void => {
    out.push(...marks.sort((a, b) => rank[a.kind] - rank[b.kind]).map(({ text }) => text));
    marks = [];
  };
  for (const [index, line] of lines.entries()) {
    switch (line.kind) {
      case "untyping":
        if (isEndedByAnswer(lines, index)) break;
        marks.push({ ...line, kind: line.kind });
        break;
      case "reaction":
      case "typing":
        marks.push({ ...line, kind: line.kind });
        break;
      case "person":
      case "note":
      case "claude":
        flush();
        out.push(line.text);
        if (line.kind === "person" && reads.has(line.sentAt)) out.push(framed("", "  ✓ read"));
    }
  }
  flush();
  return out;
}

function isEndedByAnswer(lines: readonly Line[], at: number): boolean {
  const kinds = lines.map(({ kind }) => kind);
  const begin = kinds.lastIndexOf("typing", at);
  const stop = kinds.findIndex((kind, index) => index > at && ["typing", "person", "note"].includes(kind));
  return kinds.slice(begin, stop < 0 ? undefined : stop).includes("claude");
}

const framed = (who: string, text: string): string =>
  text
    .split("\n")
    .map((line, index) => `${(index === 0 ? who : "").padEnd(8)}│ ${clipped(line)}`.trimEnd())
    .join("\n");

const shown = (seen: Seen & { kind: "message" | "edit" }): string =>
  [
    ...(seen.text === "" ? [] : [marked(seen.text, seen.styles)]),
    ...seen.files.map(fileLine),
    ...(seen.expiresInSeconds > 0 ? [timer(seen.expiresInSeconds)] : []),
  ].join("\n");

export const timer = (seconds: number): string => `(⏱ gone after ${seconds / 60} min)`;

function fileLine({ name, bytes }: SeenFile): string {
  const first = new TextDecoder().decode(bytes).split("\n")[0] ?? "";
  const beginning = /^[\x20-\x7e]+$/u.test(first) ? `: ${first.slice(0, 40)}` : "";
  const size = bytes.length < 1_000 ? `${bytes.length} bytes` : `${(bytes.length / 1_000).toFixed(1)} kB`;
  return `[${name}, ${size}${beginning}]`;
}

/** Its first line, or what of it goes into 40 characters. */
function quoted(text: string): string {
  const line = text.split("\n")[0] ?? "";
  return `“${line.length > 40 ? `${line.slice(0, 39)}…` : line}”`;
}
const clipped = (line: string): string =>
  line.length > 160 ? `${line.slice(0, 75)} […${line.length - 150}…] ${line.slice(-75)}` : line;

/** The styles as they are usually typed. */
function marked(text: string, styles: readonly StyleRange[]): string {
  const marks = { BOLD: "**", ITALIC: "_", STRIKETHROUGH: "~~", MONOSPACE: "`", SPOILER: "||" } as const;
  let out = "";
  for (let at = 0; at <= text.length; at++) {
    for (const { start, length, style } of styles.toReversed()) if (start + length === at) out += marks[style];
    for (const { start, style } of styles) if (start === at) out += marks[style];
    out += text[at] ?? "";
  }
  return out;
}
