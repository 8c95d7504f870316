/** The adapters that the settings name, each imported only when it is used. */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Memory } from "../claude/agent.ts";
import { createClaudeApi, type ClaudeApi } from "../claude/api.ts";
import type { Backend } from "../claude/backend.ts";
import type { Clock, Random } from "../clock.ts";
import type { Config } from "../config.ts";
import { BridgeError } from "../core/errors.ts";
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
      return (await import("../signal/daemon/signal-cli.ts")).createSignalCli(place);
    case "rest":
      return (await import("../signal/daemon/rest.ts")).createRest(place);
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

/** `present` is the account that linking would replace. */
type OpenLink = { readonly steps: Link; readonly present: Address | null };

/** @throws BridgeError `unsupported` where a daemon holds the keys, `home_in_use` while a signalman runs on this home */
export async function openLink(deps: Deps): Promise<OpenLink> {
  const { config, stack } = deps;
  if (config.transport !== "native") {
    const { howToLink } =
      config.transport === "rest"
        ? await import("../signal/daemon/rest.ts")
        : await import("../signal/daemon/signal-cli.ts");
    throw new BridgeError("unsupported", "Cannot link here as the daemon keeps the keys of the account", {
      hint: howToLink,
    });
  }
  const store = await openStore(config.home, { render: () => [], isExclusive: true });
  stack.defer(() => store.close());
  const { linkNative, nativeDeps } = await loadNative(deps, store);
  const { findAccount, toAccount } = await import("../signal/native/account.ts");
  const present = findAccount(store.db);
  return { steps: linkNative(nativeDeps), present: present && toAccount(present) };
}

export const openApi = ({ config, clock }: Deps): ClaudeApi =>
  createClaudeApi({ apiKey: config.anthropicApiKey, baseUrl: config.anthropicBaseUrl, clock });

/** Nothing is asked of Claude before the first call. `memory` holds the agent across restarts. */
export async function buildBackend(deps: Deps, memory: Memory, api = openApi(deps)): Promise<Backend> {
  const { model, system, tools, backend } = deps.config;
  if (backend === "messages") {
    const { createMessagesBackend } = await import("../claude/messages.ts");
    return createMessagesBackend({ api, clock: deps.clock, newId: randomUUID });
  }
  const { createSessionsBackend } = await import("../claude/sessions.ts");
  return createSessionsBackend({ ...deps, api, model, system, toolPolicy: tools, memory });
}
