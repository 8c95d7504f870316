/** The same source under Deno: the end-to-end tests themselves, with another program under test. CI runs all of them so. */
import { expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dir, "../..");
// The package's command is a script around this file, which a signal would end without it.
const deno = join(root, "node_modules/deno", process.platform === "win32" ? "deno.exe" : "deno");

/** Runs test files with `deno run -A src/main.ts` as the program; resolves to their report. */
async function underDeno(...args: readonly string[]): Promise<string> {
  const child = spawn(process.execPath, ["test", "--timeout=60000", ...args], {
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
  return report;
}

test.skipIf(!existsSync(deno))(
  "under Deno: native, REST, and signal-cli with its line cut",
  async () => {
    const files = ["native", "rest", "signal-cli"].map((name) => `./test/e2e/${name}.test.ts`);
    const names = [
      "in an empty folder",
      "a stranger gets nothing at all",
      "through the REST API",
      "the line is cut: four states",
    ];
    const report = await underDeno(...files, "-t", names.join("|"));
    expect(report).toMatch(/^ *5 pass$/mu);
  },
  120_000,
);
