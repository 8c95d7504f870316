/** The environment's proxy never sees what stays on this machine, however the machine is named in the settings. */
import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startRawServer } from "../../doubles/raw-http.ts";
import { startSignalCliDouble } from "../../doubles/signal-cli.ts";
import { startRestDouble } from "../../doubles/signal-rest.ts";

const root = join(import.meta.dir, "../../..");

test.each([
  ["signal-cli", "127.0.0.1"],
  ["signal-cli", "localhost"],
  ["rest", "LOCALHOST"],
])("%s at %s is asked directly", async (transport, host) => {
  const home = mkdtempSync(join(tmpdir(), "signalman-proxy-"));
  const proxied: string[] = [];
  const proxy = await startRawServer(async ({ path }) => (proxied.push(path), { status: 502 }));
  const double = transport === "rest" ? await startRestDouble() : await startSignalCliDouble();
  const proxies = Object.fromEntries(
    ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map((name) => [name, proxy.url]),
  );
  const child = Bun.spawn([process.execPath, join(root, "src/main.ts"), "doctor", "--json"], {
    env: {
      ...proxies,
      PATH: process.env["PATH"] ?? "",
      SIGNALMAN_HOME: home,
      SIGNALMAN_LISTEN: "127.0.0.1:0",
      SIGNALMAN_TRANSPORT: transport,
      SIGNALMAN_SIGNAL_URL: `http://${host}:${double.port}`,
      ANTHROPIC_API_KEY: "none",
      ANTHROPIC_BASE_URL: `http://${host}:9`,
    },
    stdout: "pipe",
    stderr: "ignore",
  });
  const findings = JSON.parse(await new Response(child.stdout).text()) as { check: string; message: string }[];
  expect(findings).toContainEqual(
    expect.objectContaining({ check: "signal", message: expect.stringContaining("+1…01") }),
  );
  expect(proxied).toEqual([]);
  await Promise.all([proxy.stop(), double.stop()]);
  rmSync(home, { recursive: true, force: true });
});
