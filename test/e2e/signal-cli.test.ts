import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { alice, groupId, me } from "../doubles/wire.ts";
import { newHome, runOnce, start, type Home, type Running } from "./harness.ts";

let claude: ClaudeDouble;
let signal: SignalCliDouble;
let home: Home;
let running: Running;
const env = (more: Record<string, string> = {}): Record<string, string> => ({
  SIGNALMAN_HOME: home.path,
  SIGNALMAN_TRANSPORT: "signal-cli",
  SIGNALMAN_SIGNAL_URL: signal.url,
  SIGNALMAN_ACCOUNT: me.number,
  SIGNALMAN_TOOLS: "off",
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
  ...more,
});

beforeEach(async () => {
  claude = await startClaudeDouble();
  signal = await startSignalCliDouble();
  home = newHome();
});
afterEach(async () => {
  // A poll is never aborted: an orderly end would wait for its 5 s. The tests of the other transports have it.
  await running?.stop("SIGKILL");
  await signal.stop();
  await claude.close();
  expect(signal.violations()).toEqual([]);
  home.remove();
});

test("without SIGNALMAN_ACCOUNT the account is learnt: a mention in a group is answered, a card is read", async () => {
  await signal.stop();
  signal = await startSignalCliDouble({ mode: "single" });
  const { SIGNALMAN_ACCOUNT: _, ...rest } = env({ SIGNALMAN_ALLOW: `group:${groupId},${alice.number}` });
  running = await start(rest);
  await running.state("CONNECTED");
  const mentions = [{ name: me.number, number: me.number, uuid: me.aci, start: 0, length: 1 }];
  signal.personWrites(alice, "\u{FFFC} are you there?", { groupId, extra: { mentions } });
  expect(await signal.nextSent()).toMatchObject({ chat: { kind: "group" }, text: expect.stringContaining("there?") });
  const byAciAlone = [{ name: me.aci, number: null, uuid: me.aci, start: 0, length: 1 }];
  signal.personWrites(alice, "\u{FFFC} and now?", { groupId, extra: { mentions: byAciAlone } });
  expect(await signal.nextSent()).toMatchObject({ chat: { kind: "group" }, text: expect.stringContaining("and now?") });
  signal.personWrites(alice, null, {
    extra: { contacts: [{ name: { given: "Dan" }, phone: [{ value: "+15550105555" }] }] },
  });
  let said = "";
  while (!said.includes("Contact card")) said = (await signal.nextSent()).text;
  expect(said).toContain('[Contact card: "Dan", "+15550105555"]');
  expect((await running.status()).signal.account).toBe("+1…01");
});

describe.each(["sessions", "messages"])("the binary over signal-cli with the backend %s", (backend) => {
  test("a note to self reaches Claude and the answer comes back; the state says so", async () => {
    running = await start(env({ SIGNALMAN_BACKEND: backend }));
    await running.state("CONNECTED");
    signal.phoneWrites("what is on my calendar?");
    expect((await signal.nextSent()).text).toContain("what is on my calendar?");
    const status = await running.status();
    expect(status).toMatchObject({
      connection: { state: "CONNECTED", fault: null, attempt: 0 },
      signal: { transport: "signal-cli", account: "+1…01" },
      claude: { backend, reachable: true, lastError: null },
    });
    expect((await fetch(`${running.url}/ready`)).status).toBe(200);
    expect((await fetch(`${running.url}/health`)).status).toBe(200);
  });

  test("the line is cut: four states, nothing lost, and Claude's words from meanwhile arrive in order", async () => {
    const hold = Promise.withResolvers<void>();
    claude.setScript((prompt) => [
      { hold: prompt === "one" ? hold.promise : Promise.resolve() },
      { say: `re: ${prompt}` },
    ]);
    running = await start(env({ SIGNALMAN_BACKEND: backend }));
    await running.state("CONNECTED");
    const asked = claude.next(/POST \/v1\/(messages|sessions\/\w+\/events)/u);
    signal.phoneWrites("one");
    if (backend === "sessions") await asked;
    await signal.die();
    const lost = await running.state("DISCONNECTED");
    expect(lost.fields).toMatchObject({ code: "signal_unreachable" });
    expect((await running.status()).connection.fault?.hint).toContain("Check that the daemon");
    expect((await fetch(`${running.url}/ready`)).status).toBe(503);
    expect((await fetch(`${running.url}/health`)).status).toBe(200);
    hold.resolve();
    signal.phoneWrites("two");
    await signal.start();
    await running.state("RECONNECTING");
    await running.state("SYNCING");
    await running.state("CONNECTED");
    expect([(await signal.nextSent()).text, (await signal.nextSent()).text]).toEqual(["re: one", "re: two"]);
    expect((await running.status()).outbox).toMatchObject({ uncertain: 0, failed: 0 });
  });
});

test("kill -9, the daemon included, with a prompt at work: after the restart it is answered once, and never asked twice", async () => {
  const hold = Promise.withResolvers<void>();
  claude.setScript((prompt) => [{ hold: hold.promise }, { say: `answer to ${prompt}` }]);
  running = await start(env());
  await running.state("CONNECTED");
  const posted = claude.next(/POST .*\/events/u);
  signal.phoneWrites("slow question");
  await posted;
  await running.stop("SIGKILL");
  await signal.die();
  hold.resolve();
  await signal.start();
  running = await start(env());
  expect((await signal.nextSent()).text).toBe("answer to slow question");
  const prompts = claude.requests.filter(({ method, path }) => method === "POST" && path.endsWith("/events"));
  expect(prompts).toHaveLength(1);
  expect(signal.sent()).toHaveLength(1);
});

test("a file that Claude makes arrives behind the answer, once, although it is listed late and the process is killed", async () => {
  await claude.close();
  claude = await startClaudeDouble({ fileLagMs: 3_000 });
  const bytes = new TextEncoder().encode("a,b\n1,ü\n");
  claude.setScript((prompt) => [
    ...(prompt === "make" ? [{ make: "table.csv", contentType: "text/csv", bytes }] : []),
    { say: `re: ${prompt}` },
  ]);
  running = await start(env({ SIGNALMAN_TOOLS: "allow" }));
  await running.state("CONNECTED");
  signal.phoneWrites("make");
  expect((await signal.nextSent()).text).toBe("re: make");
  // What may have gone out is repeated here: the answer is written down as sent first.
  while ((await running.status()).outbox.pending > 0) await Bun.sleep(10);
  await running.stop("SIGKILL");
  running = await start(env({ SIGNALMAN_TOOLS: "allow" }));
  await running.state("CONNECTED");
  const { text, files } = await signal.nextSent();
  expect([text, files.length]).toEqual(["", 1]);
  expect(files[0]).toMatchObject({ fileName: "table.csv", contentType: "text/csv" });
  signal.phoneWrites("thanks");
  expect((await signal.nextSent()).text).toBe("re: thanks");
}, 60_000);

test("a project that is added while it runs is there at once, and gone at once; the mark stands in Note to Self alone", async () => {
  running = await start(env({ SIGNALMAN_ALLOW: `self,${alice.number}`, SIGNALMAN_MARK: "🤖" }));
  await running.state("CONNECTED");
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  const say = async (text: string): Promise<string> => (signal.phoneWrites(text), (await signal.nextSent()).text);
  try {
    expect(await say("/projects")).toStartWith("🤖 There are no projects.");
    const added = await runOnce(["projects", "add", "garden", folder], env());
    expect([added.code, added.err]).toEqual([0, ""]);
    expect(await say("/project garden")).toContain("Project garden");
    // Before the first question, too.
    expect(await say("/projects")).toContain("garden – open here");
    expect(await say("/project off")).toBe("🤖 Left garden.");
    expect(await say("/project off")).toContain("No project is open here.");
    expect((await runOnce(["projects", "remove", "garden"], env())).code).toBe(0);
    expect(await say("/projects")).toContain("There are no projects.");
    signal.personWrites(alice, "/status");
    expect((await signal.nextSent()).text).toStartWith("✅");
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test("a conversation is deleted from the terminal, here and at Claude; not while Claude is at work on it", async () => {
  const hold = Promise.withResolvers<void>();
  claude.setScript((prompt) => [{ hold: hold.promise }, { say: `re: ${prompt}` }]);
  running = await start(env());
  await running.state("CONNECTED");
  signal.phoneWrites("a secret");
  while (claude.engine.sessions.size === 0) await new Promise((resolve) => setImmediate(resolve));
  const busy = await runOnce(["sessions", "forget", "1"], env());
  expect([busy.code, busy.err]).toEqual([2, expect.stringContaining("Claude is at work on it")]);
  hold.resolve();
  expect((await signal.nextSent()).text).toBe("re: a secret");
  let forgotten = await runOnce(["sessions", "forget", "1"], env());
  while (forgotten.code === 2) forgotten = await runOnce(["sessions", "forget", "1"], env());
  expect(forgotten.out).toStartWith("Forgotten here");
  expect((await runOnce(["sessions"], env())).out).toBe("No sessions yet.\n");
  expect(claude.requests.some(({ method, path }) => method === "DELETE" && path.includes("/sessions/"))).toBe(true);
});

test("presence: read, taken, answered, done and greeted; marks stand behind their message, and delay none", async () => {
  const manners = { SIGNALMAN_WELCOME: "true", SIGNALMAN_REACTIONS: "on" };
  running = await start(env({ ...manners, SIGNALMAN_ALLOW: alice.number }));
  await running.state("CONNECTED");
  const sentAt = signal.personWrites(alice, "hello");
  const seen: string[] = [];
  while (seen.length < 4) {
    const { text, reaction } = await signal.nextSent();
    seen.push(reaction?.emoji ?? text.split("\n")[0] ?? "");
  }
  const words = seen.filter((text) => !"👀✅".includes(text));
  expect(words).toEqual([expect.stringContaining("hello"), expect.stringContaining("Welcome")]);
  expect(seen.filter((text) => !words.includes(text))).toEqual(["👀", "✅"]);
  expect(seen.indexOf("✅")).toBeGreaterThan(seen.indexOf(words[0] ?? ""));
  expect(signal.readMarks()).toContain(sentAt);
  expect((await running.status()).outbox).toMatchObject({ failed: 0 });
});

test("what came in an absence is announced with its number, although the daemon hands it out one by one", async () => {
  claude.setScript((prompt) => [{ pauseMs: 1_500 }, { say: `re: ${prompt}` }]);
  for (let index = 0; index < 5; index++) signal.phoneWrites(`question ${index}`);
  running = await start(env({ SIGNALMAN_WELCOME: "false" }));
  const sent = [];
  for (let index = 0; index < 6; index++) sent.push((await signal.nextSent()).text);
  // The oldest is at work already.
  expect(sent[0]).toMatch(/^4 messages waiting, the oldest .*: answering now; \/skip to drop them\.$/);
  for (let index = 0; index < 5; index++) expect(sent[index + 1]).toContain(`question ${index}`);
});

test("a stranger gets nothing, costs no request and leaves no text on disk or in the log", async () => {
  running = await start(env());
  await running.state("CONNECTED");
  signal.personWrites(alice, "open sesame 4711");
  await running.log("envelope dropped");
  expect((await running.status()).inbox).toMatchObject({ dropped: 1, pending: 0 });
  await running.stop("SIGKILL");
  expect(claude.requests.filter(({ method }) => method === "POST")).toEqual([]);
  expect(signal.sent()).toEqual([]);
  expect(running.output()).not.toContain("4711");
  expect(running.output()).not.toContain(alice.number);
  for (const file of ["signalman.db", "signalman.db-wal"]) {
    const bytes = await Bun.file(join(home.path, file)).bytes();
    expect(Buffer.from(bytes).includes("4711")).toBe(false);
  }
});

test("without a key the person is told so, once, and answered when there is one", async () => {
  const { ANTHROPIC_API_KEY: _, ...keyless } = env();
  running = await start(keyless);
  await running.state("CONNECTED");
  signal.phoneWrites("hello");
  expect((await signal.nextSent()).text).toStartWith("No API key is set yet: your message waits.");
  await running.stop("SIGKILL");
  running = await start(env());
  let said = "";
  while (!said.includes("hello")) said = (await signal.nextSent()).text;
});

test("Claude refuses the key: the line stays CONNECTED, the person is told once and answered when it is over", async () => {
  claude.fail(/^POST \/v1\/messages$/u, { kind: "status", status: 401, type: "authentication_error" });
  running = await start(env({ SIGNALMAN_BACKEND: "messages" }));
  await running.state("CONNECTED");
  signal.phoneWrites("hello");
  expect((await signal.nextSent()).text).toContain("refuses the API key");
  expect((await signal.nextSent()).text).toContain("hello");
  expect(signal.sent()).toHaveLength(2);
});

describe("commands beside the daemon", () => {
  test("status, sessions, send and a second daemon", async () => {
    running = await start(env());
    await running.state("CONNECTED");
    signal.phoneWrites("first words");
    await signal.nextSent();
    expect(JSON.parse((await runOnce(["status", "--json"], env())).out)).toMatchObject({
      connection: { state: "CONNECTED" },
    });
    expect((await runOnce(["sessions"], env())).out).toMatch(/Note to Self .*“first words”/u);
    expect((await runOnce(["send", "self", "from the shell"], env())).code).toBe(0);
    expect((await signal.nextSent()).text).toBe("from the shell");
    const second = await runOnce(["run"], env({ SIGNALMAN_LISTEN: "off" }));
    expect(second).toMatchObject({ code: 1 });
    expect(second.err).toContain("another signalman uses");
    await running.stop("SIGKILL");
    expect((await runOnce(["status"], env())).code).toBe(4);
  });
});

test("settings that cannot be are exit 2 with the nearest key", async () => {
  const run = await runOnce(["run", "--transport", "pigeon"], env());
  expect(run.code).toBe(2);
  expect(run.err).toContain("native, signal-cli or rest");
  expect((await runOnce(["statsu"], env())).err).toContain("status");
});
