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
import { backoffMs, defaultBackoff } from "../core/backoff.ts";
import { BridgeError } from "../core/errors.ts";
import type { Log } from "../log.ts";
import { createHttp, maskPeople, type Http } from "./http.ts";

const defaults = {
  /** A JVM on a small machine, with several accounts to check over the network. */
  readyMs: 120_000,
  checkMs: 500,
  /** SIGTERM lets signal-cli end its HTTP server within 2 s and write its files. */
  stopMs: 10_000,
  backoff: defaultBackoff,
  /** After so long the next exit counts as the first again. */
  stableMs: 60_000,
  /** Exits in a row before it was ever ready, with signal-cli blaming its arguments or files, after which it is given up. */
  failuresMax: 3,
};

export type SuperviseOptions = {
  /** The executable. */
  readonly path: string;
  /** Where it listens: `http://HOST:PORT`. */
  readonly url: string;
  readonly clock: Clock;
  readonly log: Log;
  readonly random: Random;
  readonly limits?: Partial<typeof defaults>;
};

type Exit = {
  readonly code: number | NodeJS.Signals | null;
  readonly tail: readonly string[];
  readonly error: Error | null;
};
type Child = { readonly process: ChildProcess; isReady: boolean; readonly exit: Promise<Exit> };

export function superviseSignalCli(options: SuperviseOptions) {
  const limits = { ...defaults, ...options.limits };
  const { clock, log } = options;
  const http = createHttp({ baseUrl: options.url, clock });
  const stopping = new AbortController();
  const isStopping = () => stopping.signal.aborted;
  let child: Child | null = null;
  let keeper: Promise<void> | null = null;

  /** Looks until the child answers, has ended, or takes too long: then it is ended. */
  async function watchStart(current: Child): Promise<boolean> {
    const endsAt = clock.monotonic() + limits.readyMs;
    const pause = () => clock.sleep(limits.checkMs, stopping.signal).then(() => "running" as const);
    while (clock.monotonic() < endsAt && (await Promise.race([current.exit, pause()])) === "running" && !isStopping())
      if (await answers(http)) return true;
    await terminate(current, clock, limits.stopMs);
    return false;
  }

  /** Runs until stopped, or until only a person can help: then it rejects. `onReady` is called at every readiness. */
  async function keep(onReady: () => void): Promise<void> {
    let exits = 0;
    let failures = 0;
    while (!isStopping()) {
      if (await answers(http)) {
        onReady();
        log.info("a signal-cli daemon already answers; using it", { host: http.host });
        while (!isStopping() && (await answers(http))) await clock.sleep(limits.checkMs, stopping.signal);
        continue;
      }
      if (isStopping()) return;
      const startedAt = clock.monotonic();
      const current = launch(options);
      child = current;
      current.isReady = await watchStart(current);
      if (current.isReady) {
        failures = 0;
        log.info("signal-cli started", { pid: current.process.pid });
        onReady();
      }
      const exit = await current.exit;
      child = null;
      if (isStopping()) return;
      const fault = toStartFault(exit, options.path);
      if (!current.isReady && fault && (fault.isFinal || ++failures >= limits.failuresMax)) throw fault.error;
      exits = clock.monotonic() - startedAt > limits.stableMs ? 1 : exits + 1;
      const waitMs = backoffMs({ attempt: exits, jitter: options.random(), retryAfterMs: null }, limits.backoff);
      log.warn("signal-cli ended", { exitCode: exit.code, reason: exit.tail.at(-1) ?? null, restartMs: waitMs });
      await clock.sleep(waitMs, stopping.signal);
    }
  }

  return {
    /**
     * Resolves when the daemon answers; what a retry may mend is retried meanwhile. From then on it is kept running.
     * @throws BridgeError `config` when only a person can help: no such file, Java too old, port taken; `signal_unreachable`
     *   when the signal aborts first
     */
    async start(signal: AbortSignal): Promise<void> {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const giveUp = () =>
        reject(new BridgeError("signal_unreachable", "Cannot start signal-cli as it was stopped before it answered"));
      signal.addEventListener("abort", giveUp, { once: true });
      if (signal.aborted) giveUp();
      keeper = keep(resolve).then(giveUp, (error: Error) => {
        // After the first readiness nobody waits for this promise any more: the log has to say it.
        log.error("signal-cli is not started again", { reason: error.message });
        reject(error);
      });
      await promise;
    },
    /** Resolves when the child is gone. Poll and send must be over: signal-cli drops what it holds. Never rejects. */
    async stop(): Promise<void> {
      stopping.abort();
      await terminate(child, clock, limits.stopMs);
      await keeper;
    },
    /** Of the child, null when there is none. */
    pid: () => child?.process.pid ?? null,
  };
}

async function terminate(child: Child | null, clock: Clock, stopMs: number): Promise<void> {
  if (child === null) return;
  const done = new AbortController();
  child.process.kill("SIGTERM");
  const tooLong = clock.sleep(stopMs, done.signal).then(() => "too long" as const);
  if ((await Promise.race([child.exit, tooLong])) === "too long") child.process.kill("SIGKILL");
  done.abort();
  await child.exit;
}

/** **Source:** signal-cli 0.14.6, HttpServerHandler.java: `/api/v1/check` shows that its HTTP server lives, and no more. */
async function answers(http: Http): Promise<boolean> {
  const check = { method: "GET" as const, path: "/api/v1/check", what: "ask signal-cli", deadlineMs: 2000 };
  return (await http.exchange(check)).status === 200;
}

function launch({ path, url, log }: SuperviseOptions): Child {
  const { hostname, port } = new URL(url);
  const args = ["daemon", `--http=${hostname}:${port || 80}`, "--receive-mode", "manual", "--no-receive-stdout"];
  const process = spawn(path, args, { stdio: ["ignore", "ignore", "pipe"], env: childEnv() });
  const tail: string[] = [];
  const exit = Promise.withResolvers<Exit>();
  const child: Child = { process, isReady: false, exit: exit.promise };
  let error: Error | null = null;
  createInterface({ input: process.stderr, crlfDelay: Infinity }).on("line", (line) => {
    // Only its own log lines, once it is in touch with Signal: whatever else lands on stderr could quote a message.
    if (!/^(?:DEBUG|INFO|WARN|ERROR) /u.test(line) && (child.isReady || /^\s/u.test(line))) return;
    const shown = maskPeople(line);
    if (!/^(?:DEBUG|INFO) /u.test(line) && tail.push(shown) > 30) tail.shift();
    log.debug("signal-cli says", { line: shown });
  });
  process.once("error", (cause) => {
    error = cause;
    // A process that was never made does not close.
    if (process.pid === undefined) exit.resolve({ code: null, tail, error });
  });
  process.once("close", (code, signal) => exit.resolve({ code: code ?? signal, tail, error }));
  return child;
}

/** The child needs none of our secrets; it does need UTF-8 for names of files. */
function childEnv(): NodeJS.ProcessEnv {
  const entries = Object.entries(process.env).filter(([name]) => !/^(?:ANTHROPIC|SIGNALMAN)_/u.test(name));
  const env = Object.fromEntries(entries);
  return "LC_ALL" in env || "LANG" in env ? env : { ...env, LC_ALL: "C.UTF-8" };
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
  if (code === 3 || !(error || code === 1 || code === 126 || code === 127)) return null;
  return fault(
    `it says: ${tail.at(-1) ?? error?.message ?? `it ended with code ${code}`}`,
    "Start it by hand to see more.",
    false,
  );
}
