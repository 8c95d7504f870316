/** Gives decisions, and calls of our own tools, the world outside of the database: settings, clock, chance, the line to Claude. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import privacyPage from "../docs/privacy.md" with { type: "text" };
import type { Config } from "./config.ts";
import type { Stage } from "./core/changes.ts";
import { errorRow, type Fault } from "./core/errors.ts";
import { stampKey } from "./core/hlc.ts";
import type { Millis } from "./core/model.ts";
import type { Bridge } from "./loops/bridge.ts";
import type { CallDeps, createGrants } from "./loops/tool-calls.ts";
import { createOrder, folders, type Workplace } from "./projects/executor.ts";
import { isFreed } from "./projects/policy.ts";
import { readAddressee } from "./settings.ts";
import { createGuests, isFromOwner } from "./store/allowed.ts";
import type { Surroundings } from "./store/view.ts";

/** The machine that signalman runs on; tests and the simulation hand in their own. */
export type Machine = {
  readonly newId: () => string;
  /** The time zone of this machine as an IANA name; without it prompts do not say when they were written. */
  readonly timeZone?: string;
  /** The command by which this program starts itself, since a search of a project is a process of its own. */
  readonly self?: readonly string[];
  /** The environment that commands of projects take listed variables from. */
  readonly env?: NodeJS.ProcessEnv;
  /** Does the calls of projects; the machine's folders, where it is absent. */
  readonly workplace?: Workplace;
  /** Asserts what must hold after each decision: in tests and simulation. */
  readonly isChecked?: boolean;
};

type Base = Machine & Pick<Bridge, "store" | "transport" | "line" | "clock" | "random"> & { readonly config: Config };

/** Builds what calls of our own tools need; the sandbox is looked for when a call first needs it. */
export function createCallDeps(
  { config, clock, store, env = {}, self = [], workplace }: Base,
  isGranted: (project: string) => boolean,
): CallDeps {
  let found: ReturnType<CallDeps["executor"]> | null = null;
  const find = async () => {
    const { createUndo } = await import("./projects/undo.ts");
    const { home } = config;
    const undo = createUndo(home, store.kept, clock);
    const given = { calls: store.calls, undo, home, env, clock, self, isGranted, inOrder: createOrder() };
    if (workplace !== undefined) return { ...given, workplace, sandbox: { kind: "none", why: "a test" } as const };
    const { findSandbox } = await import("./projects/runner.ts");
    return { ...given, workplace: folders, sandbox: await findSandbox(clock, env["PATH"] ?? "") };
  };
  return {
    home: config.home,
    get projects() {
      return config.projects;
    },
    executor: () => (found ??= find()),
    async tidy() {
      const folder = join(config.home, "undo");
      if (existsSync(folder)) await (await (found ??= find())).undo.prune().catch(() => undefined);
    },
  };
}

/** The privacy page for a phone: without links to other documents, and without line breaks, which the phone makes by itself. */
const privacy = privacyPage
  .replaceAll(/\[([^\]]+)\]\((?!https?:)[^)]*\)/gu, "$1")
  .replaceAll(/(?<=[^\n|])\n(?=[^\n|])/gu, " ");

const emojis: { readonly [stage in Stage]: string | null } = {
  taken: "👀",
  waiting: "⏳",
  done: "✅",
  failed: "⚠️",
  cleared: null,
};

/** The questions and notices of decisions to the loops. */
export type Outside = Pick<
  Surroundings,
  "account" | "onTouched" | "onOwed" | "onFiles" | "onDropped" | "onOwe" | "isSendReady"
> &
  Pick<Surroundings["look"], "models"> & {
    readonly isConnected: () => boolean;
    /** Null while Claude can be reached. */
    readonly claudeFault: () => Fault | null;
    readonly grants: ReturnType<typeof createGrants>;
  };

/** Builds the world outside of the database as decisions see it. */
export function surroundings(base: Base, deviceTag: string, outside: Outside): Surroundings {
  const { config, clock, store, line, transport } = base;
  const { isConnected, claudeFault, grants, models, ...hooks } = outside;
  return {
    ...hooks,
    now: clock.now,
    random: base.random,
    isAskedAnew: line.remote === null,
    newId: base.newId,
    backend: line.name,
    stamp: (stamps, key) => stampKey(stamps, key, clock.now() + (line.remote?.skewMs() ?? 0), deviceTag),
    emojiOf: (stage) => (config.reactions && transport.capabilities.reactions ? emojis[stage] : null),
    hasOwnTimestamps: transport.capabilities.ownTimestamps,
    skewMs: () => transport.skewMs?.() ?? 0,
    isOwner: (envelope) => isFromOwner(envelope, config.allow, store.settings),
    project: (of) =>
      config.projects.find((project) =>
        "name" in of
          ? project.name === of.name
          : project.group !== null && of.chatKey === `group:${project.group.replace(/^group:/u, "")}`,
      ) ?? null,
    mayAlways: isFreed,
    grantEdits: grants.grant,
    isWelcoming: config.welcome,
    spendLimitCents: config.spendLimit === null ? null : config.spendLimit * 100,
    timeZone: base.timeZone ?? "UTC",
    isChecked: base.isChecked ?? false,
    look: {
      guests: createGuests(store.settings, config.allow, readAddressee),
      models,
      projects: () => config.projects,
      granted: grants.names,
      defaultModel: config.model,
      defaultEffort: config.effort,
      isModelFixed: line.remote !== null,
      privacy,
      situation() {
        const { count, oldestAt } = store.outbox.pending();
        const fault = claudeFault();
        const wrong = [
          ...(isConnected() ? [] : ["Signal is being connected"]),
          ...(fault === null ? [] : [errorRow(fault.code).title]),
        ];
        const verdict = wrong.length === 0 ? "✅ Everything works." : `⚠️ ${wrong.join(". ")}.`;
        const isStuck = oldestAt !== null && clock.now() - oldestAt >= passingMs;
        return isStuck ? `${verdict}\nStill to be sent: ${count}` : verdict;
      },
    },
  };
}

/** A message that waits to be sent for less counts as on its way, as the answer of `/status` itself does. */
const passingMs: Millis = 5_000;
