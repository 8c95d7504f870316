import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { createClaudeApi } from "../../src/claude/api.ts";
import type { Line, Request } from "../../src/claude/line.ts";
import { createManagedLine, type ManagedDeps } from "../../src/claude/managed.ts";
import type { Log } from "../../src/log.ts";
import {
  codeOf,
  createGate,
  createLocal,
  faultOf,
  never,
  pixel,
  readTool,
  settled,
  whileTimePasses,
} from "../contract/line.ts";
import { startClaudeDouble, type ClaudeDouble, type Fault } from "../doubles/claude.ts";
import { createVirtualClock, type VirtualClock } from "../doubles/clock.ts";

const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

describe("managed", () => {
  let clock: VirtualClock;
  let double: ClaudeDouble;
  let memory: Map<string, string>;
  let drawn = 0;
  const start = (change: Partial<ManagedDeps> = {}): Line =>
    createManagedLine({
      api: createClaudeApi({ apiKey: double.apiKey, baseUrl: double.url, clock }),
      clock,
      model: "claude-sonnet-5-5",
      toolPolicy: "ask",
      memory: { get: (key) => memory.get(key) ?? null, set: (key, value) => void memory.set(key, value) },
      random: () => (drawn = (drawn + 0.37) % 1),
      log: silent,
      ...change,
    });
  const ask = async (line: Line, text = "hello"): Promise<string> => {
    const local = createLocal({ line });
    await local.ask(text);
    return local.remoteId();
  };
  const prompt = (text: string, files: (Request & { kind: "prompt" })["files"] = []): Request => ({
    kind: "prompt",
    text,
    files,
  });
  const refusal = (message: string, status = 400): Fault => ({
    kind: "status",
    status,
    type: "invalid_request_error",
    message,
  });
  const count = (method: string, path: RegExp): number =>
    double.requests.filter((request) => request.method === method && path.test(request.path)).length;

  beforeEach(async () => {
    clock = createVirtualClock();
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

  test("makes an environment of its own, narrow as it is, whatever others there are", async () => {
    const wide = { type: "cloud", networking: { type: "unrestricted" } };
    double.environments.set("env_x", { id: "env_x", name: "signalman", archived_at: null, config: wide });
    const { environmentId } = double.engine.need(await ask(start()));
    expect(double.environments.get(environmentId)).toMatchObject({
      name: expect.stringMatching(/^signalman-\w+$/u),
      config: { type: "cloud", networking: { type: "limited", allow_package_managers: true } },
    });
  });

  test("takes the ids that an older version wrote down, with more behind them", async () => {
    await ask(start());
    memory.set("claude.agent", `${memory.get("claude.agent")} {"model":"claude-sonnet-5-5"}`);
    await ask(start());
    expect(double.agents.size).toBe(1);
  });

  test("a session has the model, the prompt and the tools of now, whatever its agent was made with", async () => {
    await ask(start());
    const line = start({ model: "claude-opus-5-5", toolPolicy: "off" });
    expect(double.engine.need(await ask(line))).toMatchObject({
      model: "claude-sonnet-5-5",
      effort: "medium",
      system: "You answer in a Signal chat.",
      tools: [],
    });
    expect(double.agents.size).toBe(1);
  });

  test("asks a person before anything runs or writes, and lets reading pass", async () => {
    expect(double.engine.need(await ask(start())).tools).toMatchObject([
      {
        default_config: { permission_policy: { type: "always_ask" } },
        configs: ["read", "glob", "grep", "web_search", "web_fetch"].map((name) => ({
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

  test("says that the model is not there, or that other settings are refused, for the agent and for one chat", async () => {
    const create = (line: Line, change: object = {}) => codeOf(createLocal({ line }, change).create());
    expect(await create(start({ model: "claude-nope" }))).toBe("claude_model");
    expect(await create(start(), { model: "claude-neither" })).toBe("claude_model");
    double.fail(/POST \/v1\/sessions$/u, refusal("agent.system: too long"));
    expect(await create(start(), { system: "x".repeat(1000) })).toBe("claude_settings");
    double.fail(/POST \/v1\/agents/u, refusal("system: too long"));
    memory.clear();
    expect(await create(start())).toBe("claude_settings");
  });

  test("creates no session twice, and says why it failed", async () => {
    const local = createLocal({ line: start() });
    double.fail(/POST \/v1\/sessions$/u, { kind: "status", status: 403, type: "permission_error" });
    expect(await faultOf(local.create())).toMatchObject({
      code: "claude_forbidden",
      hint: expect.stringContaining("SIGNALMAN_BACKEND=messages"),
    });
    double.fail(/POST \/v1\/sessions$/u, { kind: "lose" });
    expect(await codeOf(local.create())).toBe("claude_unreachable");
    expect(count("POST", /^\/v1\/sessions$/u)).toBe(2);
    expect(double.engine.sessions.size).toBe(1);
  });

  test("leaves the effort out where a model takes none", async () => {
    const refused = refusal("model.effort: effort is not supported by this model");
    double.fail(/POST \/v1\/sessions$/u, refused);
    const session = double.engine.need(await createLocal({ line: start() }, { effort: "high" }).create());
    expect(session).toMatchObject({ model: "claude-sonnet-5-5", effort: null });
  });

  test("gives a session the effort of its chat", async () => {
    const local = createLocal({ line: start() }, { effort: "high" });
    expect(double.engine.need(await local.create())).toMatchObject({ model: "claude-sonnet-5-5", effort: "high" });
    expect(double.engine.need(await createLocal({ line: start() }).create()).effort).toBe("medium");
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
    expect(await codeOf(createLocal({ line: start() }).create())).toBe("claude_forbidden");
  });

  test("is in order, too, where the models cannot be listed", async () => {
    for (const status of [404, 501, 403]) {
      double.fail(/GET .*models$/u, {
        kind: "status",
        status,
        body: "{}",
        headers: { "content-type": "application/json" },
      });
      await start().check(never);
      double.fail(/GET .*models$/u, { kind: "status", status, type: "not_found_error" });
      expect(await codeOf(start().models(never))).toBe("claude_models_unlisted");
    }
  });

  test("tells the refusals of a prompt apart, and none of them is a session that is gone", async () => {
    const local = createLocal({ line: start() });
    await local.create();
    const refusals: [string, string][] = [
      ["strange", "claude_request"],
      ["prompt is too long: 210000 tokens > 200000 maximum", "claude_context"],
      [
        "messages.0.content.0.image.source.base64.data: image dimensions exceed max allowed size: 8000 pixels",
        "claude_image",
      ],
      ["messages.0.content.1.pdf.source.base64.data: The PDF specified is password protected.", "claude_document"],
      ["A maximum of 100 PDF pages may be provided.", "claude_document"],
      ["max_tokens: 90000 > 64000, which is the maximum allowed number of output tokens", "claude_output"],
      ["waiting on responses to events [sevt_1] (a `system.message` may trail a tool result)", "claude_busy"],
    ];
    for (const [message, code] of refusals) {
      double.fail(/POST .*\/events$/u, refusal(message));
      expect(await codeOf(local.ask("hello"))).toBe(code);
    }
    expect((await local.ask("hello"))?.kind).toBe("end_turn");
  });

  test("takes a conflict on an archived session for the refusal that it is, and no other", async () => {
    const conflict: Fault = { kind: "status", status: 409, type: "conflict_error" };
    const local = createLocal({ line: start() });
    await local.ask("hello");
    double.fail(/POST .*\/events$/u, conflict);
    expect(await codeOf(local.ask("more"))).toBe("claude_protocol");
    double.engine.archive(double.engine.need(local.remoteId()));
    double.fail(/POST .*\/events$/u, conflict);
    expect(await codeOf(local.ask("more"))).toBe("claude_request");
  });

  test("keeps what is sent inside the API's limits", async () => {
    const line = start();
    const id = await ask(line);
    expect((await line.remote?.update(id, { title: "x".repeat(600), metadata: {} }, never))?.title).toHaveLength(500);
    double.setScript(() => [{ ask: "bash", input: { command: "ls" } }, { say: "done" }]);
    const local = createLocal({ line });
    const stop = await local.ask("go");
    const toolUseId = stop?.kind === "requires_action" ? (stop.eventIds[0] ?? "") : "";
    await local.post([{ kind: "confirm", toolUseId, isAllowed: false, reason: "n".repeat(20_000) }]);
    const sent = double.requests.findLast(({ method }) => method === "POST")?.body as {
      events: { deny_message: string }[];
    };
    expect(sent.events[0]?.deny_message).toHaveLength(10_000);
    const pairs = Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`k${i}`, "v"]));
    expect(await codeOf(line.remote?.update(id, { metadata: pairs }, never) ?? Promise.resolve())).toBe(
      "claude_request",
    );
  });

  test("shows every prompt, those in the queue last, wherever a listing puts the queue", async () => {
    await double.close();
    double = await startClaudeDouble({ clock, isQueueLast: true, pageMax: 10 });
    const line = start();
    const local = createLocal({ line });
    for (let turn = 0; turn < 25; turn++) await local.ask(`number ${turn}`);
    const gate = createGate();
    double.setScript(() => [{ hold: gate.opened }]);
    const session = double.engine.need(local.remoteId());
    for (const text of ["slow", "mine"])
      double.engine.accept(session, { type: "user.message", content: [{ type: "text", text }] });
    await settled(() => session.status === "running");
    const prompts = await local.list("prompts");
    expect(prompts).toHaveLength(27);
    expect(prompts.some((event) => event.type === "prompt" && event.text === "mine" && event.at === null)).toBe(true);
    gate.open();
  });

  test("an outage at any request is a fault to wait for", async () => {
    const local = createLocal({ line: start() });
    for (const path of [/POST \/v1\/environments$/u, /POST \/v1\/agents$/u, /POST \/v1\/sessions$/u]) {
      double.fail(path, { kind: "status", status: 503 });
      expect(await codeOf(local.create())).toBe("claude_unreachable");
    }
    await local.create();
    for (const path of [/GET .*\/stream$/u, /POST .*\/events$/u]) {
      double.fail(path, { kind: "status", status: 503 });
      expect(await codeOf(local.ask("hello"))).toBe("claude_unreachable");
    }
    double.fail(/GET .*\/events$/u, { kind: "status", status: 503 });
    expect(await codeOf(local.list())).toBe("claude_unreachable");
    await local.ask("hello");
    expect(local.replies()).toEqual(["You said: hello"]);
  });

  test("one chat that gives up does not fail the making of the agent for the others", async () => {
    const line = start();
    double.fail(/POST \/v1\/environments$/u, { kind: "hang" });
    const hanging = double.next(/POST \/v1\/environments$/u);
    const [stop, other] = [new AbortController(), new AbortController()];
    const [mine, theirs] = [stop, other].map(({ signal }) =>
      codeOf(line.remote?.create(createLocal({ line }).view(), signal) ?? Promise.resolve()),
    );
    await hanging;
    stop.abort();
    expect(await mine).toBe("claude_unreachable");
    // The second gives up too: only then the request ends, and the next chat begins anew.
    other.abort();
    expect(await theirs).toBe("claude_unreachable");
    await ask(line);
    const both = start();
    memory.clear();
    const first = new AbortController();
    const racing = codeOf(both.remote?.create(createLocal({ line: both }).view(), first.signal) ?? Promise.resolve());
    const waiting = createLocal({ line: both }).create();
    first.abort();
    expect(await racing).toBe("claude_unreachable");
    expect(await waiting).toStartWith("sesn_");
  });

  test("changed tools reach a session before its next prompt, once, and not while it runs", async () => {
    const local = createLocal({ line: start() });
    await local.ask("hello");
    const before = double.requests.length;
    await local.ask("again");
    const update = /POST \/v1\/sessions\/\w+$/u;
    const updates = (): number =>
      double.requests.slice(before).filter(({ method, path }) => update.test(`${method} ${path}`)).length;
    expect(updates()).toBe(0);
    const strict = createLocal({ line: start({ toolPolicy: "off" }) });
    const view = { ...strict.view(), remoteId: local.remoteId() };
    const session = double.engine.need(local.remoteId());
    const gate = createGate();
    double.setScript(() => [{ hold: gate.opened }]);
    double.engine.accept(session, { type: "user.message", content: [{ type: "text", text: "slow" }] });
    await settled(() => session.status === "running");
    const line = start({ toolPolicy: "off" });
    expect(await codeOf(line.post(view, [prompt("next")], () => {}, never))).toBe("claude_running");
    gate.open();
    await settled(() => session.status === "idle");
    for (const text of ["next", "and next"]) await line.post(view, [prompt(text)], () => {}, never);
    expect(session.tools).toEqual([]);
    expect(updates()).toBe(2);
  });

  test("does not take a session that is over for one that is busy, when its tools have changed", async () => {
    const local = createLocal({ line: start() });
    await local.ask("hello");
    memory.clear();
    double.engine.archive(double.engine.need(local.remoteId()));
    expect(await codeOf(local.ask("more"))).toBe("claude_request");
    double.engine.delete(double.engine.need(local.remoteId()));
    expect(await codeOf(start().post(local.view(), [prompt("x")], () => {}, never))).toBe("claude_request");
  });

  test("gives a project's session tools of ours in place of the sandbox, and the web", async () => {
    const line = start();
    const local = createLocal({ line }, { tools: [readTool] });
    expect(line.hasSandbox(local.view())).toBe(false);
    const session = double.engine.need(await local.create());
    expect(session.tools).toEqual([
      {
        type: "agent_toolset_20260401",
        default_config: { enabled: false },
        configs: [
          { name: "web_search", enabled: true, permission_policy: { type: "always_allow" } },
          { name: "web_fetch", enabled: true, permission_policy: { type: "always_ask" } },
        ],
      },
      { type: "custom", name: "local_read", description: readTool.description, input_schema: readTool.inputSchema },
    ]);
    expect(session.system).not.toContain("/mnt/session");
  });

  test("a tool that is not of this machine stands beside the sandbox", async () => {
    const tool = { ...readTool, name: "remind", isOfMachine: false };
    const line = start();
    expect(line.hasSandbox({ tools: [tool] })).toBe(true);
    expect(line.hasSandbox({ tools: [tool, readTool] })).toBe(false);
    const local = createLocal({ line }, { tools: [tool] });
    const session = double.engine.need(await local.create());
    const custom = { type: "custom", name: "remind", description: tool.description, input_schema: tool.inputSchema };
    expect(session.tools).toMatchObject([{ default_config: { enabled: true } }, custom]);
    expect(start({ toolPolicy: "off" }).hasSandbox({ tools: [tool] })).toBe(false);
  });

  test("answers several calls one by one; what is open is asked for again", async () => {
    const local = createLocal({ line: start() }, { tools: [readTool] });
    double.setScript(() => [
      { calls: ["a", "b"].map((file_path) => ({ name: "local_read", input: { file_path } })) },
      { say: "done" },
    ]);
    const stop = await local.ask("read both");
    const ids = stop?.kind === "requires_action" ? stop.eventIds : [];
    expect(ids).toHaveLength(2);
    const answer = (toolUseId = ""): Request => ({ kind: "result", toolUseId, text: "", isError: false });
    expect(await local.post([answer(ids[0])])).toEqual({ kind: "requires_action", eventIds: [ids[1] ?? ""] });
    expect(await codeOf(local.post([answer(ids[0]), answer(ids[1])]))).toBe("claude_request");
    expect(await local.post([answer(ids[1])])).toEqual({ kind: "end_turn" });
    expect(local.replies()).toEqual(["done"]);
  });

  test("hands files that a sandbox can read to it, and says where; what cannot be handed over is said too", async () => {
    const zip = { contentType: "application/zip", fileName: "a b.zip", base64: btoa("PK\u0003\u0004\u0000\u00ff") };
    const picture = { contentType: "image/png", fileName: null, base64: pixel };
    const local = createLocal({ line: start() });
    await local.ask("look", () => {}, never, [zip, picture]);
    const [file, ...others] = [...double.engine.files.values()];
    expect(others).toEqual([]);
    expect(file).toMatchObject({ filename: "a_b.zip", sessionId: local.remoteId(), downloadable: false });
    type Sent = { events: { content: { type: string; source: { data: string } }[] }[] };
    const content = (): Sent["events"][0]["content"] =>
      (double.requests.findLast(({ path }) => path.endsWith("/events"))?.body as Sent | undefined)?.events[0]
        ?.content ?? [];
    expect(content().map(({ type }) => type)).toEqual(["document", "image", "text"]);
    expect(content()[0]?.source.data).toContain(`is in your sandbox at ${file?.mountPath}`);
    expect(local.prompts()).toEqual(["look"]);
    // Posted again it is not sent again.
    await local.ask("look again", () => {}, never, [zip]);
    expect(double.engine.files.size).toBe(1);
    const other = { ...zip, base64: btoa("PK\u0003\u0004\u0000\u00fe") };
    double.fail(/POST .*files$/u, refusal("storage is full"));
    await local.ask("and this", () => {}, never, [other]);
    expect(content()[0]?.source.data).toContain("could not be handed over");
    double.fail(/POST .*files$/u, { kind: "status", status: 503 });
    expect(await codeOf(local.ask("later", () => {}, never, [other]))).toBe("claude_unreachable");
    await start().remote?.remove(local.remoteId(), never);
    expect(double.engine.files.size).toBe(0);
    const bare = createLocal({ line: start({ toolPolicy: "off" }) });
    await bare.ask("look", () => {}, never, [zip]);
    expect(double.engine.files.size).toBe(0);
    expect(content()[0]?.source.data).toContain("is of a kind that cannot be read here");
  });

  test("says of a running session that only pings come, and of a resting one not", async () => {
    const line = start();
    const gate = createGate();
    double.setScript(() => [{ hold: gate.opened }, { say: "done" }]);
    const local = createLocal({ line });
    const id = await local.create();
    const frames: string[] = [];
    const listening = (async () => {
      for await (const frame of (await line.remote?.open(id, never)) ?? [])
        frames.push(frame.kind === "event" ? frame.event.type : frame.kind);
    })();
    await settled(() => double.openStreams() === 1);
    await line.post(local.view(), [prompt("hello")], () => {}, never);
    await settled(() => frames.includes("prompt"));
    const beat = async (): Promise<void> => {
      await clock.advance(31_000);
      double.heartbeat();
      // What was written before is read by the time that these are answered: else the next step of the clock would find the stream mute.
      for (let round = 0; round < 5; round++) await line.remote?.retrieve(id, never);
    };
    for (let beats = 0; beats < 3; beats++) await beat();
    await settled(() => frames.includes("silent"));
    expect(frames.filter((kind) => kind === "silent")).toHaveLength(1);
    gate.open();
    await settled(() => frames.includes("idle"));
    const before = frames.length;
    for (let beats = 0; beats < 4; beats++) await beat();
    expect(frames).toHaveLength(before);
    double.cutStreams(true);
    await listening;
  });

  test("lists no file before the API does, and none that was mounted; says which faults pass", async () => {
    await double.close();
    double = await startClaudeDouble({ clock, fileLagMs: 3_000 });
    double.setScript(() => [{ make: "a.csv", contentType: "text/csv", bytes: new Uint8Array(3) }, { say: "done" }]);
    const line = start();
    const id = await ask(line);
    const session = double.engine.need(id);
    const mounted = { filename: "mounted.csv", mime_type: "text/csv", bytes: new Uint8Array(1) };
    const upload = double.engine.make(session, mounted, false);
    expect(await line.remote?.files(id, never)).toEqual([]);
    await clock.advance(4_000);
    const [file, ...others] = (await line.remote?.files(id, never)) ?? [];
    expect(others).toEqual([]);
    expect(file?.name).toBe("a.csv");
    expect(await line.remote?.download(upload.id, 10, never)).toBeNull();
    const fetching = (): Promise<unknown> => line.remote?.download(file?.id ?? "", 10, never) ?? Promise.resolve();
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
    expect(clock.timerCount()).toBe(0);
    expect(await fetching()).toHaveLength(3);
  });

  test("tells a session where files go, where it may write any", async () => {
    const systems = [await ask(start()), await ask(start({ toolPolicy: "off" }))].map(
      (id) => double.engine.need(id).system,
    );
    expect(systems.map((system) => system.includes("/mnt/session/outputs/"))).toEqual([true, false]);
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
    for (const path of [...lines, /GET .*files$/u, /GET .*sessions$/u, /GET .*models$/u, /GET .*sessions\/\w+$/u])
      for (const body of ["null", "[]", "7", "{}", '{"data":7}', '{"data":[null]}', '{"data":[7,{}],"next_page":7}']) {
        memory.clear();
        const line = start();
        const local = createLocal({ line });
        double.fail(path, { kind: "status", status: 200, headers, body });
        // `faultOf` throws what is no BridgeError.
        if ((await faultOf(local.create())) !== null) await local.create();
        await faultOf(line.post(local.view(), [prompt("hello")], () => {}, never));
        const { remote } = line;
        const reads = [
          () => local.list(),
          () => remote?.retrieve(local.remoteId(), never),
          () => remote?.files(local.remoteId(), never),
          () => remote?.find(local.view(), never),
          () => line.models(never),
        ];
        for (const read of reads) expect((await codeOf(Promise.resolve(read()))) ?? "claude_").toStartWith("claude_");
        double.environments.clear();
      }
  });

  test("shows the same text of a prompt although a file in it could not be read", async () => {
    const local = createLocal({ line: start() });
    const files = [{ contentType: "application/zip", fileName: "a.zip", base64: btoa("PK") }];
    await local.ask("look", () => {}, never, files);
    expect(local.prompts()).toEqual(["look"]);
  });

  test("gives a large prompt the time that it needs on a slow line", async () => {
    const local = createLocal({ line: start() });
    const base64 = "A".repeat(8 * 2 ** 20);
    await local.ask("look", () => {}, never, [{ contentType: "application/pdf", fileName: "a.pdf", base64 }]);
    const seconds = (path: RegExp): number | undefined =>
      double.requests.find((request) => request.method === "POST" && path.test(request.path))?.timeoutSeconds;
    expect(seconds(/sessions$/u)).toBe(60);
    expect(seconds(/events$/u)).toBeGreaterThan(180);
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
