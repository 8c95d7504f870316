import { describe, expect, spyOn, test } from "bun:test";
import { connect } from "node:net";
import { BridgeError } from "../../src/core/errors.ts";
import { createApp, type AppDeps } from "../../src/status/app.ts";
import { listen } from "../../src/status/listen.ts";
import { playedDaemon, token } from "../doubles/status-server.ts";
import { judgeStatus } from "../../src/status/verdict.ts";
import { connected, disconnected, nowAt } from "./example.ts";

function make(over: Partial<AppDeps> = {}) {
  const done: unknown[] = [];
  const app = createApp({ ...playedDaemon(done), ...over });
  const post = (path: string, body: unknown, headers: Record<string, string> = { authorization: `Bearer ${token}` }) =>
    app.request(path, { method: "POST", body: JSON.stringify(body), headers });
  return { app, done, post };
}
const get = (app: ReturnType<typeof make>["app"], path: string, headers: Record<string, string> = {}) =>
  app.request(path, { headers });

describe("GET /health and /ready", () => {
  test("health follows the process's work, ready the state", async () => {
    const good = make().app;
    expect((await get(good, "/health")).status).toBe(200);
    expect((await get(good, "/ready")).status).toBe(200);
    const bad = make({ health: () => "a loop has failed", isReady: () => false, status: () => disconnected }).app;
    const health = await get(bad, "/health");
    expect([health.status, await health.text()]).toEqual([503, "a loop has failed\n"]);
    const ready = await get(bad, "/ready");
    expect([ready.status, await ready.text()]).toEqual([503, "DISCONNECTED\n"]);
  });
});

describe("GET /status", () => {
  test("is the snapshot as JSON, never cached", async () => {
    const answer = await get(make().app, "/status", { accept: "*/*" });
    expect(answer.headers.get("content-type")).toStartWith("application/json");
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(await answer.json()).toEqual(connected);
  });

  test("is a page for a browser, with everything escaped and nothing from elsewhere", async () => {
    const { app } = make({ status: () => disconnected });
    const answer = await get(app, "/status", { accept: "text/html,application/xhtml+xml,*/*;q=0.8" });
    const page = await answer.text();
    expect(answer.headers.get("content-type")).toStartWith("text/html");
    expect(answer.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(answer.headers.get("content-security-policy")).not.toContain("unsafe");
    expect(page).toContain("&lt;script&gt;alert(1)&lt;/script&gt;");
    expect(page).not.toContain("<script>alert");
    expect(page).not.toContain("<img");
    expect(page).not.toMatch(/(?:src|href)="?(?!data:,)(?:https?:)?\/\//);
    expect(page).toContain("next attempt in 30 s");
    // A line that is tried again and again has been lost since it last lived.
    expect(page).toContain("for 9 s;");
    expect(page).toContain("1 h 4 min ago");
    expect(page).toContain("up for 1 d 2 h");
  });

  test("shows a command in a hint as one", async () => {
    const fault = { code: "unlinked", message: "-", hint: "Run `<link>` and scan.", userAction: "relink" } as const;
    const status = { ...disconnected, connection: { ...disconnected.connection, fault } };
    const page = await get(make({ status: () => status }).app, "/status", { accept: "text/html" });
    expect(await page.text()).toContain("Run <code>&lt;link&gt;</code> and scan.");
  });

  test("of a program that prefers JSON stays JSON", async () => {
    const answer = await get(make().app, "/status", { accept: "application/json, text/html" });
    expect(answer.headers.get("content-type")).toStartWith("application/json");
  });
});

test("a line that is tried again and again has been lost since its last proof, or since the start, not since the last try", () => {
  const since = new Date(nowAt).toISOString();
  const lost = (lastProofAt: string | null) =>
    judgeStatus({ ...disconnected, connection: { ...disconnected.connection, since, lastProofAt } }, nowAt).times;
  expect(lost("2026-11-23T11:58:00.000Z")).toStartWith("for 2 min");
  expect(lost(null)).toStartWith("for 1 d 2 h");
});

describe("GET /metrics", () => {
  test("is Prometheus text of the snapshot, and is the same at every scrape", async () => {
    const { app } = make();
    const answer = await get(app, "/metrics");
    const text = await answer.text();
    expect(answer.headers.get("content-type")).toStartWith("text/plain; version=0.0.4");
    expect(text).toContain('signalman_connection_state{state="CONNECTED"} 1');
    expect(text).toContain('signalman_connection_state{state="SYNCING"} 0');
    expect(text).toContain("# TYPE signalman_outbox_sent_total counter");
    expect(text).toContain("signalman_outbox_sent_total 400");
    expect(text).toContain("signalman_inbox_oldest_seconds 4");
    expect(text).toContain("signalman_last_proof_timestamp_seconds 1795435191");
    expect(await (await get(app, "/metrics")).text()).toBe(text);
  });

  test("leaves out what is not known yet", async () => {
    const status = { ...connected, claude: { ...connected.claude, reachable: null } };
    const text = await (await get(make({ status: () => status }).app, "/metrics")).text();
    expect(text).not.toContain("claude_reachable");
  });
});

describe("whom it answers", () => {
  test.each(["localhost:8787", "LOCALHOST", "127.0.0.1:8787", "[::1]:8787", "192.0.2.7:8787"])(
    "the name %p is answered",
    async (host) => {
      expect((await get(make().app, "/status", { host })).status).toBe(200);
    },
  );

  test.each(["evil.test:8787", "localhost.evil.test", "127.0.0.1.evil.test", "a.test@127.0.0.1", "1.evil", ""])(
    "the foreign name %p is refused",
    async (host) => {
      for (const path of ["/status", "/health", "/metrics", "/"])
        expect((await get(make().app, path, { host })).status).toBe(421);
    },
  );

  test("a foreign name in the URL itself is refused as well", async () => {
    expect((await make().app.request("http://evil.test/status")).status).toBe(421);
  });

  test("any name where the owner trusts the network", async () => {
    expect((await get(make({ isAnyHost: true }).app, "/status", { host: "server.lan:8787" })).status).toBe(200);
  });

  test("an unknown path is 404, and the root leads to the status", async () => {
    const { app } = make();
    expect((await get(app, "/config")).status).toBe(404);
    expect((await get(app, "/")).headers.get("location")).toBe("/status");
  });
});

describe("POST /control", () => {
  test("does nothing without the right token", async () => {
    const { post, done } = make();
    for (const headers of [{}, { authorization: "Bearer wrong" }, { authorization: token }, { authorization: "" }])
      expect((await post("/control/reconnect", {}, headers as Record<string, string>)).status).toBe(401);
    expect(done).toEqual([]);
  });

  test("reconnects and sends", async () => {
    const { post, done } = make();
    expect((await post("/control/reconnect", {})).status).toBe(200);
    expect((await post("/control/send", { to: "+15550100001", text: "hello" })).status).toBe(200);
    expect((await post("/control/send", { to: "self", text: "note" })).status).toBe(200);
    expect(done).toEqual([
      "reconnect",
      { chat: { kind: "direct", peer: { aci: null, number: "+15550100001" } }, text: "hello" },
      { chat: { kind: "self" }, text: "note" },
    ]);
  });

  test("refuses what it cannot read", async () => {
    const { post, done } = make();
    for (const body of [{ to: "nobody", text: "x" }, { to: "self", text: "" }, { to: "self" }, null])
      expect((await post("/control/send", body)).status).toBe(400);
    expect((await post("/control/send", { to: "self", text: "x".repeat(300_000) })).status).toBe(400);
    expect(done).toEqual([]);
  });

  const gone = new BridgeError("config", "Cannot archive s1 as there is no such session");

  test("answers a failure with its code, message and hint", async () => {
    const { post } = make();
    const sync = await post("/control/sync", {});
    expect(sync.status).toBe(503);
    expect(await sync.json()).toMatchObject({
      code: "claude_unreachable",
      message: "Cannot ask Claude as the line is down",
    });
    const refused = make({ control: { ...playedDaemon().control, archive: () => Promise.reject(gone) } });
    const archive = await refused.post("/control/archive", { id: "s1" });
    expect(archive.status).toBe(409);
    expect(await archive.json()).toMatchObject({ code: "config" });
  });
});

describe("POST /send", () => {
  const say = (body: string, headers: Record<string, string>, path = "/send") => {
    const { app, done } = make();
    return Promise.resolve(app.request(path, { method: "POST", body, headers })).then((answer) => ({ answer, done }));
  };
  const auth = { authorization: "Bearer a-script's-token" };

  test("a script's text goes to Note to Self, or to whom it names", async () => {
    const plain = await say("The build is done.", auth);
    expect(plain.answer.status).toBe(202);
    expect(plain.done).toEqual([{ chat: { kind: "self" }, text: "The build is done." }]);
    const named = await say("hello", auth, "/send?to=%2B15550100001");
    expect(named.done).toMatchObject([{ chat: { kind: "direct", peer: { number: "+15550100001" } } }]);
    const json = await say(JSON.stringify({ text: "hello", to: "self" }), {
      ...auth,
      "content-type": "application/json",
    });
    expect(json.done).toEqual([{ chat: { kind: "self" }, text: "hello" }]);
    // As curl sends it.
    const form = { ...auth, "content-type": "application/x-www-form-urlencoded" };
    expect((await say('{"stage":"built"}', form)).done).toMatchObject([{ text: '{"stage":"built"}' }]);
  });

  test("nothing goes without its token, and it opens nothing else; what is no message is 400", async () => {
    expect((await say("x", {})).answer.status).toBe(401);
    expect((await say("x", { authorization: `Bearer ${token}` })).answer.status).toBe(401);
    expect((await say("{}", auth, "/control/reconnect")).answer.status).toBe(401);
    expect((await say("  ", auth)).answer.status).toBe(400);
    const { answer } = await say("x", auth, "/send?to=nobody");
    expect([answer.status, await answer.text()]).toEqual([400, expect.stringContaining("goes to self, to a number")]);
    for (const body of ["not json", "null", '{"to":"self"}'])
      expect((await say(body, { ...auth, "content-type": "application/json" })).answer.status).toBe(400);
    const { app } = make({ scriptToken: () => null });
    expect(
      (await app.request("/send", { method: "POST", body: "x", headers: { authorization: "Bearer " } })).status,
    ).toBe(401);
  });
});

describe("listen", () => {
  test("serves on a free port of loopback, and refuses a foreign Host there", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 }, make().app.fetch);
    try {
      expect((await fetch(`${server.url}/health`)).status).toBe(200);
      expect((await fetch(`${server.url}/status`, { headers: { host: "evil.test" } })).status).toBe(421);
    } finally {
      await server.stop();
    }
    expect(fetch(`${server.url}/health`)).rejects.toThrow();
  });

  /** What is answered to these bytes; a connection that is closed without a word answers "". */
  const sayRaw = async (url: string, bytes: string): Promise<string> => {
    const { hostname, port } = new URL(url);
    const answer = Promise.withResolvers<string>();
    let text = "";
    const socket = connect(Number(port), hostname, () => socket.write(bytes));
    socket.on("data", (piece) => {
      text += piece.toString();
      answer.resolve(text);
    });
    socket.on("close", () => answer.resolve(text));
    socket.on("error", () => answer.resolve(text));
    return answer.promise.finally(() => socket.destroy());
  };

  test.each([
    "GET /status HTTP/1.1\r\n\r\n",
    "GET /status HTTP/1.0\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: a b c\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: [::\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: 127.0.0.1@evil.test\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: 127.0.0.1:99999999\r\n\r\n",
    "GET http://evil.test/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET //evil.test HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /%zz%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "POST /control/send HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999999\r\n\r\n",
    "\u0016\u0003\u0001 this is TLS",
    "GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.test\r\n\r\n",
    `POST /send HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n${"10000\r\n".concat("x".repeat(0x10000), "\r\n").repeat(40)}`,
  ])("answers the odd request %j with 4xx, or hangs up", async (bytes) => {
    const server = await listen({ host: "127.0.0.1", port: 0 }, make().app.fetch);
    try {
      expect(await sayRaw(server.url, bytes)).toMatch(/^(HTTP\/1\.[01] 4\d\d .*[^]*)?$/u);
      expect((await fetch(`${server.url}/health`)).status).toBe(200);
    } finally {
      await server.stop();
    }
  });

  test("is no proxy, and says so", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 }, make().app.fetch);
    const said = await sayRaw(server.url, "CONNECT evil.test:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    await server.stop();
    expect(said).toStartWith("HTTP/1.1 405 ");
  });

  test("keeps few connections, and closes those that say nothing", async () => {
    const server = await listen({ host: "127.0.0.1", port: 0 }, make().app.fetch);
    const { hostname, port } = new URL(server.url);
    let open = 0;
    const closed = Promise.withResolvers<void>();
    const sockets = Array.from({ length: 300 }, () => {
      open++;
      const socket = connect(Number(port), hostname);
      socket.on("error", () => undefined);
      socket.resume();
      return socket.on("close", () => {
        if (--open === 0) closed.resolve();
      });
    });
    try {
      await closed.promise;
      expect((await fetch(`${server.url}/health`)).status).toBe(200);
    } finally {
      for (const socket of sockets) socket.destroy();
      await server.stop();
    }
  });

  test("a fault while it answers is a 500 without a word of it, and nothing is written", async () => {
    const said = spyOn(console, "error").mockImplementation(() => undefined);
    const app = make({ status: () => JSON.parse("{") as never }).app;
    const answer = await get(app, "/status");
    expect([answer.status, await answer.text()]).toEqual([500, "The status cannot be read: see the log.\n"]);
    expect(said).not.toHaveBeenCalled();
    said.mockRestore();
  });

  test("says that the port is taken", async () => {
    const { app } = make();
    const first = await listen({ host: "127.0.0.1", port: 0 }, app.fetch);
    try {
      const port = Number(new URL(first.url).port);
      const error: unknown = await listen({ host: "127.0.0.1", port }, app.fetch).catch((error: unknown) => error);
      expect(error).toBeInstanceOf(BridgeError);
      expect(error).toMatchObject({
        code: "config",
        message: `Cannot listen on 127.0.0.1:${port} as another program uses this port`,
      });
    } finally {
      await first.stop();
    }
  });
});
