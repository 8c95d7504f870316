/** The port of the status server in other hands: taken before us, flooded, behind a proxy. The binary goes on with its work. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";
import { command, newHome, runOnce, start, type Home, type Running } from "../e2e/harness.ts";

let claude: ClaudeDouble;
let signal: SignalCliDouble;
let home: Home;
let running: Running | null = null;
let env: Record<string, string>;

beforeEach(async () => {
  claude = await startClaudeDouble();
  signal = await startSignalCliDouble();
  home = newHome();
  env = {
    SIGNALMAN_HOME: home.path,
    SIGNALMAN_TRANSPORT: "signal-cli",
    SIGNALMAN_SIGNAL_URL: signal.url,
    SIGNALMAN_ACCOUNT: me.number,
    ANTHROPIC_API_KEY: claude.apiKey,
    ANTHROPIC_BASE_URL: claude.url,
  };
});
afterEach(async () => {
  await running?.stop("SIGKILL");
  running = null;
  await signal.stop();
  await claude.close();
  home.remove();
});

/** Every line of the log is one JSON object with level and message. */
const expectJsonLog = ({ output }: Running): void => {
  const lines = output().split("\n").filter(Boolean);
  expect(lines.length).toBeGreaterThan(0);
  for (const line of lines)
    expect(JSON.parse(line)).toMatchObject({ level: expect.any(String), message: expect.any(String) });
};

/** A port that another program holds, and what it heard. */
async function holdPort() {
  const heard: string[] = [];
  const server = createServer((socket) => socket.on("data", (piece) => heard.push(piece.toString())));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { host: `127.0.0.1:${(server.address() as AddressInfo).port}`, heard, close: () => server.close() };
}

test("a port that is taken is a fault in the log; messages are answered, and the commands find the daemon", async () => {
  const other = await holdPort();
  running = await start({ ...env, SIGNALMAN_LISTEN: other.host });
  expect(running.output()).toContain("another program uses this port");
  await running.state("CONNECTED");
  const { code, out } = await runOnce(["status"], { ...env, SIGNALMAN_LISTEN: other.host });
  expect([code, out]).toEqual([0, expect.stringContaining("CONNECTED")]);
  expect(other.heard).toEqual([]);
  expectJsonLog(running);
  other.close();
});

test("no proxy of the environment sees what stays on this machine", async () => {
  const proxy = await holdPort();
  const proxies = {
    HTTP_PROXY: `http://${proxy.host}`,
    http_proxy: `http://${proxy.host}`,
    ALL_PROXY: `http://${proxy.host}`,
  };
  running = await start({ ...env, ...proxies, HTTPS_PROXY: `http://${proxy.host}`, NO_PROXY: "example.test" });
  await running.state("CONNECTED");
  expect((await runOnce(["status"], { ...env, ...proxies })).code).toBe(0);
  expect((await runOnce(["send", "self", "hello"], { ...env, ...proxies })).code).toBe(0);
  expect(proxy.heard).toEqual([]);
  proxy.close();
});

test("a flood of idle connections takes no descriptor that the daemon needs", async () => {
  running = await start(env);
  await running.state("CONNECTED");
  const { hostname, port } = new URL(running.url);
  const sockets: Socket[] = [];
  for (let round = 0; round < 4; round++)
    await new Promise<void>((resolve) => {
      let settled = 0;
      for (let count = 0; count < 250; count++) {
        const socket = connect(Number(port), hostname);
        const settle = (): void => void (++settled === 250 && resolve());
        socket.once("connect", settle).on("error", settle).resume();
        sockets.push(socket);
      }
    });
  expect((await runOnce(["send", "self", "hello"], env)).code).toBe(0);
  expect((await fetch(`${running.url}/health`)).status).toBe(200);
  expectJsonLog(running);
  for (const socket of sockets) socket.destroy();
});

test("a terminal that closes stops it in order; under nohup it stays", async () => {
  running = await start(env);
  await running.state("CONNECTED");
  expect(await running.stop("SIGHUP")).toBe(0);
  expect(running.output()).toContain('"message":"stopped"');
  const program = `trap '' HUP; exec "$0" "$@"`;
  const child = Bun.spawn(["sh", "-c", program, ...command, "run"], {
    env: { PATH: process.env["PATH"], ...env, SIGNALMAN_LISTEN: "127.0.0.1:0" },
    stderr: "pipe",
  });
  const reader = child.stderr.getReader();
  let said = "";
  while (!said.includes("CONNECTED")) said += new TextDecoder().decode((await reader.read()).value);
  child.kill("SIGHUP");
  expect((await runOnce(["status"], env)).code).toBe(0);
  child.kill("SIGKILL");
  await child.exited;
});
