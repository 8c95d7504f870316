/** The way to the API: proxies, and what an answer is packed in. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { createClaudeApi } from "../../src/claude/api.ts";
import { createMessagesLine } from "../../src/claude/messages.ts";
import { createLocal, never } from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble } from "../doubles/claude.ts";
import { createVirtualClock } from "../doubles/clock.ts";

describe("the way to the API", () => {
  const clock = createVirtualClock();
  let proxy: Server;
  let proxyUrl: string;
  let seen: string[];
  let double: ClaudeDouble;
  let variable: string | undefined;
  beforeEach(async () => {
    seen = [];
    variable = process.env["HTTP_PROXY"];
    double = await startClaudeDouble({ clock });
    proxy = createServer((request, response) => {
      seen.push(request.url ?? "");
      response.writeHead(200, { "content-type": "application/json" }).end('{"data":[],"has_more":false}');
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    proxyUrl = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  });
  afterEach(async () => {
    if (variable === undefined) delete process.env["HTTP_PROXY"];
    else process.env["HTTP_PROXY"] = variable;
    proxy.closeAllConnections();
    proxy.close();
    await double.close();
  });
  const modelsAt = (baseUrl: string, proxy: string | null) =>
    createClaudeApi({ apiKey: double.apiKey, baseUrl, clock, proxy }).models(never);

  test("never through a proxy to this machine, wherever it is named", async () => {
    process.env["HTTP_PROXY"] = proxyUrl;
    for (const url of [double.url, double.url.replace("127.0.0.1", "localhost")])
      expect((await modelsAt(url, proxyUrl)).length).toBeGreaterThan(0);
    expect(seen).toEqual([]);
  });

  test("through the proxy of the settings, else through that of the environment", async () => {
    expect(await modelsAt("http://claude.invalid", proxyUrl)).toEqual([]);
    process.env["HTTP_PROXY"] = proxyUrl;
    expect(await modelsAt("http://claude.invalid", null)).toEqual([]);
    expect(seen).toEqual(Array(2).fill("http://claude.invalid/v1/models?limit=100"));
  });

  test("reads a stream that is packed", async () => {
    const frames = [
      { type: "message_start", message: {} },
      { type: "content_block_start", index: 0, content_block: { type: "text", text: "unpacked" } },
      { type: "message_delta", delta: { stop_reason: "end_turn" } },
    ];
    const packed = gzipSync(frames.map((frame) => `data: ${JSON.stringify(frame)}\n\n`).join(""));
    const server = createServer((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream", "content-encoding": "gzip" }).end(packed);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const api = { ...createClaudeApi({ apiKey: "k", baseUrl, clock }), model: () => Promise.resolve(null) };
    const local = createLocal({ line: createMessagesLine({ api, clock, newId: () => "id", hasWebSearch: false }) });
    await local.ask("hello");
    expect(local.replies()).toEqual(["unpacked"]);
    server.closeAllConnections();
    server.close();
  });
});
