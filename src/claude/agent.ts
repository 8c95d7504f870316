/**
 * The environment and the agent that our sessions run with: made once, remembered, mended when they are gone.
 * **Source:** Managed Agents guide, "Define your agent" and "Cloud environments".
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Random } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Log } from "../log.ts";
import type { ClaudeApi } from "./api.ts";
import { nullFor } from "./failure.ts";
import type { LocalTool } from "./line.ts";
import { fields, idOf } from "./wire.ts";

/**
 * What Claude may do with the tools of its cloud sandbox. `off`: none at all. `ask`: reading and searching freely, anything
 * that runs or writes after a person's yes. `allow`: everything.
 */
export type ToolPolicy = "off" | "ask" | "allow";

/** Remembers ids across restarts; the values are ours to choose. */
export interface Memory {
  get(key: string): string | null;
  set(key: string, value: string): void;
}

export type AgentDeps = {
  readonly api: ClaudeApi;
  readonly model: string;
  readonly effort: string;
  readonly system: string;
  readonly toolPolicy: ToolPolicy;
  /** Of ours, that every session has. */
  readonly tools?: readonly LocalTool[];
  readonly memory: Memory;
  readonly random: Random;
  readonly log: Log;
};

const environmentKey = "claude.environment";
/** The id and, after a space, what the agent was made of. */
const agentKey = "claude.agent";
const name = "signalman";

const remembered = ({ memory }: AgentDeps, key: string): string | null => memory.get(key) || null;
const agentIdOf = (deps: AgentDeps): string | null => remembered(deps, agentKey)?.split(" ", 1)[0] ?? null;

export type AgentKeeper = ReturnType<typeof createAgentKeeper>;

export function createAgentKeeper(deps: AgentDeps) {
  const { api, memory } = deps;
  const make = async (signal: AbortSignal) => ({
    environmentId: await ensureEnvironment(deps, signal),
    agentId: await ensureAgent(deps, signal),
  });
  let running: { readonly made: ReturnType<typeof make>; readonly stop: AbortController; waiting: number } | null =
    null;
  const begin = (): NonNullable<typeof running> => {
    const stop = new AbortController();
    const made = make(stop.signal).finally(() => running?.stop === stop && (running = null));
    made.catch(() => {});
    return { stop, made, waiting: 0 };
  };
  return {
    /**
     * An environment and an agent with the model, system prompt and tools of now. Chats ask together, and one answer serves all:
     * it is given up only when all of them have.
     */
    async ensure(signal: AbortSignal): ReturnType<typeof make> {
      if (running === null || running.stop.signal.aborted) running = begin();
      const mine = running;
      mine.waiting++;
      const given = Promise.withResolvers<never>();
      const giveUp = (): void =>
        given.reject(new BridgeError("claude_unreachable", "Cannot wait for the agent as the wait was given up"));
      if (signal.aborted) giveUp();
      signal.addEventListener("abort", giveUp, { once: true });
      try {
        return await Promise.race([mine.made, given.promise]);
      } finally {
        signal.removeEventListener("abort", giveUp);
        if (--mine.waiting === 0) mine.stop.abort();
      }
    },
    /** Looks whether the remembered ones still exist; true when one was forgotten, so that `ensure` makes it anew. */
    async forgetLost(signal: AbortSignal): Promise<boolean> {
      type Look = (client: Anthropic, id: string) => PromiseLike<{ readonly archived_at: string | null }>;
      const isLost = async (key: string, id: string | null, look: Look): Promise<boolean> => {
        if (id === null) return false;
        const looking = api.call({ what: "look up agent and environment" }, (client) => look(client, id));
        const found = await nullFor("claude_request", looking);
        if (found && !found.archived_at) return false;
        memory.set(key, "");
        return true;
      };
      const [environment, agent] = [remembered(deps, environmentKey), agentIdOf(deps)];
      return [
        await isLost(environmentKey, environment, ({ beta }, id) => beta.environments.retrieve(id, {}, { signal })),
        await isLost(agentKey, agent, ({ beta }, id) => beta.agents.retrieve(id, {}, { signal })),
      ].includes(true);
    },
  };
}

async function ensureEnvironment(deps: AgentDeps, signal: AbortSignal): Promise<string> {
  const known = remembered(deps, environmentKey);
  if (known !== null) return known;
  const { api, memory, log, random } = deps;
  const site = { what: "create the environment", notFound: "claude_forbidden", conflict: "unsupported" } as const;
  const config = { type: "cloud", networking: { type: "limited", allow_package_managers: true } } as const;
  // 409: the name is taken. Whatever else is wrong shows when the list is asked for.
  const create = async (name: string): Promise<string | undefined> => {
    const making = api.call(site, ({ beta }) => beta.environments.create({ name, config }, { signal }));
    return (await nullFor("unsupported", making))?.id;
  };
  const find = (): Promise<string | undefined> =>
    api.call({ ...site, what: "list the environments" }, async ({ beta }) => {
      for await (const found of beta.environments.list({ limit: 100 }, { signal }))
        if (found.name === name && !found.archived_at && isOurs(found.config)) return found.id;
      return undefined;
    });
  // Archived, or open to more of the network than ours: it keeps its name, and ours gets a longer one.
  const longer = `${name}-${Math.floor(random() * 36 ** 6).toString(36)}`;
  const id = (await create(name)) ?? (await find()) ?? (await create(longer));
  if (id === undefined)
    throw new BridgeError("claude_protocol", "Cannot create the environment as its name is refused");
  memory.set(environmentKey, id);
  log.info("claude environment ready", { environment: id });
  return id;
}

/** An environment of our name may have been made by hand: it is taken only where its networking is what ours would have. */
function isOurs(config: unknown): boolean {
  const { type, networking } = fields(config);
  const { type: reach, allow_package_managers, allow_mcp_servers, allowed_hosts } = fields(networking);
  const isNarrow = allow_mcp_servers !== true && (!Array.isArray(allowed_hosts) || allowed_hosts.length === 0);
  return type === "cloud" && reach === "limited" && allow_package_managers === true && isNarrow;
}

async function ensureAgent(deps: AgentDeps, signal: AbortSignal): Promise<string> {
  const { api, memory, log, model, effort, system } = deps;
  const rest = { name, system, tools: toTools(deps.toolPolicy, deps.tools ?? []) };
  const print = JSON.stringify({ ...rest, model, effort });
  const id = agentIdOf(deps);
  if (id !== null && remembered(deps, agentKey) === `${id} ${print}`) return id;
  const create = { what: "create the agent", refused: "claude_settings" } as const;
  // Unknown there, or archived: then a new one is made.
  const agent = await withEffort(model, effort, async (model) => {
    const params = { ...rest, model };
    const updating =
      id !== null && api.call({ what: "update the agent" }, ({ beta }) => beta.agents.update(id, params, { signal }));
    const updated = updating && (await nullFor("claude_request", updating));
    return updated || api.call(create, ({ beta }) => beta.agents.create(params, { signal }));
  });
  const made = idOf(agent, create.what);
  memory.set(agentKey, `${made} ${print}`);
  log.info("claude agent ready", { agent: made, version: agent.version });
  return made;
}

type Tools = NonNullable<Anthropic.Beta.AgentCreateParams["tools"]>;
type Effort = "low" | "medium" | "high" | "xhigh" | "max";

type ModelConfig = { readonly id: string; readonly effort?: Effort };

/** A bare id would mean high effort; but some models take no effort at all, or not this one. */
export async function withEffort<T>(id: string, effort: string, make: (model: ModelConfig) => Promise<T>): Promise<T> {
  return (await nullFor("claude_effort", make({ id, effort: effort as Effort }))) ?? make({ id });
}

const freeTools = ["read", "glob", "grep", "web_search", "web_fetch"] as const;

/** Beside tools of this machine Claude has no sandbox: two machines would confuse it. There `web_fetch` asks, for it could carry files away. */
export function toTools(policy: ToolPolicy, local: readonly LocalTool[]): Tools {
  const permission = (type: "always_allow" | "always_ask") => ({ permission_policy: { type } });
  const type = "agent_toolset_20260401";
  const ours = local.map((tool) => ({
    type: "custom" as const,
    name: tool.name,
    description: tool.description,
    input_schema: { ...tool.inputSchema, type: "object" as const },
  }));
  if (local.some(({ isOfMachine }) => isOfMachine)) {
    const search = { name: "web_search", enabled: true, ...permission("always_allow") } as const;
    const fetch = { name: "web_fetch", enabled: true, ...permission("always_ask") } as const;
    const web = { type, default_config: { enabled: false }, configs: [search, fetch] } as const;
    return [...(policy === "off" ? [] : [{ ...web, configs: [...web.configs] }]), ...ours];
  }
  if (policy === "off") return ours;
  const configs = freeTools.map((name) => ({ name, ...permission("always_allow") }));
  const rest = { enabled: true, ...permission(policy === "allow" ? "always_allow" : "always_ask") };
  return [{ type, default_config: rest, ...(policy === "ask" ? { configs } : {}) }, ...ours];
}
