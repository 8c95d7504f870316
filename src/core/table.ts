/**
 * Tables on a phone: a narrow one keeps its columns, in monospace; a wide one becomes cards, one line per cell.
 *
 *   Name  Age          Name: Ada Lovelace
 *   ─────────          Known for: the first program
 *   Ada    36
 *   Bob     7          Name: Bob …
 */
import stringWidth from "string-width";

/** Columns of monospace that the narrowest phones show without a break (320 points wide). */
const columnsMax = 28;
/** A table of columns is cut into pieces of nearly a message, each with the header. */
const pieceBytesMax = 1_950;

/**
 * The cells of one row. A pipe in code is no border; a pipe behind a backslash is one character everywhere. Empty cells before the first
 * pipe and behind the last do not count.
 */
export function splitRow(row: string): string[] {
  const cells = [""];
  for (const [part = ""] of row.matchAll(/\\[\s\S]|(`+)(?!`)(?:(?!\1(?!`))[\s\S])*?[^`]\1(?!`)|`+|\||[^\\`|]+/g)) {
    if (part === "|") cells.push("");
    else cells[cells.length - 1] += part.replaceAll("\\|", "|");
  }
  if (cells[0]?.trim() === "") cells.shift();
  if (cells.at(-1)?.trim() === "") cells.pop();
  return cells.map((cell) => cell.trim());
}

export type Align = "left" | "center" | "right" | null;
/** A cell as rendered: `shown` is the text alone, `marked` has its styles. */
export type Cell = { readonly shown: string; readonly marked: string };

/** The lines of a narrow table, in pieces that each begin with the header; null for a table that is too wide. */
export function columns(header: readonly Cell[], rows: readonly Cell[][], aligns: readonly Align[]): string[] | null {
  const all = [header, ...rows];
  if (all.some((row) => row.some(({ shown }) => shown.includes("\n")))) return null;
  const count = Math.max(...all.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, column) =>
    Math.max(1, ...all.map((row) => stringWidth(row[column]?.shown ?? ""))),
  );
  const total = widths.reduce((sum, width) => sum + width + gap.length, -gap.length);
  if (total > columnsMax) return null;
  const line = (row: readonly Cell[]): string =>
    widths
      .map((width, column) => padded(row[column] ?? empty, width, aligns[column] ?? null))
      .join(gap)
      .trimEnd();
  const head = `${line(header)}\n${"─".repeat(total)}`;
  const pieces: string[] = [];
  let bytes = Infinity;
  for (const row of rows) {
    const text = `\n${line(row)}`;
    bytes += bytesIn(text);
    if (bytes > pieceBytesMax) {
      pieces.push(head);
      bytes = bytesIn(head + text);
    }
    pieces[pieces.length - 1] += text;
  }
  return pieces;
}

const encoder = new TextEncoder();
const bytesIn = (text: string): number => encoder.encode(text).length;
const gap = "  ";
const empty: Cell = { shown: "", marked: "" };

function padded({ shown, marked }: Cell, width: number, align: Align): string {
  const room = width - stringWidth(shown);
  const left = align === "right" ? room : align === "center" ? Math.floor(room / 2) : 0;
  return " ".repeat(left) + marked + " ".repeat(room - left);
}

/**
 * A card per row: a line per filled cell, its header before it; the headers alone where every cell is blank. A first cell that has no
 * header is the title of its card.
 */
export function cards(header: readonly Cell[], rows: readonly Cell[][], title: (text: string) => string): string[] {
  const titles = header.map(({ marked }) => (marked === "" ? "" : `${title(marked)}: `));
  const line = ({ shown, marked }: Cell, column: number): string | [] => {
    if (shown.trim() === "") return [];
    return column === 0 && titles[0] === "" ? title(marked) : (titles[column] ?? "") + marked;
  };
  const filled = rows.map((row) => row.flatMap(line).join("\n"));
  const shown = filled.filter((card) => card !== "");
  return shown.length > 0 ? shown : [header.map(({ marked }) => marked).join("\n")];
}
