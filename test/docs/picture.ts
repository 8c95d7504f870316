/** Draws the demo's own output as the picture of the README: `bun test/docs/picture.ts` writes docs/demo.svg. */
import { writeFileSync } from "node:fs";

const root = new URL("../../", import.meta.url).pathname;
const lineHeight = 20;
const left = 20;
const top = 56;

const colours: readonly (readonly [RegExp, string])[] = [
  [/^you>/u, "#7dd3fc"],
  [/^claude>|^ {8}I am/u, "#fde68a"],
  [/\[.*(DISCONNECTED|RECONNECTING)\]$/u, "#fca5a5"],
  [/\[.*(SYNCING|CONNECTED)\]$/u, "#86efac"],
  [/^ {8}\(/u, "#94a3b8"],
];

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(" ", "&#160;");

const demo = Bun.spawnSync([process.execPath, "src/main.ts", "demo", "--script"], {
  cwd: root,
  env: { PATH: process.env["PATH"] ?? "" },
});
if (demo.exitCode !== 0) throw new Error(`The demo failed: ${demo.stderr.toString()}`);
const lines = demo.stdout
  .toString()
  .split("\n")
  .filter((line) => !/[▀▄█]/u.test(line) && !line.startsWith("Watch it") && !line.startsWith("Type as"))
  .map((line) => line.trimEnd())
  .filter((line, index, all) => line !== "" || all[index - 1] !== "");

const rows = lines.map((line, index) => {
  const colour = colours.find(([pattern]) => pattern.test(line))?.[1] ?? "#e2e8f0";
  return `<text x="${left}" y="${top + index * lineHeight}" fill="${colour}">${escape(line)}</text>`;
});
const height = top + rows.length * lineHeight;
const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 ${height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="13">
<rect width="900" height="${height}" rx="10" fill="#0f172a"/>
<circle cx="22" cy="20" r="6" fill="#ef4444"/><circle cx="42" cy="20" r="6" fill="#f59e0b"/><circle cx="62" cy="20" r="6" fill="#22c55e"/>
<text x="90" y="25" fill="#94a3b8">npx -y bun run demo</text>
${rows.join("\n")}
</svg>
`;
writeFileSync(`${root}docs/demo.svg`, svg);
