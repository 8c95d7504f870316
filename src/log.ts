/** The log as everybody sees it; log setup with redaction is wired in `startLog`. */
export type LogFields = Readonly<Record<string, unknown>>;

/** Constant message, data in fields. Never bodies, tokens or whole numbers. */
export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
}
