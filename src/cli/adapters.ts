/** The adapters that the settings name, each imported only when it is used. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Memory } from "../claude/agent.ts";
import { createClaudeApi, type ClaudeApi } from "../claude/api.ts";
import type { Line } from "../claude/line.ts";
import type { Clock, Random } from "../clock.ts";
import type { Config } from "../config.ts";
import { isPerson } from "../core/inbound.ts";
import type { Address } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Link, Transport } from "../signal/transport.ts";
import { openStore, type Store } from "../store/store.ts";
import { version } from "../version.ts";

export type Deps = {
  readonly config: Config;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  readonly signal: AbortSignal;
  /** Takes what is to be closed when the command is done. */
  readonly stack: AsyncDisposableStack;
};

/** Nothing is asked of Signal before its `connect`. @throws BridgeError `config` `unsupported` */
export async function buildTransport(deps: Deps, store: Store): Promise<Transport> {
  const { config } = deps;
  const place = { ...deps, baseUrl: config.signalUrl, account: config.account };
  switch (config.transport) {
    case "signal-cli":
      return (await import("../signal/signal-cli.ts")).createSignalCli(place);
    case "rest":
      return (await import("../signal/rest.ts")).createRest(place);
    case "native": {
      const { createNative, nativeDeps } = await loadNative(deps, store);
      return createNative({
        ...nativeDeps,
        isAllowed: (who, groupId) => isAllowed(config, who, groupId),
        allowedNumbers: config.allow.flatMap((rule) => (rule.kind === "number" ? rule.number : [])),
      });
    }
  }
}

/** libsignal is 25 MB of machine code: it is put into the home folder and loaded where the native transport is used. */
async function loadNative(deps: Deps, store: Store) {
  const { config } = deps;
  const { loadLibsignal } = await import("../signal/native/load.ts");
  await loadLibsignal(join(config.home, "lib"));
  const { loadService } = await import("../signal/native/service.ts");
  const service = await loadService(config.signalService, deps.clock);
  const { createNative, linkNative } = await import("../signal/native/transport.ts");
  const nativeDeps = { ...deps, service, database: store.db, userAgent: `signalman/${version}` };
  return { createNative, linkNative, nativeDeps };
}

/** As `core/inbound.ts` lets people in: in a group it is the group that counts, whoever writes there. */
const isAllowed = ({ allow }: Config, who: Address, groupId: string | null): boolean =>
  groupId === null ? isPerson(who, allow) : allow.some((rule) => rule.kind === "group" && rule.id === groupId);

/** A signal-cli of our own, where the settings name one: it must answer before the transport connects. */
export async function startSignalCli(deps: Deps): Promise<void> {
  const { config, log, clock, random, signal, stack } = deps;
  if (config.transport !== "signal-cli" || config.signalCli === null) return;
  const { superviseSignalCli } = await import("../signal/supervise.ts");
  const supervisor = superviseSignalCli({ log, clock, random, path: config.signalCli, url: config.signalUrl });
  stack.defer(() => supervisor.stop());
  await supervisor.start(signal);
}

/** `present` is the account that linking would replace. */
type OpenLink = { readonly steps: Link; readonly present: Address | null };

/** Linking as the transport does it. @throws BridgeError `home_in_use` while a daemon runs on this home */
export async function openLink(deps: Deps): Promise<OpenLink> {
  const { config, clock, stack } = deps;
  const place = { baseUrl: config.signalUrl, clock };
  switch (config.transport) {
    case "signal-cli":
      await startSignalCli(deps);
      return { steps: (await import("../signal/link.ts")).linkSignalCli(place), present: null };
    case "rest":
      return { steps: (await import("../signal/link.ts")).linkRest(place), present: null };
    case "native": {
      const store = await openStore(config.home, { render: () => [], isExclusive: true });
      stack.defer(() => store.close());
      const { linkNative, nativeDeps } = await loadNative(deps, store);
      const { findAccount, toAccount } = await import("../signal/native/account.ts");
      const present = findAccount(store.db);
      return { steps: linkNative(nativeDeps), present: present && toAccount(present) };
    }
  }
}

export const openApi = ({ config, clock }: Deps): ClaudeApi =>
  createClaudeApi({
    apiKey: config.anthropicApiKey,
    authToken: config.anthropicAuthToken,
    baseUrl: config.anthropicBaseUrl,
    timeoutMs: config.claudeTimeoutMs,
    clock,
  });

/** Nothing is asked of Claude before the first call. `memory` holds the agent across restarts. */
export async function buildLine(deps: Deps, memory: Memory, api = openApi(deps)): Promise<Line> {
  const { model, effort, system, tools, backend } = deps.config;
  if (backend === "messages") {
    const { createMessagesLine } = await import("../claude/messages.ts");
    return createMessagesLine({ api, clock: deps.clock, newId: randomUUID, hasWebSearch: tools !== "off" });
  }
  const { createManagedLine } = await import("../claude/managed.ts");
  return createManagedLine({ ...deps, api, model, effort, system, toolPolicy: tools, memory });
}
