import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createClaudeApi } from "../../src/claude/api.ts";
import type { Backend } from "../../src/claude/backend.ts";
import { createSessionsBackend, type SessionsDeps } from "../../src/claude/sessions.ts";
import type { Log } from "../../src/log.ts";
import { codeOf, createGate, createLocal, settled, whileTimePasses } from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble, type Fault } from "../doubles/claude.ts";
import { createFakeClock, type FakeClock } from "../doubles/fake-clock.ts";

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };
const never = new AbortController().signal;

describe("sessions", () => {
  let clock: FakeClock;
  let double: ClaudeDouble;
  let memory: Map<string, string>;
  const start = (change: Partial<SessionsDeps> = {}): Backend =>
    createSessionsBackend({
      api: createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock }),
      clock,
      model: "claude-sonnet-5-5",
      system: "You answer in a Signal chat.",
      toolPolicy: "ask",
      memory: { get: (key) => memory.get(key) ?? null, set: (key, value) => void memory.set(key, value) },
      random: () => 0.5,
      log: silent,
      ...change,
    });
  const ask = async (backend: Backend, text = "hello"): Promise<string> => {
    const local = createLocal({ backend, clock });
    const outcome = await local.ask(text);
    expect(outcome.fault).toBeNull();
    return local.remoteId();
  };
  const count = (method: string, path: RegExp): number =>
    double.requests.filter((request) => request.method === method && path.test(request.path)).length;

  beforeEach(async () => {
    clock = createFakeClock();
    memory = new Map();
    double = await startClaudeDouble({ clock });
  });
  afterEach(() => double.close());

  test("makes environment and agent once, and remembers them across restarts", async () => {
    await ask(start());
    await ask(start());
    expect(count("POST", /^\/v1\/environments$/u)).toBe(1);
    expect(count("POST", /^\/v1\/agents/u)).toBe(1);
    expect(double.engine.sessions.size).toBe(2);
  });

  test("makes them once when many chats begin at the same time", async () => {
    const backend = start();
    await Promise.all(["a", "b", "c"].map((text) => ask(backend, text)));
    expect(count("POST", /^\/v1\/(environments|agents)$/u)).toBe(2);
  });

  test("takes the environment that has its name already", async () => {
    await ask(start());
    memory.clear();
    await ask(start());
    expect(double.environments.size).toBe(1);
    expect(double.agents.size).toBe(2);
  });

  test("takes a longer name where an archived environment has the name", async () => {
    double.environments.set("env_old", { id: "env_old", name: "signalman", archived_at: "2026-11-01T00:00:00Z" });
    const session = double.engine.need(await ask(start()));
    expect(double.environments.get(session.environmentId)?.name).toMatch(/^signalman-\w+$/u);
  });

  test("updates the agent when model, system prompt or tools change", async () => {
    await ask(start());
    const session = double.engine.need(
      await ask(start({ model: "claude-opus-5-5", system: "Be brief.", toolPolicy: "off" })),
    );
    expect([...double.agents.values()]).toMatchObject([{ version: 2, body: { model: "claude-opus-5-5", tools: [] } }]);
    // The chat still wants what it wanted: a session differs from its agent by overrides.
    expect(session).toMatchObject({ model: "claude-sonnet-5-5", system: "You answer in a Signal chat." });
  });

  test("asks a person before anything runs or writes, and lets reading pass", async () => {
    await ask(start());
    expect([...double.agents.values()][0]?.body["tools"]).toMatchObject([
      {
        default_config: { permission_policy: { type: "always_ask" } },
        configs: ["read", "glob", "grep", "web_search"].map((name) => ({
          name,
          permission_policy: { type: "always_allow" },
        })),
      },
    ]);
  });

  test("mends an agent or environment that is gone, once", async () => {
    const breaks = [
      () => double.agents.clear(),
      () => double.environments.clear(),
      () => double.agents.forEach((agent) => (agent.archived_at = "2026-11-23T00:00:00Z")),
      () => double.environments.forEach((environment) => (environment.archived_at = "2026-11-23T00:00:00Z")),
    ];
    const backend = start();
    await ask(backend);
    for (const [index, breakIt] of breaks.entries()) {
      breakIt();
      await ask(backend, `after ${index}`);
    }
    expect(double.engine.sessions.size).toBe(5);
  });

  test("says that the model is not there, for the agent and for one chat, and loses no prompt over it", async () => {
    const local = createLocal({ backend: start({ model: "claude-nope" }), clock });
    expect((await local.ask("hello")).fault?.code).toBe("claude_model");
    expect((await local.again()).fault?.code).toBe("claude_model");
    const view = { ...local.view(), model: "claude-neither" };
    const prompt = { text: "hello", files: [], state: { kind: "new" } } as const;
    expect(await codeOf(Array.fromAsync(start().turn(view, prompt, never)))).toBe("claude_model");
  });

  test("creates no session twice within one turn, and says why it failed", async () => {
    const local = createLocal({ backend: start(), clock });
    double.fail(/POST \/v1\/sessions$/u, { kind: "status", status: 403, type: "permission_error" });
    expect((await local.ask("hello")).fault).toMatchObject({
      code: "claude_forbidden",
      hint: expect.stringContaining("SIGNALMAN_BACKEND=messages"),
    });
    expect(count("POST", /^\/v1\/sessions$/u)).toBe(1);
    double.fail(/POST \/v1\/sessions$/u, { kind: "lose" });
    expect((await local.again()).fault?.code).toBe("claude_unreachable");
    expect((await local.again()).fault).toBeNull();
    expect(local.replies()).toEqual(["You said: hello"]);
  });

  test("says that Managed Agents are not to be had", async () => {
    double.fail(/\/v1\/agents$/u, { kind: "status", status: 404, type: "not_found_error" });
    expect(await codeOf(start().check(never))).toBe("claude_forbidden");
    double.fail(/\/v1\/environments$/u, {
      kind: "status",
      status: 400,
      type: "invalid_request_error",
      errorCode: "organization_not_enrolled_in_beta",
    });
    const local = createLocal({ backend: start(), clock });
    expect((await local.ask("hello")).fault?.code).toBe("claude_forbidden");
  });

  test("says that the budget is used up, as an end and then as a refusal", async () => {
    double.setScript(() => [{ say: "that is all" }, { stop: { kind: "budget_reached" } }]);
    const local = createLocal({ backend: start(), clock });
    expect((await local.ask("hello")).progress).toMatchObject({ kind: "ended", stop: { kind: "budget_reached" } });
    expect((await local.ask("more")).fault?.code).toBe("claude_budget");
  });

  test("a prompt that is refused for itself is not a session that is gone", async () => {
    const local = createLocal({ backend: start(), clock });
    await local.ask("hello");
    double.fail(/POST .*\/events$/u, { kind: "status", status: 400, type: "invalid_request_error" });
    const outcome = await local.ask("strange");
    expect(outcome.fault?.code).toBe("claude_request");
    expect(outcome.steps.map(({ kind }) => kind)).not.toContain("gone");
  });

  test("keeps what is sent inside the API's limits", async () => {
    const backend = start();
    const id = await ask(backend);
    const long = "x".repeat(600);
    expect((await backend.remote?.update(id, { title: long, metadata: {} }, never))?.title).toHaveLength(500);
    double.setScript(() => [{ ask: "bash", input: { command: "ls" } }]);
    const local = createLocal({ backend, clock });
    const { progress } = await local.ask("go");
    const toolUseId = progress.kind === "waiting" ? (progress.toolUseIds[0] ?? "") : "";
    await backend.remote?.confirm(local.remoteId(), toolUseId, false, "n".repeat(20_000), never);
    const sent = double.requests.findLast(({ method }) => method === "POST")?.body as {
      events: { deny_message: string }[];
    };
    expect(sent.events[0]?.deny_message).toHaveLength(10_000);
    const pairs = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"]));
    const updating = backend.remote?.update(id, { metadata: pairs }, never);
    expect(await codeOf(updating ?? Promise.resolve())).toBe("claude_request");
  });

  test("finds an uncertain prompt in the queue, wherever a listing puts the queue", async () => {
    await double.close();
    double = await startClaudeDouble({ clock, isQueueLast: true });
    const local = createLocal({ backend: start(), clock });
    for (let turn = 0; turn < 25; turn++) await local.ask(`number ${turn}`);
    const gate = createGate();
    double.setScript((prompt) => [...(prompt === "slow" ? [{ hold: gate.opened }] : []), { say: `re: ${prompt}` }]);
    const session = double.engine.need(local.remoteId());
    double.engine.accept(session, { type: "user.message", content: [{ type: "text", text: "slow" }] });
    await settled(() => session.status === "running");
    double.fail(/POST .*\/events$/u, { kind: "lose" });
    await local.ask("mine");
    const outcome = await local.again((step) => step.kind === "asked" && gate.open());
    expect(outcome.steps.map(({ kind }) => kind)).not.toContain("sending");
    expect(local.replies().slice(-2)).toEqual(["re: slow", "re: mine"]);
  });

  test("an outage at any request of a turn is a fault to wait for, and the prompt is asked once", async () => {
    const steps = [
      /POST \/v1\/environments$/u,
      /POST \/v1\/agents$/u,
      /POST \/v1\/sessions$/u,
      /GET .*\/stream$/u,
      /POST .*\/events$/u,
    ];
    const local = createLocal({ backend: start(), clock });
    const text = "hello";
    double.fail(steps[0] ?? /x/u, { kind: "status", status: 503 });
    expect((await local.ask(text)).fault?.code).toBe("claude_unreachable");
    for (const step of steps.slice(1)) {
      double.fail(step, { kind: "status", status: 503 });
      expect((await local.again()).fault?.code).toBe("claude_unreachable");
    }
    expect((await local.again()).progress.kind).toBe("ended");
    double.fail(/GET .*\/events$/u, { kind: "status", status: 503 });
    expect((await local.ask("more")).fault?.code).toBe("claude_unreachable");
    expect((await local.again()).progress.kind).toBe("ended");
    expect(local.replies()).toEqual(["You said: hello", "You said: more"]);
    expect(double.engine.need(local.remoteId()).log.filter(({ type }) => type === "user.message")).toHaveLength(2);
  });

  test("lists no file before the API does, and none that was mounted; says which faults pass", async () => {
    await double.close();
    double = await startClaudeDouble({ clock, fileLagMs: 3_000 });
    double.setScript(() => [{ make: "a.csv", contentType: "text/csv", bytes: new Uint8Array(3) }, { say: "done" }]);
    const backend = start();
    const id = await ask(backend);
    const session = double.engine.need(id);
    const mounted = { filename: "mounted.csv", mime_type: "text/csv", bytes: new Uint8Array(1) };
    const upload = double.engine.make(session, mounted, false);
    expect(await backend.remote?.files(id, never)).toEqual([]);
    await clock.advance(4_000);
    const [file, ...others] = (await backend.remote?.files(id, never)) ?? [];
    expect(others).toEqual([]);
    expect(file?.name).toBe("a.csv");
    expect(await backend.remote?.download(upload.id, 10, never)).toBeNull();
    const fetching = (): Promise<unknown> => backend.remote?.download(file?.id ?? "", 10, never) ?? Promise.resolve();
    const faults: [Fault, string][] = [
      [{ kind: "status", status: 529, type: "overloaded_error" }, "claude_overloaded"],
      [{ kind: "status", status: 401, type: "authentication_error" }, "claude_key"],
    ];
    for (const [fault, code] of faults) {
      double.fail(/content$/u, fault);
      expect(await codeOf(fetching())).toBe(code);
    }
    double.fail(/content$/u, { kind: "hang" });
    const hanging = codeOf(fetching());
    await double.next(/content$/u);
    expect(await whileTimePasses(clock, hanging)).toBe("claude_unreachable");
    expect(clock.sleepers()).toBe(0);
    expect(await fetching()).toHaveLength(3);
  });

  test("tells its agent where files go, where it may write any", async () => {
    await ask(start());
    await ask(start({ toolPolicy: "off" }));
    const told = double.requests
      .filter(({ method, path }) => method === "POST" && path.startsWith("/v1/agents"))
      .map(({ body }) => (body as { system: string }).system.includes("/mnt/session/outputs/"));
    expect(told).toEqual([true, false]);
  });

  test("an answer of JSON that is not the API's is a fault at every request, and no bug of ours", async () => {
    const headers = { "content-type": "application/json" };
    const lines = [
      /POST .*environments$/u,
      /POST .*agents$/u,
      /POST .*sessions$/u,
      /POST .*events$/u,
      /GET .*events$/u,
    ];
    for (const line of [...lines, /GET .*files$/u, /GET .*sessions$/u, /GET .*models$/u, /GET .*sessions\/\w+$/u])
      for (const body of ["null", "[]", "7", "{}", '{"data":7}', '{"data":[null]}', '{"data":[7,{}],"next_page":7}']) {
        memory.clear();
        const backend = start();
        const local = createLocal({ backend, clock });
        double.fail(line, { kind: "status", status: 200, headers, body });
        // `local` throws what is no BridgeError.
        if ((await local.ask("hello")).fault !== null) await local.again();
        const { remote } = backend;
        await codeOf(remote?.retrieve(local.remoteId(), never) ?? Promise.resolve());
        const reads = [remote?.files(local.remoteId(), never), backend.models(never)];
        for (const read of reads) expect((await codeOf(Promise.resolve(read))) ?? "claude_").toStartWith("claude_");
        double.environments.clear();
      }
  });

  test("knows its prompt again although a file in it could not be read", async () => {
    const local = createLocal({ backend: start(), clock });
    await local.ask("first");
    const files = [{ contentType: "text/plain", fileName: "empty.txt", base64: "" }];
    double.fail(/POST .*\/events$/u, { kind: "lose" });
    expect((await local.ask("look", () => {}, never, files)).fault?.code).toBe("claude_unreachable");
    expect((await local.again()).progress.kind).toBe("ended");
    const { log } = double.engine.need(local.remoteId());
    expect(log.filter(({ type }) => type === "user.message")).toHaveLength(2);
  });

  test("gives a large prompt the time that it needs on a slow line", async () => {
    const local = createLocal({ backend: start(), clock });
    const base64 = "A".repeat(8 * 2 ** 20);
    await local.ask("look", () => {}, never, [{ contentType: "application/pdf", fileName: "a.pdf", base64 }]);
    const seconds = (path: RegExp): number | undefined =>
      double.requests.find((request) => request.method === "POST" && path.test(request.path))?.timeoutSeconds;
    expect(seconds(/sessions$/u)).toBe(60);
    expect(seconds(/events$/u)).toBeGreaterThan(180);
  });

  test("does not ask again and again what ends at a limit of the turn itself", async () => {
    double.setScript(() => [{ fail: "tool_use_limit_reached_error", retry: "exhausted" }]);
    const { fault } = await createLocal({ backend: start(), clock }).ask("hello");
    expect(fault).toMatchObject({ code: "claude_request", retry: "never" });
  });

  test("tells the remote side nothing but title, metadata and prompts", async () => {
    await ask(start(), "the prompt");
    const sent = JSON.stringify(double.requests.map(({ body }) => body));
    for (const key of ["0f3a", "Signal chat", "sb.schema", "the prompt", "signalman"]) expect(sent).toContain(key);
    expect(Object.keys(double.requests.find(({ path }) => path === "/v1/sessions")?.body as object)).toEqual([
      "agent",
      "environment_id",
      "title",
      "metadata",
    ]);
  });
});
