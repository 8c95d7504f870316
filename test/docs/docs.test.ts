/** The documents beside the README say what the code does: tables, commands, variables, metrics, links. */
import { expect, test } from "bun:test";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { runArgv } from "../../src/cli/program.ts";
import { systemClock } from "../../src/clock.ts";
import { settingKeys, variableOf } from "../../src/settings.ts";
import { signalCliVersionMin } from "../../src/signal/daemon/releases.ts";
import { renderMetrics } from "../../src/status/metrics.ts";
import { connected } from "../status/example.ts";
import { pageUrl, rendered } from "./how-it-works.ts";

const root = new URL("../../", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");
const pages = [
  "README.md",
  ...readdirSync(new URL("docs/", root))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`),
];

test("the state machine and the synchronizer are drawn as they are (bun test/docs/how-it-works.ts writes them)", () => {
  const page = readFileSync(pageUrl, "utf8");
  expect(rendered(page)).toBe(page);
  expect(page).toContain("SYNCING --> CONNECTED");
});

const lines = pages.flatMap((page) =>
  [...read(page).matchAll(/^```sh\n([\s\S]*?)^```/gmu)]
    .flatMap(([, block = ""]) => block.split("\n"))
    .map((line) => line.replace(/\s+#.*$/u, "").trim())
    .filter((line) => /^signalman\b/u.test(line))
    .map((line): [page: string, line: string] => [page, line]),
);

test("there are commands to be tried", () => expect(lines.length).toBeGreaterThan(8));

test.each(lines)("%s: `%s` is a command with flags that exist", async (_, line) => {
  let said = "";
  const say = (text: string): void => void (said += text);
  // With --help at its end nothing is done, but every word before it is read.
  const args = [...line.split(/\s+/u).slice(1), "--help"];
  const io = { out: say, err: say, isOutTty: false, isErrTty: false, env: {}, signal: new AbortController().signal };
  const code = await runArgv(args, { ...io, clock: systemClock, random: () => 0.5 });
  expect(`${code} ${said}`).toStartWith("0 Usage:");
});

test("the documents ask for the signal-cli that doctor asks for, and it is the one that is tested against", () => {
  const named = [...read("docs/transports.md").matchAll(/signal-cli (?:≥ )?(0\.\d+\.\d+)/gu)].map(([, least]) => least);
  expect([...new Set(named)]).toEqual([signalCliVersionMin]);
  const { devDependencies } = JSON.parse(read("package.json")) as { devDependencies: Record<string, string> };
  expect(devDependencies["signal-cli"]).toBe(signalCliVersionMin);
});

test("every variable that a document names is a setting", () => {
  const known = new Set(settingKeys.map(variableOf));
  // What the installer reads, and not the program.
  const others = new Set(["SIGNALMAN_RELEASES", "SIGNALMAN_BIN"]);
  const named = pages.flatMap((page) => read(page).match(/\bSIGNALMAN_[A-Z_]*[A-Z]\b/gu) ?? []);
  expect(named.filter((name) => !known.has(name) && !others.has(name))).toEqual([]);
});

test("every metric in the alerts and the dashboard is one that /metrics has", async () => {
  const { body } = await renderMetrics(connected);
  const known = new Set(body.match(/^signalman_\w+/gmu));
  const dashboard = read("docs/grafana.json");
  const named = `${read("docs/operating.md")}${dashboard}`.match(/\bsignalman_\w+/gu) ?? [];
  expect(named.filter((name) => !known.has(name))).toEqual([]);
  expect(named.length).toBeGreaterThan(15);
  expect(JSON.parse(dashboard)).toMatchObject({ title: "signalman" });
});

test("every link within the repository leads somewhere", () => {
  const dead = pages.flatMap((page) =>
    [...read(page).matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/gu)]
      .map(([, path = ""]) => new URL(path, new URL(page, root)))
      .filter((url) => !existsSync(url))
      .map((url) => `${page}: ${url.pathname}`),
  );
  expect(dead).toEqual([]);
});
