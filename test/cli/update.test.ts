/** `signalman update`: what it takes, and everything that leaves the old binary as it was. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { spawnSync } from "node:child_process";
import { createHash, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, watch, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Cli } from "../../src/cli/io.ts";
import { runArgv } from "../../src/cli/program.ts";
import { trustedComment, update } from "../../src/cli/update.ts";
import { systemClock } from "../../src/clock.ts";

const name = "signalman-linux-x64";
const script = (version: string): string => `#!/bin/sh\necho "signalman ${version} (0123abcd)"\n`;
const sumOf = (content: string | Uint8Array): string => createHash("sha256").update(content).digest("hex");
const sumsOf = (text: string): string => `${sumOf(text)}  ${name}\n`;

let home: string;
let file: string;
let out: string;
let server: Server;
let url: string;
let files: Record<string, string | Uint8Array>;
/** Paths that lead elsewhere. */
let moved: Record<string, string>;

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), "signalman-update-"));
  file = join(home, "signalman");
  writeFileSync(file, script("1.2.3"), { mode: 0o755 });
  [out, files, moved] = ["", {}, {}];
  server = createServer(({ url: path = "" }, response) => {
    const [body, location] = [files[path.slice(1)], moved[path.slice(1)]];
    if (location !== undefined) response.writeHead(302, { location }).end();
    else response.writeHead(body === undefined ? 404 : 200).end(body ?? "");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  server.close();
  rmSync(home, { recursive: true, force: true });
});

const io = (env: Record<string, string>): Cli => ({
  flags: {},
  out: (text) => void (out += text),
  err: (text) => void (out += text),
  isOutTty: false,
  isErrTty: false,
  env: { SIGNALMAN_HOME: join(home, "home"), ...env },
  signal: new AbortController().signal,
  clock: systemClock,
  random: () => 0.5,
});
const run = (options: { check?: true; force?: true } = {}, env: Record<string, string> = {}): Promise<number> =>
  update(io({ SIGNALMAN_UPDATE_URL: url, ...env }), options, { file, target: "linux-x64", version: "1.2.3" });
const failureOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "it did not fail",
    (error: unknown) => error,
  );
const isUntouched = (): void => {
  expect(readFileSync(file, "utf8")).toBe(script("1.2.3"));
  expect(readdirSync(home).filter((entry) => entry.startsWith("."))).toEqual([]);
};

test("a binary with the right sum takes the place of the old one, and keeps its right to run", async () => {
  files = { SHA256SUMS: sumsOf(script("1.3.0")), [name]: script("1.3.0") };
  expect(await run({ check: true })).toBe(0);
  expect(out).toContain("this is 1.2.3");
  isUntouched();
  // As main.ts has it: what the program makes is for its owner alone, but for this.
  const umask = process.umask(0o077);
  expect(await run().finally(() => process.umask(umask))).toBe(0);
  expect(statSync(file).mode & 0o777).toBe(0o755);
  expect(out).toContain("Updated from 1.2.3 to 1.3.0");
  expect(spawnSync(file, { encoding: "utf8" }).stdout).toContain("signalman 1.3.0");
  expect(await run()).toBe(0);
  expect(out).toContain("This is the newest");
});

test("a packed binary is unpacked, and both sums must be right", async () => {
  const packed = await Bun.zstdCompress(script("1.3.0"));
  const sums = `${sumsOf(script("1.3.0"))}${sumOf(packed)}  ${name}.zst\n`;
  const other = await Bun.zstdCompress(script("6.6.6"));
  for (const wrong of [
    { SHA256SUMS: sums, [`${name}.zst`]: other },
    { SHA256SUMS: sums.replace(sumOf(packed), sumOf(other)), [`${name}.zst`]: other },
    { SHA256SUMS: sums.replace(sumOf(packed), sumOf("no zstd")), [`${name}.zst`]: "no zstd" },
  ]) {
    files = wrong;
    expect(await failureOf(run())).toMatchObject({ code: "update" });
    isUntouched();
  }
  files = { SHA256SUMS: sums, [`${name}.zst`]: packed };
  expect(await run()).toBe(0);
  expect(readFileSync(file, "utf8")).toBe(script("1.3.0"));
});

test.each([
  ["a binary with another sum", () => ({ SHA256SUMS: sumsOf(script("1.3.0")), [name]: script("6.6.6") })],
  ["a binary that is cut", () => ({ SHA256SUMS: sumsOf(script("1.3.0")), [name]: script("1.3.0").slice(0, 9) })],
  ["a list without our binary", () => ({ SHA256SUMS: sumsOf(script("1.3.0")).replace("linux", "plan9") })],
  ["a binary that is not there", () => ({ SHA256SUMS: sumsOf(script("1.3.0")) })],
  ["a binary that does not start", () => ({ SHA256SUMS: sumsOf("#!/bin/false\n"), [name]: "#!/bin/false\n" })],
  ["a binary that says no version", () => ({ SHA256SUMS: sumsOf(script("new")), [name]: script("new") })],
  ["no list", () => ({})],
])("%s leaves everything as it was", async (_, release) => {
  files = release();
  expect(await failureOf(run())).toMatchObject({ code: "update" });
  isUntouched();
});

test.each(["1.2.2", "0.9.9", "1.1.10"])("release %s, which is older, is taken with --force only", async (older) => {
  files = { SHA256SUMS: sumsOf(script(older)), [name]: script(older) };
  expect(await failureOf(run())).toMatchObject({ code: "update", hint: expect.stringContaining("--force") });
  isUntouched();
  expect(await run({ force: true })).toBe(0);
  expect(readFileSync(file, "utf8")).toBe(script(older));
});

test("a link that was planted where the download goes is replaced, not followed", async () => {
  const victim = join(home, "victim");
  writeFileSync(victim, "precious");
  symlinkSync(victim, join(home, ".signalman.new"));
  files = { SHA256SUMS: sumsOf(script("1.3.0")), [name]: script("1.3.0") };
  expect(await run()).toBe(0);
  expect(readFileSync(victim, "utf8")).toBe("precious");
  expect(readFileSync(file, "utf8")).toBe(script("1.3.0"));
});

test("a new binary that floods its output is ended, and the old one stays", async () => {
  const flood = "#!/bin/sh\nexec yes\n";
  files = { SHA256SUMS: sumsOf(flood), [name]: flood };
  expect(await failureOf(run())).toMatchObject({ code: "update" });
  isUntouched();
});

test("a new binary that hangs is ended with what it has started, and the old one stays", async () => {
  const hang = `#!/bin/sh\nsleep 1000 & echo $! >${home}/pid\n: >${home}/hangs\nwait\n`;
  files = { SHA256SUMS: sumsOf(hang), [name]: hang };
  const stop = new AbortController();
  const watcher = watch(home, (_, entry) => {
    if (entry === "hangs") stop.abort();
  });
  const cli = { ...io({ SIGNALMAN_UPDATE_URL: url }), signal: stop.signal };
  const work = update(cli, {}, { file, target: "linux-x64", version: "1.2.3" });
  expect(await failureOf(work)).toMatchObject({ code: "update" });
  watcher.close();
  isUntouched();
  const pid = readFileSync(join(home, "pid"), "utf8").trim();
  // What ends closes its files first; then it may still wait to be looked at by its parent.
  const hasEnded = (): boolean =>
    /^(Z.*)?\s*$/u.test(spawnSync("ps", ["-o", "stat=", "-p", pid], { encoding: "utf8" }).stdout);
  let looks = 1;
  while (!hasEnded() && looks < 200) looks++;
  expect(looks).toBeLessThan(200);
});

test("no step may leave https but on this machine, redirects included", async () => {
  expect(await failureOf(run({}, { SIGNALMAN_UPDATE_URL: "http://releases.example" }))).toMatchObject({
    message: expect.stringContaining("not https"),
  });
  files = { SHA256SUMS: sumsOf(script("1.3.0")) };
  moved = { [name]: "http://releases.example/evil" };
  expect(await failureOf(run())).toMatchObject({
    message: expect.stringContaining("http://releases.example is not https"),
  });
  isUntouched();
  moved = { [name]: "elsewhere" };
  files["elsewhere"] = script("1.3.0");
  expect(await run()).toBe(0);
});

test("what began by https is not led to a port of this machine, where any user may listen", async () => {
  const real = globalThis.fetch;
  const asked: string[] = [];
  const answer = async (input: string | URL | Request): Promise<Response> => {
    asked.push(input instanceof Request ? input.url : input.toString());
    return new Response(null, { status: 302, headers: { location: `${url}/SHA256SUMS` } });
  };
  globalThis.fetch = Object.assign(answer, { preconnect: real.preconnect });
  files = { SHA256SUMS: sumsOf(script("1.3.0")), [name]: script("1.3.0") };
  try {
    expect(await failureOf(run({}, { SIGNALMAN_UPDATE_URL: "https://releases.example" }))).toMatchObject({
      message: expect.stringContaining("is not https"),
    });
  } finally {
    globalThis.fetch = real;
  }
  expect(asked).toEqual(["https://releases.example/SHA256SUMS"]);
});

test("run from its source it refuses, and says how", async () => {
  expect(await runArgv(["update"], io({ SIGNALMAN_UPDATE_URL: url }))).toBe(2);
  expect(out).toContain("git pull");
});

describe("signed sums", () => {
  const keyId = Buffer.from("a key id");
  const pair = (): { secret: KeyObject; line: string } => {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
    return { secret: privateKey, line: Buffer.concat([Buffer.from("Ed"), keyId, raw]).toString("base64") };
  };
  const { secret, line } = pair();
  /** As minisign writes it. */
  const signed = (text: string, comment: string, by = secret, algorithm = "ED"): string => {
    const what = algorithm === "ED" ? createHash("blake2b512").update(text).digest() : Buffer.from(text);
    const signature = sign(null, what, by);
    const global = sign(null, Buffer.concat([signature, Buffer.from(comment)]), by);
    const first = Buffer.concat([Buffer.from(algorithm), keyId, signature]).toString("base64");
    return `untrusted comment: by a test\n${first}\ntrusted comment: ${comment}\n${global.toString("base64")}\n`;
  };
  const release = (version: string, signature?: string): void => {
    const sums = sumsOf(script(version));
    files = {
      SHA256SUMS: sums,
      [name]: script(version),
      "SHA256SUMS.minisig": signature ?? signed(sums, `signalman ${version}`),
    };
  };
  const env = { SIGNALMAN_UPDATE_KEY: line };

  test("say the version before anything is downloaded", async () => {
    release("1.3.0");
    expect(await run({ check: true }, env)).toBe(0);
    expect(out).toContain("There is another one: 1.3.0; this is 1.2.3");
    expect(await run({}, env)).toBe(0);
    expect(readFileSync(file, "utf8")).toBe(script("1.3.0"));
  });

  test("of an older release are refused, even for --check", async () => {
    release("1.2.2");
    expect(await failureOf(run({ check: true }, env))).toMatchObject({ code: "update" });
    isUntouched();
  });

  test.each([
    ["no signature", () => delete files["SHA256SUMS.minisig"]],
    ["an empty signature", () => release("1.3.0", "")],
    ["another signer", () => release("1.3.0", signed(sumsOf(script("1.3.0")), "signalman 1.3.0", pair().secret))],
    ["the signature of another list", () => release("1.3.0", signed(sumsOf(script("1.2.9")), "signalman 1.3.0"))],
    [
      "a comment that was changed",
      () => release("1.3.0", signed(sumsOf(script("1.3.0")), "signalman 1.2.9").replace("1.2.9", "1.3.0")),
    ],
    ["an unknown algorithm", () => release("1.3.0", signed(sumsOf(script("1.3.0")), "signalman 1.3.0", secret, "EX"))],
  ])("with %s are refused", async (_, spoil) => {
    release("1.3.0");
    spoil();
    expect(await failureOf(run({}, env))).toMatchObject({ code: "update" });
    isUntouched();
  });

  test("are read as minisign writes them, in its old form, too", () => {
    for (const algorithm of ["ED", "Ed"])
      expect(trustedComment(Buffer.from("text"), signed("text", "a comment", secret, algorithm), line)).toBe(
        "a comment",
      );
    // Made by minisign 0.11 itself.
    const real = {
      key: "RWRwfJPGsdEpiWDQTiiP1a7HkUMmZFMgq9uZ9dLOBJSqWp5rr/kkds6K",
      text: "a list of sums\n",
      signature: [
        "untrusted comment: signature from minisign secret key",
        "RURwfJPGsdEpiUkh/rNHywJeiWy9lt1O2YTf1H3DfnX0zCIhJpRdUU4xm1sgKzlgYPfhJJDPrPGNo/rzC+bOg3yD4eU7v4g/YQM=",
        "trusted comment: signalman 1.3.0",
        "V8OPkj1NFobodzdl2qFtJiQQkuadAKsnRpKHwtYx2VAl1vEzgyf/t2SaSy3v2uDhWVpq5O9htvuah+g5HV2JBw==",
      ].join("\n"),
    };
    expect(trustedComment(Buffer.from(real.text), real.signature, real.key)).toBe("signalman 1.3.0");
    expect(trustedComment(Buffer.from("another"), real.signature, real.key)).toBeNull();
  });
});
