/**
 * A strict double of the Claude API over HTTP: environments, agents, sessions with their live stream, messages, models. It
 * refuses what the real one refuses (unknown fields and query parameters, missing headers, wrong shapes), and can fail in
 * every way we know of. Good for the compiled binary too: point ANTHROPIC_BASE_URL at `url`.
 * **Source:** the API's documents and the SDK's types; nothing here imports the SDK.
 */
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { systemClock, type Clock } from "../../src/clock.ts";
import { streamMessage, checkMessages, type Beat } from "./claude-messages.ts";
import { badRequest, checkContent, checkMetadata, notFound, only, Refusal, text, type Body } from "./claude-checks.ts";
import { Download, files } from "./claude-files.ts";
import {
  createEngine,
  type DoubleSession,
  type Engine,
  type Script as SessionScript,
  type WireEvent,
} from "./claude-sessions.ts";

/** A beat of the one API in a script for the other is passed over. */
export type Script = (prompt: string) => readonly Beat[];

export type Fault =
  /** Answered so, before anything happens. `body` replaces the API's error body. */
  | {
      readonly kind: "status";
      readonly status: number;
      readonly type?: string;
      readonly message?: string;
      readonly errorCode?: string;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string;
    }
  /** Done, and the connection dies before the answer. */
  | { readonly kind: "lose" }
  /** Done, and the answer says nothing of it. */
  | { readonly kind: "unechoed" }
  /** Not done, and the connection dies. */
  | { readonly kind: "cut" }
  | { readonly kind: "hang" }
  /** The next stream dies (or ends in an orderly way) after this many bytes of its body. */
  | { readonly kind: "cutStream"; readonly bytes: number; readonly isClean?: boolean };

export type Recorded = {
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
  /** How long the client says it waits. */
  readonly timeoutSeconds: number;
};

export type DoubleEnvironment = { id: string; name: string; archived_at: string | null; config: unknown };

export type ClaudeDouble = {
  readonly url: string;
  readonly apiKey: string;
  readonly engine: Engine;
  /** What came in, oldest first; `path` with its query, decoded. */
  readonly requests: Recorded[];
  readonly environments: Map<string, DoubleEnvironment>;
  readonly agents: Map<
    string,
    { id: string; version: number; archived_at: string | null; body: Record<string, unknown> }
  >;
  setScript(script: Script): void;
  /** The next request whose `METHOD /path` matches goes wrong. */
  fail(pattern: RegExp, fault: Fault): void;
  /** Every request is cut off until further notice, open streams too. */
  setDown(isDown: boolean): void;
  /** Open streams deliver nothing, not even heartbeats, and stay open. */
  setMute(isMute: boolean): void;
  /** Open streams of sessions bring heartbeats and no events. */
  setDeaf(isDeaf: boolean): void;
  /** Kills open streams: by a reset, or by an orderly end. */
  cutStreams(isClean?: boolean): void;
  openStreams(): number;
  /** Resolves when a request that matches has been answered (or its stream opened) after this call. */
  next(pattern: RegExp): Promise<void>;
  /** A comment line on every open stream. */
  heartbeat(): void;
  close(): Promise<void>;
};

export type DoubleOptions = {
  readonly clock?: Clock;
  readonly script?: Script;
  readonly skewMs?: number;
  readonly stepMs?: number;
  readonly echo?: "both" | "queued" | "processed";
  /** Newest first, queued events still come last: the documents leave it open. */
  readonly isQueueLast?: boolean;
  /** Largest page, whatever the client asks for. */
  readonly pageMax?: number;
  /** A file that Claude made is listed so long after that. */
  readonly fileLagMs?: number;
  readonly port?: number;
};

type Stream = { readonly write: (text: string) => void; readonly end: (isClean: boolean) => void };

type State = {
  readonly options: DoubleOptions;
  readonly engine: Engine;
  readonly double: Pick<ClaudeDouble, "environments" | "agents" | "requests" | "apiKey">;
  readonly faults: { pattern: RegExp; fault: Fault }[];
  readonly streams: Set<Stream>;
  readonly waiters: { pattern: RegExp; resolve: () => void }[];
  script: Script;
  lastStop: string;
  isDown: boolean;
  isMute: boolean;
  isDeaf: boolean;
};

export async function startClaudeDouble(options: DoubleOptions = {}): Promise<ClaudeDouble> {
  const parrot: Script = (prompt) => [{ write: ["You said: ", prompt] }];
  const engine = createEngine({
    clock: options.clock ?? systemClock,
    skewMs: options.skewMs ?? 0,
    stepMs: options.stepMs ?? 1,
    echo: options.echo ?? "both",
    fileLagMs: options.fileLagMs ?? 0,
    script: (prompt) => state.script(prompt) as ReturnType<SessionScript>,
  });
  const state: State = {
    options,
    engine,
    double: { environments: new Map(), agents: new Map(), requests: [], apiKey: "sk-test-double" },
    faults: [],
    streams: new Set(),
    waiters: [],
    script: options.script ?? parrot,
    lastStop: "end_turn",
    isDown: false,
    isMute: false,
    isDeaf: false,
  };
  const server = createServer((request, response) => {
    serve(state, request, response).catch((error: unknown) => {
      // A client that hung up in the middle is no fault of the double's.
      if (!request.destroyed) throw error;
    });
  });
  await new Promise<void>((resolve) => server.listen(options.port ?? 0, "127.0.0.1", resolve));
  const cutStreams = (isClean = false): void => {
    for (const stream of state.streams) stream.end(isClean);
  };
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    ...state.double,
    engine,
    setScript: (script) => void (state.script = script),
    fail: (pattern, fault) => void state.faults.push({ pattern, fault }),
    setDown(isDown) {
      state.isDown = isDown;
      if (isDown) cutStreams();
    },
    setMute: (isMute) => void (state.isMute = isMute),
    setDeaf: (isDeaf) => void (state.isDeaf = isDeaf),
    cutStreams,
    openStreams: () => state.streams.size,
    next: (pattern) => new Promise((resolve) => state.waiters.push({ pattern, resolve })),
    heartbeat() {
      if (!state.isMute) for (const stream of state.streams) stream.write(": still here\n\n");
    },
    async close() {
      cutStreams();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}

async function serve(state: State, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const url = new URL(request.url ?? "/", "http://double");
  const line = `${request.method} ${url.pathname}`;
  const die = (): void => void request.socket.destroy();
  if (state.isDown) return die();
  const sent = Buffer.concat(chunks);
  const isForm = (request.headers["content-type"] ?? "").startsWith("multipart/form-data");
  const body: unknown = isForm || sent.length === 0 ? null : JSON.parse(sent.toString("utf8"));
  const form = isForm
    ? await new Response(sent, { headers: { "content-type": request.headers["content-type"] ?? "" } }).formData()
    : null;
  const faultAt = state.faults.findIndex(({ pattern }) => pattern.test(line));
  const fault = faultAt < 0 ? null : (state.faults.splice(faultAt, 1)[0]?.fault ?? null);
  state.double.requests.push({
    method: request.method ?? "",
    path: url.pathname + decodeURIComponent(url.search),
    body,
    timeoutSeconds: Number(request.headers["x-stainless-timeout"]),
  });
  response.setHeader(
    "Date",
    new Date((state.options.clock ?? systemClock).now() + (state.options.skewMs ?? 0)).toUTCString(),
  );
  response.setHeader("request-id", state.engine.newId("req"));
  try {
    if (fault?.kind === "hang") return;
    if (fault?.kind === "cut") return die();
    if (fault?.kind === "status") return answerFault(response, fault);
    checkHeaders(state, request, url.pathname);
    const result = route(state, request, url, body, form);
    if (fault?.kind === "lose") return die();
    if (fault?.kind === "unechoed") return json(response, 200, { data: [] });
    if (result instanceof OpenStream) openStream(state, response, result, fault?.kind === "cutStream" ? fault : null);
    else if (result instanceof Download)
      response.writeHead(200, { "content-type": result.file.mime_type }).end(result.file.bytes);
    else json(response, 200, result);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const details = error.errorCode === null ? {} : { details: { error_code: error.errorCode } };
    json(response, error.status, { type: "error", error: { type: error.type, message: error.message, ...details } });
  } finally {
    for (const waiter of state.waiters.filter(({ pattern }) => pattern.test(line))) {
      state.waiters.splice(state.waiters.indexOf(waiter), 1);
      waiter.resolve();
    }
  }
}

function json(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

function answerFault(response: ServerResponse, fault: Fault & { kind: "status" }): void {
  const isHtml = fault.body !== undefined;
  const details = fault.errorCode === undefined ? {} : { details: { error_code: fault.errorCode } };
  const body = JSON.stringify({
    type: "error",
    error: { type: fault.type ?? "api_error", message: fault.message ?? "a scripted fault", ...details },
  });
  const headers = { "content-type": isHtml ? "text/html" : "application/json", ...fault.headers };
  response.writeHead(fault.status, headers).end(fault.body ?? body);
}

function checkHeaders(state: State, request: IncomingMessage, path: string): void {
  const { headers } = request;
  if (headers.authorization !== `Bearer ${state.double.apiKey}`)
    throw new Refusal(401, "authentication_error", "invalid bearer token");
  if (headers["anthropic-version"] !== "2026-10-21") throw badRequest("anthropic-version");
  const isManaged = /^\/v1\/(environments|agents|sessions)/u.test(path);
  if (isManaged && !String(headers["anthropic-beta"]).split(",").includes("managed-agents-2026-04-01"))
    throw badRequest("this endpoint needs its anthropic-beta header");
  if (
    request.method === "POST" &&
    Number(headers["content-length"] ?? 0) > 0 &&
    !(path === "/v1/files" ? /^multipart\/form-data/u : /^application\/json$/u).test(headers["content-type"] ?? "")
  )
    throw badRequest("content-type");
}

class OpenStream {
  readonly start: (stream: Stream) => () => void;
  constructor(start: (stream: Stream) => () => void) {
    this.start = start;
  }
}

function openStream(
  state: State,
  response: ServerResponse,
  open: OpenStream,
  cut: (Fault & { kind: "cutStream" }) | null,
): void {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  response.flushHeaders();
  let left = cut?.bytes ?? Infinity;
  let isOpen = true;
  let stop = (): void => {};
  const stream: Stream = {
    write(text) {
      if (!isOpen || state.isMute) return;
      const bytes = Buffer.from(text).subarray(0, left);
      left -= bytes.length;
      // In two pieces, wherever that falls: also inside a character.
      const half = Math.ceil(bytes.length / 2);
      response.write(bytes.subarray(0, half));
      response.write(bytes.subarray(half));
      if (left === 0) stream.end(cut?.isClean ?? false);
    },
    end(isClean) {
      if (!isOpen) return;
      isOpen = false;
      state.streams.delete(stream);
      stop();
      if (isClean) response.end();
      // What was written is on its way first.
      else setImmediate(() => response.socket?.destroy());
    },
  };
  state.streams.add(stream);
  stop = open.start(stream);
  response.on("close", () => stream.end(true));
}

function query(url: URL, allowed: readonly string[]): URLSearchParams {
  for (const key of url.searchParams.keys())
    if (!allowed.includes(key)) throw badRequest(`${key}: unknown query parameter`);
  return url.searchParams;
}

function route(
  state: State,
  { method, headers }: IncomingMessage,
  url: URL,
  body: unknown,
  form: FormData | null,
): unknown {
  const [, version, family = "", id, ...rest] = url.pathname.split("/");
  if (version !== "v1") throw notFound("path");
  const line = `${method} ${[family, id === undefined ? "" : ":id", ...rest].filter((part) => part !== "").join("/")}`;
  switch (family) {
    case "models":
      return models(line, id ?? "", url);
    case "files":
      return files(state.engine.files, (data, params) => page(state, data, params), {
        line,
        id: id ?? "",
        params: url.searchParams,
        betas: String(headers["anthropic-beta"]),
        accept: String(headers.accept),
        now: (state.options.clock ?? systemClock).now() + (state.options.skewMs ?? 0),
        newId: state.engine.newId,
        form,
      });
    case "messages":
      return messages(state, line, body);
    case "environments":
      return environments(state, line, id ?? "", url, body);
    case "agents":
      return agents(state, line, id ?? "", url, body);
    case "sessions":
      return sessions(state, line, id ?? "", url, body);
    default:
      throw notFound("path");
  }
}

const knownModels = ["claude-sonnet-5-5", "claude-opus-5-5", "claude-haiku-5-5"];
const aliases: { readonly [name: string]: string } = { "claude-sonnet-latest": "claude-sonnet-5-5" };
const effortLevels = ["low", "medium", "high", "xhigh", "max"];

/** A bare id, or an id with an effort; returns the two. */
function checkModel(model: unknown): { id: string; effort: string | null } {
  const { id, effort } = typeof model === "string" ? { id: model } : only(model, ["id", "effort", "speed"], ["id"]);
  if (!knownModels.includes(text(id))) throw badRequest("model");
  if (effort !== undefined && !effortLevels.includes(text(effort))) throw badRequest("model.effort");
  return { id: text(id), effort: text(effort) || null };
}

function checkTools(tools: unknown): void {
  for (const tool of (tools as { type?: string }[] | undefined) ?? []) {
    if (tool.type === "custom") {
      const { name } = only(
        tool,
        ["type", "name", "description", "input_schema"],
        ["name", "description", "input_schema"],
      );
      if (!/^[\w-]{1,128}$/u.test(text(name))) throw badRequest("tools.name");
      continue;
    }
    const toolset = only(tool, ["type", "default_config", "configs"], ["type"]);
    if (toolset["type"] !== "agent_toolset_20260401") throw badRequest("tools.type");
    only(toolset["default_config"], ["enabled", "permission_policy"]);
    for (const config of (toolset["configs"] as unknown[] | undefined) ?? [])
      only(config, ["type", "name", "enabled", "permission_policy"], ["name"]);
  }
}

function models(line: string, id: string, url: URL): unknown {
  const toWire = (id: string): object => ({
    type: "model",
    id,
    display_name: `Model ${id.slice(7)}`,
    lifecycle: "active",
    max_tokens: 64_000,
    max_input_tokens: 200_000,
  });
  if (line === "GET models/:id") {
    const name = aliases[id] ?? id;
    if (!knownModels.includes(name)) throw notFound(`model: ${id}`);
    return toWire(name);
  }
  if (line !== "GET models") throw notFound("path");
  const params = query(url, ["limit", "after_id", "before_id"]);
  const start = knownModels.indexOf(params.get("after_id") ?? "") + 1;
  const ids = knownModels.slice(start, start + Number(params.get("limit") ?? 20));
  const data = ids.map(toWire);
  const has_more = start + ids.length < knownModels.length;
  return { data, has_more, first_id: ids[0] ?? null, last_id: ids.at(-1) ?? null };
}

function messages(state: State, line: string, body: unknown): unknown {
  if (line !== "POST messages") throw notFound("path");
  const params = only(
    body,
    ["model", "max_tokens", "messages", "system", "stream", "tools", "output_config", "cache_control", "metadata"],
    ["model", "max_tokens", "messages"],
  );
  if (!knownModels.includes(text(params["model"]))) throw notFound(`model: ${text(params["model"])}`);
  const isWord = params["stream"] === undefined && params["max_tokens"] === 1;
  if (params["stream"] !== true && !isWord) throw badRequest("stream: this double streams only, but for one word");
  if (params["system"] === "") throw badRequest("system: text content blocks must be non-empty");
  if (Number(params["max_tokens"]) > 64_000)
    throw badRequest(
      `max_tokens: ${Number(params["max_tokens"])} > 64000, which is the maximum allowed number of output tokens`,
    );
  const { effort } = only(params["output_config"] ?? {}, ["effort", "format"]);
  if (effort !== undefined && !effortLevels.includes(text(effort))) throw badRequest("output_config.effort");
  for (const tool of (params["tools"] as Body[] | undefined) ?? [])
    if (tool["type"] === undefined)
      only(tool, ["name", "description", "input_schema", "cache_control"], ["name", "input_schema"]);
    else if (tool["type"] !== "web_search_20250305" || tool["name"] !== "web_search") throw badRequest("tools.type");
  const prompt = checkMessages(params["messages"], state.lastStop === "pause_turn");
  if (isWord) {
    const content = [{ type: "text", text: "Hi" }];
    const usage = { input_tokens: 8, output_tokens: 1 };
    return { id: "msg_word", type: "message", role: "assistant", content, stop_reason: "max_tokens", usage };
  }
  return new OpenStream((stream) => {
    const stop = new AbortController();
    const id = state.engine.newId("msg");
    void streamMessage(state.script(prompt), id, state.options.clock ?? systemClock, stop.signal, (text) =>
      stream.write(text),
    ).then((reason) => {
      if (stop.signal.aborted) return;
      state.lastStop = reason;
      stream.end(true);
    });
    return () => stop.abort();
  });
}

function environments(state: State, line: string, id: string, url: URL, body: unknown): unknown {
  const { environments: all } = state.double;
  const toWire = (environment: DoubleEnvironment): object => ({ type: "environment", ...environment });
  switch (line) {
    case "POST environments": {
      const { name, config } = only(body, ["name", "config", "description", "metadata", "scope"], ["name"]);
      if ([...all.values()].some((other) => other.name === name))
        throw new Refusal(409, "conflict_error", "name taken");
      const cloud = only(config, ["type", "networking", "packages"], ["type"]);
      only(cloud["networking"], ["type", "allow_mcp_servers", "allow_package_managers", "allowed_hosts"], ["type"]);
      const environment = { id: state.engine.newId("env"), name: text(name), archived_at: null, config: cloud };
      all.set(environment.id, environment);
      return toWire(environment);
    }
    case "GET environments":
      query(url, ["limit", "page", "include_archived"]);
      return { data: [...all.values()].map(toWire), next_page: null };
    case "GET environments/:id": {
      const environment = all.get(id);
      if (!environment) throw notFound("environment");
      return toWire(environment);
    }
    default:
      throw notFound("path");
  }
}

const agentFields = ["name", "model", "system", "description", "tools", "mcp_servers", "skills", "metadata"];

function agents(state: State, line: string, id: string, url: URL, body: unknown): unknown {
  const { agents: all } = state.double;
  const toWire = ({
    body,
    ...agent
  }: {
    id: string;
    version: number;
    archived_at: string | null;
    body: Body;
  }): object => ({
    type: "agent",
    ...body,
    ...agent,
  });
  const check = (params: Body): Body => {
    if (params["model"] !== undefined) checkModel(params["model"]);
    checkTools(params["tools"]);
    return params;
  };
  const need = () => {
    const agent = all.get(id);
    if (!agent) throw notFound("agent");
    return agent;
  };
  switch (line) {
    case "POST agents": {
      const params = check(only(body, agentFields, ["name", "model"]));
      const agent = { id: state.engine.newId("agent"), version: 1, archived_at: null, body: params };
      all.set(agent.id, agent);
      return toWire(agent);
    }
    case "GET agents":
      query(url, ["limit", "page", "include_archived"]);
      return { data: [...all.values()].map(toWire), next_page: null };
    case "GET agents/:id":
      return toWire(need());
    case "POST agents/:id": {
      const agent = need();
      if (agent.archived_at !== null) throw badRequest("agent is archived");
      const params = check(only(body, [...agentFields, "version"]));
      const updated = { ...agent, version: agent.version + 1, body: { ...agent.body, ...params } };
      all.set(id, updated);
      return toWire(updated);
    }
    default:
      throw notFound("path");
  }
}

function sessions(state: State, line: string, id: string, url: URL, body: unknown): unknown {
  const { engine } = state;
  switch (line) {
    case "POST sessions":
      return toWire(createSession(state, body));
    case "GET sessions": {
      const params = query(url, ["limit", "page", "order", "agent_id", "statuses[]", "include_archived"]);
      const all = [...engine.sessions.values()].filter((session) => session.archivedAt === null).map(toWire);
      return {
        ...(page(state, params.get("order") === "asc" ? all : all.toReversed(), params) as object),
        prev_page: null,
      };
    }
    case "POST sessions/:id/resources": {
      const { type, file_id, mount_path } = only(body, ["type", "file_id", "mount_path"], ["type", "file_id"]);
      const file = engine.files.get(text(file_id));
      if (type !== "file" || !file) throw notFound("file");
      const session = engine.need(id);
      engine.files.set(file.id, { ...file, sessionId: session.id, mountPath: text(mount_path) || null });
      return {
        type: "file",
        id: engine.newId("sesrsc"),
        file_id,
        mount_path,
        created_at: engine.nowIso(),
        updated_at: engine.nowIso(),
      };
    }
    case "GET sessions/:id":
      return toWire(engine.need(id));
    case "POST sessions/:id": {
      const patch = only(body, ["title", "metadata", "budget", "agent"]);
      const session = engine.need(id);
      if (session.archivedAt !== null) throw badRequest("session is archived");
      if (text(patch["title"]).length > 500) throw badRequest("title");
      if (patch["agent"] !== undefined) {
        const { tools } = only(patch["agent"], ["tools", "mcp_servers"]);
        if (session.isPlaying) throw badRequest("a running session cannot be changed");
        checkTools(tools);
        session.tools = tools;
      }
      if (patch["title"] !== undefined || patch["metadata"] !== undefined) engine.patch(session, patch);
      return toWire(session);
    }
    case "POST sessions/:id/archive":
      engine.archive(engine.need(id));
      return toWire(engine.need(id));
    case "DELETE sessions/:id":
      if (engine.need(id).isPlaying) throw badRequest("a running session cannot be deleted");
      engine.delete(engine.need(id));
      return { id, type: "session_deleted" };
    case "GET sessions/:id/events":
      return listEvents(state, engine.need(id), url);
    case "POST sessions/:id/events":
      return { data: sendEvents(engine, engine.need(id), body) };
    case "GET sessions/:id/events/stream":
      return followSession(state, engine.need(id), query(url, ["event_deltas[]"]).getAll("event_deltas[]"));
    default:
      throw notFound("path");
  }
}

function createSession(state: State, body: unknown): DoubleSession {
  const { engine, double } = state;
  const allowed = [
    "agent",
    "environment_id",
    "title",
    "metadata",
    "budget",
    "initial_events",
    "resources",
    "vault_ids",
  ];
  const params = only(body, allowed, ["agent", "environment_id"]);
  const agentParam = params["agent"];
  const overrides =
    typeof agentParam === "string"
      ? {}
      : only(
          agentParam,
          ["type", "id", "version", "model", "system", "tools", "mcp_servers", "skills"],
          ["type", "id"],
        );
  const agent = double.agents.get(typeof agentParam === "string" ? agentParam : text(overrides["id"]));
  if (!agent) throw notFound("agent");
  if (agent.archived_at !== null) throw badRequest("agent is archived");
  const environment = double.environments.get(text(params["environment_id"]));
  if (!environment) throw new Refusal(404, "not_found_error", "environment", "environment_not_found");
  if (environment.archived_at !== null) throw badRequest("environment", "environment_archived");
  const { id: model, effort } = checkModel(overrides["model"] ?? agent.body["model"]);
  checkTools(overrides["tools"]);
  const metadata = (params["metadata"] ?? {}) as Record<string, string>;
  checkMetadata(metadata);
  if (text(params["title"]).length > 500) throw badRequest("title");
  return engine.create({
    agentId: agent.id,
    environmentId: environment.id,
    model,
    effort,
    tools: overrides["tools"] ?? agent.body["tools"],
    system: text(overrides["system"] ?? agent.body["system"]),
    title: (params["title"] ?? null) as string | null,
    metadata,
  });
}

const toWire = (session: DoubleSession): object => ({
  type: "session",
  id: session.id,
  agent: { type: "agent", id: session.agentId, model: { id: session.model }, system: session.system },
  environment_id: session.environmentId,
  title: session.title,
  metadata: session.metadata,
  status: session.status,
  archived_at: session.archivedAt,
  created_at: session.createdAt,
  updated_at: session.updatedAt,
});

/** Processed events by time, then the queued ones; a time filter sees no queued ones. */
function listEvents(state: State, session: DoubleSession, url: URL): unknown {
  const params = query(url, [
    "limit",
    "page",
    "order",
    "types[]",
    "created_at[gte]",
    "created_at[gt]",
    "created_at[lte]",
    "created_at[lt]",
  ]);
  const gte = params.get("created_at[gte]");
  const types = params.getAll("types[]");
  const log = session.log.filter((event) => gte === null || Date.parse(event.processed_at ?? "") >= Date.parse(gte));
  const queue = gte === null ? session.queue : [];
  const isDescending = params.get("order") === "desc";
  const ordered: WireEvent[] = !isDescending
    ? [...log, ...queue]
    : state.options.isQueueLast
      ? [...log.toReversed(), ...queue]
      : [...log, ...queue].toReversed();
  const all = ordered.filter((event) => types.length === 0 || types.includes(event.type));
  return page(state, all, params);
}

function page(state: State, all: readonly unknown[], params: URLSearchParams): unknown {
  const order = params.get("order") ?? "";
  const [start = "0", madeFor = order] = Buffer.from(params.get("page") ?? "", "base64url")
    .toString()
    .split("|");
  if (params.has("page") && madeFor !== order) throw badRequest("page: made for another order");
  const limit = Math.min(Number(params.get("limit") ?? 1000), state.options.pageMax ?? 1000);
  if (!(limit >= 1)) throw badRequest("limit");
  const end = Number(start) + limit;
  return {
    data: all.slice(Number(start), end),
    next_page: end < all.length ? Buffer.from(`${end}|${order}`).toString("base64url") : null,
  };
}

function sendEvents(engine: Engine, session: DoubleSession, body: unknown): WireEvent[] {
  const { events } = only(body, ["events"], ["events"]);
  if (!Array.isArray(events) || events.length === 0) throw badRequest("events");
  return events.map((event: unknown) => {
    const { type } = event as { type?: unknown };
    switch (type) {
      case "user.message":
        checkContent(only(event, ["type", "content"], ["content"])["content"]);
        break;
      case "user.interrupt":
        only(event, ["type", "session_thread_id"]);
        break;
      case "user.tool_confirmation": {
        const { result, deny_message: why } = only(
          event,
          ["type", "tool_use_id", "result", "deny_message"],
          ["tool_use_id", "result"],
        );
        if (result !== "allow" && result !== "deny") throw badRequest("result");
        if (why !== undefined && (result !== "deny" || text(why).length > 10_000)) throw badRequest("deny_message");
        break;
      }
      case "user.custom_tool_result": {
        const result = only(event, ["type", "custom_tool_use_id", "content", "is_error"], ["custom_tool_use_id"]);
        if (result["content"] !== undefined) checkContent(result["content"]);
        break;
      }
      default:
        throw badRequest(`events.type: ${text(type)}`);
    }
    return engine.accept(session, event as Body);
  });
}

function followSession(state: State, session: DoubleSession, deltas: readonly string[]): OpenStream {
  return new OpenStream((stream) => {
    const listener = (event: { type: string; [key: string]: unknown }): void => {
      if (state.isDeaf) return;
      const isPreview = event.type === "event_start" || event.type === "event_delta";
      if (isPreview && !deltas.includes("agent.message")) return;
      stream.write(sse(event.type, event));
      if (event.type === "session.deleted") stream.end(true);
    };
    session.listeners.add(listener);
    return () => session.listeners.delete(listener);
  });
}

const sse = (name: string, data: unknown): string => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
