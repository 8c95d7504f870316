/**
 * The errors of the program: one class, and a table with a row for each code. Adapters throw only `BridgeError`; loops catch once and turn
 * it into an event; any other error is a bug. A row says what a person reads, what to do now, and whether trying again can help.
 */
import type { Millis } from "./model.ts";

/**
 * - `backoff`: try again later by the site's backoff. `after`: likewise, but not before the time that the server named.
 * - `person`: only a person can mend it. `never`: this item failed for good; go on with the next.
 */
export type RetryClass = "backoff" | "after" | "person" | "never";
export type UserAction = "relink" | "update" | "solve_captcha" | "stop_other";

type Row = {
  readonly title: string;
  readonly hint: string;
  /** A plain sentence for the chat; null where the person on the phone needs to know nothing. */
  readonly chat: string | null;
  readonly retry: RetryClass;
  /** The fault does not pass by itself: the person is told at once, although the request is tried again. */
  readonly isLasting: boolean;
  readonly exit: 1 | 2 | 3 | 4;
  readonly userAction: UserAction | null;
};

type Special = Partial<Pick<Row, "isLasting" | "exit" | "userAction">>;
const row = (retry: RetryClass, title: string, hint: string, chat?: string, special?: Special): Row => ({
  title,
  hint,
  retry,
  chat: chat ?? null,
  isLasting: false,
  exit: 1,
  userAction: null,
  ...special,
});
const saying = (retry: RetryClass, special?: Special) => (title: string, hint: string, chat?: string) =>
  row(retry, title, hint, chat, special);
const [backoff, after, never] = [saying("backoff"), saying("after"), saying("never")];
/** Faults that are tried again, since a person mends them while signalman runs. */
const mend = saying("backoff", { isLasting: true, exit: 2 });
const person = (title: string, hint: string, special?: Special) => row("person", title, hint, undefined, special);

export const errorTable = {
  // --- the line to Signal
  signal_unreachable: backoff(
    "Signal cannot be reached",
    "Check that the daemon or the network is up; a running signalman keeps trying.",
  ),
  signal_timeout: backoff(
    "Signal did not answer in time",
    "signalman keeps trying. If it stays so, restart the daemon.",
  ),
  signal_protocol: backoff(
    "Signal answered with something unexpected",
    "Run `signalman doctor`; the version of the daemon may be too old or too new.",
  ),
  signal_rate_limited: after(
    "Signal takes no more messages for a while",
    "Nothing to do: signalman waits as long as the server asks.",
  ),
  already_receiving: backoff(
    "Another program fetches the messages of this account",
    "Stop the other receiver, or start the daemon with --receive-mode manual. After an aborted poll this passes by itself.",
  ),
  json_rpc_mode: person(
    "signal-cli-rest-api runs in json-rpc mode, where polling does not exist",
    "Set MODE=native (or MODE=normal) on the signal-cli-rest-api container, unset AUTO_RECEIVE_SCHEDULE, and restart it.",
    { exit: 2 },
  ),
  unlinked: person(
    "This device is no longer linked to the Signal account",
    "Run `signalman link` and scan the code with your phone; behind a daemon, link it there (docs/linking.md).",
    { exit: 3, userAction: "relink" },
  ),
  outdated: person("Signal refuses this version", "Update signalman (and signal-cli, where it is used).", {
    userAction: "update",
  }),
  captcha: person(
    "Signal asks for a captcha before it takes more messages",
    "Solve https://signalcaptchas.org/challenge/generate.html and run: signalman reconnect --captcha 'signalcaptcha://…'",
    { userAction: "solve_captcha" },
  ),
  rejected: person(
    "The Signal account is not known here",
    "Set SIGNALMAN_ACCOUNT to the number exactly as it was registered, or link the daemon to it (docs/linking.md).",
    { exit: 3, userAction: "relink" },
  ),
  replaced: person(
    "Another process uses this linked device",
    "Stop the other signalman; then run `signalman reconnect`.",
    { userAction: "stop_other" },
  ),
  stalled: backoff(
    "Nothing has come from Signal for too long",
    "Nothing to do: signalman closes the connection and connects again.",
  ),
  // --- one message to Signal
  untrusted_identity: never(
    "The recipient's safety number changed",
    "Verify it and trust it (signal-cli: `trust`); later messages to this person go out then.",
  ),
  unregistered: never("The recipient is not on Signal", "Nothing to do; the message was given up."),
  send_rejected: never("Signal does not take this message", "The message was given up; see the log for the reason."),
  send_uncertain: backoff(
    "It is unknown whether the message went out",
    "It is sent again: a duplicate beats a silence.",
  ),
  attachment_unavailable: never(
    "The file could not be fetched",
    "Ask the sender to send it again.",
    "I could not download that file. Please send it again.",
  ),
  voice_unheard: never(
    "A voice note could not be written down",
    "Set SIGNALMAN_TRANSCRIBE to a command that prints what is said in the file named after it.",
    "I can't listen to voice notes here. Please send it as text.",
  ),
  // --- Claude
  claude_unreachable: backoff(
    "The Claude API cannot be reached",
    "Check the network; prompts wait and are answered when it is back.",
    "I can't reach Claude right now. Your message is safe and will be answered as soon as that works again.",
  ),
  claude_timeout: backoff(
    "Claude did not answer in time",
    "Nothing to do: it is asked again, and given up after three times.",
  ),
  claude_program: mend(
    "The claude program cannot be used",
    "Install Claude Code, or set SIGNALMAN_CLAUDE_CODE to its path; `signalman doctor` looks for it.",
    "I can't start Claude Code on this machine. Your message is safe. The owner should run `signalman doctor` there.",
  ),
  claude_login: mend(
    "The claude program is not logged in",
    "Run `claude` in a terminal on this machine, and there /login.",
    "Claude Code is not logged in on this machine. Your message is safe, and is answered once the owner has run `claude` and /login there.",
  ),
  owner_only: never(
    "Only the owner may use the claude program",
    "It runs under the owner's own login: other people need another backend.",
    "Only the owner of this machine can ask Claude here: it works under their own login.",
  ),
  claude_overloaded: backoff(
    "Claude is overloaded",
    "Nothing to do: prompts wait and are answered when it is over.",
    "Claude is overloaded right now. Your message is safe and will be answered when that is over.",
  ),
  claude_rate_limited: after(
    "The Claude API takes no more requests for a while",
    "Nothing to do: signalman waits as long as the API asks. Raise the limit of the organisation if it happens often.",
    "Claude takes no more messages from this account for a while. Your message is safe and will be answered then.",
  ),
  claude_spend_limit: mend(
    "The spending limit of the Claude account is reached",
    "Raise the limit in the Claude Console; prompts wait and are answered then.",
    "The spending limit of the Claude account is reached. Your message is safe and will be answered once the limit is raised.",
  ),
  claude_credit: mend(
    "The credit of the Claude account is used up",
    "Add credit in the Claude Console; prompts wait and are answered then.",
    "The Claude account has run out of credit. Your message is safe and will be answered once credit is added.",
  ),
  claude_no_key: mend(
    "No API key is set",
    "Set ANTHROPIC_API_KEY, or anthropic_api_key in `signalman config edit`, and restart signalman; prompts wait and are answered then.",
    "No API key is set yet: your message waits. It is answered once the owner has set one.",
  ),
  claude_key: mend(
    "The Claude API refuses the key",
    "Set a valid ANTHROPIC_API_KEY, or anthropic_api_key in `signalman config edit`, and restart signalman; prompts wait and are answered then.",
    "Claude refuses the API key that is set here. Your message is safe. The owner must set a valid key.",
  ),
  claude_forbidden: mend(
    "The Claude account may not do this",
    "If the account may not use Managed Agents, set SIGNALMAN_BACKEND=messages and restart.",
    "The Claude account may not use this feature. Your message is safe. The owner can set SIGNALMAN_BACKEND=messages.",
  ),
  claude_model: mend(
    "The Claude model is not available",
    "Set SIGNALMAN_MODEL to a model that `signalman doctor` lists.",
    "The chosen Claude model is not available. Choose another with /model.",
  ),
  claude_models_unlisted: never(
    "The models cannot be listed here",
    "The endpoint has no list of models: name one that it serves in SIGNALMAN_MODEL, or with /model.",
    "The models cannot be listed here. Name one: /model NAME",
  ),
  claude_busy: backoff(
    "The session waits for answers first",
    "Nothing to do: the prompt goes out when what is open is settled. /stop settles it at once.",
    "Claude still waits for an answer to its question. Your message is safe and comes after it; /stop drops the question.",
  ),
  claude_running: backoff(
    "The session is at work elsewhere",
    "Nothing to do: the prompt goes out when it rests. /new starts another.",
    "Claude is still at work in this conversation, elsewhere. Your message is safe and comes after that.",
  ),
  claude_settings: mend(
    "The Claude API does not take the settings of this conversation",
    "Check SIGNALMAN_SYSTEM, SIGNALMAN_EFFORT and SIGNALMAN_TOOLS; the log has the reason.",
    "Claude does not take the settings of this bridge. Your message is safe. The owner must correct them.",
  ),
  claude_effort: mend(
    "The model does not take this effort",
    "Set SIGNALMAN_EFFORT to one that it takes, or another model.",
    "This model does not think at that effort. Pick another with /effort, or another model with /model.",
  ),
  claude_request: never(
    "The Claude API does not take this request",
    "See the log for the reason. Start over with /new if it happens again.",
    "Claude could not take that message as it is. Start over with /new if it happens again.",
  ),
  claude_failed: backoff(
    "Claude failed while it worked on a prompt",
    "It is asked once more; see the log for the reason. Start over with /new if it happens again.",
    "Claude failed on that message, twice. Please put it in another way, or start over with /new.",
  ),
  claude_too_large: never(
    "The message is too large for Claude",
    "Send less at once.",
    "That is too large for Claude. Please send less at once.",
  ),
  claude_tool_limit: never(
    "Claude used as many tools as one turn allows",
    "It is not asked again, for the same would cost as much again.",
    'Claude used as many tools for that message as it may, and was stopped. Say "go on" if it should continue.',
  ),
  claude_image: never(
    "A picture is not one that Claude takes",
    "Send it smaller: at most 8,000 pixels a side and 10 MB, as JPEG, PNG, GIF or WebP.",
    "Claude can't take that picture. Please send it smaller, as JPEG or PNG (at most 8,000 pixels a side).",
  ),
  claude_document: never(
    "A PDF is not one that Claude takes",
    "Send it without a password, in parts of at most 100 pages.",
    "Claude can't read that PDF. It may be locked, damaged or too long: send it without a password, in parts of at most 100 pages.",
  ),
  claude_output: never(
    "More output was asked for than the model or its endpoint allows",
    "Pick another model with /model or SIGNALMAN_MODEL.",
    "This model cannot give answers of the length that was asked for. Pick another with /model.",
  ),
  claude_context: never(
    "The conversation is too long for the model",
    "Start over with /new.",
    "This conversation has grown too long for the model. Send /new to start a fresh one.",
  ),
  claude_refusal: never(
    "Claude declined to answer",
    "Rephrase the message, or start over with /new.",
    "Claude declined to answer that. Please rephrase it, or start over with /new.",
  ),
  claude_budget: never(
    "The session's cost limit is reached",
    "Raise the session's budget, or start over with /new.",
    "The cost limit of this conversation is reached. Send /new to start a fresh one.",
  ),
  claude_stream_lost: backoff(
    "The stream from Claude ended early",
    "Nothing to do: signalman looks the answer up and goes on.",
  ),
  claude_silent: backoff(
    "Claude keeps the line open and says nothing",
    "Nothing to do: it is asked again, and given up after three times.",
    "Nothing has come from Claude for more than a minute. Your message is safe: I ask once more.",
  ),
  claude_protocol: backoff(
    "The Claude API answered with something unexpected",
    "Check ANTHROPIC_BASE_URL; signalman keeps trying.",
    "Claude's answer could not be read. Your message is safe and is tried again.",
  ),
  // --- this machine
  config: person("The settings are not valid", "Correct the setting named above.", { exit: 2 }),
  not_linked: person(
    "No Signal account is linked",
    "Run `signalman link` and scan the code with your phone; behind a daemon, link it there (docs/linking.md).",
    { exit: 3, userAction: "relink" },
  ),
  not_running: person("signalman is not running", "Start it with `signalman run`.", { exit: 4 }),
  home_in_use: person("Another signalman uses this home folder", "Stop it, or set SIGNALMAN_HOME to another folder."),
  database: backoff("The database cannot be used", "Check free space and permissions of the home folder."),
  database_damaged: person(
    "The database is damaged",
    "Stop signalman and restore a backup: `signalman restore FILE` (docs/operating.md).",
    { exit: 2 },
  ),
  database_newer: person(
    "The database was written by a newer signalman",
    "Update signalman, or use another home folder.",
    { exit: 2 },
  ),
  update: never(
    "The newest release could not be put in place",
    "Nothing was changed. Check SIGNALMAN_UPDATE_URL and the network.",
  ),
  unsupported: never("This transport cannot do that", "See docs/transports.md."),
  internal: never("A fault in signalman itself", "Please report it with the log."),
} satisfies Record<string, Row>;

export type ErrorCode = keyof typeof errorTable;

/** The row of a code. */
export const errorRow = (code: ErrorCode): Row => errorTable[code];

/** A server's Retry-After holds for a day at most; then the server is asked again. */
const retryAfterMsMax: Millis = 24 * 3_600_000;

export type BridgeErrorDetails = {
  /** The server's Retry-After: a lower bound for the next try, in ms; at most a day of it counts. */
  readonly retryAfterMs?: Millis | undefined;
  /** Replaces the table's hint where this case knows better. */
  readonly hint?: string | undefined;
  /** How far a limit reaches (`signal_rate_limited`): this recipient, or everything that the account sends. */
  readonly scope?: "recipient" | "account" | undefined;
  /** The token of the captcha that is asked for (`captcha`). */
  readonly challenge?: string | undefined;
  /** Claude's words until its answer broke off; blank where Claude may have been asked, and nothing came. */
  readonly partial?: string | undefined;
  /** The server answered that it failed itself: on this request, or on all. */
  readonly isServerFault?: boolean | undefined;
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
  readonly partial: string | null;
  readonly isServerFault: boolean;
  readonly scope: "recipient" | "account";

  constructor(code: ErrorCode, message: string, details: BridgeErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint ?? errorTable[code].hint;
    this.retry = errorTable[code].retry;
    this.retryAfterMs = details.retryAfterMs === undefined ? null : Math.min(details.retryAfterMs, retryAfterMsMax);
    this.challenge = details.challenge ?? null;
    this.partial = details.partial ?? null;
    this.isServerFault = details.isServerFault ?? false;
    this.scope = details.scope ?? "account";
  }
}

/** A fault as the reducer, `/status` and the chat know it. */
export type Fault = Pick<BridgeError, "code" | "message" | "hint" | "retryAfterMs">;

/** Any thrown value as a fault; a value that is no BridgeError is a bug of our own. */
export function toFault(error: unknown): Fault {
  const foreign = error instanceof Error ? error.message : String(error);
  const { code, message, hint, retryAfterMs } =
    error instanceof BridgeError ? error : new BridgeError("internal", foreign);
  return { code, message, hint, retryAfterMs };
}
