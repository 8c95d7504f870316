/** Proxies, networks that open TLS, and numbers whose accounts are not known. */
import { LibSignalErrorBase } from "@signalapp/libsignal-client";
import { Net } from "@signalapp/libsignal-client/dist/net.js";
import { afterEach, expect, test } from "bun:test";
import { createServer, type Server as HttpServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { systemClock, systemRandom } from "../../src/clock.ts";
import type { NativeContext } from "../../src/signal/native/context.ts";
import { findAci } from "../../src/signal/native/account.ts";
import { toBridgeError } from "../../src/signal/native/connect.ts";
import { loadService } from "../../src/signal/native/signal-service.ts";
import { createNative } from "../../src/signal/native/linked-device.ts";
import { lookUpNumbers } from "../../src/signal/native/upkeep.ts";
import { mockCertificate } from "../doubles/signal-http2.ts";
import { startSignalMock } from "../doubles/signal-mock.ts";
import { openTunnel } from "../../src/tunnel.ts";
import { startTlsProxy } from "../doubles/tls-proxy.ts";
import { failureOf, never, openNativeDatabase, recordLog, serviceOf, startRig } from "./mock.ts";

const closing: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

/** An HTTP proxy that leads every CONNECT to `target`, or refuses it. */
async function startHttpProxy(target: number | null) {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const server: HttpServer = createServer((_, response) => response.writeHead(400).end());
  server.on("connect", ({ url, headers }, near: Socket) => {
    asked.push(`${url} ${headers["proxy-authorization"] ?? ""}`.trim());
    near.on("error", () => undefined);
    sockets.add(near);
    if (target === null) return void near.end("HTTP/1.1 403 Forbidden\r\n\r\n");
    const far = connect(target, "127.0.0.1", () => near.write("HTTP/1.1 200 OK\r\n\r\n"));
    far.on("error", () => near.destroy());
    far.pipe(near).pipe(far);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { url: `http://us:er@127.0.0.1:${(server.address() as AddressInfo).port}`, asked };
}

async function startTlsHost(): Promise<number> {
  const server = createTlsServer(mockCertificate(), (_, response) => response.end("ok"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  closing.push(() => void server.close());
  return (server.address() as AddressInfo).port;
}

const get = (url: string) => ({ method: "GET", url, bytesMax: 1000, timeoutMs: 10_000 }) as const;

test("files and storage go through the proxy, with its login", async () => {
  // What answers behind the proxy is no host of Signal's, and is told as what it is: a network that opens TLS.
  const proxy = await startHttpProxy(await startTlsHost());
  const service = await loadService("production", systemClock, proxy.url);
  expect(await failureOf(service.fetch(get(`${service.storageUrl}/v1/storage/manifest`)))).toMatchObject({
    code: "signal_unreachable",
    message: "Cannot GET storage.signal.org as this network opens TLS",
    hint: expect.stringContaining("This network opens TLS; Signal does not allow that"),
  });
  expect(proxy.asked).toEqual([`storage.signal.org:443 Basic ${btoa("us:er")}`]);
});

test("the chat goes through the proxy, too", async () => {
  // Connecting itself would leave this machine: libsignal tries the proxy first, then the way without.
  const { setProxyFromUrl } = Net.prototype;
  const given: string[] = [];
  Net.prototype.setProxyFromUrl = (url) => void given.push(url);
  closing.push(() => void (Net.prototype.setProxyFromUrl = setProxyFromUrl));
  const database = await openNativeDatabase();
  closing.push(() => database.close());
  const deps = { database, clock: systemClock, random: systemRandom, log: recordLog().log, userAgent: "signalman/0" };
  for (const proxy of ["http://localhost:1", null])
    createNative({
      ...deps,
      service: await loadService("production", systemClock, proxy),
      isAllowed: () => true,
      allowedNumbers: [],
    });
  expect(given).toEqual(["http://localhost:1"]);
});

test("a chat host whose certificate is not Signal's is told as what it is", () => {
  const fault = toBridgeError(
    "Cannot connect to Signal",
    new LibSignalErrorBase("X509 code 19: cert_chain: [uzra]", "PossibleCaptiveNetwork", "connect"),
  );
  expect(fault).toMatchObject({
    code: "signal_unreachable",
    message: "Cannot connect to Signal: this network opens TLS",
  });
  expect(fault.hint).toContain("Signal does not allow that");
});

test("a service on loopback is reached directly, whatever the proxy", async () => {
  const mock = await startSignalMock();
  closing.push(() => mock.stop());
  const proxy = await startHttpProxy(null);
  const { HTTPS_PROXY: before } = process.env;
  process.env["HTTPS_PROXY"] = proxy.url;
  closing.push(() =>
    before === undefined ? void delete process.env["HTTPS_PROXY"] : void (process.env["HTTPS_PROXY"] = before),
  );
  const service = await serviceOf(mock, proxy.url);
  expect(service.proxy).toBeNull();
  await service.fetch(get(`${service.cdnUrl(3)}/attachments/none`));
  expect(proxy.asked).toEqual([]);
});

test("the chat goes through a Signal TLS proxy, out and in", async () => {
  const trusted = getCACertificates("default");
  setDefaultCACertificates([...trusted, mockCertificate().cert.toString()]);
  closing.push(() => setDefaultCACertificates(trusted));
  let port = 0;
  const proxy = await startTlsProxy(
    () => port,
    (name) => name === "localhost",
  );
  closing.push(() => proxy.close());
  const tunnel = await openTunnel(proxy.url);
  closing.push(() => tunnel.close());
  const rig = await startRig({
    change(service) {
      port = Number(new URL(service.storageUrl).port);
      return { ...service, proxy: tunnel.url };
    },
  });
  closing.push(() => rig.stop());
  expect((await rig.receive(rig.contact.sendText(rig.device, "in"))).content).toMatchObject({ text: "in" });
  await rig.send(rig.direct, "out");
  expect((await rig.contact.waitForMessage()).body).toBe("out");
  // Provisioning, the linking itself, and the lines after it.
  expect(proxy.asked.length).toBeGreaterThanOrEqual(4);
  expect(new Set(proxy.asked)).toEqual(new Set(["localhost"]));
});

test("a proxy that is none is refused at once", async () => {
  for (const url of ["socks5://localhost:1080", "localhost:8080", "x"])
    expect(await failureOf(loadService("production", systemClock, url))).toMatchObject({ code: "config" });
});

test("numbers of the allow list that are not known are looked up, once a day, and an hour later where that failed", async () => {
  const database = await openNativeDatabase();
  closing.push(() => database.close());
  const [known, hidden] = ["+12025550101", "+12025550102"];
  const aci = "0b8ca4a5-1a35-4bb2-9a6e-7d3c4f5a6b7c";
  const asked: unknown[] = [];
  let nowMs = 0;
  let isDown = false;
  const context = {
    database,
    allowedNumbers: [known, hidden],
    clock: { ...systemClock, monotonic: () => nowMs },
    log: recordLog().log,
    closing: () => never,
    last: { lookedUpAt: -Infinity },
    line: () => ({
      request: async () => ({ status: 200, json: { username: "u", password: "p" }, retryAfterMs: null }),
    }),
    net: {
      cdsiLookup: async (login: unknown, { e164s }: { e164s: string[] }) => {
        if (isDown) throw new LibSignalErrorBase("no line", "IoError", "cdsiLookup");
        asked.push([login, e164s]);
        return {
          entries: new Map([
            [known, { aci, pni: undefined }],
            [hidden, { aci: undefined, pni: undefined }],
          ]),
          debugPermitsUsed: 1,
        };
      },
    },
  } as unknown as NativeContext;
  await lookUpNumbers(context);
  await lookUpNumbers(context);
  expect(asked).toEqual([[{ username: "u", password: "p" }, [known, hidden]]]);
  expect(findAci(database, { aci: null, number: known ?? null })).toBe(aci);
  nowMs = 24 * 3_600_000;
  isDown = true;
  expect(await failureOf(lookUpNumbers(context))).toMatchObject({ code: "signal_unreachable" });
  isDown = false;
  // Where it failed, not before an hour has passed.
  await lookUpNumbers(context);
  expect(asked).toHaveLength(1);
  nowMs += 3_600_000;
  await lookUpNumbers(context);
  expect(asked[1]).toEqual([{ username: "u", password: "p" }, [hidden]]);
});
