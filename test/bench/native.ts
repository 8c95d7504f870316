/** The native transport against Signal's own mock server on loopback: the mock's half of the cryptography is in these figures. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { startClaudeDouble } from "../doubles/claude.ts";
import { startSignalMock, type SignalMock } from "../doubles/signal-mock.ts";
import { command, newHome, start } from "../e2e/harness.ts";
import { startRig } from "../native/mock.ts";
import type { Figure } from "./measure.ts";
import { residentMegabytes } from "./program.ts";

const group = "native";

/** Each with a commit of its own, as in the program. */
export async function exchange(runs: number): Promise<Figure[]> {
  const rig = await startRig({ databasePath: join(newHome().path, "signalman.db") });
  try {
    const came: number[] = [];
    const went: number[] = [];
    for (let run = -5; run < runs; run++) {
      const waiting = rig.poll();
      const text = await rig.contact.encryptText(rig.device, `ping ${run}`, { timestamp: Date.now() + run });
      const from = performance.now();
      const sending = rig.mock.server.send(rig.device, text);
      await waiting;
      if (run >= 0) came.push(performance.now() - from);
      await rig.acked(sending);
      const sendFrom = performance.now();
      await rig.send(rig.direct, `pong ${run}`);
      if (run >= 0) went.push(performance.now() - sendFrom);
      await rig.contact.waitForMessage();
    }
    return [
      {
        group,
        name: "receive: handed to the server → decrypted, committed, acknowledged",
        unit: "ms",
        values: came,
        target: 2,
      },
      { group, name: "send: encrypted for every device → accepted by the server", unit: "ms", values: went, target: 4 },
    ];
  } finally {
    await rig.stop();
  }
}

async function link(signal: SignalMock, env: Readonly<Record<string, string>>): Promise<number> {
  const from = performance.now();
  const child = spawn(command[0] ?? "", [...command.slice(1), "link", "--json"], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const { url } = JSON.parse(line) as { url?: string };
    if (url !== undefined) void signal.scan(url);
  });
  await new Promise((resolve) => child.once("close", resolve));
  return performance.now() - from;
}

/** The compiled program: linked in an empty folder, connected, idle. */
export async function linkAndIdle(): Promise<Figure[]> {
  const claude = await startClaudeDouble();
  const signal = await startSignalMock();
  const home = newHome();
  try {
    const env = {
      SIGNALMAN_HOME: home.path,
      SIGNALMAN_SIGNAL_SERVICE: await signal.writeService(join(home.path, "service.json")),
      SIGNALMAN_LOG: "info",
      ANTHROPIC_API_KEY: claude.apiKey,
      ANTHROPIC_BASE_URL: claude.url,
    };
    const linked = await link(signal, env);
    const from = performance.now();
    const running = await start(env);
    await running.state("CONNECTED");
    const connected = performance.now() - from;
    const idle = residentMegabytes(running.pid);
    await running.stop("SIGKILL");
    return [
      { group: "start", name: "exec to CONNECTED (native)", unit: "ms", values: [connected] },
      { group: "memory", name: "RSS, connected and idle (native)", unit: "MB", values: [idle], target: 115 },
      {
        group: "start",
        name: "link: exec to linked, the phone scanning at once (native)",
        unit: "ms",
        values: [linked],
      },
    ];
  } finally {
    await signal.stop();
    await claude.close();
    home.remove();
  }
}
