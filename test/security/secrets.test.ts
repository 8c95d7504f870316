/** Plants secrets and other people's words everywhere they can come in, and looks for them everywhere they could go out. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { alice, carol, groupId, me } from "../doubles/wire.ts";
import { newHome, runOnce, start, type Home, type Running } from "../e2e/harness.ts";

const root = new URL("../../", import.meta.url).pathname;

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
    SIGNALMAN_TOOLS: "off",
    SIGNALMAN_WELCOME: "false",
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

const filesOf = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

/** Everything that the program leaves or shows, by its name. */
async function traces({ url, output }: Running): Promise<Map<string, string>> {
  const pages = ["/status", "/metrics", "/health", "/ready"];
  const seen = new Map([["log", output()]]);
  for (const page of pages) seen.set(page, await (await fetch(url + page)).text());
  seen.set("page", await (await fetch(`${url}/status`, { headers: { accept: "text/html" } })).text());
  for (const file of filesOf(home.path)) seen.set(file, readFileSync(file, "latin1"));
  return seen;
}

const expectNowhere = (seen: ReadonlyMap<string, string>, word: string): void =>
  expect([...seen].filter(([, text]) => text.includes(word)).map(([name]) => name)).toEqual([]);

test("secrets, whole numbers and other people's words are in no log, page, control file or database", async () => {
  running = await start(env);
  await running.state("CONNECTED");
  // A stranger: by text, with a quote and a file; in a group that is not listed; what cannot be parsed.
  const extra = {
    quote: { id: 1, authorNumber: alice.number, text: "planted-quote" },
    attachments: [{ id: "planted-file-id", filename: "planted-name.png", contentType: "image/png", size: 3 }],
  };
  signal.personWrites({ ...alice, name: "planted-stranger-name" }, "planted-stranger", { extra });
  signal.personWrites(alice, "planted-group", { groupId });
  signal.personWrites(carol, "planted-hidden-number");
  signal.deliver({ envelope: { sourceNumber: alice.number, timestamp: 7, unheardOf: "planted-unknown" } });
  // The owner to another person: none of our business.
  const toAlice = {
    destinationNumber: alice.number,
    destinationUuid: alice.aci,
    timestamp: 8,
    message: "planted-private",
  };
  signal.deliver({
    envelope: {
      sourceNumber: me.number,
      sourceUuid: me.aci,
      sourceDevice: 1,
      timestamp: 8,
      syncMessage: { sentMessage: toAlice },
    },
  });
  await running.log("envelope dropped");
  // Failures that carry words of others.
  signal.fail("receive", "garbage");
  signal.personWrites(alice, "planted-garbage");
  await running.state("CONNECTED");
  signal.fail("send", { error: { code: -1, message: `no such recipient: ${alice.number}` } });
  const message = `planted-claude-error, key ${claude.apiKey}`;
  claude.fail(/POST .*\/events/u, { kind: "status", status: 500, type: "api_error", message });
  signal.phoneWrites("planted-own-prompt");
  await running.log("turn failed");
  await running.log("send failed");
  const seen = await traces(running);
  for (const word of [
    "stranger",
    "quote",
    "file-id",
    "name.png",
    "group",
    "hidden-number",
    "unknown",
    "private",
    "garbage",
    "claude-error",
  ])
    expectNowhere(seen, `planted-${word}`);
  expectNowhere(seen, claude.apiKey);
  expectNowhere(seen, alice.number);
  expectNowhere(seen, carol.aci);
  // What we are asked is kept in the database for its answer, and shown nowhere.
  const shown = new Map([...seen].filter(([name]) => !name.includes("signalman.db")));
  expectNowhere(shown, "planted-own-prompt");
  expectNowhere(shown, me.number);
  expect([...seen.keys()].some((name) => name.endsWith("control.json"))).toBe(true);
  expect(await running.stop()).toBe(0);
  expect(running.output()).not.toContain("planted");
}, 30_000);

test("every file of the home is 0600 and every folder 0700, whatever the umask, also while it runs and after kill -9", async () => {
  running = await start(env);
  await running.state("CONNECTED");
  signal.phoneWrites("hello");
  await signal.nextSent();
  const modes = (): Record<string, string> =>
    Object.fromEntries(filesOf(home.path).map((file) => [file, (statSync(file).mode & 0o777).toString(8)]));
  const running600 = modes();
  expect(Object.keys(running600).length).toBeGreaterThanOrEqual(4);
  expect(new Set(Object.values(running600))).toEqual(new Set(["600"]));
  await running.stop("SIGKILL");
  expect(new Set(Object.values(modes()))).toEqual(new Set(["600"]));
  expect(statSync(home.path).mode & 0o777).toBe(0o700);
});

test("a home that others may enter is refused, and a settings file with a key that others may read", async () => {
  const loose = join(home.path, "loose");
  mkdirSync(loose);
  chmodSync(loose, 0o750);
  const refused = await runOnce(["run"], { ...env, SIGNALMAN_HOME: loose });
  expect(refused).toMatchObject({ code: 2, out: "" });
  expect(refused.err).toContain(`chmod 700 ${loose}`);
  chmodSync(loose, 0o700);
  writeFileSync(join(loose, "config.toml"), 'anthropic_api_key = "sk-ant-planted"\n');
  chmodSync(join(loose, "config.toml"), 0o640);
  const other = await runOnce(["run"], { ...env, SIGNALMAN_HOME: loose });
  expect(other.code).toBe(2);
  expect(other.err).toContain("chmod 600");
  expect(other.err).not.toContain("planted");
});

test("a crash shows neither a key nor a whole number", async () => {
  const preload = join(home.path, "preload.ts");
  writeFileSync(
    preload,
    `setTimeout(() => { throw new Error("sk-ant-planted-1 bearer planted-22 of ${alice.number}"); }, 50);`,
  );
  const child = Bun.spawn([process.execPath, "--preload", preload, "src/main.ts", "run", "--listen", "off"], {
    cwd: root,
    env: { PATH: process.env["PATH"], ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const output = (await new Response(child.stderr).text()) + (await new Response(child.stdout).text());
  expect(await child.exited).toBe(1);
  expect(output).toContain("a fault in signalman itself");
  expect(output).not.toMatch(/planted|\+15550100002/u);
  rmSync(preload);
});

test("the key is masked in the settings that are shown, and is no part of a usage error", async () => {
  const secret = { ANTHROPIC_API_KEY: "sk-ant-planted-3" };
  for (const args of [
    ["config", "show"],
    ["config", "show", "--json"],
    ["run", "--transport", "pigeon"],
  ]) {
    const { out, err } = await runOnce(args, { ...env, ...secret });
    expect(out + err).not.toContain("planted");
  }
});

test("no variable of the runtime has the key printed with a request", async () => {
  for (const BUN_CONFIG_VERBOSE_FETCH of ["curl", "1"]) {
    const { out, err } = await runOnce(["doctor"], { ...env, BUN_CONFIG_VERBOSE_FETCH });
    expect(out).toContain("claude");
    expect(out + err).not.toContain(claude.apiKey);
  }
});
