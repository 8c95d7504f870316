/** Which way Signal and Claude are asked. */
import { afterEach, expect, test } from "bun:test";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createClaudeApi } from "../../src/claude/api.ts";
import { signalProxy } from "../../src/cli/adapters.ts";
import { createServer as createTlsServer } from "node:https";
import { systemClock } from "../../src/clock.ts";
import { bridgeSocks } from "../../src/socks.ts";
import { mockCertificate } from "../doubles/signal-http2.ts";
import { startSocks } from "../doubles/socks.ts";

let server: Server;
afterEach(() => server?.close());

test.each([
  [null, {}, null],
  [null, { HTTPS_PROXY: "http://p:1" }, "http://p:1"],
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
  const { url, close } = await bridgeSocks(socks.url);
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

test("what a SOCKS proxy refuses is a Claude that cannot be reached", async () => {
  const socks = await startSocks(null);
  const { url, close } = await bridgeSocks(socks.url);
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
