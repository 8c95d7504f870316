/**
 * The environment and the agent that our sessions run with: made once, remembered, mended when they are gone.
 * **Source:** Managed Agents guide, "Define your agent" and "Cloud environments".
 */
import type { Anthropic } from "@anthropic-ai/sdk";
import type { Random } from "../clock.ts";
import type { efforts } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { ClaudeApi } from "./api.ts";
import { nullFor } from "./failure.ts";
import type { LocalTool } from "./line.ts";
import { idOf, toToolParam } from "./wire.ts";

/**
 * The permission for the tools of Claude's cloud sandbox. `off`: none at all. `ask`: reading and searching freely, anything
 * that runs or writes after a person's yes. `allow`: everything.
 */
export type ToolPolicy = "off" | "ask" | "allow";

/** Remembers values across restarts, by keys of this folder. */
export interface Memory {
  get(key: string): string | null;
  set(key: string, value: string): void;
}

export type AgentDeps = {
  readonly api: ClaudeApi;
  readonly model: string;
  readonly memory: Memory;
  readonly random: Random;
  readonly log: Log;
};

const environmentKey = "claude.environment";
const agentKey = "claude.agent";
const name = "signalman";

/** The id alone, since an older version wrote more after it. */
const idIn = ({ memory }: AgentDeps, key: string): string | null => memory.get(key)?.split(" ", 1)[0] || null;

export type AgentKeeper = ReturnType<typeof createAgentKeeper>;

export function createAgentKeeper(deps: AgentDeps) {
  const { api, memory } = deps;
  const make = async (signal: AbortSignal) => ({
    environmentId: idIn(deps, environmentKey) ?? (await createEnvironment(deps, signal)),
    agentId: idIn(deps, agentKey) ?? (await createAgent(deps, signal)),
  });
  let before: Promise<unknown> = Promise.resolve();
  return {
    /** Resolves to an environment and an agent. Calls run one after the other, so that all use what the first has made. */
    ensure(signal: AbortSignal): ReturnType<typeof make> {
      const made = before.then(() => make(signal));
      before = made.catch(() => undefined);
      return made;
    },
    /** Looks whether the remembered environment and agent exist; true when one was forgotten, so that `ensure` makes it anew. */
    async forgetLost(signal: AbortSignal): Promise<boolean> {
      type Look = (client: Anthropic, id: string) => PromiseLike<{ readonly archived_at: string | null }>;
      const isLost = async (key: string, look: Look): Promise<boolean> => {
        const id = idIn(deps, key);
        if (id === null) return false;
        const looking = api.call({ what: "look up agent and environment" }, (client) => look(client, id));
        const found = await nullFor("claude_request", looking);
        if (found && !found.archived_at) return false;
        memory.set(key, "");
        return true;
      };
      return [
        await isLost(environmentKey, ({ beta }, id) => beta.environments.retrieve(id, {}, { signal })),
        await isLost(agentKey, ({ beta }, id) => beta.agents.retrieve(id, {}, { signal })),
      ].includes(true);
    },
  };
}

/** The name is random: the API takes each once, and an environment that a person made under our name may have more of the network. */
async function createEnvironment({ api, memory, log, random }: AgentDeps, signal: AbortSignal): Promise<string> {
  const site = { what: "create the environment", notFound: "claude_forbidden" } as const;
  const config = { type: "cloud", networking: { type: "limited", allow_package_managers: true } } as const;
  const own = `${name}-${Math.floor(random() * 36 ** 6).toString(36)}`;
  const made = await api.call(site, ({ beta }) => beta.environments.create({ name: own, config }, { signal }));
  const id = idOf(made, site.what);
  memory.set(environmentKey, id);
  log.info("claude environment ready", { environment: id });
  return id;
}

/** Creates an agent that only names our sessions: each brings its own model, system prompt and tools. */
async function createAgent({ api, memory, log, model }: AgentDeps, signal: AbortSignal): Promise<string> {
  const site = { what: "create the agent", refused: "claude_settings" } as const;
  const id = idOf(await api.call(site, ({ beta }) => beta.agents.create({ name, model }, { signal })), site.what);
  memory.set(agentKey, id);
  log.info("claude agent ready", { agent: id });
  return id;
}

type Tools = NonNullable<Anthropic.Beta.AgentCreateParams["tools"]>;
type Effort = (typeof efforts)[number];
type ModelConfig = { readonly id: string; readonly effort?: Effort };

/** Names the effort, as a bare id would mean high effort; without it again where the model takes none, or not this one. */
export async function withEffort<T>(id: string, effort: string, make: (model: ModelConfig) => Promise<T>): Promise<T> {
  return (await nullFor("claude_effort", make({ id, effort: effort as Effort }))) ?? make({ id });
}

const freeTools = ["read", "glob", "grep", "web_search", "web_fetch"] as const;

/** Beside tools of this machine Claude has no sandbox, as two machines would confuse it; `web_fetch` asks, as it could carry files away. */
export function toTools(policy: ToolPolicy, local: readonly LocalTool[]): Tools {
  const permission = (type: "always_allow" | "always_ask") => ({ permission_policy: { type } });
  const type = "agent_toolset_20260401";
  const ours = local.map((tool) => ({ type: "custom" as const, ...toToolParam(tool) }));
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
