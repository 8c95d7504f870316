import type { Log, LogFields } from "../../src/log.ts";

/** Says nothing. */
export const quietLog: Log = { debug() {}, info() {}, warn() {}, error() {} };

/** Keeps what was said, as one line each. */
export function createHeardLog(): Log & { lines(): readonly string[] } {
  const lines: string[] = [];
  const hear =
    (level: string) =>
    (message: string, fields: LogFields = {}) =>
      void lines.push(`${level} ${message} ${JSON.stringify(fields)}`);
  return { debug: hear("debug"), info: hear("info"), warn: hear("warn"), error: hear("error"), lines: () => lines };
}
