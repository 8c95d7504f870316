#!/usr/bin/env bun
/** Runs argv and exits with its code: the only file that ends the process. */
import { readFileSync } from "node:fs";
import { systemClock, systemRandom } from "./clock.ts";
import { commit, version } from "./version.ts";

const argv = process.argv.slice(2);
const stopping = new AbortController();
const interrupted = 130;

/** True where `nohup` started this process, which then outlives its terminal. **Source:** proc(5), SigIgn; SIGHUP is the lowest bit. */
function isHangupIgnored(): boolean {
  if (process.platform !== "linux") return false;
  return /^SigIgn:\s*[\da-f]*[13579bdf]$/mu.test(readFileSync("/proc/self/status", "utf8"));
}

/** The first signal asks everything to stop in order; the second does not wait. */
for (const name of ["SIGINT", "SIGTERM", ...(isHangupIgnored() ? [] : ["SIGHUP" as const])] as const)
  process.on(name, () => {
    if (stopping.signal.aborted) process.exit(interrupted);
    stopping.abort(name);
  });
/** Exits where the reader of a pipe went away (`signalman sessions | head`), since no reader is left; output that is lost is a failure. */
process.stdout.on("error", ({ code }: NodeJS.ErrnoException) => process.exit(code === "EPIPE" ? 0 : 1));
/** A log that cannot be written, on a full disk or to a pipe without a reader, ends nothing. */
process.stderr.on("error", () => undefined);
/** SIGUSR1 means `signalman reconnect`; where nothing is connected yet it would end the process. Windows has no such signal. */
if (process.platform !== "win32") process.on("SIGUSR1", () => undefined);

/** Requests to this machine go past a proxy of the environment, which would see tokens and messages. */
const { NO_PROXY = "", no_proxy = "" } = process.env;
process.env["NO_PROXY"] = process.env["no_proxy"] = [NO_PROXY, no_proxy, "localhost,127.0.0.0/8,127.0.0.1,::1,[::1]"]
  .filter(Boolean)
  .join(",");

/** Keeps the runtime from printing each request with its headers, the key among them. **Source:** Bun's documentation, "Debugging". */
process.env["BUN_CONFIG_VERBOSE_FETCH"] = "false";

/** The variable, set for another program, would let any server pass for Claude; NODE_EXTRA_CA_CERTS names a certificate of one's own. */
delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"];

/** Makes all files private to their owner, those that SQLite makes beside its own included. */
process.umask(0o077);
/** Reports a fault that no code awaits, as the runtime would print it with all that it holds. */
for (const name of ["uncaughtException", "unhandledRejection"] as const)
  process.on(name, (error: unknown) => void crash(error));

async function crash(error: unknown): Promise<never> {
  const { reportFailure } = await import("./cli/io.ts");
  return process.exit(reportFailure({ err: (text) => void process.stderr.write(text) }, error));
}

async function main(): Promise<number> {
  if (argv.length === 1 && /^(version|--version|-V)$/.test(argv[0] ?? "")) {
    process.stdout.write(`signalman ${version} (${commit})\n`);
    return 0;
  }
  const { runArgv } = await import("./cli/program.ts");
  return runArgv(argv, {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    isOutTty: process.stdout.isTTY,
    isErrTty: process.stderr.isTTY,
    env: process.env,
    signal: stopping.signal,
    clock: systemClock,
    random: systemRandom,
  });
}

/** A timer keeps the process alive beside a line that is still opening, since libsignal's threads do not count as work. */
void systemClock.sleep(Number.MAX_SAFE_INTEGER);
// A daemon that ends on SIGINT ends well, with code 0; a command that ends on it with a fault was cut short.
void main().then((code) => process.exit(stopping.signal.reason === "SIGINT" && code !== 0 ? interrupted : code));
