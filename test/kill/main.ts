/**
 * `bun test/kill/main.ts --kills 1000 [--transport native|signal-cli|rest] [--seed N]`: the SIGKILL campaign on the compiled
 * binary (`bun run build` first), over all transports where none is named; with `--calls`, while Claude runs commands in a folder of
 * this machine. Exit code 1 when a promise was broken.
 */
import { parseArgs } from "node:util";
import { isKept, runCampaign, type Tally } from "./campaign.ts";
import { transports } from "./ends.ts";
import { runGarden } from "./garden.ts";

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "1000" },
    seed: { type: "string", default: "1" },
    transport: { type: "string" },
    calls: { type: "boolean", default: false },
  },
});
const chosen = transports.filter((name) => values.transport === undefined || name === values.transport);
if (chosen.length === 0)
  throw new Error(`Cannot use --transport ${values.transport}: it takes ${transports.join(", ")}`);
console.log(`SEED=${values.seed}`);
if (values.calls) {
  const tally = await runGarden({ kills: Number(values.kills), seed: Number(values.seed) });
  console.log(JSON.stringify(tally, null, 2));
  process.exit(tally.ranTwice + tally.mistold + tally.unposted === 0 ? 0 : 1);
}
const isTty = process.stdout.isTTY;
let lines = 0;
const onProgress = (line: string): void => {
  if (isTty) process.stdout.write(`\r\u001b[K${line}`);
  else if (++lines % 50 === 0) console.log(line);
};
const tallies: Tally[] = [];
for (const transport of chosen)
  tallies.push(await runCampaign({ transport, kills: Number(values.kills), seed: Number(values.seed), onProgress }));
if (isTty) process.stdout.write("\r\u001b[K");

const columns = [
  "transport",
  "kills",
  "written",
  "answered",
  "lost",
  "lostInDaemon",
  "doubled",
  "secondCopies",
  "uncertain",
  "askedTwice",
  "outOfOrder",
] as const;
console.log(`| ${columns.join(" | ")} | minutes |\n|${"---|".repeat(columns.length + 1)}`);
for (const tally of tallies)
  console.log(`| ${columns.map((column) => tally[column]).join(" | ")} | ${(tally.durationMs / 60_000).toFixed(1)} |`);
for (const { transport, strange } of tallies)
  for (const what of strange.slice(0, 20)) console.log(`${transport}: ${what}`);
process.exit(tallies.every(isKept) ? 0 : 1);
