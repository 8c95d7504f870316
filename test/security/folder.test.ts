/** The folder that the program is started in is a stranger's: what lies there sets nothing, and no child learns a key. */
import { afterEach, beforeEach, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { createTranscribe } from "../../src/transcribe.ts";
import { createHeardLog, quietLog } from "../doubles/quiet-log.ts";
import { command, isBinary, newHome, type Home } from "../e2e/harness.ts";

let folder: Home;
beforeEach(() => void (folder = newHome()));
afterEach(() => folder.remove());

/** Runs the binary in the folder. */
async function runThere(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const child = Bun.spawn([...command, ...args], {
    cwd: folder.path,
    env: { PATH: process.env["PATH"], HOME: folder.path, SIGNALMAN_HOME: join(folder.path, "home"), ...env },
    stdout: "pipe",
    stderr: "pipe",
  });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { out, err, code };
}

const planted = [
  "SIGNALMAN_ALLOW=+15550666666",
  "SIGNALMAN_TRANSCRIBE=planted-program",
  "SIGNALMAN_MODEL=planted-model",
  "ANTHROPIC_BASE_URL=http://planted.example",
  "ANTHROPIC_API_KEY=planted-key",
  "HTTPS_PROXY=http://planted.example",
  "NODE_TLS_REJECT_UNAUTHORIZED=0",
].join("\n");

test("no .env file sets anything: not the API's address, not the allow list, not a program to run", async () => {
  const plain = await runThere(["config", "show", "--json"]);
  const modes = ["", ".local", ".production", ".production.local", ".development", ".development.local", ".test"];
  for (const mode of modes) writeFileSync(join(folder.path, `.env${mode}`), planted);
  for (const NODE_ENV of ["", "production", "development", "test"])
    expect(await runThere(["config", "show", "--json"], NODE_ENV === "" ? {} : { NODE_ENV })).toEqual(plain);
  expect(plain.code).toBe(0);
  expect(plain.out).toContain("claude-");
});

// A runtime that is given the source looks about for its settings: the promise is the binary's.
test.skipIf(!isBinary)("no bunfig.toml, tsconfig.json, package.json or module of the folder runs", async () => {
  const mark = join(folder.path, "ran");
  const evil = `require("node:fs").writeFileSync(${JSON.stringify(mark)}, "")`;
  writeFileSync(join(folder.path, "evil.cjs"), evil);
  writeFileSync(join(folder.path, "bunfig.toml"), `preload = ["./evil.cjs"]\n[run]\nshell = "./evil.cjs"\n`);
  const paths = { hono: ["./evil.cjs"], commander: ["./evil.cjs"] };
  writeFileSync(join(folder.path, "tsconfig.json"), JSON.stringify({ compilerOptions: { paths } }));
  writeFileSync(join(folder.path, "package.json"), JSON.stringify({ imports: { "#x": "./evil.cjs" } }));
  for (const name of ["commander", "valibot", "smol-toml", "node-gyp-build"]) {
    mkdirSync(join(folder.path, "node_modules", name), { recursive: true });
    writeFileSync(join(folder.path, "node_modules", name, "index.js"), evil);
  }
  expect(await runThere(["config", "show"])).toMatchObject({ code: 0, err: "" });
  await runThere(["version"], { BUN_OPTIONS: "--preload ./evil.cjs" });
  await runThere(["version"], { BUN_OPTIONS: "--require=./evil.cjs" });
  await runThere(["version"], { NODE_OPTIONS: "--require ./evil.cjs" });
  await runThere(["config", "show"], { NODE_PATH: join(folder.path, "node_modules") });
  expect(existsSync(mark)).toBe(false);
});

// The runtime reads them before any code of ours: where they would do harm it says so and ends, and the unit unsets them.
test.skipIf(!isBinary)("no variable of the runtime makes other code run", async () => {
  const mark = join(folder.path, "ran");
  writeFileSync(join(folder.path, "evil.js"), `require("node:fs").writeFileSync(${JSON.stringify(mark)}, "")`);
  const evil = join(folder.path, "evil.js");
  const options = ["--preload", "-r", "--import", "--config", "--eval", "--inspect"].map((name) => `${name}=${evil}`);
  const tried = [
    ...options.map((BUN_OPTIONS) => ({ BUN_OPTIONS })),
    { BUN_INSPECT_PRELOAD: evil },
    { BUN_INSPECT: "ws://127.0.0.1:0/x" },
    { NODE_OPTIONS: `--require ${evil}` },
  ];
  for (const env of tried) await runThere(["version"], env);
  expect(existsSync(mark)).toBe(false);
  const unit = readFileSync(new URL("../../packaging/signalman.service", import.meta.url), "utf8");
  const unset = /^UnsetEnvironment=(.*)$/mu.exec(unit)?.[1]?.split(" ");
  for (const name of ["BUN_OPTIONS", "BUN_INSPECT", "BUN_INSPECT_PRELOAD", "BUN_BE_BUN", "LD_PRELOAD"])
    expect(unset).toContain(name);
});

test.skipIf(!isBinary || Bun.which("openssl") === null)(
  "no variable makes it take any server for Claude's",
  async () => {
    const [key, cert] = ["key.pem", "cert.pem"].map((name) => join(folder.path, name)) as [string, string];
    const words = `req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout ${key} -out ${cert}`;
    expect(spawnSync("openssl", words.split(" ")).status).toBe(0);
    const tls = { key: Bun.file(key), cert: Bun.file(cert) };
    using server = Bun.serve({ port: 0, hostname: "localhost", tls, fetch: () => new Response("", { status: 404 }) });
    const env = { SIGNALMAN_UPDATE_URL: `https://localhost:${server.port}`, NODE_TLS_REJECT_UNAUTHORIZED: "0" };
    const { err } = await runThere(["update", "--check"], env);
    expect(err).toContain("self signed certificate");
    expect((await runThere(["update", "--check"], { ...env, NODE_EXTRA_CA_CERTS: cert })).err).toContain(
      "answered 404",
    );
  },
);

test("an editor gets neither our keys nor what steers the runtime", async () => {
  const editor = join(folder.path, "editor");
  writeFileSync(editor, `#!/bin/sh\nenv >"${folder.path}/seen"\n`, { mode: 0o755 });
  const secrets = {
    ANTHROPIC_API_KEY: "planted",
    SIGNALMAN_PROXY: "http://planted.example",
    NODE_OPTIONS: "--planted",
  };
  const { code } = await runThere(["config", "edit"], { EDITOR: editor, DISPLAY: ":7", TERM: "xterm", ...secrets });
  expect(code).toBe(0);
  const seen = readFileSync(join(folder.path, "seen"), "utf8");
  expect(seen).toContain("DISPLAY=:7\n");
  expect(seen).toContain("TERM=xterm\n");
  expect(seen).not.toContain("planted");
});

test("a voice note is written down once, however often it is asked for; a failure is tried again", async () => {
  const place = join(folder.path, "hearing");
  mkdirSync(place);
  writeFileSync(join(place, "hear"), `#!/bin/sh\necho . >>"${place}/times"\n[ -e "${place}/deaf" ] || cat "$1"\n`);
  chmodSync(join(place, "hear"), 0o755);
  const transcribe = createTranscribe(join(place, "hear"), { log: quietLog, clock: systemClock });
  const hear = (said: string) => transcribe(new TextEncoder().encode(said), "audio/aac", AbortSignal.timeout(60_000));
  writeFileSync(join(place, "deaf"), "");
  expect(await hear("milk")).toBeNull();
  rmSync(join(place, "deaf"));
  expect([await hear("milk"), await hear("milk"), await hear("eggs")]).toEqual(["milk", "milk", "eggs"]);
  expect(readFileSync(join(place, "times"), "utf8")).toBe(".\n.\n.\n");
});

test("what writes voice notes down ends with all that it started: at its own end, and at ours", async () => {
  const place = join(folder.path, "hearing");
  mkdirSync(place);
  const script = `#!/bin/sh\n(trap "" TERM; exec sleep 600) &\necho $! >"${place}/pid"\ncase "$1" in stay) wait ;; esac\necho said\n`;
  writeFileSync(join(place, "hear"), script, { mode: 0o755 });
  const isAlive = (): boolean =>
    !/^(Z.*)?\s*$/u.test(
      spawnSync("ps", ["-o", "stat=", "-p", readFileSync(join(place, "pid"), "utf8").trim()], { encoding: "utf8" })
        .stdout,
    );
  const hear = (words: string, signal: AbortSignal): Promise<string | null> =>
    createTranscribe(join(place, "hear") + words, { log: quietLog, clock: systemClock })(
      new Uint8Array([1]),
      "audio/aac",
      signal,
    );
  expect(await hear("", AbortSignal.timeout(60_000))).toBe("said");
  expect(isAlive()).toBe(false);
  rmSync(join(place, "pid"));
  const stopping = new AbortController();
  const heard = hear(" stay", stopping.signal);
  while (!existsSync(join(place, "pid"))) await new Promise(setImmediate);
  stopping.abort();
  expect(await heard).toBeNull();
  expect(isAlive()).toBe(false);
});

test("a voice note for which there is no room on the disk is one that could not be heard", async () => {
  const log = createHeardLog();
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = join(folder.path, "missing");
  try {
    const heard = createTranscribe("cat", { log, clock: systemClock })(
      new Uint8Array([1]),
      "audio/aac",
      new AbortController().signal,
    );
    expect(await heard).toBeNull();
  } finally {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
  }
  expect(log.lines()).toEqual([expect.stringContaining("voice note not transcribed")]);
});

test("a program that we start gets listed variables only, and its path may have spaces", async () => {
  const place = join(folder.path, "a place with spaces");
  mkdirSync(place);
  writeFileSync(join(place, "hear it"), `#!/bin/sh\nenv >"${place}/env"\nprintf '%s|' "$@"\n`);
  chmodSync(join(place, "hear it"), 0o755);
  const secrets = { ANTHROPIC_API_KEY: "planted", NODE_OPTIONS: "--planted", BUN_X: "planted", SIGNALMAN_X: "planted" };
  const before = Object.keys(secrets).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, secrets);
  try {
    const transcribe = createTranscribe(`"${place}/hear it" --words 'two words'`, {
      log: quietLog,
      clock: systemClock,
    });
    const said = await transcribe(new Uint8Array([1]), "audio/aac", new AbortController().signal);
    expect(said).toMatch(/^--words\|two words\|.*note\.aac\|$/u);
  } finally {
    for (const [name, value] of before)
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
  }
  const seen = readFileSync(join(place, "env"), "utf8");
  expect(seen).toContain("PATH=");
  expect(seen).not.toContain("planted");
});
