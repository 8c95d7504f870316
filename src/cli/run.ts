/** `signalman run`: the daemon in the foreground, with its status server, until a signal or a fault ends it. */
import { randomUUID } from "node:crypto";
import { networkInterfaces } from "node:os";
import type { Config } from "../config.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import { plainText } from "../core/reply.ts";
import { startDaemon, type Daemon } from "../daemon.ts";
import { startLog, type Log } from "../log.ts";
import { createApp } from "../status/app.ts";
import type { Control } from "../status/control.ts";
import { listen, type Server } from "../status/listen.ts";
import { commit, version } from "../version.ts";
import { buildBackend, buildTransport, startSignalCli } from "./adapters.ts";
import { load, type Flags, type Io } from "./io.ts";
import { newToken, removePlace, writePlace } from "./remote.ts";
import { keepWatch } from "./watchdog.ts";

/** Resolves to the exit code when everything has stopped. `openTransport` is for the self-test, which brings its own wire. */
export async function run(io: Io, flags: Flags, openTransport = buildTransport): Promise<number> {
  const { config, warnings } = load(io, flags);
  const log = startLog({ level: config.log, isPretty: io.isErrTty, write: io.err });
  log.info("signalman starts", {
    version,
    commit,
    transport: config.transport,
    backend: config.backend,
    warnings: warnings.length,
  });
  const deps = { log, clock: io.clock, random: io.random };
  const started: { stop(): Promise<void> }[] = [];
  try {
    const daemon = await startDaemon(config, {
      ...deps,
      networkKey,
      newId: randomUUID,
      async buildTransport(store) {
        const signalCli = await startSignalCli(config, deps, io.signal);
        if (signalCli) started.push(signalCli);
        return openTransport(config, store, deps);
      },
      buildBackend: (store) => buildBackend(config, store, deps),
    });
    const code = await attend(config, daemon, io, log);
    if (code === errorRow("not_linked").exit && io.isErrTty) io.err(`${errorRow("not_linked").hint}\n`);
    return code;
  } catch (error) {
    // Asked to stop while signal-cli was still starting: that is no failure.
    if (!io.signal.aborted) throw error;
    return 0;
  } finally {
    for (const child of started) await child.stop();
  }
}

/** Serves the status until the daemon has ended, by itself or because it was asked to. */
async function attend(config: Config, daemon: Daemon, io: Io, log: Log): Promise<number> {
  const stop = (): void => void daemon.stop();
  io.signal.addEventListener("abort", stop);
  if (io.signal.aborted) stop();
  const forget = onReconnectSignal(daemon.reconnect);
  const watching = new AbortController();
  let server: Server | null = null;
  try {
    server = await serve(config, daemon, io, log);
    void keepWatch(io, watching.signal);
    return await daemon.finished;
  } finally {
    watching.abort();
    forget();
    io.signal.removeEventListener("abort", stop);
    await daemon.stop();
    await server?.stop();
  }
}

/**
 * Puts the status server on its port and tells the other commands where; null where the settings want none.
 * @throws BridgeError `config` when the port is taken
 */
export async function serve(config: Config, daemon: Daemon, io: Io, log: Log): Promise<Server | null> {
  if (config.listen === null) return null;
  const token = newToken();
  const app = createApp({
    status: daemon.status,
    health: daemon.health,
    isReady: daemon.isReady,
    control: controlOf(daemon, io),
    token,
    isAnyHost: config.trustListen,
    now: io.clock.now,
  });
  const server = await listen(config.listen, app.fetch);
  writePlace(config.home, { url: server.url, token });
  log.info("status server listens", { url: server.url });
  return {
    url: server.url,
    async stop() {
      removePlace(config.home);
      await server.stop();
    },
  };
}

function controlOf(daemon: Daemon, io: Io): Control {
  const { store, backend, transport } = daemon;
  return {
    async reconnect(captcha) {
      if (captcha !== undefined && transport.answerChallenge === null)
        throw new BridgeError("unsupported", "Cannot hand in a captcha as this transport has no way");
      if (captcha !== undefined) await transport.answerChallenge?.(captcha);
      daemon.reconnect();
    },
    sync: daemon.sync,
    send(chat, text) {
      store.outbox.add(`send:${randomUUID()}`, chat, plainText(text), io.clock.now());
      daemon.wake();
    },
    async archive(id) {
      const session = store.sessions.find(id);
      if (session === null) throw new BridgeError("config", `Cannot archive ${id} as there is no such session here`);
      if (backend.remote && session.remoteId !== null) await backend.remote.archive(session.remoteId, io.signal);
      store.sessions.end(session.id);
    },
  };
}

/** Which network this machine is on: names and addresses of its interfaces. */
function networkKey(): string {
  const entries = Object.entries(networkInterfaces()).flatMap(([name, addresses = []]) =>
    addresses.filter(({ internal }) => !internal).map(({ address }) => `${name} ${address}`),
  );
  return entries.sort().join("\n");
}

/** SIGUSR1 means `signalman reconnect`. Windows has no such signal. */
function onReconnectSignal(reconnect: () => void): () => void {
  if (process.platform === "win32") return () => undefined;
  process.on("SIGUSR1", reconnect);
  return () => void process.off("SIGUSR1", reconnect);
}
