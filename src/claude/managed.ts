/**
 * The line `sessions`: Claude Managed Agents. The session lives at the API and goes on working while we are away.
 *
 *   agent.ts     the environment and the agent, made once
 *   sandbox.ts   files that go into a session and come out of it
 *   here         the session, its event log in pages, and the posts to it
 *
 * Title, metadata and prompt of the caller are all that the remote side gets: no line of this file adds who a person is.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { Millis, PromptFile, SessionEvent } from "../core/model.ts";
import { createAgentKeeper, toTools, withEffort, type AgentDeps, type AgentKeeper, type ToolPolicy } from "./agent.ts";
import { ifThere, uploadTimeoutMs, walk, type ClaudeApi, type Watch } from "./api.ts";
import { nullFor, refusalOf } from "./failure.ts";
import type { Frame, Hear, Line, Remote, RemoteSession, Request, SessionView } from "./line.ts";
import { createSandbox, outputsFolder, type Sandbox } from "./sandbox.ts";
import {
  createFrameReader,
  fields,
  idOf,
  isReadable,
  string,
  toMetadata,
  toSentEvents,
  toSessionEvent,
  type SentEvent,
} from "./wire.ts";

export type { Memory, ToolPolicy } from "./agent.ts";
export type ManagedDeps = AgentDeps & { readonly clock: Clock; readonly toolPolicy: ToolPolicy };

/** **Source:** Managed Agents reference, "Sessions". */
const titleMax = 500;
/** A running session can be neither archived nor deleted: it is interrupted and looked at this often, this many times. */
const restPollMs = 1_000;
const restPolls = 30;
/** After this long with nothing but pings while a session runs, the log is looked at. */
const pingsOnlyMs = 60_000;
/** A session whose answer was lost is looked for among this many of the newest, since it was made just now. */
const recentSessions = 100;

/** @param deps.memory remembers ids across restarts */
export function createManagedLine(deps: ManagedDeps): Line {
  const { api } = deps;
  const keeper = createAgentKeeper(deps);
  const sandbox = createSandbox(api);
  return {
    name: "sessions",
    hasSandbox: (session) => hasSandbox(deps, session),
    remote: createRemote(deps, keeper, sandbox),
    post: (session, requests, hear, signal) => post(deps, sandbox, session, requests, hear, signal),
    async check(signal) {
      await nullFor("claude_models_unlisted", api.models(signal));
      const site = { what: "use Managed Agents", notFound: "claude_forbidden" } as const;
      await api.call(site, ({ beta }) => beta.agents.list({ limit: 1 }, { signal }));
    },
    models: api.models,
    model: api.model,
  };
}

const hasSandbox = ({ toolPolicy }: ManagedDeps, { tools }: Pick<SessionView, "tools">): boolean =>
  toolPolicy !== "off" && !tools.some(({ isOfMachine }) => isOfMachine);

/** The system prompt, which names the folder for files where a sandbox can write them. */
const systemOf = (deps: ManagedDeps, session: Pick<SessionView, "system" | "tools">): string =>
  hasSandbox(deps, session)
    ? `${session.system}\n\nFiles that you save in ${outputsFolder} are sent to the chat.`.trim()
    : session.system;

/** The key of the tools that a session has, so that changed ones are noticed. */
const toolsKey = (remoteId: string): string => `claude.tools.${remoteId}`;
const toolsOf = ({ toolPolicy }: ManagedDeps, { tools }: SessionView) => toTools(toolPolicy, tools);

async function createWith(
  deps: ManagedDeps,
  keeper: AgentKeeper,
  session: SessionView,
  signal: AbortSignal,
): Promise<string> {
  const { environmentId, agentId } = await keeper.ensure(signal);
  const tools = toolsOf(deps, session);
  const own = { type: "agent_with_overrides", id: agentId, system: systemOf(deps, session), tools } as const;
  const rest = { environment_id: environmentId, title: toTitle(session.title), metadata: { ...session.metadata } };
  const site = { what: "create a session", notFound: "claude_model", refused: "claude_settings" } as const;
  const made = await withEffort(session.model, session.effort, (model) =>
    deps.api.call(site, ({ beta }) => beta.sessions.create({ agent: { ...own, model }, ...rest }, { signal })),
  ).catch((error: unknown) => {
    // A refusal that names none of the settings is not about them: it stays one of the request.
    const isOther = isCode(error, "claude_settings") && !/agent|system|tools/iu.test(refusalOf(error)?.sentence ?? "");
    throw isOther ? new BridgeError("claude_request", error.message) : error;
  });
  const id = idOf(made, site.what);
  deps.memory.set(toolsKey(id), JSON.stringify(tools));
  return id;
}

function createRemote(deps: ManagedDeps, keeper: AgentKeeper, sandbox: Sandbox): Remote {
  const { api, clock } = deps;
  return {
    ...createEnds(deps, sandbox),
    files: sandbox.list,
    download: sandbox.download,
    skewMs: api.skewMs,
    async create(session, signal) {
      try {
        return await createWith(deps, keeper, session, signal);
      } catch (error) {
        // A deleted or archived agent or environment is made anew once. No session was created, so none is made twice.
        const isMendable = isCode(error, "claude_request", "claude_model", "claude_settings");
        if (!isMendable || !(await keeper.forgetLost(signal))) throw error;
        return await createWith(deps, keeper, session, signal);
      }
    },
    async find({ metadata }, signal) {
      const ours = metadata["sb.id"];
      if (ours === undefined) return null;
      const site = { what: "look for the session" };
      const query = { limit: recentSessions, order: "desc" } as const;
      for await (const page of walk(api, site, ({ beta }) => beta.sessions.list(query, { signal }))) {
        const found = page.find((wire) => toMetadata(fields(wire)["metadata"])["sb.id"] === ours);
        return found === undefined ? null : idOf(found, site.what);
      }
      return null;
    },
    async open(remoteId, signal) {
      const site = { what: "follow the session" };
      const deltas = { event_deltas: ["agent.message" as const] };
      const watch: Watch = { pingsMs: pingsOnlyMs, movedAt: clock.monotonic() };
      const frames = await api.stream(
        site,
        ({ beta }, options) => beta.sessions.events.stream(remoteId, deltas, options),
        signal,
        watch,
      );
      return toFrames(frames, clock, watch);
    },
    list: (remoteId, part, signal) => eventsOf(api, remoteId, signal).list(part),
    async update(remoteId, { title, metadata }, signal) {
      const site = { what: "update the session" };
      const params = { ...(title === undefined ? {} : { title: toTitle(title) }), metadata: { ...metadata } };
      const updated = await api.call(site, ({ beta }) => beta.sessions.update(remoteId, params, { signal }));
      return toRemoteSession(updated, site.what);
    },
  };
}

/** Looks a session up, and ends it. */
function createEnds(
  { api, clock, memory }: ManagedDeps,
  sandbox: Sandbox,
): Pick<Remote, "retrieve" | "archive" | "remove"> {
  /** Resolves to the session once nothing runs in it, or when that takes too long; null when it is gone. */
  const bringToRest = async (remoteId: string, signal: AbortSignal): Promise<RemoteSession | null> => {
    for (let polls = 0; ; polls++) {
      const there = await lookUp(api, remoteId, signal);
      const isRunning = there?.status === "running" || there?.status === "rescheduling";
      if (!isRunning || polls >= restPolls) return there;
      const events = eventsOf(api, remoteId, signal);
      if (polls === 0) await events.send("interrupt the turn", [{ type: "user.interrupt" }], api.bounds.headersMs);
      await clock.sleep(restPollMs, signal);
    }
  };
  return {
    retrieve: (remoteId, signal) => lookUp(api, remoteId, signal),
    async archive(remoteId, signal) {
      const there = await bringToRest(remoteId, signal);
      if (there === null || there.isArchived) return;
      await api.call({ what: "archive the session" }, ({ beta }) => beta.sessions.archive(remoteId, {}, { signal }));
    },
    async remove(remoteId, signal) {
      if ((await bringToRest(remoteId, signal)) !== null) {
        await sandbox.empty(remoteId, signal);
        await ifThere(api, "delete the session", ({ beta }) => beta.sessions.delete(remoteId, {}, { signal }));
      }
      memory.set(toolsKey(remoteId), "");
    },
  };
}

/** Reads the stream. The watch for pings is off while the session rests, since it has nothing to send then. */
async function* toFrames(wires: AsyncIterable<unknown>, clock: Clock, watch: Watch): AsyncGenerator<Frame> {
  const read = createFrameReader();
  let isRunning = true;
  for await (const wire of wires) {
    const frame = wire === "silent" || wire === "pinging" ? ({ kind: "silent" } as const) : read(wire);
    if (frame?.kind === "event" && frame.event.type !== "other" && frame.event.type !== "usage")
      isRunning = frame.event.type !== "idle";
    watch.movedAt = isRunning ? clock.monotonic() : null;
    if (frame) yield frame;
  }
}

/** Posts a batch once. */
async function post(
  deps: ManagedDeps,
  sandbox: Sandbox,
  session: SessionView,
  requests: readonly Request[],
  hear: Hear,
  signal: AbortSignal,
): Promise<void> {
  const { api } = deps;
  const { remoteId } = session;
  if (remoteId === null) throw new BridgeError("internal", "Cannot post to a session that was not created");
  const events = eventsOf(api, remoteId, signal);
  const files = requests.flatMap((request) => (request.kind === "prompt" ? request.files : []));
  if (requests.some(({ kind }) => kind === "prompt")) await applyTools(deps, session, remoteId, signal);
  const mounted = new Map<PromptFile, string>();
  for (const file of hasSandbox(deps, session) ? files.filter((file) => !isReadable(file)) : [])
    mounted.set(file, await sandbox.mount(remoteId, file, signal));
  const inline = files.filter((file) => !mounted.has(file));
  const timeoutMs = uploadTimeoutMs(inline, api.bounds.headersMs);
  try {
    const sent = await events.send("post to the session", toSentEvents(requests, mounted), timeoutMs);
    for (const event of toEchoes(requests, sent)) hear({ kind: "event", event });
  } catch (error) {
    throw await explain(deps, remoteId, error, signal);
  }
}

/** @throws BridgeError for a request without an echo: its entry must be looked up. An interrupt has not always an echo, and needs none. */
function toEchoes(requests: readonly Request[], echoes: readonly (SessionEvent | null)[]): SessionEvent[] {
  if (requests.some(({ kind }, index) => kind !== "interrupt" && (echoes[index] ?? null) === null))
    throw new BridgeError("claude_protocol", "Cannot follow what was posted as the Claude API did not echo it");
  return echoes.filter((echo) => echo !== null);
}

/** The error of a refused post: that the session is over (a conflict says so too), that it is at work, or the error as it is. */
async function explain({ api }: ManagedDeps, remoteId: string, error: unknown, signal: AbortSignal): Promise<unknown> {
  if (!isCode(error, "claude_protocol", "claude_settings")) return error;
  // A look-up that fails leaves the error as it is.
  const there = await lookUp(api, remoteId, signal).catch(() => undefined);
  const isOver = there === null || there?.isArchived === true || there?.status === "terminated";
  if (isOver) return new BridgeError("claude_request", `${error.message}, and the session is over`);
  const isAtRest = there === undefined || there.status === "idle";
  return isAtRest ? error : new BridgeError("claude_running", `${error.message}, and the session is at work`);
}

/** Null when it was deleted. */
async function lookUp(api: ClaudeApi, remoteId: string, signal: AbortSignal): Promise<RemoteSession | null> {
  const what = "look up the session";
  const found = await ifThere(api, what, ({ beta }) => beta.sessions.retrieve(remoteId, {}, { signal }));
  return found && toRemoteSession(found, what);
}

/** Changed settings reach a session before its next prompt; while it runs they cannot, and the prompt waits. */
async function applyTools(
  deps: ManagedDeps,
  session: SessionView,
  remoteId: string,
  signal: AbortSignal,
): Promise<void> {
  const { api, memory } = deps;
  const tools = toolsOf(deps, session);
  const print = JSON.stringify(tools);
  if (memory.get(toolsKey(remoteId)) === print) return;
  const means = { refused: "claude_settings", notFound: "claude_request" } as const;
  const site = { what: "update the tools of the session", ...means };
  await api
    .call(site, ({ beta }) => beta.sessions.update(remoteId, { agent: { tools } }, { signal }))
    .catch(async (error: unknown) => Promise.reject(await explain(deps, remoteId, error, signal)));
  memory.set(toolsKey(remoteId), print);
}

/** Cuts a title; a character that the cut has halved is mended, or it would be no valid text. */
const toTitle = (title: string): string => title.slice(0, titleMax).toWellFormed();

function isCode(error: unknown, ...codes: readonly ErrorCode[]): error is BridgeError {
  return error instanceof BridgeError && codes.includes(error.code);
}

function toRemoteSession(wire: unknown, what: string): RemoteSession {
  const { title, metadata, status, archived_at, updated_at } = fields(wire);
  return {
    id: idOf(wire, what),
    title: string(title),
    metadata: toMetadata(metadata),
    status: status === "running" || status === "rescheduling" || status === "terminated" ? status : "idle",
    isArchived: typeof archived_at === "string",
    updatedAt: string(updated_at),
  };
}

// --- the event log

type EventQuery = NonNullable<Parameters<Anthropic["beta"]["sessions"]["events"]["list"]>[1]>;

/** Entries of a page, more than a turn has; of the 1,000 that the API would give, results of tools could make too large an answer. */
const pageMax = 250;
/** Prompts echo their files: small pages keep an answer small. */
const promptPageMax = 100;
/** Queued entries are at most the few that were posted while a turn ran. */
const queuedMax = 20;
const queuable: NonNullable<EventQuery["types"]> = [
  "user.message",
  "user.tool_confirmation",
  "user.custom_tool_result",
];

function eventsOf(api: ClaudeApi, remoteId: string, signal: AbortSignal) {
  const site = { what: "list the session's events" };
  async function* pages(query: EventQuery): AsyncGenerator<SessionEvent[]> {
    for await (const page of walk(api, site, ({ beta }) => beta.sessions.events.list(remoteId, query, { signal })))
      yield page.map(toSessionEvent).filter((event) => event !== null);
  }
  return {
    /** Lists by `processed_at` from a time on; then the entries that are still queued, which no time filter matches. */
    async *list(part: Millis | "all" | "prompts"): AsyncGenerator<readonly SessionEvent[]> {
      if (part === "all") return yield* pages({ limit: pageMax, order: "asc" });
      if (part === "prompts") return yield* pages({ limit: promptPageMax, order: "asc", types: ["user.message"] });
      yield* pages({ "created_at[gte]": new Date(part).toISOString(), limit: pageMax, order: "asc" });
      for await (const newest of pages({ limit: queuedMax, order: "desc", types: queuable }))
        return yield newest.filter(({ at }) => at === null).reverse();
    },
    /** Posts events once; resolves to their echoes, null where there is none that can be read. */
    async send(what: string, events: SentEvent[], timeout: Millis): Promise<(SessionEvent | null)[]> {
      const options = { signal, timeout };
      const sent: unknown = await api.call({ what }, ({ beta }) =>
        beta.sessions.events.send(remoteId, { events }, options),
      );
      const { data } = fields(sent);
      return Array.isArray(data) ? data.map(toSessionEvent) : [];
    },
  };
}
