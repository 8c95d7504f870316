/** `signalman config show`: what is in force, and where it was set. */
import { fileKey, settingKeys, settingRow, variableOf } from "../settings.ts";
import { load, toTable, type Flags, type Io } from "./io.ts";

const cellLengthMax = 72;

export function showConfig(io: Io, flags: Flags, options: { json?: true }): number {
  const { given, origins } = load(io, flags);
  const rows = settingKeys.map((key) => ({
    key: fileKey(key),
    variable: variableOf(key),
    value: masked(given[key], settingRow(key).isSecret === true),
    origin: origins[key],
  }));
  if (options.json) io.out(`${JSON.stringify(rows, null, 2)}\n`);
  else io.out(toTable(rows.map(({ key, value, origin }) => [key, origin, shown(value)])));
  return 0;
}

/** A key, and the user and password that a URL may carry. */
function masked(value: unknown, isSecret: boolean): unknown {
  if (isSecret && value !== null) return "(hidden)";
  return typeof value === "string" ? value.replace(/^(https?:\/\/)[^\s/@]+@/i, "$1…@") : value;
}

/** The owner's own numbers are shown whole: it is their terminal, and what they need to check. */
function shown(value: unknown): string {
  if (value === null) return "-";
  const text = (
    Array.isArray(value) ? value.join(", ") : typeof value === "string" ? value : JSON.stringify(value)
  ).replace(/\s+/g, " ");
  return text.length > cellLengthMax ? `${text.slice(0, cellLengthMax - 1)}…` : text;
}
