/** Commands: whatever one does, it ends within its limits, leaves nothing running, and sees only what it should. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import {
  commandLine,
  findSandbox,
  runCommand,
  type ShellCommand,
  type CommandSandbox,
} from "../../src/projects/runner.ts";
import { noSandbox, startRig, type Rig } from "./rig.ts";

const path = process.env["PATH"] ?? "";
const found = await findSandbox(systemClock, path);
if (found.kind === "none") console.warn(`the tests of a real sandbox are skipped: ${found.why}`);

let rig: Rig;
beforeEach(async () => void (rig = await startRig()));
afterEach(() => rig.stop());

const never = new AbortController().signal;
const go = (command: string, over: Partial<ShellCommand> = {}, signal = never) => {
  const usual = {
    root: rig.root,
    home: rig.home,
    network: false,
    sandbox: noSandbox,
    timeoutMs: 20_000,
    env: { PATH: path },
  };
  return runCommand({ ...usual, command, ...over }, systemClock, signal);
};

/** Whether a process is there whose command line is this, or begins so and goes on with digits. */
function isRunning(line: string): boolean {
  const { stdout } = Bun.spawnSync(["ps", "-eo", "stat=,args="]);
  return new RegExp(`^[^Z]\\S*\\s+${line}\\d*$`, "mu").test(stdout.toString());
}

async function until(isSo: () => boolean): Promise<void> {
  for (let looks = 0; !isSo(); looks++) {
    if (looks > 400) throw new Error("waited in vain");
    await systemClock.sleep(25);
  }
}

const kinds: [string, CommandSandbox][] = [
  ["without a sandbox", noSandbox],
  ...(found.kind === "none" ? [] : [[`in ${found.kind}`, found] as [string, CommandSandbox]]),
];

describe.each(kinds)("%s, a command", (_, sandbox) => {
  const run = (command: string, over: Partial<ShellCommand> = {}, signal = never) =>
    go(command, { sandbox, ...over }, signal);

  const timed = async (command: string, over: Partial<ShellCommand> = {}) => {
    const startedAt = performance.now();
    return { ...(await run(command, over)), durationMs: performance.now() - startedAt };
  };

  test("runs in the folder, and says what it printed and how it ended", async () => {
    expect(await run("pwd; echo oops >&2; echo made >made.txt; exit 3")).toMatchObject({
      code: 3,
      ended: null,
      output: `${rig.root}\noops\n`,
    });
    expect(readFileSync(join(rig.root, "made.txt"), "utf8")).toBe("made\n");
  });

  test("that never ends is ended with all that it started", async () => {
    const { ended, durationMs } = await timed("sleep 4711 & sleep 4712", { timeoutMs: 300 });
    expect(ended).toContain("its time was over");
    expect(durationMs).toBeLessThan(4_000);
    expect(isRunning("sleep 471")).toBe(false);
  });

  test("that will not be asked to end is ended all the same", async () => {
    const { ended, durationMs } = await timed("trap '' TERM INT HUP; while :; do sleep 0.1; done", { timeoutMs: 200 });
    expect(ended).toContain("its time was over");
    expect(durationMs).toBeLessThan(6_000);
  });

  test("that leaves something behind, even out of its group, leaves nothing", async () => {
    const { code, durationMs } = await timed(
      "sleep 4713 & setsid sleep 4714 & (setsid sh -c 'sleep 4715 & sleep 4716' &) ; sleep 0.2; echo gone",
    );
    expect(code).toBe(0);
    expect(durationMs).toBeLessThan(4_000);
    expect(isRunning("sleep 471")).toBe(false);
  });

  test("that prints for ever is ended, and its beginning and end are told", async () => {
    const { ended, output } = await run("echo begin; yes flood");
    expect(ended).toContain("printed too much");
    expect(output.startsWith("begin\nflood\n")).toBe(true);
    expect(output).toMatch(/\n\[… \d+ bytes left out …\]\n/u);
    expect(Buffer.byteLength(output)).toBeLessThan(50_200);
  });

  test("that asks for input gets none", async () => {
    expect(await run("read answer && echo got; cat; echo end")).toMatchObject({ output: "end\n", ended: null });
  });

  test("that kills its own group harms no other process", async () => {
    const { code } = await run("kill -9 0; sleep 5");
    expect(code).not.toBe(0);
  });

  test("waits for what it started itself and for nothing else", async () => {
    expect((await run("(sleep 0.2; echo late) & wait; echo end")).output).toBe("late\nend\n");
  });

  test("that forks by the hundred leaves none", async () => {
    const { ended } = await run("for n in $(seq 100); do sleep 4720 & (setsid sleep 4721 &) done; sleep 4722", {
      timeoutMs: 1_000,
    });
    expect(ended).toContain("its time was over");
    expect(isRunning("sleep 472")).toBe(false);
  });

  test.each([
    ["also by kill -9", "echo began; sleep 4718; touch late", true],
    ["also where it kills that", "sleep 4718 & kill -9 $PPID; wait; touch late", sandbox.kind !== "none"],
  ])("ends with signalman, %s", async (_how, command, isOurs) => {
    const place = { root: rig.root, home: rig.home, network: false, sandbox, timeoutMs: 60_000, env: { PATH: path } };
    const given = JSON.stringify({ command, ...place });
    const from = (name: string): string => JSON.stringify(join(import.meta.dir, "../../src", name));
    const source = `const { runCommand } = await import(${from("projects/runner.ts")});
      const { systemClock } = await import(${from("clock.ts")});
      await runCommand(${given}, systemClock, new AbortController().signal);`;
    const daemon = Bun.spawn([process.execPath, "-e", source], { stdout: "ignore", stderr: "inherit" });
    if (isOurs) {
      // In a sandbox a command reaches nothing outside of it.
      await until(() => isRunning("sleep 4718"));
      daemon.kill("SIGKILL");
    }
    await daemon.exited;
    expect(daemon.signalCode).toBe("SIGKILL");
    await until(() => !isRunning("sleep 4718"));
    expect(existsSync(join(rig.root, "late"))).toBe(false);
  });

  test("is ended by /stop, and keeps what it printed", async () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 200);
    expect(await run("echo began; sleep 4717", {}, stop.signal)).toMatchObject({
      ended: expect.stringContaining("stopped"),
      output: "began\n",
    });
    expect(isRunning("sleep 4717")).toBe(false);
    expect((await run("echo again", {}, stop.signal)).ended).toContain("stopped");
  });

  test("sees the listed variables and no others", async () => {
    const bus = { DBUS_SESSION_BUS_ADDRESS: "unix:x", XDG_RUNTIME_DIR: "/run/user/1", SSH_AUTH_SOCK: "/x" };
    const keys = {
      ANTHROPIC_API_KEY: "sk-ant-secret",
      SIGNALMAN_ACCOUNT: "+1",
      GITHUB_TOKEN: "x",
      NODE_OPTIONS: "--x",
    };
    const { output } = await run("env", { env: { PATH: path, LC_ALL: "C.UTF-8", ...bus, ...keys } });
    const names = output.split("\n").flatMap((line) => (line.includes("=") ? [line.slice(0, line.indexOf("="))] : []));
    const expected = ["CI", "LC_ALL", "PATH", "PWD", "SIGNALMAN_COMMAND", "TERM"];
    expect(names.filter((name) => !["_", "SHLVL", "OLDPWD", "TMPDIR"].includes(name)).sort()).toEqual(expected);
  });
});

describe("a sandbox", () => {
  const inside = (command: string, over: Partial<ShellCommand> = {}) => go(command, { sandbox: found, ...over });

  test.skipIf(found.kind !== "bubblewrap")(
    "writes in the project's folder alone, and hides signalman's home, keys and the network",
    async () => {
      writeFileSync(join(rig.home, "config.toml"), "key");
      writeFileSync(join(rig.base, "beside.txt"), "beside");
      const { output } = await inside(
        `cat '${rig.home}/config.toml'; ls -A '${rig.home}' ; echo x >'${rig.base}/new.txt'; echo x >/usr/new; ls -A /run; echo ok >ok.txt; echo t >/tmp/t && cat ok.txt; ls /sys/class/net 2>/dev/null; cat /proc/net/route | wc -l; ps -e 2>/dev/null | wc -l`,
      );
      expect(output).not.toContain("key\n");
      expect(output).toContain("ok\n");
      expect(existsSync(join(rig.base, "new.txt"))).toBe(false);
      expect(existsSync("/usr/new")).toBe(false);
      expect(output).not.toContain("signalman.db");
      expect(readFileSync(join(rig.root, "ok.txt"), "utf8")).toBe("ok\n");
    },
  );

  test.skipIf(found.kind !== "bubblewrap")("has no network unless the project says so", async () => {
    using server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("reached") });
    const fetch = `exec 3<>/dev/tcp/127.0.0.1/${server.port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3`;
    const command = `bash -c "${fetch.replaceAll('"', '\\"')}"`;
    expect((await inside(command)).output).not.toContain("reached");
    expect((await inside(command, { network: true })).output).toContain("reached");
  });

  test.skipIf(found.kind !== "bubblewrap")("has no right, for root neither, to take its mounts off again", async () => {
    writeFileSync(join(rig.home, "config.toml"), "key");
    const { output } = await inside(
      `umount '${rig.home}'; mount -o remount,rw,bind /; cat '${rig.home}/config.toml'; grep CapEff /proc/self/status`,
    );
    expect(output).not.toContain("key\n");
    expect(output).toMatch(/^CapEff:\s+0+$/mu);
  });

  test.skipIf(found.kind !== "bubblewrap")("keeps a command from killing what is outside", async () => {
    const { code } = await inside("kill -9 -1; kill -9 1; kill -9 $PPID; sleep 0.1");
    expect(typeof code === "number" || code === null).toBe(true);
  });

  const base: Omit<ShellCommand, "sandbox" | "env"> = {
    command: "make test",
    root: "/p/garden",
    home: "/h/signalman",
    network: false,
    timeoutMs: 1,
  };

  test("sandbox-exec: all may be read but what is hidden, only the project written, no network", () => {
    const user = join(rig.base, "user");
    mkdirSync(join(user, ".ssh"), { recursive: true });
    const line = commandLine(
      {
        ...base,
        root: '/p/a "b"',
        home: rig.home,
        sandbox: { kind: "sandbox-exec", program: "/usr/bin/sandbox-exec" },
      },
      user,
    );
    expect(line.slice(0, 2)).toEqual(["/usr/bin/sandbox-exec", "-p"]);
    const profile = line[2] ?? "";
    expect(profile).toContain(String.raw`(deny file-write*)(allow file-write* (subpath "/p/a \"b\"")`);
    expect(profile).toContain(`(deny file-read* file-write* (subpath "${rig.home}") (subpath "${user}/.ssh"))`);
    expect(profile).toEndWith("(deny network*)");
    expect(line.slice(3, 5)).toEqual(["/bin/sh", "-c"]);
  });

  test("bubblewrap: the project lies over /tmp, keys are hidden after it, the network is not shared", () => {
    const user = join(rig.base, "user");
    mkdirSync(join(user, ".ssh"), { recursive: true });
    writeFileSync(join(user, ".netrc"), "");
    const sandbox = { kind: "bubblewrap", program: "/usr/bin/bwrap" } as const;
    const line = commandLine({ ...base, home: rig.home, sandbox }, user);
    const at = (...words: string[]): number => line.join("\u0000").indexOf(words.join("\u0000"));
    expect(at("--ro-bind", "/", "/")).toBeGreaterThan(0);
    expect(at("--bind", "/p/garden", "/p/garden")).toBeGreaterThan(at("--tmpfs", "/tmp"));
    for (const hidden of [rig.home, join(user, ".ssh")])
      expect(at("--tmpfs", hidden)).toBeGreaterThan(at("--bind", "/p/garden", "/p/garden"));
    expect(at("--ro-bind", "/dev/null", join(user, ".netrc"))).toBeGreaterThan(0);
    expect(line).toContain("--unshare-net");
    expect(commandLine({ ...base, home: rig.home, sandbox, network: true }, user)).not.toContain("--unshare-net");
  });

  test("is tried before it is believed, and what stands against it is said", async () => {
    const bin = join(rig.base, "bin");
    mkdirSync(bin);
    expect(await findSandbox(systemClock, bin, "linux")).toEqual({ kind: "none", why: "bubblewrap is not installed" });
    writeFileSync(join(bin, "bwrap"), "#!/bin/sh\necho no namespaces here >&2\nexit 1\n", { mode: 0o755 });
    expect(await findSandbox(systemClock, bin, "linux")).toEqual({
      kind: "none",
      why: "bubblewrap is installed but does not work (no namespaces here)",
    });
    writeFileSync(join(bin, "bwrap"), '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n', {
      mode: 0o755,
    });
    expect(await findSandbox(systemClock, `${bin}:/bin:/usr/bin`, "linux")).toEqual({
      kind: "bubblewrap",
      program: join(bin, "bwrap"),
    });
    expect((await findSandbox(systemClock, bin, "win32")).kind).toBe("none");
  });
});

test("a folder that is gone is a command that could not be started", async () => {
  expect(await go("true", { root: join(rig.base, "none") })).toMatchObject({
    ended: "could not be started",
    code: null,
  });
});

test("through the journal: the whole command is shown, asked, run once, and its result kept", async () => {
  const { plan, content, isError, id } = await rig.ask("local_run", { command: "echo a >>log.txt\nwc -l <log.txt" });
  expect(plan).toMatchObject({
    verdict: "asks",
    detail: "echo a >>log.txt\nwc -l <log.txt",
    title: "run in garden (without a sandbox)",
  });
  expect([isError, content]).toEqual([false, expect.stringMatching(/^\[exit code 0, \d\.\d s\]\n\s*1$/u)]);
  expect((await rig.run(id)).content).toBe(content);
  expect(readFileSync(join(rig.root, "log.txt"), "utf8")).toBe("a\n");
  const bad = await rig.ask("local_run", { command: "echo 2 failed; exit 1", timeout_ms: 5_000 });
  expect([bad.isError, bad.content]).toEqual([true, expect.stringContaining("exit code 1")]);
});

test("with every descriptor taken, a command could not be started, and nothing rejects", () => {
  const script = `
    import { openSync } from "node:fs";
    import { systemClock } from "./src/clock.ts";
    import { runHelper } from "./src/projects/runner.ts";
    const held = [];
    try {
      for (;;) held.push(openSync("/dev/null"));
    } catch {}
    const { code, ended } = await runHelper("true", [], 1_000, systemClock, new AbortController().signal);
    process.stdout.write(JSON.stringify({ code, ended, isTaken: held.length > 10 }));
  `;
  const command = ["sh", "-c", 'ulimit -n 100 && exec "$0" -e "$1"', process.execPath, script];
  const { stdout, stderr } = Bun.spawnSync(command, { cwd: join(import.meta.dir, "../..") });
  expect(stderr.toString()).toBe("");
  expect(JSON.parse(stdout.toString())).toEqual({ code: null, ended: "could not be started", isTaken: true });
});
