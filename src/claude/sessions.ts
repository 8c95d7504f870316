/**
 * The backend `sessions`: Claude Managed Agents. The session lives at the API and goes on working while we are away.
 *
 *   agent.ts          the environment and the agent, made once
 *   session-turn.ts   the turn: open, list, reconcile, send, listen
 *   here              the line between that and the API
 *
 * Nothing that says who a person is goes to the remote side: only what the caller puts into title, metadata and prompt.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { SessionEvent } from "../core/model.ts";
import { createAgentKeeper, type AgentDeps, type AgentKeeper } from "./agent.ts";
import { uploadTimeoutMs, type ClaudeApi, type RequestOptions } from "./api.ts";
import type { Backend, RemoteFile, RemoteSession, RemoteSessions, SessionView } from "./backend.ts";
import { runTurn, type SessionLine } from "./session-turn.ts";
import {
  count,
  fields,
  idOf,
  string,
  toBlocks,
  toFrame,
  toMetadata,
  toMillis,
  toSessionEvent,
  type Frame,
} from "./wire.ts";

export type { Memory, ToolPolicy } from "./agent.ts";
export type SessionsDeps = AgentDeps & { readonly clock: Clock };

type EventQuery = NonNullable<Parameters<Anthropic["beta"]["sessions"]["events"]["list"]>[1]>;
type SentEvent = Anthropic.Beta.Sessions.EventSendParams["events"][number];

/** **Source:** claude/CLAUDE-API.md 1.5: 1000 is the documented default and largest page. */
const pageMax = 1000;
/** Prompts echo their files: small pages keep an answer small. */
const promptPageMax = 100;
/** Queued entries are at most the few that were posted while a turn ran. */
const queuedMax = 20;
/** More files than that no chat can ask for: an endpoint that pages for ever must not hold us. */
const filesMax = 1000;
/** **Source:** claude/CLAUDE-API.md 1.3 and 1.4. */
const titleMax = 500;
const denyMessageMax = 10_000;
/** A running session cannot be archived: it is interrupted and looked at this often, this many times. */
const archivePollMs = 1_000;
const archivePolls = 30;
/** What a session's agent writes there is listed under the session's id. **Source:** Managed Agents guide, "Session outputs". */
const outputsFolder = "/mnt/session/outputs/";
const filesBeta = { betas: ["managed-agents-2026-04-01"] };

/** @param deps.memory remembers ids across restarts; @param deps.model @param deps.system make the agent, a session may differ */
export function createSessionsBackend(plain: SessionsDeps): Backend {
  const deps = { ...plain, system: systemOf(plain, plain.system) };
  const keeper = createAgentKeeper(deps);
  const line = { ...createRemote(deps, keeper), ...createLine(deps, keeper) };
  return {
    name: "sessions",
    remote: line,
    turn: (session, prompt, signal) => runTurn(line, session, prompt, signal),
    async check(signal) {
      await deps.api.models(signal);
      const site = { what: "use Managed Agents", notFound: "claude_forbidden" } as const;
      await deps.api.call(site, ({ beta }) => beta.agents.list({ limit: 1 }, { signal }));
    },
    models: deps.api.models,
  };
}

/** Without tools it can write no file. */
const systemOf = ({ toolPolicy }: SessionsDeps, system: string): string =>
  toolPolicy === "off" ? system : `${system}\n\nFiles that you save in ${outputsFolder} are sent to the chat.`.trim();

function createLine(deps: SessionsDeps, keeper: AgentKeeper): Omit<SessionLine, keyof RemoteSessions> {
  const { api } = deps;
  const createWith = async (session: SessionView, signal: AbortSignal): Promise<string> => {
    const { environmentId, agentId } = await keeper.ensure(signal);
    const { model } = session;
    const system = systemOf(deps, session.system);
    const isOwn = model === deps.model && system === deps.system;
    const what = "create a session";
    const params = {
      agent: isOwn ? agentId : ({ type: "agent_with_overrides", id: agentId, model, system } as const),
      environment_id: environmentId,
      title: session.title.slice(0, titleMax),
      metadata: { ...session.metadata },
    };
    const site = { what, notFound: "claude_model" } as const;
    return idOf(await api.call(site, ({ beta }) => beta.sessions.create(params, { signal })), what);
  };
  return {
    async create(session, signal) {
      try {
        return await createWith(session, signal);
      } catch (error) {
        // Deleted or archived behind our back: mended once. Nothing was created, so this asks nothing twice.
        if (!isCode(error, "claude_request", "claude_model") || !(await keeper.forgetLost(signal))) throw error;
        return await createWith(session, signal);
      }
    },
    async open(remoteId, signal) {
      const deltas = { event_deltas: ["agent.message" as const] };
      return toFrames(
        await api.stream(
          { what: "follow the session" },
          ({ beta }, options) => beta.sessions.events.stream(remoteId, deltas, options),
          signal,
        ),
      );
    },
    async prompts(remoteId, signal) {
      const prompts: SessionEvent[] = [];
      const query: EventQuery = { limit: promptPageMax, order: "desc", types: ["user.message"] };
      for await (const page of pages(api, "list the prompts", remoteId, query, signal)) prompts.push(...page);
      return prompts.reverse();
    },
    async send(remoteId, { text, files }, signal) {
      try {
        const content = toBlocks(text, files);
        const timeout = uploadTimeoutMs(files);
        const echo = await post(api, "send the prompt", remoteId, [{ type: "user.message", content }], {
          signal,
          timeout,
        });
        if (echo?.type === "prompt") return echo;
      } catch (error) {
        if (isCode(error, "claude_request")) throw await explainRefusal(api, remoteId, error, signal);
        throw error;
      }
      // It is in the log, but as what? The next turn looks it up.
      throw new BridgeError("claude_stream_lost", "Cannot follow the prompt as the Claude API did not echo it");
    },
    async putAside(remoteId, toolUseIds, signal) {
      const no = toolUseIds.map((id) => confirmation(id, false, "The person went on to something else."));
      await post(api, "put the question aside", remoteId, [...no, { type: "user.interrupt" }], { signal });
    },
  };
}

/** Why a session took no prompt, from its last stop. **Source:** claude/CLAUDE-API.md 1.8 ("Accepts next"). */
async function explainRefusal(
  api: ClaudeApi,
  remoteId: string,
  refusal: BridgeError,
  signal: AbortSignal,
): Promise<BridgeError> {
  const query: EventQuery = { limit: 1, order: "desc", types: ["session.status_idle"] };
  const newest = await pages(api, "look up the last stop", remoteId, query, signal)
    .next()
    .then(({ value }) => value?.[0])
    .catch(() => undefined);
  return newest?.type === "idle" && newest.stop.kind === "budget_reached"
    ? new BridgeError("claude_budget", "Cannot send the prompt as the session's budget is used up")
    : refusal;
}

async function* toFrames(frames: AsyncIterable<unknown>): AsyncGenerator<Frame> {
  for await (const wire of frames) {
    const frame = wire === "silent" ? ({ kind: "silent" } as const) : toFrame(wire);
    if (frame) yield frame;
  }
}

function createRemote({ api, clock }: SessionsDeps, keeper: AgentKeeper): RemoteSessions {
  const retrieve: RemoteSessions["retrieve"] = async (remoteId, signal) => {
    const site = { what: "look up the session", notFound: "unsupported" } as const;
    try {
      const found = await api.call(site, ({ beta }) => beta.sessions.retrieve(remoteId, {}, { signal }));
      return toRemoteSession(found, site.what);
    } catch (error) {
      if (isCode(error, "unsupported")) return null;
      throw error;
    }
  };
  const interrupt: RemoteSessions["interrupt"] = async (remoteId, signal) =>
    void (await post(api, "interrupt the turn", remoteId, [{ type: "user.interrupt" }], { signal }));
  return {
    retrieve,
    interrupt,
    events: (remoteId, since, signal) => listEvents(api, remoteId, since, signal),
    async update(remoteId, { title, metadata }, signal) {
      const what = "update the session";
      const params = {
        ...(title === undefined ? {} : { title: title.slice(0, titleMax) }),
        ...(Object.keys(metadata).length === 0 ? {} : { metadata: { ...metadata } }),
      };
      const updated = await api.call({ what }, ({ beta }) => beta.sessions.update(remoteId, params, { signal }));
      return toRemoteSession(updated, what);
    },
    async *list(signal) {
      const agentId = keeper.agentId();
      if (agentId === null) return;
      const what = "list the sessions";
      const query = { agent_id: agentId, order: "desc", limit: 100 } as const;
      for await (const page of walk(api, what, ({ beta }) => beta.sessions.list(query, { signal })))
        for (const wire of page) yield toRemoteSession(wire, what);
    },
    async archive(remoteId, signal) {
      for (let polls = 0; ; polls++) {
        const there = await retrieve(remoteId, signal);
        if (there === null || there.isArchived) return;
        const isRunning = there.status === "running" || there.status === "rescheduling";
        if (!isRunning || polls >= archivePolls) break;
        if (polls === 0) await interrupt(remoteId, signal);
        await clock.sleep(archivePollMs, signal);
      }
      const site = { what: "archive the session" };
      await api.call(site, ({ beta }) => beta.sessions.archive(remoteId, {}, { signal }));
    },
    async confirm(remoteId, toolUseId, isAllowed, reason, signal) {
      try {
        await post(api, "answer the tool use", remoteId, [confirmation(toolUseId, isAllowed, reason)], { signal });
      } catch (error) {
        if (!isCode(error, "claude_request")) throw error;
        // What a second answer gets is not documented: if one is in the log, this question is settled.
        for await (const page of listEvents(api, remoteId, null, signal))
          if (page.some((seen) => "toolUseId" in seen && seen.toolUseId === toolUseId)) return;
        throw error;
      }
    },
    ...createFiles(api),
    skewMs: api.skewMs,
  };
}

function createFiles(api: ClaudeApi): Pick<RemoteSessions, "files" | "download"> {
  return {
    async files(remoteId, signal) {
      const found: RemoteFile[] = [];
      const query = { scope_id: remoteId, limit: 100, ...filesBeta };
      for await (const page of walk(api, "list the files", ({ beta }) => beta.files.list(query, { signal }))) {
        // What was mounted into the session is there too, and cannot be downloaded.
        for (const wire of page) if (fields(wire)["downloadable"] !== false) found.push(toRemoteFile(wire));
        if (found.length >= filesMax) break;
      }
      // Newest first, where times tie.
      return found.reverse().sort((a, b) => a.createdAt - b.createdAt);
    },
    async download(fileId, bytesMax, signal) {
      const site = { what: "fetch a file" };
      try {
        return await api.bytes(
          site,
          ({ beta }, options) => beta.files.download(fileId, filesBeta, options),
          bytesMax,
          signal,
        );
      } catch (error) {
        // Deleted, expired, or not for us.
        if (isCode(error, "claude_request")) return null;
        throw error;
      }
    },
  };
}

/** By `processed_at` from `since` on; then what is still queued, which no time filter matches. */
async function* listEvents(
  api: ClaudeApi,
  remoteId: string,
  since: number | null,
  signal: AbortSignal,
): AsyncGenerator<readonly SessionEvent[]> {
  const what = "list the session's events";
  const from: EventQuery = since === null ? {} : { "created_at[gte]": new Date(since).toISOString() };
  yield* pages(api, what, remoteId, { ...from, limit: pageMax, order: "asc" }, signal);
  if (since === null) return;
  const newest: EventQuery = { limit: queuedMax, order: "desc", types: ["user.message", "user.tool_confirmation"] };
  const first = await pages(api, what, remoteId, newest, signal).next();
  const queued = (first.value ?? []).filter((event) => event.at === null);
  if (queued.length > 0) yield queued.reverse();
}

async function* pages(
  api: ClaudeApi,
  what: string,
  remoteId: string,
  query: EventQuery,
  signal: AbortSignal,
): AsyncGenerator<SessionEvent[], undefined> {
  for await (const page of walk(api, what, ({ beta }) => beta.sessions.events.list(remoteId, query, { signal })))
    yield page.map(toSessionEvent).filter((event) => event !== null);
}

type Page<T> = { readonly data: readonly T[]; hasNextPage(): boolean; getNextPage(): Promise<Page<T>> };

/** Pages one by one: each is a call of its own, and what was yielded before one fails stays valid. */
async function* walk<T>(
  api: ClaudeApi,
  what: string,
  list: (client: Anthropic) => PromiseLike<Page<T>>,
): AsyncGenerator<readonly T[]> {
  for (let page: Page<T> | null = await api.call({ what }, list); page !== null;) {
    const now: Page<T> = page;
    yield Array.isArray(now.data) ? now.data : [];
    page = await api.call({ what }, async () => (now.hasNextPage() ? now.getNextPage() : null));
  }
}

const confirmation = (toolUseId: string, isAllowed: boolean, reason: string | null): SentEvent => ({
  type: "user.tool_confirmation",
  tool_use_id: toolUseId,
  result: isAllowed ? "allow" : "deny",
  ...(isAllowed || reason === null ? {} : { deny_message: reason.slice(0, denyMessageMax) }),
});

/** Events, sent once; resolves to the first one's echo, where there is one. */
async function post(
  api: ClaudeApi,
  what: string,
  remoteId: string,
  events: SentEvent[],
  options: RequestOptions,
): Promise<SessionEvent | null> {
  const sent: unknown = await api.call({ what }, ({ beta }) =>
    beta.sessions.events.send(remoteId, { events }, options),
  );
  const { data } = fields(sent);
  return toSessionEvent(Array.isArray(data) ? data[0] : null);
}

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

function toRemoteFile(wire: unknown): RemoteFile {
  const { filename, mime_type, size_bytes, created_at } = fields(wire);
  return {
    id: idOf(wire, "list the files"),
    name: string(filename),
    contentType: string(mime_type),
    sizeBytes: count(size_bytes),
    createdAt: toMillis(created_at) ?? 0,
  };
}
