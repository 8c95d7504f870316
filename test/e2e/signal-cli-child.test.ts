/** The binary with the real signal-cli as its child. */
import { expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isSignalCliThere, java, signalCliPath } from "../doubles/java.ts";
import { startSignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";
import { command, newHome, runOnce, start, type Running } from "./harness.ts";

/** An address where nobody listens. */
async function freeUrl(): Promise<string> {
  const { url, stop } = await startSignalCliDouble();
  await stop();
  return url;
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test.skipIf(!isSignalCliThere)(
  "the binary starts signal-cli, says what it lacks, starts it again after SIGKILL, and takes it along",
  async () => {
    const home = newHome();
    const env = {
      SIGNALMAN_HOME: home.path,
      SIGNALMAN_TRANSPORT: "signal-cli",
      SIGNALMAN_SIGNAL_CLI: signalCliPath,
      SIGNALMAN_SIGNAL_URL: await freeUrl(),
      ANTHROPIC_API_KEY: "none",
      ANTHROPIC_BASE_URL: "http://127.0.0.1:9",
      JAVA_HOME: java ?? "",
      XDG_DATA_HOME: home.path,
    };
    let running: Running | null = null;
    try {
      const { code, err } = await runOnce(["run"], { ...env, SIGNALMAN_LISTEN: "off" });
      expect({ code, isSaid: err.includes('"code":"not_linked"') }).toEqual({ code: 3, isSaid: true });

      running = await start({ ...env, SIGNALMAN_ACCOUNT: me.number });
      expect((await running.status()).connection.fault?.code ?? "signal_unreachable").toBe("signal_unreachable");
      await running.log("connection", { state: "DISCONNECTED", code: "rejected" });
      const { connection } = await running.status();
      expect(connection).toMatchObject({ retryAt: null, fault: { code: "rejected", userAction: "relink" } });
      const pid = Number(/"signal-cli started".*?"pid":(\d+)/u.exec(running.output())?.[1]);
      process.kill(pid, "SIGKILL");
      const again = Number((await running.log("signal-cli started")).fields["pid"]);
      expect(isAlive(again)).toBe(true);
      expect(await running.stop()).toBe(0);
      expect(isAlive(again)).toBe(false);
      expect(pid).not.toBe(again);
    } finally {
      await running?.stop("SIGKILL");
      home.remove();
    }
  },
  120_000,
);

test("stopping while signal-cli still starts is no failure", async () => {
  const home = newHome();
  const path = join(home.path, "signal-cli");
  writeFileSync(path, `#!/bin/sh\necho "WARN  Slow - starting" >&2\nexec sleep 60\n`);
  chmodSync(path, 0o755);
  const env = {
    ...process.env,
    SIGNALMAN_HOME: home.path,
    SIGNALMAN_TRANSPORT: "signal-cli",
    SIGNALMAN_SIGNAL_CLI: path,
    SIGNALMAN_SIGNAL_URL: await freeUrl(),
    SIGNALMAN_LISTEN: "off",
    SIGNALMAN_LOG: "debug",
    ANTHROPIC_API_KEY: "none",
  };
  const child = Bun.spawn([...command, "run"], { env, stderr: "pipe" });
  let said = "";
  for await (const chunk of child.stderr) {
    const isNews = !said.includes("Slow - starting");
    said += new TextDecoder().decode(chunk);
    if (isNews && said.includes("Slow - starting")) child.kill("SIGTERM");
  }
  expect({ code: await child.exited, isSaid: said.includes("Slow - starting") }).toEqual({ code: 0, isSaid: true });
  home.remove();
});
