import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { doctor } from "../../src/cli/doctor.ts";
import { systemClock } from "../../src/clock.ts";
import { listen } from "../../src/status/listen.ts";
import { openStore } from "../../src/store/store.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../doubles/signal-cli.ts";
import { startStatusServer } from "../doubles/status-server.ts";
import { startRestDouble } from "../doubles/signal-rest.ts";
import { connected, disconnected } from "../status/example.ts";

type Finding = { check: string; result: string; message: string; hint: string };

let home: string;
let claude: ClaudeDouble;
let signal: SignalCliDouble;
const stops: (() => Promise<void>)[] = [];

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-doctor-"));
  claude = await startClaudeDouble();
  signal = await startSignalCliDouble();
  stops.push(
    () => claude.close(),
    () => signal.stop(),
  );
});
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
  rmSync(home, { recursive: true, force: true });
});

const settings = (over: Record<string, string> = {}): Record<string, string> => ({
  SIGNALMAN_HOME: home,
  SIGNALMAN_LISTEN: "127.0.0.1:0",
  SIGNALMAN_TRANSPORT: "signal-cli",
  SIGNALMAN_SIGNAL_URL: signal.url,
  ANTHROPIC_API_KEY: claude.apiKey,
  ANTHROPIC_BASE_URL: claude.url,
  ...over,
});

async function examine(over: Record<string, string> = {}, isJson = true) {
  let out = "";
  const cli = {
    flags: {},
    out: (text: string) => void (out += text),
    err: () => undefined,
    isOutTty: false,
    isErrTty: false,
    env: settings(over),
    signal: new AbortController().signal,
    clock: systemClock,
    random: () => 0.5,
  };
  const code = await doctor(cli, isJson ? { json: true } : {});
  const findings = isJson ? (JSON.parse(out) as Finding[]) : [];
  const find = (check: string): Finding | undefined => findings.find((finding) => finding.check === check);
  return { code, out, findings, find };
}

test("everything in order is a tick each, and exit code 0", async () => {
  const { code, out } = await examine({}, false);
  const checks = ["settings", "home", "database", "signal-cli", "signal", "claude", "model", "clock", "listen"];
  expect(
    out
      .trimEnd()
      .split("\n")
      .map((line) => line.split(/\s+/).slice(0, 2)),
  ).toEqual(checks.map((check) => ["✓", check]));
  expect(code).toBe(0);
  expect(out).toContain("+1…01");
  expect(out).not.toContain(claude.apiKey);
});

test("a setting that cannot be ends the examination with what to do", async () => {
  writeFileSync(join(home, "config.toml"), "modle = 1\n");
  const { code, findings } = await examine();
  expect(code).toBe(1);
  expect(findings).toEqual([
    { check: "settings", result: "failure", message: expect.stringContaining('"modle"'), hint: "Did you mean model?" },
  ]);
});

test("an unknown variable is a warning and no failure", async () => {
  const { code, findings } = await examine({ SIGNALMAN_MODLE: "x" });
  expect(code).toBe(0);
  expect(findings.filter(({ result }) => result === "warning").map(({ check }) => check)).toEqual(["settings"]);
});

test("a home folder that others may enter fails, with the command that mends it", async () => {
  chmodSync(home, 0o755);
  const { code, find } = await examine();
  expect(code).toBe(1);
  expect(find("home")).toMatchObject({ result: "failure", hint: `Run: chmod 700 ${home}` });
  expect(find("database")).toBeUndefined();
});

test("a number on the allow list that belongs to no known account is a warning", async () => {
  const store = await openStore(home, { isExclusive: true });
  store.db.run(
    "INSERT INTO signal_account (id, number, device_id, password, linked_at) VALUES (1, '+15550100001', 2, 'x', 0)",
  );
  store.db.run("INSERT INTO signal_recipients (aci, number) VALUES (?, ?)", crypto.randomUUID(), "+15550100003");
  store.close();
  // With a daemon at work the transport is not opened: nothing here needs libsignal.
  const server = await startStatusServer(home);
  stops.push(() => server.stop());
  const allow = "self,+15550100002,+15550100003";
  const { find } = await examine({ SIGNALMAN_TRANSPORT: "native", SIGNALMAN_ALLOW: allow });
  expect(find("allow")).toMatchObject({ result: "warning", message: expect.stringContaining("for +1…02 of") });
  expect(find("account")).toMatchObject({ result: "warning", message: expect.stringContaining("in your name") });
});

test("a home folder that cannot be made is no fault of ours, and says what to set", async () => {
  writeFileSync(join(home, "file"), "");
  const { code, find } = await examine({ SIGNALMAN_HOME: join(home, "file/inside") });
  expect(code).toBe(1);
  expect(find("home")).toMatchObject({ result: "failure", hint: expect.stringContaining("SIGNALMAN_HOME") });
  expect(find("database")).toMatchObject({
    message: expect.stringContaining("Cannot make the home folder"),
    hint: expect.stringContaining("SIGNALMAN_HOME"),
  });
});

describe("Signal", () => {
  test("a daemon that is not there", async () => {
    await signal.stop();
    const { code, find } = await examine();
    expect(code).toBe(1);
    expect(find("signal")).toMatchObject({ result: "failure", message: expect.stringContaining("refused") });
  });

  test("a signal-cli that is too old", async () => {
    const old = await startSignalCliDouble({ version: "0.12.8" });
    stops.push(() => old.stop());
    const { code, find } = await examine({ SIGNALMAN_SIGNAL_URL: old.url });
    expect(code).toBe(1);
    expect(find("signal-cli")).toMatchObject({ result: "failure", hint: expect.stringContaining("Update signal-cli") });
  });

  test.each([
    ["0.13.24", "mentions", "0.14.5"],
    ["0.14.4.1", "drops most", "0.14.5"],
  ])("signal-cli %s works, with a warning", async (version, flaw, mended) => {
    const old = await startSignalCliDouble({ version });
    stops.push(() => old.stop());
    const { code, find } = await examine({ SIGNALMAN_SIGNAL_URL: old.url });
    expect(code).toBe(0);
    expect(find("signal-cli")).toMatchObject({
      result: "warning",
      message: expect.stringContaining(flaw),
      hint: `Update signal-cli to ${mended} or newer.`,
    });
  });

  test.each([
    ["0.97", "warning"],
    ["0.99", "warning"],
    ["0.100", "ok"],
    ["unset", "ok"],
  ])("a REST API of release %s: %s", async (version, result) => {
    const rest = await startRestDouble({ version });
    stops.push(() => rest.stop());
    const { code, find } = await examine({ SIGNALMAN_TRANSPORT: "rest", SIGNALMAN_SIGNAL_URL: rest.url });
    expect({ code, ...find("signal-cli") }).toMatchObject({ code: 0, result });
  });

  test("an account that the daemon does not have", async () => {
    const { find } = await examine({ SIGNALMAN_ACCOUNT: "+15550100077" });
    expect(find("signal")?.result).toBe("failure");
    expect(find("signal")?.message).not.toContain("15550100077");
  });

  test("a REST API in json-rpc mode, where polling does not exist", async () => {
    const rest = await startRestDouble({ mode: "json-rpc" });
    stops.push(() => rest.stop());
    const { code, find } = await examine({
      SIGNALMAN_TRANSPORT: "rest",
      SIGNALMAN_SIGNAL_URL: rest.url,
      SIGNALMAN_ACCOUNT: "+15550100001",
    });
    expect(code).toBe(1);
    expect(find("signal")).toMatchObject({ result: "failure", hint: expect.stringContaining("MODE=native") });
  });

  test("is asked of the running daemon where there is one, and its home is left alone", async () => {
    let status = connected;
    const server = await startStatusServer(home, () => status);
    stops.push(() => server.stop());
    expect((await examine()).find("signal")).toMatchObject({
      result: "ok",
      message: "the running daemon is CONNECTED",
    });
    status = disconnected;
    expect((await examine()).find("signal")).toMatchObject({
      result: "failure",
      hint: expect.stringContaining("keeps trying"),
    });
    expect(signal.calls().every(({ method }) => method === "version")).toBe(true);
  });
});

describe("Claude", () => {
  test("no key, a key that is refused, and an API that is down are three different things to do", async () => {
    expect((await examine({ ANTHROPIC_API_KEY: "" })).find("claude")?.hint).toContain("ANTHROPIC_API_KEY");
    expect((await examine({ ANTHROPIC_API_KEY: "sk-ant-wrong" })).find("claude")?.result).toBe("failure");
    claude.setDown(true);
    expect((await examine()).find("claude")?.hint).toContain("network");
  });

  test("a model that does not exist, with the nearest that does", async () => {
    const { code, find } = await examine({ SIGNALMAN_MODEL: "claude-sonet-5-5" });
    expect(code).toBe(1);
    expect(find("model")).toMatchObject({
      result: "failure",
      message: "There is no model claude-sonet-5-5",
      hint: expect.stringMatching(/^Set SIGNALMAN_MODEL to claude-sonnet-5-5, or to one of: .*claude-opus-5-5/),
    });
  });

  test("where the key may not use Managed Agents, auto takes messages, and knows it from then on", async () => {
    const error = { kind: "status", status: 403, message: "not enabled", type: "permission_error" } as const;
    claude.fail(/^GET \/v1\/agents/u, error);
    expect((await examine()).find("claude")).toMatchObject({
      result: "ok",
      message: "the messages backend may be used",
    });
    expect((await examine()).find("claude")?.message).toContain("messages");
    claude.fail(/^GET \/v1\/agents/u, error);
    expect((await examine({ SIGNALMAN_BACKEND: "sessions" })).find("claude")).toMatchObject({ result: "failure" });
  });

  test("the key is enough for the messages backend", async () => {
    const { code, find } = await examine({ SIGNALMAN_BACKEND: "messages" });
    expect([code, find("claude")?.message]).toEqual([0, "the messages backend may be used"]);
  });

  test.each([
    [120_000, "warning", 0],
    [-600_000, "failure", 1],
  ])("a clock that is off by %p ms is a %s", async (skewMs, result, exit) => {
    const skewed = await startClaudeDouble({ skewMs });
    stops.push(() => skewed.close());
    const { code, find } = await examine({ ANTHROPIC_BASE_URL: skewed.url, ANTHROPIC_API_KEY: skewed.apiKey });
    expect([find("clock")?.result, code]).toEqual([result, exit]);
    expect(find("clock")?.message).toContain(skewMs > 0 ? "behind" : "ahead");
  });
});

describe("the address of the status server", () => {
  test("that is taken fails, one that is off or open is a warning", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 }, () => new Response("", { status: 404 }));
    stops.push(() => server.stop());
    const taken = await examine({ SIGNALMAN_LISTEN: new URL(server.url).host });
    expect(taken.find("listen")).toMatchObject({
      result: "failure",
      hint: expect.stringContaining("SIGNALMAN_LISTEN"),
    });
    expect((await examine({ SIGNALMAN_LISTEN: "off" })).find("listen")?.result).toBe("warning");
  });
});

test("leaves nothing running and the home free", async () => {
  await examine();
  expect(existsSync(join(home, "control.json"))).toBe(false);
  expect((await examine()).code).toBe(0);
});

test("projects are looked at: what Claude may do there, and a folder that cannot be one", async () => {
  const folder = mkdtempSync(join(tmpdir(), "signalman-garden-"));
  writeFileSync(join(home, "config.toml"), `[projects.garden]\nfolder = "${folder}"\n`, { mode: 0o600 });
  expect((await examine()).find("projects")).toMatchObject({
    result: "ok",
    message: "garden: reads; edits ask, runs nothing, no git",
  });
  writeFileSync(join(home, "config.toml"), `[projects.garden]\nfolder = "${folder}"\nrun = true\n`);
  expect((await examine()).find("projects")?.message).toMatch(/may ask to run commands.*; commands run (in|without) /u);
  rmSync(folder, { recursive: true });
  expect((await examine()).find("projects")).toMatchObject({
    result: "failure",
    message: expect.stringContaining("no such file"),
  });
});
