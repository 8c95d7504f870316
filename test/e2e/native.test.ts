import { afterEach, beforeEach, expect, test } from "bun:test";
import { join } from "node:path";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { openNotes } from "../doubles/phone.ts";
import { startSignalMock, type SignalMock } from "../doubles/signal-mock.ts";
import { link, newHome, runOnce, start, type Home, type Running } from "./harness.ts";

let claude: ClaudeDouble;
let signal: SignalMock;
let home: Home;
let running: Running | null = null;
let env: Record<string, string>;

beforeEach(async () => {
  claude = await startClaudeDouble();
  signal = await startSignalMock();
  home = newHome();
  env = {
    SIGNALMAN_HOME: home.path,
    SIGNALMAN_SIGNAL_SERVICE: await signal.writeService(join(home.path, "service.json")),
    SIGNALMAN_TOOLS: "off",
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

/** The phone scans the code of `signalman link`. */
async function linkPhone(...flags: readonly string[]) {
  const device = await link(env, signal.scan, flags);
  return { device, ...openNotes(signal, device) };
}

test("in an empty folder with nothing but the binary: link, write, kill -9, restart, nothing missing and nothing twice", async () => {
  expect((await runOnce(["run"], { ...env, SIGNALMAN_LISTEN: "off" })).code).toBe(3);
  const phone = await linkPhone();
  const again = await runOnce(["link", "--json"], env);
  expect(again).toMatchObject({ code: 2, out: "" });
  expect(again.err).toContain("--force");
  running = await start(env);
  await running.state("CONNECTED");
  await phone.write("what is on my calendar?");
  expect(await phone.next()).toContain("what is on my calendar?");
  expect(await running.status()).toMatchObject({ signal: { transport: "native" }, inbox: { answered: 1, pending: 0 } });

  const hold = Promise.withResolvers<void>();
  claude.setScript((prompt) => [{ hold: hold.promise }, { say: `slow: ${prompt}` }]);
  const asked = claude.next(/POST .*\/events/u);
  await phone.write("and tomorrow?");
  await asked;
  await running.stop("SIGKILL");
  hold.resolve();
  claude.setScript((prompt) => [{ say: `quick: ${prompt}` }]);
  running = await start(env);
  await running.state("CONNECTED");
  expect(await phone.next()).toBe("slow: and tomorrow?");
  await phone.write("thanks");
  expect(await phone.next()).toBe("quick: thanks");
  expect(claude.requests.filter(({ method, path }) => method === "POST" && path.endsWith("/events"))).toHaveLength(3);
  expect(await running.stop()).toBe(0);
});

test("the line is cut and comes back; a stranger gets nothing at all", async () => {
  const phone = await linkPhone();
  const { device } = phone;
  running = await start(env);
  await running.state("CONNECTED");
  await signal.contact.sendText(device, "open sesame 4711", { timestamp: Date.now() });
  await running.log("envelope dropped");
  signal.drop(device);
  await running.state("DISCONNECTED");
  await running.state("SYNCING");
  await running.state("CONNECTED");
  await phone.write("still there?");
  expect(await phone.next()).toContain("still there?");
  expect((await running.status()).inbox).toMatchObject({ dropped: 1, answered: 1 });
  expect((await runOnce(["reconnect"], env)).code).toBe(0);
  await running.state("SYNCING");
  await running.state("CONNECTED");
  expect(await running.stop()).toBe(0);
  expect(running.output()).not.toContain("4711");
  const bytes = await Bun.file(join(home.path, "signalman.db")).bytes();
  expect(Buffer.from(bytes).includes("4711")).toBe(false);
});

test("link beside the daemon has the home meanwhile; the daemon goes on, with the new link where there is one", async () => {
  await linkPhone();
  running = await start(env);
  await running.state("CONNECTED");
  const refused = await runOnce(["link", "--json"], env);
  expect(refused).toMatchObject({ code: 2, out: "" });
  expect(refused.err).toContain("pauses while you link");
  await running.state("CONNECTED");
  const phone = await linkPhone("--force");
  await running.state("CONNECTED");
  await phone.write("still there?");
  expect(await phone.next()).toContain("still there?");
  expect(await running.stop()).toBe(0);
});
