/**
 * The contract of a Claude backend. `test/contract/backend.ts` holds every adapter, the fake included, to it.
 *
 * The truth of a conversation is the session's event log. A backend never decides what a person reads: it yields events, the
 * store upserts them by id, and replies become outbox rows in the same transaction. So a turn may be followed twice (stream,
 * listing, after a crash) and still be answered once.
 *
 * Nothing here retries (the SDK runs with `maxRetries: 0`): every failure is one `BridgeError`, and the loop owns the retry.
 */
import type { Millis, PromptFile, SessionEvent } from "../core/model.ts";

/** How far a prompt has come; written by the loop before each step, so that a crash anywhere leaves the truth behind. */
export type PromptState =
  | { readonly kind: "new" }
  /**
   * The request was sent at `askedAt` (the server's time) with this text, and its answer was never seen: look before asking
   * again. The text built now may differ: a file may be gone, or a voice note understood in another way.
   */
  | { readonly kind: "uncertain"; readonly askedAt: Millis; readonly text: string }
  /** It is event `eventId` of the log. */
  | { readonly kind: "asked"; readonly eventId: string };

export type Prompt = {
  readonly text: string;
  readonly files: readonly PromptFile[];
  readonly state: PromptState;
  /** It is not asked again: an answer that breaks off is taken as far as it came, and ends as `cut`. */
  readonly isLastTry?: boolean;
};

/** What the local side knows of a session when a turn starts. */
export type SessionView = {
  /** Ours: random, says nothing about the person. */
  readonly id: string;
  /** The id at the API; null before the first turn, and always with `messages`. */
  readonly remoteId: string | null;
  /** `processed_at` up to which the log is stored, Unix ms. */
  readonly cursor: Millis | null;
  readonly title: string;
  readonly model: string;
  readonly system: string;
  /** Metadata for a session that must be created now, encoded (see core/synchronizer.ts). */
  readonly metadata: { readonly [key: string]: string };
  /** Ids of prompts in the log that belong to another inbox row already: an uncertain prompt may not adopt them. */
  readonly mappedEventIds: ReadonlySet<string>;
  /** The stored log, oldest first: what `messages` sends as history. */
  readonly history: () => readonly SessionEvent[];
};

export type TurnStep =
  /** A session was created at the API. The caller stores `remoteId` before it pulls the next step. */
  | { readonly kind: "created"; readonly remoteId: string }
  /** The prompt goes out when the caller pulls the next step: it stores `uncertain` first. */
  | { readonly kind: "sending" }
  /** The prompt is event `eventId` of the log (echoed by the API, or found there after an uncertain send). */
  | { readonly kind: "asked"; readonly eventId: string }
  /** New or repeated entries of the log, to be upserted by id. */
  | { readonly kind: "events"; readonly events: readonly SessionEvent[] }
  /** Text as it is being written: a preview, never stored, superseded by the reply of the same id. */
  | { readonly kind: "delta"; readonly eventId: string; readonly text: string }
  /** The remote session is gone (deleted, archived, terminated; `isBroken`: by itself): the caller starts a new one and says so. */
  | { readonly kind: "gone"; readonly isBroken?: true };

export type RemoteSession = {
  readonly id: string;
  readonly title: string;
  readonly metadata: { readonly [key: string]: string };
  readonly status: "idle" | "running" | "rescheduling" | "terminated";
  readonly isArchived: boolean;
  /** RFC 3339; moved means fetch, not moved proves nothing. */
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

/** The sessions at the API, for backends where they live there. */
export interface RemoteSessions {
  /** Null when it was deleted. */
  retrieve(remoteId: string, signal: AbortSignal): Promise<RemoteSession | null>;
  /**
   * Pages of the log with `at` ≥ `since`, oldest first, queued entries last. With `since` null, all of it.
   * @throws BridgeError; what was yielded before stays valid
   */
  events(remoteId: string, since: Millis | null, signal: AbortSignal): AsyncIterable<readonly SessionEvent[]>;
  /** Sets the title and upserts (string) or removes (null) metadata keys; resolves to the session as the server has it then. */
  update(
    remoteId: string,
    patch: { readonly title?: string | undefined; readonly metadata: { readonly [key: string]: string | null } },
    signal: AbortSignal,
  ): Promise<RemoteSession>;
  archive(remoteId: string, signal: AbortSignal): Promise<void>;
  /** Stops the running turn, if any. */
  interrupt(remoteId: string, signal: AbortSignal): Promise<void>;
  /** Answers a tool use that waits for a person. */
  confirm(
    remoteId: string,
    toolUseId: string,
    isAllowed: boolean,
    reason: string | null,
    signal: AbortSignal,
  ): Promise<void>;
  /** What Claude made in a session so far, oldest first. A file may show some seconds after the turn that made it. */
  files(remoteId: string, signal: AbortSignal): Promise<readonly RemoteFile[]>;
  /** The bytes of one; null where it is larger than `bytesMax`, or not to be had any more. */
  download(fileId: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array | null>;
  /** The server's clock minus ours in ms, from the last response's `Date`; 0 before the first. */
  skewMs(): Millis;
}

export type ModelInfo = { readonly id: string; readonly name: string };

export interface Backend {
  readonly name: "sessions" | "messages" | "scripted";
  /** Null where the conversation is kept here. */
  readonly remote: RemoteSessions | null;

  /**
   * Runs, or goes on with, one turn. Ends (returns) when the log shows the turn ended or waiting for a person; `prompt` null
   * follows a session that is running until it is idle. Aborting `signal` ends it with nothing decided.
   * Order for a remote session: open the stream, list, reconcile, send, follow.
   * @throws BridgeError `claude_*`; after `sending` a failed send leaves the prompt `uncertain` unless the answer was a
   *   definite refusal (4xx), and `claude_stream_lost` means: call again
   */
  turn(session: SessionView, prompt: Prompt | null, signal: AbortSignal): AsyncIterable<TurnStep>;

  /** Resolves when key, endpoint and, for `sessions`, the right to use Managed Agents are in order. */
  check(signal: AbortSignal): Promise<void>;

  models(signal: AbortSignal): Promise<readonly ModelInfo[]>;
}
