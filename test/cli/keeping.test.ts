/** What keeps an installation: service, backup, update, completions, manual. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { writePackages } from "../../packaging/npm.ts";
import type { Cli } from "../../src/cli/io.ts";
import { runArgv } from "../../src/cli/program.ts";
import { keepWatch, launchdPlist, serviceOf, systemdUnit, type ServicePlace } from "../../src/cli/service.ts";
import { systemClock } from "../../src/clock.ts";
import { loadConfig } from "../../src/config.ts";
import { plainText } from "../../src/core/reply.ts";
import { openDatabase } from "../../src/store/database.ts";
import { openStore } from "../../src/store/store.ts";
import { asService } from "../bench/engine.ts";

const root = join(import.meta.dir, "../..");
let home: string;
let out: string;
let err: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "signalman-keep-"));
  out = err = "";
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const io = (env: Record<string, string> = {}): Cli => ({
  flags: {},
  out: (text) => void (out += text),
  err: (text) => void (err += text),
  isOutTty: false,
  isErrTty: false,
  env: { SIGNALMAN_HOME: home, HOME: join(home, "user"), ...env },
  signal: new AbortController().signal,
  clock: systemClock,
  random: () => 0.5,
});
const signalman = (args: string[], env?: Record<string, string>): Promise<number> => runArgv(args, io(env));

const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "it did not fail",
    (error: unknown) => error,
  );

describe("service", () => {
  /** A service manager that does as it is told, and the commands it was given. */
  function place(platform: string, codes: Record<string, number> = {}): ServicePlace & { readonly calls: string[] } {
    const calls: string[] = [];
    return {
      platform,
      command: ["/opt/signal man/signalman"],
      calls,
      exec: async (...words) => {
        calls.push(words.join(" "));
        const found = Object.entries(codes).find(([part]) => words.join(" ").includes(part));
        return { code: found?.[1] ?? 0, out: "" };
      },
    };
  }
  const service = (manager: ServicePlace, env?: Record<string, string>) =>
    serviceOf(io(env), loadConfig(io(env)), manager);
  const unitFile = (): string => join(home, "user/.config/systemd/user/signalman.service");

  test("on Linux it writes a hardened user unit, starts it, sees it, and removes it", async () => {
    const manager = place("linux");
    expect(await service(manager, { SIGNALMAN_MODEL: "claude-x" }).install()).toBe(0);
    const unit = readFileSync(unitFile(), "utf8");
    expect(unit).toContain('ExecStart="/opt/signal man/signalman" "run"');
    for (const line of [
      "Type=notify",
      "NoNewPrivileges=yes",
      "ProtectSystem=strict",
      `ReadWritePaths="${home}"`,
      "UMask=0077",
    ])
      expect(unit).toContain(`\n${line}\n`);
    expect(err).toContain("SIGNALMAN_MODEL");
    expect(manager.calls.slice(-2)).toEqual([
      "systemctl --user daemon-reload",
      "systemctl --user enable --now signalman.service",
    ]);
    expect(await service(manager).state()).toBe("up");
    expect(await service(place("linux", { "is-active": 3 })).status()).toBe(4);
    expect(await service(manager).uninstall()).toBe(0);
    expect(existsSync(unitFile())).toBe(false);
    expect(await service(manager).state()).toBe("none");
  });

  test("a refusal names what to run by hand", async () => {
    expect(await failureOf(service(place("linux", { enable: 1 })).install())).toMatchObject({
      hint: expect.stringContaining("systemctl --user enable --now"),
    });
  });

  test("where a user's service may have no view of its own, the unit starts without, and that is said", async () => {
    expect(await service(place("linux", { "systemd-run": 1 })).install()).toBe(0);
    expect(readFileSync(unitFile(), "utf8")).not.toMatch(/^ProtectSystem|^ReadWritePaths/mu);
    expect(readFileSync(unitFile(), "utf8")).toContain("\nNoNewPrivileges=yes\n");
    expect(err).toContain("goes without");
  });

  test("systemd itself finds no fault with the unit, where it is here to be asked", () => {
    const unit = join(home, "signalman.service");
    writeFileSync(unit, systemdUnit([process.execPath], home, true));
    const { error, stderr } = spawnSync("systemd-analyze", ["verify", "--user", unit], {
      encoding: "utf8",
      env: { ...process.env, XDG_RUNTIME_DIR: home },
    });
    if (error) return expect(readFileSync(unit, "utf8")).toMatch(/^\[Unit\][^]*\n\[Service\]\n[^]*\n\[Install\]\n/u);
    expect(stderr.split("\n").filter((line) => line.includes("signalman.service"))).toEqual([]);
  });

  test("the unit lets Claude write into the folders of the projects, and commands run in a sandbox of their own", () => {
    const plain = systemdUnit(["signalman"], home, true);
    expect(plain).toContain(`\nReadWritePaths="${home}"\n`);
    expect(plain).toMatch(/^RestrictNamespaces=yes$/mu);
    const unit = systemdUnit(["signalman"], home, true, { folders: ["/srv/my garden", "/srv/50%"], isNested: true });
    expect(unit).toContain(`\nReadWritePaths="${home}" "-/srv/my garden" "-/srv/50%%"\n`);
    for (const line of ["RestrictNamespaces", "ProtectKernelTunables"])
      expect(unit).toMatch(new RegExp(`^# ${line}=yes$`, "mu"));
    expect(unit).not.toContain("@");
  });

  test("on macOS it writes a property list whose words are escaped", async () => {
    const manager = place("darwin");
    expect(await service(manager).install()).toBe(0);
    expect(manager.calls[0]).toMatch(/^launchctl bootstrap gui\/\d+ .*org\.signalman\.daemon\.plist$/u);
    expect(launchdPlist(["a&b<c"], home)).toContain("<string>a&amp;b&lt;c</string><string>run</string>");
  });

  test("every way to run it as a service runs the engine as it was measured", () => {
    const packaged = (name: string) => readFileSync(join(import.meta.dirname, "../../packaging", name), "utf8");
    for (const [name, value] of Object.entries(asService)) {
      expect(systemdUnit(["signalman"], home, true)).toMatch(new RegExp(`^Environment=.*\\b${name}=${value}\\b`, "mu"));
      expect(launchdPlist(["signalman"], home)).toContain(`<key>${name}</key><string>${value}</string>`);
      expect(packaged("Dockerfile")).toMatch(new RegExp(`^ENV .*\\b${name}=${value}\\b`, "mu"));
      expect(packaged("signalman.rb")).toMatch(new RegExp(`environment_variables .*\\b${name}: "${value}"`, "u"));
    }
  });

  test("elsewhere it says so", async () => {
    expect(() => service(place("win32"))).toThrow("Cannot manage a service on win32");
    expect(await failureOf(service(place("linux", { systemctl: 127 })).install())).toMatchObject({
      code: "unsupported",
      message: expect.stringContaining("a Linux without systemd"),
    });
    expect(existsSync(unitFile())).toBe(false);
  });

  test("systemd hears that the daemon is ready, and that it lives at half the pace it asked for", async () => {
    const calls: string[] = [];
    const waits: number[] = [];
    const stop = new AbortController();
    const clock = {
      ...systemClock,
      sleep: async (ms: number) => {
        if (waits.push(ms) === 2) stop.abort();
      },
    };
    const exec = async (...words: string[]) => (calls.push(words.join(" ")), { code: 0, out: "" });
    await keepWatch({ env: { NOTIFY_SOCKET: "/run/n", WATCHDOG_USEC: "60000000" }, clock }, stop.signal, exec);
    expect(calls).toEqual(["systemd-notify --ready", "systemd-notify WATCHDOG=1", "systemd-notify WATCHDOG=1"]);
    expect(waits).toEqual([30_000, 30_000]);
    await keepWatch({ env: {}, clock }, new AbortController().signal, exec);
    expect(calls).toHaveLength(3);
  });
});

describe("backup", () => {
  test("the copy is whole, private and opens, although the daemon writes all the while", async () => {
    const store = await openStore(home, { isExclusive: true });
    const add = (index: number): boolean =>
      store.outbox.add("send", `k${index}`, 0, { kind: "self" }, plainText("x".repeat(500)), index);
    for (let index = 0; index < 300; index++) add(index);
    const over = new AbortController();
    const writing = (async () => {
      for (let index = 300; !over.signal.aborted; index++) {
        add(index);
        await new Promise(setImmediate);
      }
    })();
    const file = join(home, "copy/signalman.db");
    expect(await signalman(["backup", file])).toBe(2);
    const target = join(home, "copy.db");
    expect(await signalman(["backup", target])).toBe(0);
    over.abort();
    await writing;
    expect(statSync(target).mode & 0o777).toBe(0o600);
    expect(await signalman(["backup", target])).toBe(2);
    expect(err).toContain("overwrites nothing");
    expect(await signalman(["backup", join(home, "none", "copy.db")])).toBe(2);
    expect(err).toContain("a folder that you may write to");
    store.close();

    // Restored as the documents say: the file in its place, and nothing of the old one's log beside it.
    const restored = mkdtempSync(join(home, "restored-"));
    chmodSync(restored, 0o700);
    writeFileSync(join(restored, "signalman.db"), readFileSync(target));
    const copy = await openStore(restored, { isExclusive: true });
    expect(copy.db.get("PRAGMA integrity_check")).toEqual({ integrity_check: "ok" });
    expect(copy.outbox.pending().count).toBeGreaterThanOrEqual(300);
    copy.close();
  });

  test("what was backed up comes back with its settings; nothing is overwritten without --force, or under a daemon", async () => {
    (await openStore(home, { isExclusive: true })).close();
    writeFileSync(join(home, "config.toml"), 'model = "kept"\n', { mode: 0o600 });
    const copy = join(home, "copy.db");
    expect(await signalman(["backup", copy])).toBe(0);
    const other = join(home, "other");
    expect(await signalman(["restore", copy], { SIGNALMAN_HOME: other })).toBe(0);
    expect(loadConfig({ flags: {}, env: { SIGNALMAN_HOME: other } }).config.model).toBe("kept");
    for (const name of ["signalman.db", "config.toml"]) expect(statSync(join(other, name)).mode & 0o777).toBe(0o600);
    expect(await signalman(["restore", copy], { SIGNALMAN_HOME: other })).toBe(2);
    expect(err).toContain("--force");
    expect(await signalman(["restore", copy, "--force"], { SIGNALMAN_HOME: other })).toBe(0);
    const daemon = await openStore(other, { isExclusive: true });
    expect(await signalman(["restore", copy, "--force"], { SIGNALMAN_HOME: other })).not.toBe(0);
    daemon.close();
    // As the documents say for a damaged one: it is not opened on the way.
    writeFileSync(join(other, "signalman.db"), "damaged".repeat(9_999));
    expect(await signalman(["restore", copy, "--force"], { SIGNALMAN_HOME: other })).toBe(0);
    (await openStore(other, { isExclusive: true })).close();
    writeFileSync(join(home, "no.db"), "no database at all");
    expect(await signalman(["restore", join(home, "no.db")], { SIGNALMAN_HOME: join(home, "third") })).not.toBe(0);
    // A copy of which a page is damaged costs nothing of what is there.
    const before = readFileSync(join(other, "signalman.db"));
    const db = await openDatabase(copy);
    const sql = "SELECT rootpage * 4096 AS pageEnd FROM sqlite_schema WHERE name = 'inbox'";
    const { pageEnd = 0 } = db.get<{ pageEnd: number }>(sql) ?? {};
    db.close();
    writeFileSync(copy, readFileSync(copy).fill(0x5a, pageEnd - 4096, pageEnd));
    expect(await signalman(["restore", copy, "--force"], { SIGNALMAN_HOME: other })).not.toBe(0);
    expect(readFileSync(join(other, "signalman.db"))).toEqual(before);
    expect(readdirSync(other).filter((name) => name.includes("restored"))).toEqual([]);
  });

  test("what was planted beside the copy, a link or a file of another's, gets none of the settings", async () => {
    (await openStore(home, { isExclusive: true })).close();
    writeFileSync(join(home, "config.toml"), 'model = "kept"\n', { mode: 0o600 });
    const [copy, planted] = [join(home, "copy.db"), join(home, "planted")];
    writeFileSync(planted, "", { mode: 0o666 });
    symlinkSync(planted, `${copy}.config.toml`);
    expect(await signalman(["backup", copy])).toBe(0);
    expect(readFileSync(planted, "utf8")).toBe("");
    expect(statSync(`${copy}.config.toml`).mode & 0o777).toBe(0o600);
  });

  test("without a database there is nothing to copy, and no file is left", async () => {
    expect(await signalman(["backup", join(home, "copy.db")])).toBe(2);
    expect(readdirSync(home)).toEqual([]);
  });
});

describe("completions and manual", () => {
  test("bash completes commands, their own commands, and flags", async () => {
    await signalman(["completions", "bash"]);
    const script = join(home, "completions.bash");
    writeFileSync(script, out);
    const complete = (line: string): string[] => {
      const words = line.split(" ");
      const setup = `signalman() { '${process.execPath}' '${join(root, "src/main.ts")}' "$@"; }; . '${script}'; COMP_WORDS=(${words.map((word) => `'${word}'`).join(" ")}); COMP_CWORD=${words.length - 1}`;
      return spawnSync("bash", ["-c", `${setup}; _signalman; printf '%s\\n' "\${COMPREPLY[@]}"`], { encoding: "utf8" })
        .stdout.trim()
        .split("\n");
    };
    expect(complete("signalman se")).toContain("sessions");
    expect(complete("signalman sessions ")).toEqual(expect.arrayContaining(["list", "show", "archive"]));
    expect(complete("signalman sessions list --j")).toEqual(["--json"]);
    expect(complete("signalman --sig")).toContain("--signal-url");
    expect(complete("signalman --transport ")).toEqual(["native", "signal-cli", "rest"]);
    expect(complete("signalman --model ")).toEqual([""]);
    expect(complete("signalman completions z")).toEqual(["zsh"]);
  });

  test("the program itself says what can follow, and hides what is not for people; an unknown shell is exit 2", async () => {
    for (const shell of ["zsh", "fish"]) expect(await signalman(["completions", shell])).toBe(0);
    expect(await signalman(["completions", "csh"])).toBe(2);
    out = "";
    expect(await signalman(["complete", "--", "--model", "x", "sessions"])).toBe(0);
    expect(out).toContain("archive\tend one, here and at Claude\n");
    expect(out).toContain("--signal-url\t");
    out = "";
    await signalman(["complete"]);
    expect(out).toMatch(/^run\t/u);
    expect(out).not.toMatch(/^(complete|selftest-life|help)\t/mu);
  });

  test("the manual names every command, setting and exit code, and man(1) finds no fault with it", async () => {
    await signalman(["man"]);
    for (const word of [
      "signalman sessions archive",
      "SIGNALMAN_SIGNAL_URL",
      "ANTHROPIC_API_KEY",
      "EXIT STATUS",
      ".B 4",
    ])
      expect(out.replaceAll("\\-", "-")).toContain(word);
    const { error, stderr } = spawnSync("groff", ["-man", "-Tutf8", "-ww", "-z"], { input: out, encoding: "utf8" });
    if (!error) expect(stderr).toBe("");
  });
});

describe("release", () => {
  /** A folder of releases, behind a port. */
  async function serve(files: Readonly<Record<string, string | Uint8Array>>): Promise<{ url: string; stop(): void }> {
    const server = createServer(({ url = "" }, response) => {
      const body = files[url.slice(1)];
      response.writeHead(body === undefined ? 404 : 200).end(body ?? "");
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, stop: () => void server.close() };
  }
  const sh = (command: string[], env: Record<string, string>): Promise<{ code: unknown; out: string; err: string }> =>
    new Promise((resolve) => {
      const options = { env: { PATH: process.env["PATH"], ...env } };
      execFile("sh", command, options, (error, out, err) => resolve({ code: error?.code ?? 0, out, err }));
    });
  const target = `signalman-${process.platform}-${process.arch}`;
  const program = "#!/bin/sh\necho signalman 9\n";

  test("install.sh installs what has the right sum, and nothing else; manual and completions with it", async () => {
    const sum = createHash("sha256").update(program).digest("hex");
    const releases = await serve({ SHA256SUMS: `${sum}  other\n${sum}  ${target}\n`, [target]: program });
    const evil = await serve({ SHA256SUMS: `${sum}  ${target}\n`, [target]: `${program}evil\n` });
    const install = (url: string, bin: string) =>
      sh([join(root, "packaging/install.sh")], { HOME: home, SIGNALMAN_RELEASES: url, SIGNALMAN_BIN: bin });
    expect(await install(releases.url, join(home, "bin"))).toMatchObject({
      code: 0,
      out: expect.stringMatching(/Next: signalman\n$/u),
    });
    expect(spawnSync(join(home, "bin/signalman"), { encoding: "utf8" }).stdout).toBe("signalman 9\n");
    expect(existsSync(join(home, ".local/share/man/man1/signalman.1"))).toBe(true);
    expect((await install(evil.url, join(home, "evil"))).err).toContain("Nothing was installed");
    expect((await install("http://releases.example", join(home, "evil"))).err).toContain("not https");
    expect(existsSync(join(home, "evil"))).toBe(false);
    releases.stop();
    evil.stop();
  });

  test("install.sh follows no link that was planted, takes no older release without --force, and none that does not start", async () => {
    const bin = join(home, "bin");
    const releaseOf = async (text: string) =>
      serve({ SHA256SUMS: `${createHash("sha256").update(text).digest("hex")}  ${target}\n`, [target]: text });
    const versionOf = (version: string) => `#!/bin/sh\necho "signalman ${version} (0123abcd)"\n`;
    const install = async (text: string, ...words: string[]) => {
      const { url, stop } = await releaseOf(text);
      const env = { HOME: home, SIGNALMAN_RELEASES: url, SIGNALMAN_BIN: bin };
      return sh([join(root, "packaging/install.sh"), ...words], env).finally(stop);
    };
    const installed = () => spawnSync(join(bin, "signalman"), { encoding: "utf8" }).stdout.split(" ")[1];
    mkdirSync(bin);
    writeFileSync(join(home, "victim"), "precious");
    symlinkSync(join(home, "victim"), join(bin, ".signalman.new"));
    symlinkSync(join(home, "victim"), join(bin, "signalman"));
    expect(await install(versionOf("1.10.0"))).toMatchObject({ code: 0 });
    expect([installed(), readFileSync(join(home, "victim"), "utf8")]).toEqual(["1.10.0", "precious"]);
    for (const refused of [versionOf("1.9.9"), "#!/bin/false\n"]) {
      expect((await install(refused)).err).toContain("Nothing was installed");
      expect([installed(), readdirSync(bin)]).toEqual(["1.10.0", ["signalman"]]);
    }
    expect(await install(versionOf("1.9.9"), "--force")).toMatchObject({ code: 0 });
    expect(installed()).toBe("1.9.9");
    rmSync(join(bin, "signalman"));
    mkdirSync(join(bin, "signalman"));
    expect((await install(versionOf("2.0.0"))).err).toContain("is a folder");
    const env = { HOME: home, SIGNALMAN_RELEASES: "http://127.0.0.1:80@releases.example", SIGNALMAN_BIN: bin };
    expect((await sh([join(root, "packaging/install.sh")], env)).err).toContain("Cannot install from");
  });

  test.skipIf(Bun.which("zstd") === null)("install.sh takes the packed binary where it can unpack it", async () => {
    const packed = await Bun.zstdCompress(program);
    const lines = [
      [program, target],
      [packed, `${target}.zst`],
    ] as const;
    const SHA256SUMS = lines.map(([b, name]) => `${createHash("sha256").update(b).digest("hex")}  ${name}\n`).join("");
    const releases = await serve({ SHA256SUMS, [`${target}.zst`]: packed });
    const env = { HOME: home, SIGNALMAN_RELEASES: releases.url, SIGNALMAN_BIN: join(home, "bin") };
    expect(await sh([join(root, "packaging/install.sh")], env)).toMatchObject({ code: 0 });
    releases.stop();
  });

  test.skipIf(Bun.which("minisign") === null)(
    "install.sh wants the maintainer's signature where minisign is there",
    async () => {
      const sum = createHash("sha256").update(program).digest("hex");
      writeFileSync(join(home, "SHA256SUMS"), `${sum}  ${target}\n`);
      const minisign = (...args: string[]) => spawnSync("minisign", args, { cwd: home, encoding: "utf8" });
      minisign("-G", "-W", "-p", "key.pub", "-s", "key.sec");
      minisign("-S", "-s", "key.sec", "-m", "SHA256SUMS");
      const SIGNALMAN_RELEASE_KEY = readFileSync(join(home, "key.pub"), "utf8").split("\n")[1] ?? "";
      await sh([join(root, "packaging/render.sh"), home, "https://example.org", "9"], { SIGNALMAN_RELEASE_KEY });
      const files = { SHA256SUMS: readFileSync(join(home, "SHA256SUMS")), [target]: program };
      const signed = await serve({ ...files, "SHA256SUMS.minisig": readFileSync(join(home, "SHA256SUMS.minisig")) });
      const unsigned = await serve(files);
      const install = ({ url }: { readonly url: string }, bin: string) =>
        sh([join(home, "install.sh")], { HOME: home, SIGNALMAN_RELEASES: url, SIGNALMAN_BIN: join(home, bin) });
      expect(await install(signed, "bin")).toMatchObject({ code: 0 });
      expect((await install(unsigned, "evil")).code).not.toBe(0);
      expect(existsSync(join(home, "evil"))).toBe(false);
      signed.stop();
      unsigned.stop();
    },
  );

  test("the packages of npm start the binary of this platform, with its words and its exit code", () => {
    const dist = join(home, "dist");
    mkdirSync(dist);
    writeFileSync(join(dist, target), `#!/bin/sh\necho "$@"\nexit 4\n`, { mode: 0o755 });
    writePackages(dist, join(home, "npm"));
    const read = (name: string) => JSON.parse(readFileSync(join(home, "npm", name, "package.json"), "utf8"));
    const platform = target.replace("signalman-", "");
    const main = read("signalman");
    expect(main.optionalDependencies).toEqual({ [`@signalman/${platform}`]: main.version });
    expect(read(platform)).toMatchObject({ os: [process.platform], cpu: [process.arch] });
    // As npm lays them out.
    const scope = join(home, "node_modules/@signalman");
    mkdirSync(scope, { recursive: true });
    renameSync(join(home, "npm", platform), join(scope, platform));
    renameSync(join(home, "npm/signalman"), join(home, "node_modules/signalman"));
    const { stdout, status } = spawnSync(
      "node",
      [join(home, "node_modules/signalman", main.bin), "send", "two words"],
      {
        encoding: "utf8",
      },
    );
    expect([stdout, status]).toEqual(["send two words\n", 4]);
  });

  test("the templates of a release are filled from its sums, down to the last place", async () => {
    const targets = ["darwin-arm64", "darwin-x64", "linux-arm64", "linux-x64"];
    const sums = targets.map((name, index) => `${String(index).repeat(64)}  signalman-${name}.zst\n`).join("");
    writeFileSync(join(home, "SHA256SUMS"), sums);
    const render = join(root, "packaging/render.sh");
    expect(await sh([render, home, "https://example.org/signalman", "1.2.3"], {})).toEqual({
      code: 0,
      out: "",
      err: "",
    });
    const formula = readFileSync(join(home, "signalman.rb"), "utf8");
    expect(formula).toContain(
      `url "https://example.org/signalman/releases/download/v1.2.3/signalman-linux-x64.zst"\n      sha256 "${"3".repeat(64)}"`,
    );
    expect(readFileSync(join(home, "install.sh"), "utf8")).toContain(
      ":-https://example.org/signalman/releases/latest/download}",
    );
  });
});

describe("who may ask", () => {
  test("is said on the terminal as in the chat, by number or by a name that is known", async () => {
    const env = { SIGNALMAN_ALLOW: "self" };
    const aci = "0b7a54e2-11d5-4c0e-9c53-6a1d3f00b002";
    const id = "ZmFtaWx5LWdyb3VwLWlkLW9mLTMyLWJ5dGVzLWxvbmc=";
    const store = await openStore(home, { isExclusive: false });
    store.settings.set(`name:${aci}`, "Ben");
    store.settings.set(`name:group:${id}`, "Weekend Hike");
    store.close();
    const say = async (...args: string[]): Promise<string> => {
      [out, err] = ["", ""];
      expect(await signalman(args, env)).toBe(0);
      return out;
    };
    expect(await say("allow", "ben")).toContain("may ask from now on. Claude answers them in your name.");
    expect(await say("allow", "weekend", "hike")).toContain("'s members may ask");
    expect(await say("people")).toBe(
      `You, in Note to Self (settings)\nBen · ${aci}\n\`signalman allow\` NUMBER lets a person ask.\n`,
    );
    expect(await say("groups")).toContain(`Weekend Hike · ${id}`);
    expect((await say("complete", "--", "disallow")).split("\n")).toContain(aci);
    expect((await say("complete", "--", "send")).split("\n")).toContain("self");
    expect(await say("disallow", "Ben")).toBe("Ben may no longer ask.\n");
    expect(await signalman(["allow", "nobody"], env)).toBe(2);
    expect(err).toStartWith("No one is known here as nobody. `signalman allow` takes a number");
    expect(await signalman(["disallow", "Ben"], env)).toBe(2);
  });
});
