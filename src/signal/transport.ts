/**
 * The contract of a polling Signal transport. `test/contract/transport.ts` holds every adapter, the fake included, to it.
 *
 *   connect ─▶ receive ─▶ (the caller commits) ─▶ ack ─▶ receive … ─▶ disconnect
 *
 * - One caller polls: `receive` is never called while another `receive` of the same transport runs, nor between a batch and
 *   its `ack`. `send`, `typing`, `attachment` may run beside it, and beside each other for different chats.
 * - Every failure is a `BridgeError`. A transport retries nothing, since the loops own every retry.
 * - After `disconnect`, or once `receive` has thrown, only `connect` makes the transport usable again.
 */
import type { ErrorCode } from "../core/errors.ts";
import type { Account, Chat, Envelope, Millis, Outbound } from "../core/model.ts";

export type Batch = {
  /** In the order of delivery; may be empty. */
  readonly envelopes: readonly Envelope[];
  /**
   * True where the answer came from Signal's server, by a round trip or the stream's own keep-alive, so that the line is known
   * to be alive. An empty poll that talked to the server is proof; a local answer is not. The batches of a backlog may leave
   * the proof to the last one.
   */
  readonly isProof: boolean;
  /**
   * Writes what the transport itself must keep (ratchet, used pre-keys) and is called inside the transaction that writes the
   * inbox rows; synchronous. Null where the transport keeps nothing in our database.
   */
  readonly persist: (() => void) | null;
  /** Messages for the owner's own chat; the transport repeats none of them within a day. */
  readonly notices?: readonly Notice[];
};

/** A fact about the account that only the owner can act on; `text` is one plain sentence for the chat. */
export type Notice = {
  readonly code: "phone_idle" | "clock_wrong" | "blocked" | "member_missed" | "outdated";
  readonly text: string;
};

export type SendOutcome = {
  /** The message's identity on Signal, Unix ms: ours where `capabilities.ownTimestamps`, else the transport's. */
  readonly timestamp: Millis;
  /** Group members who did not get the message, with the `BridgeError` code of each; the message counts as sent. */
  readonly failed: readonly {
    readonly recipient: string;
    readonly code: ErrorCode;
    /** As `BridgeError.challenge`. */
    readonly challenge?: string;
  }[];
};

export type Capabilities = {
  /** `send` uses `Outbound.timestamp`, so that a repeated send is dropped by the receiving clients. */
  readonly ownTimestamps: boolean;
  readonly typing: boolean;
  readonly reactions: boolean;
  readonly edits: boolean;
  readonly readReceipts: boolean;
};

/** The capabilities of a transport that can show everything that a chat has. */
export const allFeatures = { typing: true, reactions: true, edits: true, readReceipts: true } as const;

export type LinkProgress =
  | { readonly event: "url"; readonly url: string }
  | { readonly event: "linked"; readonly account: Account };

export interface Transport {
  readonly name: "native" | "signal-cli" | "rest" | "memory";
  readonly capabilities: Capabilities;
  /** The service is on this machine's loopback, so that `core/connection.ts` tries it every second instead of backing off. */
  readonly isLocal: boolean;

  /**
   * Resolves when the transport can receive for the account. A transport on a previous connection is disconnected first. The
   * returned object gains a missing ACI or number as soon as traffic tells it.
   * @throws BridgeError `signal_unreachable` `signal_timeout` `unlinked` `outdated` `rejected` `replaced` `not_linked`
   *   `json_rpc_mode` `signal_rate_limited` `signal_protocol`
   */
  connect(signal: AbortSignal): Promise<Account>;

  /**
   * Waits up to about `timeoutMs` for envelopes; an empty batch is a normal answer. A transport that Signal pushes to returns
   * what has arrived. Aborting `signal` asks it to return early, which it does only where no envelope can be lost by that.
   * @throws BridgeError `already_receiving` and those of `connect`
   */
  receive(timeoutMs: Millis, signal: AbortSignal): Promise<Batch>;

  /** Called once per batch after its commit (`isCommitted`), or after the commit failed: then nothing is acknowledged. */
  ack(batch: Batch, isCommitted: boolean): Promise<void>;

  /**
   * Resolves when Signal's server has the message for at least one recipient.
   * @throws BridgeError `send_uncertain` where the message may be out; `signal_unreachable` where it surely is not;
   *   `signal_rate_limited` `captcha` `untrusted_identity` `unregistered` `send_rejected` `unsupported` `outdated`.
   *   `BridgeError.scope` says how far a limit reaches: `recipient` pauses the chat of this message, `account` all of them.
   */
  send(message: Outbound): Promise<SendOutcome>;

  /**
   * Hands in the solution of the captcha that Signal asked for when it refused the last send: the text that begins with
   * `signalcaptcha://`. Null where the transport cannot hand one in.
   * @throws BridgeError `send_rejected` where none was asked for or Signal does not take it, and those of the line
   */
  readonly answerChallenge: ((captcha: string) => Promise<void>) | null;

  /** Best effort; a peer shows the typing indicator for about 15 s. */
  typing(chat: Chat, isTyping: boolean): Promise<void>;

  /** Marks a message as read for its sender. Best effort. */
  markRead(envelope: Envelope): Promise<void>;

  /**
   * The plaintext of a file by its `ref`, at most `bytesMax`.
   * @throws BridgeError `attachment_unavailable`, and those of the line
   */
  attachment(ref: string, bytesMax: number, signal: AbortSignal): Promise<Uint8Array>;

  /** How far the clock of this machine is ahead of Signal's; absent where the transport cannot tell. */
  skewMs?(): Millis;

  /** How many messages are kept unread as they could not be opened or trusted; absent where the transport keeps none. */
  quarantined?(): number;

  /** Ends the connection in an orderly way; a running `receive` ends. Never rejects; a second call does nothing. */
  disconnect(): Promise<void>;
}

/** Makes this program a linked device. Yields the URL to show as a QR code (again when the code was renewed), then the account. */
export type Link = (deviceName: string, signal: AbortSignal) => AsyncIterable<LinkProgress>;
