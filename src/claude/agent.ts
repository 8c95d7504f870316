/**
 * The environment and the agent that our sessions run with: made once, remembered, mended when they are gone.
 * **Source:** claude/CLAUDE-API.md sections 1.1 and 1.2.
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Random } from "../clock.ts";
import { BridgeError, type ErrorCode } from "../core/errors.ts";
import type { Log } from "../log.ts";
import type { ClaudeApi } from "./api.ts";
import { idOf } from "./wire.ts";

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

const environmentKey = "claude.environment";
/** The id and, after a space, what the agent was made of. */
const agentKey = "claude.agent";
const name = "signalman";

const remembered = ({ memory }: AgentDeps, key: string): string | null => memory.get(key) || null;
const agentIdOf = (deps: AgentDeps): string | null => remembered(deps, agentKey)?.split(" ", 1)[0] ?? null;

export type AgentKeeper = ReturnType<typeof createAgentKeeper>;

export function createAgentKeeper(deps: AgentDeps) {
  const ensure = async (signal: AbortSignal) => ({
    environmentId: await ensureEnvironment(deps, signal),
    agentId: await ensureAgent(deps, signal),
  });
  let running: ReturnType<typeof ensure> | null = null;
  return {
    /** An environment and an agent with the model, system prompt and tools of now. Lanes ask together; one answer serves all. */
    ensure: (signal: AbortSignal) => (running ??= ensure(signal).finally(() => (running = null))),
    /** Looks whether the remembered ones still exist; true when one was forgotten, so that `ensure` makes it anew. */
    async forgetLost(signal: AbortSignal): Promise<boolean> {
      const { api, memory } = deps;
      const site = { what: "look up agent and environment" };
      type Look = (client: Anthropic, id: string) => PromiseLike<{ readonly archived_at: string | null }>;
      const looks: [key: string, id: string | null, look: Look][] = [
        [
          environmentKey,
          remembered(deps, environmentKey),
          ({ beta }, id) => beta.environments.retrieve(id, {}, { signal }),
        ],
        [agentKey, agentIdOf(deps), ({ beta }, id) => beta.agents.retrieve(id, {}, { signal })],
      ];
      let isAnyLost = false;
      for (const [key, id, look] of looks) {
        if (id === null) continue;
        const found = await nullFor(
          "claude_request",
          api.call(site, (client) => look(client, id)),
        );
        if (found && !found.archived_at) continue;
        memory.set(key, "");
        isAnyLost = true;
      }
      return isAnyLost;
    },
  };
}

/** Null where it fails with this code. */
export async function nullFor<T>(code: ErrorCode, work: Promise<T>): Promise<T | null> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof BridgeError && error.code === code) return null;
    throw error;
  }
}

async function ensureEnvironment(deps: AgentDeps, signal: AbortSignal): Promise<string> {
  const known = remembered(deps, environmentKey);
  if (known !== null) return known;
  const { api, memory, log, random } = deps;
  const site = { what: "create the environment", notFound: "claude_forbidden" } as const;
  const config = { type: "cloud", networking: { type: "limited", allow_package_managers: true } } as const;
  // 409: the name is taken. Whatever else is wrong shows when the list is asked for.
  const create = async (name: string): Promise<string | undefined> => {
    const making = api.call(site, ({ beta }) => beta.environments.create({ name, config }, { signal }));
    return (await nullFor("claude_protocol", making))?.id;
  };
  const find = (): Promise<string | undefined> =>
    api.call({ ...site, what: "list the environments" }, async ({ beta }) => {
      for await (const found of beta.environments.list({ limit: 100 }, { signal }))
        if (found.name === name && !found.archived_at && found.config.type === "cloud") return found.id;
      return undefined;
    });
  // An archived environment keeps its name: then ours gets a longer one.
  const longer = `${name}-${Math.floor(random() * 36 ** 6).toString(36)}`;
  const id = (await create(name)) ?? (await find()) ?? (await create(longer));
  if (id === undefined)
    throw new BridgeError("claude_protocol", "Cannot create the environment as its name is refused");
  memory.set(environmentKey, id);
  log.info("claude environment ready", { environment: id });
  return id;
}

async function ensureAgent(deps: AgentDeps, signal: AbortSignal): Promise<string> {
  const { api, memory, log, model, system } = deps;
  const params = { name, model, system, tools: toTools(deps.toolPolicy) };
  const print = JSON.stringify(params);
  const id = agentIdOf(deps);
  if (id !== null && remembered(deps, agentKey) === `${id} ${print}`) return id;
  // Made of the settings alone: what is refused of it is the model.
  const create = { what: "create the agent", refused: "claude_model" } as const;
  const update = { what: "update the agent" };
  // Unknown there, or archived: then a new one is made.
  const agent =
    (id &&
      (await nullFor(
        "claude_request",
        api.call(update, ({ beta }) => beta.agents.update(id, params, { signal })),
      ))) ||
    (await api.call(create, ({ beta }) => beta.agents.create(params, { signal })));
  const made = idOf(agent, create.what);
  memory.set(agentKey, `${made} ${print}`);
  log.info("claude agent ready", { agent: made, version: agent.version });
  return made;
}

type Tools = NonNullable<Anthropic.Beta.AgentCreateParams["tools"]>;

const freeTools = ["read", "glob", "grep", "web_search"] as const;

function toTools(policy: ToolPolicy): Tools {
  if (policy === "off") return [];
  const permission = (type: "always_allow" | "always_ask") => ({ permission_policy: { type } });
  const configs = freeTools.map((name) => ({ name, ...permission("always_allow") }));
  const rest = { enabled: true, ...permission(policy === "allow" ? "always_allow" : "always_ask") };
  return [{ type: "agent_toolset_20260401", default_config: rest, ...(policy === "ask" ? { configs } : {}) }];
}
