/**
 * The contract of a line to Claude. `test/contract/line.ts` holds every line, the scripted one included, to it.
 *
 *   posts ──post──▶ Claude          a durable request goes out, once as far as one can know
 *   log   ◀─follow─ Claude          open, list, listen: `loops/reader.ts`, and `loops/elsewhere.ts` lists
 *
 * A line decides nothing and retries nothing (the SDK runs with `maxRetries: 0`): each failure is one `BridgeError`. It touches
 * no database. Where `remote` is null the log is kept here alone, and a prompt's `post` is the whole turn.
 */
import type { JsonValue, Millis, PromptFile, SessionEvent } from "../core/model.ts";

/** A request to Claude, as it was built: the row of its post holds it. */
export type Request =
  | {
      readonly kind: "prompt";
      readonly text: string;
      readonly files: readonly PromptFile[];
      /** The same for each try: a line that remembers knows a prompt again by its id and its text. */
      readonly id?: number;
    }
  /** Answers a tool use that waits for a person. `reason` goes to Claude with a no. */
  | {
      readonly kind: "confirm";
      readonly toolUseId: string;
      readonly isAllowed: boolean;
      readonly reason: string | null;
    }
  /** The outcome of a tool that ran here. `toolUseId` is the id of its tool use in the log. */
  | { readonly kind: "result"; readonly toolUseId: string; readonly text: string; readonly isError: boolean }
  /** Stops the running turn, if there is one. */
  | { readonly kind: "interrupt" };

/** A tool of ours that Claude may call: its calls are `tool_use` entries with `isLocal`, their answers `result` requests. */
export type LocalTool = {
  readonly name: string;
  readonly description: string;
  readonly inputSchema: { readonly [key: string]: JsonValue };
  /** The tool works on files of this machine: beside it Claude has no sandbox. */
  readonly isOfMachine: boolean;
};

/** A session as a line sees it. */
export type SessionView = {
  /** Our id of the session: random, so that it tells nothing about the person. */
  readonly id: string;
  /** The id at the API; null before it was created there, and always where the log is kept here. */
  readonly remoteId: string | null;
  readonly title: string;
  readonly model: string;
  readonly effort: string;
  readonly system: string;
  readonly tools: readonly LocalTool[];
  /** The absolute path where the owner's own program works; absent for every other line. */
  readonly folder?: string;
  /** True where the owner's own program has a tool for commands. */
  readonly mayRun?: boolean;
  /** Metadata for a session that must be created now, encoded (`core/metadata.ts`). */
  readonly metadata: { readonly [key: string]: string };
  /** The stored log, newest first, read lazily: the line `messages` sends it as history. */
  readonly history: () => Iterable<SessionEvent>;
};

/** One frame of a live log. Its end, for whatever reason, says nothing about a turn. */
export type Frame =
  | { readonly kind: "event"; readonly event: SessionEvent }
  /** Text as it is being written: a preview, never stored, superseded by the reply of the same id. */
  | { readonly kind: "delta"; readonly eventId: string; readonly text: string }
  /** The session was deleted. */
  | { readonly kind: "deleted" }
  /** The watchdog saw no byte, or nothing but pings, for its whole wait; the frame comes again after as long again. */
  | { readonly kind: "silent" };

export type RemoteSession = {
  readonly id: string;
  readonly title: string;
  readonly metadata: { readonly [key: string]: string };
  readonly status: "idle" | "running" | "rescheduling" | "terminated";
  readonly isArchived: boolean;
  /** RFC 3339. A later time means that the session changed; the same time proves nothing. */
  readonly updatedAt: string;
};

/** A file that Claude made in a session. */
export type RemoteFile = {
  readonly id: string;
  readonly name: string;
  readonly contentType: string;
  readonly sizeBytes: number;
  readonly createdAt: Millis;
};

/** The side where sessions live, for lines where they live there. */
export interface Remote {
  /** Creates a session with the view's title and metadata; resolves to its id. A failure may leave one behind: see `find`. */
  create(session: SessionView, signal: AbortSignal): Promise<string>;
  /** The session made for this view whose answer was lost, by its metadata `sb.id`; null where there is none. */
  find(session: Pick<SessionView, "metadata">, signal: AbortSignal): Promise<string | null>;
  /** Resolves when the server sends all events from here on. The frames end with its stream, or silently by `signal`. */
  open(remoteId: string, signal: AbortSignal): Promise<AsyncIterable<Frame>>;
  /**
   * Yields pages of the log, oldest first, queued entries last: all entries, every prompt, or those with `at` from a time on.
   * @throws BridgeError; pages that were yielded before stay valid
   */
  list(remoteId: string, part: Millis | "all" | "prompts", signal: AbortSignal): AsyncIterable<readonly SessionEvent[]>;
  /** Null when it was deleted. */
  retrieve(remoteId: string, signal: AbortSignal): Promise<RemoteSession | null>;
  /** Sets the title and upserts (string) or removes (null) metadata keys; resolves to the session as the server has it then. */
  update(
    remoteId: string,
    patch: { readonly title?: string | undefined; readonly metadata: { readonly [key: string]: string | null } },
    signal: AbortSignal,
  ): Promise<RemoteSession>;
  archive(remoteId: string, signal: AbortSignal): Promise<void>;
  /** Deletes the session with its transcript and files; one that is gone already is no failure. */
  remove(remoteId: string, signal: AbortSignal): Promise<void>;
  /** Resolves to the files that Claude made in a session, oldest first. A file may show some seconds after the turn that made it. */
  files(remoteId: string, signal: AbortSignal): Promise<readonly RemoteFile[]>;
  /** Resolves to the bytes of a file; null where it is larger than `bytesMax`, or not to be had any more. */
  download(fileId: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array | null>;
  /** The server's clock minus ours in ms, from the last response's `Date`; 0 before the first. */
  skewMs(): Millis;
}

export type ModelInfo = {
  readonly id: string;
  /** The longest answer in tokens; null where the endpoint does not say. */
  readonly outputTokensMax: number | null;
};

/**
 * Hears each entry of the log that `post` makes, and where the turn runs inside of `post`, the text of a reply piece by piece. An error
 * that it throws ends the turn.
 */
export type Hear = (frame: Frame) => void;

export interface Line {
  readonly name: "sessions" | "messages" | "claude-code" | "scripted";
  readonly remote: Remote | null;
  /**
   * True where the other side keeps the conversation, though it has no log to read: a prompt of unknown outcome is posted again and not
   * asked twice, and so is one whose turn was cut off, which goes on.
   */
  readonly remembers?: true;
  /** True where a file that Claude does not read itself (a table, an archive, a long text) is put where its tools can read it. */
  readonly hasSandbox: (session: Pick<SessionView, "tools">) => boolean;
  /**
   * Posts requests in one go, in their order, once. `hear` gets entries of the log: with a `remote` the echoes, in the order of the
   * requests (an interrupt may have none); else the whole turn, from the prompt to the idle that ends it or waits for results, together
   * once it is whole; of a line that remembers each as it comes. The cost of an answer that is never whole is heard all the same.
   * Without a `remote` there is nothing to confirm, and `signal` stops a turn; there an interrupt answers the tool uses that are open
   * with an error. Resolves when the request is over.
   * @throws BridgeError `claude_*`: `claude_request` and the like are definite refusals, after `claude_unreachable`,
   *   `claude_stream_lost` and `claude_protocol` the outcome is unknown (`partial` has the reply so far); `claude_busy` means
   *   that the session waits for answers first
   */
  post(session: SessionView, requests: readonly Request[], hear: Hear, signal: AbortSignal): Promise<void>;
  /** Resolves where the model answers a prompt of one word, which tells a prompt that fails from an endpoint that fails. */
  readonly probe?: (model: string, signal: AbortSignal) => Promise<void>;
  /** Resolves when key, endpoint and, for `sessions`, the right to use Managed Agents are in order. */
  check(signal: AbortSignal): Promise<void>;
  /** @throws BridgeError `claude_models_unlisted` where the endpoint has no such list */
  models(signal: AbortSignal): Promise<readonly ModelInfo[]>;
  /** The model that a name or an alias means; null where it is unknown, or the endpoint cannot tell. */
  model(name: string, signal: AbortSignal): Promise<ModelInfo | null>;
}
