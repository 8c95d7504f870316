import { ErrorCode, PublicKey } from "@signalapp/libsignal-client";
import { BuildVariant, Environment, Net } from "@signalapp/libsignal-client/dist/net.js";
import { ServerPublicParams } from "@signalapp/libsignal-client/zkgroup.js";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Clock, systemClock } from "../../src/clock.ts";
import { BridgeError } from "../../src/core/errors.ts";
import type { Service } from "../../src/signal/native/context.ts";
import { loadService, production, type ServiceFile } from "../../src/signal/native/signal-service.ts";
import { describe as describeService } from "../doubles/signal-mock.ts";
import { mockCertificate, startRefusingHost } from "../doubles/signal-http2.ts";

const folder = mkdtempSync(join(tmpdir(), "service-test-"));
afterAll(() => rmSync(folder, { recursive: true }));

let written = 0;
const write = (content: unknown): string => {
  const path = join(folder, `${written++}.json`);
  writeFileSync(path, typeof content === "string" ? content : JSON.stringify(content));
  return path;
};
const faultOf = async (work: Promise<unknown>): Promise<BridgeError> => {
  const error = await work.then(
    () => null,
    (thrown: unknown) => thrown,
  );
  if (error instanceof BridgeError) return error;
  throw new Error(`Expected a BridgeError, got ${String(error)}`);
};

const serviceFileFor = (port: number) => describeService(port, port);

describe("the production service", () => {
  test("has constants that libsignal takes, and the enums behind its numbers", async () => {
    const service = await loadService("production", systemClock);
    expect(service.isLocal).toBe(false);
    expect(service.netOptions("signalman/1")).toEqual({
      env: Environment.Production,
      userAgent: "signalman/1",
      buildVariant: BuildVariant.Production,
    });
    expect(() => new Net(service.netOptions("signalman/1"))).not.toThrow();
    expect(service.remoteConfig.size).toBe(0);
    expect(service.trustRoots.map((key) => PublicKey.deserialize(key).serialize().length)).toEqual([33, 33]);
    expect(new ServerPublicParams(service.serverPublicParams).serialize()).toHaveLength(673);
  });

  test("pins both roots, known by their fingerprints", () => {
    const prints = production.tlsRoots.map((der) =>
      createHash("sha256").update(Buffer.from(der, "base64")).digest("hex"),
    );
    expect(prints).toEqual([
      "ddb0f92bb95c8d6fd202ea6e8cc5ccd182b544f8cd696f47d580659ddc9df65a",
      "2642f1f90b389fed2558d7324ca26d70e750b06f87c595c5de955e2560821657",
    ]);
  });

  test("knows four CDN numbers on three hosts", async () => {
    const { cdnUrl, storageUrl } = await loadService("production", systemClock);
    expect([0, 1, 2, 3, 4, -1].map(cdnUrl)).toEqual([
      "https://cdn.signal.org",
      "https://cdn.signal.org",
      "https://cdn2.signal.org",
      "https://cdn3.signal.org",
      null,
      null,
    ]);
    expect(storageUrl).toBe("https://storage.signal.org");
  });
});

describe("a service file", () => {
  test("describes a service on loopback", async () => {
    const file = await serviceFileFor(4343);
    const service = await loadService(write({ ...file, storage: `${file.storage}/` }), systemClock);
    expect(service.isLocal).toBe(true);
    expect(service.netOptions("signalman/1")).toMatchObject({
      localTestServer: true,
      userAgent: "signalman/1",
      TESTING_localServer_chatPort: 4343,
      TESTING_localServer_httpVersion: 2,
    });
    expect([...service.remoteConfig.keys()]).toEqual(["grpc.AttachmentsGetUploadForm"]);
    expect(service.storageUrl).toBe("https://localhost:4343/storageService");
    expect([0, 1, 2, 3].map(service.cdnUrl)).toEqual([
      "https://localhost:4343",
      "https://localhost:4343",
      "https://localhost:4343",
      "https://localhost:4343/cdn3",
    ]);
    expect(service.trustRoots).toHaveLength(1);
  });

  type Case = readonly [why: string, change: (file: ServiceFile) => unknown];
  const cases: readonly Case[] = [
    ["chat: is missing", (file) => ({ ...file, chat: undefined })],
    ["chat.port: must be a number", (file) => ({ ...file, chat: { ...file.chat, port: "4343" } })],
    ["chat.port: must be 65535 or less", (file) => ({ ...file, chat: { ...file.chat, port: 65_536 } })],
    ["chat.certificateDer: must be an X.509", (file) => ({ ...file, chat: { ...file.chat, certificateDer: "AAAA" } })],
    ["tlsRoots: must name at least one", (file) => ({ ...file, tlsRoots: [] })],
    ["tlsRoots.1: must be an X.509", (file) => ({ ...file, tlsRoots: [...file.tlsRoots, "AAAA"] })],
    ["tlsRoots.0: must be standard base64", (file) => ({ ...file, tlsRoots: ["not base64!"] })],
    ["trustRoots.0: must be a public key", (file) => ({ ...file, trustRoots: ["AAAA"] })],
    ["serverPublicParams: must not be empty", (file) => ({ ...file, serverPublicParams: "" })],
    ["storage: must be an https:// URL", (file) => ({ ...file, storage: "http://localhost:1" })],
    ["cdn.3: must be an https:// URL", (file) => ({ ...file, cdn: { ...file.cdn, "3": "localhost" } })],
    ["cdn.2: is missing", (file) => ({ ...file, cdn: { "0": file.cdn[0], "3": file.cdn[3] } })],
    ["the whole: ", () => 7],
    ["it is not JSON", () => "{"],
  ];
  test.each(cases)("that cannot be says where: %s", async (why, change) => {
    const path = write(change(await serviceFileFor(4343)));
    const fault = await faultOf(loadService(path, systemClock));
    expect(fault.code).toBe("config");
    expect(fault.message).toStartWith(`Cannot use the Signal service file ${path}: ${why}`);
  });

  test("that is not there says so", async () => {
    const fault = await faultOf(loadService(join(folder, "missing.json"), systemClock));
    expect(fault).toMatchObject({ code: "config" });
    expect(fault.message).toEndWith("missing.json: it cannot be read");
  });
});

describe("the host that refuses", () => {
  const cases = [
    [{ status: 403 }, ErrorCode.DeviceDelinked],
    [{ status: 499 }, ErrorCode.AppExpired],
    [{ status: 429, retryAfterSeconds: 7 }, ErrorCode.RateLimitedError],
    [{ status: 503 }, ErrorCode.IoError],
  ] as const;
  test.each(cases)("is understood by libsignal: %j", async (answer, code) => {
    const host = await startRefusingHost(answer);
    try {
      const service = await loadService(write(await serviceFileFor(host.port)), systemClock);
      const net = new Net(service.netOptions("test/1"));
      const ignore = () => undefined;
      const listener = { onIncomingMessage: ignore, onQueueEmpty: ignore, onConnectionInterrupted: ignore };
      const fault: unknown = await net
        .connectAuthenticatedChat("00000000-0000-4000-8000-000000000001.2", "password", false, listener)
        .catch((e: unknown) => e);
      expect(fault).toMatchObject({ code });
      if (answer.status === 429) expect(fault).toMatchObject({ retryAfterSecs: 7 });
      await host.waitForAttempts(1);
      expect(host.attempts()).toBeGreaterThan(0);
    } finally {
      await host.stop();
    }
  });
});

describe("HTTPS to its hosts", () => {
  let server: Server;
  let base: string;
  let service: Service;
  let expire: () => void = () => undefined;
  /** Called when half an answer is out, and the rest never follows. */
  let stall: () => void = () => undefined;
  /** Time stands still until the test lets the deadline pass. */
  const clock: Clock = {
    ...systemClock,
    sleep: (_, signal) =>
      new Promise((resolve) => {
        expire = resolve;
        signal?.addEventListener("abort", () => resolve(), { once: true });
      }),
  };
  const never = new AbortController().signal;
  const get = (path: string, more: { bytesMax?: number; signal?: AbortSignal } = {}) =>
    service.fetch({ method: "GET", url: base + path, bytesMax: 1000, timeoutMs: 5000, signal: never, ...more });

  beforeAll(async () => {
    server = createServer(mockCertificate(), (incoming, outgoing) => {
      const route = `${incoming.method} ${incoming.url}`;
      if (route === "GET /bytes") outgoing.writeHead(200, { "X-Two": ["a", "b"] }).end("x".repeat(1000));
      else if (route === "GET /away") outgoing.writeHead(302, { location: "/bytes" }).end();
      else if (route === "GET /broken")
        outgoing.writeHead(200, { "content-length": "500" }).write("half", () => outgoing.destroy());
      else if (route === "PUT /echo") {
        const parts: Buffer[] = [];
        incoming.on("data", (part: Buffer) => parts.push(part));
        incoming.on("end", () =>
          outgoing.writeHead(201).end(Buffer.concat([Buffer.from(`${incoming.headers["x-mine"]} `), ...parts])),
        );
      } else if (route === "GET /stalled") outgoing.writeHead(200).write("half", () => stall());
      else if (route === "GET /silent") outgoing.socket?.once("close", () => outgoing.end());
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    base = `https://localhost:${address.port}`;
    service = await loadService(write(await serviceFileFor(address.port)), clock);
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });

  test("brings status, headers and body, and sends those of the request", async () => {
    const answer = await get("/bytes");
    expect(answer.status).toBe(200);
    expect(answer.headers.get("x-two")).toBe("a, b");
    expect(Buffer.from(answer.body).toString()).toBe("x".repeat(1000));
    const body = new TextEncoder().encode("ünï");
    const put = {
      method: "PUT",
      url: `${base}/echo`,
      headers: { "x-mine": "yes" },
      body,
      bytesMax: 99,
      timeoutMs: 5000,
    } as const;
    const echo = await service.fetch(put);
    expect(`${echo.status} ${Buffer.from(echo.body).toString()}`).toBe("201 yes ünï");
  });

  test("does not follow a redirect", async () => {
    expect((await get("/away")).status).toBe(302);
  });

  test("stops at the limit of bytes", async () => {
    const fault = await faultOf(get("/bytes", { bytesMax: 999 }));
    expect(fault.message).toBe(`Cannot GET ${new URL(base).host} as the answer is larger than 999 bytes`);
    expect(fault.code).toBe("signal_protocol");
  });

  test("takes half an answer for none", async () => {
    expect((await faultOf(get("/broken"))).code).toBe("signal_unreachable");
  });

  test("gives up at the deadline", async () => {
    const answer = faultOf(get("/silent"));
    expire();
    expect(await answer).toMatchObject({ code: "signal_timeout" });
  });

  test("gives up at the deadline, or when it is cancelled, also in the middle of an answer", async () => {
    for (const code of ["signal_timeout", "signal_unreachable"]) {
      const abort = new AbortController();
      const stalled = new Promise<void>((resolve) => (stall = resolve));
      const answer = faultOf(get("/stalled", { signal: abort.signal }));
      await stalled;
      for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
      if (code === "signal_timeout") expire();
      else abort.abort();
      expect(await answer).toMatchObject({ code });
    }
  });

  test("ends when it is cancelled, before or meanwhile", async () => {
    expect((await faultOf(get("/silent", { signal: AbortSignal.abort() }))).message).toEndWith("it was cancelled");
    const abort = new AbortController();
    const answer = faultOf(get("/silent", { signal: abort.signal }));
    abort.abort();
    expect(await answer).toMatchObject({ code: "signal_unreachable" });
  });

  test("a port without a listener is unreachable", async () => {
    const free = createServer();
    await new Promise<void>((resolve) => free.listen(0, "127.0.0.1", resolve));
    const address = free.address();
    await new Promise((resolve) => free.close(resolve));
    if (address === null || typeof address === "string") throw new Error("no port");
    const url = `https://localhost:${address.port}/`;
    const fault = await faultOf(service.fetch({ method: "GET", url, bytesMax: 9, timeoutMs: 5000 }));
    expect(fault.code).toBe("signal_unreachable");
  });

  test("a host whose certificate comes from another root is refused", async () => {
    const { port } = new URL(base);
    const others = { ...(await serviceFileFor(Number(port))), tlsRoots: production.tlsRoots };
    const stranger = await loadService(write(others), clock);
    const fault = await faultOf(
      stranger.fetch({ method: "GET", url: `${base}/bytes`, bytesMax: 1000, timeoutMs: 5000 }),
    );
    expect(fault.code).toBe("signal_unreachable");
    expect(fault.message).toContain("this network opens TLS");
    expect(fault.hint).toContain("Signal does not allow that");
  });

  test("works the same under Deno, and refuses the same", async () => {
    const { port } = new URL(base);
    const file = await serviceFileFor(Number(port));
    const root = join(import.meta.dir, "../..");
    const script = `
      import { systemClock } from "./src/clock.ts";
      import { loadService } from "./src/signal/native/signal-service.ts";
      const what = { method: "GET", url: ${JSON.stringify(`${base}/bytes`)}, bytesMax: 1000, timeoutMs: 5000 };
      for (const path of ${JSON.stringify([write(file), write({ ...file, tlsRoots: production.tlsRoots })])}) {
        const service = await loadService(path, systemClock);
        console.log(await service.fetch(what).then((a) => a.status + " " + a.body.length, (e) => e.code));
      }`;
    const deno = Bun.spawn([join(root, "node_modules/.bin/deno"), "run", "-A", "-"], {
      cwd: root,
      stdin: new Blob([script]),
      stdout: "pipe",
      stderr: "pipe",
    });
    const [out, err] = await Promise.all([new Response(deno.stdout).text(), new Response(deno.stderr).text()]);
    expect(`${out}${err}`).toBe("200 1000\nsignal_unreachable\n");
  });
});
