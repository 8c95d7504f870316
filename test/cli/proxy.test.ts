/** Which way Signal and Claude are asked. */
import { afterEach, expect, test } from "bun:test";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createClaudeApi } from "../../src/claude/api.ts";
import { signalProxy } from "../../src/cli/adapters.ts";
import { systemClock } from "../../src/clock.ts";

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
