/**
 * `signalman doctor`: looks at everything that must be right, one line each, and says what to do.
 *
 * doctor asks the running daemon for its status, since two connections of one linked device would push each other out. Only where no
 * daemon runs, doctor takes the home for itself and connects once.
 */
import { existsSync, mkdirSync, rmSync, statSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ClaudeApi } from "../claude/api.ts";
import { nullFor } from "../claude/failure.ts";
import type { Line } from "../claude/line.ts";
import { loadConfig, type Loaded } from "../config.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import { ownProgram, type Millis } from "../core/model.ts";
import { nearestModel } from "../core/nearest.ts";
import { harmless, maskAddress, maskNumber, redactText } from "../log.ts";
import { isLoopback } from "../loopback.ts";
import { listen } from "../status/listen.ts";
import type { Status } from "../status/status.ts";
import { findDamage } from "../store/damage.ts";
import { openStore, type Store } from "../store/store.ts";
import { buildCodeLine, buildLine, buildTransport, openApi, type Deps } from "./adapters.ts";
import { depsOf, print, wrong, type Cli } from "./io.ts";
import { fetchStatus } from "./remote.ts";
import { serviceOf } from "./service.ts";

type Result = "ok" | "warning" | "failure";
/** `hint`: the remedy; empty where none is needed. */
type Finding = { readonly check: string; readonly result: Result; readonly message: string; readonly hint: string };

type Visit = Deps & {
  /** Bounds each check by itself. */
  signal: AbortSignal;
  readonly cli: Cli;
  readonly loaded: Loaded;
  readonly api: ClaudeApi;
  /** Null where no daemon runs on this home. */
  readonly status: Status | null;
  /** Null until the check of the database has opened it. */
  store: Store | null;
  /** Null until the backend may be used. */
  line: Line | null;
};

/** The words for a check that is right, or a warning with its hint; null where there is nothing to look at. A fault is thrown. */
type Verdict = string | readonly [warning: string, hint: string] | null;

/** Bounds each contact with Signal and Claude. */
const patienceMs: Millis = 30_000;
const skewWarnMs: Millis = 30_000;
const skewFailMs: Millis = 300_000;
const modelsShown = 8;
const freeMegabytesMin = 500;

const marks: Readonly<Record<Result, string>> = { ok: "✓", warning: "!", failure: "✗" };

/** Resolves to 0 when nothing is wrong, else to 1. Warnings do not count. */
export async function doctor(cli: Cli, options: { readonly json?: true }): Promise<number> {
  const findings: Finding[] = [];
  for await (const finding of examine(cli)) {
    findings.push(finding);
    const { check, result, message, hint } = finding;
    if (options.json) continue;
    const advice = hint === "" ? "" : `${" ".repeat(13)}${hint}\n`;
    cli.out(harmless(`${marks[result]} ${check.padEnd(10)} ${message}\n${advice}`));
  }
  if (options.json) print(cli, options, findings, () => "");
  return findings.some(({ result }) => result === "failure") ? 1 : 0;
}

async function* examine(cli: Cli): AsyncIterable<Finding> {
  const fail = (check: string, error: unknown): Finding => {
    const { message, hint } = toFault(error);
    return { check, result: "failure", message: redactText(message), hint };
  };
  let loaded: Loaded;
  try {
    loaded = loadConfig(cli);
  } catch (error) {
    return yield fail("settings", error);
  }
  const { config, warnings } = loaded;
  const reached = `${config.transport} to Signal, ${config.backend} to Claude`;
  yield { check: "settings", result: "ok", message: reached, hint: "" };
  for (const message of warnings)
    yield { check: "settings", result: "warning", message, hint: "Correct or remove it." };
  await using stack = new AsyncDisposableStack();
  const deps = depsOf({ ...cli, err: () => undefined }, config, stack, "error");
  const status = await fetchStatus(config, cli.signal).catch(() => null);
  const visit: Visit = { ...deps, cli, loaded, status, api: openApi(deps), store: null, line: null };
  for (const [check, look] of Object.entries(checks))
    try {
      visit.signal = AbortSignal.any([cli.signal, AbortSignal.timeout(patienceMs)]);
      const verdict = await look(visit);
      if (typeof verdict === "string") yield { check, result: "ok", message: verdict, hint: "" };
      else if (verdict !== null) yield { check, result: "warning", message: verdict[0], hint: verdict[1] };
    } catch (error) {
      yield fail(check, error);
    }
}

/** True for a home that other users may enter: then doctor touches nothing in it. */
const isOpen = (home: string): boolean =>
  process.platform !== "win32" && existsSync(home) && (statSync(home).mode & 0o077) !== 0;

/** The checks in their order: a later one builds on the earlier ones. */
const checks: Readonly<Record<string, (visit: Visit) => Verdict | Promise<Verdict>>> = {
  home({ config: { home } }) {
    const isNew = !existsSync(home);
    if (isOpen(home)) throw wrong(`Others may enter ${home}`, `Run: chmod 700 ${home}`);
    const probe = join(home, `.doctor-${process.pid}`);
    try {
      mkdirSync(home, { recursive: true, mode: 0o700 });
      writeFileSync(probe, "", { flag: "wx" });
      rmSync(probe);
    } catch (cause) {
      throw wrong(
        `Nothing can be written to ${home}: ${toFault(cause).message}`,
        "Give it to the user that runs signalman and make space on its disk, or set SIGNALMAN_HOME to another folder.",
      );
    }
    const { bavail, bsize } = statfsSync(home);
    const free = Math.floor((bavail * bsize) / 1e6);
    if (free >= freeMegabytesMin)
      return `${home}${isNew ? " (made now)" : ""}, ${free < 10_000 ? `${free} MB` : `${Math.floor(free / 1000)} GB`} free`;
    return [`Only ${free} MB are free for ${home}`, "Make space on its disk: with none, messages wait at Signal."];
  },

  /** Warns of a proxy, since a person may not know that Signal and Claude are asked through it. */
  proxy({ cli: { env } }) {
    const [name] = ["SIGNALMAN_PROXY", "HTTPS_PROXY", "https_proxy"].filter((proxy) => env[proxy]);
    if (name === undefined) return null;
    return [`${name} is set: Signal and Claude are asked through it`, `Unset ${name} where that is not wanted.`];
  },

  async database(visit) {
    const { config, status, stack } = visit;
    if (isOpen(config.home)) return null;
    const refused: BridgeError[] = [];
    const store = await openStore(config.home, { isExclusive: status === null }).catch((error: unknown) => {
      if (!(error instanceof BridgeError) || error.code !== "home_in_use") throw error;
      // A daemon whose database fails tells no status but holds the home.
      refused.push(error);
      return openStore(config.home, { isExclusive: false });
    });
    stack.defer(() => store.close());
    const damage = await findDamage(store.db, visit.clock, visit.signal);
    if (damage !== null) throw new BridgeError("database_damaged", `Cannot trust the database: ${damage}`);
    if (refused[0]) throw refused[0];
    visit.store = store;
    if (store.generation.isSetBack())
      return [
        "The database is older than what was written last: a copy was restored, or signalman.db-wal was deleted",
        "Start signalman: it says so in Note to Self, and asks nothing twice.",
      ];
    return `${store.sessions.counts(0).total} sessions`;
  },

  async "signal-cli"({ config: { transport, signalUrl: baseUrl }, clock, signal }) {
    if (transport === "native") return null;
    const { examineVersion } = await import("../signal/daemon/releases.ts");
    const { text, warning, hint } = await examineVersion(transport, { baseUrl, clock }, signal);
    return warning === null ? text : [warning, hint];
  },

  async signal(visit) {
    const { status, store } = visit;
    if (status !== null) {
      const { state, fault } = status.connection;
      if (fault === null) return `the running daemon is ${state}`;
      throw wrong(`${state}: ${fault.message}`, fault.hint);
    }
    if (store === null) return null;
    const transport = await buildTransport(visit, store);
    try {
      return `${transport.name} reaches Signal as ${maskAddress(await transport.connect(visit.signal))}`;
    } finally {
      await transport.disconnect();
    }
  },

  /** Warns of numbers without an account: a linked device learns it from the phone's contacts, or when the account tells its number. */
  allow({ config: { transport, allow }, store }) {
    if (transport !== "native" || !store?.db.get("SELECT 1 FROM signal_account")) return null;
    const isKnown = (number: string): boolean =>
      store.db.get("SELECT 1 FROM signal_recipients WHERE number = ?", number) !== undefined;
    const unknown = allow.flatMap((rule) => (rule.kind === "number" && !isKnown(rule.number) ? rule.number : []));
    if (unknown.length === 0) return null;
    const hint =
      "Save it as a contact on the linked phone and restart signalman, or put the account id (UUID) on the list.";
    return [`No account is known for ${unknown.map(maskNumber).join(", ")} of the allow list`, hint];
  },

  account({ config: { allow } }) {
    const others = allow.filter(({ kind }) => kind === "number" || kind === "aci").length;
    if (others > 0 && allow.some(({ kind }) => kind === "self"))
      return [
        `On your own account Claude answers ${others === 1 ? "a person" : `${others} people`} of the allow list in your name`,
        "An account of its own is better for that (docs/linking.md); a group is answered in your name, too.",
      ];
    return null;
  },

  async claude(visit) {
    const memory = visit.store?.settings ?? { get: () => null, set: () => undefined };
    const line = await buildLine(visit, memory, visit.api);
    await line.check(visit.signal);
    visit.line = line;
    return `the ${line.name} backend may be used`;
  },

  async "claude-code"(visit) {
    const { backend, projects } = visit.config;
    if (backend === ownProgram || !projects.some((project) => project.backend === ownProgram)) return null;
    await (await buildCodeLine(visit)).check(visit.signal);
    return "the claude program may be used, and is logged in";
  },

  async model({ config: { model }, line, signal }) {
    if (line === null) return null;
    // The program takes any name, and lists only a few.
    if (line.name === ownProgram) return model;
    const found = await line.model(model, signal);
    if (found) return found.id === model ? model : `${model} is ${found.id}`;
    const listed = await nullFor("claude_models_unlisted", line.models(signal));
    if (listed === null)
      return [
        `${model}; the models cannot be listed here`,
        "Ask Claude something: the answer tells whether it is served.",
      ];
    const ids = listed.map(({ id }) => id);
    if (ids.includes(model)) return model;
    const near = nearestModel(model, ids);
    const list = ids.slice(0, modelsShown).join(", ");
    throw wrong(
      `There is no model ${model}`,
      `Set SIGNALMAN_MODEL${near === null ? "" : ` to ${near}, or`} to one of: ${list}`,
    );
  },

  clock({ line, api }) {
    if (line === null || line.name === ownProgram) return null;
    const skewMs = api.skewMs();
    const seconds = Math.round(Math.abs(skewMs) / 1000);
    if (Math.abs(skewMs) < skewWarnMs) return `right to ${Math.max(1, seconds)} s`;
    const message = `This clock is ${seconds} s ${skewMs > 0 ? "behind" : "ahead"}`;
    const hint = "Let the system set the clock (NTP): newer and older are decided by it.";
    if (Math.abs(skewMs) >= skewFailMs) throw wrong(message, hint);
    return [message, hint];
  },

  async listen({ config, status }) {
    if (config.listen === null) return ["the status server is off", "`signalman status` cannot ask the daemon."];
    if (status !== null) return "the running daemon answers";
    const { host, port } = config.listen;
    const server = await listen(config.listen, () => new Response());
    await server.stop();
    if (isLoopback(host)) return `${host}:${port} is free`;
    return [`${host}:${port} is open to the network`, "Every machine that reaches it can read the status."];
  },

  async projects({ config: { projects, home }, clock, cli }) {
    if (projects.length === 0) return null;
    const { stateOf } = await import("./projects.ts");
    const { findSandbox } = await import("../projects/runner.ts");
    const states = await Promise.all(projects.map((project) => stateOf(project, home)));
    const refused = states.flatMap((state) => ("refusal" in state ? state.refusal : []));
    const hint = "Correct [projects] in config.toml, or `signalman projects remove` it.";
    if (refused.length > 0) throw wrong(`Claude cannot work on ${refused.join("; ")}`, hint);
    const all = states.map(({ words }, index) => `${projects[index]?.name}: ${words}`).join("; ");
    if (!projects.some(({ run }) => run)) return all;
    const sandbox = await findSandbox(clock, cli.env["PATH"] ?? "");
    if (sandbox.kind !== "none") return `${all}; commands run in ${sandbox.kind}`;
    return [
      `${all}; commands run without a sandbox, as ${sandbox.why}`,
      "Install bubblewrap (the package of that name), or read each command with care.",
    ];
  },

  /** Looks only at a service that is installed, since running without one is no fault. */
  async service({ cli, loaded }) {
    const state = await Promise.try(() => serviceOf(cli, loaded).state()).catch(() => "none");
    if (state === "none") return null;
    if (state === "up") return "it is installed and runs";
    return ["it is installed but does not run", "See its log; `signalman service install` starts it."];
  },
};
