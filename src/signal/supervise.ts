/**
 * A `signal-cli daemon` as our child: started, watched, started again, and stopped with us.
 *
 *   start ─▶ spawn ─▶ ready ─▶ (runs) ─▶ exit ─▶ backoff ─▶ spawn …        stop: SIGTERM, wait, SIGKILL
 *
 * It serves all accounts (no --account), so that linking works and a lost login does not end it, receives nothing by itself
 * (--receive-mode manual) and prints no messages (--no-receive-stdout). A daemon that already answers at the address, perhaps
 * our own orphan of before a crash, is used as it is and left alone by `stop`.
 */
import type { ChildProcess } from "node:child_process";
import { spawn } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import type { Clock, Random } from "../clock.ts";
import { BridgeError } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import type { Log } from "../log.ts";
import type { Http } from "./http.ts";
import { createHttp } from "./http.ts";
import { maskPeople } from "./mask.ts";

const superviseLimits = {
  /** A JVM on a small machine, with several accounts to check over the network. */
  readyMs: 120_000,
  checkMs: 1000,
  /** SIGTERM lets signal-cli end its HTTP server within 2 s and write its files. */
  stopMs: 10_000,
  backoffBaseMs: 1000,
  backoffCapMs: 60_000,
  /** After so long the next exit counts as the first again. */
  stableMs: 60_000,
  /** Exits in a row before it was ever ready, with signal-cli blaming its arguments or files, after which it is given up. */
  failuresMax: 3,
} as const;

export type SuperviseOptions = {
  /** The executable. */
  readonly path: string;
  /** Where it listens: `http://HOST:PORT`. */
  readonly url: string;
  /** Its folder of accounts (`-c`); null leaves it to signal-cli. */
  readonly config?: string | null | undefined;
  readonly clock: Clock;
  readonly log: Log;
  readonly random: Random;
  readonly limits?: Partial<Record<keyof typeof superviseLimits, number>> | undefined;
};

export type Supervisor = {
  /**
   * Resolves when the daemon answers; what a retry may mend is retried meanwhile. From then on it is kept running.
   * @throws BridgeError `config` when only a person can help: no such file, Java too old, port taken; `signal_unreachable`
   *   when the signal aborts first
   */
  start(signal: AbortSignal): Promise<void>;
  /** Resolves when the child is gone. Poll and send must be over: signal-cli drops what it holds. Never rejects. */
  stop(): Promise<void>;
  /** Process id of the child, null when there is none. */
  pid(): number | null;
};

type Exit = { readonly code: number | null; readonly tail: readonly string[]; readonly error: Error | null };
type Child = { readonly process: ChildProcess; readonly ready: Promise<void>; readonly exit: Promise<Exit> };

export function superviseSignalCli(options: SuperviseOptions): Supervisor {
  const limits = { ...superviseLimits, ...options.limits };
  const { clock, log } = options;
  const http = createHttp({ baseUrl: options.url, clock });
  const stopping = new AbortController();
  let child: Child | null = null;
  let keeper: Promise<void> | null = null;

  /** Runs until stopped, or until only a person can help: then it rejects. `onReady` is called at every readiness. */
  async function keep(onReady: () => void): Promise<void> {
    let exits = 0;
    let failures = 0;
    while (!stopping.signal.aborted) {
      if (await answers(http)) {
        onReady();
        log.info("a signal-cli daemon already answers; using it", { host: http.host });
        while (!stopping.signal.aborted && (await answers(http))) await clock.sleep(limits.checkMs, stopping.signal);
        continue;
      }
      if (stopping.signal.aborted) return;
      const startedAt = clock.monotonic();
      child = launch(options, http.host);
      const isReady = await waitReady(child, http, clock, limits, stopping.signal);
      if (isReady) {
        failures = 0;
        log.info("signal-cli started", { pid: child.process.pid });
        onReady();
      }
      const exit = await child.exit;
      child = null;
      if (stopping.signal.aborted) return;
      const fault = toStartFault(exit, options.path);
      if (!isReady && fault && (fault.isFinal || ++failures >= limits.failuresMax)) throw fault.error;
      exits = clock.monotonic() - startedAt > limits.stableMs ? 1 : exits + 1;
      const ceilingMs = Math.min(limits.backoffCapMs, limits.backoffBaseMs * 2 ** (exits - 1));
      const waitMs = Math.max(limits.backoffBaseMs / 4, options.random() * ceilingMs);
      log.warn("signal-cli ended", { exitCode: exit.code, reason: exit.tail.at(-1) ?? null, restartMs: waitMs });
      await clock.sleep(waitMs, stopping.signal);
    }
  }

  return {
    async start(signal) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const onAbort = () =>
        reject(new BridgeError("signal_unreachable", "Cannot start signal-cli as it was stopped before it answered"));
      signal.addEventListener("abort", onAbort, { once: true });
      if (signal.aborted) onAbort();
      keeper = keep(resolve).then(onAbort, (error: unknown) => {
        // After the first readiness nobody waits for this promise any more: the log has to say it.
        log.error("signal-cli is not started again", {
          reason: error instanceof Error ? error.message : String(error),
        });
        reject(error);
      });
      await promise.finally(() => signal.removeEventListener("abort", onAbort));
    },
    async stop() {
      stopping.abort();
      if (child) await terminate(child, clock, limits.stopMs);
      await keeper;
    },
    pid: () => child?.process.pid ?? null,
  };
}

/** **Source:** signal-cli 0.14.6, HttpServerHandler.java: `/api/v1/check` shows that its HTTP server lives, and no more. */
async function answers(http: Http): Promise<boolean> {
  const exchange = await http.exchange({ method: "GET", path: "/api/v1/check", deadlineMs: 2000, bytesMax: 1024 });
  return exchange.kind === "answer" && exchange.status === 200;
}

function launch({ path, config, log }: SuperviseOptions, host: string): Child {
  const folder = config ? ["-c", config] : [];
  const args = [...folder, "daemon", `--http=${host}`, "--receive-mode", "manual", "--no-receive-stdout"];
  const process = spawn(path, args, { stdio: ["ignore", "ignore", "pipe"], env: childEnv() });
  const tail: string[] = [];
  const ready = Promise.withResolvers<void>();
  const exit = Promise.withResolvers<Exit>();
  let error: Error | null = null;
  let isStarted = false;
  if (process.stderr)
    createInterface({ input: process.stderr, crlfDelay: Infinity }).on("line", (line) => {
      // Only its own log lines, once it is in touch with Signal: whatever else lands on stderr could quote a message.
      const isLog = /^(?:DEBUG|INFO|WARN|ERROR) /u.test(line);
      if (isLog && /Started HTTP server/u.test(line)) {
        isStarted = true;
        ready.resolve();
      }
      if (!isLog && (isStarted || /^\s/u.test(line))) return;
      const shown = maskPeople(line);
      if (tail.push(shown) > 30) tail.shift();
      log.debug("signal-cli says", { line: shown });
    });
  process.once("error", (cause) => {
    error = cause;
    // A process that was never made does not close.
    if (process.pid === undefined) exit.resolve({ code: null, tail, error });
  });
  process.once("close", (code) => exit.resolve({ code, tail, error }));
  return { process, ready: ready.promise, exit: exit.promise };
}

/** The child needs none of our secrets; it does need UTF-8 for names of files. */
function childEnv(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(([name]) => !/^(?:ANTHROPIC|SIGNALMAN)_/u.test(name));
  const env = Object.fromEntries(entries);
  return "LC_ALL" in env || "LANG" in env ? env : { ...env, LC_ALL: "C.UTF-8" };
}

/** False when it ended first, or did not become ready in time: then it is ended. */
async function waitReady(
  child: Child,
  http: Http,
  clock: Clock,
  limits: Record<keyof typeof superviseLimits, number>,
  stopping: AbortSignal,
): Promise<boolean> {
  let state: "starting" | "ready" | "over" = "starting";
  void child.ready.then(() => (state = state === "over" ? state : "ready"));
  void child.exit.then(() => (state = "over"));
  const now = () => state;
  const endsAt = clock.monotonic() + limits.readyMs;
  while (now() === "starting" && clock.monotonic() < endsAt && !stopping.aborted) {
    const pause = new AbortController();
    await Promise.race([
      child.ready,
      child.exit,
      clock.sleep(limits.checkMs, AbortSignal.any([stopping, pause.signal])),
    ]);
    pause.abort();
    // A version that words its readiness otherwise: the port answers, and our child lives.
    if (now() === "starting" && (await answers(http)) && now() === "starting") return true;
  }
  if (now() === "starting" && !stopping.aborted) await terminate(child, clock, limits.stopMs);
  return now() === "ready";
}

async function terminate(child: Child, clock: Clock, stopMs: Millis): Promise<void> {
  const done = new AbortController();
  child.process.kill("SIGTERM");
  const isGone = await Promise.race([child.exit.then(() => true), clock.sleep(stopMs, done.signal).then(() => false)]);
  done.abort();
  if (!isGone) child.process.kill("SIGKILL");
  await child.exit;
}

/**
 * Why it did not start, where that is known. Final: the next try cannot differ.
 * Exit codes of signal-cli: 1 user error, 3 network. **Source:** its man page.
 */
function toStartFault({ code, tail, error }: Exit, path: string) {
  const text = tail.join("\n");
  const fault = (why: string, hint: string, isFinal: boolean) => ({
    error: new BridgeError("config", `Cannot start signal-cli as ${why}`, { hint }),
    isFinal,
  });
  if (error && "code" in error && (error.code === "ENOENT" || error.code === "EACCES"))
    return fault(`${path} is missing or not executable`, "Set SIGNALMAN_SIGNAL_CLI to the path of signal-cli.", true);
  if (/UnsupportedClassVersionError|LinkageError|no 'java' command|JAVA_HOME is set to an invalid/u.test(text))
    return fault(
      "Java is missing or too old",
      "signal-cli 0.14 needs Java 25, 0.13 needs Java 21: set JAVA_HOME.",
      true,
    );
  if (/Address already in use|BindException/u.test(text))
    return fault("another program uses its port", "Set SIGNALMAN_SIGNAL_URL to a free port.", false);
  if (code === 3) return null;
  const reason = tail.at(-1) ?? error?.message ?? `it ended with code ${code}`;
  return code === 1 || code === 126 || code === 127 || error
    ? fault(`it says: ${reason}`, "Start it by hand to see more.", false)
    : null;
}
