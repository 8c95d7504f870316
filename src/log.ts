/**
 * The log: one JSON object per line on stderr, or coloured text for a person. Every record passes the redactor, so that a
 * slip elsewhere (a foreign error's message, a field too many) still shows no token, no body and no whole phone number.
 */
import {
  configureSync,
  getAnsiColorFormatter,
  getJsonLinesFormatter,
  getLogger,
  getTextFormatter,
  type LogRecord,
  type TextFormatter,
} from "@logtape/logtape";
import { JWT_PATTERN } from "@logtape/redaction";
import type { Address } from "./core/model.ts";

export type LogFields = Readonly<Record<string, unknown>>;

export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** Takes a constant message, with its data in fields; no bodies, tokens or whole numbers. */
export type Log = Readonly<Record<LogLevel, (message: string, fields?: LogFields) => void>>;

export type LogOptions = {
  readonly level: LogLevel;
  /** Text for a person instead of JSON lines. */
  readonly isPretty: boolean;
  /** Whether that text may have colours. */
  readonly hasColour: boolean;
  /** Takes one line with its newline. */
  readonly write: (line: string) => void;
};

/** Starts the process's one log; a second call replaces the first. */
export function startLog({ level, isPretty, hasColour, write }: LogOptions): Log {
  const toJson = getJsonLinesFormatter({ properties: "nest:fields" });
  const toLine = isPretty ? prettyFormatter(hasColour) : (record: LogRecord) => escapeControls(toJson(record));
  configureSync({
    reset: true,
    sinks: {
      stderr: (record) =>
        write(
          toLine({
            ...record,
            message: record.message.map((part) => (typeof part === "string" ? redactText(part) : redact(part))),
            properties: redact(record.properties) as Record<string, unknown>,
          }),
        ),
    },
    loggers: [
      { category: ["logtape"], sinks: [] },
      { category: ["signalman"], sinks: ["stderr"], lowestLevel: level === "warn" ? "warning" : level },
    ],
  });
  return getLogger(["signalman"]);
}

function prettyFormatter(hasColour: boolean): TextFormatter {
  const [dim, plain] = hasColour ? ["\u001b[2m", "\u001b[0m"] : ["", ""];
  return (hasColour ? getAnsiColorFormatter : getTextFormatter)({
    timestamp: (at) => localTime(at).slice(11),
    category: () => "",
    format({ timestamp, level, record }) {
      const fields = Object.entries(record.properties).filter(([, value]) => value !== undefined && value !== null);
      const tail = fields.map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(" ");
      const message = harmless(record.message.join(""));
      return `${timestamp ?? ""} ${level} ${message}${tail === "" ? "" : `  ${dim}${harmless(tail)}${plain}`}`;
    },
  });
}

/** Local time for a person: `2026-11-23 13:00:05`. */
export const localTime = (at: number): string => new Date(at).toLocaleString("sv-SE");

/**
 * Makes words of other people and of servers safe for a terminal: their control characters clear no screen, set no title and reverse no
 * text. Line breaks and tabs stay.
 */
export const harmless = (text: string): string =>
  text.replaceAll(/(?![\n\t])[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu, "\ufffd");

/** Does the same for JSON by escapes, since `JSON.stringify` leaves control characters above 126. */
export const escapeControls = (json: string): string =>
  json.replaceAll(/[\u007f-\u009f\p{Bidi_Control}\p{Zl}\p{Zp}]/gu, (sign) => {
    return `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });

const depthMax = 6;
const textLengthMax = 2_000;
const itemsMax = 50;

/** Fields that hold people's words, or a secret that would open the account. */
const hiddenKey =
  /^(text|body|bodies|content|contents|prompt|reply|quote|caption|system|input|envelope|envelopes|base64|files?|captcha|challenge|fileName|sourceName)$|(token|secret|password|passphrase|api_?key|authorization|cookie|profile_?key|master_?key|entropy_?pool)$/i;

/** Any value as plain data that may be shown: errors with their causes, bytes as their number, hidden fields as such. */
export function redact(value: unknown, depth = 0): unknown {
  if (typeof value === "string") return redactText(value);
  if (typeof value === "bigint" || typeof value === "symbol" || typeof value === "function") return String(value);
  if (typeof value !== "object" || value === null) return value;
  if (depth >= depthMax) return "[deeper]";
  if (value instanceof Error) return redactError(value, depth);
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `[${value.byteLength} bytes]`;
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "[no date]" : value.toISOString();
  if (value instanceof URL) return redactText(value.href);
  if (value instanceof Map || value instanceof Set) return redact([...value], depth);
  if (Array.isArray(value)) return value.slice(0, itemsMax).map((item) => redact(item, depth + 1));
  const entries = Object.entries(value).slice(0, itemsMax);
  return Object.fromEntries(entries.map(([key, field]) => [redactText(key), redactField(key, field, depth)]));
}

const redactField = (key: string, field: unknown, depth: number): unknown =>
  hiddenKey.test(key) && (typeof field === "string" || typeof field === "object") && field !== null
    ? "[hidden]"
    : redact(field, depth + 1);

/** Shows the stack of foreign errors only, which are bugs. Other own fields of an error (responses, requests) are left out. */
function redactError(error: Error & { code?: unknown; status?: unknown }, depth: number): unknown {
  return {
    name: error.name,
    message: redactText(error.message),
    ...(typeof error.code === "string" || typeof error.code === "number" ? { code: redact(error.code) } : {}),
    ...(typeof error.status === "number" ? { status: error.status } : {}),
    ...(error.name === "BridgeError" || depth > 0 ? {} : { stack: redactText(error.stack ?? "") }),
    ...(error.cause === undefined ? {} : { cause: redact(error.cause, depth + 1) }),
    ...(error instanceof AggregateError ? { errors: redact(error.errors, depth + 1) } : {}),
  };
}

const secrets: readonly (readonly [RegExp, (match: string, group: string) => string])[] = [
  [/sk-ant-[\w-]+/gi, () => "sk-ant-…"],
  [/\b(bearer|basic)\s+[\w.~+/=-]{6,}/gi, (_, scheme) => `${scheme} …`],
  [/(x-api-key["']?\s*[:=]\s*["']?)[^\s"',}]+/gi, (_, name) => `${name}…`],
  [JWT_PATTERN.pattern, () => "[token]"],
  [/sgnl:\/\/\S+/gi, () => "sgnl://…"],
  [/\/\/[^\s/@]+:[^\s/@]+@/g, () => "//…@"],
  [/(?:\+|%2b)[ ().-]?(\d(?:[ ().-]?\d){6,14})/gi, (_, digits) => maskNumber(`+${digits.replace(/\D/g, "")}`)],
];

/** A text without tokens, link codes and whole phone numbers, at most 2,000 characters long. */
export function redactText(text: string): string {
  const shown = text.length > textLengthMax ? `${text.slice(0, textLengthMax)}…` : text;
  return secrets.reduce((left, [pattern, replacement]) => left.replace(pattern, replacement), shown);
}

/** The masked number, or else the beginning of the account id, which only its owner recognises. */
export const maskAddress = ({ number, aci }: Address): string =>
  number === null ? (aci?.slice(0, 8) ?? "an account") : maskNumber(number);
/** A phone number that only its owner recognises: `+1…42`. */
export const maskNumber = (number: string): string => `${number.slice(0, 2)}…${number.slice(-2)}`;
