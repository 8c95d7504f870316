/** The same source under Deno passes the same end-to-end tests as the binary: the files themselves, with another program under test. */
import { expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
// The package's command is a script around this file, which a signal would end without it.
const deno = join(root, "node_modules/deno", process.platform === "win32" ? "deno.exe" : "deno");

type Counts = { readonly pass: number; readonly filtered: number };

/** Runs the tests of these files whose names fit, with `deno run -A src/main.ts` as the program. @throws Error with the report */
async function underDeno(names: readonly string[], pattern: string): Promise<Counts> {
  const files = names.map((name) => `./test/e2e/${name}.test.ts`);
  const child = spawn(process.execPath, ["test", "--timeout=60000", ...files, "-t", pattern], {
    cwd: root,
    env: {
      ...process.env,
      E2E_COMMAND: `${deno} run -A ${join(root, "src/main.ts")}`,
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

test.skipIf(!existsSync(deno))(
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
