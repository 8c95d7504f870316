/**
 * One class, one table. Adapters throw only `BridgeError`; loops catch once and turn it into an event; any other error is a
 * bug. Each code answers for itself: what a person reads, what to do now, and whether trying again can help.
 */
import type { Millis } from "./model.ts";

/**
 * - `backoff`: try again later by the site's backoff. `after`: likewise, the server named the earliest time.
 * - `person`: only a person can mend it. `never`: this item failed for good; go on with the next.
 */
export type RetryClass = "backoff" | "after" | "person" | "never";
export type UserAction = "relink" | "update" | "solve_captcha" | "stop_other";

type Row = {
  readonly title: string;
  readonly hint: string;
  readonly retry: RetryClass;
  readonly exit: 1 | 2 | 3 | 4;
  readonly userAction?: UserAction;
  /** One plain sentence for the chat; absent where the person on the phone needs to know nothing. */
  readonly chat?: string;
};

export const errorTable = {
  // --- the line to Signal
  signal_unreachable: {
    title: "Signal cannot be reached",
    hint: "Check that the daemon or the network is up; signalman keeps trying.",
    retry: "backoff",
    exit: 1,
  },
  signal_timeout: {
    title: "Signal did not answer in time",
    hint: "signalman keeps trying. If it stays so, restart the daemon.",
    retry: "backoff",
    exit: 1,
  },
  signal_protocol: {
    title: "Signal answered with something unexpected",
    hint: "Run `signalman doctor`; the version of the daemon may be too old or too new.",
    retry: "backoff",
    exit: 1,
  },
  signal_rate_limited: {
    title: "Signal limits the rate",
    hint: "Nothing to do: signalman waits as long as the server asks.",
    retry: "after",
    exit: 1,
  },
  already_receiving: {
    title: "Another program receives for this account",
    hint: "Stop the other receiver, or start the daemon with --receive-mode manual. After an aborted poll this passes by itself.",
    retry: "backoff",
    exit: 1,
  },
  json_rpc_mode: {
    title: "signal-cli-rest-api runs in json-rpc mode, where polling does not exist",
    hint: "Set MODE=native (or MODE=normal) on the signal-cli-rest-api container, unset AUTO_RECEIVE_SCHEDULE, and restart it.",
    retry: "person",
    exit: 2,
  },
  unlinked: {
    title: "This device is no longer linked to the Signal account",
    hint: "Run `signalman link` and scan the code with your phone.",
    retry: "person",
    exit: 3,
    userAction: "relink",
  },
  outdated: {
    title: "Signal refuses this version",
    hint: "Update signalman (and signal-cli, where it is used).",
    retry: "person",
    exit: 1,
    userAction: "update",
  },
  captcha: {
    title: "Signal asks for a captcha before it takes more messages",
    hint: "Solve https://signalcaptchas.org/challenge/generate.html and run: signalman reconnect --captcha 'signalcaptcha://…'",
    retry: "person",
    exit: 1,
    userAction: "solve_captcha",
  },
  rejected: {
    title: "The Signal account is not known here",
    hint: "Set SIGNALMAN_ACCOUNT to the number exactly as it was registered, or run `signalman link`.",
    retry: "person",
    exit: 3,
    userAction: "relink",
  },
  replaced: {
    title: "Another process uses this linked device",
    hint: "Stop the other signalman; then run `signalman reconnect`.",
    retry: "person",
    exit: 1,
    userAction: "stop_other",
  },
  stalled: {
    title: "No proof of life from Signal",
    hint: "signalman dropped the line and connects anew.",
    retry: "backoff",
    exit: 1,
  },
  // --- one message to Signal
  untrusted_identity: {
    title: "The recipient's safety number changed",
    hint: "Verify it and trust it (signal-cli: `trust`); later messages to this person go out then.",
    retry: "never",
    exit: 1,
  },
  unregistered: {
    title: "The recipient is not on Signal",
    hint: "Nothing to do; the message was given up.",
    retry: "never",
    exit: 1,
  },
  send_rejected: {
    title: "Signal does not take this message",
    hint: "The message was given up; see the log for the reason.",
    retry: "never",
    exit: 1,
  },
  send_uncertain: {
    title: "It is unknown whether the message went out",
    hint: "It is sent again: a duplicate beats a silence.",
    retry: "backoff",
    exit: 1,
  },
  attachment_unavailable: {
    title: "The file could not be fetched",
    hint: "Ask the sender to send it again.",
    retry: "never",
    exit: 1,
    chat: "I could not download that file. Please send it again.",
  },
  voice_unheard: {
    title: "A voice note could not be written down",
    hint: "Set SIGNALMAN_TRANSCRIBE to a command that prints what is said in the file named after it.",
    retry: "never",
    exit: 1,
    chat: "I can't listen to voice notes here. Please send it as text.",
  },
  // --- Claude
  claude_unreachable: {
    title: "The Claude API cannot be reached",
    hint: "Check the network; prompts wait and are answered when it is back.",
    retry: "backoff",
    exit: 1,
    chat: "I can't reach Claude right now. Your message is safe and will be answered as soon as the line is back.",
  },
  claude_overloaded: {
    title: "Claude is overloaded",
    hint: "Nothing to do: prompts wait and are answered when it is over.",
    retry: "backoff",
    exit: 1,
    chat: "Claude is overloaded right now. Your message is safe and will be answered when that is over.",
  },
  claude_rate_limited: {
    title: "The Claude API limits the rate",
    hint: "Nothing to do: signalman waits as long as the API asks. Raise the limit of the organisation if it happens often.",
    retry: "after",
    exit: 1,
    chat: "The Claude account has reached its rate limit. Your message is safe and will be answered when the limit allows.",
  },
  claude_spend_limit: {
    title: "The spending limit of the Claude account is reached",
    hint: "Raise the limit in the Claude Console; prompts wait and are answered then.",
    retry: "backoff",
    exit: 1,
    chat: "The spending limit of the Claude account is reached. Your message is safe and will be answered once the limit is raised.",
  },
  claude_credit: {
    title: "The credit of the Claude account is used up",
    hint: "Add credit in the Claude Console; prompts wait and are answered then.",
    retry: "backoff",
    exit: 1,
    chat: "The Claude account has run out of credit. Your message is safe and will be answered once credit is added.",
  },
  claude_key: {
    title: "The Claude API refuses the key",
    hint: "Set a valid ANTHROPIC_API_KEY and restart signalman; prompts wait and are answered then.",
    retry: "backoff",
    exit: 2,
    chat: "Claude refuses the API key of this bridge. Your message is safe; whoever runs signalman must set a valid key.",
  },
  claude_forbidden: {
    title: "The Claude account may not do this",
    hint: "If the account may not use Managed Agents, set SIGNALMAN_BACKEND=messages and restart.",
    retry: "backoff",
    exit: 2,
    chat: "The Claude account may not use this feature. Your message is safe; whoever runs signalman can set SIGNALMAN_BACKEND=messages.",
  },
  claude_model: {
    title: "The Claude model is not available",
    hint: "Set SIGNALMAN_MODEL to a model that `signalman doctor` lists.",
    retry: "backoff",
    exit: 2,
    chat: "The chosen Claude model is not available. Pick another with /model, or ask whoever runs signalman.",
  },
  claude_request: {
    title: "The Claude API does not take this request",
    hint: "See the log for the reason. Start over with /new if it happens again.",
    retry: "never",
    exit: 1,
    chat: "Claude could not take that message. Please rephrase it, or start over with /new.",
  },
  claude_too_large: {
    title: "The message is too large for Claude",
    hint: "Send less at once.",
    retry: "never",
    exit: 1,
    chat: "That is too large for Claude. Please send less at once.",
  },
  claude_context: {
    title: "The conversation is too long for the model",
    hint: "Start over with /new.",
    retry: "never",
    exit: 1,
    chat: "This conversation has grown too long for the model. Send /new to start a fresh one.",
  },
  claude_refusal: {
    title: "Claude declined to answer",
    hint: "Rephrase the message, or start over with /new.",
    retry: "never",
    exit: 1,
    chat: "Claude declined to answer that. Please rephrase it, or start over with /new.",
  },
  claude_budget: {
    title: "The session's cost limit is reached",
    hint: "Raise the session's budget, or start over with /new.",
    retry: "never",
    exit: 1,
    chat: "The cost limit of this session is reached. Send /new to start a fresh one.",
  },
  claude_stream_lost: {
    title: "The stream from Claude ended early",
    hint: "Nothing to do: signalman looks the answer up and goes on.",
    retry: "backoff",
    exit: 1,
  },
  claude_protocol: {
    title: "The Claude API answered with something unexpected",
    hint: "Check ANTHROPIC_BASE_URL; signalman keeps trying.",
    retry: "backoff",
    exit: 1,
    chat: "Claude's answer could not be read. Your message is safe and is tried again.",
  },
  // --- this machine
  config: { title: "The settings are not valid", hint: "Correct the setting named above.", retry: "person", exit: 2 },
  not_linked: {
    title: "No Signal account is linked",
    hint: "Run `signalman link` and scan the code with your phone.",
    retry: "person",
    exit: 3,
    userAction: "relink",
  },
  not_running: {
    title: "signalman is not running",
    hint: "Start it with `signalman run`.",
    retry: "person",
    exit: 4,
  },
  home_in_use: {
    title: "Another signalman uses this home folder",
    hint: "Stop it, or set SIGNALMAN_HOME to another folder.",
    retry: "person",
    exit: 1,
  },
  database: {
    title: "The database cannot be used",
    hint: "Check free space and permissions of the home folder.",
    retry: "backoff",
    exit: 1,
  },
  database_newer: {
    title: "The database was written by a newer signalman",
    hint: "Update signalman, or use another home folder.",
    retry: "person",
    exit: 1,
  },
  unsupported: {
    title: "This transport cannot do that",
    hint: "See the table of transports in the README.",
    retry: "never",
    exit: 1,
  },
  internal: { title: "A fault in signalman itself", hint: "Please report it with the log.", retry: "never", exit: 1 },
} as const satisfies Record<string, Row>;

export type ErrorCode = keyof typeof errorTable;

/** The row of a code, widened, so that optional columns can be read. */
export const errorRow = (code: ErrorCode): Row => errorTable[code];

/** Whatever a server says, nobody waits longer than a day without asking again. */
const retryAfterMsMax: Millis = 24 * 3_600_000;

export type BridgeErrorDetails = {
  /** The server's Retry-After: a lower bound for the next try, in ms; at most a day of it counts. */
  readonly retryAfterMs?: Millis | undefined;
  /** Replaces the table's hint where this case knows better. */
  readonly hint?: string | undefined;
  /** The token of the captcha that is asked for (`captcha`). */
  readonly challenge?: string | undefined;
  readonly cause?: unknown;
};

/** `message` says what failed and why, without secrets, bodies or whole numbers: "Cannot poll Signal as the server refused the connection". */
export class BridgeError extends Error {
  override readonly name = "BridgeError";
  readonly code: ErrorCode;
  readonly hint: string;
  readonly retry: RetryClass;
  readonly retryAfterMs: Millis | null;
  readonly challenge: string | null;

  constructor(code: ErrorCode, message: string, details: BridgeErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint ?? errorTable[code].hint;
    this.retry = errorTable[code].retry;
    this.retryAfterMs = details.retryAfterMs === undefined ? null : Math.min(details.retryAfterMs, retryAfterMsMax);
    this.challenge = details.challenge ?? null;
  }
}

/** A fault as the reducer, `/status` and the chat know it. */
export type Fault = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string;
  readonly retryAfterMs: Millis | null;
};

/** Any thrown value as a fault; what is not a BridgeError is a fault of our own. */
export function toFault(error: unknown): Fault {
  if (error instanceof BridgeError)
    return { code: error.code, message: error.message, hint: error.hint, retryAfterMs: error.retryAfterMs };
  const message = error instanceof Error ? error.message : String(error);
  return { code: "internal", message, hint: errorTable.internal.hint, retryAfterMs: null };
}

export const userActionOf = (code: ErrorCode): UserAction | null => errorRow(code).userAction ?? null;
