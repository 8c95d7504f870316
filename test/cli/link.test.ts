/** `signalman link` as a person meets it, over a scripted link; the real one is in test/native and test/e2e. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { forgetAccount } from "../../src/cli/adapters.ts";
import { writePlace } from "../../src/cli/remote.ts";
import { linkBy } from "../../src/cli/link.ts";
import { runArgv } from "../../src/cli/program.ts";
import { systemClock } from "../../src/clock.ts";
import { plainText } from "../../src/core/reply.ts";
import { openStore } from "../../src/store/store.ts";
import type { Link } from "../../src/signal/transport.ts";

const url = "sgnl://linkdevice?uuid=invented&pub_key=BQGvZ3c2";
const account = { aci: null, number: "+15550100042", deviceId: 2 };

let home: string;
beforeEach(() => void (home = mkdtempSync(join(tmpdir(), "signalman-link-"))));
afterEach(() => rmSync(home, { recursive: true, force: true }));

function createTerminal(env: Record<string, string> = {}) {
  const said = { out: "", err: "" };
  const io = {
    out: (text: string) => void (said.out += text),
    err: (text: string) => void (said.err += text),
    isOutTty: false,
    isErrTty: false,
    env: { SIGNALMAN_HOME: home, SIGNALMAN_LISTEN: "127.0.0.1:0", ...env },
    clock: systemClock,
    random: () => 0.5,
  };
  return { said, io };
}

/** A link whose code is scanned once `isScanned` resolves. */
async function link(options: Parameters<typeof linkBy>[2], isScanned: (said: string) => Promise<void> | void) {
  const { said, io } = createTerminal();
  const steps: Link = async function* steps(name) {
    expect(name).toBe(options.name ?? "signalman");
    yield { event: "url", url };
    await isScanned(said.err);
    yield { event: "linked", account };
  };
  const cli = { ...io, flags: {}, signal: new AbortController().signal };
  const code = await linkBy(async () => ({ steps, present: null }), cli, options);
  return { code, ...said };
}

describe("link", () => {
  test("shows a code, the URL alone on a line, and says when it is done", async () => {
    const { code, out, err } = await link({}, () => undefined);
    expect({ code, out }).toEqual({ code: 0, out: `${url}\n` });
    expect(err).toContain("▀");
    expect(err).toContain("Linked to +1…42");
  });

  test("for programs it prints one event per line", async () => {
    const { out } = await link({ json: true, name: "kitchen" }, () => undefined);
    const events = out
      .trim()
      .split("\n")
      .map((line): unknown => JSON.parse(line));
    expect(events).toEqual([
      { event: "url", url },
      { event: "linked", account: account.number, deviceId: 2 },
    ]);
  });

  test("a link that ends without an account is not done", async () => {
    const { io } = createTerminal();
    const steps: Link = async function* steps() {
      yield { event: "url", url };
    };
    const cli = { ...io, flags: {}, signal: new AbortController().signal };
    const linked = linkBy(async () => ({ steps, present: null }), cli, {});
    expect(await linked.catch((error: unknown) => error)).toMatchObject({ code: "not_linked" });
  });

  test.each([
    ["another account", { aci: null, number: "+15550100007" }, true],
    ["the same account", { aci: null, number: account.number }, false],
  ])("with --force over %s, it is said whether what was said goes with it", async (_, present, isGone) => {
    const { said, io } = createTerminal();
    const steps: Link = async function* steps() {
      yield { event: "linked", account };
    };
    const cli = { ...io, flags: {}, signal: new AbortController().signal };
    expect(await linkBy(async () => ({ steps, present }), cli, { force: true })).toBe(0);
    expect(said.err.includes("account of before is gone from here")).toBe(isGone);
  });

  test("beside a signalman that cannot be asked to pause it says which process to end", async () => {
    const { said, io } = createTerminal({ HOME: home });
    const store = await openStore(home, { isExclusive: true });
    writePlace(home, { url: "http://127.0.0.1:1", token: "t" });
    try {
      expect(await runArgv(["link"], { ...io, signal: new AbortController().signal })).toBe(1);
    } finally {
      store.close();
    }
    expect(said.err).toContain(`kill ${process.pid}), and run this again.`);
  });

  test("what goes with an account is everything that was said: every table, every folder, the sessions at Claude; and that is no loss", async () => {
    const store = await openStore(home, { isExclusive: true });
    const made = store.sessions.create("s1", { kind: "self" }, "sessions", { title: "secret" }, {}, 1);
    store.sessions.setRemote("s1", "sesn_1");
    store.log.apply(made, [{ id: "e1", at: 1, type: "prompt", text: "secret" }], 1);
    store.outbox.add("send", "k", 0, { kind: "self" }, plainText("secret"), 1);
    store.settings.set("welcomed:someone", "1");
    store.generation.advance();
    store.counters.add({ sent: 1 });
    store.close();
    for (const folder of ["chats", "outgoing", "undo"]) {
      mkdirSync(join(home, folder));
      writeFileSync(join(home, folder, "file"), "secret");
    }
    const replaced = await openStore(home, { isExclusive: true });
    replaced.db.transaction(() => forgetAccount(replaced, home));
    // Its process may end here.
    expect(readFileSync(join(home, "signalman.db-wal")).includes("secret")).toBe(false);
    replaced.close();
    const left = await openStore(home, { isExclusive: true });
    const tables = left.db.all<{ name: string }>(
      "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'",
    );
    expect(tables.length).toBeGreaterThan(20);
    for (const { name } of tables.filter((table) => table.name !== "settings" && table.name !== "counters"))
      expect(left.db.all(`SELECT * FROM ${name}`), name).toEqual([]);
    expect(left.db.all("SELECT key FROM settings")).toEqual([{ key: "forget:sesn_1" }]);
    expect(left.db.all("SELECT name FROM counters")).toEqual([{ name: "generation" }]);
    expect(left.generation.isSetBack()).toBe(false);
    left.close();
    const holds = (name: string): boolean => readFileSync(join(home, name)).includes("secret");
    expect(readdirSync(home).filter(holds)).toEqual([]);
  });

  test.each([
    ["signal-cli", "signal-cli link -n signalman"],
    ["rest", "/v1/qrcodelink?device_name=signalman"],
  ])("behind %s the daemon links, and how is said", async (transport, how) => {
    const { said, io } = createTerminal({ SIGNALMAN_TRANSPORT: transport });
    expect(await runArgv(["link"], { ...io, signal: new AbortController().signal })).toBe(1);
    expect(said.err).toContain("Cannot link here");
    expect(said.err).toContain(how);
  });
});
