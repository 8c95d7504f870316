/**
 * The environment and the agent that our sessions run with: made once, remembered, mended when they are gone.
 * **Source:** claude/CLAUDE-API.md sections 1.1 and 1.2.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Random } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Log } from "../log.ts";
import type { ClaudeApi } from "./api.ts";

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
  readonly system: string;
  readonly toolPolicy: ToolPolicy;
  readonly memory: Memory;
  readonly random: Random;
  readonly log: Log;
};

export type AgentIds = { readonly environmentId: string; readonly agentId: string };

export interface AgentKeeper {
  /** Resolves to an environment and an agent with the model, system prompt and tools of now, as far as remembered. */
  ensure(signal: AbortSignal): Promise<AgentIds>;
  /** Looks whether the remembered ones still exist; true when one was forgotten, so that `ensure` makes it anew. */
  forgetLost(signal: AbortSignal): Promise<boolean>;
  /** The remembered agent, null before the first `ensure` of this home. */
  agentId(): string | null;
}

const environmentKey = "claude.environment";
const agentKey = "claude.agent";
const name = "signalman";

type Tools = NonNullable<Anthropic.Beta.AgentCreateParams["tools"]>;
type ToolConfigs = NonNullable<Extract<Tools[number], { type: "agent_toolset_20260401" }>["configs"]>;

export function createAgentKeeper(deps: AgentDeps): AgentKeeper {
  const { memory } = deps;
  let running: Promise<AgentIds> | null = null;
  const remembered = (key: string): string | null => memory.get(key) || null;
  const agentId = (): string | null => remembered(agentKey)?.split(" ", 1)[0] ?? null;
  return {
    agentId,
    ensure(signal) {
      // Lanes ask at the same time; one answer serves them all.
      running ??= (async () => ({
        environmentId: await ensureEnvironment(deps, remembered(environmentKey), signal),
        agentId: await ensureAgent(deps, remembered(agentKey), signal),
      }))().finally(() => {
        running = null;
      });
      return running;
    },
    async forgetLost(signal) {
      const { api } = deps;
      const environment = remembered(environmentKey);
      const agent = agentId();
      const isLost = async (
        what: string,
        get: (client: Anthropic) => PromiseLike<{ archived_at: string | null }>,
      ): Promise<boolean> => {
        const found = await orNull(api.call({ what }, get));
        return found === null || found.archived_at !== null;
      };
      let isAnyLost = false;
      if (
        environment !== null &&
        (await isLost("look up the environment", (client) =>
          client.beta.environments.retrieve(environment, {}, { signal }),
        ))
      ) {
        memory.set(environmentKey, "");
        isAnyLost = true;
      }
      if (
        agent !== null &&
        (await isLost("look up the agent", (client) => client.beta.agents.retrieve(agent, {}, { signal })))
      ) {
        memory.set(agentKey, "");
        isAnyLost = true;
      }
      return isAnyLost;
    },
  };
}

async function ensureEnvironment(deps: AgentDeps, known: string | null, signal: AbortSignal): Promise<string> {
  if (known !== null) return known;
  const { api, memory, log, random } = deps;
  const site = { what: "create the environment", notFound: "claude_forbidden" } as const;
  const create = async (name: string): Promise<string | null> => {
    try {
      const config = { type: "cloud", networking: { type: "limited", allow_package_managers: true } } as const;
      return (await api.call(site, (client) => client.beta.environments.create({ name, config }, { signal }))).id;
    } catch (error) {
      // 409: the name is taken. Whatever else is wrong shows when the list is asked for.
      if (error instanceof BridgeError && error.code === "claude_protocol") return null;
      throw error;
    }
  };
  const find = (): Promise<string | null> =>
    api.call({ what: "list the environments", notFound: "claude_forbidden" }, async (client) => {
      for await (const environment of client.beta.environments.list({ limit: 100 }, { signal }))
        if (environment.name === name && environment.archived_at === null && environment.config.type === "cloud")
          return environment.id;
      return null;
    });
  // An archived environment keeps its name: then ours gets a longer one.
  const id =
    (await create(name)) ?? (await find()) ?? (await create(`${name}-${Math.floor(random() * 36 ** 6).toString(36)}`));
  if (id === null) throw new BridgeError("claude_protocol", "Cannot create the environment as its name is refused");
  memory.set(environmentKey, id);
  log.info("claude environment ready", { environment: id });
  return id;
}

/** The remembered value is the id and, after a space, what the agent was made of. */
async function ensureAgent(deps: AgentDeps, known: string | null, signal: AbortSignal): Promise<string> {
  const { api, memory, log, model, system } = deps;
  const params = { name, model, system, tools: toTools(deps.toolPolicy) };
  const print = JSON.stringify(params);
  const [id, ...rest] = known?.split(" ") ?? [];
  if (id !== undefined && rest.join(" ") === print) return id;
  const updated =
    id === undefined
      ? null
      : await orNull(
          api.call({ what: "update the agent" }, (client) => client.beta.agents.update(id, params, { signal })),
        );
  const agent =
    updated ??
    (await api.call({ what: "create the agent", notFound: "claude_model" }, (client) =>
      client.beta.agents.create(params, { signal }),
    ));
  memory.set(agentKey, `${agent.id} ${print}`);
  log.info("claude agent ready", { agent: agent.id, version: agent.version });
  return agent.id;
}

/** Null where the API does not know it, or refuses it as it is (archived). */
async function orNull<T>(work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof BridgeError && error.code === "claude_request") return null;
    throw error;
  }
}

function toTools(policy: ToolPolicy): Tools {
  if (policy === "off") return [];
  const always = { permission_policy: { type: policy === "allow" ? "always_allow" : "always_ask" } } as const;
  const freely = { permission_policy: { type: "always_allow" } } as const;
  const configs: ToolConfigs = [
    { name: "read", ...freely },
    { name: "glob", ...freely },
    { name: "grep", ...freely },
    { name: "web_search", ...freely },
  ];
  return [
    {
      type: "agent_toolset_20260401",
      default_config: { enabled: true, ...always },
      ...(policy === "ask" ? { configs } : {}),
    },
  ];
}
