/**
 * How long to wait before the next try, and the table of everybody who tries again.
 *
 *   wait = max(server's minimum, min(cap, max(floor, jitter · min(cap, base · 2^(attempt − 1)))))
 *
 * One owner per retry; the SDK's own is off (`maxRetries: 0`). A new retry anywhere needs a row here first.
 *
 * | site                          | trigger                           | why the next try differs                    | bound                                                     |
 * |-------------------------------|-----------------------------------|---------------------------------------------|-----------------------------------------------------------|
 * | connection (`connection.ts`)  | connect failed, line lost         | the network or the server comes back        | none: cap 60 s; halts where only a person can help        |
 * | … on loopback                 | the daemon is not up (yet)        | somebody starts it                          | none: every `probeMs`                                     |
 * | sync (`loops/sync`)           | the Claude API failed             | an outage ends, a key is replaced           | none: cap 60 s; until the next line, which syncs anyway   |
 * | prompt (`loops/answer`)       | `backoff`, `after` from Claude    | overload and limits pass; looks before asks | none: the inbox row waits, the person is told once        |
 * | outbox send (`loops/send`)    | `backoff`, `after`, uncertain     | same timestamp where it is ours             | none for the row: cap 60 s; `never` ends it at once       |
 * | event stream (`claude/`)      | `claude_stream_lost`              | lists the log from the cursor first         | the turn's own retry, as above                            |
 * | link code (`signal/native/`)  | the provisioning address ran out  | a fresh address, hence a fresh code         | until linked or interrupted; a failed dial backs off      |
 * | child (`signal-cli` we start) | the process ended                 | a fresh process                             | none: cap 60 s; stops with the program                    |
 * | pre-keys (`signal/native/`)   | upload failed, or the stock is low| the same keys again, they are stored        | once per connection, and with the next connection         |
 */
import type { Millis } from "./model.ts";

export type BackoffLimits = {
  /** Upper end of the first wait. */
  readonly baseMs: Millis;
  /** No wait of ours is longer; only the server may ask for more. */
  readonly capMs: Millis;
  /** No wait is shorter, however small the jitter: a flapping line must not hammer. At most `capMs`. */
  readonly floorMs: Millis;
};

export const defaultBackoff: BackoffLimits = { baseMs: 1_000, capMs: 60_000, floorMs: 250 };

/** How often a prompt may fail in a row with the same fault, and the shortest wait before the next try. */
export type FaultLimit = { readonly triesMax: number; readonly waitMs: Millis };

/**
 * The classes of faults of a prompt. What costs nothing is repeated until it is over, for the prompt waits in the inbox and its person
 * was told; what Claude may have worked for has an end.
 */
export const faultLimits = {
  /** Refused, limited, unreachable. */
  outage: { triesMax: Infinity, waitMs: 0 },
  /** The answer broke off, or the turn was given up at Claude's side. */
  costly: { triesMax: 3, waitMs: 60_000 },
  /** The request of the model itself fails: the same prompt would fail again. */
  died: { triesMax: 2, waitMs: 0 },
} as const satisfies Record<string, FaultLimit>;

export type BackoffInput = {
  /** Failures in a row, the present one included: 1 for the first. */
  readonly attempt: number;
  /** In [0, 1): full jitter, so that many who lost the same server do not return at once. */
  readonly jitter: number;
  /** The server's Retry-After in ms, a lower bound; null without one. What is no finite number is none. */
  readonly retryAfterMs: Millis | null;
};

/** The wait before the next try, in whole ms. Monotone in `attempt` and in `jitter`. */
export function backoffMs(
  { attempt, jitter, retryAfterMs }: BackoffInput,
  limits: BackoffLimits = defaultBackoff,
): Millis {
  const spread = Math.min(limits.capMs, limits.baseMs * 2 ** Math.max(0, attempt - 1));
  const own = Math.min(limits.capMs, Math.max(limits.floorMs, Math.floor(jitter * spread)));
  return Math.max(serverMinimumMs(retryAfterMs), own);
}

/** A Retry-After as a wait: whole ms, never negative, 0 for none or nonsense. */
export function serverMinimumMs(retryAfterMs: Millis | null): Millis {
  return retryAfterMs !== null && Number.isFinite(retryAfterMs) ? Math.max(0, Math.ceil(retryAfterMs)) : 0;
}
