import { afterAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { hostTarget, libsignalPlugin } from "../../build/libsignal.ts";
import { BridgeError } from "../../src/core/errors.ts";
import { unpackAddon, loadLibsignal, openAddon } from "../../src/signal/native/load.ts";

const root = join(import.meta.dir, "../..");
const folder = mkdtempSync(join(tmpdir(), "load-test-"));
afterAll(() => rmSync(folder, { recursive: true }));

let made = 0;
const freshFolder = (): string => join(folder, `${made++}`);
const sha256Of = (bytes: string): string => createHash("sha256").update(bytes).digest("hex");
const source = join(folder, "addon.bin");
const content = "machine code";
writeFileSync(source, content);
const sha256 = sha256Of(content);

const faultOf = (work: () => unknown): BridgeError => {
  try {
    work();
  } catch (error) {
    if (error instanceof BridgeError) return error;
    throw error;
  }
  throw new Error("Expected a BridgeError");
};

async function run(command: readonly string[], options: { stdin?: string; env?: Record<string, string> } = {}) {
  const child = Bun.spawn([...command], {
    cwd: root,
    stdin: new Blob([options.stdin ?? ""]),
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...options.env },
  });
  const [out, err] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  return { output: out + err, exitCode: await child.exited };
}

describe("the addon on disk", () => {
  test("is whole, and ours alone: in a fresh folder each time", () => {
    const home = freshFolder();
    const path = unpackAddon(source, sha256, home);
    expect(readFileSync(path, "utf8")).toBe(content);
    for (const place of [home, dirname(path), path]) expect(statSync(place).mode & 0o777).toBe(0o700);
    expect(dirname(dirname(path))).toBe(home);
    expect(unpackAddon(source, sha256, home)).not.toBe(path);
  });

  test("removes what earlier versions and processes that are gone left, and touches nothing else", () => {
    const home = freshFolder();
    mkdirSync(home);
    const gone = Bun.spawnSync(["true"]).pid;
    const old = [
      "libsignal-0123456789abcdef.node",
      "libsignal-0123456789abcdef.node.00000000-0000-4000-8000-000000000000.tmp",
    ];
    const others = ["signalman.db", "libsignal-notes.txt", "my-libsignal-0123456789abcdef.node"];
    for (const file of [...old, ...others]) writeFileSync(join(home, file), "x");
    mkdirSync(join(home, `libsignal-${gone}-abcdef`));
    mkdirSync(join(home, "libsignal-1-abcdef"));
    const path = unpackAddon(source, sha256, home);
    expect(readdirSync(home).sort()).toEqual([basename(dirname(path)), "libsignal-1-abcdef", ...others].sort());
  });

  test("is never left behind half written or with a wrong content", () => {
    const home = freshFolder();
    const fault = faultOf(() => unpackAddon(source, sha256Of("another build"), home));
    expect(fault.code).toBe("config");
    expect(fault.message).toContain("expected SHA-256");
    expect(readdirSync(home)).toEqual([]);
  });

  test("says so where its folder cannot be", () => {
    const fault = faultOf(() => unpackAddon(source, sha256, join(source, "home")));
    expect(fault.code).toBe("config");
    expect(fault.message).toStartWith(`Cannot put libsignal into ${join(source, "home")}: `);
    expect(fault.hint).toContain("SIGNALMAN_HOME");
  });

  test("lies in a folder where no other user may write, even one that was there before", () => {
    const home = freshFolder();
    mkdirSync(home);
    chmodSync(home, 0o777);
    unpackAddon(source, sha256, home);
    expect(statSync(home).mode & 0o777).toBe(0o700);
  });

  // In a process of its own: other tests of this run have named a folder.
  test("cannot be opened before its folder was named", async () => {
    const script = `
      import { openAddon } from "./src/signal/native/load.ts";
      try { openAddon(${JSON.stringify(source)}, "${sha256}"); } catch (error) { console.log(error.code); }`;
    expect((await run([process.execPath, "run", "-"], { stdin: script })).output).toBe("internal\n");
  });

  test("says so when it does not fit this machine", async () => {
    await loadLibsignal(freshFolder());
    const fault = faultOf(() => openAddon(source, sha256));
    expect(fault.code).toBe("unsupported");
    expect(fault.hint).toContain("glibc 2.34");
  });
});

describe("run from source", () => {
  const script = `
    import { existsSync } from "node:fs";
    import { loadLibsignal } from "./src/signal/native/load.ts";
    await loadLibsignal("unused-folder");
    const { PrivateKey } = await import("@signalapp/libsignal-client");
    const { deriveFromMasterKey } = await import("./src/signal/native/groups.ts").then(() => ({ deriveFromMasterKey: true }));
    const { attachments } = await import("./src/signal/native/attachments.ts").then(() => ({ attachments: true }));
    console.log(PrivateKey.generate().getPublicKey().serialize().length, deriveFromMasterKey, attachments, existsSync("unused-folder"));`;

  test("Deno makes a key pair, and nothing is written", async () => {
    const { output } = await run([join(root, "node_modules/.bin/deno"), "run", "-A", "-"], { stdin: script });
    expect(output).toBe("33 true true false\n");
  });

  test("Bun makes a key pair, and nothing is written", async () => {
    const { output } = await run([process.execPath, "run", "-"], { stdin: script });
    expect(output).toBe("33 true true false\n");
  });

  test("the service and its constants do not load libsignal", async () => {
    const lazy = `
      await import("./src/signal/native/load.ts");
      const { loadService } = await import("./src/signal/native/signal-service.ts");
      const { systemClock } = await import("./src/clock.ts");
      await loadService("production", systemClock);
      console.log(Object.keys(require.cache).filter((path) => path.includes("libsignal-client")).length);
      await import("@signalapp/libsignal-client");
      console.log(Object.keys(require.cache).filter((path) => path.includes("libsignal-client")).length > 0);`;
    const { output } = await run([process.execPath, "run", "-"], { stdin: lazy });
    expect(output).toBe("0\ntrue\n");
  });
});

describe("the build plugin", () => {
  test("knows every target that has an addon, in each of its spellings, and no other", () => {
    for (const target of [
      "linux-x64",
      "bun-linux-arm64",
      "darwin-x64",
      "bun-darwin-arm64",
      "windows-x64-baseline",
      "windows-arm64",
    ])
      expect(libsignalPlugin(target).name).toBe("libsignal");
    expect(() => libsignalPlugin("linux-x64-musl")).toThrow("Cannot embed libsignal for linux-x64-musl");
  });

  test("a compiled program makes a key pair without any temporary folder, and writes nothing for another transport", async () => {
    const entry = join(folder, "main.ts");
    const program = join(folder, "program");
    const load = JSON.stringify(join(root, "src/signal/native/load.ts"));
    const service = JSON.stringify(join(root, "src/signal/native/attachments.ts"));
    const libsignal = JSON.stringify(Bun.resolveSync("@signalapp/libsignal-client", root));
    writeFileSync(
      entry,
      `import { loadLibsignal } from ${load};
         async function main(home: string | undefined) {
           if (home === undefined) return console.log("other transport");
           try {
             await loadLibsignal(home);
             await import(${service});
             const { PrivateKey } = await import(${libsignal});
             console.log(PrivateKey.generate().getPublicKey().serialize().length);
           } catch (error) {
             console.log(error.code, error.message);
           }
         }
         void main(process.argv[2]);`,
    );
    const built = await Bun.build({
      entrypoints: [entry],
      compile: { outfile: program },
      minify: true,
      bytecode: true,
      plugins: [libsignalPlugin(hostTarget)],
    });
    expect(built.success).toBe(true);
    const env = { TMPDIR: join(folder, "missing"), BUN_TMPDIR: join(folder, "missing") };
    expect((await run([program], { env })).output).toBe("other transport\n");
    const home = freshFolder();
    expect((await run([program, home], { env })).output).toBe("33\n");
    expect(readdirSync(home)).toEqual([]);
    expect((await run([program, home], { env })).output).toBe("33\n");
    const blocked = join(source, "home");
    expect((await run([program, blocked], { env })).output).toStartWith(`config Cannot put libsignal into ${blocked}`);
  }, 60_000);
});
