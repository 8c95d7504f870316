/**
 * The types that the files of this folder share. This file holds types only and imports no file of the folder, so that every
 * other file may import it and none needs another one for a type's sake.
 */
import type {
  IdentityKeyStore,
  PrivateKey,
  ProtocolAddress,
  PublicKey,
  SenderCertificate,
  SessionRecord,
  SessionStore,
} from "@signalapp/libsignal-client";
import type {
  AuthenticatedChatConnection,
  Net,
  NetConstructorOptions,
  REMOTE_CONFIG_KEYS,
} from "@signalapp/libsignal-client/dist/net.js";
import type { Clock, Random } from "../../clock.ts";
import type { BridgeError } from "../../core/errors.ts";
import type { Address, Millis } from "../../core/model.ts";
import type { Log } from "../../log.ts";
import type { Database } from "../../store/database.ts";
import type { Notice } from "../transport.ts";

export type Bytes = Uint8Array<ArrayBuffer>;

// --- who we are

export type OwnName = "aci" | "pni";

/** An identity of the account, with keys and sessions of its own. */
export type Own = {
  readonly name: OwnName;
  /** `<uuid>`, or `PNI:<uuid>`. */
  readonly serviceId: string;
  readonly identity: PrivateKey;
  readonly publicKey: PublicKey;
  readonly registrationId: number;
  readonly address: ProtocolAddress;
};

export type NativeAccount = {
  readonly number: string | null;
  readonly deviceId: number;
  readonly password: string;
  readonly profileKey: Bytes | null;
  readonly storageKey: Bytes | null;
  /** For group credentials of an account without a PNI. */
  readonly credentialSalt: Bytes | null;
  readonly sendsReadReceipts: 0 | 1;
  readonly sendsTyping: 0 | 1;
  /** When the phone last answered our sync requests; null right after linking. */
  readonly syncedAt: Millis | null;
  readonly aci: Own;
  /** Null for an account without a phone number. */
  readonly pni: Own | null;
};

// --- the line to the chat server

/** A delivery of the chat server. `ack` may be called once; it never throws. */
export type Incoming = { readonly bytes: Bytes; readonly serverAt: Millis | null; readonly ack: () => void };

export type ServiceRequest = {
  readonly verb: "GET" | "PUT" | "POST" | "DELETE";
  readonly path: string;
  readonly headers?: readonly [string, string][];
  readonly json?: unknown;
  /** A 404, or a 410, means that the server no longer has this endpoint. */
  readonly isFixed?: boolean;
};

export type ServiceReply = { readonly status: number; readonly json: unknown; readonly retryAfterMs: Millis | null };

export type ChatLine = {
  take(): Incoming | undefined;
  /** Puts deliveries in front of all others, to be taken again. */
  putBack(deliveries: readonly Incoming[]): void;
  /** Resolves to true when something has arrived; false when the line is lost, `ms` have passed or `signal` aborts. */
  wait(ms: Millis, signal: AbortSignal): Promise<boolean>;
  fault(): BridgeError | null;
  /** @throws BridgeError `signal_unreachable` when the line was lost before, `send_uncertain` when it broke under the request, `outdated` */
  request(what: ServiceRequest): Promise<ServiceReply>;
  /** Like `request`, on the unauthenticated connection; resolves to null, with nothing sent, when there is none. */
  sealedRequest(what: ServiceRequest): Promise<ServiceReply | null>;
  /** For requests that libsignal has calls of its own for (upload form). */
  readonly connection: AuthenticatedChatConnection;
  [Symbol.asyncDispose](): Promise<void>;
};

// --- the service behind it

export type PinnedRequest = {
  readonly method: "GET" | "PUT" | "POST";
  readonly url: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly bytesMax: number;
  readonly timeoutMs: Millis;
  readonly signal?: AbortSignal | undefined;
};

/** Names of headers are in lower case. */
export type PinnedResponse = Pick<ServiceReply, "status"> & {
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Bytes;
};

/** Trusts the service's TLS roots and no others. @throws BridgeError `signal_unreachable` (no line, TLS refused, cancelled) `signal_timeout` `signal_protocol` (body too large) */
export type PinnedFetch = (what: PinnedRequest) => Promise<PinnedResponse>;

export type Service = {
  readonly isLocal: boolean;
  readonly proxy: string | null;
  /** libsignal appends its own version to the user agent (`name/version`). */
  readonly netOptions: (userAgent: string) => NetConstructorOptions;
  /** To be set before the first connection. */
  readonly remoteConfig: ReadonlyMap<(typeof REMOTE_CONFIG_KEYS)[number], string>;
  /** Public keys of 33 bytes: a sender certificate is good when any of them validates it. */
  readonly trustRoots: readonly Bytes[];
  readonly serverPublicParams: Bytes;
  /** Base URLs, without a slash at their end; null for a number that is not in use. */
  readonly storageUrl: string;
  readonly cdnUrl: (cdnNumber: number) => string | null;
  readonly fetch: PinnedFetch;
};

// --- groups

export type GroupMember = {
  readonly aci: string;
  readonly isAdmin: boolean;
  /** 32 bytes; a key that the member sent in a message wins over this one. Null when it does not decrypt. */
  readonly profileKey: Bytes | null;
};

export type GroupState = {
  readonly id: string;
  readonly revision: number;
  readonly title: string;
  /** Full members, ourselves included; people who are invited, or ask to join, get nothing. */
  readonly members: readonly GroupMember[];
  readonly expiresInSeconds: number;
  /** Only admins may write. */
  readonly isAnnouncementsOnly: boolean;
  /** No member may write any more. */
  readonly isTerminated: boolean;
};

export type GroupAccount = { readonly aci: string; readonly pni: string | null; readonly salt: Bytes | null };

/**
 * Resolves to null when we are no member or the group is gone.
 * @throws BridgeError `signal_unreachable` `signal_timeout` `signal_rate_limited` `signal_protocol`
 */
export type FetchGroup = (who: GroupAccount, masterKey: Uint8Array, signal: AbortSignal) => Promise<GroupState | null>;

/** A group's state as it is stored, without keys. */
export type KnownGroup = {
  readonly masterKey: Bytes;
  readonly state: Omit<GroupState, "members"> & { readonly members: readonly Omit<GroupMember, "profileKey">[] };
};

/** The facts about a message in a group that decide whether its sender may write there. */
export type GroupClaim = {
  readonly groupId: string;
  readonly masterKey: Bytes;
  readonly revision: number;
  /** The message does something that only an admin may do, such as deleting what others wrote. */
  readonly isAdminOnly: boolean;
};

/** Deliveries that wait until their group is known, by the group's id. */
export type Waiting = Map<string, { readonly claim: GroupClaim; readonly deliveries: Incoming[]; isAsked: boolean }>;

export type GroupKeeper = {
  /** Whether `aci` may write such a message; a person who left still has the group's key. `unknown`: only the server can tell. */
  standing(claim: GroupClaim, aci: string): "member" | "stranger" | "blocked" | "unreadable" | "unknown";
  /** Asks the server; afterwards `standing` of this claim is never `unknown`. @throws BridgeError those of `FetchGroup` */
  learn(claim: GroupClaim, signal: AbortSignal): Promise<void>;
  /** Makes `standing` answer `unreadable` for this group for an hour, or until `learn` succeeds. */
  giveUp(claim: GroupClaim): void;
  /** @throws BridgeError `send_rejected` when the group is unknown or we are no member, and those of `FetchGroup` */
  load(groupId: string, signal: AbortSignal): Promise<KnownGroup>;
};

// --- all of it together

/** Whether the loops will listen to a person. Strangers get nothing from us, receipts included. */
export type IsAllowed = (who: Address, groupId: string | null) => boolean;

export type NativeDeps = {
  readonly database: Database;
  readonly service: Service;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly userAgent: string;
};

/** The allow list. The phone, the storage service and contact discovery are asked for the accounts behind `allowedNumbers`. */
export type NativeAllow = { readonly isAllowed: IsAllowed; readonly allowedNumbers: readonly string[] };

/** Our half of the sessions with others, in memory until their commit. */
export type Ratchets = {
  stores(own: Own): { readonly sessions: SessionStore; readonly identities: IdentityKeyStore };
  /** Device ids with a stored session, usable or not, ascending. */
  devices(own: OwnName, serviceId: string): number[];
  session(own: OwnName, serviceId: string, deviceId: number): SessionRecord | null;
  putSession(own: OwnName, serviceId: string, deviceId: number, record: SessionRecord | null): void;
  /** Adds `work`, a statement of the caller, to the commit. */
  later(work: () => void): void;
  /** SQLite's error, if it failed under a callback of libsignal; else null. */
  fault(): unknown;
};

export type Lock = () => Promise<() => void>;

export type NativeContext = NativeDeps &
  NativeAllow & {
    readonly net: Net;
    readonly trustRoots: readonly PublicKey[];
    /** The account as its rows have it; `reload` reads them anew. @throws BridgeError `not_linked` */
    readonly account: () => NativeAccount;
    readonly reload: () => void;
    /** @throws BridgeError `signal_unreachable` while there is none */
    readonly line: () => ChatLine;
    readonly closing: () => AbortSignal;
    /** Held while a ratchet moves and is committed, never during a call over the network. */
    readonly lock: Lock;
    /**
     * Runs `work` on the ratchets under the lock, and resolves when its changes are committed; if it throws, they are dropped.
     * Works that wait at the same time share one commit, which waits for the disk once: a message and its transcript, a receipt
     * and a read mark.
     */
    readonly withRatchets: <T>(work: (ratchets: Ratchets) => Promise<T> | T) => Promise<T>;
    /** Whether a person may still be asked to send again (`mayAsk`), and may still ask us (`mayAnswer`). */
    readonly mayAsk: (who: string) => boolean;
    readonly mayAnswer: (who: string) => boolean;
    readonly certificate: () => Promise<SenderCertificate | null>;
    readonly groups: GroupKeeper;
    /** The server's clock as far as it is known, else our own, so that a machine whose clock is off does not discard what arrives. */
    readonly now: () => Millis;
    /** Tells the owner with the next batch, each code once a day. */
    readonly notify: (notice: Notice) => void;
    /** Runs `work` after `waitMs`, if the connection holds that long. */
    readonly later: (waitMs: Millis, work: () => Promise<void>) => void;
    /** Monotonic times of the last request to sync, push challenge and look-up of numbers, none of which may be frequent. */
    readonly last: { askedAt: Millis; pushedAt: Millis; lookedUpAt: Millis };
    /** Monotonic times before which an owed message is not tried again, by its recipient and timestamp. */
    readonly dueAt: Map<string, Millis>;
    /** Strictly increasing, near the server's clock. */
    readonly freshTimestamp: () => Millis;
    /** Called when a peer shows another identity key than before: it was reinstalled, or the line is listened to. */
    readonly onIdentityChange: () => void;
  };

type ReceiveKeys = "database" | "now" | "log" | "account" | "trustRoots" | "isAllowed" | "groups" | "notify";
export type ReceiveDeps = Pick<NativeContext, ReceiveKeys>;
