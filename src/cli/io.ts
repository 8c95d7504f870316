/** The world as a command sees it, so that a test can hand in its own. stdout is the answer, stderr everything else. */
import type { Clock, Random } from "../clock.ts";
import { loadConfig, type Config, type Loaded } from "../config.ts";
import { BridgeError, errorRow } from "../core/errors.ts";
import { redactText } from "../log.ts";

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

/** Loads the settings and says its warnings. @throws BridgeError `config` */
export function load(io: Io, flags: Flags): Loaded {
  const loaded = loadConfig({ flags, env: io.env });
  for (const warning of loaded.warnings) io.err(`signalman: ${warning}\n`);
  return loaded;
}

export const configOf = (io: Io, flags: Flags): Config => load(io, flags).config;

/** Says what failed and what to do, and gives the exit code. */
export function reportFailure(io: Pick<Io, "err">, error: unknown): number {
  if (!(error instanceof BridgeError)) {
    const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
    io.err(`signalman: a fault in signalman itself\n${redactText(detail)}\n`);
    return errorRow("internal").exit;
  }
  io.err(`signalman: ${redactText(error.message)}\n${error.hint === "" ? "" : `${error.hint}\n`}`);
  return errorRow(error.code).exit;
}

/** Rows as columns of equal width. */
export function toTable(rows: readonly (readonly string[])[]): string {
  const widths = rows.reduce<number[]>((most, row) => row.map((cell, at) => Math.max(most[at] ?? 0, cell.length)), []);
  const line = (row: readonly string[]): string =>
    row
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd();
  return rows.map((row) => `${line(row)}\n`).join("");
}
