/** The adapter, and the double beside it, against the real `signal-cli daemon`: all that can be asked of it without an account. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { systemClock } from "../../../src/clock.ts";
import { createSignalCli } from "../../../src/signal/daemon/signal-cli.ts";
import { examineVersion, signalCliVersionMin } from "../../../src/signal/daemon/releases.ts";
import { codeOf } from "../../contract/transport.ts";
import { isSignalCliThere, startRealSignalCli } from "../../doubles/java.ts";
import { quietLog } from "../../doubles/quiet-log.ts";
import { startSignalCliDouble, type SignalCliDouble } from "../../doubles/signal-cli.ts";
import { me } from "../../doubles/wire.ts";

const never = new AbortController().signal;

describe.skipIf(!isSignalCliThere)("the real signal-cli", () => {
  let real: Awaited<ReturnType<typeof startRealSignalCli>>;
  let double: SignalCliDouble;
  beforeAll(async () => {
    [real, double] = await Promise.all([
      startRealSignalCli(),
      startSignalCliDouble({ accounts: [], version: signalCliVersionMin }),
    ]);
  }, 60_000);
  afterAll(() => Promise.all([real.stop(), double.stop()]));

  const transport = (account: string | null) =>
    createSignalCli({ baseUrl: real.url, account, clock: systemClock, log: quietLog });

  test("the oldest release that is allowed is the one that is tested", async () => {
    const { text, warning } = await examineVersion("signal-cli", { baseUrl: real.url, clock: systemClock }, never);
    expect(text).toBe(`signal-cli ${signalCliVersionMin}`);
    expect(warning).toContain("mentions");
  });

  test("without an account it has to be linked; an account that it does not have is refused", async () => {
    expect(await codeOf(transport(null).connect(never))).toBe("not_linked");
    expect(await codeOf(transport(me.number).connect(never))).toBe("rejected");
  });

  /** What comes back, as far as the contract goes: the texts of Java and of Jackson are not part of it. */
  async function answer(url: string, init: RequestInit, path: string) {
    const response = await fetch(url + path, { method: "POST", ...init });
    const text = await response.text();
    if (!response.headers.get("content-type")?.startsWith("application/json")) return { status: response.status };
    const shape = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(shape);
      const { id, result, error } = value as { id: unknown; result?: unknown; error?: { code: number; data: unknown } };
      return error ? { id, code: error.code, data: error.data } : { id, result };
    };
    return { status: response.status, body: shape(JSON.parse(text)) };
  }
  const json = (body: unknown): RequestInit => ({
    headers: { "Content-Type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  const call = (method: string, params?: unknown, more: object = {}): RequestInit =>
    json({ jsonrpc: "2.0", method, ...(params === undefined ? {} : { params }), id: "1", ...more });

  const requests: readonly (readonly [name: string, init: RequestInit, path?: string])[] = [
    ["its version", call("version")],
    ["an id that is a number", call("version", {}, { id: 7 })],
    ["an id that is null", call("version", {}, { id: null })],
    ["an id that is an object", call("version", {}, { id: {} })],
    ["no id", json({ jsonrpc: "2.0", method: "version" })],
    ["no accounts", call("listAccounts", {})],
    ["an unknown method", call("nonsense", {})],
    ["a method of lines only", call("subscribeReceive", {})],
    ["a call without an account", call("send", { message: "x", noteToSelf: true })],
    ["a call for an account that it does not have", call("send", { account: me.number, message: "x" })],
    ["a poll without an account", call("receive", { timeout: 1, maxMessages: 1 })],
    ["a stray field", call("version", {}, { stray: 1 })],
    ["another version of JSON-RPC", call("version", {}, { jsonrpc: "1.0" })],
    ["no method", json({ jsonrpc: "2.0", id: "1" })],
    ["a list for params", call("version", [])],
    ["a text for params", call("version", "x")],
    ["a response", json({ jsonrpc: "2.0", id: "1", result: {} })],
    ["no JSON", json("{nonsense")],
    ["nothing", json("")],
    ["a bare text", json('"text"')],
    ["an empty batch", json([])],
    [
      "a batch",
      json([
        { jsonrpc: "2.0", method: "version", id: "a" },
        { jsonrpc: "2.0", method: "version" },
      ]),
    ],
    ["a batch of notifications", json([{ jsonrpc: "2.0", method: "version" }])],
    ["no content type", { body: "{}", headers: { "Content-Type": "" } }],
    ["a wrong content type", { body: "{}", headers: { "Content-Type": "text/plain" } }],
    ["a wrong verb", { method: "GET" }],
    ["a slash too many", call("version"), "/api/v1/rpc/"],
    ["the check", { method: "GET" }, "/api/v1/check"],
    ["the check with a wrong verb", {}, "/api/v1/check"],
  ];
  test.each(requests.map(([name, init, path = "/api/v1/rpc"]) => [name, init, path] as const))(
    "%s: the double answers like it",
    async (_, init, path) => {
      expect(await answer(double.url, init, path)).toEqual(await answer(real.url, init, path));
    },
  );

  test("killed, it is a line that is down", async () => {
    const mortal = await startRealSignalCli();
    const adapter = createSignalCli({ baseUrl: mortal.url, account: null, clock: systemClock, log: quietLog });
    await mortal.stop("SIGKILL");
    expect(await codeOf(adapter.connect(never))).toBe("signal_unreachable");
  });
});
