/**
 * `signalman doctor`: looks at everything that must be right, one line each, and says what to do.
 *
 * What the running daemon knows is asked of it: two connections of one linked device would push each other out. Only where
 * none runs, doctor takes the home for itself and connects once.
 */
import { existsSync, statSync } from "node:fs";
import type { Backend } from "../claude/backend.ts";
import type { Config } from "../config.ts";
import { isLoopback, loadConfig } from "../config.ts";
import { BridgeError, toFault } from "../core/errors.ts";
import type { Account, Millis } from "../core/model.ts";
import { nearest } from "../core/nearest.ts";
import { maskNumber, redactText, startLog } from "../log.ts";
import type { Transport } from "../signal/transport.ts";
import { listen } from "../status/listen.ts";
import type { Status } from "../status/status.ts";
import { openStore, type Store } from "../store/store.ts";
import { buildBackend, buildTransport, openApi, startSignalCli, type AdapterDeps } from "./adapters.ts";
import type { Flags, Io } from "./io.ts";
import { fetchStatus } from "./remote.ts";

type Finding = {
  readonly check: string;
  readonly result: "ok" | "warning" | "failure";
  readonly message: string;
  /** What to do; empty where nothing is. */
  readonly hint: string;
};

type Visit = {
  readonly io: Io;
  readonly config: Config;
  readonly deps: AdapterDeps;
  /** Null where no daemon runs on this home. */
  readonly status: Status | null;
  /** Null where there is no usable database. */
  readonly store: Store | null;
};

/** Bounds each contact with Signal and Claude. */
const patienceMs: Millis = 30_000;
const skewWarnMs: Millis = 30_000;
const skewFailMs: Millis = 300_000;
const modelsShown = 8;

const ok = (check: string, message: string): Finding => ({ check, result: "ok", message, hint: "" });
const warning = (check: string, message: string, hint: string): Finding => ({
  check,
  result: "warning",
  message,
  hint,
});
const failure = (check: string, error: unknown): Finding => {
  const { message, hint } = toFault(error);
  return { check, result: "failure", message: redactText(message), hint };
};

/** Resolves to 0 when nothing is wrong, else to 1. Warnings do not count. */
export async function doctor(io: Io, flags: Flags, options: { json?: true }): Promise<number> {
  const findings: Finding[] = [];
  for await (const finding of examine(io, flags)) {
    findings.push(finding);
    if (!options.json) io.out(toLine(finding));
  }
  if (options.json) io.out(`${JSON.stringify(findings, null, 2)}\n`);
  return findings.some(({ result }) => result === "failure") ? 1 : 0;
}

const marks = { ok: "✓", warning: "!", failure: "✗" } as const;

const toLine = ({ check, result, message, hint }: Finding): string =>
  `${marks[result]} ${check.padEnd(9)} ${message}\n${hint === "" ? "" : `${" ".repeat(12)}${hint}\n`}`;

async function* examine(io: Io, flags: Flags): AsyncIterable<Finding> {
  let loaded;
  try {
    loaded = loadConfig({ flags, env: io.env });
  } catch (error) {
    return yield failure("settings", error);
  }
  const { config, warnings } = loaded;
  yield ok("settings", `${config.transport} to Signal, ${config.backend} to Claude`);
  for (const message of warnings) yield warning("settings", message, "Correct or remove it.");
  const log = startLog({ level: "error", isPretty: false, write: () => undefined });
  const deps = { log, clock: io.clock, random: io.random };
  const status = await fetchStatus(config, io.signal).then(
    (answer) => answer as Status,
    () => null,
  );
  yield checkHome(config);
  const store = await openStore(config.home, { render: () => [], isExclusive: status === null }).catch(asError);
  yield checkDatabase(store);
  const visit: Visit = { io, config, deps, status, store: store instanceof Error ? null : store };
  try {
    yield* checkSignal(visit);
    yield* checkClaude(visit);
  } finally {
    visit.store?.close();
  }
  yield await checkListen(visit);
  yield* checkService(visit);
}

/** Only where one is installed: to run without is no fault. */
async function* checkService({ io, config }: Visit): AsyncIterable<Finding> {
  const { serviceState } = await import("./service.ts");
  const state = await serviceState(io, config.home).catch(() => "none");
  if (state === "up") yield ok("service", "it is installed and runs");
  if (state === "down")
    yield warning("service", "it is installed but does not run", "See its log; `signalman service install` starts it.");
}

const asError = (error: unknown): Error => (error instanceof Error ? error : new Error(String(error)));

function checkHome({ home }: Config): Finding {
  if (!existsSync(home)) return ok("home", `${home} (made now)`);
  const mode = statSync(home).mode & 0o777;
  if (process.platform === "win32" || (mode & 0o077) === 0) return ok("home", home);
  const message = `Others may enter ${home} (mode ${mode.toString(8)})`;
  return { check: "home", result: "failure", message, hint: `Run: chmod 700 ${home}` };
}

function checkDatabase(store: Store | Error): Finding {
  if (store instanceof Error) return failure("database", store);
  const verdict = Object.values(store.db.get("PRAGMA quick_check(1)") ?? {})[0];
  if (verdict === "ok") return ok("database", `${store.sessions.counts(0).total} sessions`);
  const error = new BridgeError("database", `Cannot trust the database: ${String(verdict)}`, {
    hint: "Stop signalman, keep a copy of signalman.db, and restore it from a backup.",
  });
  return failure("database", error);
}

async function* checkSignal(visit: Visit): AsyncIterable<Finding> {
  const { config, status, io, deps } = visit;
  if (status !== null) {
    const { state, fault } = status.connection;
    yield fault === null
      ? ok("signal", `the running daemon is ${state}`)
      : { check: "signal", result: "failure", message: `${state}: ${fault.message}`, hint: fault.hint };
    if (config.transport === "signal-cli") yield await checkVersion(visit, patience(io));
    return;
  }
  if (visit.store === null) return;
  let supervisor: { stop(): Promise<void> } | null = null;
  try {
    supervisor = await startSignalCli(config, deps, patience(io));
    if (config.transport === "signal-cli") yield await checkVersion(visit, patience(io));
    const transport = await buildTransport(config, visit.store, deps);
    const account = await connectOnce(transport, patience(io));
    const who = account.number === null ? (account.aci?.slice(0, 8) ?? "an account") : maskNumber(account.number);
    yield ok("signal", `${transport.name} reaches Signal as ${who}`);
  } catch (error) {
    yield failure("signal", error);
  } finally {
    await supervisor?.stop();
  }
}

async function connectOnce(transport: Transport, signal: AbortSignal): Promise<Account> {
  try {
    return await transport.connect(signal);
  } finally {
    await transport.disconnect();
  }
}

async function checkVersion({ config, deps }: Visit, signal: AbortSignal): Promise<Finding> {
  const { fetchSignalCliVersion, isVersionAtLeast, signalCliVersionMin } = await import("../signal/rpc.ts");
  try {
    const version = await fetchSignalCliVersion({ baseUrl: config.signalUrl, clock: deps.clock }, signal);
    if (isVersionAtLeast(version, signalCliVersionMin)) return ok("signal-cli", `version ${version}`);
    throw new BridgeError("outdated", `Cannot rely on signal-cli ${version}: it is too old`, {
      hint: `Update signal-cli to ${signalCliVersionMin} or newer.`,
    });
  } catch (error) {
    return failure("signal-cli", error);
  }
}

async function* checkClaude({ config, deps, store, io }: Visit): AsyncIterable<Finding> {
  const api = openApi(config, deps.clock);
  const backend = await buildBackend(
    config,
    store ?? { settings: { get: () => null, set: () => undefined } },
    deps,
    api,
  );
  try {
    await backend.check(patience(io));
    yield ok("claude", `the ${backend.name} backend may be used`);
    yield await checkModel(backend, config.model, patience(io));
    yield checkClock(api.skewMs());
  } catch (error) {
    yield failure("claude", error);
  }
}

async function checkModel(backend: Backend, model: string, signal: AbortSignal): Promise<Finding> {
  const ids = (await backend.models(signal)).map(({ id }) => id);
  if (ids.includes(model)) return ok("model", model);
  const near = nearest(model, ids);
  return {
    check: "model",
    result: "failure",
    message: `There is no model ${model}`,
    hint: `Set SIGNALMAN_MODEL${near === null ? "" : ` to ${near}, or`} to one of: ${ids.slice(0, modelsShown).join(", ")}`,
  };
}

function checkClock(skewMs: Millis): Finding {
  const seconds = Math.round(Math.abs(skewMs) / 1000);
  const message = `This clock is ${seconds} s ${skewMs > 0 ? "behind" : "ahead"}`;
  const hint = "Let the system set the clock (NTP): newer and older are decided by it.";
  if (Math.abs(skewMs) >= skewFailMs) return { check: "clock", result: "failure", message, hint };
  return Math.abs(skewMs) >= skewWarnMs
    ? warning("clock", message, hint)
    : ok("clock", `right to ${Math.max(1, seconds)} s`);
}

async function checkListen({ config, status }: Visit): Promise<Finding> {
  if (config.listen === null)
    return warning("listen", "the status server is off", "`signalman status` cannot ask the daemon.");
  const place = `${config.listen.host}:${config.listen.port}`;
  if (status !== null) return ok("listen", "the running daemon answers");
  try {
    const server = await listen(config.listen, () => new Response());
    await server.stop();
  } catch (error) {
    return failure("listen", error);
  }
  if (isLoopback(config.listen.host)) return ok("listen", `${place} is free`);
  return warning("listen", `${place} is open to the network`, "Anybody who reaches it can read the status.");
}

const patience = (io: Io): AbortSignal => AbortSignal.any([io.signal, AbortSignal.timeout(patienceMs)]);
