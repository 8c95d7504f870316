/**
 * How long to wait before the next try, when no try follows, and the table of everything that tries again.
 *
 *   wait = max(server's minimum, min(cap, max(floor, jitter · min(cap, base · 2^(attempt − 1)))))
 *
 * Every retry has one owner; the SDK's own retries are off (`maxRetries: 0`). A new retry anywhere needs a row here first. A row counts its
 * tries, by the class of the fault where there is one, and ends by that count; a row whose bound is "none" says why it goes on, and its
 * tries cost nothing.
 *
 * | site                                 | trigger                            | why the next try differs                    | bound                                                        |
 * |--------------------------------------|------------------------------------|---------------------------------------------|--------------------------------------------------------------|
 * | connection (`core/connection`)       | connect failed, line lost          | the network or the server comes back        | none, cap 60 s: nothing works without; halts for a person    |
 * | … on loopback                        | the daemon is not up (yet)         | a person starts it                          | none, every `probeMs`: as above                              |
 * | sync (`loops/sync`)                  | the Claude API failed              | an outage ends, a key is replaced           | none, cap 60 s: what was written elsewhere is to be seen     |
 * | deletion (`loops/elsewhere`)         | a session could not be deleted     | an outage ends                              | none, once a sync: a person was promised that it is gone     |
 * | prompt (`core/endings`)              | a request for it failed            | overload and limits pass; looks before asks | `promptBounds`, by the class of the fault, on its row        |
 * | … of one alone (`loops/follow`)      | a 5xx, while others are answered   | a second 5xx shows that the prompt fails    | `promptBounds.died`, after 4 tries (at Claude: 32)           |
 * | answer, stop (`loops/follow`)        | a request failed, no open prompt   | as for a prompt                             | `promptBounds` on its row; then as refused, or simply over   |
 * | reader (`loops/reader`)              | `claude_stream_lost`               | lists the log from the cursor first         | the prompt's or the answer's, as above                       |
 * | answer (`core/endings`)              | a yes, a no, a result is refused   | the person answers anew; a result is short  | `promptBounds.answer`, then the turn is stopped              |
 * | feature (`claude/requester`)         | the endpoint refuses a part of it  | without that part, which is remembered      | 3 requests, before a word of an answer has come              |
 * | tool calls (`core/endings`)          | Claude calls our tools again       | each result is new to Claude                | `callsMax` a prompt, then the turn is stopped                |
 * | stopped turn (`loops/posting`)       | the session still runs             | a stop is taken up within a second          | 150 looks, one every 2 s; then the prompt goes out           |
 * | files (`loops/made-files`)           | a look for files failed            | an outage ends                              | `promptBounds.outage` in a row, in memory; then in words     |
 * | outbox send (`loops/send`)           | `backoff`, `after`, uncertain      | same timestamp where it is ours             | none for the row, cap 60 s: nothing is lost; `never` ends it |
 * | write (`loops/queue`)                | the disk is full or fails          | a person makes room                         | none, cap 60 s: what came, or was paid for, is held          |
 * | work (`loops/queue`)                 | the database failed below the work | a person makes room                         | none, cap 60 s: the rows are there                           |
 * | link code (`signal/native`)          | the provisioning address ran out   | a fresh address, hence a fresh code         | until linked or interrupted; a failed dial backs off         |
 * | group (`signal/native/claims`)       | a group cannot be read             | the storage host comes back                 | 12 times, 2 s to 5 min; then again after an hour             |
 * | member (`signal/native/sender`)      | one of a group was not reached     | a limit passes, the network comes back      | 3 times, 10 s and more apart, while the line holds           |
 * | pre-keys (`signal/native`)           | upload failed, or the stock is low | the same keys again, they are stored        | once per connection, and with the next connection            |
 */
import { errorRow, type ErrorCode } from "./errors.ts";
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

export type BackoffInput = {
  /** Failures in a row, the present one included: 1 for the first. */
  readonly attempt: number;
  /** Chance in [0, 1): full jitter, so that clients that lost the same server do not all return at once. */
  readonly jitter: number;
  /** The server's Retry-After in ms, a lower bound; null without one. A number that is not finite counts as none. */
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

/** Whether the log warns of failure `attempt` in a row: the first, second, fourth, eighth …, so that a long outage does not fill it. */
export const isLogged = (attempt: number): boolean => Number.isInteger(Math.log2(attempt));

/** A Retry-After as a wait: whole ms, never negative, 0 for none or nonsense. */
export function serverMinimumMs(retryAfterMs: Millis | null): Millis {
  return retryAfterMs !== null && Number.isFinite(retryAfterMs) ? Math.max(0, Math.ceil(retryAfterMs)) : 0;
}

/**
 * The class of a prompt's fault, by what another try costs.
 *
 * - `refused`: the same request would be refused again. `outage`: Claude was not asked, so nothing is paid, and the outage passes.
 * - `lookup`: the answer goes on at Claude and is looked up there. `broken`: the answer was paid for and is lost, so it is asked for anew.
 * - `died`: Claude gave the prompt up, perhaps because of the prompt. `fatal`: the session ended with the prompt.
 * - `busy`: the session first waits for something that its log does not show. The session is stopped before the last try.
 * - `answer`: Claude does not take an answer to its own question, and goes on waiting for one.
 */
export type FaultClass = "refused" | "outage" | "lookup" | "broken" | "died" | "fatal" | "busy" | "answer";

/** Failures so far, by the class of the fault. */
export type Tries = { readonly [K in FaultClass]?: number };

/** Calls of our own tools for one prompt: each is a request, and a model may go round in a circle. */
export const callsMax = 100;

export type Bound = {
  /** Tries in all, the first included, counted for each prompt and class. */
  readonly triesMax: number;
  /** Waits after the first failure, the second, …; the last one repeats. Without this list `backoffMs` sets the waits. */
  readonly waitsMs?: readonly Millis[];
  readonly capMs?: Millis;
  /** The sentence for the person after the last try; without one, the sentence of the error's own row. */
  readonly ending?: string;
};

export const promptBounds: { readonly [K in FaultClass]: Bound } = {
  refused: { triesMax: 1 },
  outage: {
    // A week of tries: half a minute apart on average, since the jitter is full and the cap a minute.
    triesMax: 7 * 24 * 60 * 2,
    ending: "I have tried to reach Claude with this for a week and have stopped now. Please send it again.",
  },
  lookup: {
    triesMax: 7 * 24 * 60,
    // Looking again costs little, and long silent work must not make the answer late.
    capMs: 5_000,
    ending: "I have looked for Claude's answer for hours and have stopped now. Please send your message again.",
  },
  broken: {
    triesMax: 3,
    // The first wait outlasts a hiccup of the line; the second gives a longer fault minutes.
    waitsMs: [3_000, 3 * 60_000],
    ending: "Claude's answer broke off three times, so I have stopped asking. Please send your message again later.",
  },
  died: { triesMax: 2, waitsMs: [30_000] },
  fatal: { triesMax: 1 },
  busy: {
    triesMax: 3,
    waitsMs: [5_000],
    ending: "Claude waits for something in this conversation and takes no message. Send /new to start a fresh one.",
  },
  answer: {
    triesMax: 2,
    ending:
      "Claude did not take the answer that it waited for, twice, so I have stopped it. Please send your message again.",
  },
};

/** Errors before which the answer had begun, and was paid for. */
const breaks: ReadonlySet<ErrorCode> = new Set(["claude_stream_lost", "claude_timeout"]);

/**
 * `isFatal`: the session ended with the fault. `isAskedAnew`: the conversation is kept here, so that an answer that breaks off can only be
 * asked, and paid, for again. `hasSpoken`: the answer had begun.
 */
export function faultClass(
  code: ErrorCode,
  { isFatal, isAskedAnew, hasSpoken }: { isFatal: boolean; isAskedAnew: boolean; hasSpoken: boolean },
): Exclude<FaultClass, "answer"> {
  if (isFatal) return "fatal";
  if (errorRow(code).retry === "never") return "refused";
  if (code === "claude_failed") return "died";
  if (code === "claude_busy") return "busy";
  if (code === "claude_silent" || (isAskedAnew && (hasSpoken || breaks.has(code)))) return "broken";
  return code === "claude_stream_lost" ? "lookup" : "outage";
}

/** Whether no try follows the failure `attempt`, which counts those of this class, the present one included. */
export const isLastTry = (kind: FaultClass, attempt: number): boolean => attempt >= promptBounds[kind].triesMax;

/** The wait before a post's next try in whole ms; null where no try follows. `attempt`: failures of this class so far. */
export function nextTryMs(kind: FaultClass, input: BackoffInput): Millis | null {
  const { waitsMs = [], capMs = defaultBackoff.capMs } = promptBounds[kind];
  if (isLastTry(kind, input.attempt)) return null;
  const fixed = waitsMs[input.attempt - 1] ?? waitsMs.at(-1);
  return fixed ? Math.max(serverMinimumMs(input.retryAfterMs), fixed) : backoffMs(input, { ...defaultBackoff, capMs });
}

/** Counts one more failure of this class. `waitMs`: before the next try, as `nextTryMs`. */
export function countTry(
  kind: FaultClass,
  before: Tries | undefined,
  { jitter, retryAfterMs }: Omit<BackoffInput, "attempt">,
): { readonly tries: Tries; readonly waitMs: Millis | null } {
  const attempt = (before?.[kind] ?? 0) + 1;
  return { tries: { ...before, [kind]: attempt }, waitMs: nextTryMs(kind, { attempt, jitter, retryAfterMs }) };
}
