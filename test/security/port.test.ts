/** The port of the status server in other hands: taken before us, flooded, behind a proxy. The binary goes on with its work. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";
import { command, isBinary, newHome, runOnce, start, type Home, type Running } from "../e2e/harness.ts";

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
    // Where the source is run by it: it would ask for its own releases.
    DENO_NO_UPDATE_CHECK: "1",
  };
  running = await start({ ...env, ...proxies, HTTPS_PROXY: `http://${proxy.host}`, NO_PROXY: "example.test" });
  await running.state("CONNECTED");
  expect((await runOnce(["status"], { ...env, ...proxies })).code).toBe(0);
  expect((await runOnce(["send", "self", "hello"], { ...env, ...proxies })).code).toBe(0);
  expect(proxy.heard).toEqual([]);
  proxy.close();
});

/** The program under a shell's words, until it says that it is connected; where it listens, and its whole log. */
async function startUnder(words: string) {
  const child = Bun.spawn(["sh", "-c", `${words}; exec "$0" "$@"`, ...command, "run"], {
    env: { PATH: process.env["PATH"], SIGNALMAN_WELCOME: "false", ...env, SIGNALMAN_LISTEN: "127.0.0.1:0" },
    stderr: "pipe",
  });
  let said = "";
  const connected = Promise.withResolvers<void>();
  void (async () => {
    for await (const piece of child.stderr.pipeThrough(new TextDecoderStream())) {
      said += piece;
      if (said.includes('"state":"CONNECTED"') && said.includes("status server listens")) connected.resolve();
    }
  })();
  await connected.promise;
  return { child, said: () => said, url: new URL(/"url":"([^"]+)"/u.exec(said)?.[1] ?? "") };
}

// Deno has no descriptors left for itself with so few.
test.skipIf(!isBinary)(
  "a flood of connections, idle or half asked, takes no descriptor that the daemon needs, however few it has",
  async () => {
    const { child, said, url } = await startUnder("ulimit -n 128");
    const sockets: Socket[] = [];
    const flood = (): Promise<void> =>
      new Promise((resolve) => {
        let settled = 0;
        for (let count = 0; count < 250; count++) {
          const socket = connect(Number(url.port), url.hostname);
          const settle = (): void => {
            if (++settled === 250) resolve();
          };
          socket.once("connect", settle).on("error", settle).resume();
          if (count % 2 === 0) socket.write("GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ");
          sockets.push(socket);
        }
      });
    for (let round = 0; round < 4; round++) {
      await flood();
      signal.phoneWrites(`round ${round}`);
      let text = "";
      while (!text.includes(`round ${round}`)) text = (await signal.nextSent()).text;
    }
    expect((await runOnce(["send", "self", "hello"], env)).code).toBe(0);
    expect((await fetch(`${url.origin}/health`)).status).toBe(200);
    expect(said()).not.toContain("EMFILE");
    for (const socket of sockets) socket.destroy();
    child.kill("SIGKILL");
    await child.exited;
  },
);

test("a terminal that closes stops it in order", async () => {
  running = await start(env);
  await running.state("CONNECTED");
  expect(await running.stop("SIGHUP")).toBe(0);
  expect(running.output()).toContain('"message":"stopped"');
});

// Deno, once it listens to any signal, ends by SIGHUP, ignored or not.
test.skipIf(!isBinary)("under nohup it outlives its terminal", async () => {
  const { child } = await startUnder("trap '' HUP");
  child.kill("SIGHUP");
  expect((await runOnce(["status"], env)).code).toBe(0);
  child.kill("SIGKILL");
  await child.exited;
});
