/**
 * `signalman run`: the daemon in the foreground, with its status server, until a signal or a fault ends it. On a terminal it first asks
 * for what is missing for the first answer, each thing once.
 */
import { randomUUID } from "node:crypto";
import { networkInterfaces } from "node:os";
import { BridgeError, errorRow, toFault } from "../core/errors.ts";
import { localZone } from "../clock.ts";
import { ownProgram, type Millis, type Session } from "../core/model.ts";
import { plainText, renderReply } from "../core/reply.ts";
import type { Config } from "../config.ts";
import { startDaemon, type Daemon } from "../daemon.ts";
import { withMark, withNotify } from "../note-to-self.ts";
import { forgetSession } from "../store/forgetting.ts";
import type { Transport } from "../signal/transport.ts";
import type { Store } from "../store/store.ts";
import { createApp } from "../status/app.ts";
import type { Control, SendState } from "../status/control.ts";
import { listen, type Server } from "../status/listen.ts";
import { commit, version } from "../version.ts";
import { buildCodeLine, buildLine, buildTransport, type Deps } from "./adapters.ts";
import { configOf, depsOf, hasPerson, load, ownCommand, withStore, wrong, type Cli } from "./io.ts";
import { linkCommand } from "./link.ts";
import { isFirstStart, onboard } from "./onboard.ts";
import { isAlive, newToken, removePlace, writePlace } from "./remote.ts";
import { readToken, takeStaged } from "./send-text.ts";
import { keepWatch } from "./service.ts";

/** Does `run`, after the questions of the first start, and after the QR code where this program is not linked yet. */
export async function start(cli: Cli): Promise<number> {
  if (isFirstStart(cli)) await onboard(cli);
  const config = configOf(cli);
  if (hasPerson(cli) && config.transport === "native" && !(await isLinked(config))) {
    await linkCommand(cli, { isOptional: true });
    if (config.allow.some(({ kind }) => kind === "self")) await greetOwner(cli, config);
  }
  return run(cli);
}

const native = () => import("../signal/native/index.ts");

const isLinked = async (config: Config): Promise<boolean> =>
  (await withStore(config, async ({ db }) => (await native()).findAccount(db) !== null)) ?? false;

/** Sends the first message to Note to Self, which shows that all is well, and where to write. */
async function greetOwner(cli: Cli, config: Config): Promise<void> {
  const text = "Hello from signalman. Write here, and Claude answers; /help shows what else there is.";
  await withStore(config, async ({ db, outbox, settings }) => {
    outbox.add("send", "hello", 0, { kind: "self" }, plainText(text), cli.clock.now());
    // That message is the welcome, so that no other follows.
    const aci = (await native()).findAccount(db)?.aci;
    if (aci) settings.set(`welcomed:${aci}`, String(cli.clock.now()));
  });
  cli.err(
    "Write to Claude in Note to Self. Signal rings for nothing there: SIGNALMAN_NOTIFY can (docs/linking.md).\n\n",
  );
}

/** The differences of the self-test, which brings its own wire, and cannot wait long for a stall. */
type Variant = { readonly openTransport?: typeof buildTransport; readonly staleAfterMs?: Millis };

/** Resolves to the exit code when everything has stopped. While `signalman link` links, the home is left to it. */
export async function run(cli: Cli, variant: Variant = {}): Promise<number> {
  const leaving = new AbortController();
  let watch: Promise<void> | null = null;
  const onUp = (): void => {
    watch ??= keepWatch(cli, leaving.signal);
  };
  try {
    for (;;) {
      const { code, heir } = await runOnce(cli, variant, onUp);
      if (heir === null) return code;
      while (isAlive(heir) && !cli.signal.aborted) await cli.clock.sleep(heirMs, cli.signal);
      if (cli.signal.aborted) return code;
    }
  } finally {
    leaving.abort();
  }
}

const answerMs: Millis = 100;
/** The pause between looks whether the process that the home was left to has ended. */
const heirMs: Millis = 250;

/** `heir`: the process that the home was left to; null for none. */
async function runOnce(cli: Cli, { openTransport = buildTransport, staleAfterMs }: Variant, onUp: () => void) {
  const { config: given, warnings } = load(cli);
  const { transport, backend } = given;
  let { projects } = given;
  const limits = staleAfterMs === undefined ? given.limits : { ...given.limits, staleAfterMs };
  // Projects may change while the daemon runs: the getter gives the present ones.
  const config = Object.freeze({
    ...given,
    limits,
    get projects() {
      return projects;
    },
  });
  const takeProjects = (): void => void (projects = load(cli).config.projects);
  await using stack = new AsyncDisposableStack();
  const deps = depsOf(cli, config, stack);
  deps.log.info("signalman starts", { version, commit, transport, backend, warnings: warnings.length });
  const daemon = await openDaemon(deps, async (store) => {
    const { mark, notify } = config;
    const plain = await openTransport(deps, store);
    const marked = mark === null ? plain : withMark(plain, mark);
    return notify === null ? marked : withNotify(marked, notify, deps);
  });
  const access = config.anthropicApiKey ?? config.anthropicAuthToken ?? config.anthropicBaseUrl;
  if (daemon.line.name !== ownProgram && access === null)
    deps.log.warn("no API key is set: messages wait", { hint: errorRow("claude_no_key").hint });
  const stop = (): void => void daemon.stop();
  if (cli.signal.aborted) stop();
  cli.signal.addEventListener("abort", stop);
  stack.defer(() => cli.signal.removeEventListener("abort", stop));
  // SIGUSR1 means `signalman reconnect`. Windows has no such signal.
  if (process.platform !== "win32") process.on("SIGUSR1", daemon.reconnect);
  stack.defer(() => void process.off("SIGUSR1", daemon.reconnect));
  let heir: number | null = null;
  const leave: Control["leave"] = ({ pid }) => {
    heir = pid;
    // The answer goes out before the server stops.
    void cli.clock.sleep(answerMs).then(stop);
  };
  await serve(deps, daemon, { projects: takeProjects, leave });
  onUp();
  const code = await daemon.finished;
  const { exit, title, hint } = errorRow("not_linked");
  if (code === exit && cli.isErrTty) cli.err(`${hint}\n`);
  else if (code === exit) deps.log.error(title, { hint });
  return { code, heir };
}

/** Starts the daemon in this process; it stops with the command. */
export async function openDaemon(deps: Deps, openTransport: (store: Store) => Promise<Transport>): Promise<Daemon> {
  const daemon = await startDaemon(deps.config, {
    ...deps,
    networkKey,
    newId: randomUUID,
    self: ownCommand,
    env: process.env,
    timeZone: localZone(),
    buildTransport: openTransport,
    buildLine: (store) => buildLine(deps, store.settings),
    buildCodeLine: () => buildCodeLine(deps),
  });
  deps.stack.defer(() => daemon.stop());
  return daemon;
}

/**
 * Puts the status server on its port and tells the other commands where; null where the settings want none. A port that cannot be
 * taken is a fault in the log: the bridge goes on, and the commands find the server on a free port of this machine.
 */
export async function serve(deps: Deps, daemon: Daemon, own: OwnControl = noControl): Promise<Server | null> {
  const { config, log, clock, stack } = deps;
  if (config.listen === null) return null;
  const token = newToken();
  const { status, health, isReady } = daemon;
  let url = "";
  const control = { ...controlOf(daemon, deps), ...own };
  const gate = { control, token, scriptToken: () => readToken(config.home), url: () => url };
  const report = (error: unknown): void => log.error("status server failed to answer", { error });
  const app = createApp({ status, health, isReady, ...gate, isAnyHost: config.trustListen, now: clock.now, report });
  const server = await listen(config.listen, app.fetch).catch((error: unknown) => {
    log.error("status server cannot listen where it should", { fault: toFault(error) });
    return listen({ host: "127.0.0.1", port: 0 }, app.fetch);
  });
  url = server.url.replace(/\/\/(?:0\.0\.0\.0|\[::\])(?=:)/u, "//127.0.0.1");
  stack.defer(async () => {
    removePlace(config.home);
    await server.stop();
  });
  writePlace(config.home, { url, token });
  log.info("status server listens", { url: server.url });
  return server;
}

/** The acts that `run` does itself. */
type OwnControl = Pick<Control, "projects" | "leave">;
const noControl: OwnControl = { projects: () => undefined, leave: () => undefined };

function controlOf(daemon: Daemon, { config, clock, signal }: Deps): Omit<Control, keyof OwnControl> {
  const { store, line, transport, wake, reconnect } = daemon;
  const find = (id: string): Session => {
    const session = store.sessions.find(id);
    if (session === null) throw wrong(`Cannot end ${id} as there is no such session here`);
    return session;
  };
  return {
    async sync() {
      await daemon.sync();
      const { failed, checked } = daemon.status().sessions.lastSync;
      if (failed > 0)
        throw new BridgeError("claude_request", `Cannot bring ${failed} of ${checked + failed} sessions in step`);
    },
    async reconnect({ captcha }) {
      if (captcha !== undefined && transport.answerChallenge === null)
        throw new BridgeError("unsupported", "Cannot hand in a captcha as this transport has no way");
      if (captcha !== undefined) await transport.answerChallenge?.(captcha);
      reconnect();
    },
    async send({ to, text, files }) {
      const id = randomUUID();
      const taken = files.map((file) => takeStaged(config.home, file));
      const rendered = renderReply(text);
      const bodies = rendered.length === 0 ? [plainText("")] : rendered;
      store.db.transaction(() => {
        for (const [index, body] of bodies.entries()) {
          const isLast = index === bodies.length - 1;
          const whole = body.kind === "text" && isLast ? { ...body, files: [...body.files, ...taken] } : body;
          store.outbox.add("send", id, index, to, whole, clock.now());
        }
      });
      wake();
      return id;
    },
    // A chat's messages go out in order, so that all are sent with the last.
    sent({ id }): SendState {
      const state = store.outbox.of("send", id).at(-1)?.state ?? "failed";
      const fault = state === "failed" ? store.outbox.faultOf("send", id) : null;
      return { state: state === "sent" || state === "failed" ? state : "waiting", fault };
    },
    async forget({ id }) {
      const session = find(id);
      if (store.posts.open(session.id).length > 0)
        throw wrong(
          `Cannot forget ${id} as Claude is at work on it`,
          "Write /stop in its chat, or wait for the answer.",
        );
      store.db.transaction(() => forgetSession(store.db, session.id));
      // Where Claude cannot be reached, a later sync deletes it there.
      await daemon.sync().catch(() => undefined);
    },
    async archive({ id }) {
      const session = find(id);
      if (line.remote && session.remoteId !== null) await line.remote.archive(session.remoteId, signal);
      store.sessions.end(session.id);
    },
  };
}

/** Tells one network from another: the names and addresses of the interfaces; "" where the system does not tell. */
function networkKey(): string {
  try {
    const entries = Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) =>
      addresses.filter(({ internal }) => !internal).map(({ address }) => `${name} ${address}`),
    );
    return entries.sort().join("\n");
  } catch {
    // The call takes a descriptor, and for a moment there may be none.
    return "";
  }
}
