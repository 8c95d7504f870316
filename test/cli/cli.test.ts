/** The commands as a person meets them: in this process, with settings, streams and clock handed in. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Io } from "../../src/cli/io.ts";
import { runArgv } from "../../src/cli/program.ts";
import { writePlace } from "../../src/cli/remote.ts";
import { takeStaged } from "../../src/cli/send-text.ts";
import { systemClock } from "../../src/clock.ts";
import { listen, type Server } from "../../src/status/listen.ts";
import { openStore } from "../../src/store/store.ts";
import { startStatusServer, token } from "../doubles/status-server.ts";
import { connected, disconnected, nowAt } from "../status/example.ts";

let home: string;
let server: Server | null = null;
beforeEach(() => void (home = mkdtempSync(join(tmpdir(), "signalman-cli-"))));
afterEach(async () => {
  await server?.stop();
  server = null;
  rmSync(home, { recursive: true, force: true });
});

type Options = {
  env?: Record<string, string>;
  signal?: AbortSignal;
  onOut?: (text: string) => void;
  onErr?: (text: string) => void;
};

async function signalman(args: string, { env = {}, signal, onOut, onErr }: Options = {}) {
  let out = "";
  let err = "";
  const io: Io = {
    out(text) {
      out += text;
      onOut?.(text);
    },
    err(text) {
      err += text;
      onErr?.(text);
    },
    isOutTty: false,
    isErrTty: false,
    env: { SIGNALMAN_HOME: home, SIGNALMAN_LISTEN: "127.0.0.1:1", ...env },
    signal: signal ?? new AbortController().signal,
    clock: systemClock,
    random: () => 0.5,
  };
  const code = await runArgv(args.split(" ").filter(Boolean), io);
  return { code, out, err };
}

/** A running daemon, as far as the other commands see one. */
async function startServer(status = connected) {
  const started = await startStatusServer(home, () => status);
  server = started;
  return started.done;
}

const commands = ["run", "link", "demo", "status", "doctor", "sessions", "send", "reconnect", "config", "version"];

describe("the command line", () => {
  test("explains itself", async () => {
    const { code, out } = await signalman("--help");
    expect(code).toBe(0);
    for (const name of commands) expect(out).toContain(`\n  ${name}`);
    expect(out).toContain("--signal-url <url>");
  });

  test.each([...commands, "sessions show", "sessions archive", "config show"])("explains %p", async (name) => {
    const { code, out } = await signalman(`${name} --help`);
    expect(code).toBe(0);
    expect(out).toContain(`Usage: signalman ${name}`);
    expect(out).toContain("--home <folder>");
  });

  test("help is a command, too", async () => {
    expect((await signalman("help")).out).toContain("\n  doctor");
    expect((await signalman("help link")).out).toContain("Usage: signalman link");
  });

  test("names the near miss of a command, an option and a value, and exits with 2", async () => {
    const command = await signalman("statsu");
    expect([command.code, command.err]).toEqual([2, expect.stringContaining("Did you mean status?")]);
    const below = await signalman("sessions lst --json");
    expect([below.code, below.err]).toEqual([2, expect.stringContaining("Did you mean list?")]);
    const option = await signalman("status --jsn");
    expect([option.code, option.err]).toEqual([2, expect.stringContaining("--json")]);
    const value = await signalman("status --transport pigeon");
    expect([value.code, value.err]).toEqual([2, expect.stringContaining("native, signal-cli or rest")]);
    expect((await signalman("status now")).code).toBe(2);
    expect((await signalman("link --name")).code).toBe(2);
  });

  test("shows what was given without what moves a cursor: a command, an option, a variable, a value", async () => {
    const evil = "\u001b[2J\u202e";
    for (const args of [
      evil,
      `status --${evil}`,
      `sessions show ${evil}`,
      `status --transport ${evil}`,
      "config show",
    ]) {
      const { out, err } = await signalman(args, { env: { [`SIGNALMAN_${evil}`]: "x" } });
      expect(err).toContain("\ufffd");
      expect(out + err).not.toMatch(/(?!\n)[\p{Cc}\p{Bidi_Control}]/u);
    }
  });

  test("says its version", async () => {
    for (const args of ["--version", "-V", "version"])
      expect(await signalman(args)).toMatchObject({
        code: 0,
        out: expect.stringMatching(/^signalman \d+\.\d+\.\d+ \(source\)\n$/),
      });
  });

  test("warns of a variable that is not known", async () => {
    const { code, err } = await signalman("config show", { env: { SIGNALMAN_MODLE: "x" } });
    expect([code, err]).toEqual([0, expect.stringContaining("did you mean SIGNALMAN_MODEL?")]);
  });

  test("takes flags before and after the command", async () => {
    for (const args of ["--model m1 config show --json", "config show --json --model m1"]) {
      const rows = JSON.parse((await signalman(args)).out) as { key: string; value: unknown; origin: string }[];
      expect(rows.find(({ key }) => key === "model")).toMatchObject({ value: "m1", origin: "flag" });
    }
  });
});

describe("config edit and path", () => {
  test("the editor of the person is started on the file, which is looked at afterwards", async () => {
    expect((await signalman("config path")).out).toBe(`${join(home, "config.toml")}\n`);
    const editor = join(home, "my editor");
    writeFileSync(editor, `#!/bin/sh\nprintf 'model = "edited"\\n' >"$2"\n`, { mode: 0o755 });
    const { code, out } = await signalman("config edit", { env: { EDITOR: `'${editor}' --wait` } });
    expect([code, out]).toEqual([0, expect.stringContaining("is in order")]);
    expect(statSync(join(home, "config.toml")).mode & 0o777).toBe(0o600);
    expect((await signalman("config show")).out).toContain("edited");
    writeFileSync(editor, `#!/bin/sh\necho 'modle = 1' >"$2"\n`);
    expect(await signalman("config edit", { env: { EDITOR: `'${editor}' --wait` } })).toMatchObject({
      code: 2,
      err: expect.stringContaining("Did you mean model?"),
    });
    // What it has spoilt, it can mend.
    expect((await signalman("config path")).code).toBe(0);
    expect((await signalman("config edit", { env: { EDITOR: "/nowhere/ed" } })).code).toBe(2);
  });
});

describe("config show", () => {
  test("says each value and where it was set, and no secret", async () => {
    writeFileSync(join(home, "config.toml"), 'model = "from-file"\n');
    const env = { ANTHROPIC_API_KEY: "sk-ant-invented", SIGNALMAN_SIGNAL_URL: "http://me:letmein@127.0.0.1:8080" };
    for (const args of ["config", "config show --json"]) {
      const { code, out } = await signalman(args, { env });
      expect(code).toBe(0);
      expect(out).toMatch(/model"?,?[^\n]*\s+("variable"|file)/);
      expect(out).toContain("from-file");
      expect(out).not.toContain("sk-ant");
      expect(out).not.toContain("letmein");
    }
    expect((await signalman("config show --json")).out).toContain('"variable": "ANTHROPIC_API_KEY"');
  });
});

describe("without a running daemon", () => {
  test.each(["status", "status --json", "reconnect", "send self hello", "sessions sync", "sessions archive s1"])(
    "%p exits with 4 and says how to start it",
    async (args) => {
      const { code, out, err } = await signalman(args);
      expect([code, out]).toEqual([4, ""]);
      expect(err).toContain("signalman run");
    },
  );

  test("sessions are none, and looking makes no database", async () => {
    expect(await signalman("sessions")).toMatchObject({ code: 0, out: "No sessions yet.\n" });
    expect(await signalman("sessions list --json")).toMatchObject({ code: 0, out: "[]\n" });
    expect(existsSync(join(home, "signalman.db"))).toBe(false);
  });
});

describe("beside a running daemon", () => {
  test("status shows where the line stands, and what to do", async () => {
    await startServer(disconnected);
    const { code, out } = await signalman("status");
    expect(code).toBe(0);
    expect(out).toMatch(/^Signal is not connected; Claude cannot be reached: 1 message waits for an answer, /u);
    expect(out).toMatch(/^ +Connection +DISCONNECTED$/mu);
    expect(out).toMatch(/^Questions +Waiting +1\n +Answered +321$/mu);
    expect(out).toContain("signalman keeps trying");
  });

  test("status --json is what the daemon says", async () => {
    await startServer();
    expect(JSON.parse((await signalman("status --json")).out)).toEqual(connected);
  });

  test("its address and token are for the owner alone", async () => {
    await startServer();
    expect(statSync(join(home, "control.json")).mode & 0o777).toBe(0o600);
  });

  test("another program that listens there gets neither token nor text, and is not believed", async () => {
    const { stop, url } = await startStatusServer(home);
    await stop();
    const heard: string[] = [];
    server = await listen({ host: "127.0.0.1", port: Number(new URL(url).port) }, async (request) => {
      heard.push(`${request.url} ${JSON.stringify([...request.headers])} ${await request.text()}`);
      return Response.json(connected);
    });
    for (const args of ["status", "send self a-secret-text", "reconnect", "sessions archive s1"])
      expect(await signalman(args)).toMatchObject({ code: 4, out: "" });
    expect(heard).toHaveLength(4);
    expect(heard.join("\n")).not.toMatch(/invented|secret/u);
  });

  test("a proof that is passed on from elsewhere does not do", async () => {
    const real = await startStatusServer(null);
    server = await listen({ host: "127.0.0.1", port: 0 }, ({ url, method, headers }) => {
      const { pathname, search } = new URL(url);
      return fetch(real.url + pathname + search, { method, headers });
    });
    writePlace(home, { url: server.url, token });
    expect((await signalman("status")).code).toBe(4);
    await real.stop();
  });

  test("a control file whose process is gone is not followed", async () => {
    const { url } = await startStatusServer(home);
    const file = join(home, "control.json");
    writeFileSync(file, JSON.stringify({ url, token, pid: 2 ** 30 }), { mode: 0o600 });
    expect((await signalman("status")).code).toBe(4);
  });

  test("send, reconnect and archive reach it", async () => {
    const done = await startServer();
    expect((await signalman("send +15550100001 hello")).code).toBe(0);
    expect((await signalman("reconnect")).code).toBe(0);
    expect((await signalman("reconnect --captcha signalcaptcha://solved")).code).toBe(0);
    expect((await signalman("sessions archive s1")).code).toBe(0);
    expect((await signalman("sessions forget s2")).out).toContain("Forgotten here");
    expect(done).toEqual([
      { chat: { kind: "direct", peer: { aci: null, number: "+15550100001" } }, text: "hello" },
      "reconnect",
      "signalcaptcha://solved",
      { archive: "s1" },
      { forget: "s2" },
    ]);
  });

  test("send takes several words, files, and a number as people write it", async () => {
    const done = await startServer();
    writeFileSync(join(home, "notes.txt"), "some notes");
    expect((await signalman(`send self --file ${join(home, "notes.txt")} look at **this** --wait`)).out).toBe(
      "Sent.\n",
    );
    const [sent] = done as { text: string; files: { staged: string; fileName: string; contentType: string }[] }[];
    expect(sent).toMatchObject({
      text: "look at **this**",
      files: [{ fileName: "notes.txt", contentType: "text/plain" }],
    });
    expect(takeStaged(home, sent?.files[0] ?? ({} as never)).base64).toBe(btoa("some notes"));
    expect(existsSync(join(home, "outgoing", sent?.files[0]?.staged ?? ""))).toBe(false);
    const missing = await signalman("send self --file /nowhere/at-all.png");
    expect([missing.code, missing.err]).toEqual([2, expect.stringContaining("/nowhere/at-all.png")]);
  });

  test("send takes a name that is known; a near miss is told; what Signal does not take has its reason", async () => {
    const done = await startServer();
    const store = await openStore(home, { isExclusive: false });
    store.settings.set("name:group:ZmFtaWx5LWdyb3VwLWlkLW9mLTMyLWJ5dGVzLWxvbmc=", "Hike");
    store.close();
    expect((await signalman("send hike hello")).code).toBe(0);
    expect(done).toEqual([
      { chat: { kind: "group", id: "ZmFtaWx5LWdyb3VwLWlkLW9mLTMyLWJ5dGVzLWxvbmc=" }, text: "hello" },
    ]);
    const { code, err } = await signalman("send slf hello");
    expect([code, err]).toEqual([2, expect.stringContaining("Did you mean self?")]);
    const refused = await signalman("send self refused --wait");
    expect([refused.code, refused.err]).toEqual([1, expect.stringContaining("The recipient is not on Signal")]);
  });

  test("send without a daemon leaves no file behind", async () => {
    writeFileSync(join(home, "notes.txt"), "some notes");
    expect((await signalman(`send self --file ${join(home, "notes.txt")}`)).code).toBe(4);
    expect(readdirSync(join(home, "outgoing"))).toEqual([]);
  });

  test("health is what /health says", async () => {
    await startServer();
    expect(await signalman("health")).toMatchObject({ code: 0, out: "ok\n" });
  });

  test("token makes one that lasts, for the owner alone", async () => {
    const { out } = await signalman("token");
    expect(out).toMatch(/^[\w-]{32}\n$/u);
    expect((await signalman("token")).out).toBe(out);
    expect(statSync(join(home, "token")).mode & 0o777).toBe(0o600);
    expect((await signalman("token --new")).out).not.toBe(out);
  });

  test("send refuses a recipient that is none, before it asks the daemon", async () => {
    const { code, err } = await signalman("send somebody hello");
    expect([code, err]).toEqual([2, expect.stringContaining('"somebody"')]);
    expect(err).toContain("group:<id");
  });

  test("a refusal of the daemon is said with its own code and hint", async () => {
    await startServer();
    const { code, err } = await signalman("sessions sync");
    expect(code).toBe(1);
    expect(err).toContain("Cannot ask Claude as the line is down");
    expect(err).toContain("Check the network");
  });
});

describe("sessions", () => {
  beforeEach(async () => {
    const store = await openStore(home, { isExclusive: false });
    const chat = { kind: "direct", peer: { aci: null, number: "+15550100001" } } as const;
    store.sessions.create("s1", chat, "sessions", { title: "About trains" }, {}, nowAt);
    store.sessions.setRemote("s1", "sesn_invented");
    const session = store.sessions.get("s1");
    if (!session) throw new Error("The session is not there");
    store.log.apply(
      session,
      [
        { id: "e1", at: nowAt, type: "prompt", text: "When does it leave?" },
        { id: "e2", at: nowAt + 1, type: "reply", text: "At nine." },
      ],
      nowAt,
    );
    store.close();
  });

  test("list has one line each, without a whole number", async () => {
    const { code, out } = await signalman("sessions");
    expect(code).toBe(0);
    expect(out).toContain("About trains");
    expect(out).toMatch(/^1 {2}s1 {2}direct:\+1…01 {2}active {2}2026-11-2\d \d\d:\d\d {2}About trains$/mu);
    expect(JSON.parse((await signalman("sessions list --json")).out)).toMatchObject([
      { id: "s1", remoteId: "sesn_invented", title: "About trains", state: "active" },
    ]);
  });

  test("show finds one by either id, with what was said", async () => {
    for (const id of ["s1", "sesn_invented"]) {
      const { code, out } = await signalman(`sessions show ${id}`);
      expect(code).toBe(0);
      expect(out.indexOf("When does it leave?")).toBeLessThan(out.indexOf("At nine."));
    }
    const { events } = JSON.parse((await signalman("sessions show s1 --json")).out) as { events: unknown[] };
    expect(events).toHaveLength(2);
    expect((await signalman("sessions show s2")).code).toBe(2);
  });

  test("one is found by its number and by the beginning of an id; two of a beginning are none", async () => {
    for (const name of ["1", "sesn_inv", "s1"])
      expect((await signalman(`sessions show ${name}`)).out).toContain("About trains");
    const store = await openStore(home, { isExclusive: false });
    const made = store.sessions.create("s12", { kind: "self" }, "sessions", {}, {}, nowAt - 1);
    store.log.apply(made, [{ id: "e9", at: nowAt, type: "prompt", text: "What\u001b[2J\nnow?" }], nowAt - 1);
    store.close();
    const { code, err } = await signalman("sessions show s");
    expect([code, err]).toEqual([2, expect.stringContaining("more than one")]);
    // Without a title it is called by its last question, of which nothing does anything to the terminal.
    expect((await signalman("sessions")).out).toContain("Note to Self  active");
    expect((await signalman("sessions")).out).toContain("What\ufffd[2J now?");
    expect((await signalman("sessions show s12")).out).not.toContain("\u001b");
  });
});
