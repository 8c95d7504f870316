import { afterEach, beforeEach, expect, test } from "bun:test";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startRestDouble, type RestDouble } from "../doubles/signal-rest.ts";
import { me } from "../doubles/wire.ts";
import { newHome, runOnce, start, type Home, type Running } from "./harness.ts";

let claude: ClaudeDouble;
let home: Home;
let signal: RestDouble;
let running: Running | null = null;
const env = (): Record<string, string> => ({
  SIGNALMAN_HOME: home.path,
  SIGNALMAN_TRANSPORT: "rest",
  SIGNALMAN_SIGNAL_URL: signal.url,
  SIGNALMAN_ACCOUNT: me.number,
  SIGNALMAN_TOOLS: "off",
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
});
beforeEach(async () => {
  claude = await startClaudeDouble();
  home = newHome();
});
afterEach(async () => {
  await running?.stop("SIGKILL");
  running = null;
  await signal.stop();
  await claude.close();
  home.remove();
});

test("a note to self reaches Claude through the REST API and the answer comes back with its styles", async () => {
  signal = await startRestDouble();
  claude.setScript((prompt) => [{ say: `**${prompt}** to you, *2 of 3*` }]);
  running = await start(env());
  await running.state("CONNECTED");
  signal.phoneWrites("good morning");
  const answer = await signal.nextSent();
  expect(answer.text).toBe("good morning to you, 2 of 3");
  expect(answer.styles.map(({ style }) => style).sort()).toEqual(["BOLD", "ITALIC"]);
  expect(await running.stop()).toBe(0);
});

test("json-rpc mode is recognized, halts the line, and both status and doctor say what to set", async () => {
  signal = await startRestDouble({ mode: "json-rpc" });
  running = await start(env());
  await running.state("DISCONNECTED");
  const { connection } = await running.status();
  expect(connection).toMatchObject({ state: "DISCONNECTED", retryAt: null, fault: { code: "json_rpc_mode" } });
  expect(connection.fault?.hint).toContain("MODE=native");
  expect((await fetch(`${running.url}/health`)).status).toBe(200);
  await running.stop("SIGKILL");
  const doctor = await runOnce(["doctor"], env());
  expect(doctor.code).toBe(1);
  expect(doctor.out).toContain("MODE=native");
});
