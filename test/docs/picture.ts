/**
 * Draws the beginning of a transcript as the picture of the README, a phone: `bun test/docs/picture.ts` writes docs/phone.svg. What the
 * phone says is what the binary said in that test.
 */
import { readFileSync, writeFileSync } from "node:fs";

const root = new URL("../../", import.meta.url);
const [width, margin, lineHeight, charWidth, radius] = [440, 26, 22, 8.1, 16];
const lineCharsMax = 36;

type Bubble = { readonly who: string; readonly lines: string[]; mark: string | null };

/** `Anna    │ text`, further lines without a name, and reactions as `👍 on “text”`. */
function readBubbles(transcript: string, until: string): Bubble[] {
  const bubbles: Bubble[] = [];
  for (const row of transcript.slice(0, transcript.indexOf(until)).split("\n").slice(2)) {
    const [, who = "", text = ""] = /^(.{8})│ ?(.*)$/u.exec(row) ?? [];
    const [, emoji = "", target = ""] = /^(\S+) on “(.*?)”?$/u.exec(text.trim()) ?? [];
    const marked =
      emoji === "" ? undefined : bubbles.findLast(({ lines }) => lines.join(" ").startsWith(target.slice(0, 20)));
    if (marked) marked.mark = emoji;
    else if (who.trim() !== "")
      bubbles.push({ who: who.trim(), lines: wrap(text.replace(/^@Claude /u, "")), mark: null });
    else if (text !== "" && !text.startsWith("  ")) bubbles.at(-1)?.lines.push(...wrap(text));
  }
  return bubbles;
}

const wrap = (text: string): string[] => text.match(new RegExp(`.{1,${lineCharsMax}}(?:\\s|$)|\\S+`, "gu")) ?? [];
const escape = (text: string): string => text.trim().replaceAll("&", "&amp;").replaceAll("<", "&lt;");

function draw(bubbles: readonly Bubble[]): string {
  let y = 84;
  const shapes = bubbles.map(({ who, lines, mark }) => {
    const isClaude = who === "Claude";
    const w = Math.max(...lines.map(({ length }) => length)) * charWidth + 32;
    const h = lines.length * lineHeight + 18;
    const x = isClaude ? margin : width - margin - w;
    const [paper, ink] = isClaude ? ["#e9eaee", "#1b1b1d"] : ["#2c6bed", "#ffffff"];
    const texts = lines.map((line, at) => {
      return `<text x="${x + 16}" y="${y + 26 + at * lineHeight}" fill="${ink}">${escape(line)}</text>`;
    });
    const badge = mark
      ? `<circle cx="${x + 24}" cy="${y + h + 6}" r="15" fill="#fff" stroke="#d8dde2"/><text x="${x + 15}" y="${y + h + 12}">${mark}</text>`
      : "";
    const shape = `<rect x="${x}" y="${y}" width="${w}" height="${h}" rx="${radius}" fill="${paper}"/>${texts.join("")}${badge}`;
    y += h + (mark ? 34 : 14);
    return shape;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y + 30}" width="${width}" font-family="system-ui, sans-serif" font-size="15" role="img" aria-label="A chat with Claude on Signal">
<rect x="4" y="4" width="${width - 8}" height="${y + 22}" rx="34" fill="#fff" stroke="#20242a" stroke-width="8"/>
<circle cx="44" cy="48" r="17" fill="#d97757"/><text x="38" y="54" fill="#fff" font-weight="700">C</text>
<text x="72" y="54" fill="#1b1b1d" font-weight="700">Claude</text>
${shapes.join("\n")}
</svg>
`;
}

const transcript = readFileSync(new URL("test/e2e/transcripts/12-projects.txt", root), "utf8");
const bubbles = readBubbles(transcript, "me      │ /diff");
const from = bubbles.findIndex(({ who, lines: [first = ""] }) => who === "me" && !first.startsWith("/"));
writeFileSync(new URL("docs/phone.svg", root), draw(bubbles.slice(from)));
