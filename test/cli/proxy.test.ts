/** Which way Signal and Claude are asked. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { createClaudeApi } from "../../src/claude/api.ts";
import { signalProxy } from "../../src/cli/adapters.ts";
import { createServer as createTlsServer } from "node:https";
import { systemClock } from "../../src/clock.ts";
import * as v from "valibot";
import { settings, signalTlsPlace } from "../../src/settings.ts";
import { openTunnel } from "../../src/tunnel.ts";
import { mockCertificate } from "../doubles/signal-http2.ts";
import { startSocks } from "../doubles/socks.ts";
import { startTlsProxy } from "../doubles/tls-proxy.ts";

let server: Server;
afterEach(() => server?.close());

test.each([
  [null, {}, null],
  [null, { HTTPS_PROXY: "http://p:1" }, "http://p:1"],
  [null, { HTTPS_PROXY: "" }, null],
  [null, { HTTPS_PROXY: "", https_proxy: "p.example:1" }, "http://p.example:1"],
  [null, { https_proxy: "http://p:1", NO_PROXY: "example.org,localhost" }, "http://p:1"],
  [null, { HTTPS_PROXY: "http://p:1", NO_PROXY: "localhost, .signal.org" }, null],
  [null, { HTTPS_PROXY: "http://p:1", no_proxy: "*" }, null],
  ["http://own:1", { HTTPS_PROXY: "http://p:1", NO_PROXY: "*" }, "http://own:1"],
])("Signal's proxy of setting %p and environment %p is %p", (given, env, expected) => {
  expect(signalProxy(given, env)).toBe(expected);
});

test("Claude is asked through the proxy of the settings", async () => {
  const asked: string[] = [];
  server = createServer(({ url }, response) => {
    asked.push(url ?? "");
    response.writeHead(503).end();
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const proxy = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const api = createClaudeApi({ apiKey: "k", baseUrl: "http://claude.invalid", proxy, clock: systemClock });
  const failure = await api.models(new AbortController().signal).then(
    () => null,
    (error: unknown) => error,
  );
  expect(failure).toMatchObject({ code: expect.stringContaining("claude_") });
  expect(asked[0]).toStartWith("http://claude.invalid/");
});

test.each([null, "us:er"])("a SOCKS proxy with the login %p leads to a host by its name", async (login) => {
  const host = createTlsServer(mockCertificate(), (_, response) => response.end("here"));
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  const socks = await startSocks((host.address() as AddressInfo).port, login);
  const { url, close } = await openTunnel(socks.url);
  try {
    const ask = (proxy: string): Promise<Response> =>
      fetch("https://claude.invalid/v1/models", { proxy, tls: { rejectUnauthorized: false } } as RequestInit);
    expect(await (await ask(url)).text()).toBe("here");
    expect(socks.asked).toEqual(["claude.invalid:443"]);
    // Another user of this machine finds the port, and does not get through.
    expect(await ask(url.replace(/\/\/.*@/u, "//")).then(({ status }) => status, String)).not.toBe(200);
    expect(socks.asked).toHaveLength(1);
  } finally {
    await close();
    socks.close();
    host.close();
  }
});

test("a SOCKS proxy of the environment is taken, too", async () => {
  const socks = await startSocks(null);
  const home = mkdtempSync(join(tmpdir(), "signalman-proxy-"));
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "../../src/main.ts"), "doctor", "--json"], {
    env: {
      PATH: process.env["PATH"] ?? "",
      HTTPS_PROXY: socks.url,
      SIGNALMAN_HOME: home,
      SIGNALMAN_LISTEN: "off",
      ANTHROPIC_API_KEY: "none",
    },
    stdout: "pipe",
    stderr: "ignore",
  });
  try {
    const findings = JSON.parse(await new Response(child.stdout).text()) as { check: string; message: string }[];
    expect(new Set(socks.asked)).toEqual(new Set(["api.anthropic.com:443"]));
    expect(findings.find(({ check }) => check === "signal")?.message).toContain("no account is linked");
  } finally {
    socks.close();
    rmSync(home, { recursive: true, force: true });
  }
});

test("what a SOCKS proxy refuses is a Claude that cannot be reached", async () => {
  const socks = await startSocks(null);
  const { url, close } = await openTunnel(socks.url);
  try {
    const api = createClaudeApi({ apiKey: "k", baseUrl: null, proxy: Promise.resolve(url), clock: systemClock });
    const failure = await api.models(new AbortController().signal).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: "claude_unreachable" });
    expect(new Set(socks.asked)).toEqual(new Set(["api.anthropic.com:443"]));
  } finally {
    await close();
    socks.close();
  }
});

test.each([
  ["https://signal.tube/#proxy.example", "proxy.example"],
  ["sgnl://signal.tube/#proxy.example:8443", "proxy.example:8443"],
  ["https://signal.tube/", null],
  ["https://signal.tube/#", null],
  ["https://signal.tube/#a b", null],
  ["https://proxy.example/#signal.tube", null],
])("the link %s names the Signal TLS proxy %p", (url, place) => {
  expect(signalTlsPlace(url)).toBe(place);
  // What looks like such a link and is none is no HTTP proxy at signal.tube.
  expect(v.is(settings.proxy.schema, url)).toBe(place !== null || !url.includes("//signal.tube"));
});

test("a Signal TLS proxy leads to Signal's hosts, and to no other; one that is not trusted gets nothing", async () => {
  const host = createTlsServer(mockCertificate(), (_, response) => response.end("here"));
  await new Promise<void>((resolve) => host.listen(0, "127.0.0.1", resolve));
  const proxy = await startTlsProxy(() => (host.address() as AddressInfo).port);
  const { url, close } = await openTunnel(proxy.url);
  const ask = (name: string): Promise<string> =>
    fetch(`https://${name}/v2/groups`, { proxy: url, tls: { rejectUnauthorized: false } } as RequestInit).then(
      async (response) => (response.ok ? response.text() : String(response.status)),
      () => "no",
    );
  const trusted = getCACertificates("default");
  try {
    expect(await ask("storage.signal.org")).not.toBe("here");
    expect(proxy.asked).toEqual([]);
    setDefaultCACertificates([...trusted, mockCertificate().cert.toString()]);
    expect(await ask("storage.signal.org")).toBe("here");
    expect(await ask("claude.invalid")).not.toBe("here");
    expect(new Set(proxy.asked)).toEqual(new Set(["storage.signal.org", "claude.invalid"]));
  } finally {
    setDefaultCACertificates(trusted);
    await close();
    proxy.close();
    host.close();
  }
});
