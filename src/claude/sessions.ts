/**
 * The backend `sessions`: Claude Managed Agents. The session lives at the API and goes on working while we are away.
 *
 *   agent.ts          the environment and the agent, made once
 *   session-turn.ts   the turn: open, list, reconcile, send, follow
 *   here              the line between that and the API, and the sessions themselves (`remote`)
 *
 * Nothing that says who a person is goes to the remote side: only what the caller puts into title, metadata and prompt.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Clock } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis, SessionEvent } from "../core/model.ts";
import { createAgentKeeper, type AgentDeps, type AgentKeeper } from "./agent.ts";
import type { ClaudeApi, RequestOptions } from "./api.ts";
import type { Backend, Prompt, RemoteSession, RemoteSessions, SessionView } from "./backend.ts";
import { toBlocks } from "./content.ts";
import { fields, toFrame, toMetadata, toSessionEvent, type Frame } from "./events.ts";
import { listModels } from "./models.ts";
import { runTurn, type SessionLine } from "./session-turn.ts";

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
/** **Source:** claude/CLAUDE-API.md 1.3 and 1.4. */
const titleMax = 500;
const denyMessageMax = 10_000;
/** A running session cannot be archived: it is interrupted and looked at this often, this many times. */
const archivePollMs = 1_000;
const archivePolls = 30;

/** @param deps.memory remembers ids across restarts; @param deps.model @param deps.system make the agent, a session may differ */
export function createSessionsBackend(deps: SessionsDeps): Backend {
  const keeper = createAgentKeeper(deps);
  const remote = createRemote(deps, keeper);
  const line = createLine(deps, keeper, remote);
  return {
    name: "sessions",
    remote,
    turn: (session, prompt, signal) => runTurn(line, session, prompt, signal),
    async interrupt(session, signal) {
      if (session.remoteId !== null)
        await post(deps.api, "interrupt the turn", session.remoteId, { type: "user.interrupt" }, signal);
    },
    async check(signal) {
      await deps.api.call({ what: "list the models" }, (client) => client.models.list({ limit: 1 }, { signal }));
      const site = { what: "use Managed Agents", notFound: "claude_forbidden" } as const;
      await deps.api.call(site, (client) => client.beta.agents.list({ limit: 1 }, { signal }));
    },
    models: (signal) => listModels(deps.api, signal),
  };
}

function createLine(deps: SessionsDeps, keeper: AgentKeeper, remote: RemoteSessions): SessionLine {
  const { api } = deps;
  const createWith = async (session: SessionView, signal: AbortSignal): Promise<string> => {
    const { environmentId, agentId } = await keeper.ensure(signal);
    const isOwn = session.model === deps.model && session.system === deps.system;
    const { model, system } = session;
    const created = await api.call({ what: "create a session", notFound: "claude_model" }, (client) =>
      client.beta.sessions.create(
        {
          agent: isOwn ? agentId : { type: "agent_with_overrides", id: agentId, model, system },
          environment_id: environmentId,
          title: session.title.slice(0, titleMax),
          metadata: { ...session.metadata },
        },
        { signal },
      ),
    );
    return checkId(created, "create a session");
  };
  return {
    retrieve: remote.retrieve,
    events: remote.events,
    skewMs: remote.skewMs,
    async create(session, signal) {
      try {
        return await createWith(session, signal);
      } catch (error) {
        // Deleted or archived behind our back: mended once. Nothing was created, so this asks nothing twice.
        if (!(error instanceof BridgeError)) throw error;
        if (error.code !== "claude_request" && error.code !== "claude_model") throw error;
        if (!(await keeper.forgetLost(signal))) throw error;
        return await createWith(session, signal);
      }
    },
    async open(remoteId, signal) {
      const frames = await api.stream(
        { what: "follow the session" },
        (client, options) => client.beta.sessions.events.stream(remoteId, { event_deltas: ["agent.message"] }, options),
        signal,
      );
      return toFrames(frames);
    },
    prompts: (remoteId, signal) =>
      api.call({ what: "list the prompts" }, async (client) => {
        const prompts: SessionEvent[] = [];
        const query: EventQuery = { limit: promptPageMax, order: "desc", types: ["user.message"] };
        for await (const wire of client.beta.sessions.events.list(remoteId, query, { signal })) {
          const event = toSessionEvent(wire);
          if (event) prompts.push(event);
        }
        return prompts.reverse();
      }),
    send: (remoteId, prompt, signal) => sendPrompt(api, remoteId, prompt, signal),
  };
}

async function sendPrompt(
  api: ClaudeApi,
  remoteId: string,
  prompt: Prompt,
  signal: AbortSignal,
): Promise<SessionEvent> {
  const content = toBlocks(prompt.text, prompt.files);
  try {
    const echo = await post(api, "send the prompt", remoteId, { type: "user.message", content }, signal);
    if (echo?.type === "prompt") return echo;
    // It is in the log, but as what? The next turn looks it up.
    throw new BridgeError("claude_stream_lost", "Cannot follow the prompt as the Claude API did not echo it");
  } catch (error) {
    if (error instanceof BridgeError && error.code === "claude_request")
      throw await explainRefusal(api, remoteId, error, signal);
    throw error;
  }
}

/** Why a session took no prompt, from its last stop. **Source:** claude/CLAUDE-API.md 1.8 ("Accepts next"). */
async function explainRefusal(
  api: ClaudeApi,
  remoteId: string,
  refusal: BridgeError,
  signal: AbortSignal,
): Promise<BridgeError> {
  const query: EventQuery = { limit: 1, order: "desc", types: ["session.status_idle"] };
  const last = await api
    .call({ what: "look up the last stop" }, (client) => client.beta.sessions.events.list(remoteId, query, { signal }))
    .then((page) => toSessionEvent(page.data[0]))
    .catch(() => null);
  return last?.type === "idle" && last.stop.kind === "budget_reached"
    ? new BridgeError("claude_budget", "Cannot send the prompt as the session's budget is used up")
    : refusal;
}

async function* toFrames(frames: AsyncIterable<unknown>): AsyncGenerator<Frame> {
  for await (const wire of frames) {
    const frame = wire === "silent" ? ({ kind: "silent" } as const) : toFrame(wire);
    if (frame) yield frame;
  }
}

function createRemote(deps: SessionsDeps, keeper: AgentKeeper): RemoteSessions {
  const { api, clock } = deps;
  const retrieve: RemoteSessions["retrieve"] = async (remoteId, signal) => {
    const what = "look up the session";
    try {
      const site = { what, notFound: "unsupported" } as const;
      return toRemoteSession(
        await api.call(site, (client) => client.beta.sessions.retrieve(remoteId, {}, { signal })),
        what,
      );
    } catch (error) {
      if (error instanceof BridgeError && error.code === "unsupported") return null;
      throw error;
    }
  };
  return {
    retrieve,
    events: (remoteId, since, signal) => listEvents(api, remoteId, since, signal),
    async update(remoteId, { title, metadata }, signal) {
      const what = "update the session";
      const params = {
        ...(title === undefined ? {} : { title: title.slice(0, titleMax) }),
        ...(Object.keys(metadata).length === 0 ? {} : { metadata: { ...metadata } }),
      };
      return toRemoteSession(
        await api.call({ what }, (client) => client.beta.sessions.update(remoteId, params, { signal })),
        what,
      );
    },
    async *list(signal) {
      const agentId = keeper.agentId();
      if (agentId === null) return;
      const what = "list the sessions";
      let page = await api.call({ what }, (client) =>
        client.beta.sessions.list({ agent_id: agentId, order: "desc", limit: 100 }, { signal }),
      );
      for (;;) {
        for (const wire of page.data) yield toRemoteSession(wire, what);
        const before = page;
        if (!before.hasNextPage()) return;
        page = await api.call({ what }, () => before.getNextPage());
      }
    },
    async archive(remoteId, signal) {
      for (let polls = 0; ; polls++) {
        const there = await retrieve(remoteId, signal);
        if (there === null || there.isArchived) return;
        const isRunning = there.status === "running" || there.status === "rescheduling";
        if (!isRunning || polls >= archivePolls) break;
        if (polls === 0) await post(api, "interrupt the session", remoteId, { type: "user.interrupt" }, signal);
        await clock.sleep(archivePollMs, signal);
      }
      await api.call({ what: "archive the session" }, (client) =>
        client.beta.sessions.archive(remoteId, {}, { signal }),
      );
    },
    confirm: (remoteId, toolUseId, isAllowed, reason, signal) =>
      confirm(api, remoteId, { toolUseId, isAllowed, reason }, signal),
    skewMs: api.skewMs,
  };
}

/** By `processed_at` from `since` on; then what is still queued, which no time filter matches. */
async function* listEvents(
  api: ClaudeApi,
  remoteId: string,
  since: Millis | null,
  signal: AbortSignal,
): AsyncGenerator<readonly SessionEvent[]> {
  const site = { what: "list the session's events" };
  const from: EventQuery = since === null ? {} : { "created_at[gte]": new Date(since).toISOString() };
  let page = await api.call(site, (client) =>
    client.beta.sessions.events.list(remoteId, { ...from, limit: pageMax, order: "asc" }, { signal }),
  );
  for (;;) {
    yield decodeAll(page.data);
    const before = page;
    if (!before.hasNextPage()) break;
    page = await api.call(site, () => before.getNextPage());
  }
  if (since === null) return;
  const newest = await api.call(site, (client) =>
    client.beta.sessions.events.list(
      remoteId,
      { limit: queuedMax, order: "desc", types: ["user.message", "user.tool_confirmation"] },
      { signal },
    ),
  );
  const queued = decodeAll(newest.data).filter((event) => event.at === null);
  if (queued.length > 0) yield queued.reverse();
}

const decodeAll = (wires: readonly unknown[]): SessionEvent[] =>
  wires.map(toSessionEvent).filter((event) => event !== null);

type Verdict = { readonly toolUseId: string; readonly isAllowed: boolean; readonly reason: string | null };

async function confirm(api: ClaudeApi, remoteId: string, verdict: Verdict, signal: AbortSignal): Promise<void> {
  const { toolUseId, isAllowed, reason } = verdict;
  const event: SentEvent = {
    type: "user.tool_confirmation",
    tool_use_id: toolUseId,
    result: isAllowed ? "allow" : "deny",
    ...(isAllowed || reason === null ? {} : { deny_message: reason.slice(0, denyMessageMax) }),
  };
  try {
    await post(api, "answer the tool use", remoteId, event, signal);
  } catch (error) {
    if (!(error instanceof BridgeError) || error.code !== "claude_request") throw error;
    // What a second answer gets is not documented: if one is in the log, this question is settled.
    for await (const page of listEvents(api, remoteId, null, signal))
      for (const seen of page)
        if ((seen.type === "confirmation" || seen.type === "tool_result") && seen.toolUseId === toolUseId) return;
    throw error;
  }
}

/** One event, sent once; resolves to its echo, where there is one. */
async function post(
  api: ClaudeApi,
  what: string,
  remoteId: string,
  event: SentEvent,
  signal: AbortSignal,
): Promise<SessionEvent | null> {
  const options: RequestOptions = { signal };
  const sent = await api.call({ what }, (client) =>
    client.beta.sessions.events.send(remoteId, { events: [event] }, options),
  );
  return toSessionEvent(sent.data?.[0]);
}

function toRemoteSession(wire: unknown, what: string): RemoteSession {
  const session = fields(wire);
  const status = session["status"];
  return {
    id: checkId(wire, what),
    title: typeof session["title"] === "string" ? session["title"] : "",
    metadata: toMetadata(session["metadata"]),
    status: status === "running" || status === "rescheduling" || status === "terminated" ? status : "idle",
    isArchived: typeof session["archived_at"] === "string",
    updatedAt: typeof session["updated_at"] === "string" ? session["updated_at"] : "",
  };
}

function checkId(wire: unknown, what: string): string {
  const { id } = fields(wire);
  if (typeof id === "string" && id !== "") return id;
  throw new BridgeError("claude_protocol", `Cannot ${what} as the answer has no id`);
}
