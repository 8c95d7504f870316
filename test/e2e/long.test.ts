/**
 * Those that take longest, beside each other: the self-test of the binary, which mostly waits; and the end-to-end tests, the files
 * themselves, with another program under test: the same source under Deno, and the binary where memory that is written never runs.
 */
import { expect, test } from "bun:test";
import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { command, isBinary, runOnce } from "./harness.ts";

const root = join(import.meta.dir, "../..");
// The package's command is a script around this file, which a signal would end without it.
const deno = join(root, "node_modules/deno", process.platform === "win32" ? "deno.exe" : "deno");

type Counts = { readonly pass: number; readonly filtered: number };

const underDeno = (names: readonly string[], pattern: string): Promise<Counts> =>
  withProgram([deno, "run", "-A", join(root, "src/main.ts")], names, pattern);

/** Runs the tests of these files whose names fit, with another program. @throws Error with the report */
async function withProgram(words: readonly string[], names: readonly string[], pattern: string): Promise<Counts> {
  const files = names.map((name) => `./test/e2e/${name}.test.ts`);
  const child = spawn(process.execPath, ["test", "--timeout=60000", ...files, "-t", pattern], {
    cwd: root,
    env: {
      ...process.env,
      E2E_COMMAND: words.join(" "),
      NO_COLOR: "1",
      AGENT: "",
      CLAUDECODE: "",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let report = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => (report += text));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(report);
  const count = (word: string): number => Number(new RegExp(`^ *(\\d+) ${word}`, "mu").exec(report)?.[1] ?? 0);
  return { pass: count("pass"), filtered: count("filtered out") };
}

test.concurrent.skipIf(!existsSync(deno))(
  "under Deno: native, REST, signal-cli and the terminal, every test of them; and three of the transcripts",
  async () => {
    // They mostly wait for polls to end, so the parts run beside each other.
    const parts = ["with the backend", "kill -9|beside the daemon"];
    const [others, transcripts, ...signalCli] = await Promise.all([
      underDeno(["native", "rest", "terminal"], "."),
      underDeno(["transcripts"], "^(text|files|groups):"),
      ...[...parts, `^(?!.*(${parts.join("|")}))`].map((pattern) => underDeno(["signal-cli"], pattern)),
    ]);
    expect(others.filtered).toBe(0);
    expect(transcripts.pass).toBe(3);
    const [first] = signalCli;
    expect(signalCli.reduce((sum, { pass }) => sum + pass, 0)).toBe((first?.pass ?? 0) + (first?.filtered ?? 0));
  },
  180_000,
);

const mdwe = [process.execPath, join(import.meta.dir, "mdwe.ts"), ...command];
/** Linux 6.3 and newer. */
const hasMdwe =
  isBinary && process.platform === "linux" && spawnSync(mdwe[0] ?? "", [...mdwe.slice(1), "--version"]).status !== 77;

test.concurrent.skipIf(!hasMdwe)(
  "under MemoryDenyWriteExecute: the linked device, libsignal included",
  async () => {
    expect(await withProgram(mdwe, ["native"], ".")).toEqual({ pass: 3, filtered: 0 });
  },
  120_000,
);

test.concurrent("selftest breaks everything on this machine, loses nothing, doubles nothing, and ends within a minute", async () => {
  const startedAt = performance.now();
  const { code, out, err } = await runOnce(["selftest"]);
  expect(out).not.toContain("FAILED");
  expect(out.match(/ ok$/gmu)).toHaveLength(10);
  const [messages, kills, lost, doubled] = /^(\d+) +(\d+) +(\d+) +(\d+) /mu.exec(out)?.slice(1).map(Number) ?? [];
  expect({ messages, kills, lost, doubled }).toEqual({ messages: 30, kills: 10, lost: 0, doubled: 0 });
  expect(performance.now() - startedAt).toBeLessThan(60_000);
  expect({ code, err }).toEqual({ code: 0, err: "" });
}, 90_000);
