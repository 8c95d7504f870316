/** The world as a command sees it, so that a test can hand in its own. stdout is the answer, stderr everything else. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import stringWidth from "string-width";
import { childEnv } from "../child-env.ts";
import type { Clock, Random } from "../clock.ts";
import { loadConfig, type Config, type Loaded } from "../config.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import type { Millis } from "../core/model.ts";
import { escapeControls, harmless, redactText, startLog } from "../log.ts";
import { signalTlsPlace } from "../settings.ts";
import type { Store } from "../store/store.ts";
import { commit } from "../version.ts";
import type { Deps } from "./adapters.ts";

export type Io = {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly isOutTty: boolean;
  readonly isErrTty: boolean;
  readonly env: Readonly<Partial<Record<string, string>>>;
  /** Aborts on the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly random: Random;
};

/** The flags of settings as commander has them, by setting key. */
export type Flags = Readonly<Partial<Record<string, string>>>;

/** The error of a command that cannot be done as it was asked; `hint` tells what can. */
export const wrong = (message: string, hint = "", cause?: unknown): BridgeError =>
  new BridgeError("config", message, { hint, cause });

export type Cli = Io & { readonly flags: Flags };

/** Loads the settings and prints their warnings. @throws BridgeError `config` */
export function load(cli: Cli): Loaded {
  const loaded = loadConfig(cli);
  for (const warning of loaded.warnings) cli.err(harmless(`signalman: ${warning}\n`));
  return loaded;
}

export const configOf = (cli: Cli): Config => load(cli).config;

/** Reads the database of a home; null where it has none, since a look must not make one. */
export async function withStore<T>({ home }: Config, read: (store: Store) => T | Promise<T>): Promise<T | null> {
  if (!existsSync(join(home, "signalman.db"))) return null;
  const { openStore } = await import("../store/store.ts");
  using stack = new DisposableStack();
  return await read(stack.adopt(await openStore(home, { isExclusive: false }), (store) => store.close()));
}

/** Writes a file for its owner alone, makes its folder where it is missing, and replaces a file that is there without writing into it. */
export function writePrivate(path: string, content: string | Uint8Array, mode = 0o600): void {
  const fresh = `${path}.new`;
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  rmSync(fresh, { force: true });
  writeFileSync(fresh, content, { mode, flag: "wx" });
  renameSync(fresh, path);
}

/** Prints for a program, or for a person. */
export function print(cli: Io, { json }: { readonly json?: true }, value: unknown, text: () => string): number {
  cli.out(json ? `${escapeControls(JSON.stringify(value, null, 2))}\n` : text());
  return 0;
}

/** Builds the parts that the adapters take from a command; its log goes to stderr. */
export function depsOf(cli: Cli, config: Config, stack: AsyncDisposableStack, level = config.log): Deps {
  const { clock, random, signal, isErrTty, err } = cli;
  return {
    config,
    log: startLog({ level, isPretty: isErrTty, hasColour: hasColour(cli), write: err }),
    clock,
    random,
    signal,
    proxy: openProxy(config.proxy ?? socksOf(cli), stack),
    stack,
  };
}

/** The SOCKS proxy of the environment, or null: fetch and libsignal take no such proxy from there. */
const socksOf = ({ env }: Pick<Io, "env">): string | null =>
  [env["HTTPS_PROXY"], env["https_proxy"]].find((url) => /^socks5h?:/iu.test(url ?? "")) ?? null;

/** Resolves to a proxy that fetch takes: for any other than an HTTP proxy a tunnel on a port of this process. */
async function openProxy(url: string | null, stack: AsyncDisposableStack): Promise<string | null> {
  if (url === null || (/^https?:/u.test(url) && signalTlsPlace(url) === null)) return url;
  const tunnel = import("../tunnel.ts").then(({ openTunnel }) => openTunnel(url));
  stack.defer(() => tunnel.then(({ close }) => close()));
  return (await tunnel).url;
}

/** The command that starts this program: the binary, or the runtime and the source. */
export const ownCommand: readonly string[] = [
  process.execPath,
  ...(commit === "source"
    ? ["Deno" in globalThis ? ["run", "-A"] : ["--no-env-file"], process.argv[1] ?? ""].flat()
    : []),
];

export const hasPerson = ({ isErrTty }: Pick<Io, "isErrTty">): boolean => isErrTty && process.stdin.isTTY;

/** **Source:** no-color.org */
export const hasColour = ({ env }: Pick<Io, "env">): boolean => !env["NO_COLOR"] && env["TERM"] !== "dumb";

/** Prints the fault and its remedy, and returns the exit code. */
export function reportFailure(io: Pick<Io, "err">, error: unknown): number {
  if (!(error instanceof BridgeError)) {
    const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
    io.err(`signalman: a fault in signalman itself\n${harmless(redactText(detail))}\n`);
    return errorRow("internal").exit;
  }
  io.err(`signalman: ${harmless(redactText(error.message))}\n${error.hint === "" ? "" : `${harmless(error.hint)}\n`}`);
  return errorRow(error.code).exit;
}

/** Rows as columns of equal width, each row on one line even where a cell has line breaks. */
export function toTable(rows: readonly (readonly string[])[]): string {
  const lines = rows.map((row) => row.map((cell) => harmless(cell.replaceAll(/\s+/gu, " "))));
  const widths = lines.reduce<number[]>(
    (most, row) => row.map((cell, at) => Math.max(most[at] ?? 0, stringWidth(cell))),
    [],
  );
  const pad = (cell: string, at: number): string => cell + " ".repeat((widths[at] ?? 0) - stringWidth(cell));
  return lines.map((row) => `${row.map(pad).join("  ").trimEnd()}\n`).join("");
}

/** The variables that an editor or a pager needs for the screen, besides those of every child. */
const ofScreen = /^(?:DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|COLORTERM|TERMINFO|PAGER|LESS)$/u;

/** Runs a program in the person's own terminal; resolves to its exit code, 127 where there is no such program. */
export const runAttached = (program: string, args: readonly string[]): Promise<number> =>
  new Promise((resolve) => {
    const env = childEnv(Object.fromEntries(Object.entries(process.env).filter(([name]) => ofScreen.test(name))));
    const child = spawn(program, args, { stdio: "inherit", env });
    child.once("error", () => resolve(127)).once("close", (code) => resolve(code ?? 1));
  });

const lookMs: Millis = 25;

/** Resolves when `isSo` is true; a look that fails counts as no. @throws Error after `patienceMs`, or when the person leaves */
export async function until(
  { clock, signal }: Io,
  patienceMs: Millis,
  what: string,
  isSo: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = clock.monotonic() + patienceMs;
  while (!(await Promise.resolve(isSo()).catch(() => false))) {
    if (signal.aborted || clock.monotonic() > deadline) throw new Error(`waited in vain for ${what}`);
    await clock.sleep(lookMs, signal);
  }
}
