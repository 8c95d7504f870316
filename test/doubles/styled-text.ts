/**
 * How signal-cli-rest-api reads styled text, as its facts say: left to right, a marker toggles its style wherever it stands,
 * a backslash takes the meaning from the marker behind it and stays in front of anything else.
 */
import type { StyleRange } from "../../src/core/model.ts";

type Style = StyleRange["style"];

/** @param knowsTriple the development version reads `***` as bold italic; releases up to 0.100 do not */
export function parseStyledText(markup: string, knowsTriple = true) {
  const open = new Map<Style, number>();
  const styles: StyleRange[] = [];
  let text = "";
  const toggle = (style: Style) => {
    const start = open.get(style);
    if (start === undefined) return void open.set(style, text.length);
    open.delete(style);
    styles.push({ start, length: text.length - start, style });
  };
  for (let at = 0; at < markup.length;) {
    const rest = markup.slice(at, at + 3);
    if (/^\\[*~|`]/u.test(rest)) {
      text += rest[1];
      at += 2;
    } else if (knowsTriple && rest === "***") {
      toggle("BOLD");
      toggle("ITALIC");
      at += 3;
    } else if (rest.startsWith("**")) {
      toggle("BOLD");
      at += 2;
    } else if (rest.startsWith("||")) {
      toggle("SPOILER");
      at += 2;
    } else if ("*~`".includes(rest[0] ?? "")) {
      toggle(rest[0] === "*" ? "ITALIC" : rest[0] === "~" ? "STRIKETHROUGH" : "MONOSPACE");
      at += 1;
    } else {
      text += rest[0];
      at += 1;
    }
  }
  return { text, styles };
}
