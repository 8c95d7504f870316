import { afterEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/clock.ts";
import { fetchSignalCliVersion } from "../../src/signal/rpc.ts";
import { createSignalCli } from "../../src/signal/signal-cli.ts";
import { superviseSignalCli } from "../../src/signal/supervise.ts";
import { codeOf, faultOf } from "../contract/transport.ts";
import { isSignalCliThere, java, oldJava, signalCliPath } from "../doubles/java.ts";
import { createHeardLog } from "../doubles/quiet-log.ts";
import { startSignalCliDouble } from "../doubles/signal-cli.ts";
import { me } from "../doubles/wire.ts";

const never = new AbortController().signal;
const endings: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

/** A port that was free a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "signalman-test-"));
  endings.push(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A shell script in the place of signal-cli. */
function script(lines: string): string {
  const path = join(folder(), "signal-cli");
  writeFileSync(path, `#!/bin/sh\n${lines}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** The last lines of such a script: an HTTP server where it is told to listen, which says `said` once it was asked. */
const serving = (said = ""): string =>
  `for arg; do case "$arg" in --http=*) export PORT="\${arg##*:}";; esac; done
exec "${process.execPath}" -e 'require("node:http").createServer((_, out) => {
  out.end();
  setTimeout(() => process.stderr.write(process.argv[1] ?? ""), 100);
}).listen(process.env.PORT, "127.0.0.1")' '${said}'`;

async function supervise(path: string) {
  const log = createHeardLog();
  const url = `http://127.0.0.1:${await freePort()}`;
  const limits = { backoff: { baseMs: 20, capMs: 40, floorMs: 5 }, checkMs: 20, stopMs: 3000 };
  const supervisor = superviseSignalCli({ path, url, clock: systemClock, log, random: () => 0, limits });
  endings.push(() => supervisor.stop());
  return { supervisor, log, url };
}

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

describe("starting", () => {
  test("a missing file needs a person", async () => {
    const { supervisor } = await supervise(join(folder(), "nothing"));
    expect(await faultOf(supervisor.start(never))).toMatchObject({
      code: "config",
      message: expect.stringContaining("missing or not executable"),
    });
  });

  test("a file that is not executable needs a person", async () => {
    const path = script("exit 0");
    chmodSync(path, 0o644);
    const { supervisor } = await supervise(path);
    expect((await faultOf(supervisor.start(never))).message).toContain("missing or not executable");
  });

  test.each([
    'Exception in thread "main" java.lang.UnsupportedClassVersionError: org/asamk/signal/Main has been compiled',
    "ERROR: JAVA_HOME is not set and no 'java' command could be found in your PATH.",
  ])("Java that is missing or too old needs a person", async (line) => {
    const path = script(`cat >&2 <<'END'\n${line}\nEND\nexit 1`);
    const { supervisor } = await supervise(path);
    expect(await faultOf(supervisor.start(never))).toMatchObject({
      code: "config",
      hint: expect.stringContaining("JAVA_HOME"),
    });
  });

  test("what it says about its arguments is told after three tries, without whole numbers", async () => {
    const path = script(`echo x >> "$0.tries"; echo "User +15550100001 is odd." >&2; exit 1`);
    const { supervisor } = await supervise(path);
    const { message } = await faultOf(supervisor.start(never));
    expect(message).toBe("Cannot start signal-cli as it says: User …01 is odd.");
    expect(readFileSync(`${path}.tries`, "utf8")).toBe("x\nx\nx\n");
  });

  test("the network's failures are tried again", async () => {
    const path = script(`echo x >> "$0.tries"; [ $(wc -l < "$0.tries") -lt 5 ] && exit 3\n${serving()}`);
    const { supervisor } = await supervise(path);
    await supervisor.start(never);
    expect(readFileSync(`${path}.tries`, "utf8")).toBe("x\nx\nx\nx\nx\n");
    expect(supervisor.pid()).not.toBeNull();
  });

  test("it is told to receive nothing by itself and to print no message, and gets none of our secrets", async () => {
    process.env["ANTHROPIC_TEST_SECRET"] = "secret";
    endings.push(() => void delete process.env["ANTHROPIC_TEST_SECRET"]);
    const path = script(`echo "$@" > "$0.args"; env > "$0.env"\n${serving()}`);
    const { supervisor, url } = await supervise(path);
    await supervisor.start(never);
    expect(readFileSync(`${path}.args`, "utf8").trim()).toBe(
      `daemon --http=${new URL(url).host} --receive-mode manual --no-receive-stdout`,
    );
    expect(readFileSync(`${path}.env`, "utf8")).not.toContain("ANTHROPIC");
  });

  test("an aborted start says so", async () => {
    const { supervisor } = await supervise(script("exec sleep 60"));
    const stop = new AbortController();
    const starting = codeOf(supervisor.start(stop.signal));
    stop.abort();
    expect(await starting).toBe("signal_unreachable");
  });
});

describe("running", () => {
  test("only lines of its log are told, and without whole numbers", async () => {
    const path = script(
      serving("INFO  Foo - from +15550100002\nEnvelope from: Alice\n  Body: secret words\nINFO  Foo - end\n"),
    );
    const { supervisor, log } = await supervise(path);
    await supervisor.start(never);
    while (!log.lines().some((line) => line.includes("Foo - end"))) await systemClock.sleep(5);
    const heard = log.lines().join("\n");
    expect(heard).toContain("from …02");
    expect(heard).not.toContain("secret");
    expect(heard).not.toContain("15550100002");
  });

  test("a child that does not heed SIGTERM is killed", async () => {
    const path = script(`trap '' TERM\n${serving()}`);
    const log = createHeardLog();
    const url = `http://127.0.0.1:${await freePort()}`;
    const supervisor = superviseSignalCli({
      path,
      url,
      clock: systemClock,
      log,
      random: () => 0,
      limits: { stopMs: 100, checkMs: 20 },
    });
    await supervisor.start(never);
    const pid = supervisor.pid() ?? 0;
    await supervisor.stop();
    expect(isAlive(pid)).toBe(false);
  });

  test("a daemon that answers already is used, and survives our stop", async () => {
    const double = await startSignalCliDouble();
    endings.push(() => double.stop());
    const log = createHeardLog();
    const path = script(`echo x > "$0.started"; exit 1`);
    const supervisor = superviseSignalCli({ path, url: double.url, clock: systemClock, log, random: () => 0 });
    await supervisor.start(never);
    await supervisor.stop();
    expect(existsSync(`${path}.started`)).toBe(false);
    expect(supervisor.pid()).toBeNull();
  });
});

describe.skipIf(!isSignalCliThere)("the real signal-cli", () => {
  /** Its accounts are in a folder of their own. */
  const useJava = (home: string) => {
    for (const [name, value] of Object.entries({ JAVA_HOME: home, XDG_DATA_HOME: folder() })) {
      const before = process.env[name];
      process.env[name] = value;
      endings.push(() => {
        if (before === undefined) delete process.env[name];
        else process.env[name] = before;
      });
    }
  };

  test("starts, answers, refuses what our double refuses, comes back after SIGKILL, and stops", async () => {
    useJava(java ?? "");
    const { supervisor, log, url } = await supervise(signalCliPath);
    await supervisor.start(never);
    const first = supervisor.pid();
    const clock = systemClock;
    expect(await fetchSignalCliVersion({ baseUrl: url, clock }, never)).toMatch(/^0\.\d+\.\d+/u);

    const transport = (account: string | null) => createSignalCli({ baseUrl: url, account, clock, log });
    expect(await codeOf(transport(me.number).connect(never))).toBe("rejected");
    expect(await codeOf(transport(null).connect(never))).toBe("not_linked");

    const double = await startSignalCliDouble({ accounts: [] });
    endings.push(() => double.stop());
    for (const body of probes) {
      const [real, doubled] = [await post(url, body), await post(double.url, body)];
      expect({ body, ...doubled }).toEqual({ body, ...real });
    }

    process.kill(first ?? 0, "SIGKILL");
    while (supervisor.pid() === first || !(await isUp(url))) await clock.sleep(50);
    expect(supervisor.pid()).not.toBe(first);
    const second = supervisor.pid() ?? 0;
    await supervisor.stop();
    expect(isAlive(second)).toBe(false);
    const ends = log.lines().filter((line) => line.startsWith("warn signal-cli ended"));
    expect(ends).toEqual([expect.stringContaining('"exitCode":"SIGKILL","reason":null')]);
  }, 60_000);

  test.skipIf(oldJava === null)("says that Java is too old", async () => {
    useJava(oldJava ?? "");
    const { supervisor } = await supervise(signalCliPath);
    expect((await faultOf(supervisor.start(never))).message).toBe(
      "Cannot start signal-cli as Java is missing or too old",
    );
  });
});

/** Requests whose answers must not depend on who answers; the id, where there is one, is a string. */
const probes: readonly string[] = [
  '{"jsonrpc":"2.0","method":"listAccounts","id":"a"}',
  '{"jsonrpc":"2.0","method":"nope","id":"b"}',
  '{"jsonrpc":"2.0","method":"subscribeReceive","id":"c"}',
  '{"jsonrpc":"2.0","method":"receive","params":{"timeout":1},"id":"d"}',
  '{"jsonrpc":"2.0","method":"send","params":{"account":"+15550107777"},"id":"e"}',
  '{"jsonrpc":"2.0","method":"finishLink","params":{"deviceLinkUri":"sgnl://linkdevice?uuid=a&pub_key=BQ"},"id":"f"}',
  '{"jsonrpc":"2.0","method":"version"}',
  '{"jsonrpc":"1.0","method":"version","id":"g"}',
  '{"jsonrpc":"2.0","id":"h"}',
  '{"jsonrpc":"2.0","method":"version","id":null,"params":null,"x":1}',
  "nope",
  "",
  "[]",
];

/** Status and, of an error, its code and id: the words of a parser's complaint are not a contract. */
async function post(base: string, body: string) {
  const headers = { "Content-Type": "application/json", Connection: "close" };
  const response = await fetch(`${base}/api/v1/rpc`, { method: "POST", headers, body });
  const text = await response.text();
  if (text === "") return { status: response.status };
  const answer = JSON.parse(text) as { id: unknown; result?: unknown; error?: { code: number; data: unknown } };
  const { id, result, error } = answer;
  return { status: response.status, id, result, code: error?.code, data: error?.data };
}

async function isUp(base: string): Promise<boolean> {
  return fetch(`${base}/api/v1/check`).then(
    ({ ok }) => ok,
    () => false,
  );
}
