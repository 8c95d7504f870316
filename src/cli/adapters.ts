/** The adapters that the settings name, each imported only when it is used. */
import { randomUUID } from "node:crypto";
import { rmSync } from "node:fs";
import { join } from "node:path";
import type { Memory } from "../claude/agent.ts";
import { createClaudeApi, type ClaudeApi } from "../claude/api.ts";
import type { Line } from "../claude/line.ts";
import type { Clock, Random } from "../clock.ts";
import type { Config } from "../config.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import { isPerson, type AllowRule } from "../core/inbound.ts";
import { ownProgram, type Address, type Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Link, Transport } from "../signal/transport.ts";
import { allAllowed } from "../store/allowed.ts";
import { forgetAll } from "../store/retention.ts";
import { openStore, type Store } from "../store/store.ts";
import { signalTlsPlace } from "../settings.ts";
import { version } from "../version.ts";

export type Deps = {
  readonly config: Config;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  readonly signal: AbortSignal;
  /** The proxy of the settings, as an HTTP proxy; null for none. */
  readonly proxy: Promise<string | null>;
  /** Closes the resources of a command when it is done. */
  readonly stack: AsyncDisposableStack;
};

/** Builds the transport, which asks nothing of Signal before its `connect`. @throws BridgeError `config` `unsupported` */
export async function buildTransport(deps: Deps, store: Store): Promise<Transport> {
  const { config } = deps;
  const place = { ...deps, baseUrl: config.signalUrl, account: config.account };
  switch (config.transport) {
    case "signal-cli":
      return (await import("../signal/daemon/signal-cli.ts")).createSignalCli(place);
    case "rest":
      return (await import("../signal/daemon/rest.ts")).createRest(place);
    case "native":
      return (await import("../signal/native/index.ts")).open({
        ...(await nativePlace(deps, store)),
        isAllowed: (who, groupId) => isAllowed(allAllowed(config.allow, store.settings), who, groupId),
        allowedNumbers: config.allow.flatMap((rule) => (rule.kind === "number" ? rule.number : [])),
      });
  }
}

/** The native transport unpacks libsignal into the home folder. */
const nativePlace = async ({ config, log, clock, random, proxy }: Deps, { db }: Store) => ({
  database: db,
  log,
  clock,
  random,
  signalService: config.signalService,
  libraryFolder: join(config.home, "lib"),
  userAgent: `signalman/${version}`,
  proxy: signalProxy(await proxy, process.env),
});

/** The proxy of the setting, else the environment's for Signal's hosts; the transport reaches loopback directly in any case. */
export function signalProxy(given: string | null, env: Readonly<Record<string, string | undefined>>): string | null {
  const direct = (env["NO_PROXY"] ?? env["no_proxy"] ?? "")
    .split(",")
    .map((name) => name.trim().replace(/^\*?\.?(?=.)/, ""));
  const isDirect = direct.some((name) => name === "*" || name === "signal.org");
  // An empty variable names no proxy; the scheme is often left out.
  const found = env["HTTPS_PROXY"] || env["https_proxy"];
  return given ?? (isDirect || !found ? null : found.replace(/^(?!\w+:\/\/)/, "http://"));
}

/** The rule of `core/inbound.ts`: in a group the group is on the list, not its members. */
const isAllowed = (allow: readonly AllowRule[], who: Address, groupId: string | null): boolean =>
  groupId === null ? isPerson(who, allow) : allow.some((rule) => rule.kind === "group" && rule.id === groupId);

/** Folders of the home in which conversations leave files. */
const heldFolders = ["chats", "outgoing", "undo"];

type OpenLink = {
  readonly steps: Link;
  /** The account that linking would replace. */
  readonly present: Address | null;
};

/** @throws BridgeError `unsupported` where a daemon holds the keys, `home_in_use` while a signalman runs on this home */
export async function openLink(deps: Deps): Promise<OpenLink> {
  const { config, stack } = deps;
  if (config.transport !== "native") {
    const hint =
      config.transport === "rest"
        ? (await import("../signal/daemon/rest.ts")).howToLinkRest
        : (await import("../signal/daemon/signal-cli.ts")).howToLinkSignalCli;
    throw new BridgeError("unsupported", "Cannot link here as the daemon keeps the keys of the account", { hint });
  }
  const store = await openStore(config.home, { isExclusive: true });
  stack.defer(() => store.close());
  const native = await import("../signal/native/index.ts");
  const steps = await native.link(await nativePlace(deps, store), () => forgetAccount(store, config.home));
  return { steps, present: native.findAccount(store.db) };
}

/** Removes the conversations of an account, which another must not find here. Part of the transaction that replaces its keys. */
export function forgetAccount({ db, generation }: Store, home: string): void {
  for (const folder of heldFolders) rmSync(join(home, folder), { recursive: true, force: true });
  forgetAll(db);
  // The emptied database is not one that was set back.
  generation.acknowledge();
}

export const openApi = ({ config, clock, proxy }: Deps): ClaudeApi =>
  createClaudeApi({
    apiKey: config.anthropicApiKey,
    authToken: config.anthropicAuthToken,
    baseUrl: config.anthropicBaseUrl,
    timeoutMs: config.claudeTimeoutMs,
    // A Signal TLS proxy leads only to Signal's hosts.
    proxy: config.proxy !== null && signalTlsPlace(config.proxy) !== null ? null : proxy,
    clock,
  });

/** Builds the line, which asks nothing of Claude before the first call. `memory` holds the agent across restarts. */
export async function buildLine(deps: Deps, memory: Memory, api = openApi(deps)): Promise<Line> {
  const { model, tools, backend } = deps.config;
  const openMessages = async (): Promise<Line> => {
    const { createMessagesLine } = await import("../claude/messages.ts");
    return createMessagesLine({ api, clock: deps.clock, newId: randomUUID, hasWebSearch: tools !== "off" });
  };
  if (backend === "messages" || (backend === "auto" && memory.get(chosenKey) === "messages")) return openMessages();
  if (backend === ownProgram) return buildCodeLine(deps);
  const { createManagedLine } = await import("../claude/managed.ts");
  const managed = createManagedLine({ ...deps, api, model, toolPolicy: tools, memory });
  return backend === "auto" && (await isRefused(deps, managed, memory)) ? openMessages() : managed;
}

/** Builds the line to the owner's own program, which starts with the first call and ends with the command. */
export async function buildCodeLine({ config, clock, stack }: Deps): Promise<Line> {
  const { createCodeLine } = await import("../claude/code-line.ts");
  const { chatFolder, openPlace } = await import("../projects/folders.ts");
  const folder = async (): Promise<string> => {
    const place = await openPlace(chatFolder(config.home), config.home);
    if ("root" in place) return place.root;
    throw new BridgeError("claude_program", `Cannot start the claude program: ${place.refusal}`, {
      hint: errorRow("database").hint,
    });
  };
  const line = createCodeLine({ program: config.claudeCode, env: process.env, folder, clock, newId: randomUUID });
  stack.defer(() => line.close());
  return line;
}

/** The key of the backend that `auto` has found: it asks once in the life of a home. */
const chosenKey = "claude.backend";
const chooseMs: Millis = 3_000;

/** Whether the key may not use Managed Agents. An API that cannot be asked now is asked at the next start. */
async function isRefused({ config, log, signal }: Deps, managed: Line, memory: Memory): Promise<boolean> {
  const hasKey = config.anthropicApiKey !== null || config.anthropicAuthToken !== null;
  if (!hasKey || memory.get(chosenKey) !== null) return false;
  try {
    await managed.check(AbortSignal.any([signal, AbortSignal.timeout(chooseMs)]));
    memory.set(chosenKey, "sessions");
  } catch (error) {
    if (!(error instanceof BridgeError) || error.code !== "claude_forbidden") return false;
    memory.set(chosenKey, "messages");
    log.warn("the key may not use Managed Agents: this machine keeps the conversation", { backend: "messages" });
    return true;
  }
  return false;
}
