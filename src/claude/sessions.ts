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
import type { Millis, SessionEvent } from "../core/model.ts";
import { createAgentKeeper, nullFor, type AgentDeps, type AgentKeeper } from "./agent.ts";
import { headersTimeoutMs, uploadTimeoutMs, type ClaudeApi } from "./api.ts";
import type { Backend, RemoteFile, RemoteSession, RemoteSessions, SessionView } from "./backend.ts";
import type { Site } from "./failure.ts";
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
  const line = { ...createRemote(deps), ...createLine(deps, createAgentKeeper(deps)) };
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
    const { model, title, metadata } = session;
    const system = systemOf(deps, session.system);
    const isOwn = model === deps.model && system === deps.system;
    const params = {
      agent: isOwn ? agentId : ({ type: "agent_with_overrides", id: agentId, model, system } as const),
      environment_id: environmentId,
      title: toTitle(title),
      metadata: { ...metadata },
    };
    const refused = isOwn ? "claude_request" : "claude_model";
    const site = { what: "create a session", notFound: "claude_model", refused } as const;
    return idOf(await api.call(site, ({ beta }) => beta.sessions.create(params, { signal })), site.what);
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
      const site = { what: "follow the session" };
      const deltas = { event_deltas: ["agent.message" as const] };
      return toFrames(
        await api.stream(site, ({ beta }, options) => beta.sessions.events.stream(remoteId, deltas, options), signal),
      );
    },
    async prompts(remoteId, signal) {
      const prompts: SessionEvent[] = [];
      const query: EventQuery = { limit: promptPageMax, order: "desc", types: ["user.message"] };
      for await (const page of eventsOf(api, remoteId, signal).pages(query)) prompts.push(...page);
      return prompts.reverse();
    },
    async send(remoteId, { text, files }, signal) {
      const events = eventsOf(api, remoteId, signal);
      const message: SentEvent = { type: "user.message", content: toBlocks(text, files) };
      try {
        const echo = await events.post("send the prompt", [message], uploadTimeoutMs(files));
        if (echo?.type === "prompt") return echo;
      } catch (error) {
        if (!isCode(error, "claude_request")) throw error;
        // **Source:** claude/CLAUDE-API.md 1.8 ("Accepts next").
        const last = await events.newest(1, "session.status_idle").catch(() => []);
        if (last[0]?.type !== "idle" || last[0].stop.kind !== "budget_reached") throw error;
        throw new BridgeError("claude_budget", "Cannot send the prompt as the session's budget is used up");
      }
      // It is in the log, but as what? The next turn looks it up.
      throw new BridgeError("claude_stream_lost", "Cannot follow the prompt as the Claude API did not echo it");
    },
    async putAside(remoteId, toolUseIds, signal) {
      const no = toolUseIds.map((id) => confirmation(id, false, "The person went on to something else."));
      await eventsOf(api, remoteId, signal).post("put the question aside", [...no, interruption]);
    },
  };
}

async function* toFrames(frames: AsyncIterable<unknown>): AsyncGenerator<Frame> {
  for await (const wire of frames) {
    const frame = wire === "silent" ? ({ kind: "silent" } as const) : toFrame(wire);
    if (frame) yield frame;
  }
}

function createRemote({ api, clock }: SessionsDeps): RemoteSessions {
  const retrieve: RemoteSessions["retrieve"] = async (remoteId, signal) => {
    const site = { what: "look up the session", notFound: "unsupported" } as const;
    const found = await nullFor(
      "unsupported",
      api.call(site, ({ beta }) => beta.sessions.retrieve(remoteId, {}, { signal })),
    );
    return found && toRemoteSession(found, site.what);
  };
  const interrupt: RemoteSessions["interrupt"] = async (remoteId, signal) =>
    void (await eventsOf(api, remoteId, signal).post("interrupt the turn", [interruption]));
  return {
    ...createFiles(api),
    retrieve,
    interrupt,
    skewMs: api.skewMs,
    events: (remoteId, since, signal) => eventsOf(api, remoteId, signal).since(since),
    async update(remoteId, { title, metadata }, signal) {
      const site = { what: "update the session" };
      const params = {
        ...(title === undefined ? {} : { title: toTitle(title) }),
        ...(Object.keys(metadata).length === 0 ? {} : { metadata: { ...metadata } }),
      };
      const updated = await api.call(site, ({ beta }) => beta.sessions.update(remoteId, params, { signal }));
      return toRemoteSession(updated, site.what);
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
      const events = eventsOf(api, remoteId, signal);
      try {
        await events.post("answer the tool use", [confirmation(toolUseId, isAllowed, reason)]);
      } catch (error) {
        if (!isCode(error, "claude_request")) throw error;
        // What a second answer gets is not documented: if one is in the log, this question is settled.
        for await (const page of events.since(null))
          if (page.some((seen) => "toolUseId" in seen && seen.toolUseId === toolUseId)) return;
        throw error;
      }
    },
  };
}

function createFiles(api: ClaudeApi): Pick<RemoteSessions, "files" | "download"> {
  return {
    async files(remoteId, signal) {
      const site = { what: "list the files" };
      const found: RemoteFile[] = [];
      const query = { scope_id: remoteId, limit: 100, ...filesBeta };
      for await (const page of walk(api, site, ({ beta }) => beta.files.list(query, { signal }))) {
        // What was mounted into the session is there too, and cannot be downloaded.
        for (const wire of page.map(fields))
          if (wire["downloadable"] !== false)
            found.push({
              id: idOf(wire, site.what),
              name: string(wire["filename"]),
              contentType: string(wire["mime_type"]),
              sizeBytes: count(wire["size_bytes"]),
              createdAt: toMillis(wire["created_at"]) ?? 0,
            });
        if (found.length >= filesMax) break;
      }
      // Newest first, where times tie.
      return found.reverse().sort((a, b) => a.createdAt - b.createdAt);
    },
    // Deleted, expired or not for us: null.
    download: (fileId, bytesMax, signal) =>
      nullFor(
        "claude_request",
        api.bytes(
          { what: "fetch a file" },
          ({ beta }, options) => beta.files.download(fileId, filesBeta, options),
          bytesMax,
          signal,
        ),
      ),
  };
}

/** The event log of one session. */
function eventsOf(api: ClaudeApi, remoteId: string, signal: AbortSignal) {
  const site = { what: "list the session's events" };
  async function* pages(query: EventQuery): AsyncGenerator<SessionEvent[]> {
    for await (const page of walk(api, site, ({ beta }) => beta.sessions.events.list(remoteId, query, { signal })))
      yield page.map(toSessionEvent).filter((event) => event !== null);
  }
  /** One page of the newest of these types, newest first. */
  const newest = async (limit: number, ...types: NonNullable<EventQuery["types"]>): Promise<SessionEvent[]> => {
    for await (const page of pages({ limit, order: "desc", types })) return page;
    return [];
  };
  return {
    pages,
    newest,
    /** By `processed_at` from `since` on; then what is still queued, which no time filter matches. */
    async *since(since: Millis | null): AsyncGenerator<readonly SessionEvent[]> {
      const from: EventQuery = since === null ? {} : { "created_at[gte]": new Date(since).toISOString() };
      yield* pages({ ...from, limit: pageMax, order: "asc" });
      if (since === null) return;
      const queued = await newest(queuedMax, "user.message", "user.tool_confirmation");
      yield queued.filter((event) => event.at === null).reverse();
    },
    /** Posts events once; resolves to the first one's echo, where there is one. */
    async post(what: string, events: SentEvent[], timeout = headersTimeoutMs): Promise<SessionEvent | null> {
      const options = { signal, timeout };
      const sent: unknown = await api.call({ what }, ({ beta }) =>
        beta.sessions.events.send(remoteId, { events }, options),
      );
      const { data } = fields(sent);
      return toSessionEvent(Array.isArray(data) ? data[0] : null);
    },
  };
}

type Page<T> = { readonly data: readonly T[]; hasNextPage(): boolean; getNextPage(): Promise<Page<T>> };

/** Pages one by one: each is a call of its own, and what was yielded before one fails stays valid. */
async function* walk<T>(
  api: ClaudeApi,
  site: Site,
  list: (client: Anthropic) => PromiseLike<Page<T>>,
): AsyncGenerator<readonly T[]> {
  for (let page: Page<T> | null = await api.call(site, list); page !== null;) {
    const now: Page<T> = page;
    yield Array.isArray(now.data) ? now.data : [];
    page = await api.call(site, async () => (now.hasNextPage() ? now.getNextPage() : null));
  }
}

const interruption: SentEvent = { type: "user.interrupt" };

const confirmation = (toolUseId: string, isAllowed: boolean, reason: string | null): SentEvent => ({
  type: "user.tool_confirmation",
  tool_use_id: toolUseId,
  result: isAllowed ? "allow" : "deny",
  ...(isAllowed || reason === null ? {} : { deny_message: reason.slice(0, denyMessageMax) }),
});

/** Cut inside a character it would be no text any more. */
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
